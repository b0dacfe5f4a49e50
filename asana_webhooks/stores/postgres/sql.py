"""What the PostgreSQL store says to its server.

Each call is one statement, and so one round trip and one transaction; a claim that finds no queue
free is a second one. ``schema.`` stands for the name that the user chose.
"""

from __future__ import annotations

__all__ = [
    "ACK",
    "ADD_CANDIDATE",
    "ANNOUNCE",
    "BURY",
    "CLAIM",
    "CLAIM_PATIENTLY",
    "CONFIRM",
    "COUNTS",
    "DISCARD",
    "DROP",
    "FINISH",
    "GET_LETTER",
    "GET_ROUTE",
    "LIST_CANDIDATES",
    "LIST_CONFIRMED",
    "LIST_LETTERS",
    "LIST_ROUTES",
    "PURGE",
    "PUT",
    "READ_SETTINGS",
    "RELEASE",
    "RENEW",
    "REPLAY",
    "RESEAL_CANDIDATE",
    "RESEAL_CONFIRMED",
    "RESERVE",
    "RETIRE",
    "SET_FILTERS",
    "SET_HEARTBEAT",
]

READ_SETTINGS = """
SELECT current_setting('transaction_read_only') = 'on' AS read_only,
    current_setting('transaction_isolation') AS isolation,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync
"""

RESERVE = "SELECT schema.reserve($1, $2, $3, $4, $5, $6, $7, $8, $9)"
GET_ROUTE = "SELECT * FROM schema.live_routes WHERE id = $1"
LIST_ROUTES = """
SELECT * FROM schema.live_routes
WHERE state <> 'retired' AND ($1::text IS NULL OR resource = $1) ORDER BY created_at, number
"""
ADD_CANDIDATE = "SELECT schema.add_candidate($1, $2, $3, $4)"
CONFIRM = "SELECT schema.confirm_candidate($1, $2, $3)"
SET_FILTERS = "UPDATE schema.routes SET filters = $2 WHERE id = $1"
SET_HEARTBEAT = "UPDATE schema.routes SET heartbeat_at = $2 WHERE id = $1"
RETIRE = """
UPDATE schema.routes SET state = 'retired', secret = NULL, seal = NULL
WHERE id = $1 AND state = 'confirmed' RETURNING true
"""
DROP = "SELECT * FROM schema.drop_route($1)"

PURGE = "SELECT schema.purge()"
LIST_CANDIDATES = "SELECT id, route, secret, seal FROM schema.candidates"
LIST_CONFIRMED = "SELECT id, id AS route, secret, seal FROM schema.routes WHERE secret IS NOT NULL"
RESEAL_CANDIDATE = "SELECT schema.reseal_candidate($1, $2, $3, $4, $5)"
RESEAL_CONFIRMED = """
UPDATE schema.routes SET secret = $4, seal = $5
WHERE id = $1 AND secret = $2 AND seal IS NOT DISTINCT FROM $3
"""

PUT = "SELECT * FROM schema.put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
CLAIM = "SELECT * FROM schema.lease($1, $2, $3, false)"
ANNOUNCE = "SELECT pg_notify($1, '')"
CLAIM_PATIENTLY = "SELECT * FROM schema.lease($1, $2, $3, true)"
RENEW = """
UPDATE schema.queues SET due = schema.clock() + make_interval(secs => $3)
WHERE route = $1 AND fence = $2 AND leased RETURNING true
"""
ACK = "SELECT schema.settle($1, $2, $3, false)"
FINISH = "SELECT schema.settle($1, $2, $3, true)"
RELEASE = "SELECT schema.release($1, $2, $3, $4, $5, $6)"
BURY = "SELECT schema.bury($1, $2, $3, $4, $5, $6, $7, $8, $9)"
COUNTS = "SELECT * FROM schema.counts()"
LIST_LETTERS = """
SELECT id, route, reason, received_at, buried_at, done, body FROM schema.dead_letters
WHERE id > $1 ORDER BY id LIMIT $2
"""
GET_LETTER = """
SELECT id, route, reason, received_at, buried_at, done, body FROM schema.dead_letters
WHERE id = ANY ($1)
"""
REPLAY = "SELECT schema.replay($1)"
DISCARD = """
WITH gone AS (DELETE FROM schema.dead_letters WHERE id = ANY ($1) RETURNING id)
SELECT count(*) FROM gone
"""
