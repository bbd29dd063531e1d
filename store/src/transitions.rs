//! Changes of jobs' states, each for as many jobs as change together.
//!
//! Each is one statement whose guard names the state and the attempt that it expects; it gives back the
//! jobs that it found so, and the caller decides what a missing one means. The caller holds the locks
//! of their pipelines ([`crate::pipelines::lock_pipelines`]), and the guard catches whoever forgot.
//! A job is in `open_jobs` while it is open; its end moves what is left to `jobs`.

mod arrays;
mod heads;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::JobStateName;

use crate::attempts::lock_ranks_left;
use crate::{Result, StoreError, Tx, convert};
pub use arrays::{
    ArrayCount, ArrayEnds, Missed, find_missed_element, get_array_ends, get_elements_left,
    list_elements_to_revive,
};
pub use heads::{
    JobHead, get_job_head, get_pipeline_of_job, list_job_heads, list_open_elements,
    list_pipelines_of_jobs,
};

/// A job at an attempt: what a transition of it expects.
pub type At = (JobId, AttemptNumber);

/// A job that succeeds with what its attempt committed.
#[derive(Debug, Clone)]
pub struct Success<'a> {
    pub at: At,
    /// What the artifact is: the job kind's output.
    pub name: &'a str,
    pub manifest: &'a Manifest,
    /// Version of the code that made it; empty where nobody said.
    pub code: &'a str,
    /// What its history says.
    pub text: &'a str,
}

/// running -> succeeded, each by this attempt and no other, with its attempt, its artifact and, for elements,
/// the count of their array. Returns the jobs that did, and their arrays.
pub async fn mark_jobs_succeeded(
    tx: &mut Tx,
    successes: &[Success<'_>],
    now: DateTime<Utc>,
) -> Result<(Vec<JobId>, Vec<ArrayCount>)> {
    let (ids, attempts) = columns(successes.iter().map(|success| success.at))?;
    // Read before the statement, which borrows the transaction.
    let each =
        |text: fn(&Success<'_>) -> String| -> Vec<String> { successes.iter().map(text).collect() };
    let sizes = successes
        .iter()
        .map(|success| convert::bigint("size of the artifact", success.manifest.size_bytes()));
    let counts = successes.iter().map(|success| {
        let files = success.manifest.files.len();
        convert::int("file count", u32::try_from(files).unwrap_or(u32::MAX))
    });
    let manifests = successes
        .iter()
        .map(|success| convert::to_document("manifest", success.manifest));
    let callers: Vec<String> = successes
        .iter()
        .map(|success| tx.caller_of(success.at.0))
        .collect();
    // The row that is deleted from `open_jobs` is the fence: one attempt finds it, and all else of this
    // statement follows from what was found. So an artifact, the job's end and its array's count cannot part.
    let rows = sqlx::query!(
        r#"WITH given AS (
               SELECT * FROM unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::bigint[],
                                    $7::int[], $8::jsonb[], $9::text[], $10::text[], $11::text[])
                   AS g (job_id, attempt, name, digest, size_bytes, file_count, manifest, code, text, caller)
           ), ended AS (
               DELETE FROM open_jobs o USING given g
               WHERE o.job_id = g.job_id AND o.attempt = g.attempt AND o.state = 'running'
               RETURNING o.job_id, o.attempt, o.queued_at, o.started_at, o.array_job_id
           ), stored AS (
               UPDATE jobs j
               SET state = 'succeeded', attempt = e.attempt, queued_at = e.queued_at,
                   started_at = e.started_at,
                   finished_at = $1, failure_class = NULL, failure_message = NULL, reason = ''
               FROM ended e WHERE j.id = e.job_id
           ), attempted AS (
               UPDATE attempts a SET state = 'succeeded', finished_at = $1
               FROM ended e
               WHERE a.job_id = e.job_id AND a.number = e.attempt
                 AND a.state IN ('assigned', 'running')
           ), committed AS (
               INSERT INTO artifacts (job_id, attempt, name, digest, size_bytes, file_count, manifest,
                                      committed_at, code)
               SELECT g.job_id, g.attempt, g.name, g.digest, g.size_bytes, g.file_count, g.manifest,
                      $1, g.code
               FROM given g JOIN ended e ON e.job_id = g.job_id
               -- Of a job that does again what was damaged (`again`): nothing else ends twice.
               ON CONFLICT (job_id) DO UPDATE
               SET attempt = EXCLUDED.attempt, name = EXCLUDED.name, digest = EXCLUDED.digest,
                   size_bytes = EXCLUDED.size_bytes, file_count = EXCLUDED.file_count,
                   manifest = EXCLUDED.manifest, committed_at = EXCLUDED.committed_at, code = EXCLUDED.code
               WHERE artifacts.attempt < EXCLUDED.attempt
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at, caller)
               SELECT g.job_id, g.attempt, g.text, $1, g.caller
               FROM given g JOIN ended e ON e.job_id = g.job_id
           ), counted AS (
               UPDATE arrays a SET succeeded = a.succeeded + c.more
               FROM (SELECT array_job_id, count(*)::int AS more FROM ended
                     WHERE array_job_id IS NOT NULL GROUP BY array_job_id) c
               WHERE a.job_id = c.array_job_id
               RETURNING a.job_id, a.size - a.succeeded AS left_over,
                         a.size - a.succeeded - a.failed - a.cancelled AS open_left
           )
           SELECT e.job_id AS "job_id!", c.job_id AS "array?", c.left_over, c.open_left
           FROM ended e LEFT JOIN counted c ON c.job_id = e.array_job_id
           ORDER BY e.job_id"#,
        now,
        &ids,
        &attempts,
        &each(|success| success.name.to_owned()),
        &each(|success| success.manifest.digest().as_str().to_owned()),
        &sizes.collect::<Result<Vec<_>>>()?,
        &counts.collect::<Result<Vec<_>>>()?,
        &manifests.collect::<Result<Vec<_>>>()?,
        &each(|success| success.code.to_owned()),
        &each(|success| success.text.to_owned()),
        &callers,
    )
    .fetch_all(tx.sql())
    .await?;
    let mut arrays = Vec::new();
    let mut done = Vec::with_capacity(rows.len());
    for row in rows {
        done.push(JobId(row.job_id));
        if let (Some(array), Some(left), Some(open)) = (row.array, row.left_over, row.open_left) {
            arrays.push(ArrayCount {
                array: JobId(array),
                left: convert::u32_of("arrays.size", left)?,
                open: convert::u32_of("arrays.size", open)?,
            });
        }
    }
    // Each element names its array with the same count, after all of them.
    arrays.sort_by_key(|count| count.array);
    arrays.dedup();
    Ok((done, arrays))
}

