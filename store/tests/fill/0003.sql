-- A step that was reused.
UPDATE jobs SET step_digest = repeat('a', 64);
UPDATE jobs SET reused_from = (SELECT min(id) FROM jobs)
WHERE id = (SELECT max(id) FROM jobs WHERE array_job_id IS NULL);
