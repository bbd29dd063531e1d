-- An array with an element that runs.
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, reason,
                  last_attempt, created_at, array_size)
SELECT id, 2, 'sweep', 'command', '{"max_attempts": 3}', 0, 1, 'waiting', '0 of 1 elements', 3, now(), 1
FROM pipelines;
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt,
                  last_attempt, created_at, started_at, array_job_id, array_index)
SELECT pipeline_id, 2, 'sweep', 'command', '{"max_attempts": 3}', 0, 1, 'running', 1, 3, now(), now(), id, 0
FROM jobs WHERE array_size = 1;
