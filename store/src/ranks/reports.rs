//! What ranks report: locked, judged by the caller, and stored for many of them in one statement.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::failure::Failure;
use marquee_domain::ids::WorkerId;
use marquee_domain::job::{AttemptStateName, RankState};

use super::{Progress, RankKey, columns, key};
use crate::{Result, StoreError, Tx, convert};

/// A rank whose reports are about to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct LockedRank {
    pub key: RankKey,
    pub worker: WorkerId,
    pub state: RankState,
    pub last_sequence: u64,
    pub progress: Option<Progress>,
    pub attempt_state: AttemptStateName,
    /// Number of the job's newest attempt.
    pub newest_attempt: u32,
    /// Ranks of the attempt.
    pub world_size: u32,
    /// The attempt has gone on without it.
    pub is_lost: bool,
}

/// Locks ranks until the end of the transaction, in the order of their keys. Those that are not there are
/// left out.
pub async fn lock_ranks(tx: &mut Tx, keys: &[RankKey]) -> Result<Vec<LockedRank>> {
    // Numbers that no column holds name no rank.
    let known = keys
        .iter()
        .copied()
        .filter(|key| i32::try_from(key.attempt.0).is_ok() && i32::try_from(key.rank.0).is_ok());
    let (jobs, attempts, ranks) = columns(known)?;
    // In the order of the keys: two transactions that lock the same ranks never wait for each other.
    let rows = sqlx::query!(
        r#"SELECT r.job_id, r.attempt, r.rank, r.worker_id, r.state, r.last_sequence, r.progress,
                  a.state AS attempt_state, COALESCE(o.attempt, j.attempt) AS "newest_attempt!",
                  j.ranks AS world_size, r.lost_at IS NOT NULL AS "is_lost!"
           FROM attempt_ranks r
           JOIN attempts a ON a.job_id = r.job_id AND a.number = r.attempt
           JOIN jobs j ON j.id = r.job_id
           LEFT JOIN open_jobs o ON o.job_id = r.job_id
           WHERE (r.job_id, r.attempt, r.rank) IN (
               SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[]))
           ORDER BY r.job_id, r.attempt, r.rank
           FOR NO KEY UPDATE OF r"#,
        &jobs,
        &attempts,
        &ranks,
    )
    .fetch_all(tx.sql())
    .await?;
    let locked = rows.into_iter().map(|row| {
        Ok(LockedRank {
            key: key(row.job_id, row.attempt, row.rank)?,
            worker: WorkerId(row.worker_id),
            state: convert::rank_state(&row.state)?,
            last_sequence: convert::u64_of("attempt_ranks.last_sequence", row.last_sequence)?,
            // Of an earlier version, or damaged: what is reported next replaces it.
            progress: row.progress.and_then(|p| convert::json("progress", p).ok()),
            attempt_state: convert::attempt_state(&row.attempt_state)?,
            newest_attempt: convert::u32_of("jobs.attempt", row.newest_attempt)?,
            world_size: convert::u32_of("jobs.ranks", row.world_size)?,
            is_lost: row.is_lost,
        })
    });
    locked.collect()
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

/// The effect of a rank's reports after `from` up to `to`.
#[derive(Debug, Clone)]
pub struct Reported<'a> {
    pub key: RankKey,
    pub from: u64,
    pub to: u64,
    pub change: &'a RankChange,
    /// The rank is started by its assignment: its start is its attempt's.
    pub starts_attempt: bool,
}

