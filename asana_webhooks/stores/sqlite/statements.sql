-- The file

-- name: read_identity
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
FROM pragma_application_id, pragma_user_version

-- name: read_length
SELECT page_count * page_size FROM pragma_page_count, pragma_page_size

-- name: check
PRAGMA quick_check(1)

-- name: read_clock
SELECT clock FROM meta

-- name: set_clock
UPDATE meta SET clock = ?

-- name: count_and_set_clock
UPDATE meta SET waiting = waiting + ?, clock = ?

-- name: make_meta
INSERT INTO meta (waiting, clock, fence) VALUES (0, 0, -1)

-- The clock began anew: nothing waits for one of its old readings.
-- name: end_delays
UPDATE deliveries SET due = :now WHERE due > :now

-- name: end_leases
UPDATE queues SET due = :now WHERE due > :now

-- name: end_reservations
UPDATE routes SET expires = :now WHERE expires > :now AND state <> 'retired'

-- name: retire_again
UPDATE routes SET expires = :now + :known_for WHERE expires > :now AND state = 'retired'

-- name: end_ownerships
DELETE FROM owners

-- name: end_holds
DELETE FROM holders

-- What was damaged. A value may be of any type then; text and blobs are larger than any number.

-- name: read_fence
SELECT fence FROM meta

-- name: set_fence
UPDATE meta SET fence = ?

-- name: count_waiting_again
UPDATE meta SET waiting = (SELECT count(*) FROM deliveries WHERE candidate IS NULL)

-- name: end_damaged_delays
UPDATE deliveries SET due = :now WHERE id IN (
    SELECT id FROM deliveries WHERE candidate IS NULL AND due > :far
)

-- name: end_damaged_leases
UPDATE queues SET due = :now WHERE due > :far

-- name: list_orphans
SELECT id, route, received_at, body FROM deliveries
WHERE candidate IS NOT NULL AND candidate NOT IN (SELECT id FROM candidates)

-- What has come to its end

-- name: forget_routes
DELETE FROM routes
WHERE expires <= ? AND (state <> 'retired' OR NOT (
    EXISTS (SELECT 1 FROM deliveries WHERE deliveries.route = routes.id AND candidate IS NULL)
    OR EXISTS (SELECT 1 FROM dead_letters WHERE dead_letters.route = routes.id)
))

-- name: forget_owners
DELETE FROM owners WHERE expires <= ?

-- name: forget_holders
DELETE FROM holders WHERE expires <= ?

-- name: find_last_digest
SELECT key FROM digests WHERE key > ? ORDER BY key LIMIT 1 OFFSET ?

-- name: forget_digests
DELETE FROM digests WHERE key > ? AND key <= ? AND abs(? - at) > ?

-- name: forget_last_digests
DELETE FROM digests WHERE key > ? AND abs(? - at) > ?

-- name: forget_seen
DELETE FROM seen WHERE id IN (SELECT id FROM seen ORDER BY id LIMIT ?) AND abs(? - at) > ?

-- name: has_seen
SELECT EXISTS (SELECT 1 FROM seen)

-- name: forget_events
DELETE FROM remembered
WHERE id IN (SELECT id FROM remembered ORDER BY id LIMIT ?) AND abs(? - at) > ?

-- name: forget_writes
DELETE FROM writes
WHERE number IN (SELECT number FROM writes ORDER BY number LIMIT ?) AND abs(? - at) > ?

-- name: find_forgotten_fence
SELECT max(fence) FROM queues WHERE due IS NULL AND route NOT IN (SELECT id FROM routes)

-- name: keep_fence
UPDATE meta SET fence = max(fence, ?)

-- name: forget_queues
DELETE FROM queues WHERE due IS NULL AND route NOT IN (SELECT id FROM routes)

-- name: read_free_pages
SELECT freelist_count, page_count
FROM pragma_freelist_count, pragma_page_count, pragma_auto_vacuum WHERE auto_vacuum = 2

-- name: give_back_page
PRAGMA incremental_vacuum(1)

-- name: checkpoint
PRAGMA wal_checkpoint(PASSIVE)

-- Ownership

-- name: find_other_owner
SELECT public_url FROM owners WHERE public_url <> ? AND holder <> ? LIMIT 1

-- name: own
INSERT OR REPLACE INTO owners (holder, public_url, expires) VALUES (?, ?, ?)

-- name: disown
DELETE FROM owners WHERE holder = ?

