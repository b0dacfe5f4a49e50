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

-- From then on progress is the text that the contract calls so, and done of deliveries is no longer
-- read. What was not counted there becomes a blob, as which nobody takes it. A route may be leaving,
-- remembered are the events that were settled in a scope, packed, and states the texts that the
-- continuity of a scope is in.
-- name: version_4
ALTER TABLE routes ADD COLUMN account TEXT NOT NULL DEFAULT '';
ALTER TABLE routes ADD COLUMN user TEXT;
ALTER TABLE routes ADD COLUMN confirmed_at INTEGER;
ALTER TABLE routes ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;
ALTER TABLE routes ADD COLUMN retired_as TEXT;
UPDATE routes SET confirmed_at = created_at WHERE state = 'confirmed';
ALTER TABLE deliveries ADD COLUMN progress TEXT NOT NULL DEFAULT '';
UPDATE deliveries SET progress = CASE
    WHEN done BETWEEN 1 AND 2147483647 THEN '{"upto":' || done || '}' ELSE zeroblob(1)
END
WHERE done <> 0;
ALTER TABLE dead_letters RENAME TO old_dead_letters;
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    route TEXT NOT NULL,
    reason TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    buried_at INTEGER NOT NULL,
    progress TEXT NOT NULL,
    body BLOB NOT NULL
);
INSERT INTO sqlite_sequence (name, seq)
SELECT 'dead_letters', seq FROM sqlite_sequence WHERE name = 'old_dead_letters';
INSERT INTO dead_letters (id, route, reason, received_at, buried_at, progress, body)
SELECT id, route, reason, received_at, buried_at,
    CASE WHEN done BETWEEN 1 AND 2147483647 THEN '{"upto":' || done || '}' ELSE '' END, body
FROM old_dead_letters;
DROP TABLE old_dead_letters;
CREATE TABLE remembered (
    id INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    at INTEGER NOT NULL,
    events BLOB NOT NULL
);
CREATE INDEX remembered_scope ON remembered (scope);
CREATE TABLE states (
    scope TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL,
    text TEXT NOT NULL
);

-- From then on the key of a digest begins with the time of the delivery's first event, so that those
-- that come together lie together: deliveries that came before are known by seen, which gets no more
-- rows. A retired route is known while a dead letter of it is left; names have holders; and writes
-- are kept, each with the resources that it names and the events that its parts caused.
-- name: version_5
DROP TRIGGER deliveries_more;
DROP TRIGGER deliveries_fewer;
DROP TRIGGER deliveries_freed;
CREATE TABLE digests (key BLOB PRIMARY KEY NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX routes_account ON routes (account);
DROP INDEX remembered_scope;
CREATE INDEX remembered_scope ON remembered (scope, at);
CREATE INDEX dead_letters_route ON dead_letters (route);
CREATE TABLE holders (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    expires REAL NOT NULL,
    PRIMARY KEY (name, holder)
) WITHOUT ROWID;
CREATE TABLE writes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    at INTEGER NOT NULL,
    resources TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX writes_account ON writes (account);
CREATE TABLE written (
    resource TEXT NOT NULL,
    write INTEGER NOT NULL REFERENCES writes ON DELETE CASCADE,
    PRIMARY KEY (resource, write)
) WITHOUT ROWID;
CREATE INDEX written_by ON written (write);
CREATE TABLE caused (
    write INTEGER NOT NULL REFERENCES writes ON DELETE CASCADE,
    part TEXT NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (write, part)
) WITHOUT ROWID;
