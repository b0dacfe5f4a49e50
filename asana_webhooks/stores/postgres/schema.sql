-- The tables of the PostgreSQL store. ``schema.`` stands for the name that the user chose.
--
-- A delivery with a candidate is held, and goes when its candidate goes. A row of queues stays when
-- nothing waits, with due NULL, as long as its route is known: the next fence of the route must be
-- larger than its last. While it is leased, claimed are the ids of the deliveries that were handed
-- out and were not put off; some may be gone. A route that is reserved or retired expires; a retired
-- one stays beyond that while deliveries of it wait, or dead letters of it are left. A queue is of the
-- account of its route.
--
-- A row of events is what one settlement remembered, packed; it is forgotten as digests are.
--
-- Of queues every row is rewritten often: there is room in its pages, and it is vacuumed early.
-- Bodies and states are not compressed: they stay for a moment, and it would take longer than to
-- write them.

CREATE TABLE schema.meta (version integer NOT NULL);
INSERT INTO schema.meta VALUES (0);

CREATE TABLE schema.routes (
    id text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    target text NOT NULL,
    place text NOT NULL,
    resource text NOT NULL,
    account text NOT NULL DEFAULT '',
    user_gid text,
    filters text,
    state text NOT NULL DEFAULT 'reserved',
    gid text,
    secret text,
    seal text,
    created_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    heartbeat_at timestamptz,
    leaving boolean NOT NULL DEFAULT false,
    retired_as text,
    expires timestamptz,
    CONSTRAINT routes_seal CHECK (seal IS NULL OR secret IS NOT NULL),
    CONSTRAINT routes_retired CHECK (state <> 'retired' OR expires IS NOT NULL)
);
CREATE INDEX routes_resource ON schema.routes (resource);
CREATE INDEX routes_account ON schema.routes (account);
CREATE INDEX routes_expires ON schema.routes (expires) WHERE expires IS NOT NULL;

CREATE TABLE schema.candidates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route text COLLATE "C" NOT NULL REFERENCES schema.routes ON DELETE CASCADE,
    secret text NOT NULL,
    seal text,
    UNIQUE (route, secret)
);

CREATE TABLE schema.seen (digest bytea PRIMARY KEY, at timestamptz NOT NULL);
CREATE INDEX seen_at ON schema.seen (at);

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

CREATE TABLE schema.deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    received_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    progress text NOT NULL DEFAULT '',
    crashes integer NOT NULL DEFAULT 0,
    due timestamptz NOT NULL,
    candidate bigint REFERENCES schema.candidates ON DELETE CASCADE,
    trace text NOT NULL DEFAULT '',
    body bytea NOT NULL
);
ALTER TABLE schema.deliveries ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX deliveries_due ON schema.deliveries (route, due, id) WHERE candidate IS NULL;
CREATE INDEX deliveries_held ON schema.deliveries (candidate) WHERE candidate IS NOT NULL;

CREATE TABLE schema.queues (
    route text COLLATE "C" PRIMARY KEY,
    due timestamptz,
    leased boolean NOT NULL DEFAULT false,
    fence bigint NOT NULL DEFAULT 0,
    claimed bigint[] NOT NULL DEFAULT '{}',
    account text COLLATE "C" NOT NULL DEFAULT ''
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
CREATE INDEX queues_due ON schema.queues (due) WHERE due IS NOT NULL;
CREATE INDEX queues_account ON schema.queues (account, due) WHERE due IS NOT NULL;

CREATE TABLE schema.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route text NOT NULL,
    reason text NOT NULL,
    received_at timestamptz NOT NULL,
    buried_at timestamptz NOT NULL,
    progress text NOT NULL DEFAULT '',
    body bytea NOT NULL
);
ALTER TABLE schema.dead_letters ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX dead_letters_route ON schema.dead_letters (route);

CREATE TABLE schema.owners (
    holder text COLLATE "C" PRIMARY KEY,
    public_url text NOT NULL,
    expires timestamptz NOT NULL
);

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
