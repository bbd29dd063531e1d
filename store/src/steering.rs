//! What people ask of jobs and hosts besides a cancel: a hold, an interruption, a host's standing.

use chrono::{DateTime, Utc};
use marquee_domain::end::Interruption;
use marquee_domain::ids::{AttemptNumber, JobId, WorkerId};
use marquee_domain::standing::Standing;

use crate::transitions::At;
use crate::{Conn, Result, Tx, convert};

/// Holds a job that waits or is queued, or an array with its elements; None lets it go. A job that runs by now, or
/// has ended, is left as it is: false.
pub async fn mark_held(
    tx: &mut Tx,
    job: JobId,
    by: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool> {
    // Asked of the state and not read before: of a hold and a placement at once one comes first, and the
    // other finds it.
    let done = sqlx::query!(
        "UPDATE open_jobs
         SET held_by = $2, held_at = CASE WHEN $2::text IS NOT NULL THEN $3::timestamptz END
         WHERE job_id = $1 AND state <> 'running'",
        job.0,
        by,
        now,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Asks running jobs to make room, each at its attempt. Those that are to be cancelled, or make room already, are
/// left as they are. Returns those that were asked.
pub async fn mark_interrupted(
    tx: &mut Tx,
    jobs: &[At],
    cause: Interruption,
    message: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let ids: Vec<i64> = jobs.iter().map(|(job, _)| job.0).collect();
    let attempts = jobs
        .iter()
        .map(|(_, AttemptNumber(number))| convert::int("attempt", *number));
    // Days are of UTC, whatever zone Postgres is set to: the number of times per day must not depend on the
    // host.
    let rows = sqlx::query_scalar!(
        "WITH asked AS (
             UPDATE open_jobs o
             SET interruption = $3, interruption_message = $4,
                 preempted = CASE WHEN $3 <> 'preempted' THEN o.preempted
                                  WHEN o.preempted_on = ($5::timestamptz AT TIME ZONE 'UTC')::date
                                  THEN o.preempted + 1 ELSE 1 END,
                 preempted_on = CASE WHEN $3 = 'preempted'
                                     THEN ($5::timestamptz AT TIME ZONE 'UTC')::date
                                     ELSE o.preempted_on END
             FROM unnest($1::bigint[], $2::int[]) AS g (job_id, attempt)
             WHERE o.job_id = g.job_id AND o.attempt = g.attempt AND o.state = 'running'
               AND NOT o.cancel_requested AND o.interruption IS NULL
             RETURNING o.job_id, o.attempt
         ), told AS (
             INSERT INTO job_events (job_id, attempt, text, at)
             SELECT job_id, attempt, 'makes room (' || $3 || '): ' || $4, $5 FROM asked
         )
         SELECT job_id FROM asked ORDER BY job_id",
        &ids,
        &attempts.collect::<Result<Vec<_>>>()?,
        cause.as_str(),
        message,
        now,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}

/// Workers of this name that have not left, the one that is online first. Locked: of two who decide about one at once,
/// the second sees what the first decided.
pub async fn list_workers_named(
    tx: &mut Tx,
    name: &str,
) -> Result<Vec<(WorkerId, std::result::Result<Standing, String>)>> {
    let rows = sqlx::query!(
        "SELECT id, standing FROM workers WHERE name = $1 AND state <> 'left'
         ORDER BY state <> 'online', last_seen_at DESC, id FOR UPDATE",
        name,
    )
    .fetch_all(tx.sql())
    .await?;
    let workers = rows.into_iter().map(|row| {
        let standing = convert::json("workers.standing", row.standing).map_err(|e| e.to_string());
        (WorkerId(row.id), standing)
    });
    Ok(workers.collect())
}

/// The worker of this name that is online, or was heard last of those that have not left.
pub async fn find_worker_named(conn: &mut Conn, name: &str) -> Result<Option<WorkerId>> {
    // Ordered as `list_workers_named`, so that who is shown is who would be changed.
    let id = sqlx::query_scalar!(
        "SELECT id FROM workers WHERE name = $1 AND state <> 'left'
         ORDER BY state <> 'online', last_seen_at DESC, id LIMIT 1",
        name,
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(id.map(WorkerId))
}

/// Stores what an operator decided about a host.
pub async fn mark_standing(tx: &mut Tx, worker: WorkerId, standing: &Standing) -> Result<()> {
    sqlx::query!(
        "UPDATE workers SET standing = $2 WHERE id = $1",
        worker.0,
        convert::to_document("standing", standing)?,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// When the newest checkpoint of each job was stored, by whichever attempt; without those that have none.
pub async fn list_saved_at(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<(JobId, DateTime<Utc>)>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let rows = sqlx::query!(
        r#"SELECT c.job_id, max(c.created_at) AS "at!"
           FROM checkpoints c WHERE c.job_id = ANY ($1) GROUP BY c.job_id"#,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.job_id), row.at))
        .collect())
}
