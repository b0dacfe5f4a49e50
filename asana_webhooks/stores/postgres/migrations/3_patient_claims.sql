-- A claim says from then on whether it may wait.
DROP FUNCTION IF EXISTS schema.lease, schema.find_due;
