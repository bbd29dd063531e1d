-- Curves group the values of a job by ranges of steps, a few hundred of them. Postgres takes each step for a group of its
-- own, and would sort a million values by one process where several could add them up.
ALTER TABLE metrics ALTER COLUMN step SET (n_distinct = 500);
ANALYZE metrics (step);
