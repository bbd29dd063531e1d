//! Attempts: one row for each try at a job. The live one is that of the number which the job's row in
//! `open_jobs` has while it runs: a job cannot have two.

use chrono::{DateTime, Utc};
use marquee_domain::end::AttemptEnd;
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId, WorkerId};
use marquee_domain::job::AttemptStateName;
use marquee_domain::resources::Device;
use sqlx::postgres::PgQueryResult;
use uuid::Uuid;

use crate::checkpoints::CheckpointKey;
use crate::{Conn, Result, StoreError, Tx, convert};

/// The next attempt of a queued job, with its ranks.
#[derive(Debug, Clone)]
pub struct NewAttempt<'a> {
    pub job: JobId,
    /// Number of the newest attempt so far, 0 before the first.
    pub after: u32,
    /// The checkpoint it goes on from.
    pub resume: Option<CheckpointKey>,
    /// By rank, from 0.
    pub ranks: Vec<NewRank<'a>>,
    /// What the job's history says.
    pub text: String,
}

/// A rank to store, in state assigned.
#[derive(Debug, Clone, Copy)]
pub struct NewRank<'a> {
    pub worker: WorkerId,
    pub local_rank: u32,
    pub devices: &'a [Device],
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
    /// The obstacle that its job had last before it was placed; None: it had none, an earlier release placed it, or the
    /// reader has no use for it.
    pub waited_for: Option<serde_json::Value>,
}

/// Locks what is left of jobs' attempts until the end of the transaction: whoever is about to place a newer one holds
/// these locks. A report of such a rank is then stored whole before that placement, or finds it and is refused.
pub(crate) async fn lock_ranks_left(tx: &mut Tx, jobs: &[i64]) -> Result<()> {
    // In the order of the keys, as everybody locks ranks.
    sqlx::query_scalar!(
        "SELECT rank FROM attempt_ranks
         WHERE job_id = ANY ($1) AND state IN ('assigned', 'prepared', 'running')
         ORDER BY job_id, attempt, rank
         FOR NO KEY UPDATE",
        jobs,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(())
}

/// queued -> running, each with its next attempt and the ranks of that. Returns the jobs that were queued at
/// that attempt; the others changed since somebody looked.
pub async fn insert_attempts(
    tx: &mut Tx,
    new: &[NewAttempt<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    // A first attempt has nobody before it, so that most placements lock nothing here.
    let again: Vec<i64> = new
        .iter()
        .filter(|a| a.after > 0)
        .map(|a| a.job.0)
        .collect();
    if !again.is_empty() {
        lock_ranks_left(tx, &again).await?;
    }
    // All placements of a round go into one statement, as columns: it costs the same few round trips for one
    // job as for a thousand, and a job is never without its ranks, its held devices or its line of history.
    let jobs: Vec<i64> = new.iter().map(|attempt| attempt.job.0).collect();
    let before = new.iter().map(|a| convert::int("attempt", a.after));
    let from_attempt = new.iter().map(|a| {
        let key = a
            .resume
            .map(|key| convert::int("resumed_from_attempt", key.attempt.0));
        key.transpose()
    });
    let from_step = new.iter().map(|a| {
        let key = a
            .resume
            .map(|key| convert::bigint("resumed_from_step", key.step));
        key.transpose()
    });
    let texts: Vec<String> = new.iter().map(|attempt| attempt.text.clone()).collect();

    let ranks = || {
        new.iter().flat_map(|attempt| {
            (0..)
                .zip(&attempt.ranks)
                .map(move |(rank, of)| (attempt, rank, of))
        })
    };
    let rank_jobs: Vec<i64> = ranks().map(|(attempt, _, _)| attempt.job.0).collect();
    let numbers: Vec<i32> = ranks().map(|(_, rank, _)| rank).collect();
    let workers: Vec<Uuid> = ranks().map(|(_, _, of)| of.worker.0).collect();
    let local = ranks().map(|(_, _, of)| convert::int("local_rank", of.local_rank));
    let devices = ranks().map(|(_, _, of)| convert::to_json("devices", &of.devices));
    // A hold is asked for once more: it may have come after the round was planned.
    let rows = sqlx::query_scalar!(
        r#"WITH given AS (
               SELECT * FROM unnest($2::bigint[], $3::int[], $4::int[], $5::bigint[], $6::text[])
                   AS g (job_id, attempt, from_attempt, from_step, text)
           ), placed AS (
               UPDATE open_jobs o
               SET state = 'running', attempt = o.attempt + 1, not_before = NULL, obstacle = NULL,
                   started_at = $1, failure_class = NULL, failure_message = NULL,
                   interruption = NULL, interruption_message = NULL, idle_since = NULL
               FROM given g
               WHERE o.job_id = g.job_id AND o.attempt = g.attempt AND o.state = 'queued'
                 AND o.held_by IS NULL
                 AND NOT EXISTS (SELECT FROM open_jobs y
                                 WHERE y.job_id = o.array_job_id AND y.held_by IS NOT NULL)
               RETURNING o.job_id, o.attempt, o.array_job_id
           ), attempted AS (
               INSERT INTO attempts (job_id, number, state, resumed_from_attempt, resumed_from_step,
                                     created_at, waited_for)
               -- Of before this statement: what it waited for is gone from the row that it leaves.
               SELECT p.job_id, p.attempt, 'assigned', g.from_attempt, g.from_step, $1, w.obstacle
               FROM placed p JOIN given g ON g.job_id = p.job_id JOIN open_jobs w ON w.job_id = p.job_id
           ), ranked AS (
               INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state)
               SELECT p.job_id, p.attempt, r.rank, r.worker_id, r.local_rank, r.devices, 'assigned'
               FROM placed p
               JOIN unnest($7::bigint[], $8::int[], $9::uuid[], $10::int[], $11::jsonb[])
                   AS r (job_id, rank, worker_id, local_rank, devices) ON r.job_id = p.job_id
               RETURNING job_id, attempt, rank, worker_id
           ), held AS (
               INSERT INTO held_ranks (job_id, attempt, rank, worker_id)
               SELECT job_id, attempt, rank, worker_id FROM ranked
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at)
               SELECT p.job_id, p.attempt, g.text, $1
               FROM placed p JOIN given g ON g.job_id = p.job_id
           ), begun AS (
               -- An array began when its first element did.
               UPDATE open_jobs a SET started_at = $1
               WHERE a.started_at IS NULL
                 AND a.job_id IN (SELECT array_job_id FROM placed WHERE array_job_id IS NOT NULL)
           )
           SELECT job_id AS "job_id!" FROM placed ORDER BY job_id"#,
        now,
        &jobs,
        &before.collect::<Result<Vec<_>>>()?,
        &from_attempt.collect::<Result<Vec<Option<i32>>>>()? as &[Option<i32>],
        &from_step.collect::<Result<Vec<Option<i64>>>>()? as &[Option<i64>],
        &texts,
        &rank_jobs,
        &numbers,
        &workers,
        &local.collect::<Result<Vec<_>>>()?,
        &devices.collect::<Result<Vec<_>>>()?,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}

