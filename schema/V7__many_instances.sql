-- Any number of instances: leases, holds that are counted, sessions that end when nobody holds them.
-- Safe next to the previous release: it names the columns of the tables that get more of them here, and they
-- have defaults; each function that it calls keeps its arguments and its answer; the view `directory` keeps
-- its columns, because a statement that was prepared before would not outlive a change of them. What it
-- writes to live_sessions goes through the trigger below like everything else.

-- Rather fail than make everything wait behind a long read of these tables. May be repeated.
SET LOCAL lock_timeout = '5s';

ALTER TABLE chatpulse.live_sessions ADD COLUMN holders_version bigint NOT NULL DEFAULT 1;
ALTER TABLE chatpulse.instances ADD COLUMN lease_since timestamptz NOT NULL DEFAULT now();

-- Every id in `holders` has a row in `instances`, if only a lapsed one: so whoever finds the lapsed leases
-- finds all holds that have to go.
INSERT INTO chatpulse.instances (instance_id, lease_until)
SELECT DISTINCT h.instance_id, now() FROM chatpulse.live_sessions l, unnest(l.holders) AS h (instance_id)
ON CONFLICT DO NOTHING;

-- Neither `holders` nor `unheld_since` has an index: they are searched a few times a minute, in a table of
-- live sessions only, but written with every hold, which without an index can be done in place.

-- The journal's clock as a time, in whole milliseconds.
CREATE FUNCTION chatpulse.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$ SELECT to_timestamp(chatpulse.clock_ms() / 1000.0) $$;

