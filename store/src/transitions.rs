//! Changes of a job's state. Each is one guarded UPDATE; the caller holds the pipeline's lock
//! ([`crate::pipelines::lock_pipeline`]), and the guard catches whoever forgot it.

use chrono::{DateTime, Utc};
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId};
use marquee_domain::job::JobStateName;
use sqlx::postgres::PgQueryResult;

use crate::{Conn, Result, StoreError, Tx, convert};

/// What a transition decides by. Read it under the pipeline's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobHead {
    pub id: JobId,
    pub pipeline_id: PipelineId,
    pub state: JobStateName,
    /// Number of the newest attempt, 0 before the first.
    pub attempt: u32,
    /// The highest attempt number that may still be made.
    pub last_attempt: u32,
    pub max_attempts: u32,
    pub cancel_requested: bool,
    pub is_array: bool,
    /// The array that it is an element of.
    pub array_job: Option<JobId>,
}

/// The pipeline of a job: what to lock before its state is looked at.
pub async fn get_pipeline_of_job(conn: &mut Conn, id: JobId) -> Result<PipelineId> {
    sqlx::query_scalar!("SELECT pipeline_id FROM jobs WHERE id = $1", id.0)
        .fetch_optional(conn.sql())
        .await?
        .map(PipelineId)
        .ok_or(StoreError::JobNotFound(id))
}

/// A job's state as transitions need it.
pub async fn get_job_head(conn: &mut Conn, id: JobId) -> Result<JobHead> {
    let row = sqlx::query!(
        r#"SELECT pipeline_id, state, attempt, last_attempt, cancel_requested, array_job_id,
                  array_size IS NOT NULL AS "is_array!",
                  (spec ->> 'max_attempts')::int AS "max_attempts!"
           FROM jobs WHERE id = $1"#,
        id.0,
    )
    .fetch_optional(conn.sql())
    .await?
    .ok_or(StoreError::JobNotFound(id))?;
    Ok(JobHead {
        id,
        pipeline_id: PipelineId(row.pipeline_id),
        state: convert::job_state(&row.state)?,
        attempt: convert::u32_of("jobs.attempt", row.attempt)?,
        last_attempt: convert::u32_of("jobs.last_attempt", row.last_attempt)?,
        max_attempts: convert::u32_of("jobs.spec", row.max_attempts)?,
        cancel_requested: row.cancel_requested,
        is_array: row.is_array,
        array_job: row.array_job_id.map(JobId),
    })
}

/// waiting -> queued: all it needs has succeeded.
pub async fn mark_job_queued(tx: &mut Tx, id: JobId, now: DateTime<Utc>) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs SET state = 'queued', reason = '', queued_at = $2
         WHERE id = $1 AND state = 'waiting'",
        id.0,
        now,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, 0)
}

/// queued -> running with the next attempt, whose number this returns. `attempt` is the newest one
/// so far.
pub async fn mark_job_running(
    tx: &mut Tx,
    id: JobId,
    attempt: u32,
    now: DateTime<Utc>,
) -> Result<AttemptNumber> {
    let next = sqlx::query_scalar!(
        "UPDATE jobs
         SET state = 'running', attempt = attempt + 1, reason = '', not_before = NULL,
             started_at = $3, failure_class = NULL, failure_message = NULL
         WHERE id = $1 AND state = 'queued' AND attempt = $2
         RETURNING attempt",
        id.0,
        convert::int("attempt", attempt)?,
        now,
    )
    .fetch_optional(tx.sql())
    .await?
    .ok_or(StoreError::StaleAttempt { job: id, attempt })?;
    Ok(AttemptNumber(convert::u32_of("jobs.attempt", next)?))
}

/// running -> succeeded, by this attempt and no other.
pub async fn mark_job_succeeded(
    tx: &mut Tx,
    id: JobId,
    attempt: AttemptNumber,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs
         SET state = 'succeeded', finished_at = $3, cancel_requested = false,
             failure_class = NULL, failure_message = NULL
         WHERE id = $1 AND state = 'running' AND attempt = $2",
        id.0,
        convert::int("attempt", attempt.0)?,
        now,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, attempt.0)
}

/// Notes on a running job that it takes the artifact of `source` for its own.
pub async fn mark_job_reused(
    tx: &mut Tx,
    id: JobId,
    attempt: AttemptNumber,
    source: JobId,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs SET reused_from = $3 WHERE id = $1 AND state = 'running' AND attempt = $2",
        id.0,
        convert::int("attempt", attempt.0)?,
        source.0,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, attempt.0)
}

