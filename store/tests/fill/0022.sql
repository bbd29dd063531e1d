INSERT INTO job_forecasts (job_id, said_at, expected_at, likely_by, basis)
SELECT min(id), now(), now(), now(), 'the time limits of 1 running job' FROM jobs;
