-- One row and more in each table of 0001, for the migrations that come after it.
INSERT INTO workers (id, name, boot_id, instance_id, state, version, inventory, last_seen_at)
VALUES ('00000000-0000-4000-8000-000000000001', 'gpu-1', '00000000-0000-4000-8000-0000000000b1',
        '00000000-0000-4000-8000-0000000000a1', 'online', '0.1.0',
        '{"hostname": "gpu-1", "cpu_threads": 8, "memory_bytes": 1, "cpu_slots": 2,
          "threads_per_slot": 4, "gpus": [], "address": "10.0.0.1", "flavour": ""}', now()),
       ('00000000-0000-4000-8000-000000000002', 'gpu-1', '00000000-0000-4000-8000-0000000000b2',
        '00000000-0000-4000-8000-0000000000a2', 'left', '0.1.0',
        '{"hostname": "gpu-1", "cpu_threads": 8, "memory_bytes": 1, "cpu_slots": 2,
          "threads_per_slot": 4, "gpus": [], "address": "10.0.0.1", "flavour": ""}', now());

INSERT INTO pipelines (name, request_id, document_digest, created_at)
VALUES ('posters', 'request-1', repeat('ab', 32), now());

INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt,
                  last_attempt, created_at, started_at, finished_at)
SELECT id, 0, 'fetch', 'command', '{"max_attempts": 3}', 0, 1, 'succeeded', 2, 3, now(), now(), now()
FROM pipelines;
INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, reason,
                  last_attempt, created_at)
SELECT id, 1, 'train', 'command', '{"max_attempts": 3}', 5, 2, 'queued', 'needs 2 gpu devices', 3, now()
FROM pipelines;

INSERT INTO job_needs (job_id, needs_job_id)
SELECT t.id, f.id FROM jobs t, jobs f WHERE t.name = 'train' AND f.name = 'fetch';

INSERT INTO attempts (job_id, number, state, failure_class, failure_message, created_at)
SELECT id, 1, 'failed', 'lost_worker', 'worker went away', now() FROM jobs WHERE name = 'fetch';
INSERT INTO attempts (job_id, number, state, created_at)
SELECT id, 2, 'succeeded', now() FROM jobs WHERE name = 'fetch';

INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state)
SELECT job_id, number, 0, '00000000-0000-4000-8000-000000000001', 0,
       '[{"kind": "cpu", "index": 0}]', 'finished'
FROM attempts;

INSERT INTO artifacts (job_id, attempt, name, digest, size_bytes, file_count, manifest, committed_at)
SELECT job_id, number, 'output', repeat('cd', 32), 0, 0, '{"files": []}', now()
FROM attempts WHERE number = 2;

INSERT INTO checkpoints (job_id, attempt, step, digest, manifest, created_at)
SELECT job_id, number, 100, repeat('ef', 32), '{"files": []}', now() FROM attempts;

INSERT INTO metrics (job_id, attempt, rank, sequence, name, step, value, at)
SELECT job_id, number, 0, 1, 'train/loss', 100, 0.5, now() FROM attempts;

INSERT INTO log_lines (job_id, attempt, rank, sequence, line, stream, text, at)
SELECT job_id, number, 0, 2, 0, 'stderr', 'hello', now() FROM attempts;

INSERT INTO job_events (job_id, attempt, text, at)
SELECT job_id, number, 'placed on gpu-1', now() FROM attempts;
