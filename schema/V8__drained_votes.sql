-- Votes that were acknowledged before and have waited in the queue are journaled to their session also after
-- its end.
-- Safe next to the previous release: the function that it calls keeps its arguments and its answer.

-- As append_votes was, described in V5; with p_also_ended, sessions that have ended take votes, too.
CREATE FUNCTION chatpulse.append_votes(
    p_session_ids  uuid[],
    p_message_keys uuid[],             -- message ids in 16 bytes
    p_message_ids  text[],
    p_for          boolean[],          -- true: for, false: against
    p_weights      double precision[],
    p_times_ms     bigint[],           -- when the vote arrived, on this server's clock as estimated
    p_viewers      text[],             -- keyed hashes
    p_metadata     jsonb,
    p_also_ended   boolean             -- whether sessions that have ended take votes, too
) RETURNS TABLE (
    session_id uuid, streamer_id uuid, ordinal bigint, version bigint, config_version bigint,
    model text, vote_delta double precision, decay_speed double precision, window_seconds integer,
    at_ms bigint, value double precision, for_count bigint, against_count bigint, seconds jsonb,
    started_at_ms bigint, reset_at_ms bigint, ended_at_ms bigint,
    accepted bigint[], late bigint[], now_ms bigint
)
LANGUAGE plpgsql
SET lock_timeout = '150ms'
AS $$
#variable_conflict use_column
DECLARE
    v_now_ms   bigint;
    v_accepted bigint[];
