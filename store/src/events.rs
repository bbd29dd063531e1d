//! What happened to a job, in words, for people.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;

use crate::{Conn, Result, Tx, convert};

/// One line of a job's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEvent {
    pub at: DateTime<Utc>,
    /// Newest attempt at that time, 0 before the first.
    pub attempt: u32,
    pub text: String,
    /// Who asked for it or, of a worker, whose report it follows from, by what means and from where; empty: the
    /// coordinator itself.
    pub caller: String,
}

/// Adds a line to a job's history that nobody asked for: Marquee did it, or who the transaction says
/// ([`Tx::caused_by`]).
pub async fn insert_event(
    tx: &mut Tx,
    job: JobId,
    attempt: u32,
    text: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let caller = tx.caller_of(job);
    insert_event_by(tx, job, attempt, text, &caller, now).await
}

/// Adds a line to a job's history for what `caller` asked for.
pub async fn insert_event_by(
    tx: &mut Tx,
    job: JobId,
    attempt: u32,
    text: &str,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO job_events (job_id, attempt, text, at, caller) VALUES ($1, $2, $3, $4, $5)",
        job.0,
        convert::int("attempt", attempt)?,
        text,
        now,
        caller,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// The newest `limit` lines of a job's history, oldest first.
pub async fn list_events(conn: &mut Conn, job: JobId, limit: u32) -> Result<Vec<JobEvent>> {
    // By number: all lines of one transaction have one time.
    let rows = sqlx::query!(
        "SELECT attempt, text, caller, at FROM job_events WHERE job_id = $1 ORDER BY id DESC LIMIT $2",
        job.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let events = rows.into_iter().rev().map(|row| {
        let attempt = convert::u32_of("job_events.attempt", row.attempt)?;
        Ok(JobEvent {
            at: row.at,
            attempt,
            text: row.text,
            caller: row.caller,
        })
    });
    events.collect()
}
