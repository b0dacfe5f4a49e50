-- The functions of the PostgreSQL store. Each call of the store is a call of one of them, and so
-- one statement, one round trip and one transaction.
--
-- A row of ``queues`` stands for a route with something to claim; its ``due`` is when that is, or
-- when the lease ends. To claim is one look into the index of that column, however many deliveries
-- wait and however many routes are leased.
--
-- Who makes a delivery claimable locks the row of its queue, before the commit; who frees a queue
-- locks it before looking for what waits. So none of them misses what the other does. Rows are
-- locked in this order, each kind by its key: states, routes, seen, deliveries, queues. The functions rely
-- on each of their statements seeing what was committed before it: on "read committed".
--
-- ``schema.`` stands for the name that the user chose. A mark is a fingerprint, a seal a
-- ciphertext.

CREATE OR REPLACE FUNCTION schema.clock() RETURNS timestamptz LANGUAGE sql
AS 'SELECT clock_timestamp()';

-- Times that Python has: what somebody else wrote may be beyond.
CREATE OR REPLACE FUNCTION schema.bounded(_at timestamptz)
RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN _at IS NOT NULL THEN least(greatest(_at, '0001-01-02Z'), '9999-12-30Z') END
$$;

CREATE OR REPLACE FUNCTION schema.has_waiting(_route text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM schema.deliveries WHERE route = _route AND candidate IS NULL)
$$;

