-- An element of an array becomes a job of its own shortly before its turn: a million that are queued cost a row for each
-- array, and those that come next.
ALTER TABLE arrays
    -- Elements that are not in jobs yet. They are the last ones: those that are there have the indexes 0, 1, 2, ...
    ADD COLUMN to_come int NOT NULL DEFAULT 0 CHECK (to_come >= 0),
    -- Elements that were cancelled before they became jobs; they are among the cancelled ones. None is to come then.
    ADD COLUMN dropped int NOT NULL DEFAULT 0 CHECK (dropped >= 0),
    ADD CONSTRAINT arrays_to_come_or_dropped CHECK (to_come = 0 OR dropped = 0),
    ADD CONSTRAINT arrays_all_counted CHECK (
        dropped <= cancelled AND succeeded + failed + cancelled + to_come <= size);
CREATE INDEX arrays_to_come ON arrays (job_id) WHERE to_come > 0;

-- As before, but for an array that has ended while elements of it are to come: these go on, as those do that are there.
CREATE OR REPLACE VIEW need_states AS
SELECT n.job_id, n.needs_job_id, n.wanted, e.ended,
       COALESCE(e.ended IS NOT NULL AND (n.wanted = 'finished' OR n.wanted = e.ended), false) AS met
FROM job_needs n
JOIN jobs d ON d.id = n.needs_job_id
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN d.state = 'open' THEN NULL
        WHEN d.state = 'succeeded' THEN 'succeeded'
        WHEN d.array_size IS NOT NULL
             AND (EXISTS (SELECT 1 FROM open_jobs o WHERE o.array_job_id = d.id)
                  OR EXISTS (SELECT 1 FROM arrays a WHERE a.job_id = d.id AND a.to_come > 0)) THEN NULL
        WHEN d.state = 'failed'
             OR EXISTS (SELECT 1 FROM jobs r WHERE r.id = d.cancelled_for AND r.state = 'failed') THEN 'failed'
        ELSE 'cancelled' END AS ended) e;
