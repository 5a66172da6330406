-- Operators: their accounts, second factors and tokens, and the security log.
-- Safe next to the previous release: it names none of these tables and functions, and what it may do stays the same.

-- Who runs ChatPulse. The version counts changes of what an account may do and of how its owner is told from others: who
-- has judged an account says later which version that was.
CREATE TABLE chatpulse.operators (
    id                   uuid        PRIMARY KEY,
    email                text        NOT NULL UNIQUE CHECK (email = lower(email)),
    role                 text        NOT NULL CHECK (role IN ('viewer', 'admin', 'owner')),
    password_hash        text        NOT NULL, -- argon2id, with its salt and costs
    must_change_password boolean     NOT NULL,
    disabled_at          timestamptz,
    version              bigint      NOT NULL DEFAULT 1,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at           timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Seeds of second factors (RFC 6238). They open only in their place: security/keyring.rs.
CREATE TABLE chatpulse.mfa_secrets (
    operator_id  uuid        PRIMARY KEY REFERENCES chatpulse.operators (id),
    secret       bytea       NOT NULL, -- sealed
    key_id       text        NOT NULL, -- of the key that it is sealed with
    confirmed_at timestamptz,          -- null: the operator has not yet shown that they have it
    last_step    bigint,               -- the last step whose code was accepted
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What lets in once each instead of a second factor.
CREATE TABLE chatpulse.backup_codes (
    operator_id uuid        NOT NULL REFERENCES chatpulse.operators (id),
    code_hash   bytea       NOT NULL, -- SHA-256
    used_at     timestamptz,
    PRIMARY KEY (operator_id, code_hash)
);

-- A family is what came of one sign-in: each use of a token gives one of the next generation in its place. Two of the
-- same generation are there when an answer came late and the token was used again within the grace.
CREATE TABLE chatpulse.refresh_tokens (
    hash        bytea       PRIMARY KEY, -- SHA-256
    family      uuid        NOT NULL,
    operator_id uuid        NOT NULL REFERENCES chatpulse.operators (id),
    generation  bigint      NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL, -- of the whole family
    idle_until  timestamptz NOT NULL, -- used by then, or never
    replaced_at timestamptz,          -- when one of its generation was used first
    revoked_at  timestamptz
);
CREATE INDEX refresh_tokens_family ON chatpulse.refresh_tokens (family, generation);
CREATE INDEX refresh_tokens_operator ON chatpulse.refresh_tokens (operator_id) WHERE revoked_at IS NULL;
CREATE INDEX refresh_tokens_expiry ON chatpulse.refresh_tokens (expires_at);

-- Access tokens that were given out, by the `jti` in them, until they expire: what has to be denied when a sign-in ends.
CREATE TABLE chatpulse.access_tokens (
    jti         uuid        PRIMARY KEY,
    operator_id uuid        NOT NULL REFERENCES chatpulse.operators (id),
    family      uuid        NOT NULL,
    until       timestamptz NOT NULL
);
CREATE INDEX access_tokens_operator ON chatpulse.access_tokens (operator_id);
CREATE INDEX access_tokens_expiry ON chatpulse.access_tokens (until);

-- Access tokens that are denied, until they expire. Redis has a copy, which may be lost.
CREATE TABLE chatpulse.revoked_tokens (
    jti   uuid        PRIMARY KEY,
    until timestamptz NOT NULL
);
CREATE INDEX revoked_tokens_expiry ON chatpulse.revoked_tokens (until);

-- Who did what from where. Operators are named without a reference: what is written here outlives them.
CREATE TABLE chatpulse.security_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind        text        NOT NULL,
    operator_id uuid,                 -- who did it; null: not known, or no operator
    subject     text,                 -- to whom or what
    address     text,                 -- from where
    request_id  text        NOT NULL,
    detail      jsonb       NOT NULL
);
CREATE INDEX security_log_operator ON chatpulse.security_log (operator_id, id);
CREATE INDEX security_log_kind ON chatpulse.security_log (kind, id);
CREATE INDEX security_log_subject ON chatpulse.security_log (subject, id);
CREATE INDEX security_log_time ON chatpulse.security_log (at);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON chatpulse.security_log
    FOR EACH ROW EXECUTE FUNCTION chatpulse.refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON chatpulse.security_log
    FOR EACH STATEMENT EXECUTE FUNCTION chatpulse.refuse_change();

-- Locks are taken in one order by every function: the rows of operators (by id), then what belongs to the operator. What
-- belongs to an operator is changed under the lock of their row, but for a single row of it in a statement of its own.

-- Denies those of an operator's access tokens that may be alive: of one family, or of all where that is null, except of
-- one family. Answers their ids and when each expires, also of those that were denied before. The caller has locked the
-- operator's row.
CREATE FUNCTION chatpulse.deny_access(p_operator_id uuid, p_family uuid, p_except uuid)
RETURNS TABLE (jtis uuid[], untils_ms bigint[])
LANGUAGE sql AS $$
    WITH alive AS (
        SELECT a.jti, a.until FROM chatpulse.access_tokens a
        WHERE a.operator_id = p_operator_id AND a.until > clock_timestamp()
          AND (p_family IS NULL OR a.family = p_family) AND a.family IS DISTINCT FROM p_except
    ), denied AS (
        INSERT INTO chatpulse.revoked_tokens (jti, until) SELECT a.jti, a.until FROM alive a
        ON CONFLICT DO NOTHING
    )
    SELECT coalesce(array_agg(a.jti ORDER BY a.jti), '{}'),
           coalesce(array_agg(chatpulse.unix_ms(a.until) ORDER BY a.jti), '{}')
    FROM alive a
$$;

-- Ends sign-ins of an operator: one family, or all where that is null, except one. Answers as deny_access.
CREATE FUNCTION chatpulse.end_sign_ins(p_operator_id uuid, p_family uuid, p_except uuid)
RETURNS TABLE (jtis uuid[], untils_ms bigint[])
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM chatpulse.operators o WHERE o.id = p_operator_id FOR UPDATE;
    UPDATE chatpulse.refresh_tokens t SET revoked_at = clock_timestamp()
    WHERE t.operator_id = p_operator_id AND t.revoked_at IS NULL
      AND (p_family IS NULL OR t.family = p_family) AND t.family IS DISTINCT FROM p_except;
    RETURN QUERY SELECT * FROM chatpulse.deny_access(p_operator_id, p_family, p_except);
END $$;

-- Ends one sign-in, whosever it is. Answers as deny_access.
CREATE FUNCTION chatpulse.end_family(p_family uuid)
RETURNS TABLE (jtis uuid[], untils_ms bigint[])
LANGUAGE sql AS $$
    SELECT e.jtis, e.untils_ms
    FROM chatpulse.end_sign_ins(
        (SELECT t.operator_id FROM chatpulse.refresh_tokens t WHERE t.family = p_family LIMIT 1), p_family, NULL) e
$$;

-- Gives an operator another role, or disables or enables them; null: as it is. The last owner who is not disabled stays
-- (done is false then). Who is disabled is signed in no more, and access tokens of another role are denied. No row: no
-- such operator.
CREATE FUNCTION chatpulse.change_operator(p_id uuid, p_role text, p_disabled boolean)
RETURNS TABLE (done boolean, jtis uuid[], untils_ms bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    v_old      chatpulse.operators;
    v_role     text;
    v_disabled boolean;
BEGIN
    -- All owners are locked: of two who are removed at once, the second one sees that the first one is gone.
    PERFORM FROM chatpulse.operators o WHERE o.id = p_id OR o.role = 'owner' ORDER BY o.id FOR UPDATE;
    SELECT * INTO v_old FROM chatpulse.operators o WHERE o.id = p_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_role := coalesce(p_role, v_old.role);
    v_disabled := coalesce(p_disabled, v_old.disabled_at IS NOT NULL);
    IF v_old.role = 'owner' AND v_old.disabled_at IS NULL AND (v_role <> 'owner' OR v_disabled)
       AND NOT EXISTS (SELECT FROM chatpulse.operators o
                       WHERE o.id <> p_id AND o.role = 'owner' AND o.disabled_at IS NULL)
    THEN
        RETURN QUERY SELECT false, '{}'::uuid[], '{}'::bigint[];
        RETURN;
    END IF;

    UPDATE chatpulse.operators o SET
        role = v_role, disabled_at = CASE WHEN v_disabled THEN coalesce(o.disabled_at, clock_timestamp()) END,
        version = o.version + 1, changed_at = clock_timestamp()
    WHERE o.id = p_id AND (o.role <> v_role OR (o.disabled_at IS NOT NULL) <> v_disabled);
    IF v_disabled THEN
        RETURN QUERY SELECT true, e.* FROM chatpulse.end_sign_ins(p_id, NULL, NULL) e;
    ELSIF p_role IS NOT NULL THEN
        RETURN QUERY SELECT true, d.* FROM chatpulse.deny_access(p_id, NULL, NULL) d;
    ELSE
        RETURN QUERY SELECT true, '{}'::uuid[], '{}'::bigint[];
    END IF;
END $$;

-- Gives an operator another password, and ends all sign-ins except one: whoever knew the old one is out. Answers as
-- deny_access; no row: no such operator.
CREATE FUNCTION chatpulse.set_operator_password(p_id uuid, p_hash text, p_must_change boolean, p_except uuid)
RETURNS TABLE (jtis uuid[], untils_ms bigint[])
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chatpulse.operators o SET
        password_hash = p_hash, must_change_password = p_must_change, version = o.version + 1,
        changed_at = clock_timestamp()
    WHERE o.id = p_id;
    IF FOUND THEN
        RETURN QUERY SELECT * FROM chatpulse.end_sign_ins(p_id, NULL, p_except);
    END IF;
END $$;

-- Puts other backup codes in the place of those that an operator has. Answers false where there is no second factor.
CREATE FUNCTION chatpulse.replace_backup_codes(p_id uuid, p_hashes bytea[]) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM chatpulse.operators o WHERE o.id = p_id FOR UPDATE;
    IF NOT EXISTS (SELECT FROM chatpulse.mfa_secrets m
                   WHERE m.operator_id = p_id AND m.confirmed_at IS NOT NULL)
    THEN
        RETURN false;
    END IF;
    DELETE FROM chatpulse.backup_codes c WHERE c.operator_id = p_id;
    INSERT INTO chatpulse.backup_codes (operator_id, code_hash)
    SELECT DISTINCT p_id, h.code_hash FROM unnest(p_hashes) AS h (code_hash);
    RETURN true;
END $$;

-- Notes that an operator has shown a code of the second factor that waits for it, and ends all sign-ins except one: they
-- came about without it. Answers as deny_access; no row: nothing waits.
CREATE FUNCTION chatpulse.confirm_mfa(p_id uuid, p_step bigint, p_hashes bytea[], p_except uuid)
RETURNS TABLE (jtis uuid[], untils_ms bigint[])
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM chatpulse.operators o WHERE o.id = p_id FOR UPDATE;
    UPDATE chatpulse.mfa_secrets m SET confirmed_at = clock_timestamp(), last_step = p_step
    WHERE m.operator_id = p_id AND m.confirmed_at IS NULL;
    IF FOUND THEN
        UPDATE chatpulse.operators o SET version = o.version + 1, changed_at = clock_timestamp() WHERE o.id = p_id;
        PERFORM chatpulse.replace_backup_codes(p_id, p_hashes);
        RETURN QUERY SELECT * FROM chatpulse.end_sign_ins(p_id, NULL, p_except);
    END IF;
END $$;

-- Takes an operator's second factor away, ends all sign-ins except one, and denies all access tokens: they were given to
-- who had two. Answers as deny_access; no row: there was none.
CREATE FUNCTION chatpulse.remove_mfa(p_id uuid, p_except uuid)
RETURNS TABLE (jtis uuid[], untils_ms bigint[])
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM chatpulse.operators o WHERE o.id = p_id FOR UPDATE;
    DELETE FROM chatpulse.backup_codes c WHERE c.operator_id = p_id;
    DELETE FROM chatpulse.mfa_secrets m WHERE m.operator_id = p_id;
    IF FOUND THEN
        UPDATE chatpulse.operators o SET version = o.version + 1, changed_at = clock_timestamp() WHERE o.id = p_id;
        PERFORM chatpulse.end_sign_ins(p_id, NULL, p_except);
        RETURN QUERY SELECT * FROM chatpulse.deny_access(p_id, NULL, NULL);
    END IF;
END $$;

-- Notes an access token before it is given out. Answers false when it must not be: the sign-in has ended, or the operator
-- is another one by now than in the version that was judged.
CREATE FUNCTION chatpulse.note_access(p_jti uuid, p_family uuid, p_version bigint, p_until_ms bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_operator_id uuid;
BEGIN
    SELECT t.operator_id INTO v_operator_id FROM chatpulse.refresh_tokens t WHERE t.family = p_family LIMIT 1;
    PERFORM FROM chatpulse.operators o
    WHERE o.id = v_operator_id AND o.version = p_version AND o.disabled_at IS NULL
    FOR UPDATE;
    IF NOT FOUND OR NOT EXISTS (
        SELECT FROM chatpulse.refresh_tokens t
        WHERE t.family = p_family AND t.revoked_at IS NULL AND t.expires_at > clock_timestamp())
    THEN
        RETURN false;
    END IF;
    INSERT INTO chatpulse.access_tokens (jti, operator_id, family, until)
    VALUES (p_jti, v_operator_id, p_family, to_timestamp(p_until_ms / 1000.0))
    ON CONFLICT DO NOTHING;
    RETURN true;
END $$;

-- Exchanges a refresh token for one of the next generation. A token may be used again for 5 s after it was replaced, as
-- long as its successors were not ('grace': the answer was lost, or two asked at once). Used later it is in two hands,
-- and the whole family ends ('reused'). No row: unknown, expired or ended.
CREATE FUNCTION chatpulse.rotate_refresh(p_old bytea, p_new bytea)
RETURNS TABLE (outcome text, operator_id uuid, family uuid, jtis uuid[], untils_ms bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    v_token  chatpulse.refresh_tokens;
    v_newest bigint;
    v_now    timestamptz;
BEGIN
    PERFORM FROM chatpulse.operators o
    WHERE o.id = (SELECT t.operator_id FROM chatpulse.refresh_tokens t WHERE t.hash = p_old)
    FOR UPDATE;
    v_now := clock_timestamp();
    SELECT * INTO v_token FROM chatpulse.refresh_tokens t WHERE t.hash = p_old;
    IF NOT FOUND OR v_token.expires_at <= v_now THEN
        RETURN;
    END IF;
    SELECT max(t.generation) INTO v_newest FROM chatpulse.refresh_tokens t WHERE t.family = v_token.family;
    IF v_token.replaced_at <= v_now - interval '5 s' OR v_token.generation < v_newest - 1 THEN
        RETURN QUERY
        SELECT 'reused', v_token.operator_id, v_token.family, e.jtis, e.untils_ms
        FROM chatpulse.end_sign_ins(v_token.operator_id, v_token.family, NULL) e;
        RETURN;
    END IF;
    IF v_token.revoked_at IS NOT NULL OR v_token.idle_until <= v_now OR NOT EXISTS (
        SELECT FROM chatpulse.operators o WHERE o.id = v_token.operator_id AND o.disabled_at IS NULL)
    THEN
        RETURN;
    END IF;

    -- Together with those of the same generation: only one of them goes on.
    UPDATE chatpulse.refresh_tokens t SET replaced_at = v_now
    WHERE t.family = v_token.family AND t.generation = v_token.generation AND t.replaced_at IS NULL;
    INSERT INTO chatpulse.refresh_tokens (hash, family, operator_id, generation, expires_at, idle_until)
    VALUES (p_new, v_token.family, v_token.operator_id, v_token.generation + 1, v_token.expires_at,
            least(v_token.expires_at, v_now + interval '7 days'))
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT CASE WHEN v_token.replaced_at IS NULL THEN 'rotated' ELSE 'grace' END,
           v_token.operator_id, v_token.family, '{}'::uuid[], '{}'::bigint[];
END $$;

-- Forgets tokens that have expired, at most p_limit of each kind. Answers how many.
CREATE FUNCTION chatpulse.forget_expired_operator_tokens(p_limit integer) RETURNS bigint
LANGUAGE sql AS $$
    WITH refresh AS (
        DELETE FROM chatpulse.refresh_tokens WHERE hash IN (
            SELECT t.hash FROM chatpulse.refresh_tokens t WHERE t.expires_at < clock_timestamp()
            LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING 1
    ), access AS (
        DELETE FROM chatpulse.access_tokens WHERE jti IN (
            SELECT t.jti FROM chatpulse.access_tokens t WHERE t.until < clock_timestamp()
            LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING 1
    ), revoked AS (
        DELETE FROM chatpulse.revoked_tokens WHERE jti IN (
            SELECT t.jti FROM chatpulse.revoked_tokens t WHERE t.until < clock_timestamp()
            LIMIT p_limit FOR UPDATE SKIP LOCKED)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM refresh) + (SELECT count(*) FROM access) + (SELECT count(*) FROM revoked)
$$;

-- What the application's role may do: append to the journal and to the security log, but never change them.
CREATE OR REPLACE FUNCTION chatpulse.grant_application(p_role name) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA chatpulse TO %I', p_role);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA chatpulse FROM %I', p_role);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA chatpulse TO %I', p_role);
    EXECUTE format('GRANT INSERT ON chatpulse.streamer_events, chatpulse.session_events, '
        'chatpulse.security_log TO %I', p_role);
    EXECUTE format('GRANT INSERT, UPDATE ON chatpulse.operators TO %I', p_role);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON chatpulse.users, chatpulse.configs, '
        'chatpulse.eventsub_subscriptions, chatpulse.sessions, chatpulse.live_sessions, '
        'chatpulse.instances, chatpulse.vote_ids, chatpulse.session_keys, chatpulse.oauth_tokens, '
        'chatpulse.web_sessions, chatpulse.duties, chatpulse.conduits, chatpulse.streams, '
        'chatpulse.chat_health, chatpulse.mfa_secrets, chatpulse.backup_codes, chatpulse.refresh_tokens, '
        'chatpulse.access_tokens, chatpulse.revoked_tokens TO %I', p_role);
END $$;
