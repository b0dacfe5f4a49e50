"""The schema of the file, and each statement, as text."""

from __future__ import annotations

APPLICATION_ID = 0x41574B53

SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 0",  # from then on a transaction does its own waiting
)

# Dates are whole microseconds since 1970; due, expires and clock are readings of the clock.
# A delivery with a candidate is held, and goes when its candidate goes. A row of queues stays
# when nothing waits, with due NULL: the next fence of the route must be larger than its last.
TABLES = (
    "CREATE TABLE meta (waiting INTEGER NOT NULL, clock REAL NOT NULL)",
    "INSERT INTO meta VALUES (0, 0)",
    """CREATE TABLE routes (
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
    )""",
    "CREATE INDEX routes_resource ON routes (resource)",
    "CREATE INDEX routes_expires ON routes (expires) WHERE expires IS NOT NULL",
    """CREATE TABLE candidates (
        id INTEGER PRIMARY KEY,
        route TEXT NOT NULL REFERENCES routes ON DELETE CASCADE,
        secret TEXT NOT NULL,
        UNIQUE (route, secret)
    )""",
    "CREATE TABLE seen (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, at INTEGER NOT NULL)",
    """CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        route TEXT NOT NULL,
        digest BLOB NOT NULL,
        received_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        done INTEGER NOT NULL DEFAULT 0,
        due REAL NOT NULL,
        candidate INTEGER REFERENCES candidates ON DELETE CASCADE,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX deliveries_due ON deliveries (route, due) WHERE candidate IS NULL",
    "CREATE INDEX deliveries_held ON deliveries (candidate) WHERE candidate IS NOT NULL",
    """CREATE TRIGGER deliveries_more AFTER INSERT ON deliveries
        BEGIN UPDATE meta SET waiting = waiting + 1; END""",
    """CREATE TRIGGER deliveries_fewer AFTER DELETE ON deliveries
        BEGIN UPDATE meta SET waiting = waiting - 1; END""",
    """CREATE TABLE queues (
        route TEXT PRIMARY KEY NOT NULL,
        due REAL,
        leased INTEGER NOT NULL DEFAULT 0,
        fence INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    "CREATE INDEX queues_due ON queues (due) WHERE due IS NOT NULL",
    """CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        route TEXT NOT NULL,
        reason TEXT NOT NULL,
        received_at INTEGER NOT NULL,
        buried_at INTEGER NOT NULL,
        done INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

# From then on a secret is its fingerprint where there is a ciphertext (seal).
SEALS_AND_TRACES = (
    "ALTER TABLE routes ADD COLUMN seal TEXT",
    "ALTER TABLE candidates ADD COLUMN seal TEXT",
    "ALTER TABLE deliveries ADD COLUMN trace TEXT NOT NULL DEFAULT ''",
)

MIGRATIONS = (TABLES, SEALS_AND_TRACES)
"""What makes each version of the schema from the one before it."""

SET_VERSION = f"PRAGMA user_version = {len(MIGRATIONS)}"

READ_IDENTITY = """
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
FROM pragma_application_id, pragma_user_version
"""
CHECK = "PRAGMA quick_check(1)"
READ_WAITING = "SELECT waiting FROM meta"
READ_CLOCK = "SELECT clock FROM meta"
SET_CLOCK = "UPDATE meta SET clock = ?"
END_WAITS = (
    "UPDATE deliveries SET due = :now WHERE due > :now",
    "UPDATE queues SET due = :now WHERE due > :now",
    "UPDATE routes SET expires = :now WHERE expires > :now",
)

PURGE = "DELETE FROM routes WHERE expires <= ?"
RESERVE = """
INSERT INTO routes (id, target, place, resource, filters, created_at, heartbeat_at, expires)
SELECT :id, :target, :place, :resource, :filters, :created_at, :heartbeat_at, :expires
WHERE NOT :sole OR NOT EXISTS (
    SELECT 1 FROM routes
    WHERE resource = :resource AND place = :place AND state <> 'retired'
)
ON CONFLICT DO NOTHING
"""
GET_ROUTE = """
SELECT id, target, resource, filters, state, gid, created_at, heartbeat_at, secret, seal
FROM routes
WHERE id = ? AND (expires IS NULL OR expires > ?)
"""
LIST_ROUTES = """
SELECT id, target, resource, filters, state, gid, created_at, heartbeat_at, secret, seal
FROM routes
WHERE state <> 'retired' AND (expires IS NULL OR expires > ?)
ORDER BY created_at, rowid
"""
LIST_ROUTES_OF = """
SELECT id, target, resource, filters, state, gid, created_at, heartbeat_at, secret, seal
FROM routes
WHERE state <> 'retired' AND (expires IS NULL OR expires > ?) AND resource = ?
ORDER BY created_at, rowid
"""
LIST_CANDIDATES = "SELECT secret, seal FROM candidates WHERE route = ? ORDER BY id"
ADD_CANDIDATE = "INSERT INTO candidates (route, secret, seal) VALUES (?, ?, ?)"
DROP_CANDIDATES = "DELETE FROM candidates WHERE route = ?"
CONFIRM = """
UPDATE routes SET state = 'confirmed', gid = ?, expires = NULL,
    (secret, seal) = (SELECT secret, seal FROM candidates WHERE id = ?)
WHERE id = ?
"""
FREE_HELD = "UPDATE deliveries SET candidate = NULL, due = ? WHERE candidate = ?"
SET_FILTERS = "UPDATE routes SET filters = ? WHERE id = ?"
SET_HEARTBEAT = "UPDATE routes SET heartbeat_at = ? WHERE id = ?"
RETIRE = """
UPDATE routes SET state = 'retired', secret = NULL, seal = NULL WHERE id = ? AND state = 'confirmed'
"""
DROP = "DELETE FROM routes WHERE id = ?"

LIST_SECRETS = (
    "SELECT id, id, secret, seal FROM routes WHERE secret IS NOT NULL",
    "SELECT id, route, secret, seal FROM candidates",
)
SET_SECRET = (
    "UPDATE routes SET secret = ?, seal = ? WHERE id = ?",
    "UPDATE candidates SET secret = ?, seal = ? WHERE id = ?",
)
ERASE, ERASE_NO_MORE = "PRAGMA secure_delete = ON", "PRAGMA secure_delete = OFF"
EMPTY_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"

# One row while the secret is a candidate, with its id, or is confirmed, with NULL.
FIND_CANDIDATE = """
SELECT candidates.id FROM routes
LEFT JOIN candidates ON candidates.route = routes.id AND candidates.secret = :secret
WHERE routes.id = :route AND (
    routes.secret = :secret OR (candidates.id IS NOT NULL AND routes.expires > :now)
)
"""
FIND_SEEN = "SELECT digest, at FROM seen WHERE digest IN ({})"
SEE = "INSERT OR REPLACE INTO seen (digest, at) VALUES {}"
FORGET = """
DELETE FROM seen
WHERE id IN (SELECT id FROM seen ORDER BY id LIMIT ?) AND abs(? - at) > ?
"""
PUT = """
INSERT INTO deliveries (route, digest, received_at, due, candidate, trace, body) VALUES {}
"""
OFFER = """
INSERT INTO queues (route, due) VALUES {}
ON CONFLICT (route) DO UPDATE SET due = excluded.due
WHERE NOT queues.leased AND (queues.due > excluded.due OR queues.due IS NULL)
"""
FIND_DUE = "SELECT route, fence FROM queues WHERE due <= ? ORDER BY due LIMIT 1"
LEASE = "UPDATE queues SET due = ?, leased = 1, fence = ? WHERE route = ?"
TAKE = """
SELECT id, digest, received_at, attempts, done, trace, body FROM deliveries
WHERE route = ? AND due <= ? AND candidate IS NULL ORDER BY due, id LIMIT ?
"""
RENEW = "UPDATE queues SET due = ? WHERE route = ? AND fence = ? AND leased"
FINISH = """
UPDATE queues SET leased = 0, due = (
    SELECT min(due) FROM deliveries WHERE deliveries.route = queues.route AND candidate IS NULL
)
WHERE route = ?
"""
IS_LEASED = "SELECT 1 FROM queues WHERE route = ? AND fence = ? AND leased"
REMOVE = "DELETE FROM deliveries WHERE route = ? AND id IN ({})"
RELEASE = """
UPDATE deliveries SET due = coalesce(?, due), attempts = ?, done = ? WHERE id = ? AND route = ?
"""
COUNT = """
SELECT meta.waiting, (SELECT count(*) FROM dead_letters), (
    SELECT min((
        SELECT received_at FROM deliveries
        WHERE deliveries.route = queues.route AND candidate IS NULL ORDER BY due, id LIMIT 1
    )) FROM queues WHERE due IS NOT NULL
) FROM meta
"""
BURY = "INSERT INTO dead_letters (route, reason, received_at, buried_at, done, body) VALUES {}"
LIST_LETTERS = """
SELECT id, route, reason, received_at, buried_at, done, body FROM dead_letters
WHERE id > ? ORDER BY id LIMIT ?
"""
GET_LETTER = """
SELECT id, route, reason, received_at, buried_at, done, body FROM dead_letters WHERE id = ?
"""
REPLAY = """
INSERT INTO deliveries (route, digest, received_at, done, due, body)
SELECT route, zeroblob(32), received_at, done, ?, body FROM dead_letters WHERE id = ?
"""
DROP_LETTER = "DELETE FROM dead_letters WHERE id = ?"
