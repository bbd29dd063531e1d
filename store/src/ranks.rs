//! Ranks: one process of an attempt, its place, and how far it is. A rank only moves forward.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId, JobName, Rank, WorkerId};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_domain::resources::Device;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::postgres::PgQueryResult;

use crate::attempts::Rendezvous;
use crate::checkpoints::CheckpointKey;
use crate::{Result, StoreError, attempts, convert};

pub use marquee_domain::RankKey;

/// How far a rank is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub phase: String,
    pub done: u64,
    pub total: Option<u64>,
    pub unit: String,
    pub at: DateTime<Utc>,
    /// When this phase was first reported: rate and time left follow from it.
    pub phase_started_at: DateTime<Utc>,
    /// Bytes brought in so far, where they tell something.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Of those done, how many did not go well, by class.
    #[serde(default)]
    pub problems: BTreeMap<String, u64>,
    /// `done` and `bytes` when this phase was first reported.
    #[serde(default)]
    pub phase_started_done: u64,
    #[serde(default)]
    pub phase_started_bytes: u64,
}

/// A rank to store, in state assigned.
#[derive(Debug, Clone)]
pub struct NewRank<'a> {
    pub key: RankKey,
    pub worker: WorkerId,
    pub local_rank: u32,
    pub devices: &'a [Device],
}

/// Stores a rank.
pub async fn insert_rank(conn: &mut PgConnection, new: &NewRank<'_>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state)
         VALUES ($1, $2, $3, $4, $5, $6, 'assigned')",
        new.key.job.0,
        convert::int("attempt", new.key.attempt.0)?,
        convert::int("rank", new.key.rank.0)?,
        new.worker.0,
        convert::int("local_rank", new.local_rank)?,
        convert::to_json("devices", &new.devices)?,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A rank as a user or a verdict sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct RankRow {
    pub key: RankKey,
    pub worker: WorkerId,
    pub worker_name: String,
    /// False when the worker's lease has run out, or it said goodbye.
    pub worker_online: bool,
    pub devices: Vec<Device>,
    pub state: RankState,
    pub progress: Option<Progress>,
    pub summary: Option<serde_json::Value>,
    pub failure: Option<Failure>,
    pub ended_at: Option<DateTime<Utc>>,
    /// When the attempt went on without it.
    pub lost_at: Option<DateTime<Utc>>,
}

/// The ranks of one attempt, or of all attempts of a job, by attempt and rank.
pub async fn list_ranks(
    conn: &mut PgConnection,
    job: JobId,
    attempt: Option<AttemptNumber>,
) -> Result<Vec<RankRow>> {
    let attempt = attempt
        .map(|attempt| convert::int("attempt", attempt.0))
        .transpose()?;
    let rows = sqlx::query!(
        r#"SELECT r.attempt, r.rank, r.worker_id, w.name AS worker_name,
                  w.state = 'online' AS "worker_online!", r.devices, r.state, r.progress,
                  r.summary, r.failure_class, r.failure_message, r.ended_at, r.lost_at
           FROM attempt_ranks r JOIN workers w ON w.id = r.worker_id
           WHERE r.job_id = $1 AND ($2::int IS NULL OR r.attempt = $2)
           ORDER BY r.attempt, r.rank"#,
        job.0,
        attempt,
    )
    .fetch_all(conn)
    .await?;
    let ranks = rows.into_iter().map(|row| {
        Ok(RankRow {
            key: key(job.0, row.attempt, row.rank)?,
            worker: WorkerId(row.worker_id),
            worker_name: row.worker_name,
            worker_online: row.worker_online,
            devices: convert::json("attempt_ranks.devices", row.devices)?,
            state: convert::rank_state(&row.state)?,
            progress: row
                .progress
                .map(|p| convert::json("progress", p))
                .transpose()?,
            summary: row.summary,
            failure: convert::failure(row.failure_class, row.failure_message)?,
            ended_at: row.ended_at,
            lost_at: row.lost_at,
        })
    });
    ranks.collect()
}

/// What a rank has put forward as the job's artifact.
pub async fn find_rank_output(conn: &mut PgConnection, key: RankKey) -> Result<Option<Manifest>> {
    let output = sqlx::query_scalar!(
        "SELECT output FROM attempt_ranks WHERE job_id = $1 AND attempt = $2 AND rank = $3",
        key.job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::int("rank", key.rank.0)?,
    )
    .fetch_optional(conn)
    .await?;
    output.flatten().map(convert::manifest).transpose()
}

/// Devices that a rank holds on a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDevices {
    pub key: RankKey,
    pub job_name: JobName,
    pub worker: WorkerId,
    pub devices: Vec<Device>,
}

