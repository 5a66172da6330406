-- Votes that are taken back, and sessions in which chat does not vote for a while.
-- Safe next to the previous release: it names the columns of the table that gets another one here, which has a default.
-- The view `entries` gets one at its end: a statement that was prepared before is refused before it does anything, and
-- the previous release prepares it anew and repeats it (`is_outdated` in journal/connection.rs); functions that answer
-- rows of the view take the new shape with their next call. It reads columns by name, and goes on counting votes of
-- sessions that are paused; heads that lost votes are heads like others to it, and it folds no events.

-- Rather fail than make everything wait behind a long read of these tables. May be repeated.
SET LOCAL lock_timeout = '5s';

-- Beside the holders, not in the head: whoever takes votes asks for it, whoever moves heads does not.
ALTER TABLE chatpulse.live_sessions ADD COLUMN paused_at timestamptz;

-- As before, and whether chat is kept from voting.
CREATE OR REPLACE VIEW chatpulse.entries AS
SELECT u.id AS streamer_id, u.version AS streamer_version, u.twitch_user_id, u.login, u.display_name,
       u.overlay_uuid, u.disabled_at IS NOT NULL AS disabled, u.changed,
       chatpulse.config_json(c) AS config,
       l.session_id, l.holders AS holder_ids, l.holders_version,
       chatpulse.unix_ms(l.unheld_since) AS unheld_since_ms,
       s.ordinal, s.version, s.config_version, s.model, s.vote_delta, s.decay_speed, s.window_seconds,
       s.at_ms, s.value, s.for_count, s.against_count, s.seconds,
       s.started_at_ms, s.reset_at_ms, s.ended_at_ms, k.key,
       coalesce((SELECT max(n.ordinal) FROM chatpulse.sessions n WHERE n.streamer_id = u.id), 0) AS last_ordinal,
       l.paused_at IS NOT NULL AS paused
FROM chatpulse.users u
JOIN chatpulse.configs c ON c.streamer_id = u.id
LEFT JOIN chatpulse.live_sessions l ON l.streamer_id = u.id
LEFT JOIN chatpulse.sessions s ON s.session_id = l.session_id
LEFT JOIN chatpulse.session_keys k ON k.session_id = l.session_id;

-- Locks are taken in the order that V7 tells: the streamer's row, the live session's, the head last. Both changes below
-- are few, so their functions need no plans that last.

