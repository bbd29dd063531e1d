-- What has ended ages out, where a project says so; and what somebody keeps stays.

ALTER TABLE projects
    -- Days after their end after which pipelines go with all that is stored of them; null: never.
    ADD COLUMN keep_days int CHECK (keep_days >= 1),
    -- Days after their end after which logs and metrics of jobs go; null: with their pipeline.
    ADD COLUMN keep_log_days int CHECK (keep_log_days >= 1);

-- Who wants a pipeline to stay whatever its project says, and since when; null: nobody.
ALTER TABLE pipelines
    ADD COLUMN kept_by text,
    ADD COLUMN kept_at timestamptz;

-- Artifacts that jobs name by digest: what made them stays as long as such a job does.
CREATE TABLE job_inputs (
    job_id           bigint NOT NULL REFERENCES jobs (id),
    digest           text NOT NULL,
    PRIMARY KEY (job_id, digest)
);
CREATE INDEX job_inputs_digest ON job_inputs (digest);
INSERT INTO job_inputs (job_id, digest)
SELECT DISTINCT j.id, i.value ->> 'artifact'
FROM jobs j
CROSS JOIN LATERAL jsonb_each(
    CASE WHEN jsonb_typeof(j.spec -> 'inputs') = 'object' THEN j.spec -> 'inputs' ELSE '{}' END) i
WHERE i.value ->> 'artifact' ~ '^[0-9a-f]{64}$';

-- Whose work was not done again, for the same reason.
CREATE INDEX jobs_reused_from ON jobs (reused_from) WHERE reused_from IS NOT NULL;

-- These grow without end and are thinned out in pieces: the room of a piece is to be used again before the next.
ALTER TABLE log_lines SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE metrics SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE job_events SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE attempts SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE attempt_ranks SET (autovacuum_vacuum_scale_factor = 0.05);
