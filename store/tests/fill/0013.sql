INSERT INTO project_changes (project, text, caller, at) VALUES ('default', 'weight 1 -> 2', 'local', now());
INSERT INTO project_hours (project, hour, gpu_seconds) VALUES ('default', 480000, 3600);
