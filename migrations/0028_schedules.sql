-- Pipelines that are submitted again and again, at the times of a cron pattern.

CREATE TABLE schedules (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             text NOT NULL UNIQUE,
    cron             text NOT NULL,
    -- By its name in the IANA database.
    time_zone        text NOT NULL,
    -- What is submitted: toml | json, and what is put into it.
    format           text NOT NULL CHECK (format IN ('toml', 'json')),
    document         text NOT NULL,
    overrides        jsonb NOT NULL DEFAULT '[]',
    -- What becomes of a due time while the run before it has not ended, and of those that nobody saw.
    overlap          text NOT NULL CHECK (overlap IN ('skip', 'queue')),
    missed           text NOT NULL CHECK (missed IN ('one', 'none')),
    -- The first due time that nobody has dealt with; null: there is none any more.
    next_due         timestamptz,
    -- A due time that waits for the end of the run before it.
    waiting_due      timestamptz,
    -- Null: it is not paused.
    paused_by        text,
    paused_at        timestamptz,
    set_by           text NOT NULL,
    set_at           timestamptz NOT NULL
);

-- What became of due times. The key is what keeps a due time from being dealt with twice, whoever thinks he leads.
CREATE TABLE schedule_runs (
    schedule_id      bigint NOT NULL REFERENCES schedules (id) ON DELETE CASCADE,
    due_at           timestamptz NOT NULL,
    outcome          text NOT NULL CHECK (outcome IN ('submitted', 'skipped', 'missed', 'refused')),
    -- Null: none was submitted, or it was removed.
    pipeline_id      bigint REFERENCES pipelines (id) ON DELETE SET NULL,
    text             text NOT NULL DEFAULT '',
    at               timestamptz NOT NULL,
    PRIMARY KEY (schedule_id, due_at)
);
CREATE INDEX schedule_runs_pipeline ON schedule_runs (pipeline_id) WHERE pipeline_id IS NOT NULL;
