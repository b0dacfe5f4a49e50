-- The schema as its third version made it; the store brings it up to date.

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

DROP FUNCTION IF EXISTS schema.add_candidate, schema.claim, schema.confirm, schema.drop_reserved,
    schema.put, schema.waiting;
DROP VIEW IF EXISTS schema.current_routes;

ALTER TABLE schema.routes ADD COLUMN seal text,
    ADD CONSTRAINT routes_seal CHECK (seal IS NULL OR secret IS NOT NULL);
ALTER TABLE schema.candidates ADD COLUMN seal text;
ALTER TABLE schema.deliveries ADD COLUMN trace text NOT NULL DEFAULT '';

DROP FUNCTION IF EXISTS schema.lease, schema.find_due;

CREATE OR REPLACE FUNCTION schema.clock() RETURNS timestamptz LANGUAGE sql
AS 'SELECT clock_timestamp()';

CREATE OR REPLACE VIEW schema.live_routes AS
SELECT id, target, resource, filters, state, gid, created_at, heartbeat_at, number, secret, seal,
    ARRAY(
        SELECT ARRAY[c.secret, c.seal] FROM schema.candidates c WHERE c.route = r.id ORDER BY c.id
    ) AS candidates
FROM schema.routes r WHERE expires IS NULL OR expires > schema.clock();

CREATE OR REPLACE FUNCTION schema.purge() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM schema.routes WHERE id IN (
        SELECT id FROM schema.routes WHERE expires <= (SELECT schema.clock())
        FOR UPDATE SKIP LOCKED
    );
END $$;

CREATE OR REPLACE FUNCTION schema.reserve(
    _id text, _target text, _place text, _resource text, _filters text, _created_at timestamptz,
    _heartbeat_at timestamptz, _ttl double precision, _sole boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM schema.purge();
    IF _sole THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(_place || ' ' || _resource, 0));
        IF EXISTS (
            SELECT FROM schema.live_routes JOIN schema.routes USING (id)
            WHERE routes.resource = _resource AND place = _place AND routes.state <> 'retired'
        ) THEN
            RETURN false;
        END IF;
    END IF;
    INSERT INTO schema.routes
        (id, target, place, resource, filters, created_at, heartbeat_at, expires)
    VALUES (_id, _target, _place, _resource, _filters, _created_at, _heartbeat_at,
        schema.clock() + make_interval(secs => _ttl))
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;

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

