-- Pipelines, jobs, attempts, and what they leave behind.

CREATE TABLE workers (
    id               uuid PRIMARY KEY,
    name             text NOT NULL,
    boot_id          uuid NOT NULL,
    instance_id      uuid NOT NULL,
    -- online | lost | left
    state            text NOT NULL CHECK (state IN ('online', 'lost', 'left')),
    version          text NOT NULL,
    inventory        jsonb NOT NULL,
    last_seen_at     timestamptz NOT NULL
);
-- A name belongs to one worker at a time; a host that was set up anew may take it over.
CREATE UNIQUE INDEX workers_name_online ON workers (name) WHERE state = 'online';

CREATE TABLE pipelines (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             text NOT NULL,
    -- Idempotent submission: the same id with the same document is the same pipeline.
    request_id       text NOT NULL UNIQUE,
    document_digest  text NOT NULL,
    created_at       timestamptz NOT NULL
);

CREATE TABLE jobs (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline_id      bigint NOT NULL REFERENCES pipelines (id),
    -- Place within the pipeline: each job comes after what it needs.
    position         int NOT NULL,
    name             text NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('fetch', 'preprocess', 'train', 'eval', 'command')),
    spec             jsonb NOT NULL,
    priority         int NOT NULL,
    ranks            int NOT NULL CHECK (ranks > 0),
    state            text NOT NULL
        CHECK (state IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Why it waits, or why it was cancelled; empty in every other state.
    reason           text NOT NULL DEFAULT '',
    -- The fence: number of the newest attempt, 0 before the first. It only grows.
    attempt          int NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    -- The highest attempt number that may still be made; `retry` raises it.
    last_attempt     int NOT NULL CHECK (last_attempt >= 1),
    not_before       timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    -- The job whose end without success cancelled this one: a retry of that one revives this one.
    cancelled_for    bigint REFERENCES jobs (id),
    failure_class    text,
    failure_message  text,
    created_at       timestamptz NOT NULL,
    -- Since when it could run, kept over its attempts: long waits gain it devices held back.
    queued_at        timestamptz,
    started_at       timestamptz,
    finished_at      timestamptz,
    UNIQUE (pipeline_id, name)
);
CREATE INDEX jobs_open ON jobs (state, priority DESC, id) WHERE state IN ('waiting', 'queued', 'running');
CREATE INDEX jobs_pipeline ON jobs (pipeline_id, position);

CREATE TABLE job_needs (
    job_id           bigint NOT NULL REFERENCES jobs (id),
    needs_job_id     bigint NOT NULL REFERENCES jobs (id),
    PRIMARY KEY (job_id, needs_job_id)
);
CREATE INDEX job_needs_reverse ON job_needs (needs_job_id);

CREATE TABLE attempts (
    job_id           bigint NOT NULL REFERENCES jobs (id),
    number           int NOT NULL CHECK (number >= 1),
    state            text NOT NULL
        CHECK (state IN ('assigned', 'running', 'succeeded', 'failed', 'cancelled')),
    rendezvous_host  text,
    rendezvous_port  int,
    -- The checkpoint it goes on from.
    resumed_from_attempt int,
    resumed_from_step bigint,
    failure_class    text,
    failure_message  text,
    created_at       timestamptz NOT NULL,
    started_at       timestamptz,
    finished_at      timestamptz,
    PRIMARY KEY (job_id, number)
);
-- The database itself keeps a job from having two live attempts.
CREATE UNIQUE INDEX attempts_one_live ON attempts (job_id) WHERE state IN ('assigned', 'running');

CREATE TABLE attempt_ranks (
    job_id           bigint NOT NULL,
    attempt          int NOT NULL,
    rank             int NOT NULL CHECK (rank >= 0),
    worker_id        uuid NOT NULL REFERENCES workers (id),
    local_rank       int NOT NULL,
    devices          jsonb NOT NULL,
    state            text NOT NULL
        CHECK (state IN ('assigned', 'prepared', 'running', 'finished', 'failed', 'stopped')),
    -- Highest report stored; the next must be one more. This makes storing exactly-once.
    last_sequence    bigint NOT NULL DEFAULT 0,
    progress         jsonb,
    summary          jsonb,
    -- Rank 0's manifest, held here until the whole gang has finished and the artifact is committed.
    output           jsonb,
    failure_class    text,
    failure_message  text,
    pid              bigint,
    -- When the coordinator learnt that nothing of the rank is left.
    ended_at         timestamptz,
    PRIMARY KEY (job_id, attempt, rank),
    FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, number)
);
CREATE INDEX attempt_ranks_worker ON attempt_ranks (worker_id)
    WHERE state IN ('assigned', 'prepared', 'running');

CREATE TABLE artifacts (
    job_id           bigint PRIMARY KEY REFERENCES jobs (id),
    attempt          int NOT NULL,
    -- dataset | shards | model | report | output
    name             text NOT NULL,
    digest           text NOT NULL,
    size_bytes       bigint NOT NULL,
    file_count       int NOT NULL,
    manifest         jsonb NOT NULL,
    committed_at     timestamptz NOT NULL,
    FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, number)
);
CREATE INDEX artifacts_digest ON artifacts (digest);

CREATE TABLE checkpoints (
    job_id           bigint NOT NULL,
    attempt          int NOT NULL,
    step             bigint NOT NULL,
    digest           text NOT NULL,
    manifest         jsonb NOT NULL,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (job_id, attempt, step),
    FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, number)
);

CREATE TABLE metrics (
    job_id           bigint NOT NULL,
    attempt          int NOT NULL,
    rank             int NOT NULL,
    sequence         bigint NOT NULL,
    name             text NOT NULL,
    step             bigint NOT NULL,
    value            double precision NOT NULL,
    at               timestamptz NOT NULL,
    PRIMARY KEY (job_id, attempt, rank, sequence, name)
);

CREATE TABLE log_lines (
    job_id           bigint NOT NULL,
    attempt          int NOT NULL,
    rank             int NOT NULL,
    sequence         bigint NOT NULL,
    -- Place of the line within its report.
    line             int NOT NULL,
    -- stdout | stderr
    stream           text NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    text             text NOT NULL,
    at               timestamptz NOT NULL,
    PRIMARY KEY (job_id, attempt, rank, sequence, line)
);

CREATE TABLE job_events (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id           bigint NOT NULL REFERENCES jobs (id),
    attempt          int NOT NULL,
    text             text NOT NULL,
    at               timestamptz NOT NULL
);
CREATE INDEX job_events_job ON job_events (job_id, id);
