-- Jobs in each state, as the last version before open_jobs left them.
INSERT INTO pipelines (name, request_id, document_digest, created_at)
VALUES ('states', 'request-4', repeat('ab', 32), now());

-- A gang that runs, of which one rank was lost and one has finished.
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt,
                  last_attempt, created_at, started_at, cancel_requested)
SELECT id, 0, 'gang', 'train', '{"max_attempts": 2}', 0, 3, 'running', 1, 2, now(), now(), true
FROM pipelines WHERE name = 'states';
INSERT INTO attempts (job_id, number, state, created_at, rendezvous_host, rendezvous_port)
SELECT id, 1, 'running', now(), '10.0.0.1', 4711 FROM jobs WHERE name = 'gang';
INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state, lost_at)
SELECT j.id, 1, r.rank, '00000000-0000-4000-8000-000000000001', r.rank,
       '[{"kind": "cpu", "index": 0}]', r.state, r.lost_at
FROM jobs j, (VALUES (0, 'running', NULL::timestamptz), (1, 'running', now()), (2, 'finished', NULL))
    AS r (rank, state, lost_at)
WHERE j.name = 'gang';

-- One that waits for two jobs, of which one has succeeded; one that waits for its next attempt; two that ended.
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, reason, attempt,
                  last_attempt, created_at, not_before, failure_class, failure_message, finished_at, queued_at)
SELECT p.id, s.position, s.name, 'command', '{"max_attempts": 3}', 0, 1, s.state, s.reason, s.attempt, 3, now(),
       s.not_before, s.class, s.message, s.finished_at, now()
FROM pipelines p, (VALUES
    (1, 'done', 'succeeded', '', 1, NULL::timestamptz, NULL, NULL, now()),
    (2, 'waits', 'waiting', 'waits for "gang" to succeed', 0, NULL, NULL, NULL, NULL),
    (3, 'again', 'queued', 'attempt 1 failed', 1, now(), 'crash', 'exit code 1', NULL),
    (4, 'failed', 'failed', '', 3, NULL, 'crash', 'exit code 1', now()),
    (5, 'cancelled', 'cancelled', 'cancelled by a user', 0, NULL, NULL, NULL, now()))
    AS s (position, name, state, reason, attempt, not_before, class, message, finished_at)
WHERE p.name = 'states';
INSERT INTO job_needs (job_id, needs_job_id)
SELECT w.id, n.id FROM jobs w, jobs n WHERE w.name = 'waits' AND n.name IN ('gang', 'done');

-- A spec that nobody can read.
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, last_attempt, created_at)
SELECT id, 6, 'broken', 'command', '{"max_attempts": "many"}', 0, 1, 'queued', 5, now()
FROM pipelines WHERE name = 'states';

-- An array that waits, with elements in several states. Before open_jobs it needed each of them.
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, reason,
                  last_attempt, created_at, array_size)
SELECT id, 7, 'elements', 'command', '{"max_attempts": 3}', 0, 1, 'waiting', '1 of 4 elements', 3, now(), 4
FROM pipelines WHERE name = 'states';
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt,
                  last_attempt, created_at, started_at, array_job_id, array_index)
SELECT a.pipeline_id, 7, 'elements', 'command', '{"max_attempts": 3}', 0, 1, e.state, 1, 3, now(), now(), a.id, e.index
FROM jobs a, (VALUES (0, 'succeeded'), (1, 'failed'), (2, 'cancelled'), (3, 'running')) AS e (index, state)
WHERE a.name = 'elements' AND a.array_size = 4;
INSERT INTO attempts (job_id, number, state, created_at)
SELECT id, 1, 'running', now() FROM jobs
WHERE name = 'elements' AND state = 'running' AND array_job_id IS NOT NULL;
INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state)
SELECT id, 1, 0, '00000000-0000-4000-8000-000000000001', 0, '[{"kind": "cpu", "index": 1}]', 'running'
FROM jobs WHERE name = 'elements' AND state = 'running' AND array_job_id IS NOT NULL;
INSERT INTO job_needs (job_id, needs_job_id)
SELECT array_job_id, id FROM jobs WHERE name = 'elements' AND array_job_id IS NOT NULL;
