//! Ranks: one process of an attempt, its place, and how far it is. A rank only moves forward.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_domain::resources::Device;
use marquee_domain::spec::JobSpec;
use serde::{Deserialize, Serialize};

use crate::attempts::Rendezvous;
use crate::checkpoints::CheckpointKey;
use crate::{Conn, Result, StoreError, Tx, attempts, convert};

mod reports;

pub use marquee_domain::RankKey;
pub use reports::{LockedRank, RankChange, Reported, lock_ranks, mark_ranks_reported};

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
    conn: &mut Conn,
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
    .fetch_all(conn.sql())
    .await?;
    let ranks = rows.into_iter().map(|row| {
        Ok(RankRow {
            key: key(job.0, row.attempt, row.rank)?,
            worker: WorkerId(row.worker_id),
            worker_name: row.worker_name,
            worker_online: row.worker_online,
            devices: convert::json("attempt_ranks.devices", row.devices)?,
            state: convert::rank_state(&row.state)?,
            progress: row.progress.and_then(|p| convert::json("progress", p).ok()),
            summary: convert::summary(job, row.summary),
            failure: convert::failure(row.failure_class, row.failure_message)?,
            ended_at: row.ended_at,
            lost_at: row.lost_at,
        })
    });
    ranks.collect()
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
    /// The attempt is to make room: for whose sake.
    pub makes_room: Option<String>,
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
    conn: &mut Conn,
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
    // From both sides: what should be there, and what the worker says is. Each may lack what the other has.
    let rows = sqlx::query!(
        r#"WITH wanted AS (
               SELECT job_id, attempt, rank FROM held_ranks WHERE worker_id = $1
               UNION
               SELECT * FROM unnest($2::bigint[], $3::int[], $4::int[])
           )
           SELECT r.job_id, r.attempt, r.rank, r.state, r.last_sequence,
                  a.state AS attempt_state, COALESCE(o.attempt, j.attempt) AS "newest_attempt!",
                  COALESCE(o.cancel_requested, false) AS "cancel_requested!",
                  o.interruption_message AS "makes_room?", j.ranks AS world_size, a.rendezvous_host, a.rendezvous_port, a.standby_host,
                  a.standby_port, r.lost_at IS NOT NULL AS "is_lost!",
                  ARRAY(SELECT l.rank FROM attempt_ranks l
                        WHERE l.job_id = r.job_id AND l.attempt = r.attempt
                          AND l.lost_at IS NOT NULL
                        ORDER BY l.rank) AS "lost!"
           FROM wanted h
           JOIN attempt_ranks r ON r.job_id = h.job_id AND r.attempt = h.attempt AND r.rank = h.rank
           JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
           JOIN jobs j ON j.id = r.job_id
           LEFT JOIN open_jobs o ON o.job_id = r.job_id
           WHERE r.worker_id = $1
           ORDER BY r.job_id, r.attempt, r.rank"#,
        worker.0,
        &jobs,
        &attempts,
        &ranks,
    )
    .fetch_all(conn.sql())
    .await?;
    let ranks = rows.into_iter().map(|row| {
        Ok(WorkerRank {
            key: key(row.job_id, row.attempt, row.rank)?,
            state: convert::rank_state(&row.state)?,
            last_sequence: convert::u64_of("attempt_ranks.last_sequence", row.last_sequence)?,
            attempt_state: convert::attempt_state(&row.attempt_state)?,
            newest_attempt: convert::u32_of("jobs.attempt", row.newest_attempt)?,
            cancel_requested: row.cancel_requested,
            makes_room: row.makes_room,
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
    pub key: RankKey,
    pub pipeline: PipelineId,
    /// What the job was asked to do, or why that, or the devices it was given, cannot be read.
    pub spec: std::result::Result<JobSpec, String>,
    pub world_size: u32,
    pub local_rank: u32,
    pub devices: Vec<Device>,
    pub resume: Option<CheckpointKey>,
    /// The lowest rank on another host than rank 0's, where there is one.
    pub standby_rank: Option<Rank>,
}

/// A running gang that goes on with fewer ranks than it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortGang {
    pub job: JobId,
    pub attempt: AttemptNumber,
    /// When it lost the last of them.
    pub lost_at: DateTime<Utc>,
    /// Workers on which something may be left of those that it lost.
    pub unproven: BTreeSet<WorkerId>,
}

/// Those of `jobs` whose live attempt lost ranks and goes on, all that are left of it running. Without those that are to
/// leave.
pub async fn list_short_gangs(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<ShortGang>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let rows = sqlx::query!(
        r#"SELECT o.job_id, o.attempt, max(r.lost_at) AS "lost_at!",
                  array_agg(h.worker_id) FILTER (WHERE r.lost_at IS NOT NULL AND h.job_id IS NOT NULL) AS unproven
           FROM open_jobs o
           JOIN attempt_ranks r ON r.job_id = o.job_id AND r.attempt = o.attempt
           LEFT JOIN held_ranks h ON h.job_id = r.job_id AND h.attempt = r.attempt AND h.rank = r.rank
           WHERE o.job_id = ANY ($1) AND o.state = 'running' AND o.interruption IS NULL
             AND NOT o.cancel_requested
           GROUP BY o.job_id, o.attempt
           HAVING bool_or(r.lost_at IS NOT NULL) AND bool_and(r.lost_at IS NOT NULL OR r.state = 'running')
           ORDER BY o.job_id"#,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    let short = rows.into_iter().map(|row| {
        Ok(ShortGang {
            job: JobId(row.job_id),
            attempt: AttemptNumber(convert::u32_of("open_jobs.attempt", row.attempt)?),
            lost_at: row.lost_at,
            unproven: row.unproven.into_iter().flatten().map(WorkerId).collect(),
        })
    });
    short.collect()
}

/// The assignments of ranks that their worker is to take. Whatever else is asked for is left out: a rank that is not
/// there, was taken already, or ended since somebody meant to give it out.
pub async fn list_assignments(conn: &mut Conn, keys: &[RankKey]) -> Result<Vec<Assignment>> {
    let (jobs, attempts, ranks) = columns(keys.iter().copied())?;
    let rows = sqlx::query!(
        r#"SELECT r.job_id, r.attempt, r.rank, j.pipeline_id, COALESCE(j.spec, y.spec) AS "spec!",
                  j.array_index, j.ranks, r.local_rank, r.devices, a.resumed_from_attempt,
                  a.resumed_from_step,
                  (SELECT min(o.rank)
                   FROM attempt_ranks o
                   JOIN attempt_ranks f
                       ON f.job_id = o.job_id AND f.attempt = o.attempt AND f.rank = 0
                   WHERE o.job_id = r.job_id AND o.attempt = r.attempt
                     AND o.worker_id <> f.worker_id) AS standby_rank
           FROM unnest($1::bigint[], $2::int[], $3::int[]) AS k (job_id, attempt, rank)
           JOIN attempt_ranks r ON r.job_id = k.job_id AND r.attempt = k.attempt AND r.rank = k.rank
           JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
           JOIN open_jobs o ON o.job_id = r.job_id AND o.attempt = r.attempt
           JOIN jobs j ON j.id = r.job_id
           LEFT JOIN jobs y ON y.id = j.array_job_id
           WHERE r.state = 'assigned' AND r.lost_at IS NULL AND a.state IN ('assigned', 'running')
             AND NOT o.cancel_requested AND o.interruption IS NULL
           ORDER BY r.job_id, r.attempt, r.rank"#,
        &jobs,
        &attempts,
        &ranks,
    )
    .fetch_all(conn.sql())
    .await?;
    let assignments = rows.into_iter().map(|row| {
        // Of a kind that a newer version gave out: that rank fails for it, and the others of its worker do not wait.
        let devices = convert::json::<Vec<Device>>("attempt_ranks.devices", row.devices);
        let (devices, spec) = match devices {
            Ok(devices) => (devices, element_spec(row.spec, row.array_index)),
            Err(error) => (Vec::new(), Err(error)),
        };
        Ok(Assignment {
            key: key(row.job_id, row.attempt, row.rank)?,
            pipeline: PipelineId(row.pipeline_id),
            spec: spec.map_err(|error| error.to_string()),
            world_size: convert::u32_of("jobs.ranks", row.ranks)?,
            local_rank: convert::u32_of("attempt_ranks.local_rank", row.local_rank)?,
            devices,
            resume: CheckpointKey::from_columns(row.resumed_from_attempt, row.resumed_from_step)?,
            standby_rank: row
                .standby_rank
                .map(|rank| convert::u32_of("attempt_ranks.rank", rank).map(Rank))
                .transpose()?,
        })
    });
    assignments.collect()
}

/// A stored spec; of an element, that of its array with its place in it.
pub(crate) fn element_spec(spec: serde_json::Value, index: Option<i32>) -> Result<JobSpec> {
    let spec: JobSpec = convert::json("jobs.spec", spec)?;
    match index {
        // Elements stored by versions before 0.2 have a spec of their own.
        Some(index) if spec.element.is_none() => {
            Ok(spec.element_at(convert::u32_of("jobs.array_index", index)?))
        }
        Some(_) | None => Ok(spec),
    }
}

/// Writes down that a running attempt goes on without a rank. What the rank itself said of the cause
/// is kept. False when that was written down before, or the rank has finished.
pub async fn mark_rank_lost(
    tx: &mut Tx,
    key: RankKey,
    failure: &Failure,
    now: DateTime<Utc>,
) -> Result<bool> {
    // Of one that has finished nothing is lost: what it put forward is there. Only a running attempt goes on
    // without ranks; one that is still being prepared is simply tried again.
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
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a rank that its worker does not hold any more: failed when it should have, stopped when
/// its attempt had ended. One that its attempt had gone on without keeps its failure.
pub async fn mark_rank_gone(
    tx: &mut Tx,
    key: RankKey,
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> Result<()> {
    // A rank without a failure was told to stop, or its attempt ended: nothing went wrong with it.
    let state = if failure.is_some() {
        RankState::Failed
    } else {
        RankState::Stopped
    };
    let ended = sqlx::query_scalar!(
        "WITH ended AS (
             UPDATE attempt_ranks
             SET state = CASE WHEN lost_at IS NULL THEN $4 ELSE 'failed' END,
                 failure_class = COALESCE(failure_class, $5),
                 failure_message = COALESCE(failure_message, $6),
                 ended_at = $7
             WHERE job_id = $1 AND attempt = $2 AND rank = $3
               AND state IN ('assigned', 'prepared', 'running')
             RETURNING job_id, attempt, rank
         ), freed AS (
             DELETE FROM held_ranks h USING ended e
             WHERE h.job_id = e.job_id AND h.attempt = e.attempt AND h.rank = e.rank
         )
         SELECT rank FROM ended",
        key.job.0,
        convert::int("attempt", key.attempt.0)?,
        convert::int("rank", key.rank.0)?,
        state.as_str(),
        failure.map(|failure| failure.class.as_str()),
        failure.map(|failure| failure.message.as_str()),
        now,
    )
    .fetch_optional(tx.sql())
    .await?;
    ended.map(|_| ()).ok_or(StoreError::StaleRank {
        job: key.job,
        attempt: key.attempt,
        rank: key.rank,
    })
}

fn key(job: i64, attempt: i32, rank: i32) -> Result<RankKey> {
    Ok(RankKey {
        job: JobId(job),
        attempt: AttemptNumber(convert::u32_of("attempt_ranks.attempt", attempt)?),
        rank: Rank(convert::u32_of("attempt_ranks.rank", rank)?),
    })
}

/// Ranks' keys as three columns.
fn columns(keys: impl Iterator<Item = RankKey>) -> Result<(Vec<i64>, Vec<i32>, Vec<i32>)> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        columns.0.push(key.job.0);
        columns.1.push(convert::int("attempt", key.attempt.0)?);
        columns.2.push(convert::int("rank", key.rank.0)?);
    }
    Ok(columns)
}
