//! Attempts: one row for each try at a job. The database itself keeps a job from having two live
//! ones (`attempts_one_live`).

use chrono::{DateTime, Utc};
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::AttemptStateName;
use sqlx::PgConnection;
use sqlx::postgres::PgQueryResult;

use crate::checkpoints::CheckpointKey;
use crate::{Result, StoreError, convert};

/// An attempt to store, in state assigned.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    pub job: JobId,
    pub number: AttemptNumber,
    /// The checkpoint it goes on from.
    pub resume: Option<CheckpointKey>,
    pub created_at: DateTime<Utc>,
}

pub use marquee_domain::Rendezvous;

/// A stored attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub number: AttemptNumber,
    pub state: AttemptStateName,
    pub rendezvous: Option<Rendezvous>,
    /// The same for ranks that go on after the first was lost.
    pub standby: Option<Rendezvous>,
    pub resumed_from: Option<CheckpointKey>,
    pub failure: Option<Failure>,
    pub created_at: DateTime<Utc>,
    /// When every rank was told to start.
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    Succeeded,
    Failed(Failure),
    Cancelled,
}

/// Stores an attempt.
pub async fn insert_attempt(conn: &mut PgConnection, new: &NewAttempt) -> Result<()> {
    let from_attempt = new
        .resume
        .map(|key| convert::int("resumed_from_attempt", key.attempt.0))
        .transpose()?;
    let from_step = new
        .resume
        .map(|key| convert::bigint("resumed_from_step", key.step))
        .transpose()?;
    sqlx::query!(
        "INSERT INTO attempts (job_id, number, state, resumed_from_attempt, resumed_from_step,
                               created_at)
         VALUES ($1, $2, 'assigned', $3, $4, $5)",
        new.job.0,
        convert::int("attempt", new.number.0)?,
        from_attempt,
        from_step,
        new.created_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Every attempt of a job, oldest first.
pub async fn list_attempts(conn: &mut PgConnection, job: JobId) -> Result<Vec<Attempt>> {
    let rows = sqlx::query_as!(
        RawAttempt,
        "SELECT number, state, rendezvous_host, rendezvous_port, standby_host, standby_port,
                resumed_from_attempt, resumed_from_step, failure_class, failure_message,
                created_at, started_at, finished_at
         FROM attempts WHERE job_id = $1 ORDER BY number",
        job.0,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Attempt::try_from).collect()
}

/// The attempt of a job that has not ended; there is at most one.
pub async fn find_live_attempt(conn: &mut PgConnection, job: JobId) -> Result<Option<Attempt>> {
    let row = sqlx::query_as!(
        RawAttempt,
        "SELECT number, state, rendezvous_host, rendezvous_port, standby_host, standby_port,
                resumed_from_attempt, resumed_from_step, failure_class, failure_message,
                created_at, started_at, finished_at
         FROM attempts WHERE job_id = $1 AND state IN ('assigned', 'running')",
        job.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Attempt::try_from).transpose()
}

/// Jobs whose live attempt may have to move: all ranks are prepared, one has ended or lies on a
/// worker that is not online, a cancel was asked for, the job's time is up, or it was assigned
/// before `assigned_before` and is still being prepared. Ranks that it has gone on without count no
/// more.
pub async fn list_jobs_to_advance(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    assigned_before: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT a.job_id
           FROM attempts a JOIN jobs j ON j.id = a.job_id
           WHERE a.state IN ('assigned', 'running')
             AND (j.cancel_requested
                  OR (a.state = 'assigned' AND a.created_at <= $2)
                  OR (a.state = 'assigned' AND NOT EXISTS (
                          SELECT 1 FROM attempt_ranks r
                          WHERE r.job_id = a.job_id AND r.attempt = a.number
                            AND r.state = 'assigned'))
                  OR a.started_at + make_interval(secs => (j.spec ->> 'timeout_s')::int) <= $1
                  OR EXISTS (
                          SELECT 1 FROM attempt_ranks r JOIN workers w ON w.id = r.worker_id
                          WHERE r.job_id = a.job_id AND r.attempt = a.number
                            AND r.lost_at IS NULL
                            AND (r.state IN ('finished', 'failed', 'stopped')
                                 OR w.state <> 'online')))
           ORDER BY a.job_id"#,
        now,
        assigned_before,
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Stores where the ranks of a live attempt will find each other.
pub async fn mark_rendezvous(
    conn: &mut PgConnection,
    job: JobId,
    number: AttemptNumber,
    rendezvous: &Rendezvous,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE attempts SET rendezvous_host = $3, rendezvous_port = $4
         WHERE job_id = $1 AND number = $2 AND state = 'assigned'",
        job.0,
        convert::int("attempt", number.0)?,
        rendezvous.host,
        i32::from(rendezvous.port),
    )
    .execute(conn)
    .await?;
    one_row(&done, job, number)
}

/// Stores where the ranks of a live attempt find each other once the first place is lost.
pub async fn mark_standby(
    conn: &mut PgConnection,
    job: JobId,
    number: AttemptNumber,
    standby: &Rendezvous,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE attempts SET standby_host = $3, standby_port = $4
         WHERE job_id = $1 AND number = $2 AND state = 'assigned'",
        job.0,
        convert::int("attempt", number.0)?,
        standby.host,
        i32::from(standby.port),
    )
    .execute(conn)
    .await?;
    one_row(&done, job, number)
}