CREATE FUNCTION chatpulse.unix_ms(p_time timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT floor(extract(epoch FROM p_time) * 1000)::bigint $$;

-- Since when this server has been up: nobody could take a hold before.
CREATE FUNCTION chatpulse.up_since() RETURNS timestamptz
LANGUAGE sql STABLE AS $$ SELECT pg_postmaster_start_time() $$;

-- Counts the changes of who holds a session, and notes since when nobody does, whoever writes.
CREATE FUNCTION chatpulse.note_holders() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    new.holders_version := old.holders_version + 1;
    new.unheld_since := CASE WHEN cardinality(new.holders) = 0
                             THEN coalesce(new.unheld_since, chatpulse.clock()) END;
    RETURN new;
END $$;

CREATE TRIGGER note_holders BEFORE UPDATE ON chatpulse.live_sessions FOR EACH ROW
WHEN (old.holders IS DISTINCT FROM new.holders OR old.unheld_since IS DISTINCT FROM new.unheld_since)
EXECUTE FUNCTION chatpulse.note_holders();

-- What an instance has to know of a streamer: `directory` with who holds the live session.
CREATE VIEW chatpulse.entries AS
SELECT u.id AS streamer_id, u.version AS streamer_version, u.twitch_user_id, u.login, u.display_name,
       u.overlay_uuid, u.disabled_at IS NOT NULL AS disabled, u.changed,
       chatpulse.config_json(c) AS config,
       l.session_id, l.holders AS holder_ids, l.holders_version,
       chatpulse.unix_ms(l.unheld_since) AS unheld_since_ms,
       s.ordinal, s.version, s.config_version, s.model, s.vote_delta, s.decay_speed, s.window_seconds,
       s.at_ms, s.value, s.for_count, s.against_count, s.seconds,
       s.started_at_ms, s.reset_at_ms, s.ended_at_ms, k.key,
       coalesce((SELECT max(n.ordinal) FROM chatpulse.sessions n WHERE n.streamer_id = u.id), 0) AS last_ordinal
FROM chatpulse.users u
JOIN chatpulse.configs c ON c.streamer_id = u.id
LEFT JOIN chatpulse.live_sessions l ON l.streamer_id = u.id
LEFT JOIN chatpulse.sessions s ON s.session_id = l.session_id
LEFT JOIN chatpulse.session_keys k ON k.session_id = l.session_id;

-- Who holds a streamer's live session.
CREATE TYPE chatpulse.holding AS (
    streamer_id uuid, ordinal bigint, holders_version bigint, holder_ids uuid[], unheld_since_ms bigint);

-- Locks are taken in one order by every function: the streamer's row (by id), the instance's row (by id), the
-- live session's row (by streamer), the head (by session). A live session's row is made and deleted only under
-- the lock of its streamer's row. Conditions are read from the locked row, and each statement of a function
-- sees what was committed before it began.

-- An instance says that it is running, for another p_lease. Its lease goes on if p_unbroken and it has not
-- lapsed; otherwise another one begins.
CREATE FUNCTION chatpulse.renew_lease(p_instance_id uuid, p_lease interval, p_unbroken boolean)
RETURNS TABLE (now_ms bigint, since_ms bigint)
LANGUAGE sql AS $$
    WITH clock AS MATERIALIZED (SELECT chatpulse.clock() AS now)
    INSERT INTO chatpulse.instances AS i (instance_id, lease_until, lease_since)
    SELECT p_instance_id, c.now + p_lease, c.now FROM clock c
    ON CONFLICT (instance_id) DO UPDATE SET
        lease_until = excluded.lease_until,
        lease_since = CASE WHEN p_unbroken AND i.lease_until > excluded.lease_since
                           THEN i.lease_since ELSE excluded.lease_since END
    RETURNING chatpulse.clock_ms(), chatpulse.unix_ms(i.lease_since)
$$;

-- As the previous release calls it.
CREATE OR REPLACE FUNCTION chatpulse.renew_lease(p_instance_id uuid, p_lease interval) RETURNS bigint
LANGUAGE sql AS $$ SELECT now_ms FROM chatpulse.renew_lease(p_instance_id, p_lease, true) $$;

-- Sees to it that the instance has a row that stays until this transaction ends. The lock lets leases be
-- renewed, but not be dropped.
CREATE FUNCTION chatpulse.keep_instance(p_instance_id uuid, p_lease interval) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := chatpulse.clock();
BEGIN
    LOOP
        PERFORM FROM chatpulse.instances WHERE instance_id = p_instance_id FOR KEY SHARE;
        EXIT WHEN FOUND;
        INSERT INTO chatpulse.instances (instance_id, lease_until, lease_since)
        VALUES (p_instance_id, v_now + p_lease, v_now)
        ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
    END LOOP;
END $$;

-- An instance takes hold of the live session of a streamer whose row the caller has locked; starts one if none
-- is live. Does nothing for a disabled streamer.
CREATE FUNCTION chatpulse.take_hold(
    p_streamer_id uuid, p_instance_id uuid, p_session_id uuid, p_session_key bytea, p_metadata jsonb,
    p_lease interval
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_holders uuid[];
BEGIN
    IF EXISTS (SELECT FROM chatpulse.users WHERE id = p_streamer_id AND disabled_at IS NOT NULL) THEN
        RETURN;
    END IF;
    PERFORM chatpulse.keep_instance(p_instance_id, p_lease);
    SELECT holders INTO v_holders FROM chatpulse.live_sessions
    WHERE streamer_id = p_streamer_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM chatpulse.start_session(p_streamer_id, p_instance_id, p_session_id, p_session_key, p_metadata);
    ELSIF p_instance_id <> ALL (v_holders) THEN
        UPDATE chatpulse.live_sessions SET holders = holders || p_instance_id, unheld_since = NULL
        WHERE streamer_id = p_streamer_id;
    END IF;
END $$;

-- An instance takes hold of the session behind an overlay URL; starts one if none is live. Answers the
-- streamer's entry: none for an unknown URL; without a session for a disabled streamer.
CREATE FUNCTION chatpulse.hold(
    p_overlay_uuid uuid, p_instance_id uuid, p_session_id uuid, p_session_key bytea, p_metadata jsonb,
    p_lease interval
) RETURNS SETOF chatpulse.entries
LANGUAGE plpgsql AS $$
DECLARE
    v_streamer_id uuid;
BEGIN
    -- The lock makes concurrent holders of one streamer start one session.
    SELECT id INTO v_streamer_id FROM chatpulse.users WHERE overlay_uuid = p_overlay_uuid FOR UPDATE;
    IF FOUND THEN
        PERFORM chatpulse.take_hold(
            v_streamer_id, p_instance_id, p_session_id, p_session_key, p_metadata, p_lease);
        RETURN QUERY SELECT * FROM chatpulse.entries e WHERE e.streamer_id = v_streamer_id;
    END IF;
END $$;

-- The same for the session of a streamer.
CREATE FUNCTION chatpulse.hold_streamer(
    p_streamer_id uuid, p_instance_id uuid, p_session_id uuid, p_session_key bytea, p_metadata jsonb,
    p_lease interval
) RETURNS SETOF chatpulse.entries
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM chatpulse.users WHERE id = p_streamer_id FOR UPDATE;
    IF FOUND THEN
        PERFORM chatpulse.take_hold(
            p_streamer_id, p_instance_id, p_session_id, p_session_key, p_metadata, p_lease);
        RETURN QUERY SELECT * FROM chatpulse.entries e WHERE e.streamer_id = p_streamer_id;
    END IF;
END $$;

-- As the previous release calls it.
CREATE OR REPLACE FUNCTION chatpulse.hold(
    p_overlay_uuid uuid, p_instance_id uuid, p_session_id uuid, p_session_key bytea, p_metadata jsonb
) RETURNS SETOF chatpulse.directory
LANGUAGE plpgsql AS $$
DECLARE
    v_streamer_id uuid;
BEGIN
    SELECT id INTO v_streamer_id FROM chatpulse.users WHERE overlay_uuid = p_overlay_uuid FOR UPDATE;
    IF FOUND THEN
        PERFORM chatpulse.take_hold(
            v_streamer_id, p_instance_id, p_session_id, p_session_key, p_metadata, interval '15 s');
        RETURN QUERY SELECT * FROM chatpulse.directory d WHERE d.streamer_id = v_streamer_id;
    END IF;
END $$;

-- An instance lets go of a streamer's session. Answers who holds it now; nothing when none is live.
CREATE FUNCTION chatpulse.let_go(p_streamer_id uuid, p_instance_id uuid) RETURNS SETOF chatpulse.holding
LANGUAGE plpgsql AS $$
DECLARE
    v_holders uuid[];
BEGIN
    SELECT holders INTO v_holders FROM chatpulse.live_sessions
    WHERE streamer_id = p_streamer_id
    FOR NO KEY UPDATE;
    IF p_instance_id = ANY (v_holders) THEN
        UPDATE chatpulse.live_sessions SET holders = array_remove(holders, p_instance_id)
        WHERE streamer_id = p_streamer_id;
    END IF;
    RETURN QUERY
    SELECT l.streamer_id, l.ordinal, l.holders_version, l.holders, chatpulse.unix_ms(l.unheld_since)
    FROM chatpulse.live_sessions l
    WHERE l.streamer_id = p_streamer_id;
END $$;

-- As the previous release calls it.
CREATE OR REPLACE FUNCTION chatpulse.release(p_streamer_id uuid, p_instance_id uuid) RETURNS void
LANGUAGE sql AS $$ SELECT chatpulse.let_go(p_streamer_id, p_instance_id) $$;

-- Drops at most p_limit holds of instances whose rows the caller has locked, and the rows, when no hold is
-- left. Answers who holds the sessions concerned now; as many as p_limit say that there may be more.
CREATE FUNCTION chatpulse.forget_instances(p_instance_ids uuid[], p_limit integer)
RETURNS SETOF chatpulse.holding
LANGUAGE plpgsql AS $$
DECLARE
    v_streamer_ids uuid[];
BEGIN
    SELECT array_agg(h.streamer_id) INTO v_streamer_ids
    FROM (
        SELECT l.streamer_id FROM chatpulse.live_sessions l
        WHERE l.holders && p_instance_ids
        ORDER BY l.streamer_id LIMIT p_limit
        FOR NO KEY UPDATE
    ) AS h;
    RETURN QUERY
    UPDATE chatpulse.live_sessions l
    SET holders = ARRAY(
        SELECT h.instance_id FROM unnest(l.holders) WITH ORDINALITY AS h (instance_id, n)
        WHERE h.instance_id <> ALL (p_instance_ids) ORDER BY h.n)
    WHERE l.streamer_id = ANY (v_streamer_ids)
    RETURNING l.streamer_id, l.ordinal, l.holders_version, l.holders, chatpulse.unix_ms(l.unheld_since);
    IF coalesce(cardinality(v_streamer_ids), 0) < p_limit THEN
        DELETE FROM chatpulse.instances WHERE instance_id = ANY (p_instance_ids);
    END IF;
END $$;

-- An instance stops: it lets go of all that it holds, and gives up its lease.
CREATE FUNCTION chatpulse.leave(p_instance_id uuid, p_limit integer) RETURNS SETOF chatpulse.holding
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM chatpulse.instances WHERE instance_id = p_instance_id FOR UPDATE;
    RETURN QUERY SELECT * FROM chatpulse.forget_instances(ARRAY[p_instance_id], p_limit);
END $$;

-- Drops the holds of instances whose lease has lapsed, but for those who are taking a hold right now.
CREATE FUNCTION chatpulse.drop_lapsed(p_limit integer) RETURNS SETOF chatpulse.holding
LANGUAGE plpgsql AS $$
DECLARE
    v_now    timestamptz := chatpulse.clock();
    v_lapsed uuid[];
BEGIN
    SELECT array_agg(i.instance_id) INTO v_lapsed
    FROM (
        SELECT instance_id FROM chatpulse.instances
        WHERE lease_until <= v_now
        ORDER BY instance_id
        FOR UPDATE SKIP LOCKED
    ) AS i;
    IF v_lapsed IS NOT NULL THEN
        RETURN QUERY SELECT * FROM chatpulse.forget_instances(v_lapsed, p_limit);
    END IF;
END $$;

-- Ends live sessions. The caller has locked the rows of their streamers, and then theirs.
CREATE FUNCTION chatpulse.end_sessions(p_session_ids uuid[], p_metadata jsonb)
RETURNS TABLE (streamer_id uuid, session_id uuid, ordinal bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now_ms bigint;
BEGIN
    PERFORM FROM chatpulse.sessions s WHERE s.session_id = ANY (p_session_ids) ORDER BY s.session_id FOR UPDATE;
    v_now_ms := chatpulse.clock_ms();
    DELETE FROM chatpulse.live_sessions l WHERE l.session_id = ANY (p_session_ids);
    INSERT INTO chatpulse.session_events (session_id, version, type, schema_version, data, metadata)
    SELECT s.session_id, s.version + 1, 'SessionEnded', 1,
           jsonb_build_object('at', greatest(v_now_ms, s.at_ms)), p_metadata
    FROM chatpulse.sessions s
    WHERE s.session_id = ANY (p_session_ids);
    UPDATE chatpulse.sessions s SET version = s.version + 1, ended_at_ms = greatest(v_now_ms, s.at_ms)
    WHERE s.session_id = ANY (p_session_ids);
    UPDATE chatpulse.users u SET changed = pg_current_xact_id()
    FROM chatpulse.sessions s
    WHERE s.session_id = ANY (p_session_ids) AND u.id = s.streamer_id;
    PERFORM chatpulse.notify_directory(s.streamer_id)
    FROM chatpulse.sessions s
    WHERE s.session_id = ANY (p_session_ids);
    RETURN QUERY
    SELECT s.streamer_id, s.session_id, s.ordinal FROM chatpulse.sessions s
    WHERE s.session_id = ANY (p_session_ids)
    ORDER BY s.session_id;
END $$;

CREATE OR REPLACE FUNCTION chatpulse.end_session(p_streamer_id uuid, p_metadata jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_session_id uuid;
BEGIN
    PERFORM FROM chatpulse.users WHERE id = p_streamer_id FOR UPDATE;
    SELECT session_id INTO v_session_id FROM chatpulse.live_sessions
    WHERE streamer_id = p_streamer_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM chatpulse.end_sessions(ARRAY[v_session_id], p_metadata);
    RETURN true;
END $$;

-- Ends at most p_limit sessions that nobody has held for p_orphan, those first that have been left alone for
-- longest: of the given streamers, or of all for null. Ends none unless this server has been up and the
-- instance that asks has had its lease for as long: those who watched could not have come back. A streamer
-- whose row is locked is left alone, since it may be a hold that has it.
CREATE FUNCTION chatpulse.end_orphans(
    p_instance_id uuid, p_streamer_ids uuid[], p_orphan interval, p_limit integer, p_metadata jsonb
) RETURNS TABLE (streamer_id uuid, session_id uuid, ordinal bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now          timestamptz := chatpulse.clock();
    v_due          timestamptz := v_now - p_orphan; -- unheld since then, or before
    v_streamer_ids uuid[];
    v_session_ids  uuid[];
BEGIN
    IF chatpulse.up_since() > v_due OR NOT EXISTS (
        SELECT FROM chatpulse.instances
        WHERE instance_id = p_instance_id AND lease_until > v_now AND lease_since <= v_due)
    THEN
        RETURN;
    END IF;
    v_streamer_ids := ARRAY(
        SELECT l.streamer_id FROM chatpulse.live_sessions l
        WHERE l.unheld_since <= v_due AND (p_streamer_ids IS NULL OR l.streamer_id = ANY (p_streamer_ids))
        ORDER BY l.unheld_since LIMIT p_limit);
    SELECT array_agg(locked.id) INTO v_streamer_ids
    FROM (
        SELECT u.id FROM chatpulse.users u
        WHERE u.id = ANY (v_streamer_ids)
        ORDER BY u.id
        FOR UPDATE SKIP LOCKED
    ) AS locked;
    SELECT array_agg(locked.session_id) INTO v_session_ids
    FROM (
        SELECT l.session_id FROM chatpulse.live_sessions l
        WHERE l.streamer_id = ANY (v_streamer_ids) AND cardinality(l.holders) = 0 AND l.unheld_since <= v_due
        ORDER BY l.streamer_id
        FOR UPDATE
    ) AS locked;
    IF v_session_ids IS NOT NULL THEN
        RETURN QUERY SELECT * FROM chatpulse.end_sessions(v_session_ids, p_metadata);
    END IF;
END $$;
