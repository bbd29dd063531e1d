-- Projects share the cluster: by weight, and within quotas.

CREATE TABLE projects (
    name             text PRIMARY KEY,
    weight           double precision NOT NULL DEFAULT 1,
    -- Null: as much as there is.
    gpus             int,
    cpu_slots        int,
    queued           int,
    gpu_hours_week   double precision,
    -- rolling, or the day of the week on which all hours are given back
    reset            text NOT NULL DEFAULT 'rolling',
    -- GPU-seconds, decayed up to usage_at.
    usage            double precision NOT NULL DEFAULT 0,
    usage_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT projects_bounds CHECK (
        weight > 0 AND weight < 'Infinity' AND gpus >= 0 AND cpu_slots >= 0 AND queued >= 0
        AND gpu_hours_week >= 0 AND gpu_hours_week < 'Infinity')
) WITH (fillfactor = 50);

INSERT INTO projects (name) VALUES ('default');

-- Who changed what of a project, and when.
CREATE TABLE project_changes (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project          text NOT NULL REFERENCES projects (name),
    text             text NOT NULL,
    caller           text NOT NULL,
    at               timestamptz NOT NULL
);
CREATE INDEX project_changes_project ON project_changes (project, id);

-- GPU-seconds of each hour: what a quota of GPU-hours looks back on.
CREATE TABLE project_hours (
    project          text NOT NULL REFERENCES projects (name),
    -- Hours since 1970.
    hour             bigint NOT NULL,
    gpu_seconds      double precision NOT NULL,
    PRIMARY KEY (project, hour)
) WITH (fillfactor = 50);

-- Until when the usage of all projects is counted; null: not yet.
CREATE TABLE project_clock (
    one_row          boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    counted_to       timestamptz
);
INSERT INTO project_clock DEFAULT VALUES;

ALTER TABLE jobs ADD COLUMN project text NOT NULL DEFAULT 'default';
