-- What the database loses or alters of a rank's log is noticed: each line has a checksum, and how many of its report follow it.

-- NULL in lines of before.
ALTER TABLE log_lines ADD COLUMN checksum int, ADD COLUMN lines_left int;
