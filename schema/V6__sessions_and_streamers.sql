-- Every other change of streamers and sessions: each is one call and one transaction. Locks are
-- taken in one order: the streamer's row, the live session's row, the head last.
-- Safe next to the previous release: there is none.

CREATE FUNCTION chatpulse.notify_directory(p_streamer_id uuid) RETURNS void
LANGUAGE sql AS $$ SELECT pg_notify('chatpulse_directory', p_streamer_id::text) $$;

-- Appends an event to a session whose head the caller has locked.
CREATE FUNCTION chatpulse.append_session_event(
    p_session_id uuid, p_version bigint, p_type text, p_data jsonb, p_metadata jsonb) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO chatpulse.session_events (session_id, version, type, schema_version, data, metadata)
    VALUES (p_session_id, p_version, p_type, 1, p_data, p_metadata)
$$;

-- Applies a config to the live session, if there is one: the value is re-based at this moment.
CREATE FUNCTION chatpulse.apply_config(p_streamer_id uuid, p_metadata jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_config  chatpulse.configs;
    v_head    chatpulse.sessions;
    v_now_ms  bigint;
    v_value   double precision;
BEGIN
    SELECT s.* INTO v_head
    FROM chatpulse.live_sessions l JOIN chatpulse.sessions s ON s.session_id = l.session_id
    WHERE l.streamer_id = p_streamer_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT v_config FROM chatpulse.configs WHERE streamer_id = p_streamer_id;
    v_now_ms := greatest(chatpulse.clock_ms(), v_head.at_ms);
    v_value := CASE
        WHEN v_config.model = 'window'
            THEN chatpulse.window_value(v_head.seconds, v_config.window_seconds, v_now_ms)
        WHEN v_head.model = 'window'
            THEN chatpulse.window_value(v_head.seconds, v_head.window_seconds, v_now_ms)
        ELSE chatpulse.settled(v_head.value * chatpulse.decay_factor(
            v_head.decay_speed * chatpulse.seconds_between(v_head.at_ms, v_now_ms)))
    END;
    PERFORM chatpulse.append_session_event(
        v_head.session_id, v_head.version + 1, 'ConfigApplied',
        jsonb_build_object('config', chatpulse.config_json(v_config), 'at', v_now_ms, 'value', v_value),
        p_metadata);
    UPDATE chatpulse.sessions SET
        version = v_head.version + 1, config_version = v_config.version, model = v_config.model,
        vote_delta = v_config.vote_delta, decay_speed = v_config.decay_speed,
        window_seconds = v_config.window_seconds, at_ms = v_now_ms, value = v_value,
        seconds = CASE v_config.model WHEN 'window' THEN v_head.seconds ELSE '[]' END
    WHERE session_id = v_head.session_id;
END $$;

-- Ends the live session, if there is one. Answers whether there was one.
CREATE FUNCTION chatpulse.end_session(p_streamer_id uuid, p_metadata jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_session_id uuid;
    v_head       chatpulse.sessions;
    v_now_ms     bigint;
BEGIN
    DELETE FROM chatpulse.live_sessions WHERE streamer_id = p_streamer_id RETURNING session_id INTO v_session_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT * INTO STRICT v_head FROM chatpulse.sessions WHERE session_id = v_session_id FOR UPDATE;
    v_now_ms := greatest(chatpulse.clock_ms(), v_head.at_ms);
    PERFORM chatpulse.append_session_event(
        v_session_id, v_head.version + 1, 'SessionEnded', jsonb_build_object('at', v_now_ms), p_metadata);
    UPDATE chatpulse.sessions SET version = v_head.version + 1, ended_at_ms = v_now_ms
    WHERE session_id = v_session_id;
    UPDATE chatpulse.users SET changed = pg_current_xact_id() WHERE id = p_streamer_id;
    PERFORM chatpulse.notify_directory(p_streamer_id);
    RETURN true;
END $$;

-- Appends one event to a streamer's stream, brings the projections and the live session in line
-- with it, and answers the stream's new version; null when p_expected_version is no longer the
-- newest (or, for a registration, when the streamer exists already).
CREATE FUNCTION chatpulse.append_streamer_event(
    p_streamer_id uuid, p_expected_version bigint, p_type text, p_schema_version integer,
    p_data jsonb, p_metadata jsonb
) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    IF p_type = 'StreamerRegistered' THEN
        INSERT INTO chatpulse.users (id, version, twitch_user_id, login, display_name, overlay_uuid)
        VALUES (p_streamer_id, 1, p_data->>'twitch_user_id', p_data->>'login', p_data->>'display_name',
                (p_data->>'overlay_uuid')::uuid)
        ON CONFLICT DO NOTHING;
    ELSE
        UPDATE chatpulse.users SET version = version + 1, changed = pg_current_xact_id()
        WHERE id = p_streamer_id AND version = p_expected_version;
    END IF;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    INSERT INTO chatpulse.streamer_events (streamer_id, version, type, schema_version, data, metadata)
    VALUES (p_streamer_id, p_expected_version + 1, p_type, p_schema_version, p_data, p_metadata);

    CASE p_type
        WHEN 'StreamerRegistered' THEN
            PERFORM chatpulse.project_config(p_streamer_id, p_data->'config');
        WHEN 'ConfigChanged' THEN
            PERFORM chatpulse.project_config(p_streamer_id, p_data->'config');
            PERFORM chatpulse.apply_config(p_streamer_id, p_metadata);
        WHEN 'OverlayRotated' THEN
            UPDATE chatpulse.users SET overlay_uuid = (p_data->>'overlay_uuid')::uuid WHERE id = p_streamer_id;
        WHEN 'StreamerDisabled' THEN
            UPDATE chatpulse.users SET disabled_at = clock_timestamp() WHERE id = p_streamer_id;
            PERFORM chatpulse.end_session(p_streamer_id, p_metadata);
        WHEN 'StreamerEnabled' THEN
            UPDATE chatpulse.users SET disabled_at = NULL WHERE id = p_streamer_id;
        WHEN 'SubscriptionRequested' THEN
            INSERT INTO chatpulse.eventsub_subscriptions (streamer_id, type, status)
            VALUES (p_streamer_id, p_data->>'type', 'requested')
            ON CONFLICT (streamer_id, type) DO UPDATE
                SET status = 'requested', requested_at = clock_timestamp(), changed_at = clock_timestamp();
        ELSE
            RAISE EXCEPTION 'unknown streamer event %', p_type USING ERRCODE = 'invalid_parameter_value';
    END CASE;
    PERFORM chatpulse.notify_directory(p_streamer_id);
    RETURN p_expected_version + 1;
END $$;

-- Starts a session for a streamer whose row the caller has locked, held by one instance, and
-- requests the chat messages from Twitch unless that was done before.
CREATE FUNCTION chatpulse.start_session(
    p_streamer_id uuid, p_instance_id uuid, p_session_id uuid, p_session_key bytea, p_metadata jsonb
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_user    chatpulse.users;
    v_config  chatpulse.configs;
    v_ordinal bigint;
    v_now_ms  bigint := chatpulse.clock_ms();
BEGIN
    SELECT * INTO STRICT v_user FROM chatpulse.users WHERE id = p_streamer_id;
    SELECT * INTO STRICT v_config FROM chatpulse.configs WHERE streamer_id = p_streamer_id;
    SELECT coalesce(max(ordinal), 0) + 1 INTO v_ordinal FROM chatpulse.sessions WHERE streamer_id = p_streamer_id;

    INSERT INTO chatpulse.session_keys (session_id, key) VALUES (p_session_id, p_session_key);
    INSERT INTO chatpulse.live_sessions (streamer_id, twitch_user_id, session_id, ordinal, holders)
    VALUES (p_streamer_id, v_user.twitch_user_id, p_session_id, v_ordinal, ARRAY[p_instance_id]);
    INSERT INTO chatpulse.sessions (
        session_id, streamer_id, ordinal, version, config_version, model, vote_delta, decay_speed,
        window_seconds, at_ms, value, for_count, against_count, seconds, started_at_ms)
    VALUES (
        p_session_id, p_streamer_id, v_ordinal, 1, v_config.version, v_config.model, v_config.vote_delta,
        v_config.decay_speed, v_config.window_seconds, v_now_ms, 0, 0, 0, '[]', v_now_ms);
    PERFORM chatpulse.append_session_event(
        p_session_id, 1, 'SessionStarted',
        jsonb_build_object('streamer_id', p_streamer_id, 'ordinal', v_ordinal, 'at', v_now_ms,
                           'config', chatpulse.config_json(v_config)),
        p_metadata);

    IF NOT EXISTS (
        SELECT FROM chatpulse.eventsub_subscriptions
        WHERE streamer_id = p_streamer_id AND type = 'channel.chat.message' AND status IN ('requested', 'enabled'))
    THEN
        PERFORM chatpulse.append_streamer_event(
            p_streamer_id, v_user.version, 'SubscriptionRequested', 1,
            jsonb_build_object('type', 'channel.chat.message'), p_metadata);
    END IF;
    UPDATE chatpulse.users SET changed = pg_current_xact_id() WHERE id = p_streamer_id;
    PERFORM chatpulse.notify_directory(p_streamer_id);
END $$;

-- An instance takes hold of the session behind an overlay URL; starts one if none is live.
-- Answers the directory's row: none for an unknown URL; without a session for a disabled streamer.
CREATE FUNCTION chatpulse.hold(
    p_overlay_uuid uuid, p_instance_id uuid, p_session_id uuid, p_session_key bytea, p_metadata jsonb
) RETURNS SETOF chatpulse.directory
LANGUAGE plpgsql AS $$
DECLARE
    v_streamer_id uuid;
    v_disabled    boolean;
BEGIN
    -- The lock makes concurrent holders of one streamer start one session.
    SELECT id, disabled_at IS NOT NULL INTO v_streamer_id, v_disabled
    FROM chatpulse.users WHERE overlay_uuid = p_overlay_uuid
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT v_disabled THEN
        UPDATE chatpulse.live_sessions
        SET holders = array_remove(holders, p_instance_id) || p_instance_id, unheld_since = NULL
        WHERE streamer_id = v_streamer_id;
        IF NOT FOUND THEN
            PERFORM chatpulse.start_session(v_streamer_id, p_instance_id, p_session_id, p_session_key, p_metadata);
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM chatpulse.directory d WHERE d.streamer_id = v_streamer_id;
END $$;

-- An instance lets go of a streamer's session.
CREATE FUNCTION chatpulse.release(p_streamer_id uuid, p_instance_id uuid) RETURNS void
LANGUAGE sql AS $$
    UPDATE chatpulse.live_sessions
    SET holders = array_remove(holders, p_instance_id),
        unheld_since = CASE WHEN cardinality(array_remove(holders, p_instance_id)) = 0
                            THEN coalesce(unheld_since, clock_timestamp()) END
    WHERE streamer_id = p_streamer_id
$$;

-- Puts the live session back to the middle. Answers whether there is one.
CREATE FUNCTION chatpulse.reset_session(p_streamer_id uuid, p_metadata jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_head   chatpulse.sessions;
    v_now_ms bigint;
BEGIN
    UPDATE chatpulse.users SET changed = pg_current_xact_id() WHERE id = p_streamer_id;
    SELECT s.* INTO v_head
    FROM chatpulse.live_sessions l JOIN chatpulse.sessions s ON s.session_id = l.session_id
    WHERE l.streamer_id = p_streamer_id
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    v_now_ms := greatest(chatpulse.clock_ms(), v_head.at_ms);
    PERFORM chatpulse.append_session_event(
        v_head.session_id, v_head.version + 1, 'SentimentReset', jsonb_build_object('at', v_now_ms), p_metadata);
    UPDATE chatpulse.sessions SET
        version = v_head.version + 1, at_ms = v_now_ms, value = 0, for_count = 0, against_count = 0,
        seconds = '[]', reset_at_ms = v_now_ms
    WHERE session_id = v_head.session_id;
    PERFORM chatpulse.notify_directory(p_streamer_id);
    RETURN true;
END $$;

-- An instance says that it is running, for another p_lease.
CREATE FUNCTION chatpulse.renew_lease(p_instance_id uuid, p_lease interval) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO chatpulse.instances (instance_id, lease_until)
    VALUES (p_instance_id, clock_timestamp() + p_lease)
    ON CONFLICT (instance_id) DO UPDATE SET lease_until = excluded.lease_until
    RETURNING chatpulse.clock_ms()
$$;

-- What the application's role may do: append to the journal, but never change it.
CREATE FUNCTION chatpulse.grant_application(p_role name) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA chatpulse TO %I', p_role);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA chatpulse FROM %I', p_role);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA chatpulse TO %I', p_role);
    EXECUTE format('GRANT INSERT ON chatpulse.streamer_events, chatpulse.session_events TO %I', p_role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON chatpulse.users, chatpulse.configs, '
        'chatpulse.eventsub_subscriptions, chatpulse.sessions, chatpulse.live_sessions, '
        'chatpulse.instances, chatpulse.vote_ids, chatpulse.session_keys TO %I', p_role);
END $$;