/// running -> failed, for good.
pub async fn mark_job_failed(
    tx: &mut Tx,
    id: JobId,
    attempt: AttemptNumber,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs
         SET state = 'failed', finished_at = $3, failure_class = $4, failure_message = $5
         WHERE id = $1 AND state = 'running' AND attempt = $2",
        id.0,
        convert::int("attempt", attempt.0)?,
        now,
        failure.class.as_str(),
        failure.message,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, attempt.0)
}

/// waiting -> failed, of an array: an element of it has failed for good.
pub async fn mark_array_failed(
    tx: &mut Tx,
    id: JobId,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs
         SET state = 'failed', finished_at = $2, reason = '', failure_class = $3,
             failure_message = $4
         WHERE id = $1 AND state = 'waiting' AND array_size IS NOT NULL",
        id.0,
        now,
        failure.class.as_str(),
        failure.message,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, 0)
}

/// running -> queued: the attempt failed, and another one is due at `not_before`.
pub async fn mark_job_requeued(
    tx: &mut Tx,
    id: JobId,
    attempt: AttemptNumber,
    failure: &Failure,
    reason: &str,
    not_before: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs
         SET state = 'queued', reason = $3, not_before = $4, failure_class = $5,
             failure_message = $6
         WHERE id = $1 AND state = 'running' AND attempt = $2",
        id.0,
        convert::int("attempt", attempt.0)?,
        reason,
        not_before,
        failure.class.as_str(),
        failure.message,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, attempt.0)
}

/// waiting, queued or running -> cancelled. `for_job` is the job whose end without success caused
/// it; None: a user.
pub async fn mark_job_cancelled(
    tx: &mut Tx,
    id: JobId,
    attempt: u32,
    reason: &str,
    for_job: Option<JobId>,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs
         SET state = 'cancelled', finished_at = $3, reason = $4, cancelled_for = $5,
             cancel_requested = false, not_before = NULL
         WHERE id = $1 AND attempt = $2 AND state IN ('waiting', 'queued', 'running')",
        id.0,
        convert::int("attempt", attempt)?,
        now,
        reason,
        for_job.map(|job| job.0),
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, attempt)
}

/// Asks a running job to stop; asking twice is the same.
pub async fn mark_cancel_requested(tx: &mut Tx, id: JobId, attempt: u32) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE jobs SET cancel_requested = true
         WHERE id = $1 AND attempt = $2 AND state = 'running'",
        id.0,
        convert::int("attempt", attempt)?,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, attempt)
}

/// failed or cancelled -> queued, or waiting when `waits` says for what. `last_attempt` is the
/// highest attempt number that may now be made.
pub async fn mark_job_revived(
    tx: &mut Tx,
    id: JobId,
    attempt: u32,
    last_attempt: u32,
    waits: Option<&str>,
    now: DateTime<Utc>,
) -> Result<()> {
    let state = if waits.is_some() {
        JobStateName::Waiting
    } else {
        JobStateName::Queued
    };
    let queued_at = waits.is_none().then_some(now);
    let done = sqlx::query!(
        "UPDATE jobs
         SET state = $3, reason = $4, queued_at = $5, last_attempt = $6, not_before = NULL,
             cancel_requested = false, cancelled_for = NULL, failure_class = NULL,
             failure_message = NULL, finished_at = NULL
         WHERE id = $1 AND attempt = $2 AND state IN ('failed', 'cancelled')",
        id.0,
        convert::int("attempt", attempt)?,
        state.as_str(),
        waits.unwrap_or_default(),
        queued_at,
        convert::int("last_attempt", last_attempt)?,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, id, attempt)
}

/// Stores why a job in `state` waits, if it says something new. True when it did; a job that has
/// left the state keeps what it says.
pub async fn mark_reason(
    tx: &mut Tx,
    id: JobId,
    state: JobStateName,
    reason: &str,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE jobs SET reason = $3 WHERE id = $1 AND state = $2 AND reason <> $3",
        id.0,
        state.as_str(),
        reason,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

fn one_row(done: &PgQueryResult, job: JobId, attempt: u32) -> Result<()> {
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::StaleAttempt { job, attempt })
    }
}