-- A head's value at a time that is not before its own.
CREATE FUNCTION chatpulse.value_at(h chatpulse.sessions, p_now_ms bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE h.model
        WHEN 'window' THEN chatpulse.window_value(h.seconds, h.window_seconds, p_now_ms)
        ELSE chatpulse.settled(
            h.value * chatpulse.decay_factor(h.decay_speed * chatpulse.seconds_between(h.at_ms, p_now_ms)))
    END
$$;

-- Keeps chat from voting in the live session, or lets it vote again. Answers whether that changed something: not when
-- none is live, nor when it was so before. Votes that were taken before are counted also later.
CREATE FUNCTION chatpulse.set_paused(p_streamer_id uuid, p_paused boolean, p_metadata jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_session_id uuid;
    v_head       chatpulse.sessions;
    v_now_ms     bigint;
BEGIN
    PERFORM FROM chatpulse.users WHERE id = p_streamer_id FOR NO KEY UPDATE;
    SELECT session_id INTO v_session_id FROM chatpulse.live_sessions
    WHERE streamer_id = p_streamer_id AND (paused_at IS NOT NULL) <> p_paused
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT * INTO STRICT v_head FROM chatpulse.sessions WHERE session_id = v_session_id FOR UPDATE;
    v_now_ms := greatest(chatpulse.clock_ms(), v_head.at_ms);
    PERFORM chatpulse.append_session_event(
        v_session_id, v_head.version + 1, CASE WHEN p_paused THEN 'VotingPaused' ELSE 'VotingResumed' END,
        jsonb_build_object('at', v_now_ms), p_metadata);
    -- The value is re-based, so that no later event can be earlier than this one.
    UPDATE chatpulse.sessions SET
        version = v_head.version + 1, at_ms = v_now_ms, value = chatpulse.value_at(v_head, v_now_ms)
    WHERE session_id = v_session_id;
    UPDATE chatpulse.live_sessions
    SET paused_at = CASE WHEN p_paused THEN to_timestamp(v_now_ms / 1000.0) END
    WHERE streamer_id = p_streamer_id;
    UPDATE chatpulse.users SET changed = pg_current_xact_id() WHERE id = p_streamer_id;
    PERFORM chatpulse.notify_directory(p_streamer_id);
    RETURN true;
END $$;

-- Messages that were deleted shall not vote from now on. Answers how many of them the session has known before, because
-- they voted or were deleted: only those can have votes to be taken back.
CREATE FUNCTION chatpulse.refuse_messages(p_streamer_id uuid, p_session_id uuid, p_message_keys uuid[])
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_refused bigint;
BEGIN
    -- In the order in which votes are added: both may wait for each other's messages.
    INSERT INTO chatpulse.vote_ids (streamer_id, message_id, session_id)
    SELECT p_streamer_id, m.message_key, p_session_id
    FROM (SELECT DISTINCT k.message_key FROM unnest(p_message_keys) AS k (message_key)) AS m
    ORDER BY m.message_key
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_refused = ROW_COUNT;
    RETURN (
        SELECT count(*) FROM chatpulse.vote_ids k
        WHERE k.streamer_id = p_streamer_id AND k.message_id = ANY (p_message_keys) AND k.session_id = p_session_id
    ) - v_refused;
END $$;

-- A head after votes that stand in the journal, by the formula of V4.
CREATE FUNCTION chatpulse.after_votes(h chatpulse.sessions, p_cast jsonb) RETURNS chatpulse.sessions
LANGUAGE plpgsql AS $$
DECLARE
    v_at_ms bigint := (p_cast->>'at')::bigint;
    v_batch record;
BEGIN
    SELECT coalesce(sum(CASE WHEN v.is_for THEN v.weight ELSE -v.weight END
                        * chatpulse.decay_factor(h.decay_speed * chatpulse.seconds_between(v.t_ms, v_at_ms))), 0)
               AS pull,
           count(*) FILTER (WHERE v.is_for AND v.weight <> 0) AS for_added,
           count(*) FILTER (WHERE NOT v.is_for AND v.weight <> 0) AS against_added,
           jsonb_agg(jsonb_build_array(
               v.t_ms / 1000, CASE WHEN v.is_for THEN v.weight ELSE 0 END,
               CASE WHEN v.is_for THEN 0 ELSE v.weight END)) FILTER (WHERE v.weight <> 0) AS tally
    INTO v_batch
    FROM (
        SELECT e->>'s' = 'for' AS is_for, (e->>'w')::double precision AS weight, (e->>'t')::bigint AS t_ms
        FROM jsonb_array_elements(p_cast->'votes') AS e
    ) AS v;
    IF h.model = 'window' THEN
        h.seconds := chatpulse.window_tally(h.seconds, v_batch.tally, v_at_ms);
        h.value := chatpulse.window_value(h.seconds, h.window_seconds, v_at_ms);
    ELSE
        h.value := chatpulse.settled(
            h.value * chatpulse.decay_factor(h.decay_speed * chatpulse.seconds_between(h.at_ms, v_at_ms))
            + h.vote_delta * v_batch.pull);
    END IF;
    h.for_count := h.for_count + v_batch.for_added;
    h.against_count := h.against_count + v_batch.against_added;
    h.at_ms := v_at_ms;
    RETURN h;
END $$;

-- Takes votes back from a live session: the caller has folded its events up to p_version without them, and tells the
-- head that this gives. In a busy session votes are journaled all the time, so the ones that came meanwhile are added
-- here. Answers the stream's new version; null when the session has ended, or when something else came meanwhile, or
-- another vote that is to be taken back: then the caller has to fold that, too.
CREATE FUNCTION chatpulse.apply_retraction(
    p_session_id uuid, p_version bigint,
    p_at_ms bigint, p_value double precision, p_for bigint, p_against bigint, p_seconds jsonb,
    p_messages text[],  -- whose votes are taken back
    p_viewers  text[],  -- keyed hashes of those whose votes are taken back
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
        IF v_event.type <> 'VotesCast' OR v_event.schema_version <> 1 OR EXISTS (
            SELECT FROM jsonb_array_elements(v_event.data->'votes') AS v
            WHERE v->>'m' = ANY (p_messages) OR v->>'v' = ANY (p_viewers))
        THEN
            RETURN NULL;
        END IF;
        v_head := chatpulse.after_votes(v_head, v_event.data);
    END LOOP;

    v_now_ms := greatest(chatpulse.clock_ms(), v_head.at_ms);
    v_head.value := chatpulse.value_at(v_head, v_now_ms);
    PERFORM chatpulse.append_session_event(
        p_session_id, v_head.version + 1, 'VotesRetracted',
        jsonb_build_object('messages', to_jsonb(p_messages), 'viewers', to_jsonb(p_viewers), 'at', v_now_ms,
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
