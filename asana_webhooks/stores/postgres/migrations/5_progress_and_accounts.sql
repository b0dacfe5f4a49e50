-- From then on a delivery and a dead letter keep a text that tells how far they have come, a route
-- whose it is and how it ended, the events that were handled are remembered, and the state of each
-- scope's continuity is kept. What changes any of these has other parameters or another name: a
-- process of an older version that still runs is refused.
DROP VIEW IF EXISTS schema.live_routes CASCADE;
DROP FUNCTION IF EXISTS schema.put, schema.reserve, schema.confirm_candidate, schema.retire,
    schema.claim_due, schema.claim_due_patiently, schema.is_leased, schema.ack, schema.end_claim,
    schema.release, schema.bury;

ALTER TABLE schema.routes ADD COLUMN account text NOT NULL DEFAULT '', ADD COLUMN user_gid text,
    ADD COLUMN confirmed_at timestamptz, ADD COLUMN leaving boolean NOT NULL DEFAULT false,
    ADD COLUMN retired_as text;
UPDATE schema.routes SET confirmed_at = created_at WHERE state = 'confirmed';

ALTER TABLE schema.deliveries ADD COLUMN progress text NOT NULL DEFAULT '';
UPDATE schema.deliveries SET progress = format('{"upto":%s}', done) WHERE done > 0;
ALTER TABLE schema.deliveries DROP COLUMN done;

ALTER TABLE schema.dead_letters ADD COLUMN progress text NOT NULL DEFAULT '';
UPDATE schema.dead_letters SET progress = format('{"upto":%s}', done) WHERE done > 0;
ALTER TABLE schema.dead_letters DROP COLUMN done;

CREATE TABLE schema.events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    scope text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    packed bytea NOT NULL
);
ALTER TABLE schema.events ALTER COLUMN packed SET STORAGE EXTERNAL;
CREATE INDEX events_scope ON schema.events (scope, at, id);
CREATE INDEX events_at ON schema.events (at);

CREATE TABLE schema.states (
    scope text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    text text NOT NULL
);
ALTER TABLE schema.states ALTER COLUMN text SET STORAGE EXTERNAL;
