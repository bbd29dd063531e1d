INSERT INTO join_tokens (id, secret_sha256, role, name, uses, used, created_at, created_by, expires_at)
VALUES ('00000000-0000-0000-0000-0000000027a0', decode(repeat('ab', 32), 'hex'), 'worker', 'w1', 1, 1, now(), 'ada via rpc',
        now() + interval '1 hour');
INSERT INTO join_uses (token_id, key_sha256, worker_id, at)
SELECT id, decode(repeat('cd', 32), 'hex'), '00000000-0000-0000-0000-0000000027a1', now() FROM join_tokens;
INSERT INTO members (worker_id, name, joined_at, joined_by, certified_until)
SELECT worker_id, 'w1', at, 'token ' || token_id, at + interval '30 days' FROM join_uses;
