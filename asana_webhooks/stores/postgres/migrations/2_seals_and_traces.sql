-- From then on a secret is its fingerprint where there is a ciphertext (seal). What took or
-- returned less than now is gone, or has another name or other parameters: a process of the first
-- version that still runs is refused, and neither forgets the half of a secret nor the trace of a
-- delivery.
DROP FUNCTION IF EXISTS schema.add_candidate, schema.claim, schema.confirm, schema.drop_reserved,
    schema.put, schema.waiting;
DROP VIEW IF EXISTS schema.current_routes;

ALTER TABLE schema.routes ADD COLUMN seal text,
    ADD CONSTRAINT routes_seal CHECK (seal IS NULL OR secret IS NOT NULL);
ALTER TABLE schema.candidates ADD COLUMN seal text;
ALTER TABLE schema.deliveries ADD COLUMN trace text NOT NULL DEFAULT '';
