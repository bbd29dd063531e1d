-- The migration itself writes the first line of the audit.
INSERT INTO pipelines (name, request_id, document_digest, created_at) VALUES ('audited', 'audited', 'd', now());
