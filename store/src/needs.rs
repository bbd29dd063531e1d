//! What the end of jobs does for those that wait for it: a count of what each needs still, kept with it.
//!
//! Guards and locks are as in [`crate::transitions`].

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::spec::Ended;

use crate::{Conn, Result, Tx, convert};

/// What became of jobs because others ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// waiting -> queued. Elements of arrays are not among them: their arrays are.
    pub queued: Vec<JobId>,
    /// Arrays whose elements were queued.
    pub arrays: Vec<JobId>,
    /// Still waiting, for fewer than before.
    pub waiting: Vec<JobId>,
    /// Those that ended in another way than somebody waits for: that job can never run.
    pub missed: Vec<JobId>,
}

/// Takes what `ended` off the needs of those that waited for that end: waiting -> queued for each that has none left,
/// and for the elements of an array that has none left.
pub async fn release(
    tx: &mut Tx,
    ended: &[(JobId, Ended)],
    now: DateTime<Utc>,
) -> Result<Released> {
    let ids: Vec<i64> = ended.iter().map(|(job, _)| job.0).collect();
    let ends: Vec<String> = ended
        .iter()
        .map(|(_, ended)| ended.as_str().to_owned())
        .collect();
    // An array that has all it needs stays waiting, for its elements: these are queued in its place.
    // Counted off and not counted anew: an end costs the same however many other needs there are.
    let rows = sqlx::query!(
        r#"WITH needed AS (
               SELECT n.job_id, n.needs_job_id, n.wanted IN ('finished', g.ended) AS met
               FROM unnest($1::bigint[], $3::text[]) AS g (job_id, ended)
               JOIN job_needs n ON n.needs_job_id = g.job_id
           ), fewer AS (
               SELECT job_id, count(*)::int AS met FROM needed WHERE met GROUP BY job_id
           ), counted AS (
               UPDATE open_jobs o
               SET needs_left = o.needs_left - f.met,
                   state = CASE WHEN o.needs_left = f.met AND j.array_size IS NULL
                                THEN 'queued' ELSE o.state END,
                   queued_at = CASE WHEN o.needs_left = f.met THEN $2::timestamptz END
               FROM fewer f JOIN jobs j ON j.id = f.job_id
               WHERE o.job_id = f.job_id AND o.state = 'waiting'
               RETURNING o.job_id, o.attempt, o.needs_left, j.array_size IS NOT NULL AS is_array
           ), elements AS (
               UPDATE open_jobs o SET state = 'queued', queued_at = $2, needs_left = 0
               FROM counted c
               WHERE c.is_array AND c.needs_left = 0 AND o.array_job_id = c.job_id
                 AND o.state = 'waiting'
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at)
               SELECT job_id, attempt, 'queued', $2 FROM counted WHERE needs_left = 0
           )
           SELECT job_id AS "job_id!", needs_left AS "needs_left?", is_array AS "is_array!" FROM counted
           UNION ALL
           SELECT DISTINCT n.needs_job_id, NULL::int, false
           FROM needed n JOIN open_jobs o ON o.job_id = n.job_id AND o.state = 'waiting'
           WHERE NOT n.met
           ORDER BY 1"#,
        &ids,
        now,
        &ends,
    )
    .fetch_all(tx.sql())
    .await?;
    // Rows of the second half have no count: they name what ended otherwise than somebody waits for.
    let mut released = Released::default();
    for row in rows {
        let list = match (row.needs_left, row.is_array) {
            (None, _) => &mut released.missed,
            (Some(0), false) => &mut released.queued,
            (Some(0), true) => &mut released.arrays,
            (Some(_), _) => &mut released.waiting,
        };
        list.push(JobId(row.job_id));
    }
    Ok(released)
}

/// Counts anew what jobs that wait need still, and their elements with them: something that had ended is open again.
pub async fn recount_needs(tx: &mut Tx, jobs: &[JobId]) -> Result<()> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    // A count of 0 is left alone: that job has all it needs, and an array with none left is at work.
    sqlx::query!(
        "WITH needs AS (
             SELECT g.id, (SELECT count(*)::int FROM need_states n WHERE n.job_id = g.id AND NOT n.met) AS left_over
             FROM unnest($1::bigint[]) AS g (id)
         )
         UPDATE open_jobs o SET needs_left = n.left_over
         FROM needs n
         WHERE (o.job_id = n.id OR o.array_job_id = n.id) AND o.state = 'waiting' AND o.needs_left > 0
           AND o.needs_left <> n.left_over AND n.left_over > 0",
        &ids,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// How an array ended, where it and the last of its elements have.
pub async fn find_array_end(conn: &mut Conn, array: JobId) -> Result<Option<Ended>> {
    // Cancelled for a job that failed is a failure to whoever waits, as `need_states` has it: a clean-up step
    // for failures must run.
    let ended = sqlx::query_scalar!(
        r#"SELECT CASE
               WHEN j.state = 'succeeded' THEN 'succeeded'
               WHEN j.state = 'failed'
                    OR EXISTS (SELECT 1 FROM jobs r WHERE r.id = j.cancelled_for AND r.state = 'failed')
               THEN 'failed' ELSE 'cancelled' END AS "ended!"
           FROM jobs j
           WHERE j.id = $1 AND j.state <> 'open'
             AND NOT EXISTS (SELECT 1 FROM open_jobs o WHERE o.array_job_id = j.id)
             AND NOT EXISTS (SELECT 1 FROM arrays a WHERE a.job_id = j.id AND a.to_come > 0)"#,
        array.0,
    )
    .fetch_optional(conn.sql())
    .await?;
    ended.as_deref().map(convert::ended).transpose()
}