-- name: forget_holders_of
DELETE FROM holders WHERE name = ? AND expires <= ?

-- name: count_other_holders
SELECT count(*) FROM holders WHERE name = ? AND holder <> ?

-- name: hold
INSERT INTO holders (name, holder, expires) VALUES (?, ?, ?)
ON CONFLICT (name, holder) DO UPDATE SET expires = max(expires, excluded.expires)

-- name: let_go
DELETE FROM holders WHERE name = ? AND holder = ?

-- name: let_go_of_all
DELETE FROM holders WHERE holder = ?

-- Routes

-- name: reserve
INSERT INTO routes (
    id, target, place, resource, account, user, filters, created_at, heartbeat_at, expires
)
SELECT
    :id, :target, :prefix, :resource, :account, :user, :filters, :created_at, :heartbeat_at, :expires
WHERE NOT :exclusive OR NOT EXISTS (
    SELECT 1 FROM routes
    WHERE resource = :resource AND account = :account AND place = :prefix
        AND state <> 'retired' AND NOT leaving
)
ON CONFLICT DO NOTHING

-- name: get_route
SELECT id, target, resource, filters, state, gid, account, user, created_at, confirmed_at,
    heartbeat_at, leaving, retired_as, secret, seal
FROM routes
WHERE id = :route AND (expires IS NULL OR expires > :now OR (state = 'retired' AND (
    EXISTS (SELECT 1 FROM deliveries WHERE deliveries.route = :route AND candidate IS NULL)
    OR EXISTS (SELECT 1 FROM dead_letters WHERE dead_letters.route = :route)
)))

-- name: list_routes
SELECT id, target, resource, filters, state, gid, account, user, created_at, confirmed_at,
    heartbeat_at, leaving, retired_as, secret, seal
FROM routes
WHERE state <> 'retired' AND (expires IS NULL OR expires > :now)
ORDER BY created_at, rowid

-- name: list_routes_of
SELECT id, target, resource, filters, state, gid, account, user, created_at, confirmed_at,
    heartbeat_at, leaving, retired_as, secret, seal
FROM routes
WHERE state <> 'retired' AND (expires IS NULL OR expires > :now)
    AND resource = :resource AND (:account IS NULL OR +account = :account)
ORDER BY created_at, rowid

-- name: list_routes_in
SELECT id, target, resource, filters, state, gid, account, user, created_at, confirmed_at,
    heartbeat_at, leaving, retired_as, secret, seal
FROM routes
WHERE state <> 'retired' AND (expires IS NULL OR expires > :now) AND account = :account
ORDER BY created_at, rowid

-- name: list_candidates
SELECT secret, seal FROM candidates WHERE route = ? ORDER BY id

-- name: add_candidate
INSERT INTO candidates (route, secret, seal) VALUES (?, ?, ?)

-- name: drop_candidates
DELETE FROM candidates WHERE route = ?

-- name: confirm
UPDATE routes SET state = 'confirmed', gid = ?, confirmed_at = ?, expires = NULL,
    (secret, seal) = (SELECT secret, seal FROM candidates WHERE id = ?)
WHERE id = ?

-- name: free_held
UPDATE deliveries SET candidate = NULL, due = ? WHERE candidate = ?

-- name: leave
UPDATE routes SET leaving = 1 WHERE id = ? AND state = 'confirmed'

-- name: set_user
UPDATE routes SET user = ? WHERE id = ?

-- name: set_filters
UPDATE routes SET filters = ? WHERE id = ?

-- name: set_heartbeat
UPDATE routes SET heartbeat_at = ? WHERE id = ?

-- name: retire
UPDATE routes SET state = 'retired', secret = NULL, seal = NULL, retired_as = ?, expires = ?
WHERE id = ? AND state = 'confirmed'

-- name: drop
DELETE FROM routes WHERE id = ?

-- One row while the secret is a candidate, with its id, or is confirmed, with NULL.
-- name: find_candidate
SELECT candidates.id FROM routes
LEFT JOIN candidates ON candidates.route = routes.id AND candidates.secret = :secret
WHERE routes.id = :route AND (
    routes.secret = :secret OR (candidates.id IS NOT NULL AND routes.expires > :now)
)

-- Encryption

-- name: list_confirmed_secrets
SELECT id, id, gid, resource, secret, seal FROM routes WHERE secret IS NOT NULL

