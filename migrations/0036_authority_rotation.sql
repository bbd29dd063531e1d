-- One authority follows another while the cluster is at work: how far that is, and who has taken part in it.

-- The public half alone. Keys are in files of the coordinators' hosts, and nowhere else.
CREATE TABLE authority_rotations (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- SHA-256 of the public keys of the authority before and of the next one, in hex.
    before           text NOT NULL,
    next             text NOT NULL,
    -- PEM: the next one's certificate.
    certificate      text NOT NULL,
    -- begun: both are believed, the one before signs. switched: both are believed, the next one signs.
    -- finished: the next one alone is believed. abandoned: the one before alone is.
    phase            text NOT NULL CHECK (phase IN ('begun', 'switched', 'finished', 'abandoned')),
    begun_at         timestamptz NOT NULL,
    begun_by         text NOT NULL,
    switched_at      timestamptz,
    ended_at         timestamptz
);
-- One at a time: a third authority would be believed by some and not by others.
CREATE UNIQUE INDEX authority_rotations_open ON authority_rotations ((true)) WHERE phase IN ('begun', 'switched');

-- Which authorities a worker believes, and which one signed the certificate that it shows, as it said when it last
-- asked: SHA-256 of their public keys, in hex. Empty: a worker of before 0036 says neither.
ALTER TABLE members
    ADD COLUMN believes     text[] NOT NULL DEFAULT '{}',
    ADD COLUMN certified_by text NOT NULL DEFAULT '';

CREATE FUNCTION audit_authority() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, detail)
    VALUES ('authority_' || NEW.phase, jsonb_build_object('before', NEW.before, 'next', NEW.next));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON authority_rotations FOR EACH ROW EXECUTE FUNCTION audit_authority();
CREATE TRIGGER audit_phase AFTER UPDATE ON authority_rotations FOR EACH ROW
    WHEN (OLD.phase IS DISTINCT FROM NEW.phase) EXECUTE FUNCTION audit_authority();
