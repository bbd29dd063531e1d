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
    // The first word counts, and only one from before the start: a forecast that could still be mended would
    // prove nothing about forecasts.
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

/// How wrong forecasts of starts were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// Jobs that have started since, or should have with nine chances of ten.
    pub jobs: u32,
    /// Half of them started no further from the expected time than this, in seconds.
    pub median_error_s: f64,
    /// Of those jobs the ones that started by the time that was said for nine cases of ten.
    pub held: u32,
}

/// How wrong the newest `limit` forecasts were, at `now`. One whose later time has passed while its job still waits
/// counts with the error that it has by now: leaving it out would hide the worst. None: there is none to judge.
pub async fn find_accuracy(
    conn: &mut Conn,
    limit: u32,
    now: DateTime<Utc>,
) -> Result<Option<Accuracy>> {
    // Judged over what was said, not over what has started: jobs that still wait are the ones that forecasts
    // get most wrong.
    let row = sqlx::query!(
        r#"WITH said AS (
               SELECT job_id, expected_at, likely_by FROM job_forecasts ORDER BY job_id DESC LIMIT $1
           ), judged AS (
               SELECT s.expected_at, s.likely_by, a.created_at AS began
               FROM said s JOIN attempts a ON a.job_id = s.job_id AND a.number = 1
               UNION ALL
               SELECT s.expected_at, s.likely_by, $2
               FROM said s JOIN open_jobs o ON o.job_id = s.job_id AND o.attempt = 0
               WHERE s.likely_by < $2
           )
           SELECT count(*) AS "jobs!", count(*) FILTER (WHERE began <= likely_by) AS "held!",
                  percentile_cont(0.5) WITHIN GROUP (
                      ORDER BY abs(extract(epoch FROM began - expected_at))::float8) AS median
           FROM judged"#,
        i64::from(limit),
        now,
    )
    .fetch_one(conn.sql())
    .await?;
    Ok(row.median.map(|median_error_s| Accuracy {
        // At most `limit`.
        jobs: u32::try_from(row.jobs).unwrap_or(u32::MAX),
        median_error_s,
        held: u32::try_from(row.held).unwrap_or(u32::MAX),
    }))
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
