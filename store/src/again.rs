//! Doing again what had succeeded, because its artifact is damaged: the job is opened, those that need it wait for it,
//! and what it commits takes the artifact's place.
//!
//! The caller holds the lock of the pipeline, as for every change of a job's state ([`crate::transitions`]).

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::{JobId, JobName, PipelineId};

use crate::{Conn, Result, StoreError, Tx, convert};

/// What a job has made, and whether that can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// How often it was made again by itself since somebody last asked for it.
    pub again: u32,
    /// Neither its own work nor that of another job: somebody rescued it.
    pub is_rescued: bool,
    /// None: the job has no artifact.
    pub digest: Option<Digest>,
    pub committed_at: Option<DateTime<Utc>>,
}

/// What a job has made.
pub async fn get_made(conn: &mut Conn, job: JobId) -> Result<Made> {
    // A rescue commits an attempt without ranks (`lifecycle/rescue`), as arrays and reuse do. What is neither
    // of those was rescued, and there is no work that could make it again.
    let row = sqlx::query!(
        r#"SELECT j.made_again, a.digest AS "digest?", a.committed_at AS "committed_at?",
                  j.reused_from IS NULL AND j.array_size IS NULL AND a.job_id IS NOT NULL
                  AND NOT EXISTS (SELECT 1 FROM attempt_ranks r
                                  WHERE r.job_id = j.id AND r.attempt = a.attempt) AS "is_rescued!"
           FROM jobs j LEFT JOIN artifacts a ON a.job_id = j.id
           WHERE j.id = $1"#,
        job.0,
    )
    .fetch_optional(conn.sql())
    .await?
    .ok_or(StoreError::JobNotFound(job))?;
    Ok(Made {
        again: convert::u32_of("jobs.made_again", row.made_again)?,
        is_rescued: row.is_rescued,
        digest: row.digest.map(convert::digest).transpose()?,
        committed_at: row.committed_at,
    })
}

/// The job of a pipeline that has this name; elements of arrays have none of their own.
pub async fn find_job_named(
    conn: &mut Conn,
    pipeline: PipelineId,
    name: &JobName,
) -> Result<Option<JobId>> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE pipeline_id = $1 AND name = $2 AND array_job_id IS NULL",
        pipeline.0,
        name.as_str(),
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(id.map(JobId))
}

/// The elements of an array with their newest attempts and what they have committed. Those whose rows cannot be read
/// are left out.
pub async fn list_made_elements(
    conn: &mut Conn,
    array: JobId,
) -> Result<Vec<(JobId, u32, Manifest)>> {
    let rows = sqlx::query!(
        "SELECT j.id, j.attempt, a.manifest
         FROM jobs j JOIN artifacts a ON a.job_id = j.id
         WHERE j.array_job_id = $1 ORDER BY j.id",
        array.0,
    )
    .fetch_all(conn.sql())
    .await?;
    // One damaged row must not keep the other elements from being made again.
    let elements = rows.into_iter().filter_map(|row| {
        let attempt = u32::try_from(row.attempt).ok()?;
        let manifest = convert::manifest(row.manifest).ok()?;
        Some((JobId(row.id), attempt, manifest))
    });
    Ok(elements.collect())
}

