-- What an attempt waited for before it was placed: the obstacle that the job had last, which it loses as it runs. Null: it
-- was placed at once, or by an earlier release.
ALTER TABLE attempts ADD COLUMN waited_for jsonb;
