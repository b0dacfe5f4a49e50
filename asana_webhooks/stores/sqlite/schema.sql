-- Each part makes a version of the schema from the one before it.
--
-- Dates are whole microseconds since 1970; due, expires and clock are readings of the clock.
-- A delivery with a candidate is held, and goes when its candidate goes. A row of queues stands for
-- a route that had something to claim; due is NULL while nothing waits. It stays, since the next
-- fence of the route must be larger than its last.

-- name: version_1
CREATE TABLE meta (waiting INTEGER NOT NULL, clock REAL NOT NULL);
INSERT INTO meta VALUES (0, 0);
CREATE TABLE routes (
    id TEXT PRIMARY KEY NOT NULL,
    target TEXT NOT NULL,
    place TEXT NOT NULL,
    resource TEXT NOT NULL,
    filters TEXT,
    state TEXT NOT NULL DEFAULT 'reserved',
    gid TEXT,
    secret TEXT,
    created_at INTEGER NOT NULL,
    heartbeat_at INTEGER,
    expires REAL
);
CREATE INDEX routes_resource ON routes (resource);
CREATE INDEX routes_expires ON routes (expires) WHERE expires IS NOT NULL;
CREATE TABLE candidates (
    id INTEGER PRIMARY KEY,
    route TEXT NOT NULL REFERENCES routes ON DELETE CASCADE,
    secret TEXT NOT NULL,
    UNIQUE (route, secret)
);
CREATE TABLE seen (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, at INTEGER NOT NULL);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL,
    digest BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL,
    candidate INTEGER REFERENCES candidates ON DELETE CASCADE,
    body BLOB NOT NULL
);
CREATE INDEX deliveries_due ON deliveries (route, due) WHERE candidate IS NULL;
CREATE INDEX deliveries_held ON deliveries (candidate) WHERE candidate IS NOT NULL;
CREATE TRIGGER deliveries_more AFTER INSERT ON deliveries
    BEGIN UPDATE meta SET waiting = waiting + 1; END;
CREATE TRIGGER deliveries_fewer AFTER DELETE ON deliveries
    BEGIN UPDATE meta SET waiting = waiting - 1; END;
CREATE TABLE queues (
    route TEXT PRIMARY KEY NOT NULL,
    due REAL,
    leased INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX queues_due ON queues (due) WHERE due IS NOT NULL;
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL,
    reason TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    buried_at INTEGER NOT NULL,
    done INTEGER NOT NULL,
    body BLOB NOT NULL
);
PRAGMA application_id = 1096239955;

-- From then on a secret is its fingerprint where there is a ciphertext (seal).
-- name: version_2
ALTER TABLE routes ADD COLUMN seal TEXT;
ALTER TABLE candidates ADD COLUMN seal TEXT;
ALTER TABLE deliveries ADD COLUMN trace TEXT NOT NULL DEFAULT '';

-- From then on waiting leaves out what is held, a queue names the deliveries that its claim holds
-- (ids between commas), and retired routes expire, 48 hours later. No route that was forgotten had
-- a fence above that of meta.
-- name: version_3
ALTER TABLE deliveries ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN claimed TEXT;
ALTER TABLE meta ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
CREATE TABLE owners (
    holder TEXT PRIMARY KEY NOT NULL,
    public_url TEXT NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;
DROP TRIGGER deliveries_more;
DROP TRIGGER deliveries_fewer;
CREATE TRIGGER deliveries_more AFTER INSERT ON deliveries WHEN new.candidate IS NULL
    BEGIN UPDATE meta SET waiting = waiting + 1; END;
CREATE TRIGGER deliveries_fewer AFTER DELETE ON deliveries WHEN old.candidate IS NULL
    BEGIN UPDATE meta SET waiting = waiting - 1; END;
CREATE TRIGGER deliveries_freed AFTER UPDATE OF candidate ON deliveries
    WHEN old.candidate IS NOT NULL AND new.candidate IS NULL
    BEGIN UPDATE meta SET waiting = waiting + 1; END;
UPDATE meta SET waiting = (SELECT count(*) FROM deliveries WHERE candidate IS NULL);
UPDATE routes SET expires = (SELECT clock FROM meta) + 172800 WHERE state = 'retired';
