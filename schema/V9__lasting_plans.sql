-- Plans that last: appending votes with plans that are made once, in fewer statements and look-ups, and holds whose
-- plans are good for full tables also when they were made for empty ones.
-- Safe next to the previous release: arguments and answers are the same.

-- As before, described in V5 and V8.
CREATE OR REPLACE FUNCTION chatpulse.append_votes(
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
-- Planned once: planning took most of the time of a small batch. Every join here looks rows up by their key,
-- whatever the tables hold when it is planned.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    v_now_ms   bigint;
    v_accepted bigint[];
    v_sessions bigint;
    v_moved    bigint;
BEGIN
    -- JSON has no such numbers: they would stand in the journal as text and could not be read back.
    IF NOT (0 <= ALL (p_weights) AND 'Infinity' > ALL (p_weights)) THEN
        RAISE EXCEPTION 'a weight is negative or no finite number' USING ERRCODE = 'numeric_value_out_of_range';
    END IF;

    PERFORM 1 FROM chatpulse.sessions s
    WHERE s.session_id = ANY (p_session_ids)
    ORDER BY s.session_id
    FOR UPDATE;
    GET DIAGNOSTICS v_sessions = ROW_COUNT;

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
        ON CONFLICT DO NOTHING
        RETURNING streamer_id, message_id
    ), found AS (
        -- What was added joined with its number, by grouping: the sets are not to be joined row by row.
        SELECT min(b.n) AS n
        FROM (SELECT f.streamer_id, f.message_key, f.n FROM first f
              UNION ALL
              SELECT a.streamer_id, a.message_id, NULL FROM added a) b
        GROUP BY b.streamer_id, b.message_key
        HAVING count(*) > count(b.n)
    )
    SELECT coalesce(array_agg(f.n ORDER BY f.n), '{}') INTO v_accepted FROM found f;

    -- One event a session, and the head after it.
    RETURN QUERY
    WITH vote AS (
        SELECT a.n, s.session_id, p_message_ids[a.n] AS message_id, p_for[a.n] AS is_for,
               p_viewers[a.n] AS viewer,
               greatest(v_now_ms, s.at_ms) AS at_ms,
               least(p_times_ms[a.n], greatest(v_now_ms, s.at_ms)) AS t_ms,
               -- A vote from before the last reset stands in the journal, but moves nothing.
               CASE WHEN least(p_times_ms[a.n], greatest(v_now_ms, s.at_ms)) < s.reset_at_ms
                    THEN 0 ELSE p_weights[a.n] END AS weight,
               s.model, s.decay_speed
        FROM unnest(v_accepted) AS a (n)
        JOIN chatpulse.sessions s ON s.session_id = p_session_ids[a.n]
        ORDER BY s.session_id, a.n
    ), batch AS (
        -- The votes come sorted.
        SELECT v.session_id, array_agg(v.n) AS accepted,
               jsonb_agg(jsonb_build_object(
                   'm', v.message_id, 's', CASE WHEN v.is_for THEN 'for' ELSE 'against' END,
                   'w', v.weight, 't', v.t_ms, 'v', v.viewer)) AS votes,
               sum(CASE WHEN v.is_for THEN v.weight ELSE -v.weight END
                   * chatpulse.decay_factor(v.decay_speed * chatpulse.seconds_between(v.t_ms, v.at_ms))) AS pull,
               count(*) FILTER (WHERE v.is_for AND v.weight <> 0) AS for_added,
               count(*) FILTER (WHERE NOT v.is_for AND v.weight <> 0) AS against_added,
               jsonb_agg(jsonb_build_array(
                   v.t_ms / 1000, CASE WHEN v.is_for THEN v.weight ELSE 0 END,
                   CASE WHEN v.is_for THEN 0 ELSE v.weight END))
                   FILTER (WHERE v.model = 'window' AND v.weight <> 0) AS tally
        FROM vote v
        GROUP BY v.session_id
    ), moved AS (
        SELECT s.session_id, s.version + 1 AS version, b.accepted, b.votes, greatest(v_now_ms, s.at_ms) AS at_ms,
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
        SELECT u.session_id, u.version, u.accepted, u.votes, u.at_ms, u.for_count, u.against_count, u.seconds,
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
    WHERE s.session_id = h.session_id
    RETURNING s.session_id, s.streamer_id, s.ordinal, s.version, s.config_version,
              s.model, s.vote_delta, s.decay_speed, s.window_seconds,
              s.at_ms, s.value, s.for_count, s.against_count, s.seconds,
              s.started_at_ms, s.reset_at_ms, s.ended_at_ms,
              h.accepted, '{}'::bigint[], v_now_ms;
    GET DIAGNOSTICS v_moved = ROW_COUNT;

    -- The sessions without a new vote, which are few.
    IF v_moved < v_sessions THEN
        RETURN QUERY
        SELECT s.session_id, s.streamer_id, s.ordinal, s.version, s.config_version,
               s.model, s.vote_delta, s.decay_speed, s.window_seconds,
               s.at_ms, s.value, s.for_count, s.against_count, s.seconds,
               s.started_at_ms, s.reset_at_ms, s.ended_at_ms,
               '{}'::bigint[],
               -- Looked up for sessions that have ended only.
               CASE WHEN s.ended_at_ms IS NULL THEN '{}' ELSE ARRAY(
                   SELECT v.n
                   FROM unnest(p_session_ids, p_message_keys) WITH ORDINALITY AS v (session_id, message_key, n)
                   WHERE v.session_id = s.session_id AND NOT EXISTS (
                       SELECT FROM chatpulse.vote_ids k
                       WHERE k.streamer_id = s.streamer_id AND k.message_id = v.message_key)
                   ORDER BY v.n) END,
               v_now_ms
        FROM (SELECT v.session_id FROM unnest(p_session_ids) AS v (session_id)
              EXCEPT SELECT p_session_ids[a.n] FROM unnest(v_accepted) AS a (n)) AS unmoved
        JOIN chatpulse.sessions s ON s.session_id = unmoved.session_id;
    END IF;
END $$;

-- Every join of a hold looks rows up by their key. Plans that were made when there were few sessions read all of
-- them, and are kept until the next ANALYZE.
ALTER FUNCTION chatpulse.hold(uuid, uuid, uuid, bytea, jsonb, interval) SET enable_seqscan = off;
ALTER FUNCTION chatpulse.hold(uuid, uuid, uuid, bytea, jsonb, interval) SET enable_hashjoin = off;
ALTER FUNCTION chatpulse.hold(uuid, uuid, uuid, bytea, jsonb, interval) SET enable_mergejoin = off;
ALTER FUNCTION chatpulse.hold_streamer(uuid, uuid, uuid, bytea, jsonb, interval) SET enable_seqscan = off;
ALTER FUNCTION chatpulse.hold_streamer(uuid, uuid, uuid, bytea, jsonb, interval) SET enable_hashjoin = off;
ALTER FUNCTION chatpulse.hold_streamer(uuid, uuid, uuid, bytea, jsonb, interval) SET enable_mergejoin = off;
