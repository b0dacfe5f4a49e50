-- From then on each delivery counts the claims that ended without a word while they held it, a
-- store has owners, and a retired route an end. The functions that put and claim have other
-- parameters or another name, and a route is not retired without an end: a process of an older
-- version that still runs is refused.
DROP FUNCTION IF EXISTS schema.put, schema.lease, schema.settle,
    schema.count_waiting;

ALTER TABLE schema.deliveries ADD COLUMN crashes integer NOT NULL DEFAULT 0;
ALTER TABLE schema.queues ADD COLUMN claimed bigint[] NOT NULL DEFAULT '{}';

UPDATE schema.routes SET expires = clock_timestamp() + interval '48 h' WHERE state = 'retired';
ALTER TABLE schema.routes
    ADD CONSTRAINT routes_retired CHECK (state <> 'retired' OR expires IS NOT NULL);

CREATE TABLE schema.owners (
    holder text COLLATE "C" PRIMARY KEY,
    public_url text NOT NULL,
    expires timestamptz NOT NULL
);
