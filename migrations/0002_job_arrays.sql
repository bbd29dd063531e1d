-- Job arrays: one job whose work is done by elements, each a job of its own with its attempts.

ALTER TABLE jobs
    -- Number of elements; null: no array.
    ADD COLUMN array_size int CHECK (array_size >= 1),
    -- The array that this job is an element of, and its place in it, from 0.
    ADD COLUMN array_job_id bigint REFERENCES jobs (id),
    ADD COLUMN array_index int CHECK (array_index >= 0),
    ADD CONSTRAINT jobs_element_is_whole CHECK ((array_job_id IS NULL) = (array_index IS NULL)),
    ADD CONSTRAINT jobs_no_array_of_arrays CHECK (array_job_id IS NULL OR array_size IS NULL);

-- Elements have their array's name.
ALTER TABLE jobs DROP CONSTRAINT jobs_pipeline_id_name_key;
CREATE UNIQUE INDEX jobs_pipeline_name ON jobs (pipeline_id, name) WHERE array_job_id IS NULL;
CREATE UNIQUE INDEX jobs_array_elements ON jobs (array_job_id, array_index)
    WHERE array_job_id IS NOT NULL;