/// Stores the effect of reports on their ranks. A rank that ended holds its devices no longer.
///
/// # Errors
/// [`StoreError::StaleRank`] where one of them is not where its reports go on, has ended, or is of an attempt that a
/// newer one has taken the place of: nothing of the call may be kept then.
pub async fn mark_ranks_reported(
    tx: &mut Tx,
    reported: &[Reported<'_>],
    now: DateTime<Utc>,
) -> Result<()> {
    let (jobs, attempts, ranks) = columns(reported.iter().map(|rank| rank.key))?;
    let from = reported.iter().map(|r| convert::bigint("sequence", r.from));
    let to = reported.iter().map(|r| convert::bigint("sequence", r.to));
    let states: Vec<Option<String>> = reported
        .iter()
        .map(|r| r.change.state.map(|state| state.as_str().to_owned()))
        .collect();
    let json = |value: Option<Result<serde_json::Value>>| value.transpose();
    let progress = reported.iter().map(|r| {
        json(
            r.change
                .progress
                .as_ref()
                .map(|p| convert::to_document("progress", p)),
        )
    });
    let summaries = reported.iter().map(|r| {
        json(
            r.change
                .summary
                .as_ref()
                .map(|s| convert::to_document("summary", s)),
        )
    });
    let outputs = reported.iter().map(|r| {
        json(
            r.change
                .output
                .as_ref()
                .map(|m| convert::to_document("output", m)),
        )
    });
    let classes: Vec<Option<String>> = reported
        .iter()
        .map(|r| {
            r.change
                .failure
                .as_ref()
                .map(|f| f.class.as_str().to_owned())
        })
        .collect();
    let messages: Vec<Option<String>> = reported
        .iter()
        .map(|r| r.change.failure.as_ref().map(|f| f.message.clone()))
        .collect();
    let pids: Vec<Option<i64>> = reported
        .iter()
        .map(|r| r.change.pid.map(i64::from))
        .collect();
    let ends: Vec<Option<DateTime<Utc>>> = reported.iter().map(|r| r.change.ended_at).collect();
    let starts: Vec<bool> = reported.iter().map(|r| r.starts_attempt).collect();
    // The number is the guard: a batch that is stored already finds another number, and stores nothing twice. So is the
    // job's newest attempt, as it is now and not as it was when the reports were judged: a newer one may have been placed
    // in between, and none can be while this transaction has the rank's lock (`lock_ranks_left`).
    // A rank's end frees its devices in the same statement, neither before nor after.
    let stored = sqlx::query_scalar!(
        r#"WITH given AS (
               SELECT * FROM unnest($2::bigint[], $3::int[], $4::int[], $5::bigint[], $6::bigint[],
                                    $7::text[], $8::jsonb[], $9::jsonb[], $10::jsonb[], $11::text[],
                                    $12::text[], $13::bigint[], $14::timestamptz[], $15::bool[])
                   AS g (job_id, attempt, rank, from_sequence, to_sequence, state, progress, summary,
                         output, failure_class, failure_message, pid, ended_at, starts_attempt)
           ), stored AS (
               UPDATE attempt_ranks r
               SET last_sequence = g.to_sequence,
                   state = COALESCE(g.state, r.state),
                   progress = COALESCE(g.progress, r.progress),
                   summary = COALESCE(g.summary, r.summary),
                   output = COALESCE(g.output, r.output),
                   failure_class = COALESCE(g.failure_class, r.failure_class),
                   failure_message = COALESCE(g.failure_message, r.failure_message),
                   pid = COALESCE(g.pid, r.pid),
                   ended_at = COALESCE(g.ended_at, r.ended_at)
               FROM given g
               WHERE r.job_id = g.job_id AND r.attempt = g.attempt AND r.rank = g.rank
                 AND r.last_sequence = g.from_sequence
                 AND r.state IN ('assigned', 'prepared', 'running')
                 AND r.attempt = COALESCE((SELECT o.attempt FROM open_jobs o WHERE o.job_id = r.job_id),
                                          (SELECT j.attempt FROM jobs j WHERE j.id = r.job_id))
               RETURNING r.job_id, r.attempt, r.rank, r.state, g.starts_attempt
           ), freed AS (
               DELETE FROM held_ranks h USING stored s
               WHERE h.job_id = s.job_id AND h.attempt = s.attempt AND h.rank = s.rank
                 AND s.state IN ('finished', 'failed', 'stopped')
           ), started AS (
               UPDATE attempts a SET state = 'running', started_at = $1
               FROM stored s
               WHERE s.starts_attempt AND s.state IN ('running', 'finished', 'failed', 'stopped')
                 AND a.job_id = s.job_id AND a.number = s.attempt AND a.state = 'assigned'
           )
           SELECT count(*) AS "count!" FROM stored"#,
        now,
        &jobs,
        &attempts,
        &ranks,
        &from.collect::<Result<Vec<_>>>()?,
        &to.collect::<Result<Vec<_>>>()?,
        &states as &[Option<String>],
        &progress.collect::<Result<Vec<_>>>()? as &[Option<serde_json::Value>],
        &summaries.collect::<Result<Vec<_>>>()? as &[Option<serde_json::Value>],
        &outputs.collect::<Result<Vec<_>>>()? as &[Option<serde_json::Value>],
        &classes as &[Option<String>],
        &messages as &[Option<String>],
        &pids as &[Option<i64>],
        &ends as &[Option<DateTime<Utc>>],
        &starts,
    )
    .fetch_one(tx.sql())
    .await?;
    // One that is missing fails all of them: the transaction is rolled back, and each rank is tried apart.
    if usize::try_from(stored).is_ok_and(|stored| stored == reported.len()) {
        return Ok(());
    }
    match reported.first() {
        None => Ok(()),
        Some(Reported { key, .. }) => Err(StoreError::StaleRank {
            job: key.job,
            attempt: key.attempt,
            rank: key.rank,
        }),
    }
}