/// Every rank that has not ended, whatever became of its attempt: devices are free only when
/// nothing is left on them.
pub async fn list_held_devices(conn: &mut PgConnection) -> Result<Vec<HeldDevices>> {
    let rows = sqlx::query!(
        "SELECT r.job_id, r.attempt, r.rank, j.name, r.worker_id, r.devices
         FROM attempt_ranks r JOIN jobs j ON j.id = r.job_id
         WHERE r.state IN ('assigned', 'prepared', 'running')
         ORDER BY r.job_id, r.attempt, r.rank",
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| {
        Ok(HeldDevices {
            key: key(row.job_id, row.attempt, row.rank)?,
            job_name: convert::job_name(row.name)?,
            worker: WorkerId(row.worker_id),
            devices: convert::json("attempt_ranks.devices", row.devices)?,
        })
    });
    held.collect()
}

/// A rank that should be, or is said to be, on a worker: what reconciling decides by.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRank {
    pub key: RankKey,
    pub state: RankState,
    /// Number of the newest report stored, 0 before the first.
    pub last_sequence: u64,
    pub attempt_state: AttemptStateName,
    /// Number of the job's newest attempt.
    pub newest_attempt: u32,
    pub cancel_requested: bool,
    /// Ranks of the attempt.
    pub world_size: u32,
    pub rendezvous: Option<Rendezvous>,
    pub standby: Option<Rendezvous>,
    /// The attempt has gone on without it.
    pub is_lost: bool,
    /// Ranks of the attempt that it has gone on without.
    pub lost: Vec<Rank>,
}

/// The ranks of a worker that have not ended, and those among `held` that have.
pub async fn list_worker_ranks(
    conn: &mut PgConnection,
    worker: WorkerId,
    held: &[RankKey],
) -> Result<Vec<WorkerRank>> {
    // A worker may claim numbers that no column holds: such a rank is unknown.
    let known: Vec<_> = held
        .iter()
        .filter_map(|key| {
            let attempt = i32::try_from(key.attempt.0).ok()?;
            Some((key.job.0, attempt, i32::try_from(key.rank.0).ok()?))
        })
        .collect();
    let jobs: Vec<i64> = known.iter().map(|key| key.0).collect();
    let attempts: Vec<i32> = known.iter().map(|key| key.1).collect();
    let ranks: Vec<i32> = known.iter().map(|key| key.2).collect();
    let rows = sqlx::query!(
        r#"SELECT r.job_id, r.attempt, r.rank, r.state, r.last_sequence,
                  a.state AS attempt_state, j.attempt AS newest_attempt, j.cancel_requested,
                  j.ranks AS world_size, a.rendezvous_host, a.rendezvous_port, a.standby_host,
                  a.standby_port, r.lost_at IS NOT NULL AS "is_lost!",
                  ARRAY(SELECT l.rank FROM attempt_ranks l
                        WHERE l.job_id = r.job_id AND l.attempt = r.attempt
                          AND l.lost_at IS NOT NULL
                        ORDER BY l.rank) AS "lost!"
           FROM attempt_ranks r
           JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
           JOIN jobs j ON j.id = r.job_id
           WHERE r.worker_id = $1
             AND (r.state IN ('assigned', 'prepared', 'running')
                  OR (r.job_id, r.attempt, r.rank) IN (
                      SELECT * FROM unnest($2::bigint[], $3::int[], $4::int[])))
           ORDER BY r.job_id, r.attempt, r.rank"#,
        worker.0,
        &jobs,
        &attempts,
        &ranks,
    )
    .fetch_all(conn)
    .await?;
    let ranks = rows.into_iter().map(|row| {
        Ok(WorkerRank {
            key: key(row.job_id, row.attempt, row.rank)?,
            state: convert::rank_state(&row.state)?,
            last_sequence: convert::u64_of("attempt_ranks.last_sequence", row.last_sequence)?,
            attempt_state: convert::attempt_state(&row.attempt_state)?,
            newest_attempt: convert::u32_of("jobs.attempt", row.newest_attempt)?,
            cancel_requested: row.cancel_requested,
            world_size: convert::u32_of("jobs.ranks", row.world_size)?,
            rendezvous: attempts::rendezvous(row.rendezvous_host, row.rendezvous_port)?,
            standby: attempts::rendezvous(row.standby_host, row.standby_port)?,
            is_lost: row.is_lost,
            lost: row
                .lost
                .into_iter()
                .map(|rank| convert::u32_of("attempt_ranks.rank", rank).map(Rank))
                .collect::<Result<_>>()?,
        })
    });
    ranks.collect()
}

