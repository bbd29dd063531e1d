//! Jobs that could run or do, with the devices that their ranks hold: what the scheduler keeps in
//! memory, read again for the jobs that changed.
//!
//! Invariant: what cannot be read of one row is said in its place and hides no other row.

use chrono::{DateTime, NaiveDate, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::resources::Device;
use marquee_domain::spec::JobSpec;
use serde_json::Value;

use crate::ranks::RankKey;
use crate::{Conn, Result, Tx, convert};

/// Which rows to read.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    All,
    /// Those of these jobs and, where one is an array, of its elements.
    Of(&'a [JobId]),
}

impl Which<'_> {
    pub(crate) fn ids(self) -> Option<Vec<i64>> {
        match self {
            Self::All => None,
            Self::Of(jobs) => Some(jobs.iter().map(|job| job.0).collect()),
        }
    }
}

/// A job that is queued or runs.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenJob {
    pub id: JobId,
    pub pipeline_id: PipelineId,
    /// Of an element: its array and its place in it.
    pub element: Option<(JobId, u32)>,
    /// Of an element: how many of its array are no jobs yet and could stand in line.
    pub to_come: u32,
    pub is_running: bool,
    /// Number of the newest attempt, 0 before the first.
    pub attempt: u32,
    pub priority: i32,
    pub queued_at: DateTime<Utc>,
    pub not_before: Option<DateTime<Utc>>,
    /// When its newest attempt was placed.
    pub started_at: Option<DateTime<Utc>>,
    /// Who holds it, or its array, and since when.
    pub held: Option<(String, DateTime<Utc>)>,
    /// Of a running job: it is to make room.
    pub is_leaving: bool,
    /// Since when the GPUs of a running job have done nothing, once that was said.
    pub idle_since: Option<DateTime<Utc>>,
    /// How often it made room, and on which day it did so last.
    pub preempted: (u32, Option<NaiveDate>),
    /// What it does, once somebody has looked.
    pub step: Option<Digest>,
    /// Class and figures of what keeps it waiting, as stored.
    pub obstacle: Option<Value>,
    /// What it was asked to do, or why that cannot be read. None for an element: it is its array's.
    pub spec: Option<std::result::Result<JobSpec, String>>,
}

/// Jobs that are queued or run. A row that cannot be read at all has its reason in its place.
pub async fn list_open_jobs(
    conn: &mut Conn,
    which: Which<'_>,
) -> Result<Vec<std::result::Result<OpenJob, (JobId, String)>>> {
    let ids = which.ids();
    let rows = sqlx::query!(
        // A hold of an array holds its elements: they have no other.
        r#"SELECT o.job_id, o.array_job_id, j.array_index, o.state, o.attempt, o.not_before,
                  COALESCE(o.queued_at, j.created_at) AS "queued_at!", o.obstacle, j.pipeline_id,
                  j.priority, j.step_digest, j.spec, o.started_at,
                  COALESCE(o.held_by, y.held_by) AS held_by, COALESCE(o.held_at, y.held_at) AS held_at,
                  o.interruption IS NOT NULL OR o.cancel_requested AS "is_leaving!", o.preempted,
                  o.preempted_on, o.idle_since,
                  -- While something that its array needs is made again, what is to come waits for that.
                  CASE WHEN y.needs_left > 0 THEN 0 ELSE COALESCE(n.to_come, 0) END AS "to_come!"
           FROM open_jobs o JOIN jobs j ON j.id = o.job_id
           LEFT JOIN open_jobs y ON y.job_id = o.array_job_id
           LEFT JOIN arrays n ON n.job_id = o.array_job_id
           WHERE o.state <> 'waiting'
             AND ($1::bigint[] IS NULL OR o.job_id = ANY ($1) OR o.array_job_id = ANY ($1))
           ORDER BY o.job_id"#,
        ids.as_deref(),
    )
    .fetch_all(conn.sql())
    .await?;
    let jobs = rows.into_iter().map(|row| {
        let read = || -> Result<OpenJob> {
            let element = match (row.array_job_id, row.array_index) {
                (Some(array), Some(index)) => {
                    Some((JobId(array), convert::u32_of("jobs.array_index", index)?))
                }
                (Some(_), None) | (None, _) => None,
            };
            Ok(OpenJob {
                id: JobId(row.job_id),
                pipeline_id: PipelineId(row.pipeline_id),
                element,
                to_come: convert::u32_of("arrays.to_come", row.to_come)?,
                is_running: row.state == "running",
                attempt: convert::u32_of("open_jobs.attempt", row.attempt)?,
                priority: row.priority,
                queued_at: row.queued_at,
                not_before: row.not_before,
                started_at: row.started_at,
                held: row.held_by.zip(row.held_at),
                is_leaving: row.is_leaving,
                idle_since: row.idle_since,
                preempted: (
                    convert::u32_of("open_jobs.preempted", row.preempted)?,
                    row.preempted_on,
                ),
                step: row.step_digest.map(convert::digest).transpose()?,
                obstacle: row.obstacle,
                // Kept as an error beside the job: the scheduler ends that job with the reason, and goes on
                // with the others.
                spec: row
                    .spec
                    .map(|spec| convert::json("jobs.spec", spec).map_err(|e| e.to_string())),
            })
        };
        read().map_err(|error| (JobId(row.job_id), error.to_string()))
    });
    Ok(jobs.collect())
}

