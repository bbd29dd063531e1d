INSERT INTO schedules (name, cron, time_zone, format, document, overlap, missed, next_due, set_by, set_at)
VALUES ('nightly', '30 2 * * *', 'Europe/Berlin', 'toml', 'name = "n"', 'skip', 'one', now(), 'local', now());
INSERT INTO schedule_runs (schedule_id, due_at, outcome, pipeline_id, at)
SELECT s.id, now(), 'submitted', p.id, now() FROM schedules s, pipelines p WHERE p.name = 'posters';
