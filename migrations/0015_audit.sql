-- What happened, for whoever must prove it: one line for each grant, proof of release, commit, end, loss and request.
--
-- The database itself writes the lines, in the transaction that changes the rows: no way through the code can
-- forget one, and no statement more is sent for it. `marquee audit` reads them, and checks them against the rules of
-- docs/reliability.md.

-- The clock of the audit, by itself so that a simulation can put its own in place.
CREATE FUNCTION audit_now() RETURNS timestamptz LANGUAGE sql VOLATILE
AS $$ SELECT clock_timestamp() $$;

CREATE TABLE audit (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at               timestamptz NOT NULL DEFAULT audit_now(),
    -- A word of `marquee_store::audit`.
    kind             text NOT NULL,
    -- Of lines about a whole pipeline, which have no job.
    pipeline_id      bigint,
    job_id           bigint,
    attempt          int,
    rank             int,
    worker_id        uuid,
    -- The leader's epoch under which it was written, as the writer believed; null: nobody was elected.
    epoch            bigint DEFAULT NULLIF(current_setting('marquee.epoch', true), '')::bigint,
    -- Who asked for it, as in job_events; empty: Marquee itself.
    actor            text NOT NULL DEFAULT COALESCE(current_setting('marquee.actor', true), ''),
    detail           jsonb
);
CREATE INDEX audit_job ON audit (job_id, id) WHERE job_id IS NOT NULL;
CREATE INDEX audit_pipeline ON audit (pipeline_id, id) WHERE pipeline_id IS NOT NULL;

-- What was before is not known: the checker says nothing of it.
INSERT INTO audit (kind, detail)
SELECT 'began', jsonb_build_object('last_job', COALESCE(max(id), 0)) FROM jobs;

-- Lines are added, and never changed. They go when what they are about is removed (`marquee rm`).
CREATE FUNCTION audit_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('marquee.removal', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit is only added to: % refused', TG_OP
        USING HINT = 'lines go with the pipeline that they are about, by "marquee rm"';
END $$;
CREATE TRIGGER audit_keep BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_keep();
CREATE TRIGGER audit_keep_all BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_keep();

CREATE FUNCTION audit_pipeline() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, pipeline_id, detail)
    VALUES ('submitted', NEW.id, jsonb_build_object('request_id', NEW.request_id, 'name', NEW.name));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON pipelines FOR EACH ROW EXECUTE FUNCTION audit_pipeline();

-- One line for a statement, however many elements an array has.
CREATE FUNCTION audit_jobs_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, pipeline_id, detail)
    SELECT 'added', pipeline_id, jsonb_build_object('jobs', count(*)) FROM added GROUP BY pipeline_id;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_added AFTER INSERT ON jobs REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION audit_jobs_added();

-- A success is its commit's line.
CREATE FUNCTION audit_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'open' THEN
        INSERT INTO audit (kind, job_id, attempt) VALUES ('revived', NEW.id, NEW.attempt);
    ELSIF NEW.state IN ('failed', 'cancelled') THEN
        INSERT INTO audit (kind, job_id, attempt, detail)
        VALUES ('job_ended', NEW.id, NEW.attempt, jsonb_strip_nulls(jsonb_build_object(
            'state', NEW.state, 'class', NEW.failure_class, 'for_job', NEW.cancelled_for)));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION audit_job();

CREATE FUNCTION audit_cancel_asked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt) VALUES ('cancel_asked', NEW.job_id, NEW.attempt);
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON open_jobs FOR EACH ROW
    WHEN (NEW.cancel_requested AND NOT OLD.cancel_requested) EXECUTE FUNCTION audit_cancel_asked();