/// succeeded -> queued, or waiting where something that they need has not succeeded, and always so for an array, which
/// waits for its elements. Each at its attempt, with as many attempts as it had at first. Their artifacts stay until
/// others take their place. `again` is what [`Made::again`] is from now on. Returns those that are open.
pub async fn mark_jobs_made_again(
    tx: &mut Tx,
    jobs: &[(JobId, u32)],
    again: u32,
    text: &str,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let ids: Vec<i64> = jobs.iter().map(|(job, _)| job.0).collect();
    let attempts = jobs
        .iter()
        .map(|(_, attempt)| convert::int("attempt", *attempt));
    // Attempt numbers go on where they were, since they are the fence; only the budget begins anew.
    // Every part of a statement sees the rows as they were before it: a need that this very statement opens
    // still reads as met, so those are named (`ANY ($1)`) and counted as open.
    let rows = sqlx::query_scalar!(
        r#"WITH back AS (
               UPDATE jobs j
               SET state = 'open', finished_at = NULL, reused_from = NULL, made_again = $6
               FROM unnest($1::bigint[], $2::int[]) AS g (job_id, attempt)
               WHERE j.id = g.job_id AND j.attempt = g.attempt AND j.state = 'succeeded'
               RETURNING j.id, j.array_job_id, j.array_size, j.attempt, j.max_attempts,
                         (SELECT count(*)::int FROM need_states n
                          WHERE n.job_id = COALESCE(j.array_job_id, j.id)
                            AND (NOT n.met OR n.needs_job_id = ANY ($1))) AS needs_left
           ), opened AS (
               INSERT INTO open_jobs (job_id, array_job_id, state, attempt, last_attempt, needs_left,
                                      queued_at)
               SELECT id, array_job_id,
                      CASE WHEN needs_left = 0 AND array_size IS NULL THEN 'queued' ELSE 'waiting' END,
                      attempt, LEAST(attempt::bigint + max_attempts, 2147483647)::int, needs_left,
                      CASE WHEN needs_left = 0 THEN $3::timestamptz END
               FROM back
           ), counted AS (
               UPDATE arrays a SET succeeded = a.succeeded - c.fewer
               FROM (SELECT array_job_id, count(*)::int AS fewer FROM back
                     WHERE array_job_id IS NOT NULL GROUP BY array_job_id) c
               WHERE a.job_id = c.array_job_id
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at, caller)
               SELECT id, attempt, $4, $3, $5 FROM back
           )
           SELECT id AS "id!" FROM back ORDER BY id"#,
        &ids,
        &attempts.collect::<Result<Vec<_>>>()?,
        now,
        text,
        caller,
        convert::int("jobs.made_again", again)?,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}

/// The jobs that need `job` themselves.
pub async fn list_needing(conn: &mut Conn, job: JobId) -> Result<Vec<JobId>> {
    let rows = sqlx::query_scalar!(
        "SELECT job_id FROM job_needs WHERE needs_job_id = $1 ORDER BY job_id",
        job.0
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}

/// waiting or queued -> waiting, of those among `jobs`, and among the elements of those that are arrays, that need
/// something which is open. A need that ended otherwise than was wanted after the job had been placed does not count:
/// it would be waited for without end. Counts anew what they wait for: `release` counts it off. Returns those that
/// wait, elements left out where their array is among `jobs`.
pub async fn mark_waiting_again(
    tx: &mut Tx,
    jobs: &[JobId],
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    // Counted from the rows and not added to what is there: a queued job has counted all its needs off
    // already. One that runs is not asked back: if the damage reaches it, its attempt fails with `bad_input`
    // and is judged then.
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let rows = sqlx::query_scalar!(
        r#"WITH known AS (
               SELECT c.job_id, c.state AS before, c.array_job_id,
                      (SELECT count(*)::int FROM need_states n
                       WHERE n.job_id = COALESCE(c.array_job_id, c.job_id) AND n.ended IS NULL) AS open_needs
               FROM open_jobs c
               WHERE (c.job_id = ANY ($1) OR c.array_job_id = ANY ($1)) AND c.state IN ('waiting', 'queued')
           ), waits AS (
               UPDATE open_jobs o
               SET state = 'waiting', needs_left = k.open_needs, queued_at = NULL, obstacle = NULL
               FROM known k
               WHERE o.job_id = k.job_id AND k.open_needs > 0
               RETURNING o.job_id, o.attempt, k.before
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at)
               SELECT job_id, attempt, 'waits again: what it needs is made again', $2
               FROM waits WHERE before = 'queued' AND job_id = ANY ($1)
           )
           SELECT job_id AS "job_id!" FROM waits WHERE job_id = ANY ($1) ORDER BY job_id"#,
        &ids,
        now,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}
