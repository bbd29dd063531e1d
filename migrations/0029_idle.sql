-- Jobs whose GPUs do nothing: said, and stopped where their project wants that.

-- Minutes after which idle jobs of the project are stopped; null: never.
ALTER TABLE projects ADD COLUMN idle_stop_min int CHECK (idle_stop_min >= 1);

-- Since when the GPUs of a running job have done nothing, once that was said; null: they work, or nobody knows.
ALTER TABLE open_jobs ADD COLUMN idle_since timestamptz;

CREATE FUNCTION audit_idle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt, detail)
    VALUES ('idle', NEW.job_id, NEW.attempt, jsonb_build_object('since', NEW.idle_since));
    RETURN NULL;
END $$;
CREATE TRIGGER audit_idle AFTER UPDATE ON open_jobs FOR EACH ROW
    WHEN (NEW.idle_since IS NOT NULL AND OLD.idle_since IS NULL) EXECUTE FUNCTION audit_idle();