/// waiting or queued -> running, of jobs that no worker works on: an array whose elements are through, or
/// a job that takes another one's artifact. Makes the attempt that holds the artifact.
pub async fn mark_job_running_here(
    tx: &mut Tx,
    id: JobId,
    attempt: u32,
    now: DateTime<Utc>,
) -> Result<AttemptNumber> {
    if attempt > 0 {
        lock_ranks_left(tx, &[id.0]).await?;
    }
    // Without ranks: the attempt is there to hold the artifact, under the same fence as every other.
    // An array has begun with its first element, so that its time of start may be there already.
    let number = sqlx::query_scalar!(
        r#"WITH running AS (
               UPDATE open_jobs
               SET state = 'running', attempt = attempt + 1, not_before = NULL, obstacle = NULL,
                   started_at = COALESCE(started_at, $3), failure_class = NULL, failure_message = NULL
               WHERE job_id = $1 AND attempt = $2 AND state IN ('waiting', 'queued')
               RETURNING job_id, attempt
           ), attempted AS (
               INSERT INTO attempts (job_id, number, state, created_at)
               SELECT job_id, attempt, 'assigned', $3 FROM running
           )
           SELECT attempt FROM running"#,
        id.0,
        convert::int("attempt", attempt)?,
        now,
    )
    .fetch_optional(tx.sql())
    .await?
    .ok_or(StoreError::StaleAttempt { job: id, attempt })?;
    Ok(AttemptNumber(convert::u32_of("open_jobs.attempt", number)?))
}

/// Notes on an open job that it takes the artifact of `source` for its own.
pub async fn mark_job_reused(tx: &mut Tx, id: JobId, source: JobId) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs SET reused_from = $2 WHERE id = $1 AND state = 'open'",
        id.0,
        source.0,
    )
    // No attempt at hand: the caller found the job open under the pipeline's lock, so this is a fault of
    // ours.
    .execute(tx.sql())
    .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::StaleAttempt {
            job: id,
            attempt: 0,
        })
    }
}

