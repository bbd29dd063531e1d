-- Ranks that a running attempt goes on without, and a second place for the others to meet.

-- When the attempt went on without the rank. Nothing more is taken of it, whatever its state; its
-- devices are free only when its state says so.
ALTER TABLE attempt_ranks ADD COLUMN lost_at timestamptz;
ALTER TABLE attempts ADD COLUMN standby_host text;
ALTER TABLE attempts ADD COLUMN standby_port int;
