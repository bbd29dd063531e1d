-- What people look for in a list of jobs is found without going through all that ever ran. Nothing that changes while a
-- job is open is in these indexes, so that its updates stay on their page; elements of arrays, of which there may be
-- millions, are in none but the last two.
CREATE INDEX jobs_shown ON jobs (id) WHERE array_job_id IS NULL;
CREATE INDEX jobs_shown_kind ON jobs (kind, id) WHERE array_job_id IS NULL;
CREATE INDEX jobs_shown_project ON jobs (project, id) WHERE array_job_id IS NULL;
CREATE INDEX jobs_shown_name ON jobs (name, id) WHERE array_job_id IS NULL;
CREATE INDEX pipelines_name ON pipelines (name, id);
CREATE INDEX open_jobs_shown ON open_jobs (job_id) WHERE array_job_id IS NULL;
CREATE INDEX attempt_ranks_of_worker ON attempt_ranks (worker_id, job_id);

-- Jobs that have failed, and those outside of arrays that were cancelled: few of many, and what people look for most. A
-- job that was retried stays here, whatever became of it: its row says how it ended.
CREATE TABLE jobs_unsuccessful (
    job_id           bigint PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    -- How it ended without success the last time.
    state            text NOT NULL CHECK (state IN ('failed', 'cancelled')),
    -- The array that it is an element of.
    array_job_id     bigint
);
CREATE INDEX jobs_unsuccessful_shown ON jobs_unsuccessful (state, job_id) WHERE array_job_id IS NULL;
CREATE INDEX jobs_unsuccessful_array ON jobs_unsuccessful (array_job_id, job_id) WHERE array_job_id IS NOT NULL;

INSERT INTO jobs_unsuccessful (job_id, state, array_job_id)
SELECT id, state, array_job_id FROM jobs WHERE state = 'failed' OR (state = 'cancelled' AND array_job_id IS NULL);

-- By the database, so that the release before this one, which may run beside it, cannot leave it out.
CREATE FUNCTION jobs_unsuccessful_add() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO jobs_unsuccessful (job_id, state, array_job_id) VALUES (NEW.id, NEW.state, NEW.array_job_id)
    ON CONFLICT (job_id) DO UPDATE SET state = EXCLUDED.state;
    RETURN NULL;
END $$;
CREATE TRIGGER unsuccessful_at_once AFTER INSERT ON jobs FOR EACH ROW
    WHEN (NEW.state = 'failed' OR (NEW.state = 'cancelled' AND NEW.array_job_id IS NULL))
    EXECUTE FUNCTION jobs_unsuccessful_add();
CREATE TRIGGER unsuccessful AFTER UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state
          AND (NEW.state = 'failed' OR (NEW.state = 'cancelled' AND NEW.array_job_id IS NULL)))
    EXECUTE FUNCTION jobs_unsuccessful_add();
