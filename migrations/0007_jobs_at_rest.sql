-- jobs no longer has what 0005 copied to open_jobs: of a job that has ended it says nothing.

ALTER TABLE jobs
    DROP COLUMN last_attempt,
    DROP COLUMN not_before,
    DROP COLUMN cancel_requested;
COMMENT ON COLUMN jobs.queued_at IS 'since when it could run, as it was when it ended';

-- A job as transitions and listings see it, whether it is open or has ended.
CREATE VIEW job_states AS
SELECT j.id, j.pipeline_id, j.position, j.name, j.kind, j.priority, j.ranks, j.created_at, j.array_job_id,
       j.array_index, j.array_size, j.max_attempts, j.reused_from, j.cancelled_for, j.reason, j.step_digest,
       COALESCE(o.state, j.state) AS state,
       COALESCE(o.attempt, j.attempt) AS attempt,
       COALESCE(o.last_attempt, j.attempt) AS last_attempt,
       COALESCE(o.cancel_requested, false) AS cancel_requested,
       o.not_before, o.needs_left, o.obstacle, COALESCE(o.queued_at, j.queued_at) AS queued_at,
       COALESCE(o.failure_class, j.failure_class) AS failure_class,
       COALESCE(o.failure_message, j.failure_message) AS failure_message,
       COALESCE(o.started_at, j.started_at) AS started_at,
       j.finished_at
FROM jobs j LEFT JOIN open_jobs o ON o.job_id = j.id;