-- What many jobs do at once is written by one statement for all of them: a line costs a tenth of what it would by itself.
CREATE FUNCTION audit_attempts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt, detail)
    SELECT CASE n.state WHEN 'running' THEN 'started' ELSE 'attempt_ended' END, n.job_id, n.number,
           CASE WHEN n.state <> 'running' THEN jsonb_strip_nulls(jsonb_build_object(
               'state', n.state, 'class', n.failure_class, 'interruption', n.interruption)) END
    FROM changed n JOIN before o ON o.job_id = n.job_id AND o.number = n.number
    WHERE n.state <> o.state AND n.state <> 'succeeded';
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON attempts REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION audit_attempts();

CREATE FUNCTION audit_granted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt, rank, worker_id, detail)
    SELECT 'granted', job_id, attempt, rank, worker_id, jsonb_build_object('devices', devices) FROM added;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_granted AFTER INSERT ON attempt_ranks REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION audit_granted();

CREATE FUNCTION audit_rank() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'running' AND OLD.state <> 'running' THEN
        INSERT INTO audit (kind, job_id, attempt, rank, worker_id)
        VALUES ('rank_started', NEW.job_id, NEW.attempt, NEW.rank, NEW.worker_id);
    END IF;
    IF NEW.lost_at IS NOT NULL AND OLD.lost_at IS NULL THEN
        INSERT INTO audit (kind, job_id, attempt, rank, worker_id, detail)
        VALUES ('rank_lost', NEW.job_id, NEW.attempt, NEW.rank, NEW.worker_id,
                jsonb_strip_nulls(jsonb_build_object('class', NEW.failure_class)));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON attempt_ranks FOR EACH ROW
    WHEN ((NEW.state = 'running' AND OLD.state <> 'running')
          OR (NEW.lost_at IS NOT NULL AND OLD.lost_at IS NULL)) EXECUTE FUNCTION audit_rank();

-- Devices are free, and the rank was in this state then: the proof, or the lack of it.
CREATE FUNCTION audit_released() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt, rank, worker_id, detail)
    SELECT 'released', h.job_id, h.attempt, h.rank, h.worker_id,
           jsonb_strip_nulls(jsonb_build_object('state', r.state, 'class', r.failure_class))
    FROM freed h
    LEFT JOIN attempt_ranks r ON r.job_id = h.job_id AND r.attempt = h.attempt AND r.rank = h.rank;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER DELETE ON held_ranks REFERENCING OLD TABLE AS freed
    FOR EACH STATEMENT EXECUTE FUNCTION audit_released();

CREATE FUNCTION audit_committed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt, detail)
    SELECT 'committed', job_id, attempt, jsonb_build_object('digest', digest, 'name', name) FROM added;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_committed AFTER INSERT ON artifacts REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION audit_committed();

CREATE FUNCTION audit_artifact_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, job_id, attempt, detail)
    SELECT 'artifact_removed', job_id, attempt, jsonb_build_object('digest', digest) FROM gone
    WHERE current_setting('marquee.removal', true) IS DISTINCT FROM 'on';
    RETURN NULL;
END $$;
CREATE TRIGGER audit_removed AFTER DELETE ON artifacts REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION audit_artifact_removed();

CREATE FUNCTION audit_worker() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, worker_id, detail)
    VALUES ('worker_' || NEW.state, NEW.id, jsonb_build_object(
        'name', NEW.name, 'instance', NEW.instance_id, 'boot', NEW.boot_id, 'heard_at', NEW.last_seen_at));
    RETURN NULL;
END $$;
CREATE TRIGGER audit_new AFTER INSERT ON workers FOR EACH ROW EXECUTE FUNCTION audit_worker();
CREATE TRIGGER audit AFTER UPDATE ON workers FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.instance_id IS DISTINCT FROM NEW.instance_id)
    EXECUTE FUNCTION audit_worker();

CREATE FUNCTION audit_leader() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (kind, epoch, detail)
    VALUES ('leader', NEW.epoch, jsonb_build_object(
        'epoch', NEW.epoch, 'process', NEW.process, 'address', NEW.address));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON leaderships FOR EACH ROW EXECUTE FUNCTION audit_leader();
