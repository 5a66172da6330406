-- The arithmetic of sentiment, the same as in src/domain/sentiment.rs and lua/.
-- Safe next to the previous release: there is none.

-- Unix milliseconds now.
CREATE FUNCTION chatpulse.clock_ms() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- d(x): 0 for x >= 100 (exp() would raise an underflow error far below), 1 for x <= 0, else e^-x.
-- What is no number has the factor 1, as in the other languages; here it is greater than all numbers.
CREATE FUNCTION chatpulse.decay_factor(x double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN x > 0 AND x < 100 THEN exp(-x) WHEN x >= 100 AND x <> 'NaN' THEN 0 ELSE 1 END
$$;

-- Within the limits; a negligible value is 0, so that no later decay can underflow.
CREATE FUNCTION chatpulse.settled(x double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN abs(x) < 1e-9 OR x = 'NaN' THEN 0 ELSE greatest(-100, least(100, x)) END
$$;

-- Seconds from one time in milliseconds to a later one; 0 when it is not later.
CREATE FUNCTION chatpulse.seconds_between(p_from_ms bigint, p_to_ms bigint) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(p_to_ms - p_from_ms, 0) / 1000::double precision
$$;

-- The seconds of a window with [second, for, against] rows added, oldest first, at most 120.
CREATE FUNCTION chatpulse.window_tally(p_seconds jsonb, p_added jsonb, p_now_ms bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(second, for_weight, against_weight) ORDER BY second), '[]')
    FROM (
        SELECT (e->>0)::bigint AS second,
               sum((e->>1)::double precision) AS for_weight, sum((e->>2)::double precision) AS against_weight
        FROM jsonb_array_elements(p_seconds || coalesce(p_added, '[]')) AS e
        WHERE (e->>0)::bigint > p_now_ms / 1000 - 120
        GROUP BY 1
    ) AS tally
$$;

-- 100·(for − against)/(for + against) over the last seconds; 0 when they are empty.
CREATE FUNCTION chatpulse.window_value(p_seconds jsonb, p_window_seconds integer, p_now_ms bigint)
RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN sum(f + a) > 0 THEN chatpulse.settled(100 * (sum(f) - sum(a)) / sum(f + a)) ELSE 0 END
    FROM (
        SELECT (e->>1)::double precision AS f, (e->>2)::double precision AS a
        FROM jsonb_array_elements(p_seconds) AS e
        WHERE (e->>0)::bigint > p_now_ms / 1000 - p_window_seconds
    ) AS tally
$$;