/// assigned -> running: every rank may start.
pub async fn mark_attempt_running(
    conn: &mut PgConnection,
    job: JobId,
    number: AttemptNumber,
    now: DateTime<Utc>,
) -> Result<()> {
    let done = sqlx::query!(
        "UPDATE attempts SET state = 'running', started_at = $3
         WHERE job_id = $1 AND number = $2 AND state = 'assigned'",
        job.0,
        convert::int("attempt", number.0)?,
        now,
    )
    .execute(conn)
    .await?;
    one_row(&done, job, number)
}

/// assigned or running -> its end.
pub async fn mark_attempt_ended(
    conn: &mut PgConnection,
    job: JobId,
    number: AttemptNumber,
    end: &AttemptEnd,
    now: DateTime<Utc>,
) -> Result<()> {
    let (state, failure) = match end {
        AttemptEnd::Succeeded => (AttemptStateName::Succeeded, None),
        AttemptEnd::Failed(failure) => (AttemptStateName::Failed, Some(failure)),
        AttemptEnd::Cancelled => (AttemptStateName::Cancelled, None),
    };
    let done = sqlx::query!(
        "UPDATE attempts
         SET state = $3, finished_at = $4, failure_class = $5, failure_message = $6
         WHERE job_id = $1 AND number = $2 AND state IN ('assigned', 'running')",
        job.0,
        convert::int("attempt", number.0)?,
        state.as_str(),
        now,
        failure.map(|failure| failure.class.as_str()),
        failure.map(|failure| failure.message.as_str()),
    )
    .execute(conn)
    .await?;
    one_row(&done, job, number)
}

fn one_row(done: &PgQueryResult, job: JobId, number: AttemptNumber) -> Result<()> {
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::StaleAttempt {
            job,
            attempt: number.0,
        })
    }
}

struct RawAttempt {
    number: i32,
    state: String,
    rendezvous_host: Option<String>,
    rendezvous_port: Option<i32>,
    standby_host: Option<String>,
    standby_port: Option<i32>,
    resumed_from_attempt: Option<i32>,
    resumed_from_step: Option<i64>,
    failure_class: Option<String>,
    failure_message: Option<String>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<RawAttempt> for Attempt {
    type Error = StoreError;
    fn try_from(raw: RawAttempt) -> Result<Self> {
        Ok(Self {
            number: AttemptNumber(convert::u32_of("attempts.number", raw.number)?),
            state: convert::attempt_state(&raw.state)?,
            rendezvous: rendezvous(raw.rendezvous_host, raw.rendezvous_port)?,
            standby: rendezvous(raw.standby_host, raw.standby_port)?,
            resumed_from: CheckpointKey::from_columns(
                raw.resumed_from_attempt,
                raw.resumed_from_step,
            )?,
            failure: convert::failure(raw.failure_class, raw.failure_message)?,
            created_at: raw.created_at,
            started_at: raw.started_at,
            finished_at: raw.finished_at,
        })
    }
}

/// The two columns of a rendezvous; both are null before it is known.
pub(crate) fn rendezvous(host: Option<String>, port: Option<i32>) -> Result<Option<Rendezvous>> {
    let (Some(host), Some(port)) = (host, port) else {
        return Ok(None);
    };
    let port =
        u16::try_from(port).map_err(|_| convert::unreadable("attempts.rendezvous_port", port))?;
    Ok(Some(Rendezvous { host, port }))
}