-- name: set_confirmed_secret
UPDATE routes SET secret = ?, seal = ? WHERE id = ?

-- name: list_candidate_secrets
SELECT candidates.id, route, gid, resource, candidates.secret, candidates.seal
FROM candidates JOIN routes ON routes.id = candidates.route

-- name: set_candidate_secret
UPDATE candidates SET secret = ?, seal = ? WHERE id = ?

-- name: erase
PRAGMA secure_delete = ON

-- name: erase_no_more
PRAGMA secure_delete = OFF

-- name: empty_log
PRAGMA wal_checkpoint(TRUNCATE)

-- Putting

-- name: count_waiting
SELECT waiting FROM meta

-- name: count_held
SELECT count(*), coalesce(sum(length(body)), 0) FROM deliveries WHERE candidate = ?

-- name: find_digests
SELECT key, at FROM digests WHERE key IN ({})

-- name: find_seen
SELECT digest, at FROM seen WHERE digest IN ({})

-- name: learn_digests
INSERT OR REPLACE INTO digests (key, at) VALUES {}

-- name: put
INSERT INTO deliveries (route, digest, received_at, due, candidate, trace, body) VALUES {}

-- name: offer
INSERT INTO queues (route, due) VALUES {}
ON CONFLICT (route) DO UPDATE SET due = excluded.due
WHERE NOT queues.leased AND (queues.due > excluded.due OR queues.due IS NULL)

-- Claiming

-- The account is asked for only when it matters.
-- name: find_due
SELECT route, queues.fence, leased, claimed, meta.fence,
    CASE WHEN :skipping
        THEN coalesce((SELECT account FROM routes WHERE routes.id = queues.route), '') END
FROM queues, meta
WHERE due <= :now ORDER BY due

-- name: count_crashes
UPDATE deliveries SET crashes = crashes + 1 WHERE route = ? AND id IN ({})

-- name: take
SELECT id, digest, received_at, attempts, progress, trace, crashes, body FROM deliveries
WHERE route = ? AND due <= ? AND candidate IS NULL ORDER BY due, id LIMIT ?

-- name: take_more
SELECT id, digest, received_at, attempts, progress, trace, crashes, body FROM deliveries
WHERE route = ? AND due <= ? AND candidate IS NULL
    AND instr(',' || ? || ',', ',' || id || ',') = 0
ORDER BY due, id LIMIT ?

-- name: lease
UPDATE queues SET due = ?, leased = 1, fence = ?, claimed = ? WHERE route = ?

-- name: renew
UPDATE queues SET due = ? WHERE route = ? AND fence = ? AND leased

-- name: get_claimed
SELECT claimed FROM queues WHERE route = ? AND fence = ? AND leased

-- name: has_writes
SELECT EXISTS (SELECT 1 FROM writes WHERE number > 0)

-- name: set_claimed
UPDATE queues SET claimed = ? WHERE route = ?

-- name: find_deliveries
SELECT id FROM deliveries WHERE route = ? AND id IN ({})

-- Settling

-- name: remove
DELETE FROM deliveries WHERE route = ? AND id IN ({})

-- name: keep
UPDATE deliveries
SET due = coalesce(?, due), attempts = ?, progress = ?, crashes = min(crashes, 1)
WHERE id = ? AND route = ?

-- name: try_again
INSERT INTO deliveries (route, digest, received_at, due, attempts, progress, trace, body) VALUES {}

-- name: remember
INSERT INTO remembered (scope, at, events) VALUES (?, ?, ?)

-- name: find_remembered
SELECT events FROM remembered
WHERE scope = ? AND at BETWEEN ? AND ? AND typeof(events) = 'blob' ORDER BY at, id

-- name: end_claim
UPDATE queues SET leased = 0, claimed = NULL, due = (
    SELECT min(due) FROM deliveries WHERE deliveries.route = queues.route AND candidate IS NULL
)
WHERE route = ?

-- A queue that cannot be read is made again of what waits.
-- name: drop_queue
DELETE FROM queues WHERE route IN (?, CAST(? AS TEXT))

-- name: list_unreadable
SELECT id, received_at, body FROM deliveries WHERE route IN (?, CAST(? AS TEXT))

-- name: drop_delivery
DELETE FROM deliveries WHERE id = ?

-- name: offer_again
INSERT INTO queues (route, due)
SELECT route, min(due) FROM deliveries WHERE candidate IS NULL GROUP BY route
ON CONFLICT (route) DO UPDATE SET due = excluded.due WHERE queues.due IS NULL

