-- Recording: sessions that are held while the stream is live, and how each chat is doing.
-- Safe next to the previous release: its tables and functions keep their shapes, the new column of users is null and the
-- previous release does not name it. A recording stands among a session's holders as an id that no instance has, which
-- the previous release counts and mirrors like any other; it drops only ids of instances whose lease has lapsed.

-- Rather fail than make everything wait behind a long read of these tables. May be repeated.
SET LOCAL lock_timeout = '5s';

-- Whether a streamer's streams are recorded; null: nobody has said yet. Streams are followed of all for whom it is said:
-- who has signed in.
ALTER TABLE chatpulse.users ADD COLUMN recorded boolean;
CREATE INDEX users_followed ON chatpulse.users (id) WHERE recorded IS NOT NULL AND disabled_at IS NULL;

-- The newest stream of each streamer whose streams are followed, as far as Twitch has told.
CREATE TABLE chatpulse.streams (
    streamer_id uuid   PRIMARY KEY REFERENCES chatpulse.users (id),
    stream_id   text   NOT NULL, -- Twitch's
    started_ms  bigint NOT NULL,
    ended_ms    bigint           -- null: it is live
);

-- How each chat is doing since when: 'well', 'silent' (live, but nothing is heard), 'blocked' (it can't be read),
-- 'unauthorized' (it can't be read, and only the streamer can change that). No row: well.
CREATE TABLE chatpulse.chat_health (
    streamer_id        uuid        PRIMARY KEY REFERENCES chatpulse.users (id),
    health             text        NOT NULL CHECK (health IN ('well', 'silent', 'blocked', 'unauthorized')),
    reason             text,
    since              timestamptz NOT NULL,
    last_message_at_ms bigint      -- when the health changed; null: not known
);
CREATE INDEX chat_health_trouble ON chatpulse.chat_health (health) WHERE health <> 'well';
CREATE INDEX eventsub_subscriptions_blocked ON chatpulse.eventsub_subscriptions (streamer_id) WHERE status = 'blocked';
CREATE INDEX eventsub_subscriptions_in_vain ON chatpulse.eventsub_subscriptions (streamer_id)
    WHERE status = 'requested' AND attempts >= 6;
CREATE INDEX oauth_tokens_invalid ON chatpulse.oauth_tokens (owner_id) WHERE status = 'invalid';

-- Till then somebody is asking Twitch whether it is valid; `validated_at` is when Twitch last said so.
ALTER TABLE chatpulse.oauth_tokens ADD COLUMN validating_until timestamptz;

-- Revocations in a row, each soon after Twitch had confirmed the subscription.
ALTER TABLE chatpulse.eventsub_subscriptions ADD COLUMN revocations integer NOT NULL DEFAULT 0;

-- How many revocations in a row it is with this one, of a subscription that was confirmed at p_since: one that had held
-- for ten minutes begins anew.
CREATE FUNCTION chatpulse.revocations_in_a_row(p_before integer, p_since timestamptz) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN p_since < clock_timestamp() - interval '10 minutes' THEN 1 ELSE p_before + 1 END
$$;

-- How long to wait before a revoked subscription is requested again: not at all at first, then 2 s, 6 s, 14 s, … up to
-- five minutes, each less by up to a half, so that what was revoked together does not come back together.
CREATE FUNCTION chatpulse.pause_after_revocations(p_revocations integer) RETURNS interval
LANGUAGE sql VOLATILE AS $$
    SELECT make_interval(secs => least(300, 2 * (2 ^ (least(p_revocations, 20) - 1) - 1)) * (1 - random() / 2))
$$;

-- The holder that a running recording is: no instance has this id.
CREATE FUNCTION chatpulse.recording() RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$ SELECT '00000000-0000-0000-0000-000000000000'::uuid $$;

-- What tells when a stream begins and ends.
CREATE FUNCTION chatpulse.stream_types() RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY['stream.online', 'stream.offline'] $$;

-- Has a recording hold the streamer's session exactly while the stream is live and to be recorded. Starts a session if
-- none is live, unless p_session_id is null. Answers whether that changed who holds it. The caller has locked the
-- streamer's row.
CREATE FUNCTION chatpulse.keep_recording(
    p_streamer_id uuid, p_session_id uuid, p_session_key bytea, p_metadata jsonb
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_wanted  boolean;
    v_holders uuid[];
BEGIN
    v_wanted := EXISTS (
        SELECT FROM chatpulse.users u JOIN chatpulse.streams s ON s.streamer_id = u.id
        WHERE u.id = p_streamer_id AND u.recorded AND u.disabled_at IS NULL AND s.ended_ms IS NULL);
    SELECT holders INTO v_holders FROM chatpulse.live_sessions
    WHERE streamer_id = p_streamer_id
    FOR NO KEY UPDATE;
    IF v_wanted = coalesce(chatpulse.recording() = ANY (v_holders), false) THEN
        RETURN false;
    END IF;
    IF NOT v_wanted THEN
        UPDATE chatpulse.live_sessions SET holders = array_remove(holders, chatpulse.recording())
        WHERE streamer_id = p_streamer_id;
    ELSIF v_holders IS NOT NULL THEN
        UPDATE chatpulse.live_sessions SET holders = holders || chatpulse.recording(), unheld_since = NULL
        WHERE streamer_id = p_streamer_id;
    ELSIF p_session_id IS NOT NULL THEN
        PERFORM chatpulse.start_sessions(
            ARRAY[p_streamer_id], ARRAY[p_session_id], ARRAY[p_session_key], chatpulse.recording(), p_metadata);
    ELSE
        RETURN false;
    END IF;
    RETURN true;
END $$;

-- Requests what tells when a streamer's streams begin and end.
CREATE FUNCTION chatpulse.request_stream_types(p_streamer_id uuid) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO chatpulse.eventsub_subscriptions (streamer_id, type, status)
    SELECT p_streamer_id, t.type, 'requested' FROM unnest(chatpulse.stream_types()) AS t (type)
    ON CONFLICT (streamer_id, type) DO UPDATE SET
        status = CASE eventsub_subscriptions.status WHEN 'enabled' THEN 'enabled' ELSE 'requested' END,
        reason = NULL, attempts = 0, due_at = clock_timestamp(),
        -- Also of what is enabled: who is about to end it looks again.
        requested_at = clock_timestamp(), changed_at = clock_timestamp()
$$;

-- As before, with what recording needs.
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
            IF EXISTS (SELECT FROM chatpulse.users WHERE id = p_streamer_id AND recorded IS NOT NULL) THEN
                PERFORM chatpulse.request_stream_types(p_streamer_id);
            END IF;
        WHEN 'RecordingChanged' THEN
            UPDATE chatpulse.users SET recorded = (p_data->>'recorded')::boolean WHERE id = p_streamer_id;
            PERFORM chatpulse.request_stream_types(p_streamer_id);
            PERFORM chatpulse.keep_recording(p_streamer_id, NULL, NULL, p_metadata);
        WHEN 'StreamWentLive' THEN
            INSERT INTO chatpulse.streams (streamer_id, stream_id, started_ms)
            VALUES (p_streamer_id, p_data->>'stream_id', (p_data->>'started_at')::bigint)
            ON CONFLICT (streamer_id) DO UPDATE SET
                stream_id = excluded.stream_id, started_ms = excluded.started_ms, ended_ms = NULL;
        WHEN 'StreamEnded' THEN
            UPDATE chatpulse.streams SET ended_ms = chatpulse.clock_ms() WHERE streamer_id = p_streamer_id;
        WHEN 'ChatHealthChanged' THEN
            INSERT INTO chatpulse.chat_health (streamer_id, health, reason, since, last_message_at_ms)
            VALUES (p_streamer_id, p_data->>'health', p_data->>'reason', chatpulse.clock(),
                    (p_data->>'last_message_at')::bigint)
            ON CONFLICT (streamer_id) DO UPDATE SET
                health = excluded.health, reason = excluded.reason, since = excluded.since,
                last_message_at_ms = excluded.last_message_at_ms;
        WHEN 'SubscriptionRequested' THEN
            INSERT INTO chatpulse.eventsub_subscriptions (streamer_id, type, status)
            SELECT p_streamer_id, t.type, 'requested'
            FROM unnest(CASE p_data->>'type' WHEN 'channel.chat.message' THEN chatpulse.chat_types()
                        ELSE ARRAY[p_data->>'type'] END) AS t (type)
            ON CONFLICT (streamer_id, type) DO UPDATE SET
                status = 'requested', reason = NULL, attempts = 0, revocations = 0, due_at = clock_timestamp(),
                requested_at = clock_timestamp(), changed_at = clock_timestamp()
            WHERE eventsub_subscriptions.status <> 'enabled' OR excluded.type = p_data->>'type';
        WHEN 'SubscriptionConfirmed' THEN
            UPDATE chatpulse.eventsub_subscriptions SET
                status = 'enabled', subscription_id = p_data->>'subscription_id',
                conduit_id = p_data->>'conduit_id', reason = NULL, attempts = 0, changed_at = clock_timestamp()
            WHERE streamer_id = p_streamer_id AND type = p_data->>'type';
        WHEN 'SubscriptionRevoked' THEN
            UPDATE chatpulse.eventsub_subscriptions e SET
                status = CASE WHEN (p_data->>'recoverable')::boolean THEN 'requested' ELSE 'blocked' END,
                subscription_id = NULL, reason = p_data->>'reason', revocations = r.in_a_row,
                due_at = clock_timestamp() + chatpulse.pause_after_revocations(r.in_a_row),
                changed_at = clock_timestamp()
            FROM (
                SELECT chatpulse.revocations_in_a_row(s.revocations, s.changed_at) AS in_a_row
                FROM chatpulse.eventsub_subscriptions s
                WHERE s.streamer_id = p_streamer_id AND s.type = p_data->>'type'
            ) AS r
            WHERE e.streamer_id = p_streamer_id AND e.type = p_data->>'type' AND e.status <> 'ending';
        ELSE
            RAISE EXCEPTION 'unknown streamer event %', p_type USING ERRCODE = 'invalid_parameter_value';
    END CASE;
    PERFORM chatpulse.notify_directory(p_streamer_id);
    RETURN p_expected_version + 1;
END $$;

-- Notes what was seen of the stream of a streamer whose streams are followed: live with p_stream_id since p_started_ms, or, where
-- that is null, that p_ended_id has ended, whichever it was for null. Then a recording holds the session, or lets go of
-- it; a session that this starts gets the id and the key. That a stream is live which has just ended is old news, told
-- again or on its way for long. Answers the streamer's entry if something changed.
CREATE FUNCTION chatpulse.note_stream(
    p_twitch_user_id text, p_stream_id text, p_started_ms bigint, p_ended_id text,
    p_session_id uuid, p_session_key bytea, p_metadata jsonb
) RETURNS SETOF chatpulse.entries
LANGUAGE plpgsql AS $$
DECLARE
    v_streamer_id uuid;
    v_known       record;
    v_live        text;
    v_changed     boolean := true;
BEGIN
    SELECT id INTO v_streamer_id FROM chatpulse.users
    WHERE twitch_user_id = p_twitch_user_id AND recorded IS NOT NULL AND disabled_at IS NULL
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT stream_id, ended_ms INTO v_known FROM chatpulse.streams WHERE streamer_id = v_streamer_id;
    v_live := CASE WHEN v_known.ended_ms IS NULL THEN v_known.stream_id END;
    IF p_stream_id = v_known.stream_id AND v_known.ended_ms > chatpulse.clock_ms() - 300000 THEN
        RETURN;
    ELSIF p_stream_id IS NOT NULL AND p_stream_id IS DISTINCT FROM v_live THEN
        PERFORM chatpulse.note_streamer_event(
            v_streamer_id, 'StreamWentLive',
            jsonb_build_object('stream_id', p_stream_id, 'started_at', p_started_ms), p_metadata);
    ELSIF p_stream_id IS NULL AND v_live = coalesce(p_ended_id, v_live) THEN
        PERFORM chatpulse.note_streamer_event(
            v_streamer_id, 'StreamEnded', jsonb_build_object('stream_id', v_live), p_metadata);
    ELSE
        v_changed := false;
    END IF;
    IF chatpulse.keep_recording(v_streamer_id, p_session_id, p_session_key, p_metadata) OR v_changed THEN
        RETURN QUERY SELECT * FROM chatpulse.entries e WHERE e.streamer_id = v_streamer_id;
    END IF;
END $$;

-- Says whether a streamer's streams are recorded; with p_first only where nobody has said yet. Answers whether that
-- changed something.
CREATE FUNCTION chatpulse.set_recorded(p_streamer_id uuid, p_recorded boolean, p_first boolean, p_metadata jsonb)
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_known record;
BEGIN
    SELECT recorded INTO v_known FROM chatpulse.users WHERE id = p_streamer_id FOR UPDATE;
    IF NOT FOUND OR v_known.recorded = p_recorded OR (p_first AND v_known.recorded IS NOT NULL) THEN
        RETURN false;
    END IF;
    RETURN chatpulse.note_streamer_event(
        p_streamer_id, 'RecordingChanged', jsonb_build_object('recorded', p_recorded), p_metadata);
END $$;

-- Notes how a chat is doing. Answers whether that is something new.
CREATE FUNCTION chatpulse.note_chat_health(
    p_streamer_id uuid, p_health text, p_reason text, p_last_message_at_ms bigint, p_metadata jsonb
) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM chatpulse.users WHERE id = p_streamer_id FOR UPDATE;
    IF p_health = coalesce(
        (SELECT h.health FROM chatpulse.chat_health h WHERE h.streamer_id = p_streamer_id), 'well')
    THEN
        RETURN false;
    END IF;
    RETURN chatpulse.note_streamer_event(
        p_streamer_id, 'ChatHealthChanged',
        jsonb_build_object('health', p_health, 'reason', p_reason, 'last_message_at', p_last_message_at_ms),
        p_metadata);
END $$;

-- Chats that PostgreSQL knows to be in trouble, or that were noted as such: how they are doing now, as far as it knows.
-- A subscription that was tried in vain for about a minute is in trouble, too. Only the streamer can help where their
-- authorization is gone; where it stands, Twitch refuses because of the bot. Of silent chats only Redis knows whether
-- they still are; `listening` says whether their silence means anything.
CREATE VIEW chatpulse.chat_standings AS
SELECT t.streamer_id, coalesce(h.health, 'well') AS noted,
       CASE WHEN o.status = 'invalid' THEN 'unauthorized'
            WHEN e.status = 'blocked' AND e.reason ~* 'authoriz|scope' AND o.status IS NULL THEN 'unauthorized'
            WHEN e.status = 'blocked' AND e.reason = 'authorization_revoked' AND EXISTS (
                SELECT FROM chatpulse.oauth_tokens b WHERE b.owner_kind = 'bot' AND b.status = 'valid')
            THEN 'unauthorized'
            WHEN e.status = 'blocked' OR (e.status = 'requested' AND e.attempts >= 6) THEN 'blocked'
            WHEN h.health = 'silent' THEN 'silent'
            ELSE 'well' END AS now,
       CASE WHEN e.status <> 'enabled' THEN e.reason END AS reason,
       e.status = 'enabled'
           AND EXISTS (SELECT FROM chatpulse.streams s WHERE s.streamer_id = t.streamer_id AND s.ended_ms IS NULL)
           AND EXISTS (SELECT FROM chatpulse.live_sessions l WHERE l.streamer_id = t.streamer_id) AS listening
FROM (
    SELECT h.streamer_id FROM chatpulse.chat_health h WHERE h.health <> 'well'
    UNION
    SELECT e.streamer_id FROM chatpulse.eventsub_subscriptions e
    WHERE e.status = 'blocked' AND e.type = 'channel.chat.message'
    UNION
    SELECT e.streamer_id FROM chatpulse.eventsub_subscriptions e
    WHERE e.status = 'requested' AND e.attempts >= 6 AND e.type = 'channel.chat.message'
    UNION
    SELECT u.id FROM chatpulse.oauth_tokens o JOIN chatpulse.users u ON u.twitch_user_id = o.owner_id
    WHERE o.status = 'invalid' AND o.owner_kind = 'channel'
) AS t
JOIN chatpulse.users u ON u.id = t.streamer_id AND u.disabled_at IS NULL
LEFT JOIN chatpulse.chat_health h ON h.streamer_id = t.streamer_id
LEFT JOIN chatpulse.oauth_tokens o ON o.owner_kind = 'channel' AND o.owner_id = u.twitch_user_id
LEFT JOIN chatpulse.eventsub_subscriptions e
       ON e.streamer_id = t.streamer_id AND e.type = 'channel.chat.message';

-- As before, and what tells of streams that nobody follows.
CREATE OR REPLACE FUNCTION chatpulse.end_unwanted_subscriptions(p_keep interval, p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH unwanted AS (
        SELECT e.streamer_id, e.type
        FROM chatpulse.eventsub_subscriptions e JOIN chatpulse.users u ON u.id = e.streamer_id
        WHERE e.status <> 'ending' AND e.requested_at < clock_timestamp() - p_keep
          AND (u.disabled_at IS NOT NULL
               OR (e.type = ANY (chatpulse.stream_types()) AND u.recorded IS NULL)
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

-- Requests what tells of followed streams and nobody has requested, or somebody was about to delete. Answers how many.
CREATE FUNCTION chatpulse.request_missing_stream_subscriptions(p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH missing AS (
        SELECT u.id AS streamer_id, t.type
        FROM chatpulse.users u CROSS JOIN unnest(chatpulse.stream_types()) AS t (type)
        LEFT JOIN chatpulse.eventsub_subscriptions e ON e.streamer_id = u.id AND e.type = t.type
        WHERE u.recorded IS NOT NULL AND u.disabled_at IS NULL AND (e.status IS NULL OR e.status = 'ending')
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

-- Takes votes back from a live session, also of viewers until a moment: those were banned then, and may have come back.
-- As apply_retraction in V12, which the previous release goes on calling, and which takes all votes of a viewer so far.
-- Safe beside it: it reads an event of this function as it reads its own, leaving out `until`; only while it takes votes
-- back itself does it fold such an event without the votes that a viewer cast after the ban and before the event.

-- The caller has folded the session's events up to p_version without the votes, and tells the head that this gives. In a
-- busy session votes are journaled all the time, so the ones that came meanwhile are added here. Answers the stream's new
-- version; null when the session has ended, or when something else came meanwhile, or another vote that is to be taken
-- back: then the caller has to fold that, too.
CREATE FUNCTION chatpulse.retract_votes(
    p_session_id uuid, p_version bigint,
    p_at_ms bigint, p_value double precision, p_for bigint, p_against bigint, p_seconds jsonb,
    p_messages text[],   -- whose votes are taken back
    p_viewers  text[],   -- keyed hashes of those whose votes are taken back
    p_until_ms bigint[], -- for each of these, when the last vote was cast that is taken back
    p_metadata jsonb
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_head   chatpulse.sessions;
    v_event  record;
    v_now_ms bigint;
BEGIN
    PERFORM FROM chatpulse.users
    WHERE id = (SELECT s.streamer_id FROM chatpulse.sessions s WHERE s.session_id = p_session_id)
    FOR NO KEY UPDATE;
    SELECT * INTO v_head FROM chatpulse.sessions
    WHERE session_id = p_session_id AND ended_at_ms IS NULL
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    v_head.at_ms := p_at_ms;
    v_head.value := p_value;
    v_head.for_count := p_for;
    v_head.against_count := p_against;
    v_head.seconds := p_seconds;
    FOR v_event IN
        SELECT e.type, e.schema_version, e.data FROM chatpulse.session_events e
        WHERE e.session_id = p_session_id AND e.version > p_version
        ORDER BY e.version
    LOOP
        -- Joined, not looked for one by one: there may be many of both.
        IF v_event.type <> 'VotesCast' OR v_event.schema_version <> 1 OR EXISTS (
            SELECT FROM jsonb_array_elements(v_event.data->'votes') AS v
            JOIN unnest(p_messages) AS m (message_id) ON m.message_id = v->>'m'
        ) OR EXISTS (
            SELECT FROM jsonb_array_elements(v_event.data->'votes') AS v
            JOIN unnest(p_viewers, p_until_ms) AS b (viewer, until_ms) ON b.viewer = v->>'v'
            WHERE (v->>'t')::bigint <= b.until_ms
        ) THEN
            RETURN NULL;
        END IF;
        v_head := chatpulse.after_votes(v_head, v_event.data);
    END LOOP;

    v_now_ms := greatest(chatpulse.clock_ms(), v_head.at_ms);
    v_head.value := chatpulse.value_at(v_head, v_now_ms);
    PERFORM chatpulse.append_session_event(
        p_session_id, v_head.version + 1, 'VotesRetracted',
        jsonb_build_object('messages', to_jsonb(p_messages), 'viewers', to_jsonb(p_viewers),
                           'until', to_jsonb(p_until_ms), 'at', v_now_ms,
                           'value', v_head.value, 'for', v_head.for_count, 'against', v_head.against_count,
                           'seconds', v_head.seconds),
        p_metadata);
    UPDATE chatpulse.sessions SET
        version = v_head.version + 1, at_ms = v_now_ms, value = v_head.value, for_count = v_head.for_count,
        against_count = v_head.against_count, seconds = v_head.seconds
    WHERE session_id = p_session_id;
    UPDATE chatpulse.users SET changed = pg_current_xact_id() WHERE id = v_head.streamer_id;
    PERFORM chatpulse.notify_directory(v_head.streamer_id);
    RETURN v_head.version + 1;
END $$;

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
        'chatpulse.web_sessions, chatpulse.duties, chatpulse.conduits, chatpulse.streams, '
        'chatpulse.chat_health TO %I', p_role);
END $$;

-- Who signed in before is recorded as who signs in from now on.
SELECT chatpulse.set_recorded(u.id, true, true, '{"correlation_id": "migration"}')
FROM chatpulse.users u
JOIN chatpulse.oauth_tokens o ON o.owner_kind = 'channel' AND o.owner_id = u.twitch_user_id AND o.status = 'valid';
