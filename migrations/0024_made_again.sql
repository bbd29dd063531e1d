-- A job whose artifact is damaged does its work once more: it is opened again, and what it commits takes the artifact's place.

-- How often that happened by itself since somebody last asked for it.
ALTER TABLE jobs ADD COLUMN made_again int NOT NULL DEFAULT 0 CHECK (made_again >= 0);

-- As before, but that a job which had succeeded and is opened again has a word of its own.
CREATE OR REPLACE FUNCTION audit_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'open' THEN
        INSERT INTO audit (kind, job_id, attempt)
        VALUES (CASE OLD.state WHEN 'succeeded' THEN 'made_again' ELSE 'revived' END, NEW.id, NEW.attempt);
    ELSIF NEW.state IN ('failed', 'cancelled') THEN
        INSERT INTO audit (kind, job_id, attempt, detail)
        VALUES ('job_ended', NEW.id, NEW.attempt, jsonb_strip_nulls(jsonb_build_object(
            'state', NEW.state, 'class', NEW.failure_class, 'for_job', NEW.cancelled_for)));
    END IF;
    RETURN NULL;
END $$;

-- What takes the place of a damaged artifact is committed like any other.
CREATE FUNCTION audit_committed_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt, detail)
    SELECT 'committed', n.job_id, n.attempt, jsonb_build_object('digest', n.digest, 'name', n.name)
    FROM changed n JOIN before o ON o.job_id = n.job_id
    WHERE n.attempt <> o.attempt;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_committed_again AFTER UPDATE ON artifacts REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION audit_committed_again();