BEGIN
    -- JSON has no such numbers: they would stand in the journal as text and could not be read back.
    IF NOT (0 <= ALL (p_weights) AND 'Infinity' > ALL (p_weights)) THEN
        RAISE EXCEPTION 'a weight is negative or no finite number' USING ERRCODE = 'numeric_value_out_of_range';
    END IF;

    PERFORM 1 FROM chatpulse.sessions s
    WHERE s.session_id = ANY (p_session_ids)
    ORDER BY s.session_id
    FOR UPDATE;

    v_now_ms := chatpulse.clock_ms();

    -- Which votes are new: the first of each message id, unless it is known already.
    WITH first AS (
        SELECT DISTINCT ON (s.streamer_id, v.message_key) v.n, s.streamer_id, v.message_key, s.session_id
        FROM unnest(p_session_ids, p_message_keys) WITH ORDINALITY AS v (session_id, message_key, n)
        JOIN chatpulse.sessions s ON s.session_id = v.session_id
        WHERE p_also_ended OR s.ended_at_ms IS NULL
        ORDER BY s.streamer_id, v.message_key, v.n
    ), added AS (
        INSERT INTO chatpulse.vote_ids (streamer_id, message_id, session_id)
        SELECT f.streamer_id, f.message_key, f.session_id FROM first f
        ORDER BY f.streamer_id, f.message_key
        ON CONFLICT DO NOTHING
        RETURNING streamer_id, message_id
    )
    SELECT coalesce(array_agg(f.n ORDER BY f.n), '{}') INTO v_accepted
    FROM first f
    JOIN added a ON a.streamer_id = f.streamer_id AND a.message_id = f.message_key;

    -- One event a session, and the head after it.
    WITH vote AS (
        SELECT v.n, v.session_id, v.message_id, v.is_for, v.viewer,
               greatest(v_now_ms, s.at_ms) AS at_ms,
               least(v.t_ms, greatest(v_now_ms, s.at_ms)) AS t_ms,
               -- A vote from before the last reset stands in the journal, but moves nothing.
               CASE WHEN least(v.t_ms, greatest(v_now_ms, s.at_ms)) < s.reset_at_ms
                    THEN 0 ELSE v.weight END AS weight,
               s.model, s.decay_speed
        FROM unnest(p_session_ids, p_message_ids, p_for, p_weights, p_times_ms, p_viewers)
             WITH ORDINALITY AS v (session_id, message_id, is_for, weight, t_ms, viewer, n)
        JOIN unnest(v_accepted) AS a (n) ON a.n = v.n
        JOIN chatpulse.sessions s ON s.session_id = v.session_id
    ), batch AS (
        SELECT v.session_id,
               jsonb_agg(jsonb_build_object(
                   'm', v.message_id, 's', CASE WHEN v.is_for THEN 'for' ELSE 'against' END,
                   'w', v.weight, 't', v.t_ms, 'v', v.viewer) ORDER BY v.n) AS votes,
               sum(CASE WHEN v.is_for THEN v.weight ELSE -v.weight END
                   * chatpulse.decay_factor(v.decay_speed * chatpulse.seconds_between(v.t_ms, v.at_ms))
                   ORDER BY v.n) AS pull,
               count(*) FILTER (WHERE v.is_for AND v.weight <> 0) AS for_added,
               count(*) FILTER (WHERE NOT v.is_for AND v.weight <> 0) AS against_added,
               jsonb_agg(jsonb_build_array(
                   v.t_ms / 1000, CASE WHEN v.is_for THEN v.weight ELSE 0 END,
                   CASE WHEN v.is_for THEN 0 ELSE v.weight END))
                   FILTER (WHERE v.model = 'window' AND v.weight <> 0) AS tally
        FROM vote v
        GROUP BY v.session_id
    ), moved AS (
        SELECT s.session_id, s.version + 1 AS version, b.votes, greatest(v_now_ms, s.at_ms) AS at_ms,
               s.for_count + b.for_added AS for_count, s.against_count + b.against_added AS against_count,
               b.pull, s.value, s.model, s.decay_speed, s.vote_delta, s.at_ms AS before_ms, s.window_seconds,
               CASE s.model WHEN 'window'
                    THEN chatpulse.window_tally(s.seconds, b.tally, greatest(v_now_ms, s.at_ms))
                    ELSE s.seconds END AS seconds
        FROM batch b
        JOIN chatpulse.sessions s ON s.session_id = b.session_id
    ), unsettled AS MATERIALIZED (
        -- By itself, because PostgreSQL puts settled() in place only where its argument is a mere column.
        SELECT m.*,
               CASE WHEN m.model <> 'window'
                    THEN m.value * chatpulse.decay_factor(
                             m.decay_speed * chatpulse.seconds_between(m.before_ms, m.at_ms))
                         + m.vote_delta * m.pull
               END AS decayed
        FROM moved m
    ), head AS (
        SELECT u.session_id, u.version, u.votes, u.at_ms, u.for_count, u.against_count, u.seconds,
               CASE u.model WHEN 'window'
                    THEN chatpulse.window_value(u.seconds, u.window_seconds, u.at_ms)
                    ELSE chatpulse.settled(u.decayed)
               END AS value
        FROM unsettled u
    ), event AS (
        INSERT INTO chatpulse.session_events (session_id, version, type, schema_version, data, metadata)
        SELECT h.session_id, h.version, 'VotesCast', 1,
               jsonb_build_object('votes', h.votes, 'at', h.at_ms, 'value', h.value,
                                  'for', h.for_count, 'against', h.against_count),
               p_metadata
        FROM head h
    )
    UPDATE chatpulse.sessions s
    SET version = h.version, at_ms = h.at_ms, value = h.value, seconds = h.seconds,
        for_count = h.for_count, against_count = h.against_count
    FROM head h
    WHERE s.session_id = h.session_id;

    RETURN QUERY
    SELECT s.session_id, s.streamer_id, s.ordinal, s.version, s.config_version,
           s.model, s.vote_delta, s.decay_speed, s.window_seconds,
           s.at_ms, s.value, s.for_count, s.against_count, s.seconds,
           s.started_at_ms, s.reset_at_ms, s.ended_at_ms,
           coalesce(array_agg(v.n) FILTER (WHERE a.n IS NOT NULL), '{}'),
           -- Looked up for sessions that have ended only.
           coalesce(array_agg(v.n) FILTER (WHERE s.ended_at_ms IS NOT NULL AND NOT EXISTS (
               SELECT FROM chatpulse.vote_ids k
               WHERE k.streamer_id = s.streamer_id AND k.message_id = v.message_key)), '{}'),
           v_now_ms
    FROM unnest(p_session_ids, p_message_keys) WITH ORDINALITY AS v (session_id, message_key, n)
    JOIN chatpulse.sessions s ON s.session_id = v.session_id
    LEFT JOIN unnest(v_accepted) AS a (n) ON a.n = v.n
    GROUP BY s.session_id;
END $$;

-- As the previous release calls it.
CREATE OR REPLACE FUNCTION chatpulse.append_votes(
    p_session_ids uuid[], p_message_keys uuid[], p_message_ids text[], p_for boolean[],
    p_weights double precision[], p_times_ms bigint[], p_viewers text[], p_metadata jsonb
) RETURNS TABLE (
    session_id uuid, streamer_id uuid, ordinal bigint, version bigint, config_version bigint,
    model text, vote_delta double precision, decay_speed double precision, window_seconds integer,
    at_ms bigint, value double precision, for_count bigint, against_count bigint, seconds jsonb,
    started_at_ms bigint, reset_at_ms bigint, ended_at_ms bigint,
    accepted bigint[], late bigint[], now_ms bigint
)
LANGUAGE sql AS $$
    SELECT * FROM chatpulse.append_votes(
        p_session_ids, p_message_keys, p_message_ids, p_for, p_weights, p_times_ms, p_viewers, p_metadata, false)
$$;