/// From any of the `open` states -> failed, for good.
///
/// # Errors
/// [`StoreError::StaleAttempt`] where the job is in none of them, or at another attempt.
pub async fn mark_job_failed(
    tx: &mut Tx,
    id: JobId,
    attempt: u32,
    open: &[JobStateName],
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<()> {
    let states: Vec<String> = open.iter().map(|state| state.as_str().to_owned()).collect();
    // Which states those are is the rule's to say (`domain::transitions`); here they are only held against
    // the row.
    let ended = sqlx::query_scalar!(
        "WITH ended AS (
             DELETE FROM open_jobs
             WHERE job_id = $1 AND attempt = $2 AND state = ANY ($3)
             RETURNING job_id, attempt, queued_at, started_at, array_job_id
         ), stored AS (
             UPDATE jobs j
             SET state = 'failed', attempt = e.attempt, queued_at = e.queued_at,
                   started_at = e.started_at, finished_at = $4,
                 failure_class = $5, failure_message = $6, reason = ''
             FROM ended e WHERE j.id = e.job_id
         ), counted AS (
             UPDATE arrays a SET failed = a.failed + 1 FROM ended e WHERE a.job_id = e.array_job_id
         )
         SELECT job_id FROM ended",
        id.0,
        convert::int("attempt", attempt)?,
        &states,
        now,
        failure.class.as_str(),
        failure.message,
    )
    .fetch_optional(tx.sql())
    .await?;
    ended
        .map(|_| ())
        .ok_or(StoreError::StaleAttempt { job: id, attempt })
}

/// running -> queued: the attempt has ended, and another one is due at `not_before`, at once where there is
/// none. `last_attempt` is the highest number that may now be made. The job keeps its place in the queue.
pub async fn mark_job_requeued(
    tx: &mut Tx,
    (id, attempt): At,
    last_attempt: u32,
    failure: Option<&Failure>,
    not_before: Option<DateTime<Utc>>,
) -> Result<()> {
    // `queued_at` is left alone: that is what keeps its place. An interruption is over with the attempt that
    // it was meant for.
    let done = sqlx::query!(
        "UPDATE open_jobs
         SET state = 'queued', not_before = $3, failure_class = $4, failure_message = $5,
             last_attempt = $6, interruption = NULL, interruption_message = NULL, idle_since = NULL
         WHERE job_id = $1 AND state = 'running' AND attempt = $2",
        id.0,
        convert::int("attempt", attempt.0)?,
        not_before,
        failure.map(|failure| failure.class.as_str()),
        failure.map(|failure| failure.message.as_str()),
        convert::int("last_attempt", last_attempt)?,
    )
    .execute(tx.sql())
    .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        let attempt = attempt.0;
        Err(StoreError::StaleAttempt { job: id, attempt })
    }
}

/// waiting, queued or running -> cancelled, each at its attempt. `for_job` is the job whose end without
/// success caused it; None: a user. Returns those that were.
pub async fn mark_jobs_cancelled(
    tx: &mut Tx,
    jobs: &[(JobId, u32)],
    reason: &str,
    for_job: Option<JobId>,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let (ids, attempts) = columns(
        jobs.iter()
            .map(|(job, attempt)| (*job, AttemptNumber(*attempt))),
    )?;
    // Whatever open state: the attempt is what tells whether somebody was faster.
    let rows = sqlx::query_scalar!(
        r#"WITH ended AS (
               DELETE FROM open_jobs o
               USING unnest($1::bigint[], $2::int[]) AS g (job_id, attempt)
               WHERE o.job_id = g.job_id AND o.attempt = g.attempt
               RETURNING o.job_id, o.attempt, o.queued_at, o.started_at, o.array_job_id
           ), stored AS (
               UPDATE jobs j
               SET state = 'cancelled', attempt = e.attempt, queued_at = e.queued_at,
                   started_at = e.started_at,
                   finished_at = $3, reason = $4, cancelled_for = $5, failure_class = NULL,
                   failure_message = NULL
               FROM ended e WHERE j.id = e.job_id
           ), counted AS (
               UPDATE arrays a SET cancelled = a.cancelled + c.more
               FROM (SELECT array_job_id, count(*)::int AS more FROM ended
                     WHERE array_job_id IS NOT NULL GROUP BY array_job_id) c
               WHERE a.job_id = c.array_job_id
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at, caller)
               SELECT job_id, attempt, $4, $3, $6 FROM ended
           )
           SELECT job_id AS "job_id!" FROM ended ORDER BY job_id"#,
        &ids,
        &attempts,
        now,
        reason,
        for_job.map(|job| job.0),
        caller,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}