CREATE OR REPLACE FUNCTION schema.confirm_candidate(_route text, _gid text, _mark text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
    chosen schema.candidates;
BEGIN
    PERFORM FROM schema.routes WHERE id = _route FOR UPDATE;
    SELECT c.* INTO chosen FROM schema.live_routes r JOIN schema.candidates c ON c.route = r.id
    WHERE r.id = _route AND c.secret = _mark;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE schema.routes
    SET state = 'confirmed', gid = _gid, secret = chosen.secret, seal = chosen.seal, expires = NULL
    WHERE id = _route;
    UPDATE schema.deliveries SET candidate = NULL, due = moment WHERE candidate = chosen.id;
    IF FOUND THEN
        PERFORM schema.offer(ARRAY[_route], moment);
    END IF;
    DELETE FROM schema.candidates WHERE route = _route;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION schema.drop_route(_route text)
RETURNS SETOF schema.live_routes LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM schema.routes WHERE id = _route FOR UPDATE;
    RETURN QUERY SELECT * FROM schema.live_routes WHERE id = _route AND state = 'reserved';
    IF FOUND THEN
        DELETE FROM schema.routes WHERE id = _route;
    END IF;
END $$;

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

CREATE OR REPLACE FUNCTION schema.offer(_routes text[], _due timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO schema.queues AS q (route, due)
    SELECT DISTINCT route COLLATE "C" AS route, _due FROM unnest(_routes) AS route ORDER BY route
    ON CONFLICT (route) DO UPDATE SET due = excluded.due
    WHERE NOT q.leased AND (q.due IS NULL OR q.due > excluded.due);
END $$;

CREATE OR REPLACE FUNCTION schema.count_waiting(_most integer)
RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM schema.purge();
    RETURN (SELECT count(*) FROM (SELECT FROM schema.deliveries LIMIT _most) AS counted);
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
    waiting := schema.count_waiting(NULL);
    dead_letters := (SELECT count(*) FROM schema.dead_letters);
    oldest_at := schema.find_oldest();
END $$;

CREATE OR REPLACE FUNCTION schema.put(
    _routes text[], _digests bytea[], _times timestamptz[], _candidates text[], _reasons text[],
    _traces text[], _bodies bytea[], _known_for interval, _forget integer, _most integer,
    INOUT room integer, OUT kept bigint[], OUT refused bytea[]
) LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
    offered text[];
    added integer;
BEGIN
    IF room IS NULL THEN
        SELECT greatest(_most - coalesce(max(id) - min(id) + 1, 0), 0) INTO room
        FROM schema.deliveries;
        IF room < cardinality(_routes) THEN
            room := _most - schema.count_waiting(_most);
        END IF;
    END IF;
    IF cardinality(array_remove(_candidates, NULL)) > 0 THEN
        PERFORM FROM schema.routes WHERE id IN (
            SELECT g.route FROM unnest(_routes, _candidates) AS g (route, candidate)
            WHERE g.candidate IS NOT NULL
        ) ORDER BY id FOR SHARE;
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
        SELECT a.*, reason IS NOT NULL
            OR row_number() OVER (PARTITION BY reason IS NULL ORDER BY place) <= room AS taken
        FROM admitted a JOIN learnt USING (digest)
    ), inbox AS (
        INSERT INTO schema.deliveries (route, digest, received_at, due, candidate, trace, body)
        SELECT route, digest, at, moment, holder, trace, body FROM fresh
        WHERE taken AND reason IS NULL ORDER BY place
    ), letters AS (
        INSERT INTO schema.dead_letters (route, reason, received_at, buried_at, done, body)
        SELECT route, reason, at, clock_timestamp(), 0, body FROM fresh
        WHERE reason IS NOT NULL ORDER BY place
    )
    SELECT array_agg(place) FILTER (WHERE taken), array_agg(digest) FILTER (WHERE NOT taken),
        array_agg(route) FILTER (WHERE taken AND reason IS NULL AND holder IS NULL),
        count(*) FILTER (WHERE taken AND reason IS NULL)
    INTO kept, refused, offered, added FROM fresh;
    room := room - added;
    IF refused IS NOT NULL THEN
        DELETE FROM schema.seen WHERE digest = ANY (refused);
    END IF;
    IF offered IS NOT NULL THEN
        PERFORM schema.offer(offered, moment);
    END IF;
    IF _forget > 0 THEN
        DELETE FROM schema.seen WHERE digest IN (
            SELECT digest FROM schema.seen
            WHERE at < (SELECT max(time) FROM unnest(_times) AS time) - _known_for
            ORDER BY at LIMIT _forget FOR UPDATE SKIP LOCKED
        );
    END IF;
END $$;

CREATE OR REPLACE FUNCTION schema.free(_route text) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    UPDATE schema.queues SET leased = false, due = (
        SELECT min(due) FROM schema.deliveries WHERE route = _route AND candidate IS NULL
    ) WHERE route = _route;
END $$;

CREATE OR REPLACE FUNCTION schema.lease(
    _limit integer, _bytes bigint, _lease double precision, _patient boolean
) RETURNS TABLE (
    route text, fence bigint, id bigint, digest bytea, received_at timestamptz, attempts integer,
    done integer, trace text, body bytea
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    moment timestamptz := schema.clock();
    queue schema.queues;
    next_fence bigint;
BEGIN
    IF _patient THEN
        SELECT * INTO queue FROM schema.queues q WHERE q.due <= moment ORDER BY q.due LIMIT 1;
        PERFORM FROM schema.queues q WHERE q.route = queue.route FOR UPDATE;
    END IF;
    LOOP
        SELECT * INTO queue FROM schema.queues q WHERE q.due <= moment ORDER BY q.due LIMIT 1
        FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        next_fence := greatest(queue.fence + 1, extract(epoch FROM moment) * 1000000);
        RETURN QUERY
        SELECT d.route, next_fence, d.id, d.digest, d.received_at, d.attempts, d.done,
            d.trace, d.body
        FROM (
            SELECT due.*, sum(octet_length(due.body)) OVER (ORDER BY due.due, due.id) AS so_far
            FROM (
                SELECT * FROM schema.deliveries w
                WHERE w.route = queue.route AND w.candidate IS NULL AND w.due <= moment
                ORDER BY w.due, w.id LIMIT _limit
            ) AS due
        ) AS d
        WHERE d.so_far - octet_length(d.body) < _bytes ORDER BY d.due, d.id;
        IF FOUND THEN
            UPDATE schema.queues q SET leased = true, fence = next_fence,
                due = schema.clock() + make_interval(secs => _lease)
            WHERE q.route = queue.route;
            EXIT;
        END IF;
        PERFORM schema.free(queue.route);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION schema.is_leased(_route text, _fence bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM schema.queues WHERE route = _route AND fence = _fence AND leased FOR UPDATE;
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION schema.settle(
    _route text, _fence bigint, _handled bigint[], _finish boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT schema.is_leased(_route, _fence) THEN
        RETURN false;
    END IF;
    DELETE FROM schema.deliveries WHERE id = ANY (_handled) AND route = _route;
    IF _finish THEN
        PERFORM schema.free(_route);
    END IF;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION schema.release(
    _route text, _fence bigint, _id bigint, _delay double precision, _attempts integer,
    _done integer
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT schema.is_leased(_route, _fence) THEN
        RETURN false;
    END IF;
    UPDATE schema.deliveries SET attempts = _attempts, done = _done, due = CASE
        WHEN _delay > 0 THEN schema.clock() + make_interval(secs => _delay) ELSE due
    END WHERE id = _id AND route = _route;
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION schema.bury(
    _route text, _fence bigint, _id bigint, _routes text[], _reasons text[],
    _received timestamptz[], _buried timestamptz[], _done integer[], _bodies bytea[]
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT schema.is_leased(_route, _fence) THEN
        RETURN false;
    END IF;
    DELETE FROM schema.deliveries WHERE id = _id AND route = _route;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO schema.dead_letters (route, reason, received_at, buried_at, done, body)
    SELECT route, reason, received_at, buried_at, done, body
    FROM unnest(_routes, _reasons, _received, _buried, _done, _bodies)
        WITH ORDINALITY AS l (route, reason, received_at, buried_at, done, body, place)
    ORDER BY place;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION schema.replay(_ids bigint[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := schema.clock();
    offered text[];
BEGIN
    WITH gone AS (
        DELETE FROM schema.dead_letters WHERE id = ANY (_ids) RETURNING *
    ), back AS (
        INSERT INTO schema.deliveries (route, digest, received_at, done, due, body)
        SELECT route, decode(repeat('00', 32), 'hex'), received_at, done, moment, body
        FROM gone JOIN unnest(_ids) WITH ORDINALITY AS i (id, place) USING (id) ORDER BY place
        RETURNING route
    )
    SELECT coalesce(array_agg(route), '{}') INTO offered FROM back;
    PERFORM schema.offer(offered, moment);
    RETURN cardinality(offered);
END $$;

UPDATE schema.meta SET version = 3;