/// The specs of arrays, for their elements; one that cannot be read has its reason in its place.
pub async fn list_specs(
    conn: &mut Conn,
    jobs: &[JobId],
) -> Result<Vec<(JobId, std::result::Result<JobSpec, String>)>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let rows = sqlx::query!(
        r#"SELECT id, spec AS "spec!" FROM jobs WHERE id = ANY ($1) AND spec IS NOT NULL"#,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    let specs = rows.into_iter().map(|row| {
        let spec = convert::json("jobs.spec", row.spec).map_err(|error| error.to_string());
        (JobId(row.id), spec)
    });
    Ok(specs.collect())
}

/// A rank of which something may be left on its worker, whatever became of its attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRank {
    pub key: RankKey,
    pub worker: WorkerId,
    pub devices: Vec<Device>,
    /// Whom they are charged to.
    pub project: String,
}

/// Every rank that has not ended: devices are free only when nothing is left on them. One whose devices
/// cannot be read is left out and logged: it ends like any other, and until then its worker refuses a
/// second rank on the same device.
pub async fn list_held_ranks(conn: &mut Conn, which: Which<'_>) -> Result<Vec<HeldRank>> {
    let ids = which.ids();
    let rows = sqlx::query!(
        "SELECT h.job_id, h.attempt, h.rank, h.worker_id, r.devices, j.project
         FROM held_ranks h
         JOIN jobs j ON j.id = h.job_id
         JOIN attempt_ranks r ON r.job_id = h.job_id AND r.attempt = h.attempt AND r.rank = h.rank
         LEFT JOIN open_jobs o ON $1::bigint[] IS NOT NULL AND o.job_id = h.job_id
         WHERE $1::bigint[] IS NULL OR h.job_id = ANY ($1) OR o.array_job_id = ANY ($1)
         ORDER BY h.job_id, h.attempt, h.rank",
        ids.as_deref(),
    )
    .fetch_all(conn.sql())
    .await?;
    let held = rows.into_iter().filter_map(|row| {
        let read = || -> Result<HeldRank> {
            Ok(HeldRank {
                key: RankKey {
                    job: JobId(row.job_id),
                    attempt: AttemptNumber(convert::u32_of("held_ranks.attempt", row.attempt)?),
                    rank: Rank(convert::u32_of("held_ranks.rank", row.rank)?),
                },
                worker: WorkerId(row.worker_id),
                devices: convert::json("attempt_ranks.devices", row.devices)?,
                project: row.project,
            })
        };
        match read() {
            Ok(held) => Some(held),
            Err(error) => {
                tracing::error!(job = row.job_id, %error, "the devices that a rank holds cannot be read");
                None
            }
        }
    });
    Ok(held.collect())
}

/// Stores what keeps queued jobs waiting, for those where its class is another than before. For elements
/// their array is named.
pub async fn mark_obstacles(tx: &mut Tx, changed: &[(JobId, Value)]) -> Result<()> {
    let jobs: Vec<i64> = changed.iter().map(|(job, _)| job.0).collect();
    let obstacles: Vec<Value> = changed
        .iter()
        .map(|(_, obstacle)| obstacle.clone())
        .collect();
    sqlx::query!(
        "UPDATE open_jobs o SET obstacle = c.obstacle
         FROM unnest($1::bigint[], $2::jsonb[]) AS c (job_id, obstacle)
         WHERE o.job_id = c.job_id",
        &jobs,
        &obstacles,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
