//! Which devices were held, when, and by whom: from the ranks of attempts, which keep it for ever.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobName;

use crate::{Conn, Result, convert};

/// A rank's time on its devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub pipeline_name: JobName,
    pub project: String,
    pub from: DateTime<Utc>,
    /// None: it holds them still.
    pub to: Option<DateTime<Utc>>,
    pub cpus: u32,
    pub gpus: u32,
    /// Its attempt has ended and came to nothing.
    pub is_lost: bool,
    /// It is its attempt's first rank.
    pub is_first: bool,
}

/// Ranks that held devices after `since`, newest jobs first, at most `limit`. Rows that cannot be read are left out.
pub async fn list_held(conn: &mut Conn, since: DateTime<Utc>, limit: u32) -> Result<Vec<Held>> {
    // A rank that never said its end, since its host was lost, counts up to its attempt's end.
    let rows = sqlx::query!(
        r#"SELECT p.name, j.project, a.created_at,
                  CASE WHEN r.state IN ('finished', 'failed', 'stopped')
                       THEN COALESCE(r.ended_at, a.finished_at, a.created_at)
                       ELSE a.finished_at END AS ended_at,
                  (SELECT count(*) FROM jsonb_array_elements(
                       CASE WHEN jsonb_typeof(r.devices) = 'array' THEN r.devices ELSE '[]' END) d
                   WHERE d.value ->> 'kind' = 'gpu') AS "gpus!",
                  CASE WHEN jsonb_typeof(r.devices) = 'array' THEN jsonb_array_length(r.devices) ELSE 0 END
                      AS "devices!",
                  a.state IN ('failed', 'cancelled', 'interrupted') AS "is_lost!", r.rank
           FROM attempts a
           JOIN attempt_ranks r ON r.job_id = a.job_id AND r.attempt = a.number
           JOIN jobs j ON j.id = a.job_id
           JOIN pipelines p ON p.id = j.pipeline_id
           WHERE a.finished_at IS NULL OR a.finished_at >= $1
           ORDER BY a.job_id DESC LIMIT $2"#,
        since,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let held = rows.into_iter().filter_map(|row| {
        // A count that does not fit is a damaged row; it is left out of sums rather than made huge.
        let count = |n: i64| u32::try_from(n).unwrap_or_default();
        Some(Held {
            pipeline_name: convert::job_name(row.name).ok()?,
            project: row.project,
            from: row.created_at,
            to: row.ended_at,
            gpus: count(row.gpus),
            cpus: count(i64::from(row.devices) - row.gpus),
            is_lost: row.is_lost,
            is_first: row.rank == 0,
        })
    });
    Ok(held.collect())
}
