-- Secrets that jobs of a project may name, encrypted by a key that is not here (`secrets_key` of the coordinator).

CREATE TABLE secrets (
    project          text NOT NULL REFERENCES projects (name),
    -- The only jobs that get it; empty: all of the project.
    job              text NOT NULL,
    name             text NOT NULL,
    -- Which key it takes: the first digits of a digest of it.
    key_id           text NOT NULL,
    -- Nonce, ciphertext and tag. Bound to project, job and name: moved to another row it cannot be read.
    sealed           bytea NOT NULL,
    set_at           timestamptz NOT NULL,
    set_by           text NOT NULL,
    PRIMARY KEY (project, name, job)
);

-- Who set and removed what, as the audit has every change. Never what it holds, nor what that is encrypted to.
CREATE FUNCTION audit_secret() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO audit (kind, detail)
        VALUES ('secret_removed', jsonb_build_object('project', OLD.project, 'job', OLD.job, 'name', OLD.name));
    ELSE
        INSERT INTO audit (kind, detail)
        VALUES (CASE WHEN TG_OP = 'UPDATE' AND NEW.set_at = OLD.set_at THEN 'secret_rekeyed' ELSE 'secret_set' END,
                jsonb_build_object('project', NEW.project, 'job', NEW.job, 'name', NEW.name, 'key', NEW.key_id));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON secrets FOR EACH ROW EXECUTE FUNCTION audit_secret();
