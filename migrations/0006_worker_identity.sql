-- A worker belongs to the certificate that it first came with.

ALTER TABLE workers
    -- Name in the certificate that owns the worker's id and name; empty: none has been shown yet.
    ADD COLUMN identity text NOT NULL DEFAULT '';
