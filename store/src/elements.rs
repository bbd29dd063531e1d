//! Elements of arrays as jobs of their own: they become that shortly before their turn.
//!
//! Invariant: those that are jobs are the first ones of their array, so that what is left is a number: `arrays.to_come`
//! of them, or `arrays.dropped` once they were cancelled. Each change of either is made under the lock of the pipeline.

use marquee_domain::ids::JobId;

use crate::open::Which;
use crate::{Conn, Result, Tx, convert};

/// Makes the next elements of arrays jobs: of each array at most as many as stand beside it. They are queued, or wait
/// where something that their array needs has not ended. An array that failed goes on: so do these. Returns them.
pub async fn insert_elements(tx: &mut Tx, arrays: &[(JobId, u32)]) -> Result<Vec<JobId>> {
    let ids: Vec<i64> = arrays.iter().map(|(array, _)| array.0).collect();
    let counts: Vec<i32> = arrays
        .iter()
        .map(|(_, count)| i32::try_from(*count).unwrap_or(i32::MAX))
        .collect();
    // From the stored row of the array: the spec of a hundred thousand elements is stored once, and none of it travels.
    let rows = sqlx::query_scalar!(
        r#"WITH next AS (
               SELECT a.job_id, a.size - a.to_come AS first, LEAST(a.to_come, g.count) AS count
               FROM unnest($1::bigint[], $2::int[]) AS g (job_id, count) JOIN arrays a ON a.job_id = g.job_id
               WHERE a.to_come > 0 AND g.count > 0
           ), taken AS (
               UPDATE arrays a SET to_come = a.to_come - n.count FROM next n WHERE a.job_id = n.job_id
           ), elements AS (
               INSERT INTO jobs (pipeline_id, position, name, kind, priority, ranks, max_attempts,
                                 created_at, array_job_id, array_index, project)
               SELECT j.pipeline_id, j.position, j.name, j.kind, j.priority, j.ranks, j.max_attempts,
                      j.created_at, j.id, i, j.project
               FROM next n JOIN jobs j ON j.id = n.job_id
               CROSS JOIN LATERAL generate_series(n.first, n.first + n.count - 1) i
               ORDER BY j.id, i
               RETURNING id, array_job_id, max_attempts
           ), opened AS (
               INSERT INTO open_jobs (job_id, array_job_id, state, attempt, last_attempt, needs_left, queued_at)
               SELECT e.id, e.array_job_id, CASE WHEN o.needs_left > 0 THEN 'waiting' ELSE 'queued' END, 0,
                      e.max_attempts, COALESCE(o.needs_left, 0),
                      CASE WHEN o.needs_left > 0 THEN NULL ELSE COALESCE(o.queued_at, j.queued_at, j.created_at) END
               FROM elements e JOIN jobs j ON j.id = e.array_job_id
               LEFT JOIN open_jobs o ON o.job_id = e.array_job_id
           )
           SELECT id AS "id!" FROM elements ORDER BY id"#,
        &ids,
        &counts,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}

/// How many elements of arrays are to come, of those arrays that have any and all that they need.
pub async fn list_to_come(conn: &mut Conn, which: Which<'_>) -> Result<Vec<(JobId, u32)>> {
    let ids = which.ids();
    let rows = sqlx::query!(
        "SELECT a.job_id, a.to_come FROM arrays a LEFT JOIN open_jobs o ON o.job_id = a.job_id
         WHERE a.to_come > 0 AND ($1::bigint[] IS NULL OR a.job_id = ANY ($1))
           -- One that has ended and is not there any more had all.
           AND COALESCE(o.needs_left, 0) = 0
         ORDER BY a.job_id",
        ids.as_deref(),
    )
    .fetch_all(conn.sql())
    .await?;
    let arrays = rows.into_iter().map(|row| {
        let to_come = convert::u32_of("arrays.to_come", row.to_come)?;
        Ok((JobId(row.job_id), to_come))
    });
    arrays.collect()
}

/// What is to come of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub size: u32,
    pub to_come: u32,
}

/// What is to come of an array, also where it waits. None: nothing is, or there is no such array.
pub async fn find_left(conn: &mut Conn, array: JobId) -> Result<Option<Left>> {
    let row = sqlx::query!(
        "SELECT size, to_come FROM arrays WHERE job_id = $1 AND to_come > 0",
        array.0
    )
    .fetch_optional(conn.sql())
    .await?;
    let left = row.map(|row| {
        Ok(Left {
            size: convert::u32_of("arrays.size", row.size)?,
            to_come: convert::u32_of("arrays.to_come", row.to_come)?,
        })
    });
    left.transpose()
}

/// The element `index` of an array.
pub async fn find_element(conn: &mut Conn, array: JobId, index: u32) -> Result<Option<JobId>> {
    // Elements have no names of their own; their place is what people call them by.
    let id = sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE array_job_id = $1 AND array_index = $2",
        array.0,
        // Beyond any index that is stored.
        i32::try_from(index).unwrap_or(i32::MAX),
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(id.map(JobId))
}

/// Cancels what is to come of arrays: it never becomes jobs, unless the array is brought back.
pub async fn mark_elements_dropped(tx: &mut Tx, arrays: &[JobId]) -> Result<()> {
    let ids: Vec<i64> = arrays.iter().map(|array| array.0).collect();
    sqlx::query!(
        "UPDATE arrays SET cancelled = cancelled + to_come, dropped = to_come, to_come = 0
         WHERE job_id = ANY ($1) AND to_come > 0",
        &ids,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// What was dropped of arrays is to come again.
pub async fn mark_elements_to_come(tx: &mut Tx, arrays: &[JobId]) -> Result<()> {
    let ids: Vec<i64> = arrays.iter().map(|array| array.0).collect();
    sqlx::query!(
        "UPDATE arrays SET cancelled = cancelled - dropped, to_come = dropped, dropped = 0
         WHERE job_id = ANY ($1) AND dropped > 0",
        &ids,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
