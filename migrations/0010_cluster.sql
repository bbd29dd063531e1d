-- Which cluster this is: its workers never join another one, whose jobs have the same numbers.

CREATE TABLE cluster (
    -- There is one row.
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);

INSERT INTO cluster DEFAULT VALUES;