/// Asks running jobs to stop, each at its attempt; asking twice is the same. Returns those that were asked
/// for the first time.
pub async fn mark_cancels_requested(tx: &mut Tx, jobs: &[At]) -> Result<Vec<JobId>> {
    // Guarded, so that only the first one to ask is written into the history.
    let (ids, attempts) = columns(jobs.iter().copied())?;
    let rows = sqlx::query_scalar!(
        "UPDATE open_jobs o SET cancel_requested = true
         FROM unnest($1::bigint[], $2::int[]) AS g (job_id, attempt)
         WHERE o.job_id = g.job_id AND o.attempt = g.attempt AND o.state = 'running'
           AND NOT o.cancel_requested
         RETURNING o.job_id",
        &ids,
        &attempts,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}

/// failed or cancelled -> queued, or waiting where something that they need has not ended as it must, and always
/// so for an array, which waits for its elements. Each at its attempt, with as many attempts as it had at
/// first. Returns those that are back.
///
/// Needs are looked at as they are when the statement begins; those that come back with this call count as
/// open, which they are then.
pub async fn mark_jobs_revived(
    tx: &mut Tx,
    jobs: &[(JobId, u32)],
    text: &str,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let (ids, attempts) = columns(
        jobs.iter()
            .map(|(job, attempt)| (*job, AttemptNumber(*attempt))),
    )?;
    // Numbers of attempts go on, since they are the fence; `last_attempt` gives the job as many again, and
    // stays within its column.
    let rows = sqlx::query_scalar!(
        r#"WITH back AS (
               UPDATE jobs j
               SET state = 'open', finished_at = NULL, reason = '', cancelled_for = NULL,
                   failure_class = NULL, failure_message = NULL
               FROM unnest($1::bigint[], $2::int[]) AS g (job_id, attempt),
                    -- As they ended, for the counts of their arrays.
                    LATERAL (SELECT state FROM jobs b WHERE b.id = g.job_id) before
               WHERE j.id = g.job_id AND j.attempt = g.attempt AND j.state IN ('failed', 'cancelled')
               RETURNING j.id, j.array_job_id, j.array_size, j.attempt, j.max_attempts,
                         before.state AS ended,
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
               UPDATE arrays a
               SET failed = a.failed - c.failed, cancelled = a.cancelled - c.cancelled
               FROM (SELECT array_job_id, count(*) FILTER (WHERE ended = 'failed')::int AS failed,
                            count(*) FILTER (WHERE ended = 'cancelled')::int AS cancelled
                     FROM back WHERE array_job_id IS NOT NULL GROUP BY array_job_id) c
               WHERE a.job_id = c.array_job_id
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at, caller)
               SELECT id, attempt, $4, $3, $5 FROM back
           )
           SELECT id AS "id!" FROM back ORDER BY id"#,
        &ids,
        &attempts,
        now,
        text,
        caller,
    )
    .fetch_all(tx.sql())
    .await?;
    #[cfg(feature = "planted")]
    if marquee_domain::planted::is("attempt-number-again") {
        let before =
            "UPDATE open_jobs SET attempt = attempt - 1 WHERE job_id = ANY ($1) AND attempt > 0";
        sqlx::query(before).bind(&rows).execute(tx.sql()).await?;
    }
    Ok(rows.into_iter().map(JobId).collect())
}

/// Jobs and attempts as two columns.
fn columns(at: impl Iterator<Item = At>) -> Result<(Vec<i64>, Vec<i32>)> {
    let mut columns = (Vec::new(), Vec::new());
    for (job, attempt) in at {
        columns.0.push(job.0);
        columns.1.push(convert::int("attempt", attempt.0)?);
    }
    Ok(columns)
}