CREATE OR REPLACE FUNCTION schema.is_needed(_route text, _state text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT _state = 'retired' AND (schema.has_waiting(_route)
        OR EXISTS (SELECT FROM schema.dead_letters WHERE route = _route))
$$;

-- Each candidate is a pair of its mark and its seal.
CREATE OR REPLACE VIEW schema.live_routes AS
SELECT id, target, resource, account, user_gid AS "user", filters, state, gid,
    schema.bounded(created_at) AS created_at, schema.bounded(confirmed_at) AS confirmed_at,
    schema.bounded(heartbeat_at) AS heartbeat_at, leaving, retired_as, number, secret, seal,
    ARRAY(
        SELECT ARRAY[c.secret, c.seal] FROM schema.candidates c WHERE c.route = r.id ORDER BY c.id
    ) AS candidates
FROM schema.routes r
WHERE expires IS NULL OR expires > schema.clock() OR schema.is_needed(id, state);

CREATE OR REPLACE FUNCTION schema.purge() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    gone text[];
BEGIN
    WITH lapsed AS (
        SELECT id FROM schema.routes
        WHERE expires <= (SELECT schema.clock()) AND NOT schema.is_needed(id, state)
        FOR UPDATE SKIP LOCKED
    ), deleted AS (
        DELETE FROM schema.routes WHERE id IN (SELECT id FROM lapsed) RETURNING id
    )
    SELECT array_agg(id) INTO gone FROM deleted;
    IF gone IS NOT NULL THEN
        PERFORM schema.forget_queues(gone);
    END IF;
END $$;

-- What still waits of a route that is not known is of the account without a name.
CREATE OR REPLACE FUNCTION schema.forget_queues(_routes text[]) RETURNS void LANGUAGE sql AS $$
    DELETE FROM schema.queues WHERE route = ANY (_routes) AND due IS NULL;
    UPDATE schema.queues SET account = '' WHERE route = ANY (_routes) AND account <> ''
$$;

-- By the clock of the server: that of a receiver may be wrong.
CREATE OR REPLACE FUNCTION schema.forget(_known_for interval, _most integer)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM schema.seen WHERE digest IN (
        SELECT digest FROM schema.seen WHERE at < (SELECT schema.clock() - _known_for)
        ORDER BY at LIMIT _most FOR UPDATE SKIP LOCKED
    );
    DELETE FROM schema.events WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM schema.events WHERE at < (SELECT schema.clock() - _known_for)
        ORDER BY at LIMIT _most FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM schema.writes WHERE number IN (
        SELECT number FROM schema.writes WHERE expires <= (SELECT schema.clock())
        ORDER BY expires LIMIT _most FOR UPDATE SKIP LOCKED
    );
$$;

CREATE OR REPLACE FUNCTION schema.own(
    _public_url text, _holder text, _ttl double precision, _known_for interval
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz;
    other text;
BEGIN
    PERFORM schema.purge();
    PERFORM schema.forget(_known_for, 10000);
    PERFORM pg_advisory_xact_lock(hashtextextended('schema.owners', 0));
    moment := schema.clock();
    DELETE FROM schema.owners WHERE expires <= moment;
    SELECT public_url INTO other FROM schema.owners
    WHERE public_url <> _public_url AND holder <> _holder ORDER BY expires DESC LIMIT 1;
    IF NOT FOUND THEN
        INSERT INTO schema.owners AS o (holder, public_url, expires)
        VALUES (_holder, _public_url, moment + make_interval(secs => _ttl))
        ON CONFLICT (holder) DO UPDATE
        SET public_url = excluded.public_url, expires = excluded.expires;
    END IF;
    RETURN other;
END $$;

CREATE OR REPLACE FUNCTION schema.disown(_holder text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM schema.owners WHERE holder = _holder OR expires <= schema.clock();
    DELETE FROM schema.holders WHERE holder = _holder OR expires <= schema.clock()
$$;

CREATE OR REPLACE FUNCTION schema.hold(
    _name text, _holder text, _ttl double precision, _most integer
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz;
    others integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(concat('schema.holders ', _name), 0));
    moment := schema.clock();
    DELETE FROM schema.holders WHERE name = _name AND expires <= moment;
    SELECT count(*) INTO others FROM schema.holders WHERE name = _name AND holder <> _holder;
    IF others >= _most THEN
        DELETE FROM schema.holders WHERE name = _name AND holder = _holder;
        RETURN 0;
    END IF;
    INSERT INTO schema.holders AS h (name, holder, expires)
    VALUES (_name, _holder, moment + make_interval(secs => _ttl))
    ON CONFLICT (name, holder) DO UPDATE SET expires = greatest(h.expires, excluded.expires);
    RETURN others + 1;
END $$;

CREATE OR REPLACE FUNCTION schema.reserve(
    _id text, _target text, _place text, _resource text, _account text, _user text, _filters text,
    _created_at timestamptz, _heartbeat_at timestamptz, _ttl double precision, _sole boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM schema.purge();
    IF _sole THEN
        PERFORM pg_advisory_xact_lock(
            hashtextextended(concat_ws(' ', _place, _resource, _account), 0)
        );
        IF EXISTS (
            SELECT FROM schema.live_routes l JOIN schema.routes r USING (id)
            WHERE r.resource = _resource AND r.account = _account AND place = _place
                AND r.state <> 'retired' AND NOT r.leaving
        ) THEN
            RETURN false;
        END IF;
    END IF;
    INSERT INTO schema.routes
        (id, target, place, resource, account, user_gid, filters, created_at, heartbeat_at, expires)
    VALUES (_id, _target, _place, _resource, _account, _user, _filters, _created_at, _heartbeat_at,
        schema.clock() + make_interval(secs => _ttl))
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE schema.queues SET account = _account WHERE route = _id AND account <> _account;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION schema.find_routes(_routes text[])
RETURNS SETOF schema.live_routes LANGUAGE sql STABLE AS $$
    SELECT * FROM schema.live_routes WHERE id = ANY (_routes)
$$;

CREATE OR REPLACE FUNCTION schema.list_routes(_resource text, _account text)
RETURNS SETOF schema.live_routes LANGUAGE sql STABLE AS $$
    SELECT * FROM schema.live_routes
    WHERE state <> 'retired' AND (_resource IS NULL OR resource = _resource)
        AND (_account IS NULL OR account = _account)
    ORDER BY created_at, number
$$;

CREATE OR REPLACE FUNCTION schema.add_candidate(
    _route text, _mark text, _seal text, _most integer
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    known record;
BEGIN
    PERFORM FROM schema.routes WHERE id = _route FOR UPDATE;
    SELECT state, secret INTO known FROM schema.live_routes WHERE id = _route;
    IF known.state IS DISTINCT FROM 'reserved' THEN
        RETURN coalesce(known.secret = _mark, false);
    END IF;
    IF EXISTS (SELECT FROM schema.candidates WHERE route = _route AND secret = _mark) THEN
        RETURN true;
    END IF;
    INSERT INTO schema.candidates (route, secret, seal) SELECT _route, _mark, _seal
    WHERE (SELECT count(*) FROM schema.candidates WHERE route = _route) < _most;
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION schema.confirm_candidate(
    _route text, _gid text, _mark text, _confirmed_at timestamptz, _leaving text[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
    chosen schema.candidates;
BEGIN
    PERFORM FROM schema.routes WHERE id = _route OR id = ANY (_leaving) ORDER BY id FOR UPDATE;
    SELECT c.* INTO chosen FROM schema.live_routes r JOIN schema.candidates c ON c.route = r.id
    WHERE r.id = _route AND c.secret = _mark;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE schema.routes SET leaving = true WHERE id = ANY (_leaving) AND state = 'confirmed';
    UPDATE schema.routes
    SET state = 'confirmed', gid = _gid, secret = chosen.secret, seal = chosen.seal,
        confirmed_at = _confirmed_at, expires = NULL
    WHERE id = _route;
    UPDATE schema.deliveries SET candidate = NULL, due = moment WHERE candidate = chosen.id;
    IF FOUND THEN
        PERFORM schema.offer(ARRAY[_route], moment);
    END IF;
    DELETE FROM schema.candidates WHERE route = _route;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION schema.set_user(_route text, _user text)
RETURNS void LANGUAGE sql AS $$
    UPDATE schema.routes SET user_gid = _user WHERE id = _route
$$;

CREATE OR REPLACE FUNCTION schema.leave(_route text) RETURNS boolean LANGUAGE sql AS $$
    UPDATE schema.routes SET leaving = true
    WHERE id = _route AND state = 'confirmed' RETURNING true
$$;

CREATE OR REPLACE FUNCTION schema.set_filters(_route text, _filters text)
RETURNS void LANGUAGE sql AS $$
    UPDATE schema.routes SET filters = _filters WHERE id = _route
$$;

CREATE OR REPLACE FUNCTION schema.set_heartbeat(_route text, _at timestamptz)
RETURNS void LANGUAGE sql AS $$
    UPDATE schema.routes SET heartbeat_at = _at WHERE id = _route
$$;

CREATE OR REPLACE FUNCTION schema.retire(_route text, _retired_as text, _known_for interval)
RETURNS boolean LANGUAGE sql AS $$
    UPDATE schema.routes
    SET state = 'retired', retired_as = _retired_as, secret = NULL, seal = NULL,
        expires = schema.clock() + _known_for
    WHERE id = _route AND state = 'confirmed' RETURNING true
$$;

CREATE OR REPLACE FUNCTION schema.drop_route(_route text)
RETURNS SETOF schema.live_routes LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM schema.routes WHERE id = _route FOR UPDATE;
    RETURN QUERY SELECT * FROM schema.live_routes WHERE id = _route AND state = 'reserved';
    IF FOUND THEN
        DELETE FROM schema.routes WHERE id = _route;
        PERFORM schema.forget_queues(ARRAY[_route]);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION schema.list_candidates()
RETURNS TABLE (id bigint, route text, secret text, seal text, gid text, resource text)
LANGUAGE sql STABLE AS $$
    SELECT c.id, r.id, c.secret, c.seal, r.gid, r.resource
    FROM schema.candidates c JOIN schema.routes r ON r.id = c.route
$$;

CREATE OR REPLACE FUNCTION schema.list_confirmed()
RETURNS TABLE (id text, route text, secret text, seal text, gid text, resource text)
LANGUAGE sql STABLE AS $$
    SELECT r.id, r.id, r.secret, r.seal, r.gid, r.resource
    FROM schema.routes r WHERE r.secret IS NOT NULL
$$;

-- A candidate that is sealed anew may be there a second time: when a process without keys kept it,
-- and one with keys kept it again. What is held for the one is then held for the other.
CREATE OR REPLACE FUNCTION schema.reseal_candidate(
    _id bigint, _old_mark text, _old_seal text, _mark text, _seal text
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    twin bigint;
BEGIN
    PERFORM FROM schema.routes WHERE id = (SELECT route FROM schema.candidates WHERE id = _id)
    FOR UPDATE;
    SELECT t.id INTO twin FROM schema.candidates c JOIN schema.candidates t USING (route)
    WHERE c.id = _id AND t.id <> _id AND t.secret = _mark;
    IF FOUND THEN
        UPDATE schema.deliveries SET candidate = twin WHERE candidate = _id;
        DELETE FROM schema.candidates WHERE id = _id;
    ELSE
        UPDATE schema.candidates SET secret = _mark, seal = _seal
        WHERE id = _id AND secret = _old_mark AND seal IS NOT DISTINCT FROM _old_seal;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION schema.reseal_confirmed(
    _route text, _old_mark text, _old_seal text, _mark text, _seal text
) RETURNS void LANGUAGE sql AS $$
    UPDATE schema.routes SET secret = _mark, seal = _seal
    WHERE id = _route AND secret = _old_mark AND seal IS NOT DISTINCT FROM _old_seal
$$;

CREATE OR REPLACE FUNCTION schema.announce(_channel text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify(_channel, '')
$$;

CREATE OR REPLACE FUNCTION schema.offer(_routes text[], _due timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO schema.queues AS q (route, due, account)
    SELECT DISTINCT g.route COLLATE "C" AS route, _due, coalesce(r.account, '')
    FROM unnest(_routes) AS g (route) LEFT JOIN schema.routes r ON r.id = g.route ORDER BY route
    ON CONFLICT (route) DO UPDATE SET due = excluded.due
    WHERE NOT q.leased AND (q.due IS NULL OR q.due > excluded.due);
END $$;

-- Ids grow, so the first and the last tell how many deliveries there are at most: only when that is
-- too many are they counted.
CREATE OR REPLACE FUNCTION schema.find_room(_wanted integer, _most integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    room integer;
BEGIN
    SELECT greatest(_most - coalesce(max(id) - min(id) + 1, 0), 0) INTO room
    FROM schema.deliveries;
    IF room < _wanted THEN
        SELECT _most - count(*) INTO room FROM (
            SELECT FROM schema.deliveries WHERE candidate IS NULL LIMIT _most
        ) AS counted;
    END IF;
    RETURN room;
END $$;

CREATE OR REPLACE FUNCTION schema.find_oldest() RETURNS timestamptz LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN (
        SELECT min(first.received_at) FROM schema.queues q CROSS JOIN LATERAL (
            SELECT d.received_at FROM schema.deliveries d
            WHERE d.route = q.route AND d.candidate IS NULL ORDER BY d.due, d.id LIMIT 1
        ) AS first
        WHERE q.due IS NOT NULL
    );
END $$;

CREATE OR REPLACE FUNCTION schema.counts(
    OUT waiting integer, OUT dead_letters integer, OUT oldest_at timestamptz
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM schema.purge();
    waiting := (SELECT count(*) FROM schema.deliveries);
    dead_letters := (SELECT count(*) FROM schema.dead_letters);
    oldest_at := schema.find_oldest();
END $$;

-- Of equal digests the first that is admitted stands for all; "place" is where a delivery
-- stands in the batch. The routes of candidates are locked, so that none is confirmed or dropped
-- between the look at it and the commit: what is held for it then would be lost.
--
-- What is held for a candidate has a limit of its own, and takes no room until it is confirmed.
CREATE OR REPLACE FUNCTION schema.put_batch(
    _routes text[], _digests bytea[], _times timestamptz[], _candidates text[], _reasons text[],
    _traces text[], _bodies bytea[], _known_for interval, _forget integer, _held integer,
    _held_bytes integer, _most integer,
    INOUT room integer, OUT kept bigint[], OUT refused bytea[], OUT crowded bytea[]
) LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
    offered text[];
BEGIN
    IF room IS NULL THEN
        room := schema.find_room(cardinality(_routes), _most);
    END IF;
    IF cardinality(array_remove(_candidates, NULL)) > 0 THEN
        PERFORM FROM schema.routes WHERE id IN (
            SELECT g.route FROM unnest(_routes, _candidates) AS g (route, candidate)
            WHERE g.candidate IS NOT NULL
        ) ORDER BY id FOR NO KEY UPDATE;
    END IF;
    WITH admitted AS (
        SELECT DISTINCT ON (g.digest) g.*, c.id AS holder
        FROM unnest(_routes, _digests, _times, _candidates, _reasons, _traces, _bodies)
            WITH ORDINALITY AS g (route, digest, at, candidate, reason, trace, body, place)
        LEFT JOIN schema.routes r ON g.candidate IS NOT NULL AND r.id = g.route
        LEFT JOIN schema.candidates c ON c.route = g.route AND c.secret = g.candidate
        WHERE g.candidate IS NULL OR g.candidate = r.secret
            OR (c.id IS NOT NULL AND r.expires > moment)
        ORDER BY g.digest, g.place
    ), learnt AS (
        INSERT INTO schema.seen AS s (digest, at) SELECT digest, at FROM admitted ORDER BY digest
        ON CONFLICT (digest) DO UPDATE SET at = excluded.at
        WHERE excluded.at - s.at NOT BETWEEN - _known_for AND _known_for
        RETURNING digest
    ), fresh AS (
        SELECT a.*, CASE
            WHEN reason IS NOT NULL THEN true
            WHEN holder IS NULL THEN row_number() OVER line <= room
            ELSE held.number + row_number() OVER line <= _held
                AND held.bytes + sum(octet_length(body)) OVER line <= _held_bytes
        END AS taken
        FROM admitted a JOIN learnt USING (digest) LEFT JOIN LATERAL (
            SELECT count(*) AS number, coalesce(sum(octet_length(h.body)), 0) AS bytes
            FROM schema.deliveries h WHERE h.candidate = a.holder
        ) AS held ON a.holder IS NOT NULL
        WINDOW line AS (PARTITION BY reason IS NULL, holder ORDER BY place)
    ), inbox AS (
        INSERT INTO schema.deliveries (route, digest, received_at, due, candidate, trace, body)
        SELECT route, digest, at, moment, holder, trace, body FROM fresh
        WHERE taken AND reason IS NULL ORDER BY place
    ), letters AS (
        INSERT INTO schema.dead_letters (route, reason, received_at, buried_at, body)
        SELECT route, reason, at, clock_timestamp(), body FROM fresh
        WHERE reason IS NOT NULL ORDER BY place
    )
    SELECT array_agg(place) FILTER (WHERE taken),
        array_agg(digest) FILTER (WHERE NOT taken AND holder IS NULL),
        array_agg(digest) FILTER (WHERE NOT taken AND holder IS NOT NULL),
        array_agg(route) FILTER (WHERE taken AND reason IS NULL AND holder IS NULL)
    INTO kept, refused, crowded, offered FROM fresh;
    room := room - coalesce(cardinality(offered), 0);
    IF refused IS NOT NULL OR crowded IS NOT NULL THEN
        DELETE FROM schema.seen WHERE digest = ANY (refused) OR digest = ANY (crowded);
    END IF;
    IF offered IS NOT NULL THEN
        PERFORM schema.offer(offered, moment);
    END IF;
    IF _forget > 0 THEN
        PERFORM schema.forget(_known_for, _forget);
    END IF;
END $$;

-- Returns queues that are due, of all accounts but these: of the first so many that are due; when there
-- are only such to be passed by, the first few of each account. So the cost does not grow with the
-- queues of an account that is passed by.
CREATE OR REPLACE FUNCTION schema.find_turns(_moment timestamptz, _passed text[])
RETURNS TABLE (route text, due timestamptz) LANGUAGE plpgsql STABLE ROWS 8
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT f.route, f.due FROM (
        SELECT * FROM schema.queues q WHERE q.due <= _moment ORDER BY q.due LIMIT 64
    ) AS f WHERE f.account <> ALL (_passed);
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE accounts (account) AS (
        SELECT '' COLLATE "C"
        UNION ALL
        SELECT (
            SELECT q.account FROM schema.queues q
            WHERE q.account > a.account AND q.due IS NOT NULL
            ORDER BY q.account LIMIT 1
        ) FROM accounts a WHERE a.account IS NOT NULL
    )
    SELECT f.route, f.due FROM accounts a CROSS JOIN LATERAL (
        SELECT q.route, q.due FROM schema.queues q
        WHERE q.account = a.account AND q.due <= _moment
        ORDER BY q.due LIMIT 8
    ) AS f
    WHERE a.account <> ALL (_passed);
END $$;

-- Returns the queue that is due first of all, free or not.
CREATE OR REPLACE FUNCTION schema.find_turn(_moment timestamptz, _passed text[])
RETURNS text LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    IF _passed IS NULL THEN
        RETURN (SELECT route FROM schema.queues WHERE due <= _moment ORDER BY due LIMIT 1);
    END IF;
    RETURN (SELECT route FROM schema.find_turns(_moment, _passed) ORDER BY due LIMIT 1);
END $$;

CREATE OR REPLACE FUNCTION schema.free(_route text) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    UPDATE schema.queues SET leased = false, claimed = '{}', due = (
        SELECT min(due) FROM schema.deliveries WHERE route = _route AND candidate IS NULL
    ) WHERE route = _route;
END $$;

-- A claim passes by the queues that others are busy with. A patient one waits for the first that is
-- due, which may be put to without a pause, and does so before it locks any other: even a row that
-- turns out not to be due any more, and is not returned, stays locked, and who puts may wait for
-- it.
--
-- A queue that is leased and due again belonged to a claim that ended without a word. What that
-- claim still held may have ended its process, so each of it is claimed alone: it weighs more than
-- a claim may hold, and only the first may.
--
-- A fence is not below the clock's microseconds, so that a standby which takes over, and had not
-- got the last ones, gives none of them again.
--
-- The accounts that are passed by are NULL when there are none. Returns a row of NULLs when there are
-- queues that are due, and all of them in use.
CREATE OR REPLACE FUNCTION schema.claim_next(
    _limit integer, _bytes bigint, _lease double precision, _passed text[]
) RETURNS TABLE (
    route text, fence bigint, previous bigint, has_writes boolean, id bigint, digest bytea,
    received_at timestamptz, attempts integer, progress text, crashes integer, trace text, body bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    moment timestamptz := schema.clock();
    queue schema.queues;
    next_fence bigint;
    taken bigint;
BEGIN
    LOOP
        IF _passed IS NULL THEN
            SELECT * INTO queue FROM schema.queues q WHERE q.due <= moment ORDER BY q.due LIMIT 1
            FOR UPDATE SKIP LOCKED;
        ELSE
            SELECT q.* INTO queue FROM schema.find_turns(moment, _passed) t
            JOIN schema.queues q ON q.route = t.route
            WHERE q.due <= moment ORDER BY t.due LIMIT 1 FOR UPDATE OF q SKIP LOCKED;
        END IF;
        IF NOT FOUND THEN
            IF schema.find_turn(moment, _passed) IS NOT NULL THEN
                RETURN NEXT;
            END IF;
            EXIT;
        END IF;
        IF queue.leased THEN
            UPDATE schema.deliveries d SET crashes = d.crashes + 1
            WHERE d.id = ANY (queue.claimed) AND d.route = queue.route;
        END IF;
        has_writes := EXISTS (
            SELECT FROM schema.writes w WHERE w.expires > moment
        );
        next_fence := greatest(queue.fence + 1, extract(epoch FROM moment) * 1000000);
        RETURN QUERY
        SELECT d.route, next_fence, queue.fence, has_writes, d.id, d.digest,
            schema.bounded(d.received_at), d.attempts, d.progress, d.crashes, d.trace, d.body
        FROM (
            SELECT due.*, sum(due.weight) OVER (ORDER BY due.due, due.id) AS so_far
            FROM (
                SELECT *, CASE WHEN w.crashes > 0 THEN _bytes + 1
                    ELSE greatest(octet_length(w.body), 1) END AS weight
                FROM schema.deliveries w
                WHERE w.route = queue.route AND w.candidate IS NULL AND w.due <= moment
                ORDER BY w.due, w.id LIMIT _limit
            ) AS due
        ) AS d
        WHERE d.so_far = d.weight OR d.so_far <= _bytes ORDER BY d.due, d.id;
        GET DIAGNOSTICS taken = ROW_COUNT;
        IF taken > 0 THEN
            UPDATE schema.queues q SET leased = true, fence = next_fence,
                due = schema.clock() + make_interval(secs => _lease), claimed = ARRAY(
                    SELECT w.id FROM schema.deliveries w
                    WHERE w.route = queue.route AND w.candidate IS NULL AND w.due <= moment
                    ORDER BY w.due, w.id LIMIT taken
                )
            WHERE q.route = queue.route;
            EXIT;
        END IF;
        PERFORM schema.free(queue.route);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION schema.claim_next_patiently(
    _limit integer, _bytes bigint, _lease double precision, _passed text[]
) RETURNS TABLE (
    route text, fence bigint, previous bigint, has_writes boolean, id bigint, digest bytea,
    received_at timestamptz, attempts integer, progress text, crashes integer, trace text, body bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    PERFORM FROM schema.queues q WHERE q.route = (
        SELECT schema.find_turn(schema.clock(), _passed)
    ) FOR UPDATE;
    RETURN QUERY SELECT * FROM schema.claim_next(_limit, _bytes, _lease, _passed);
END $$;

-- No row when the lease is lost, one without a delivery when nothing more is due. What has crashed weighs too
-- much here even as the first. Only those of the ids that stand for something stay in the row.
CREATE OR REPLACE FUNCTION schema.claim_more(
    _route text, _fence bigint, _limit integer, _bytes bigint
) RETURNS TABLE (
    has_writes boolean, id bigint, digest bytea, received_at timestamptz, attempts integer,
    progress text, crashes integer, trace text, body bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    moment timestamptz := schema.clock();
    held bigint[];
    taken bigint[];
BEGIN
    SELECT q.claimed, EXISTS (
        SELECT FROM schema.writes w WHERE w.expires > moment
    ) INTO held, has_writes
    FROM schema.queues q WHERE q.route = _route AND q.fence = _fence AND q.leased FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT array_agg(d.id) INTO taken FROM (
        SELECT due.*, sum(due.weight) OVER (ORDER BY due.due, due.id) AS so_far
        FROM (
            SELECT w.id, w.due, w.crashes, CASE WHEN w.crashes > 0 THEN _bytes + 1
                ELSE greatest(octet_length(w.body), 1) END AS weight
            FROM schema.deliveries w
            WHERE w.route = _route AND w.candidate IS NULL AND w.due <= moment
                AND w.id NOT IN (SELECT unnest(held))
            ORDER BY w.due, w.id LIMIT _limit
        ) AS due
    ) AS d
    WHERE d.so_far <= _bytes OR (d.so_far = d.weight AND d.crashes = 0);
    IF taken IS NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;
    UPDATE schema.queues q SET claimed = taken || ARRAY(
        SELECT d.id FROM schema.deliveries d WHERE d.id = ANY (held)
    ) WHERE q.route = _route;
    RETURN QUERY
    SELECT has_writes, d.id, d.digest, schema.bounded(d.received_at), d.attempts, d.progress,
        d.crashes, d.trace, d.body
    FROM schema.deliveries d WHERE d.id = ANY (taken) ORDER BY d.due, d.id;
END $$;

-- Called when the server cannot read what a claim takes. Makes a dead letter of each delivery that
-- is damaged among those next in line, and returns how many; if not even that can be, it sets their
-- queue aside until something is put to it, and returns 0. NULL when nothing is damaged.
CREATE OR REPLACE FUNCTION schema.bury_unreadable(_limit integer, _passed text[])
RETURNS integer LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    moment timestamptz := schema.clock();
    queue schema.queues;
    number bigint;
    buried integer;
BEGIN
    SELECT * INTO queue FROM schema.queues WHERE route = schema.find_turn(moment, _passed) FOR UPDATE;
    FOR number IN
        SELECT id FROM schema.deliveries
        WHERE route = queue.route AND candidate IS NULL AND due <= moment
        ORDER BY due, id LIMIT _limit
    LOOP
        BEGIN
            PERFORM hashtext(d::text) FROM schema.deliveries d WHERE id = number;
        EXCEPTION WHEN data_corrupted OR internal_error OR data_exception THEN
            DELETE FROM schema.deliveries WHERE id = number;
            INSERT INTO schema.dead_letters (route, reason, received_at, buried_at, body)
            VALUES (queue.route, format('delivery %s was damaged at the server (SQLSTATE %s); its'
                ' body is lost', number, SQLSTATE), moment, clock_timestamp(), '');
            buried := coalesce(buried, 0) + 1;
        END;
    END LOOP;
    RETURN buried;
EXCEPTION WHEN data_corrupted OR internal_error OR data_exception THEN
    UPDATE schema.queues SET due = NULL, leased = false, claimed = '{}' WHERE route = queue.route;
    RETURN 0;
END $$;

CREATE OR REPLACE FUNCTION schema.renew(_route text, _fence bigint, _lease double precision)
RETURNS boolean LANGUAGE sql AS $$
    UPDATE schema.queues SET due = schema.clock() + make_interval(secs => _lease)
    WHERE route = _route AND fence = _fence AND leased RETURNING true
$$;

-- What stays claimed has no delay, what is new has no id. Returns the ids of those that are no longer
-- claimed.
CREATE OR REPLACE FUNCTION schema.change(
    _route text, _held bigint[], _ids bigint[], _delays double precision[], _attempts integer[],
    _progress text[], _received timestamptz[], _traces text[], _bodies bytea[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
    left_behind bigint[];
BEGIN
    WITH given AS (
        SELECT g.*, moment + make_interval(secs => g.delay) AS due
        FROM unnest(_ids, _delays, _attempts, _progress, _received, _traces, _bodies)
            WITH ORDINALITY AS g (id, delay, attempts, progress, received_at, trace, body, place)
    ), kept AS (
        UPDATE schema.deliveries d
        SET attempts = g.attempts, progress = g.progress, crashes = least(d.crashes, 1),
            due = CASE WHEN g.delay > 0 THEN g.due ELSE d.due END
        FROM given g WHERE d.id = g.id AND d.id = ANY (_held) AND d.route = _route
    ), added AS (
        INSERT INTO schema.deliveries
            (route, digest, received_at, attempts, progress, due, trace, body)
        SELECT _route, decode(repeat('00', 32), 'hex'), received_at, attempts, progress, due, trace,
            body
        FROM given WHERE id IS NULL ORDER BY place
    )
    SELECT array_agg(id) INTO left_behind FROM given WHERE delay IS NOT NULL AND id IS NOT NULL;
    RETURN left_behind;
END $$;

CREATE OR REPLACE FUNCTION schema.bury(
    _routes text[], _reasons text[], _received timestamptz[], _buried timestamptz[],
    _progress text[], _bodies bytea[]
) RETURNS bigint[] LANGUAGE sql AS $$
    WITH buried AS (
        INSERT INTO schema.dead_letters (route, reason, received_at, buried_at, progress, body)
        SELECT route, reason, received_at, buried_at, progress, body
        FROM unnest(_routes, _reasons, _received, _buried, _progress, _bodies)
            WITH ORDINALITY AS l (route, reason, received_at, buried_at, progress, body, place)
        ORDER BY place
        RETURNING id
    )
    SELECT array_agg(id ORDER BY id) FROM buried
$$;

-- The parameters from _ids to _bodies are those of "change", the six behind them those of "bury";
-- each of a group is NULL when there is none. Returns the ids of the letters, NULL when the lease is lost.
-- Now and then it forgets twice as much as was remembered since.
CREATE OR REPLACE FUNCTION schema.settle(
    _route text, _fence bigint, _is_last boolean, _removed bigint[],
    _ids bigint[], _delays double precision[], _attempts integer[], _progress text[],
    _received timestamptz[], _traces text[], _bodies bytea[],
    _letter_routes text[], _reasons text[], _letters_received timestamptz[], _buried timestamptz[],
    _letters_progress text[], _letters_bodies bytea[],
    _scope text, _events bytea, _known_for interval
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    held bigint[];
    left_behind bigint[];
    letters bigint[] := '{}';
    number bigint;
BEGIN
    SELECT claimed INTO held FROM schema.queues
    WHERE route = _route AND fence = _fence AND leased FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM schema.deliveries WHERE id = ANY (_removed) AND id = ANY (held) AND route = _route;
    IF _ids IS NOT NULL THEN
        left_behind := schema.change(_route, held, _ids, _delays, _attempts, _progress, _received,
            _traces, _bodies);
    END IF;
    IF _letter_routes IS NOT NULL THEN
        letters := schema.bury(_letter_routes, _reasons, _letters_received, _buried,
            _letters_progress, _letters_bodies);
    END IF;
    IF _events <> '' THEN
        INSERT INTO schema.events (scope, at, packed) VALUES (_scope, schema.clock(), _events)
        RETURNING id INTO number;
        IF number % 256 = 0 THEN
            PERFORM schema.forget(_known_for, 512);
        END IF;
    END IF;
    IF _is_last THEN
        PERFORM schema.free(_route);
    ELSIF left_behind IS NOT NULL THEN
        UPDATE schema.queues
        SET claimed = ARRAY(SELECT id FROM unnest(held) AS id WHERE id <> ALL (left_behind))
        WHERE route = _route;
    END IF;
    RETURN letters;
END $$;

CREATE OR REPLACE FUNCTION schema.is_whole(_value bytea) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN _value || ''::bytea IS NOT NULL;
EXCEPTION WHEN data_corrupted OR internal_error THEN
    RETURN false;
END $$;

-- What is damaged is left out, and counted. To look at each is slow, so it is done only then.
CREATE OR REPLACE FUNCTION schema.list_events(
    _scope text, _known_for interval, OUT packed bytea, OUT damaged integer
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    since timestamptz := schema.clock() - _known_for;
BEGIN
    damaged := 0;
    packed := (
        SELECT string_agg(e.packed, '' ORDER BY e.at, e.id)
        FROM schema.events e WHERE e.scope = _scope AND e.at >= since
    );
EXCEPTION WHEN data_corrupted OR internal_error THEN
    SELECT string_agg(e.packed, '' ORDER BY e.at, e.id) FILTER (WHERE e.is_whole),
        count(*) FILTER (WHERE NOT e.is_whole)
    INTO packed, damaged FROM (
        SELECT *, schema.is_whole(i.packed) FROM schema.events i
        WHERE i.scope = _scope AND i.at >= since OFFSET 0
    ) AS e;
END $$;

-- A dead letter whose body is damaged is shown without it: it hinders no other, and can be
-- discarded.
CREATE OR REPLACE FUNCTION schema.read_letter(_letter schema.dead_letters)
RETURNS schema.dead_letters LANGUAGE plpgsql STABLE AS $$
BEGIN
    _letter.received_at := schema.bounded(_letter.received_at);
    _letter.buried_at := schema.bounded(_letter.buried_at);
    BEGIN
        _letter.body := _letter.body || ''::bytea;
    EXCEPTION WHEN data_corrupted OR internal_error THEN
        _letter.reason := format('its body was damaged at the server (SQLSTATE %s) and is lost; %s',
            SQLSTATE, _letter.reason);
        _letter.body := '';
    END;
    RETURN _letter;
END $$;

CREATE OR REPLACE FUNCTION schema.list_letters(_after bigint, _limit integer, _bytes bigint)
RETURNS SETOF schema.dead_letters LANGUAGE plpgsql STABLE AS $$
DECLARE
    letter schema.dead_letters;
    bytes bigint := 0;
BEGIN
    FOR letter IN
        SELECT * FROM schema.dead_letters WHERE id > _after ORDER BY id LIMIT _limit
    LOOP
        bytes := bytes + octet_length(letter.body);
        EXIT WHEN bytes > _bytes AND bytes > octet_length(letter.body);
        RETURN NEXT schema.read_letter(letter);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION schema.find_letter(_id bigint)
RETURNS SETOF schema.dead_letters LANGUAGE sql STABLE AS $$
    SELECT * FROM schema.list_letters(_id - 1, 1, 0) WHERE id = _id
$$;

CREATE OR REPLACE FUNCTION schema.discard(_ids bigint[]) RETURNS integer LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM schema.dead_letters WHERE id = ANY (_ids) RETURNING id)
    SELECT count(*)::integer FROM gone
$$;

CREATE OR REPLACE FUNCTION schema.replay(_ids bigint[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
    offered text[];
BEGIN
    WITH gone AS (
        DELETE FROM schema.dead_letters WHERE id = ANY (_ids) RETURNING *
    ), back AS (
        INSERT INTO schema.deliveries (route, digest, received_at, progress, due, body)
        SELECT route, decode(repeat('00', 32), 'hex'), received_at, progress, moment, body
        FROM gone JOIN unnest(_ids) WITH ORDINALITY AS i (id, place) USING (id) ORDER BY place
        RETURNING route
    )
    SELECT coalesce(array_agg(route), '{}') INTO offered FROM back;
    PERFORM schema.offer(offered, moment);
    RETURN cardinality(offered);
END $$;

-- Returns NULL for a text that is damaged. To convert it is to look at each of its characters.
CREATE OR REPLACE FUNCTION schema.read_text(_text text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM convert_to(_text, 'UTF8');
    RETURN _text;
EXCEPTION WHEN data_corrupted OR internal_error OR data_exception THEN
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION schema.put_write(
    _id text, _account text, _resources text[], _text text, _known_for interval
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
BEGIN
    DELETE FROM schema.writes WHERE id = _id AND expires <= moment;
    INSERT INTO schema.writes (id, account, expires, resources, text)
    VALUES (_id, _account, moment + _known_for, _resources, _text)
    ON CONFLICT (id) DO UPDATE
    SET account = excluded.account, resources = excluded.resources, text = excluded.text;
END $$;

CREATE OR REPLACE FUNCTION schema.list_writes(_resources text[])
RETURNS TABLE (id text, account text, resources text[], text text) LANGUAGE sql STABLE AS $$
    SELECT w.id, w.account, w.resources, schema.read_text(w.text) FROM schema.writes w
    WHERE w.resources && _resources AND w.expires > schema.clock()
    ORDER BY w.number
$$;

CREATE OR REPLACE FUNCTION schema.take_write(_id text, _part text, _key bytea)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    known bigint;
BEGIN
    SELECT number INTO known FROM schema.writes WHERE id = _id AND expires > schema.clock() FOR SHARE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO schema.caused (write, part, key) VALUES (known, _part, _key) ON CONFLICT DO NOTHING;
    RETURN (SELECT key = _key FROM schema.caused WHERE write = known AND part = _part);
END $$;

-- '0' is the letter behind '/': so the scopes of an account stand together.
CREATE OR REPLACE FUNCTION schema.forget_account(_account text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    gone text[];
BEGIN
    PERFORM schema.purge();
    PERFORM FROM schema.states
    WHERE scope >= concat(_account, '/') AND scope < concat(_account, '0')
    ORDER BY scope FOR UPDATE;
    PERFORM FROM schema.routes WHERE account = _account ORDER BY id FOR UPDATE;
    IF EXISTS (
        SELECT FROM schema.routes
        WHERE account = _account AND (state <> 'retired' OR schema.has_waiting(id))
    ) THEN
        RETURN false;
    END IF;
    SELECT array_agg(id) INTO gone FROM schema.routes WHERE account = _account;
    DELETE FROM schema.dead_letters WHERE route = ANY (gone);
    DELETE FROM schema.routes WHERE id = ANY (gone);
    PERFORM schema.forget_queues(gone);
    DELETE FROM schema.states
    WHERE scope >= concat(_account, '/') AND scope < concat(_account, '0');
    DELETE FROM schema.events
    WHERE scope >= concat(_account, '/') AND scope < concat(_account, '0');
    DELETE FROM schema.writes WHERE account = _account;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION schema.find_state(_scope text)
RETURNS TABLE (scope text, version bigint, text text) LANGUAGE sql STABLE AS $$
    SELECT s.scope, s.version, schema.read_text(s.text) FROM schema.states s WHERE s.scope = _scope
$$;

CREATE OR REPLACE FUNCTION schema.list_states(_account text)
RETURNS TABLE (scope text, version bigint, text text) LANGUAGE sql STABLE AS $$
    SELECT s.scope, s.version, schema.read_text(s.text) FROM schema.states s
    WHERE _account IS NULL OR (s.scope >= concat(_account, '/') AND s.scope < concat(_account, '0'))
    ORDER BY s.scope COLLATE "C"
$$;

-- The parameters from _routes on are of the deliveries; each is NULL when there is none.
CREATE OR REPLACE FUNCTION schema.put_state(
    _scope text, _version bigint, _text text, _routes text[], _received timestamptz[],
    _attempts integer[], _progress text[], _traces text[], _bodies bytea[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz;
BEGIN
    IF _version = 0 THEN
        INSERT INTO schema.states (scope, version, text) VALUES (_scope, 1, _text)
        ON CONFLICT DO NOTHING;
    ELSE
        UPDATE schema.states SET version = version + 1, text = _text
        WHERE scope = _scope AND version = _version;
    END IF;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF _routes IS NOT NULL THEN
        moment := schema.clock();
        INSERT INTO schema.deliveries
            (route, digest, received_at, attempts, progress, due, trace, body)
        SELECT route, decode(repeat('00', 32), 'hex'), received_at, attempts, progress, moment,
            trace, body
        FROM unnest(_routes, _received, _attempts, _progress, _traces, _bodies)
            WITH ORDINALITY AS g (route, received_at, attempts, progress, trace, body, place)
        ORDER BY place;
        PERFORM schema.offer(_routes, moment);
    END IF;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION schema.drop_state(_scope text, _version bigint)
RETURNS boolean LANGUAGE sql AS $$
    DELETE FROM schema.states WHERE scope = _scope AND version = _version RETURNING true
$$;

-- Returns the bytes of a delivery's body; NULL when something of the delivery is damaged.
CREATE OR REPLACE FUNCTION schema.find_size(_id bigint) RETURNS integer LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT octet_length(body) FROM schema.deliveries d
        WHERE id = _id AND hashtext(d::text) IS NOT NULL
    );
EXCEPTION WHEN data_corrupted OR internal_error OR data_exception THEN
    RETURN NULL;
END $$;

-- All that waits of the route is looked up in its index, whatever else waits, and only then sorted.
-- What is damaged is left out: the next claim makes a dead letter of it.
CREATE OR REPLACE FUNCTION schema.peek(_route text, _after bigint, _limit integer, _bytes bigint)
RETURNS TABLE (
    id bigint, digest bytea, received_at timestamptz, attempts integer, progress text,
    crashes integer, trace text, body bytea
) LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    number bigint;
    size integer;
    bytes bigint := 0;
    shown bigint[] := '{}';
BEGIN
    FOREACH number IN ARRAY ARRAY(
        SELECT waiting.id FROM (
            SELECT d.id FROM schema.deliveries d
            WHERE d.route = _route AND d.candidate IS NULL OFFSET 0
        ) AS waiting
        WHERE waiting.id > _after ORDER BY waiting.id
    ) LOOP
        EXIT WHEN cardinality(shown) = _limit;
        size := schema.find_size(number);
        bytes := bytes + coalesce(size, 0);
        EXIT WHEN bytes > _bytes AND cardinality(shown) > 0;
        IF size IS NOT NULL THEN
            shown := shown || number;
        END IF;
    END LOOP;
    RETURN QUERY
    SELECT d.id, d.digest, schema.bounded(d.received_at), d.attempts, d.progress, d.crashes,
        d.trace, d.body
    FROM schema.deliveries d WHERE d.id = ANY (shown) ORDER BY d.id;
END $$;
