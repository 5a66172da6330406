-- Holds of many sessions in one call, each statement for all of them.
-- Safe next to the previous release: what it calls stays as it is.

-- Starts a session, held by one instance, for each of these streamers, whose rows the caller has locked and of
-- whom none has a live one. Requests their chat messages from Twitch unless that was done before.
CREATE FUNCTION chatpulse.start_sessions(
    p_streamer_ids uuid[], p_session_ids uuid[], p_session_keys bytea[], p_instance_id uuid, p_metadata jsonb
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_now_ms   bigint := chatpulse.clock_ms();
    v_streamer record;
BEGIN
    WITH started AS MATERIALIZED (
        SELECT n.session_id, n.key, u.twitch_user_id, chatpulse.config_json(c) AS config,
               c.streamer_id, c.version AS config_version, c.model, c.vote_delta, c.decay_speed, c.window_seconds,
               1 + coalesce((SELECT max(s.ordinal) FROM chatpulse.sessions s
                             WHERE s.streamer_id = n.streamer_id), 0) AS ordinal
        FROM unnest(p_streamer_ids, p_session_ids, p_session_keys) AS n (streamer_id, session_id, key)
        JOIN chatpulse.users u ON u.id = n.streamer_id
        JOIN chatpulse.configs c ON c.streamer_id = n.streamer_id
    ), keys AS (
        INSERT INTO chatpulse.session_keys (session_id, key) SELECT session_id, key FROM started
    ), live AS (
        INSERT INTO chatpulse.live_sessions (streamer_id, twitch_user_id, session_id, ordinal, holders)
        SELECT streamer_id, twitch_user_id, session_id, ordinal, ARRAY[p_instance_id] FROM started
    ), heads AS (
        INSERT INTO chatpulse.sessions (
            session_id, streamer_id, ordinal, version, config_version, model, vote_delta, decay_speed,
            window_seconds, at_ms, value, for_count, against_count, seconds, started_at_ms)
        SELECT session_id, streamer_id, ordinal, 1, config_version, model, vote_delta, decay_speed,
               window_seconds, v_now_ms, 0, 0, 0, '[]', v_now_ms
        FROM started
    )
    INSERT INTO chatpulse.session_events (session_id, version, type, schema_version, data, metadata)
    SELECT session_id, 1, 'SessionStarted', 1,
           jsonb_build_object('streamer_id', streamer_id, 'ordinal', ordinal, 'at', v_now_ms, 'config', config),
           p_metadata
    FROM started;

    FOR v_streamer IN
        SELECT u.id, u.version FROM chatpulse.users u
        WHERE u.id = ANY (p_streamer_ids) AND NOT EXISTS (
            SELECT FROM chatpulse.eventsub_subscriptions e
            WHERE e.streamer_id = u.id AND e.type = 'channel.chat.message' AND e.status IN ('requested', 'enabled'))
    LOOP
        PERFORM chatpulse.append_streamer_event(
            v_streamer.id, v_streamer.version, 'SubscriptionRequested', 1,
            jsonb_build_object('type', 'channel.chat.message'), p_metadata);
    END LOOP;
    UPDATE chatpulse.users SET changed = pg_current_xact_id()
    WHERE id = ANY (p_streamer_ids) AND changed <> pg_current_xact_id();
    PERFORM chatpulse.notify_directory(s.id) FROM unnest(p_streamer_ids) AS s (id);
END $$;

-- An instance takes hold of the live sessions of streamers whose rows the caller has locked; starts one for each
-- who has none, with the id and the key at the streamer's place. Does nothing for disabled streamers.
CREATE FUNCTION chatpulse.take_holds(
    p_streamer_ids uuid[], p_session_ids uuid[], p_session_keys bytea[], p_instance_id uuid, p_metadata jsonb,
    p_lease interval
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_enabled uuid[];
    v_cold    record;
BEGIN
    SELECT array_agg(u.id) INTO v_enabled FROM chatpulse.users u
    WHERE u.id = ANY (p_streamer_ids) AND u.disabled_at IS NULL;
    IF v_enabled IS NULL THEN
        RETURN;
    END IF;
    PERFORM chatpulse.keep_instance(p_instance_id, p_lease);
    PERFORM FROM chatpulse.live_sessions
    WHERE streamer_id = ANY (v_enabled)
    ORDER BY streamer_id
    FOR NO KEY UPDATE;
    UPDATE chatpulse.live_sessions SET holders = holders || p_instance_id, unheld_since = NULL
    WHERE streamer_id = ANY (v_enabled) AND p_instance_id <> ALL (holders);
    -- Who is named twice starts one session.
    SELECT array_agg(c.streamer_id) AS streamer_ids, array_agg(c.session_id) AS session_ids,
           array_agg(c.key) AS keys
    INTO v_cold
    FROM (
        SELECT DISTINCT ON (n.streamer_id) n.streamer_id, n.session_id, n.key
        FROM unnest(p_streamer_ids, p_session_ids, p_session_keys) WITH ORDINALITY
             AS n (streamer_id, session_id, key, place)
        WHERE n.streamer_id = ANY (v_enabled)
          AND NOT EXISTS (SELECT FROM chatpulse.live_sessions l WHERE l.streamer_id = n.streamer_id)
        ORDER BY n.streamer_id, n.place
    ) AS c;
    IF v_cold.streamer_ids IS NOT NULL THEN
        PERFORM chatpulse.start_sessions(
            v_cold.streamer_ids, v_cold.session_ids, v_cold.keys, p_instance_id, p_metadata);
    END IF;
END $$;

-- An instance takes hold of the sessions behind overlay URLs; starts one for each streamer who has none live, with
-- the id and the key at the URL's place. Answers the streamers' entries, in any order: none for an unknown URL;
-- without a session for a disabled streamer. Without p_wait those are left out whose streamer's row somebody else has
-- locked, so that they keep nobody else waiting.
CREATE FUNCTION chatpulse.hold_overlays(
    p_overlay_uuids uuid[], p_session_ids uuid[], p_session_keys bytea[], p_instance_id uuid, p_metadata jsonb,
    p_lease interval, p_wait boolean
) RETURNS SETOF chatpulse.entries
LANGUAGE plpgsql
-- Every join here looks rows up by their key, whatever the tables hold when it is planned.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_wanted record;
BEGIN
    -- The lock makes concurrent holders of one streamer start one session.
    IF p_wait THEN
        PERFORM FROM chatpulse.users u WHERE u.overlay_uuid = ANY (p_overlay_uuids) ORDER BY u.id FOR UPDATE;
    END IF;
    WITH locked AS MATERIALIZED (
        SELECT u.id, u.overlay_uuid FROM chatpulse.users u
        WHERE u.overlay_uuid = ANY (p_overlay_uuids)
        ORDER BY u.id
        FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(l.id) AS streamer_ids, array_agg(n.session_id) AS session_ids, array_agg(n.key) AS keys
    INTO v_wanted
    FROM unnest(p_overlay_uuids, p_session_ids, p_session_keys) AS n (overlay_uuid, session_id, key)
    JOIN locked l ON l.overlay_uuid = n.overlay_uuid;
    IF v_wanted.streamer_ids IS NOT NULL THEN
        PERFORM chatpulse.take_holds(
            v_wanted.streamer_ids, v_wanted.session_ids, v_wanted.keys, p_instance_id, p_metadata, p_lease);
        RETURN QUERY SELECT * FROM chatpulse.entries e WHERE e.streamer_id = ANY (v_wanted.streamer_ids);
    END IF;
END $$;

-- The same for the sessions of streamers.
CREATE FUNCTION chatpulse.hold_streamers(
    p_streamer_ids uuid[], p_session_ids uuid[], p_session_keys bytea[], p_instance_id uuid, p_metadata jsonb,
    p_lease interval, p_wait boolean
) RETURNS SETOF chatpulse.entries
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    v_wanted record;
BEGIN
    IF p_wait THEN
        PERFORM FROM chatpulse.users u WHERE u.id = ANY (p_streamer_ids) ORDER BY u.id FOR UPDATE;
    END IF;
    WITH locked AS MATERIALIZED (
        SELECT u.id FROM chatpulse.users u
        WHERE u.id = ANY (p_streamer_ids)
        ORDER BY u.id
        FOR UPDATE SKIP LOCKED
    )
    SELECT array_agg(l.id) AS streamer_ids, array_agg(n.session_id) AS session_ids, array_agg(n.key) AS keys
    INTO v_wanted
    FROM unnest(p_streamer_ids, p_session_ids, p_session_keys) AS n (streamer_id, session_id, key)
    JOIN locked l ON l.id = n.streamer_id;
    IF v_wanted.streamer_ids IS NOT NULL THEN
        PERFORM chatpulse.take_holds(
            v_wanted.streamer_ids, v_wanted.session_ids, v_wanted.keys, p_instance_id, p_metadata, p_lease);
        RETURN QUERY SELECT * FROM chatpulse.entries e WHERE e.streamer_id = ANY (v_wanted.streamer_ids);
    END IF;
END $$;
