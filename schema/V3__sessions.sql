-- Sessions: their heads, who holds them, which votes are known.
-- Safe next to the previous release: there is none.

-- One row a session, its head: snapshot and lock at once. Rehydration reads this one row.
CREATE TABLE chatpulse.sessions (
    session_id     uuid             PRIMARY KEY,
    streamer_id    uuid             NOT NULL,
    ordinal        bigint           NOT NULL, -- 1, 2, … per streamer
    version        bigint           NOT NULL, -- of the session's stream
    config_version bigint           NOT NULL,
    model          text             NOT NULL,
    vote_delta     double precision NOT NULL,
    decay_speed    double precision NOT NULL,
    window_seconds integer          NOT NULL,
    at_ms          bigint           NOT NULL, -- the time of value
    value          double precision NOT NULL,
    for_count      bigint           NOT NULL,
    against_count  bigint           NOT NULL,
    seconds        jsonb            NOT NULL, -- window model: [[second, for, against], …], oldest first
    started_at_ms  bigint           NOT NULL,
    reset_at_ms    bigint,
    ended_at_ms    bigint,
    UNIQUE (streamer_id, ordinal)
) WITH (fillfactor = 50); -- heads change all the time: leave room for updates in place

CREATE TABLE chatpulse.live_sessions (
    streamer_id    uuid   PRIMARY KEY,
    twitch_user_id text   NOT NULL UNIQUE,
    session_id     uuid   NOT NULL UNIQUE,
    ordinal        bigint NOT NULL,
    holders        uuid[] NOT NULL, -- instance ids
    unheld_since   timestamptz
);

-- Every running instance renews its lease; a holder without a lease holds nothing.
CREATE TABLE chatpulse.instances (
    instance_id uuid        PRIMARY KEY,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until timestamptz NOT NULL
);

-- The chat messages that have voted: what makes a repeated delivery count once.
CREATE TABLE chatpulse.vote_ids (
    streamer_id uuid NOT NULL,
    message_id  uuid NOT NULL, -- the chat message's id in 16 bytes
    session_id  uuid NOT NULL,
    PRIMARY KEY (streamer_id, message_id)
);

-- The key under which a session's viewers are hashed. Without it nobody can be recognised.
CREATE TABLE chatpulse.session_keys (
    session_id uuid  PRIMARY KEY,
    key        bytea NOT NULL CHECK (octet_length(key) = 32)
);

-- What an instance has to know of a streamer, in one row: profile, config, live session with its
-- head and key. The columns of the session are null while none is live.
CREATE VIEW chatpulse.directory AS
SELECT u.id AS streamer_id, u.version AS streamer_version, u.twitch_user_id, u.login, u.display_name,
       u.overlay_uuid, u.disabled_at IS NOT NULL AS disabled, u.changed,
       chatpulse.config_json(c) AS config,
       l.session_id, coalesce(cardinality(l.holders), 0) AS holders,
       s.ordinal, s.version, s.config_version, s.model, s.vote_delta, s.decay_speed, s.window_seconds,
       s.at_ms, s.value, s.for_count, s.against_count, s.seconds,
       s.started_at_ms, s.reset_at_ms, s.ended_at_ms, k.key,
       coalesce((SELECT max(n.ordinal) FROM chatpulse.sessions n WHERE n.streamer_id = u.id), 0) AS last_ordinal
FROM chatpulse.users u
JOIN chatpulse.configs c ON c.streamer_id = u.id
LEFT JOIN chatpulse.live_sessions l ON l.streamer_id = u.id
LEFT JOIN chatpulse.sessions s ON s.session_id = l.session_id
LEFT JOIN chatpulse.session_keys k ON k.session_id = l.session_id;
