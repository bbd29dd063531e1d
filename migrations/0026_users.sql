-- Users with their roles, the tokens and browsers by which they show who they are, and who changed what of all that.

CREATE TABLE users (
    name             text PRIMARY KEY,
    -- {"*": "viewer", "vision": "submitter"}: "*" stands for all projects.
    grants           jsonb NOT NULL,
    created_at       timestamptz NOT NULL,
    created_by       text NOT NULL,
    CONSTRAINT users_grants CHECK (jsonb_typeof(grants) = 'object')
);

CREATE TABLE user_tokens (
    -- The part of a token that is no secret.
    id               text PRIMARY KEY,
    user_name        text NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    -- Of its secret, which is stored nowhere; 64 digits.
    secret_sha256    text NOT NULL,
    note             text NOT NULL,
    created_at       timestamptz NOT NULL,
    created_by       text NOT NULL,
    expires_at       timestamptz NOT NULL,
    revoked_at       timestamptz,
    -- Written once an hour at most.
    used_at          timestamptz
);
CREATE INDEX user_tokens_user ON user_tokens (user_name);

-- Browsers that are logged in. Each goes with its token.
CREATE TABLE user_sessions (
    secret_sha256    text PRIMARY KEY,
    token_id         text NOT NULL REFERENCES user_tokens (id) ON DELETE CASCADE,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL
);
CREATE INDEX user_sessions_token ON user_sessions (token_id);

CREATE FUNCTION audit_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit (kind, detail)
        VALUES ('user_added', jsonb_build_object('user', NEW.name, 'after', NEW.grants));
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO audit (kind, detail)
        VALUES ('user_removed', jsonb_build_object('user', OLD.name, 'before', OLD.grants));
    ELSE
        INSERT INTO audit (kind, detail)
        VALUES ('user_changed', jsonb_build_object('user', NEW.name, 'before', OLD.grants, 'after', NEW.grants));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION audit_user();
CREATE TRIGGER audit_changed AFTER UPDATE ON users FOR EACH ROW
    WHEN (OLD.grants IS DISTINCT FROM NEW.grants) EXECUTE FUNCTION audit_user();

-- Never the secret, nor its hash.
CREATE FUNCTION audit_user_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit (kind, detail)
        VALUES ('token_created', jsonb_build_object(
            'user', NEW.user_name, 'token', NEW.id, 'note', NEW.note, 'expires_at', NEW.expires_at));
    ELSE
        INSERT INTO audit (kind, detail)
        VALUES ('token_revoked', jsonb_build_object('user', NEW.user_name, 'token', NEW.id));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON user_tokens FOR EACH ROW EXECUTE FUNCTION audit_user_token();
CREATE TRIGGER audit_revoked AFTER UPDATE ON user_tokens FOR EACH ROW
    WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION audit_user_token();

CREATE FUNCTION audit_user_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, detail)
    SELECT 'logged_in', jsonb_build_object('user', t.user_name, 'token', t.id)
    FROM user_tokens t WHERE t.id = NEW.token_id;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON user_sessions FOR EACH ROW EXECUTE FUNCTION audit_user_session();

-- What administrators set of projects and hosts, with what was before. Not their use, which is counted every minute.
CREATE FUNCTION audit_project() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    counted CONSTANT text[] := '{usage,usage_at}';
BEGIN
    INSERT INTO audit (kind, detail)
    VALUES ('project_set', jsonb_strip_nulls(jsonb_build_object(
        'project', NEW.name,
        'before', CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) - counted - 'name' END,
        'after', to_jsonb(NEW) - counted - 'name')));
    RETURN NULL;
END $$;
CREATE TRIGGER audit_new AFTER INSERT ON projects FOR EACH ROW EXECUTE FUNCTION audit_project();
CREATE TRIGGER audit AFTER UPDATE ON projects FOR EACH ROW
    WHEN ((OLD.weight, OLD.gpus, OLD.cpu_slots, OLD.queued, OLD.gpu_hours_week, OLD.reset, OLD.keep_days,
           OLD.keep_log_days)
          IS DISTINCT FROM
          (NEW.weight, NEW.gpus, NEW.cpu_slots, NEW.queued, NEW.gpu_hours_week, NEW.reset, NEW.keep_days,
           NEW.keep_log_days)) EXECUTE FUNCTION audit_project();

CREATE FUNCTION audit_standing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, worker_id, detail)
    VALUES ('standing_set', NEW.id, jsonb_build_object('before', OLD.standing, 'after', NEW.standing));
    RETURN NULL;
END $$;
CREATE TRIGGER audit_standing AFTER UPDATE ON workers FOR EACH ROW
    WHEN (OLD.standing IS DISTINCT FROM NEW.standing) EXECUTE FUNCTION audit_standing();
