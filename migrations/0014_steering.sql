-- What people ask of jobs and hosts besides a cancel: wait, make room, take no more work.

ALTER TABLE open_jobs
    -- Who holds it, and since when; null: nobody. Of an array it holds its elements too.
    ADD COLUMN held_by text,
    ADD COLUMN held_at timestamptz,
    -- Of a running job that is to make room: preempted | drained | host_upgraded, and for whose sake.
    ADD COLUMN interruption text,
    ADD COLUMN interruption_message text,
    -- How often it made room on the day of the newest time, in UTC.
    ADD COLUMN preempted int NOT NULL DEFAULT 0,
    ADD COLUMN preempted_on date;

-- What an operator decided about a host: drained or not, what of it is in quarantine, and why.
ALTER TABLE workers ADD COLUMN standing jsonb NOT NULL DEFAULT '{}';

CREATE OR REPLACE VIEW job_states AS
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
       j.finished_at,
       j.project, o.held_by, o.held_at, o.interruption, o.interruption_message
FROM jobs j LEFT JOIN open_jobs o ON o.job_id = j.id;
