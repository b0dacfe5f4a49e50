"""The tables of the PostgreSQL store, and what brings those of an older version up to date.

``schema.`` stands for the name that the user chose.
"""

from __future__ import annotations

__all__ = [
    "CREATE_SCHEMA",
    "HAS_META",
    "HAS_SCHEMA",
    "LOCK",
    "MIGRATIONS",
    "READ_VERSION",
    "SET_VERSION",
]

# A delivery with a candidate is held, and goes when its candidate goes. A row of queues stays when
# nothing waits, with due NULL: the next fence of the route must be larger than its last.
#
# Of queues every row is rewritten often: there is room in its pages, and it is vacuumed early.
# Bodies are not compressed: they stay for a moment, and it would take longer than to write them.
TABLES = """
CREATE TABLE schema.meta (version integer NOT NULL);
INSERT INTO schema.meta VALUES (0);

CREATE TABLE schema.routes (
    id text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    target text NOT NULL,
    place text NOT NULL,
    resource text NOT NULL,
    filters text,
    state text NOT NULL DEFAULT 'reserved',
    gid text,
    secret text,
    created_at timestamptz NOT NULL,
    heartbeat_at timestamptz,
    expires timestamptz
);
CREATE INDEX routes_resource ON schema.routes (resource);
CREATE INDEX routes_expires ON schema.routes (expires) WHERE expires IS NOT NULL;

CREATE TABLE schema.candidates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route text COLLATE "C" NOT NULL REFERENCES schema.routes ON DELETE CASCADE,
    secret text NOT NULL,
    UNIQUE (route, secret)
);

CREATE TABLE schema.seen (digest bytea PRIMARY KEY, at timestamptz NOT NULL);
CREATE INDEX seen_at ON schema.seen (at);

CREATE TABLE schema.deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    received_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    done integer NOT NULL DEFAULT 0,
    due timestamptz NOT NULL,
    candidate bigint REFERENCES schema.candidates ON DELETE CASCADE,
    body bytea NOT NULL
);
ALTER TABLE schema.deliveries ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX deliveries_due ON schema.deliveries (route, due, id) WHERE candidate IS NULL;
CREATE INDEX deliveries_held ON schema.deliveries (candidate) WHERE candidate IS NOT NULL;

CREATE TABLE schema.queues (
    route text COLLATE "C" PRIMARY KEY,
    due timestamptz,
    leased boolean NOT NULL DEFAULT false,
    fence bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
CREATE INDEX queues_due ON schema.queues (due) WHERE due IS NOT NULL;

CREATE TABLE schema.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route text NOT NULL,
    reason text NOT NULL,
    received_at timestamptz NOT NULL,
    buried_at timestamptz NOT NULL,
    done integer NOT NULL,
    body bytea NOT NULL
);
ALTER TABLE schema.dead_letters ALTER COLUMN body SET STORAGE EXTERNAL;
"""

# From then on a secret is its fingerprint where there is a ciphertext (seal). What took or returned
# less than now is gone, or has another name or other parameters: a process of the first version
# that still runs is refused, and neither forgets the half of a secret nor the trace of a delivery.
SEALS_AND_TRACES = """
DROP FUNCTION IF EXISTS schema.add_candidate, schema.claim, schema.confirm, schema.drop_reserved,
    schema.put, schema.waiting;
DROP VIEW IF EXISTS schema.current_routes;

ALTER TABLE schema.routes ADD COLUMN seal text,
    ADD CONSTRAINT routes_seal CHECK (seal IS NULL OR secret IS NOT NULL);
ALTER TABLE schema.candidates ADD COLUMN seal text;
ALTER TABLE schema.deliveries ADD COLUMN trace text NOT NULL DEFAULT '';
"""

# A claim says from then on whether it may wait.
PATIENT_CLAIMS = "DROP FUNCTION IF EXISTS schema.lease, schema.find_due"

MIGRATIONS: tuple[str, ...] = (TABLES, SEALS_AND_TRACES, PATIENT_CLAIMS)
"""What makes the tables of each version from those of the one before it.

Then the functions are made as they are now: one whose parameters changed is dropped here.
"""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
HAS_SCHEMA = "SELECT to_regnamespace($1) IS NOT NULL"
HAS_META = "SELECT to_regclass($1) IS NOT NULL"
CREATE_SCHEMA = "CREATE SCHEMA {}"
READ_VERSION = "SELECT version FROM schema.meta"
SET_VERSION = "UPDATE schema.meta SET version = $1"