/// Every attempt of a job, oldest first.
pub async fn list_attempts(conn: &mut Conn, job: JobId) -> Result<Vec<Attempt>> {
    let rows = sqlx::query_as!(
        RawAttempt,
        "SELECT number, state, rendezvous_host, rendezvous_port, standby_host, standby_port,
                resumed_from_attempt, resumed_from_step, failure_class, failure_message,
                created_at, started_at, finished_at, waited_for
         FROM attempts WHERE job_id = $1 ORDER BY number",
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Attempt::try_from).collect()
}

/// The attempt of a job that has not ended; there is at most one.
pub async fn find_live_attempt(conn: &mut Conn, job: JobId) -> Result<Option<Attempt>> {
    // By the number that the open job has: an older attempt that was never ended properly is not taken for
    // it.
    let row = sqlx::query_as!(
        RawAttempt,
        "SELECT a.number, a.state, a.rendezvous_host, a.rendezvous_port, a.standby_host, a.standby_port,
                a.resumed_from_attempt, a.resumed_from_step, a.failure_class, a.failure_message,
                a.created_at, a.started_at, a.finished_at, a.waited_for
         FROM open_jobs o JOIN attempts a ON a.job_id = o.job_id AND a.number = o.attempt
         WHERE o.job_id = $1 AND a.state IN ('assigned', 'running')",
        job.0,
    )
    .fetch_optional(conn.sql())
    .await?;
    row.map(Attempt::try_from).transpose()
}

