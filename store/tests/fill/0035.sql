INSERT INTO secrets (project, job, name, key_id, sealed, set_at, set_by)
VALUES ('default', '', 'HF_TOKEN', '0123456789abcdef', '\x00', now(), 'local');
