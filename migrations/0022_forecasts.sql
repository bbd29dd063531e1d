-- When a job was first expected to start, for whoever asks later how wrong that was.

CREATE TABLE job_forecasts (
    job_id           bigint PRIMARY KEY REFERENCES jobs (id),
    said_at          timestamptz NOT NULL,
    -- As likely earlier as later, and in nine cases of ten by then.
    expected_at      timestamptz NOT NULL,
    likely_by        timestamptz NOT NULL,
    basis            text NOT NULL
);
