-- An array with an element that runs.
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, reason,
                  last_attempt, created_at, array_size)
SELECT id, 2, 'sweep', 'command', '{"max_attempts": 3}', 0, 1, 'waiting', '0 of 1 elements', 3, now(), 1
FROM pipelines;
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt,
                  last_attempt, created_at, started_at, array_job_id, array_index)
SELECT pipeline_id, 2, 'sweep', 'command', '{"max_attempts": 3}', 0, 1, 'running', 1, 3, now(), now(), id, 0
FROM jobs WHERE array_size = 1;
INSERT INTO attempts (job_id, number, state, created_at)
SELECT id, 1, 'running', now() FROM jobs WHERE array_job_id IS NOT NULL;
INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state)
SELECT id, 1, 0, '00000000-0000-4000-8000-000000000001', 0, '[{"kind": "cpu", "index": 1}]', 'running'
FROM jobs WHERE array_job_id IS NOT NULL;
