-- What changes while a job is open stands apart from what never changes.
--
-- A job's row is written when it is submitted and once more when it ends. In between, its state lives in
-- open_jobs, a narrow table without an index on anything that changes: updates stay on their page, and
-- a queue of thousands costs nothing to those who look at what has ended.

-- A whole number in a stored document, null where there is none that fits: one damaged row must not make
-- a statement over all rows fail.
CREATE FUNCTION number_in(text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE WHEN $1 ~ '^[0-9]{1,18}$' THEN $1::bigint END $$;

CREATE TABLE open_jobs (
    job_id           bigint PRIMARY KEY REFERENCES jobs (id),
    -- The array that it is an element of, as in jobs: elements are released and counted together.
    array_job_id     bigint,
    state            text NOT NULL CHECK (state IN ('waiting', 'queued', 'running')),
    -- The fence: number of the newest attempt, 0 before the first. It only grows.
    attempt          int NOT NULL CHECK (attempt >= 0),
    -- The highest attempt number that may still be made.
    last_attempt     int NOT NULL CHECK (last_attempt >= 1),
    not_before       timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    -- Needs that have not succeeded yet. Those of an array are its elements' needs too.
    needs_left       int NOT NULL CHECK (needs_left >= 0),
    -- Class and figures of what keeps it waiting, written when the class changes; null: nobody looked.
    -- Of an array it stands for all its elements.
    obstacle         jsonb,
    failure_class    text,
    failure_message  text,
    -- Since when it could run, kept over its attempts: long waits gain it devices held back.
    queued_at        timestamptz,
    started_at       timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX open_jobs_array ON open_jobs (array_job_id) WHERE array_job_id IS NOT NULL;

-- How far the elements of an array are: counted as they end, in the transaction that ends them.
CREATE TABLE arrays (
    job_id           bigint PRIMARY KEY REFERENCES jobs (id),
    size             int NOT NULL CHECK (size >= 1),
    succeeded        int NOT NULL DEFAULT 0,
    failed           int NOT NULL DEFAULT 0,
    cancelled        int NOT NULL DEFAULT 0,
    CONSTRAINT arrays_counted CHECK (
        succeeded >= 0 AND failed >= 0 AND cancelled >= 0 AND succeeded + failed + cancelled <= size)
) WITH (fillfactor = 50);

-- Ranks of which something may be left on their worker: what holds devices.
CREATE TABLE held_ranks (
    job_id           bigint NOT NULL,
    attempt          int NOT NULL,
    rank             int NOT NULL,
    worker_id        uuid NOT NULL,
    PRIMARY KEY (job_id, attempt, rank)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX held_ranks_worker ON held_ranks (worker_id);

-- Elements needed what their array needs, and the array needed each of them: a row each. Now the array's
-- needs are theirs, and a counter tells when they are through.
INSERT INTO arrays (job_id, size, succeeded, failed, cancelled)
SELECT a.id, a.array_size,
       count(e.id) FILTER (WHERE e.state = 'succeeded'),
       count(e.id) FILTER (WHERE e.state = 'failed'),
       count(e.id) FILTER (WHERE e.state = 'cancelled')
FROM jobs a LEFT JOIN jobs e ON e.array_job_id = a.id
WHERE a.array_size IS NOT NULL
GROUP BY a.id;

DELETE FROM job_needs n USING jobs j
WHERE j.array_job_id IS NOT NULL AND (n.job_id = j.id OR (n.needs_job_id = j.id AND n.job_id = j.array_job_id));

INSERT INTO open_jobs (job_id, array_job_id, state, attempt, last_attempt, not_before,
                       cancel_requested, needs_left, failure_class, failure_message, queued_at, started_at)
SELECT j.id, j.array_job_id, j.state, j.attempt, j.last_attempt, j.not_before, j.cancel_requested,
       CASE WHEN j.state = 'waiting' THEN
           (SELECT count(*) FROM job_needs n JOIN jobs d ON d.id = n.needs_job_id
            WHERE n.job_id = COALESCE(j.array_job_id, j.id) AND d.state <> 'succeeded')
       ELSE 0 END,
       j.failure_class, j.failure_message, j.queued_at, j.started_at
FROM jobs j
WHERE j.state IN ('waiting', 'queued', 'running');

UPDATE open_jobs a SET started_at = e.started_at
FROM (SELECT array_job_id, min(started_at) AS started_at FROM jobs WHERE array_job_id IS NOT NULL
      GROUP BY array_job_id) e
WHERE e.array_job_id = a.job_id;

INSERT INTO held_ranks (job_id, attempt, rank, worker_id)
SELECT job_id, attempt, rank, worker_id FROM attempt_ranks WHERE state IN ('assigned', 'prepared', 'running');

-- jobs keeps what never changes and how it ended.
DROP INDEX jobs_open;
ALTER TABLE jobs
    DROP CONSTRAINT jobs_state_check,
    -- Of an element: null, it is the array's.
    ALTER COLUMN spec DROP NOT NULL,
    ADD COLUMN max_attempts int;
UPDATE jobs SET state = 'open', reason = '' WHERE state IN ('waiting', 'queued', 'running');
UPDATE jobs SET max_attempts = CASE WHEN spec ->> 'max_attempts' ~ '^[0-9]{1,6}$'
                                    THEN (spec ->> 'max_attempts')::int ELSE last_attempt END;
ALTER TABLE jobs
    ALTER COLUMN max_attempts SET NOT NULL,
    ADD CONSTRAINT jobs_state_check CHECK (state IN ('open', 'succeeded', 'failed', 'cancelled')),
    ALTER COLUMN state SET DEFAULT 'open',
    ADD CONSTRAINT jobs_spec_or_array CHECK (spec IS NOT NULL OR array_job_id IS NOT NULL);
ALTER TABLE jobs SET (fillfactor = 80);
COMMENT ON COLUMN jobs.reason IS 'why it was cancelled; empty in every other state';

-- What changes in these is in no index and no predicate any more.
DROP INDEX attempts_one_live;
DROP INDEX attempt_ranks_worker;
ALTER TABLE attempts SET (fillfactor = 60);
ALTER TABLE attempts DROP CONSTRAINT attempts_state_check;
ALTER TABLE attempts ADD CONSTRAINT attempts_state_check
    CHECK (state IN ('assigned', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted'));
-- Of an attempt that had to make room through no fault of its job: preempted | drained | host_upgraded,
-- with the reason in failure_message.
ALTER TABLE attempts ADD COLUMN interruption text;
ALTER TABLE attempt_ranks SET (fillfactor = 60);

-- Who asked for it: "local", or the name in a certificate; empty: Marquee itself.
ALTER TABLE job_events ADD COLUMN caller text NOT NULL DEFAULT '';