/// Those running jobs among `jobs` whose live attempt may have to move: all ranks are prepared, one
/// has ended or lies on a worker that is not online, a cancel was asked for, the job's time is up, or it was
/// assigned before `assigned_before` and is still being prepared. Ranks that it has gone on without count no
/// more.
pub async fn list_jobs_to_advance(
    conn: &mut Conn,
    jobs: &[JobId],
    now: DateTime<Utc>,
    assigned_before: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    // `number_in` is null for what is no number: a spec of another version must not fail the statement for
    // all jobs.
    // Asked of the rows and not remembered from reports, so that a round that was missed, or a coordinator
    // that has just taken over, comes to the same jobs.
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let ids = sqlx::query_scalar!(
        r#"SELECT o.job_id
           FROM open_jobs o
           JOIN attempts a ON a.job_id = o.job_id AND a.number = o.attempt
           JOIN jobs j ON j.id = o.job_id
           LEFT JOIN jobs y ON y.id = j.array_job_id
           WHERE o.job_id = ANY ($3) AND o.state = 'running' AND a.state IN ('assigned', 'running')
             AND (o.cancel_requested OR o.interruption IS NOT NULL
                  OR number_in(COALESCE(j.spec, y.spec) #>> '{sharing,deadline}')
                     <= extract(epoch FROM $1::timestamptz)
                  OR (a.state = 'assigned' AND a.created_at <= $2)
                  OR (a.state = 'assigned' AND NOT EXISTS (
                          SELECT 1 FROM attempt_ranks r
                          WHERE r.job_id = a.job_id AND r.attempt = a.number
                            AND r.state = 'assigned'))
                  OR a.started_at + make_interval(
                         -- Nobody waits longer than a century, and more fits no interval.
                         secs => LEAST(number_in(COALESCE(j.spec, y.spec) ->> 'timeout_s'), 3155760000)) <= $1
                  OR EXISTS (
                          SELECT 1 FROM attempt_ranks r JOIN workers w ON w.id = r.worker_id
                          WHERE r.job_id = a.job_id AND r.attempt = a.number
                            AND r.lost_at IS NULL
                            AND (r.state IN ('finished', 'failed', 'stopped')
                                 OR w.state <> 'online')))
           ORDER BY o.job_id"#,
        now,
        assigned_before,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Stores where the ranks of a live attempt will find each other.
pub async fn mark_rendezvous(
    tx: &mut Tx,
    job: JobId,
    number: AttemptNumber,
    rendezvous: &Rendezvous,
) -> Result<()> {
    // Only before the start: ranks that were told to start have the address already, and another one would
    // part them.
    let done = sqlx::query!(
        "UPDATE attempts SET rendezvous_host = $3, rendezvous_port = $4
         WHERE job_id = $1 AND number = $2 AND state = 'assigned'",
        job.0,
        convert::int("attempt", number.0)?,
        rendezvous.host,
        i32::from(rendezvous.port),
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, job, number)
}

/// Stores where the ranks of a live attempt find each other once the first place is lost.
pub async fn mark_standby(
    tx: &mut Tx,
    job: JobId,
    number: AttemptNumber,
    standby: &Rendezvous,
) -> Result<()> {
    // The same holds here: ranks get both addresses with their order to start.
    let done = sqlx::query!(
        "UPDATE attempts SET standby_host = $3, standby_port = $4
         WHERE job_id = $1 AND number = $2 AND state = 'assigned'",
        job.0,
        convert::int("attempt", number.0)?,
        standby.host,
        i32::from(standby.port),
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, job, number)
}

/// assigned -> running: every rank may start.
pub async fn mark_attempt_running(
    tx: &mut Tx,
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
    .execute(tx.sql())
    .await?;
    one_row(&done, job, number)
}

/// assigned or running -> its end.
pub async fn mark_attempt_ended(
    tx: &mut Tx,
    job: JobId,
    number: AttemptNumber,
    end: &AttemptEnd,
    now: DateTime<Utc>,
) -> Result<()> {
    // An interruption has no class of failure: it costs the job nothing, and is told apart by its own column.
    let (class, interruption) = match end {
        AttemptEnd::Succeeded | AttemptEnd::Cancelled => (None, None),
        AttemptEnd::Failed(failure) => (Some(failure.class.as_str()), None),
        AttemptEnd::Interrupted { cause, .. } => (None, Some(cause.as_str())),
    };
    // The first end that is written stays. Of two verdicts at once the second finds no row.
    let done = sqlx::query!(
        "UPDATE attempts
         SET state = $3, finished_at = $4, failure_class = $5, failure_message = $6,
             interruption = $7
         WHERE job_id = $1 AND number = $2 AND state IN ('assigned', 'running')",
        job.0,
        convert::int("attempt", number.0)?,
        end.state().as_str(),
        now,
        class,
        end.message(),
        interruption,
    )
    .execute(tx.sql())
    .await?;
    one_row(&done, job, number)
}

fn one_row(done: &PgQueryResult, job: JobId, number: AttemptNumber) -> Result<()> {
    // No row is never passed over in silence: whoever asked believes in a state that is not there any more.
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::StaleAttempt {
            job,
            attempt: number.0,
        })
    }
}

pub(crate) struct RawAttempt {
    pub(crate) number: i32,
    pub(crate) state: String,
    pub(crate) rendezvous_host: Option<String>,
    pub(crate) rendezvous_port: Option<i32>,
    pub(crate) standby_host: Option<String>,
    pub(crate) standby_port: Option<i32>,
    pub(crate) resumed_from_attempt: Option<i32>,
    pub(crate) resumed_from_step: Option<i64>,
    pub(crate) failure_class: Option<String>,
    pub(crate) failure_message: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
    pub(crate) waited_for: Option<serde_json::Value>,
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
            waited_for: raw.waited_for,
        })
    }
}

/// The two columns of a rendezvous; both are null before it is known.
pub(crate) fn rendezvous(host: Option<String>, port: Option<i32>) -> Result<Option<Rendezvous>> {
    let (Some(host), Some(port)) = (host, port) else {
        return Ok(None);
    };
    // A port that does not fit was written by hand, or by a version that keeps something else there.
    let port =
        u16::try_from(port).map_err(|_| convert::unreadable("attempts.rendezvous_port", port))?;
    Ok(Some(Rendezvous { host, port }))
}
