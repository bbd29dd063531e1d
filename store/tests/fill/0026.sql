INSERT INTO users (name, grants, created_at, created_by) VALUES ('ada', '{"*": "admin"}', now(), 'local');
INSERT INTO user_tokens (id, user_name, secret_sha256, note, created_at, created_by, expires_at)
VALUES ('0123456789ab', 'ada', repeat('ab', 32), '', now(), 'local', now() + interval '1 day');
INSERT INTO user_sessions (secret_sha256, token_id, created_at, expires_at)
VALUES (repeat('cd', 32), '0123456789ab', now(), now() + interval '1 hour');
