-- Twitch: tokens, sign-ins, what one instance does for all, subscriptions as they stand at Twitch.
-- Safe next to the previous release: its tables get columns with defaults that it does not name, and each function
-- that it calls keeps its arguments and its answer. What it requests is created by instances of this release.

-- Rather fail than make everything wait behind a long read of these tables. May be repeated.
SET LOCAL lock_timeout = '5s';

-- OAuth tokens of Twitch users: of streamers, for their channel, and of accounts that read and write chat.
-- Ciphertexts open only in their place: security/keyring.rs.
CREATE TABLE chatpulse.oauth_tokens (
    owner_kind         text        NOT NULL CHECK (owner_kind IN ('channel', 'bot')),
    owner_id           text        NOT NULL, -- Twitch's user id
    login              text        NOT NULL,
    scopes             text[]      NOT NULL,
    access_token       bytea       NOT NULL, -- sealed
    refresh_token      bytea       NOT NULL, -- sealed
    refresh_token_hash bytea       NOT NULL, -- SHA-256
    key_id             text        NOT NULL, -- of the key that both are sealed with
    expires_at         timestamptz NOT NULL,
    status             text        NOT NULL DEFAULT 'valid' CHECK (status IN ('valid', 'invalid')),
    status_reason      text,                 -- why it is invalid
    generation         bigint      NOT NULL DEFAULT 1, -- counts the tokens of this owner
    refreshing_until   timestamptz,          -- till then somebody is refreshing it
    validated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (owner_kind, owner_id)
);
CREATE INDEX oauth_tokens_refresh ON chatpulse.oauth_tokens (refresh_token_hash);
CREATE INDEX oauth_tokens_expiry ON chatpulse.oauth_tokens (expires_at) WHERE status = 'valid';
CREATE INDEX oauth_tokens_validated ON chatpulse.oauth_tokens (validated_at) WHERE status = 'valid';
CREATE INDEX oauth_tokens_key ON chatpulse.oauth_tokens (key_id);

-- Who is signed in: one row a browser.
CREATE TABLE chatpulse.web_sessions (
    id_hash     bytea       PRIMARY KEY, -- SHA-256 of what the browser's cookie holds
    streamer_id uuid        NOT NULL REFERENCES chatpulse.users (id),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL
);
CREATE INDEX web_sessions_streamer ON chatpulse.web_sessions (streamer_id);
CREATE INDEX web_sessions_expiry ON chatpulse.web_sessions (expires_at);

-- What one instance at a time does for all.
CREATE TABLE chatpulse.duties (
    name        text        PRIMARY KEY,
    instance_id uuid        NOT NULL,
    lease_until timestamptz NOT NULL
);

-- Whether this instance has the duty, for another p_lease.
CREATE FUNCTION chatpulse.take_duty(p_name text, p_instance_id uuid, p_lease interval) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chatpulse.duties AS d (name, instance_id, lease_until)
    VALUES (p_name, p_instance_id, clock_timestamp() + p_lease)
    ON CONFLICT (name) DO UPDATE SET instance_id = excluded.instance_id, lease_until = excluded.lease_until
    WHERE d.instance_id = excluded.instance_id OR d.lease_until < clock_timestamp();
    RETURN FOUND;
END $$;