-- name: count
SELECT (SELECT count(*) FROM deliveries WHERE candidate IS NOT NULL),
    (SELECT count(*) FROM dead_letters), (
    SELECT min((
        SELECT received_at FROM deliveries
        WHERE deliveries.route = queues.route AND candidate IS NULL ORDER BY due, id LIMIT 1
    )) FROM queues WHERE due IS NOT NULL
)

-- Dead letters

-- name: bury
INSERT INTO dead_letters (route, reason, received_at, buried_at, progress, body)
VALUES (?, ?, ?, ?, ?, ?)

-- name: list_dead_letters
SELECT id, route, reason, received_at, buried_at, progress, body FROM dead_letters
WHERE id > ? ORDER BY id LIMIT ?

-- name: get_dead_letter
SELECT id, route, reason, received_at, buried_at, progress, body FROM dead_letters WHERE id = ?

-- name: replay
INSERT INTO deliveries (route, digest, received_at, progress, due, body)
SELECT route, zeroblob(32), received_at, progress, ?, body FROM dead_letters WHERE id = ?

-- name: drop_dead_letter
DELETE FROM dead_letters WHERE id = ?

-- Continuity

-- name: get_state
SELECT scope, version, text FROM states WHERE scope = ?

-- name: list_states
SELECT scope, version, text FROM states ORDER BY scope

-- The character that follows a slash is 0.
-- name: list_states_in
SELECT scope, version, text FROM states
WHERE scope >= :account || '/' AND scope < :account || '0' ORDER BY scope

-- name: make_state
INSERT INTO states (text, scope, version) VALUES (?, ?, ? + 1) ON CONFLICT DO NOTHING

-- name: change_state
UPDATE states SET text = ?, version = version + 1 WHERE scope = ? AND version = ?

-- name: drop_state
DELETE FROM states WHERE scope = ? AND version = ?

-- name: set_state_version
UPDATE states SET version = ? WHERE scope = ?

-- Writes

-- name: drop_old_write
DELETE FROM writes WHERE id = ? AND abs(? - at) > ?

-- name: put_write
INSERT INTO writes (id, account, at, resources, text)
VALUES (:id, :account, :at, :resources, :text)
ON CONFLICT (id) DO UPDATE SET account = :account, resources = :resources, text = :text

-- name: get_write
SELECT number FROM writes WHERE id = ? AND abs(? - at) <= ?

-- name: drop_written
DELETE FROM written WHERE write = ?

-- name: add_written
INSERT OR IGNORE INTO written (resource, write) VALUES {}

-- name: find_written
SELECT write FROM written WHERE resource IN ({})

-- name: list_writes
SELECT number, id, account, resources, text FROM writes
WHERE abs(? - at) <= ? AND number IN ({})

-- name: add_caused
INSERT OR IGNORE INTO caused (write, part, key) VALUES (?, ?, ?)

-- name: get_caused
SELECT key FROM caused WHERE write = ? AND part = ?

-- An account

-- Whether it has a webhook, or one that is being made, or deliveries wait for one that it had.
-- name: is_in_use
SELECT EXISTS (
    SELECT 1 FROM routes WHERE account = :account AND (
        (state <> 'retired' AND (expires IS NULL OR expires > :now)) OR EXISTS (
            SELECT 1 FROM deliveries WHERE deliveries.route = routes.id AND candidate IS NULL
        )
    )
)

-- name: drop_routes_of
DELETE FROM routes WHERE account = :account

-- name: drop_dead_letters_of
DELETE FROM dead_letters WHERE route IN (SELECT id FROM routes WHERE account = :account)

-- name: drop_writes_of
DELETE FROM writes WHERE account = :account

-- name: drop_states_of
DELETE FROM states WHERE scope >= :account || '/' AND scope < :account || '0'

-- name: drop_remembered_of
DELETE FROM remembered WHERE scope >= :account || '/' AND scope < :account || '0'

-- Ids are sorted, not bodies: LIMIT keeps the inner query apart.
-- name: peek
SELECT deliveries.id, digest, received_at, attempts, progress, trace, crashes, body FROM (
    SELECT id FROM deliveries WHERE route = ? AND candidate IS NULL AND id > ? ORDER BY id LIMIT -1
) AS waiting CROSS JOIN deliveries ON deliveries.id = waiting.id
