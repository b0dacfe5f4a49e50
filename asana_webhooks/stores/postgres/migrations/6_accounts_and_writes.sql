-- From then on a queue knows its account, so that a claim may pass by an account without looking at each
-- of its queues; names have holders; and writes are kept, with the events that their parts caused. What
-- puts, claims or settles has other parameters or another name: a process of an older version that still
-- runs is refused.
DROP VIEW IF EXISTS schema.live_routes CASCADE;
DROP FUNCTION IF EXISTS schema.put_all, schema.claim_next, schema.claim_next_patiently,
    schema.claim_more, schema.bury_unreadable, schema.bury, schema.settle, schema.is_handled_still,
    schema.list_states, schema.find_route;

CREATE INDEX routes_account ON schema.routes (account);
CREATE INDEX dead_letters_route ON schema.dead_letters (route);

ALTER TABLE schema.queues ADD COLUMN account text COLLATE "C" NOT NULL DEFAULT '';
UPDATE schema.queues q SET account = r.account FROM schema.routes r
WHERE r.id = q.route AND r.account <> '';
CREATE INDEX queues_account ON schema.queues (account, due) WHERE due IS NOT NULL;

CREATE TABLE schema.holders (
    name text COLLATE "C",
    holder text COLLATE "C",
    expires timestamptz NOT NULL,
    PRIMARY KEY (name, holder)
);
CREATE INDEX holders_holder ON schema.holders (holder);

CREATE TABLE schema.writes (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    account text COLLATE "C" NOT NULL,
    expires timestamptz NOT NULL,
    resources text[] NOT NULL,
    text text NOT NULL
);
ALTER TABLE schema.writes ALTER COLUMN text SET STORAGE EXTERNAL;
CREATE INDEX writes_account ON schema.writes (account, expires);
CREATE INDEX writes_expires ON schema.writes (expires);
CREATE INDEX writes_resources ON schema.writes USING gin (resources);

CREATE TABLE schema.caused (
    write bigint NOT NULL REFERENCES schema.writes ON DELETE CASCADE,
    part text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    PRIMARY KEY (write, part)
);