/// What a worker needs to prepare a rank, besides inputs and checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub pipeline: marquee_domain::PipelineId,
    /// The job's spec as it is stored.
    pub spec: serde_json::Value,
    pub world_size: u32,
    pub local_rank: u32,
    pub devices: Vec<Device>,
    pub resume: Option<CheckpointKey>,
    /// The lowest rank on another host than rank 0's, where there is one.
    pub standby_rank: Option<Rank>,
}

/// The assignment of a rank.
pub async fn find_assignment(conn: &mut PgConnection, key: RankKey) -> Result<Option<Assignment>> {
    let row = sqlx::query!(
        "SELECT j.pipeline_id, j.spec, j.ranks, r.local_rank, r.devices, a.resumed_from_attempt,
                a.resumed_from_step,
                (SELECT min(o.rank)
                 FROM attempt_ranks o
                 JOIN attempt_ranks f ON f.job_id = o.job_id AND f.attempt = o.attempt AND f.rank = 0
                 WHERE o.job_id = r.job_id AND o.attempt = r.attempt
                   AND o.worker_id <> f.worker_id) AS standby_rank
         FROM attempt_ranks r
         JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
         JOIN jobs j ON j.id = r.job_id
         WHERE r.job_id = $1 AND r.attempt = $2 AND r.rank = $3",
        key.job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::int("rank", key.rank.0)?,
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Assignment {
        pipeline: marquee_domain::PipelineId(row.pipeline_id),
        spec: row.spec,
        world_size: convert::u32_of("jobs.ranks", row.ranks)?,
        local_rank: convert::u32_of("attempt_ranks.local_rank", row.local_rank)?,
        devices: convert::json("attempt_ranks.devices", row.devices)?,
        resume: CheckpointKey::from_columns(row.resumed_from_attempt, row.resumed_from_step)?,
        standby_rank: row
            .standby_rank
            .map(|rank| convert::u32_of("attempt_ranks.rank", rank).map(Rank))
            .transpose()?,
    }))
}

/// A rank whose reports are about to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct LockedRank {
    pub state: RankState,
    pub last_sequence: u64,
    pub progress: Option<Progress>,
    pub attempt_state: AttemptStateName,
    /// Number of the job's newest attempt.
    pub newest_attempt: u32,
    /// The attempt has gone on without it.
    pub is_lost: bool,
}

/// Locks a rank of `worker` until the end of the transaction. None: that worker has no such rank.
pub async fn lock_rank(
    conn: &mut PgConnection,
    key: RankKey,
    worker: WorkerId,
) -> Result<Option<LockedRank>> {
    // Numbers that no column holds name no rank.
    let (Ok(attempt), Ok(rank)) = (i32::try_from(key.attempt.0), i32::try_from(key.rank.0)) else {
        return Ok(None);
    };
    let row = sqlx::query!(
        r#"SELECT r.state, r.last_sequence, r.progress, a.state AS attempt_state,
                  j.attempt AS newest_attempt, r.lost_at IS NOT NULL AS "is_lost!"
           FROM attempt_ranks r
           JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
           JOIN jobs j ON j.id = r.job_id
           WHERE r.job_id = $1 AND r.attempt = $2 AND r.rank = $3 AND r.worker_id = $4
           FOR NO KEY UPDATE OF r"#,
        key.job.0,
        attempt,
        rank,
        worker.0,
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(LockedRank {
        state: convert::rank_state(&row.state)?,
        last_sequence: convert::u64_of("attempt_ranks.last_sequence", row.last_sequence)?,
        progress: row
            .progress
            .map(|p| convert::json("progress", p))
            .transpose()?,
        attempt_state: convert::attempt_state(&row.attempt_state)?,
        newest_attempt: convert::u32_of("jobs.attempt", row.newest_attempt)?,
        is_lost: row.is_lost,
    }))
}