-- The conduit that each application's notifications come through.
CREATE TABLE chatpulse.conduits (
    client_id  text        PRIMARY KEY,
    conduit_id text        NOT NULL,
    led_to     bytea,      -- digest of the callback and the secret that its shards were given last
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Status: 'requested' (to be created at due_at), 'enabled', 'blocked' (only a person can help, see reason),
-- 'ending' (to be deleted at Twitch).
ALTER TABLE chatpulse.eventsub_subscriptions
    ADD COLUMN conduit_id text,
    ADD COLUMN reason     text,
    ADD COLUMN attempts   integer     NOT NULL DEFAULT 0,
    ADD COLUMN due_at     timestamptz NOT NULL DEFAULT now();
CREATE INDEX eventsub_subscriptions_due ON chatpulse.eventsub_subscriptions (due_at)
    WHERE status IN ('requested', 'ending');

-- What a session needs to hear of: its chat, and what is taken back there. The first one is requested by whoever
-- starts the session, the others with it.
CREATE FUNCTION chatpulse.chat_types() RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY['channel.chat.message', 'channel.chat.message_delete', 'channel.chat.clear_user_messages',
                 'channel.chat.clear', 'channel.shared_chat.begin', 'channel.shared_chat.end']
$$;

-- As before, with three more events: a profile that changed at Twitch, and what became of subscriptions.
CREATE OR REPLACE FUNCTION chatpulse.append_streamer_event(
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
        WHEN 'ProfileChanged' THEN
            UPDATE chatpulse.users SET login = p_data->>'login', display_name = p_data->>'display_name'
            WHERE id = p_streamer_id;
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
            SELECT p_streamer_id, t.type, 'requested'
            FROM unnest(CASE p_data->>'type' WHEN 'channel.chat.message' THEN chatpulse.chat_types()
                        ELSE ARRAY[p_data->>'type'] END) AS t (type)
            ON CONFLICT (streamer_id, type) DO UPDATE SET
                status = 'requested', reason = NULL, attempts = 0, due_at = clock_timestamp(),
                requested_at = clock_timestamp(), changed_at = clock_timestamp()
            WHERE eventsub_subscriptions.status <> 'enabled' OR excluded.type = p_data->>'type';
        WHEN 'SubscriptionConfirmed' THEN
            UPDATE chatpulse.eventsub_subscriptions SET
                status = 'enabled', subscription_id = p_data->>'subscription_id',
                conduit_id = p_data->>'conduit_id', reason = NULL, attempts = 0, changed_at = clock_timestamp()
            WHERE streamer_id = p_streamer_id AND type = p_data->>'type';
        WHEN 'SubscriptionRevoked' THEN
            UPDATE chatpulse.eventsub_subscriptions SET
                status = CASE WHEN (p_data->>'recoverable')::boolean THEN 'requested' ELSE 'blocked' END,
                subscription_id = NULL, reason = p_data->>'reason', due_at = clock_timestamp(),
                changed_at = clock_timestamp()
            WHERE streamer_id = p_streamer_id AND type = p_data->>'type' AND status <> 'ending';
        ELSE
            RAISE EXCEPTION 'unknown streamer event %', p_type USING ERRCODE = 'invalid_parameter_value';
    END CASE;
    PERFORM chatpulse.notify_directory(p_streamer_id);
    RETURN p_expected_version + 1;
END $$;

-- Appends an event to a streamer's stream at whatever version it is. Answers whether the streamer exists.
CREATE FUNCTION chatpulse.note_streamer_event(p_streamer_id uuid, p_type text, p_data jsonb, p_metadata jsonb)
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_version bigint;
BEGIN
    SELECT version INTO v_version FROM chatpulse.users WHERE id = p_streamer_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM chatpulse.append_streamer_event(p_streamer_id, v_version, p_type, 1, p_data, p_metadata);
    RETURN true;
END $$;

-- Notes that Twitch has a subscription that was wanted. Answers false when it is not wanted any more.
CREATE FUNCTION chatpulse.confirm_subscription(
    p_streamer_id uuid, p_type text, p_subscription_id text, p_conduit_id text, p_metadata jsonb
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_row chatpulse.eventsub_subscriptions;
BEGIN
    PERFORM FROM chatpulse.users WHERE id = p_streamer_id FOR UPDATE;
    SELECT * INTO v_row FROM chatpulse.eventsub_subscriptions
    WHERE streamer_id = p_streamer_id AND type = p_type
    FOR UPDATE;
    IF NOT FOUND OR v_row.status = 'ending' THEN
        RETURN false;
    END IF;
    IF v_row.status <> 'enabled' OR v_row.subscription_id IS DISTINCT FROM p_subscription_id THEN
        PERFORM chatpulse.note_streamer_event(
            p_streamer_id, 'SubscriptionConfirmed',
            jsonb_build_object('type', p_type, 'subscription_id', p_subscription_id, 'conduit_id', p_conduit_id),
            p_metadata);
    END IF;
    RETURN true;
END $$;

-- Notes that Twitch has ended a subscription, or doesn't have it. Answers whose it was: none when it is unknown, or
-- noted already.
CREATE FUNCTION chatpulse.revoke_subscription(
    p_subscription_id text, p_reason text, p_recoverable boolean, p_metadata jsonb
) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    v_streamer_id uuid;
    v_type        text;
BEGIN
    SELECT streamer_id INTO v_streamer_id FROM chatpulse.eventsub_subscriptions
    WHERE subscription_id = p_subscription_id;
    PERFORM FROM chatpulse.users WHERE id = v_streamer_id FOR UPDATE;
    SELECT type INTO v_type FROM chatpulse.eventsub_subscriptions
    WHERE subscription_id = p_subscription_id AND status = 'enabled'
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM chatpulse.note_streamer_event(
        v_streamer_id, 'SubscriptionRevoked',
        jsonb_build_object('type', v_type, 'subscription_id', p_subscription_id, 'reason', p_reason,
                           'recoverable', p_recoverable),
        p_metadata);
    RETURN v_streamer_id;
END $$;

-- Marks subscriptions that nobody needs for being deleted at Twitch: those of chats without a session for p_keep, and
-- all of disabled streamers. Answers how many.
CREATE FUNCTION chatpulse.end_unwanted_subscriptions(p_keep interval, p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH unwanted AS (
        SELECT e.streamer_id, e.type
        FROM chatpulse.eventsub_subscriptions e JOIN chatpulse.users u ON u.id = e.streamer_id
        WHERE e.status <> 'ending' AND e.requested_at < clock_timestamp() - p_keep
          AND (u.disabled_at IS NOT NULL
               OR (e.type = ANY (chatpulse.chat_types())
                   AND NOT EXISTS (SELECT FROM chatpulse.live_sessions l WHERE l.streamer_id = e.streamer_id)
                   AND coalesce((SELECT max(s.ended_at_ms) FROM chatpulse.sessions s
                                 WHERE s.streamer_id = e.streamer_id), 0)
                       < chatpulse.unix_ms(clock_timestamp() - p_keep)))
        LIMIT p_limit
        FOR UPDATE OF e SKIP LOCKED
    ), marked AS (
        UPDATE chatpulse.eventsub_subscriptions e SET
            status = 'ending', due_at = clock_timestamp(), attempts = 0, changed_at = clock_timestamp()
        FROM unwanted w WHERE e.streamer_id = w.streamer_id AND e.type = w.type
        RETURNING 1
    )
    SELECT count(*) FROM marked
$$;

-- Requests what live sessions need and nobody has requested, or somebody was about to delete. Answers how many.
CREATE FUNCTION chatpulse.request_missing_subscriptions(p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH missing AS (
        SELECT l.streamer_id, t.type
        FROM chatpulse.live_sessions l CROSS JOIN unnest(chatpulse.chat_types()) AS t (type)
        LEFT JOIN chatpulse.eventsub_subscriptions e ON e.streamer_id = l.streamer_id AND e.type = t.type
        WHERE e.status IS NULL OR e.status = 'ending'
        ORDER BY l.streamer_id, t.type
        LIMIT p_limit
    ), requested AS (
        INSERT INTO chatpulse.eventsub_subscriptions (streamer_id, type, status)
        SELECT streamer_id, type, 'requested' FROM missing
        ON CONFLICT (streamer_id, type) DO UPDATE SET
            status = 'requested', due_at = clock_timestamp(), attempts = 0, requested_at = clock_timestamp(),
            changed_at = clock_timestamp()
        WHERE eventsub_subscriptions.status = 'ending'
        RETURNING 1
    )
    SELECT count(*) FROM requested
$$;

-- What the application's role may do: append to the journal, but never change it.
CREATE OR REPLACE FUNCTION chatpulse.grant_application(p_role name) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA chatpulse TO %I', p_role);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA chatpulse FROM %I', p_role);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA chatpulse TO %I', p_role);
    EXECUTE format('GRANT INSERT ON chatpulse.streamer_events, chatpulse.session_events TO %I', p_role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON chatpulse.users, chatpulse.configs, '
        'chatpulse.eventsub_subscriptions, chatpulse.sessions, chatpulse.live_sessions, '
        'chatpulse.instances, chatpulse.vote_ids, chatpulse.session_keys, chatpulse.oauth_tokens, '
        'chatpulse.web_sessions, chatpulse.duties, chatpulse.conduits TO %I', p_role);
END $$;
