-- Which coordinator leads: several may work on one database, and one of them writes.

CREATE TABLE leader (
    -- There is one row.
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    -- Raised by each take-over, under the exclusive advisory lock that every writing transaction shares: what an
    -- earlier epoch begins afterwards is refused.
    epoch bigint NOT NULL DEFAULT 0,
    -- The process that leads, or led last; null: none ever did, or the one that did has left.
    process uuid,
    -- Its data folder on its host, in a form that no other folder has while that host runs.
    seat text NOT NULL DEFAULT '',
    -- Where workers and clients reach it.
    address text NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    -- Which folder of artifacts it has.
    storage uuid,
    since timestamptz NOT NULL DEFAULT now(),
    -- By Postgres' own clock, which is the only one that judges it.
    expires_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

INSERT INTO leader DEFAULT VALUES;

-- The coordinators that live, the one that leads among them. Each writes its own row, whether it leads or not.
CREATE TABLE coordinators (
    process uuid PRIMARY KEY,
    address text NOT NULL,
    version text NOT NULL,
    storage uuid NOT NULL,
    since timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Every epoch that began, for whoever looks back. Epoch 1 is the first.
CREATE TABLE leaderships (
    epoch bigint PRIMARY KEY,
    process uuid NOT NULL,
    address text NOT NULL,
    began_at timestamptz NOT NULL
);
