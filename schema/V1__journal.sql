-- The journal: append-only events, the one truth.
-- Safe next to the previous release: there is none.

-- Streams of streamers are short and kept for ever.
CREATE TABLE chatpulse.streamer_events (
    streamer_id    uuid        NOT NULL,
    version        bigint      NOT NULL CHECK (version > 0),
    type           text        NOT NULL,
    schema_version integer     NOT NULL CHECK (schema_version > 0),
    data           jsonb       NOT NULL,
    metadata       jsonb       NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (streamer_id, version)
);

-- Session ids are UUIDv7, ordered by time: ranges of ids are ranges of time, so that retention
-- can drop whole partitions.
CREATE TABLE chatpulse.session_events (
    session_id     uuid        NOT NULL,
    version        bigint      NOT NULL CHECK (version > 0),
    type           text        NOT NULL,
    schema_version integer     NOT NULL CHECK (schema_version > 0),
    data           jsonb       NOT NULL,
    metadata       jsonb       NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (session_id, version)
) PARTITION BY RANGE (session_id);

CREATE TABLE chatpulse.session_events_default PARTITION OF chatpulse.session_events DEFAULT;

CREATE VIEW chatpulse.events AS
SELECT 'streamer-' || streamer_id AS stream_id, version, type, schema_version, data, metadata,
       recorded_at, transaction_id
FROM chatpulse.streamer_events
UNION ALL
SELECT 'session-' || session_id AS stream_id, version, type, schema_version, data, metadata,
       recorded_at, transaction_id
FROM chatpulse.session_events;

-- The application's role has no UPDATE or DELETE on events. This guards against everybody else.
CREATE FUNCTION chatpulse.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the journal is append-only: % on %.% is refused',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON chatpulse.streamer_events
    FOR EACH ROW EXECUTE FUNCTION chatpulse.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON chatpulse.session_events
    FOR EACH ROW EXECUTE FUNCTION chatpulse.refuse_change();
-- TRUNCATE calls no triggers of rows, and those of statements are not passed on to partitions.
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON chatpulse.streamer_events
    FOR EACH STATEMENT EXECUTE FUNCTION chatpulse.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON chatpulse.session_events
    FOR EACH STATEMENT EXECUTE FUNCTION chatpulse.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON chatpulse.session_events_default
    FOR EACH STATEMENT EXECUTE FUNCTION chatpulse.refuse_change();

-- The smallest UUIDv7 of a point in time (RFC 9562, section 5.7: the first 48 bits are Unix ms).
CREATE FUNCTION chatpulse.uuid_floor(p_time timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT rpad(lpad(to_hex(floor(extract(epoch FROM p_time) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;

-- Makes a partition for this month and each of the next ones that lacks one. Events of months
-- without a partition go to the default one; a month that has some there stays there.
CREATE FUNCTION chatpulse.create_event_partitions(p_months_ahead integer) RETURNS integer
LANGUAGE plpgsql
SET lock_timeout = '5s' -- rather fail than make all appends wait behind a long read
SET TimeZone = 'UTC' -- months are those of UTC, whatever the caller's time zone
AS $$
DECLARE
    v_month   timestamptz;
    v_name    text;
    v_created integer := 0;
BEGIN
    FOR v_month IN
        SELECT generate_series(
            date_trunc('month', now()),
            date_trunc('month', now()) + make_interval(months => p_months_ahead),
            interval '1 month')
    LOOP
        v_name := 'session_events_' || to_char(v_month, 'YYYY_MM');
        CONTINUE WHEN to_regclass('chatpulse.' || v_name) IS NOT NULL;
        BEGIN
            EXECUTE format(
                'CREATE TABLE chatpulse.%I PARTITION OF chatpulse.session_events FOR VALUES FROM (%L) TO (%L)',
                v_name, chatpulse.uuid_floor(v_month), chatpulse.uuid_floor(v_month + interval '1 month'));
            EXECUTE format(
                'CREATE TRIGGER never_emptied BEFORE TRUNCATE ON chatpulse.%I '
                'FOR EACH STATEMENT EXECUTE FUNCTION chatpulse.refuse_change()', v_name);
            v_created := v_created + 1;
        EXCEPTION WHEN check_violation THEN
            RAISE NOTICE 'events of % are in the default partition already and stay there', v_name;
        END;
    END LOOP;
    RETURN v_created;
END $$;
