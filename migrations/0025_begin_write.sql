-- How a transaction that writes begins: one statement instead of up to five, since it is sent for each of them.
--
-- Each query of a VOLATILE function in plpgsql sees what is committed when that query begins, not when the function was
-- called. So the leader's row is read after the lock is held, as if both had been sent one by one.

-- `lock` is the advisory lock that all writers share and a new leader takes alone; `mine` the epoch by which the caller
-- means to lead, or null where nobody was elected; `actor` who asked for it, as the audit names them, or null; `pipelines` whose locks it needs at once.
-- Where another epoch is the newest nothing is locked but the shared lock, and the caller rolls back.
CREATE FUNCTION begin_write(lock bigint, mine bigint, actor text, pipelines bigint[])
RETURNS TABLE (newest bigint, leader_address text) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF mine IS NOT NULL THEN
        PERFORM set_config('marquee.epoch', mine::text, true);
    END IF;
    PERFORM pg_advisory_xact_lock_shared(lock);
    SELECT l.epoch, l.address INTO newest, leader_address FROM leader l;
    IF newest = mine OR mine IS NULL THEN
        IF actor IS NOT NULL THEN
            PERFORM set_config('marquee.actor', actor, true);
        END IF;
        IF pipelines IS NOT NULL THEN
            -- Always in this order, so that two of them cannot wait for each other.
            PERFORM FROM pipelines p WHERE p.id = ANY (begin_write.pipelines) ORDER BY p.id FOR NO KEY UPDATE;
        END IF;
    END IF;
    RETURN NEXT;
END $$;
