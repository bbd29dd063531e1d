-- Workers that joined by a token: the coordinator knows them by certificates of its own authority.

CREATE TABLE join_tokens (
    id               uuid PRIMARY KEY,
    -- The secret itself is shown once, to whoever made the token.
    secret_sha256    bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    -- worker
    role             text NOT NULL,
    -- The only worker that may use it, which may be one that joined before; null: any new one.
    name             text,
    uses             int NOT NULL CHECK (uses > 0),
    used             int NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND uses),
    created_at       timestamptz NOT NULL,
    created_by       text NOT NULL,
    expires_at       timestamptz NOT NULL,
    revoked_at       timestamptz,
    revoked_by       text
);

-- Which keys a token let in. A worker whose answer was lost asks again with the same key, and that is no second use.
CREATE TABLE join_uses (
    token_id         uuid NOT NULL REFERENCES join_tokens (id) ON DELETE CASCADE,
    key_sha256       bytea NOT NULL,
    worker_id        uuid NOT NULL,
    at               timestamptz NOT NULL,
    PRIMARY KEY (token_id, key_sha256)
);

-- Without a reference to workers: a worker is stored there when it first comes, which is after it joined.
CREATE TABLE members (
    worker_id        uuid PRIMARY KEY,
    name             text NOT NULL,
    joined_at        timestamptz NOT NULL,
    -- Which token let it in, and from where it came.
    joined_by        text NOT NULL,
    -- Until when its newest certificate is good.
    certified_until  timestamptz NOT NULL,
    revoked_at       timestamptz,
    revoked_by       text,
    revoked_reason   text
);
CREATE UNIQUE INDEX members_name ON members (name);

-- Who let whom in, and out, as the audit has every change. Never a secret, nor its digest.
CREATE FUNCTION audit_join_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit (kind, detail)
        VALUES ('join_token_created', jsonb_build_object(
            'token', NEW.id, 'name', NEW.name, 'uses', NEW.uses, 'expires_at', NEW.expires_at));
    ELSE
        INSERT INTO audit (kind, detail)
        VALUES ('join_token_revoked', jsonb_build_object('token', NEW.id, 'used', NEW.used));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON join_tokens FOR EACH ROW EXECUTE FUNCTION audit_join_token();
CREATE TRIGGER audit_revoked AFTER UPDATE ON join_tokens FOR EACH ROW
    WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION audit_join_token();

CREATE FUNCTION audit_member() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO audit (kind, worker_id, detail)
        VALUES ('worker_forgotten', OLD.worker_id, jsonb_build_object('name', OLD.name));
    ELSIF TG_OP = 'INSERT' OR OLD.joined_at IS DISTINCT FROM NEW.joined_at THEN
        INSERT INTO audit (kind, worker_id, detail)
        VALUES ('worker_joined', NEW.worker_id, jsonb_build_object('name', NEW.name, 'by', NEW.joined_by));
    ELSIF OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL THEN
        INSERT INTO audit (kind, worker_id, detail)
        VALUES ('worker_revoked', NEW.worker_id, jsonb_build_object('name', NEW.name, 'reason', NEW.revoked_reason));
    ELSIF OLD.name IS DISTINCT FROM NEW.name THEN
        INSERT INTO audit (kind, worker_id, detail)
        VALUES ('worker_renamed', NEW.worker_id, jsonb_build_object('before', OLD.name, 'after', NEW.name));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON members FOR EACH ROW EXECUTE FUNCTION audit_member();