/// What a batch of reports changes in a rank; what is None stays.
#[derive(Debug, Clone, Default)]
pub struct RankChange {
    pub state: Option<RankState>,
    pub progress: Option<Progress>,
    pub summary: Option<serde_json::Value>,
    pub output: Option<Manifest>,
    pub failure: Option<Failure>,
    pub pid: Option<u32>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Stores a batch of reports' effect on a rank: its reports after `from` up to `to`.
pub async fn mark_rank_reported(
    conn: &mut PgConnection,
    key: RankKey,
    from: u64,
    to: u64,
    change: &RankChange,
) -> Result<()> {
    let progress = change
        .progress
        .as_ref()
        .map(|p| convert::to_json("progress", p))
        .transpose()?;
    let output = change
        .output
        .as_ref()
        .map(|m| convert::to_json("output", m))
        .transpose()?;
    let done = sqlx::query!(
        "UPDATE attempt_ranks
         SET last_sequence = $5,
             state = COALESCE($6, state),
             progress = COALESCE($7, progress),
             summary = COALESCE($8, summary),
             output = COALESCE($9, output),
             failure_class = COALESCE($10, failure_class),
             failure_message = COALESCE($11, failure_message),
             pid = COALESCE($12, pid),
             ended_at = COALESCE($13, ended_at)
         WHERE job_id = $1 AND attempt = $2 AND rank = $3 AND last_sequence = $4
           AND state IN ('assigned', 'prepared', 'running')",
        key.job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::int("rank", key.rank.0)?,
        convert::bigint("sequence", from)?,
        convert::bigint("sequence", to)?,
        change.state.map(RankState::as_str),
        progress,
        change.summary,
        output,
        change
            .failure
            .as_ref()
            .map(|failure| failure.class.as_str()),
        change
            .failure
            .as_ref()
            .map(|failure| failure.message.as_str()),
        change.pid.map(i64::from),
        change.ended_at,
    )
    .execute(conn)
    .await?;
    one_row(&done, key)
}

/// Writes down that a running attempt goes on without a rank. What the rank itself said of the cause
/// is kept. False when that was written down before, or the rank has finished.
pub async fn mark_rank_lost(
    conn: &mut PgConnection,
    key: RankKey,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE attempt_ranks r
         SET lost_at = $6,
             failure_class = COALESCE(r.failure_class, $4),
             failure_message = CASE WHEN r.failure_class IS NULL THEN $5 ELSE r.failure_message END
         FROM attempts a
         WHERE r.job_id = $1 AND r.attempt = $2 AND r.rank = $3
           AND r.lost_at IS NULL AND r.state <> 'finished'
           AND a.job_id = r.job_id AND a.number = r.attempt AND a.state = 'running'",
        key.job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::int("rank", key.rank.0)?,
        failure.class.as_str(),
        failure.message,
        now,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a rank that its worker does not hold any more: failed when it should have, stopped when
/// its attempt had ended. One that its attempt had gone on without keeps its failure.
pub async fn mark_rank_gone(
    conn: &mut PgConnection,
    key: RankKey,
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> Result<()> {
    let state = if failure.is_some() {
        RankState::Failed
    } else {
        RankState::Stopped
    };
    let done = sqlx::query!(
        "UPDATE attempt_ranks
         SET state = CASE WHEN lost_at IS NULL THEN $4 ELSE 'failed' END,
             failure_class = COALESCE(failure_class, $5),
             failure_message = COALESCE(failure_message, $6),
             ended_at = $7
         WHERE job_id = $1 AND attempt = $2 AND rank = $3
           AND state IN ('assigned', 'prepared', 'running')",
        key.job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::int("rank", key.rank.0)?,
        state.as_str(),
        failure.map(|failure| failure.class.as_str()),
        failure.map(|failure| failure.message.as_str()),
        now,
    )
    .execute(conn)
    .await?;
    one_row(&done, key)
}

fn one_row(done: &PgQueryResult, key: RankKey) -> Result<()> {
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::StaleRank {
            job: key.job,
            attempt: key.attempt,
            rank: key.rank,
        })
    }
}

fn key(job: i64, attempt: i32, rank: i32) -> Result<RankKey> {
    Ok(RankKey {
        job: JobId(job),
        attempt: AttemptNumber(convert::u32_of("attempt_ranks.attempt", attempt)?),
        rank: Rank(convert::u32_of("attempt_ranks.rank", rank)?),
    })
}
