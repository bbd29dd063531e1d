-- An identical step that has succeeded stands for another one: by settings, inputs and code.

ALTER TABLE jobs
    -- Digest of settings and inputs, once its inputs are there; null for kinds that are never reused.
    ADD COLUMN step_digest text,
    -- The job whose artifact was taken for this one's.
    ADD COLUMN reused_from bigint REFERENCES jobs (id);
CREATE INDEX jobs_step ON jobs (step_digest) WHERE step_digest IS NOT NULL;

-- Version of the code that made it; empty where nobody said.
ALTER TABLE artifacts ADD COLUMN code text NOT NULL DEFAULT '';

-- Version of the code of the worker's marquee-prep; empty where it did not say.
ALTER TABLE workers ADD COLUMN prep_code text NOT NULL DEFAULT '';
