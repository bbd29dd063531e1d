-- A cluster with a long life behind it: 100,000 jobs of a month, of which one reported 1,000,000 values.
SET synchronous_commit = off;

INSERT INTO workers (id, name, boot_id, instance_id, state, version, inventory, last_seen_at)
SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(w), 12, '0'))::uuid, 'host-' || w, gen_random_uuid(),
       gen_random_uuid(), 'left', '0.1.0',
       '{"hostname": "host", "cpu_threads": 8, "memory_bytes": 1, "cpu_slots": 2, "threads_per_slot": 4, "gpus": [],
         "address": "10.0.0.1", "flavour": ""}', now()
FROM generate_series(1, 20) w;

INSERT INTO pipelines (name, request_id, document_digest, created_at)
SELECT (ARRAY['posters', 'nightly', 'sweep', 'ablation'])[1 + n % 4] || '-' || n % 97, 'filled-' || n,
       repeat('ab', 32), now() - (20001 - n) * interval '2 minutes'
FROM generate_series(1, 20000) n;

INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt, max_attempts, created_at,
                  queued_at, started_at, finished_at, failure_class, failure_message)
SELECT p.id, k, (ARRAY['fetch', 'prepare', 'train', 'eval', 'publish'])[k + 1], 'command',
       '{"kind": "command", "argv": ["true"], "max_attempts": 3}', 0, 1 + (k = 2)::int,
       CASE WHEN p.id % 23 = 0 AND k = 4 THEN 'failed' ELSE 'succeeded' END, 1, 3, p.created_at, p.created_at,
       p.created_at + k * interval '20 seconds', p.created_at + (k + 1) * interval '20 seconds',
       CASE WHEN p.id % 23 = 0 AND k = 4 THEN 'crash' END,
       CASE WHEN p.id % 23 = 0 AND k = 4 THEN 'it ended with exit code 1' END
FROM pipelines p CROSS JOIN generate_series(0, 4) k
WHERE p.request_id LIKE 'filled-%'
ORDER BY p.id, k;

INSERT INTO attempts (job_id, number, state, created_at, started_at, finished_at)
SELECT id, 1, state, started_at, started_at, finished_at FROM jobs WHERE state <> 'open' ORDER BY id;

INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state, ended_at)
SELECT id, 1, r, ('00000000-0000-4000-8000-' || lpad(to_hex(1 + (id + r) % 20), 12, '0'))::uuid, 0,
       '[{"kind": "gpu", "index": 0}]', 'finished', finished_at
FROM jobs CROSS JOIN generate_series(0, 1) r
WHERE r < ranks AND state <> 'open'
ORDER BY id;

INSERT INTO job_needs (job_id, needs_job_id)
SELECT j.id, n.id FROM jobs j JOIN jobs n ON n.pipeline_id = j.pipeline_id AND n.position = j.position - 1;

INSERT INTO artifacts (job_id, attempt, name, digest, size_bytes, file_count, manifest, committed_at)
SELECT id, 1, 'output', md5(id::text) || md5(id::text), 0, 0, '{"files": []}', finished_at
FROM jobs WHERE state = 'succeeded' ORDER BY id;

-- 20 metrics of 50,000 steps.
INSERT INTO metrics (job_id, attempt, rank, sequence, name, step, value, at)
SELECT (SELECT max(id) FROM jobs WHERE name = 'train'), 1, 0, s, 'metric_' || n, s, exp(-s / 20000.0) + 0.1 * random(),
       now() - (50000 - s) * interval '50 ms'
FROM generate_series(1, 50000) s CROSS JOIN generate_series(1, 20) n;

-- What Postgres would do by itself in the minutes that follow, and be measured with.
VACUUM (ANALYZE);
CHECKPOINT;
SELECT 'job ' || job_id || ' of ' || count(*) || ' values' FROM metrics GROUP BY job_id;
