//! When jobs were first expected to start, and how long jobs took that ended.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::spec::JobKind;

use crate::{Conn, Result, Tx, convert};

/// What was said of a job's start when somebody first asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    pub said_at: DateTime<Utc>,
    /// As likely earlier as later.
    pub expected_at: DateTime<Utc>,
    /// In nine cases of ten by then.
    pub likely_by: DateTime<Utc>,
    /// What it followed from.
    pub basis: String,
}

/// What was first said of a job.
pub async fn find_forecast(conn: &mut Conn, job: JobId) -> Result<Option<Forecast>> {
    let row = sqlx::query_as!(
        Forecast,
        "SELECT said_at, expected_at, likely_by, basis FROM job_forecasts WHERE job_id = $1",
        job.0
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(row)
}

/// Keeps what is said of a job that has not started yet, where nothing was said before.
pub async fn insert_forecast(tx: &mut Tx, job: JobId, forecast: &Forecast) -> Result<()> {
    sqlx::query!(
        "INSERT INTO job_forecasts (job_id, said_at, expected_at, likely_by, basis)
         SELECT job_id, $2, $3, $4, $5 FROM open_jobs WHERE job_id = $1 AND attempt = 0
         ON CONFLICT (job_id) DO NOTHING",
        job.0,
        forecast.said_at,
        forecast.expected_at,
        forecast.likely_by,
        forecast.basis,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// How long a job that succeeded took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Took {
    pub project: String,
    pub name: String,
    pub kind: JobKind,
    pub ranks: u32,
    pub length: TimeDelta,
}

/// The lengths of the newest jobs that succeeded by their own work, of at most `limit` jobs looked at, oldest first.
pub async fn list_lengths(conn: &mut Conn, limit: u32) -> Result<Vec<Took>> {
    let rows = sqlx::query!(
        r#"SELECT project, name, kind, ranks, started_at AS "started_at!", finished_at AS "finished_at!"
           FROM (SELECT * FROM jobs ORDER BY id DESC LIMIT $1) j
           WHERE state = 'succeeded' AND array_size IS NULL AND reused_from IS NULL
             AND started_at IS NOT NULL AND finished_at IS NOT NULL
           ORDER BY finished_at"#,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let lengths = rows.into_iter().map(|row| {
        Ok(Took {
            project: row.project,
            name: row.name,
            kind: convert::kind(&row.kind)?,
            ranks: convert::u32_of("jobs.ranks", row.ranks)?,
            length: row.finished_at - row.started_at,
        })
    });
    lengths.collect()
}
