-- A job may wait for another one to end, or to fail, instead of to succeed.

ALTER TABLE job_needs
    ADD COLUMN wanted text NOT NULL DEFAULT 'succeeded'
        CHECK (wanted IN ('succeeded', 'finished', 'failed'));
COMMENT ON COLUMN open_jobs.needs_left IS
    'needs that have not ended as they are wanted; those of an array are its elements'' needs too';

-- What jobs need, and how that ended. An array has ended when the last of its elements has: whoever cleans up after
-- it must not do so while elements run. What was cancelled because something failed counts as failed itself.
CREATE VIEW need_states AS
SELECT n.job_id, n.needs_job_id, n.wanted, e.ended,
       COALESCE(e.ended IS NOT NULL AND (n.wanted = 'finished' OR n.wanted = e.ended), false) AS met
FROM job_needs n
JOIN jobs d ON d.id = n.needs_job_id
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN d.state = 'open' THEN NULL
        WHEN d.state = 'succeeded' THEN 'succeeded'
        WHEN d.array_size IS NOT NULL
             AND EXISTS (SELECT 1 FROM open_jobs o WHERE o.array_job_id = d.id) THEN NULL
        WHEN d.state = 'failed'
             OR EXISTS (SELECT 1 FROM jobs r WHERE r.id = d.cancelled_for AND r.state = 'failed') THEN 'failed'
        ELSE 'cancelled' END AS ended) e;
