-- Projections of the streamers' streams, written in the same transaction as their events.
-- Safe next to the previous release: there is none.

CREATE TABLE chatpulse.users (
    id             uuid        PRIMARY KEY,
    version        bigint      NOT NULL, -- of the streamer's stream
    twitch_user_id text        NOT NULL UNIQUE,
    login          text        NOT NULL,
    display_name   text        NOT NULL,
    overlay_uuid   uuid        NOT NULL UNIQUE,
    disabled_at    timestamptz,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The transaction of the last change that instances have to learn of (config, overlay URL,
    -- session started, reset, ended, disabled). Readers follow it behind pg_snapshot_xmin.
    changed        xid8        NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX users_changed ON chatpulse.users (changed);

CREATE TABLE chatpulse.configs (
    streamer_id      uuid             PRIMARY KEY REFERENCES chatpulse.users (id),
    version          bigint           NOT NULL,
    for_triggers     text[]           NOT NULL,
    against_triggers text[]           NOT NULL,
    for_label        text             NOT NULL,
    against_label    text             NOT NULL,
    model            text             NOT NULL CHECK (model IN ('decay', 'window')),
    vote_delta       double precision NOT NULL,
    decay_speed      double precision NOT NULL,
    window_seconds   integer          NOT NULL,
    display          text             NOT NULL CHECK (display IN ('combined', 'split')),
    theme            text             NOT NULL
);

CREATE TABLE chatpulse.eventsub_subscriptions (
    streamer_id     uuid        NOT NULL REFERENCES chatpulse.users (id),
    type            text        NOT NULL,
    subscription_id text        UNIQUE, -- Twitch's; none until Twitch has confirmed
    status          text        NOT NULL,
    requested_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (streamer_id, type)
);

-- A config in the shape of the public API and of the events.
CREATE FUNCTION chatpulse.config_json(c chatpulse.configs) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'version', c.version,
        'for_triggers', to_jsonb(c.for_triggers), 'against_triggers', to_jsonb(c.against_triggers),
        'for_label', c.for_label, 'against_label', c.against_label,
        'model', c.model, 'vote_delta', c.vote_delta, 'decay_speed', c.decay_speed,
        'window_seconds', c.window_seconds, 'display', c.display, 'theme', c.theme)
$$;

CREATE FUNCTION chatpulse.text_array(p_list jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(e.value ORDER BY e.ordinality), '{}')
    FROM jsonb_array_elements_text(p_list) WITH ORDINALITY AS e
$$;

-- Writes the config of an event into the projection.
CREATE FUNCTION chatpulse.project_config(p_streamer_id uuid, p_config jsonb) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO chatpulse.configs AS c (
        streamer_id, version, for_triggers, against_triggers, for_label, against_label,
        model, vote_delta, decay_speed, window_seconds, display, theme)
    VALUES (
        p_streamer_id, (p_config->>'version')::bigint,
        chatpulse.text_array(p_config->'for_triggers'), chatpulse.text_array(p_config->'against_triggers'),
        p_config->>'for_label', p_config->>'against_label', p_config->>'model',
        (p_config->>'vote_delta')::double precision, (p_config->>'decay_speed')::double precision,
        (p_config->>'window_seconds')::integer, p_config->>'display', p_config->>'theme')
    ON CONFLICT (streamer_id) DO UPDATE SET
        version = excluded.version,
        for_triggers = excluded.for_triggers, against_triggers = excluded.against_triggers,
        for_label = excluded.for_label, against_label = excluded.against_label,
        model = excluded.model, vote_delta = excluded.vote_delta, decay_speed = excluded.decay_speed,
        window_seconds = excluded.window_seconds, display = excluded.display, theme = excluded.theme
$$;
