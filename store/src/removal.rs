//! Taking away what ended: pipelines with all that is stored of them, and artifacts by themselves.
//!
//! Nothing is taken away that somebody still needs: the caller asks for that first, in the same transaction and under
//! the pipeline's lock. Not here: the files, which belong to all artifacts that name them.

use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, PipelineId};

use crate::{Conn, Result, Tx, audit, convert};

/// Who keeps something from being taken away: the first so many are named.
const NAMED_MAX: i64 = 10;
/// Rows of logs and metrics deleted in one statement.
const ROWS_AT_ONCE: i64 = 20_000;

/// Jobs of a pipeline that have not ended, and arrays that have and whose elements have not.
pub async fn list_open(conn: &mut Conn, pipeline: PipelineId) -> Result<Vec<JobId>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM (
               SELECT o.job_id AS id FROM open_jobs o JOIN jobs j ON j.id = o.job_id WHERE j.pipeline_id = $1
               UNION
               SELECT a.job_id FROM arrays a JOIN jobs j ON j.id = a.job_id
               WHERE a.to_come > 0 AND j.pipeline_id = $1) o
           ORDER BY id LIMIT $2"#,
        pipeline.0,
        NAMED_MAX,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Jobs of a pipeline of which something may be left on a worker, though they have ended.
pub async fn list_held(conn: &mut Conn, pipeline: PipelineId) -> Result<Vec<JobId>> {
    let ids = sqlx::query_scalar!(
        "SELECT DISTINCT h.job_id FROM held_ranks h JOIN jobs j ON j.id = h.job_id
         WHERE j.pipeline_id = $1 ORDER BY h.job_id LIMIT $2",
        pipeline.0,
        NAMED_MAX,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Open jobs outside of a pipeline that name one of these artifacts by its digest.
pub async fn list_users(
    conn: &mut Conn,
    artifacts: &[Digest],
    outside: Option<PipelineId>,
) -> Result<Vec<JobId>> {
    let digests: Vec<String> = artifacts.iter().map(ToString::to_string).collect();
    let ids = sqlx::query_scalar!(
        // An element is asked by its array's spec, which is its own.
        r#"SELECT DISTINCT o.job_id
           FROM open_jobs o
           JOIN jobs j ON j.id = COALESCE(o.array_job_id, o.job_id)
           CROSS JOIN LATERAL jsonb_each(
               CASE WHEN jsonb_typeof(j.spec -> 'inputs') = 'object' THEN j.spec -> 'inputs' ELSE '{}' END) i
           WHERE ($2::bigint IS NULL OR j.pipeline_id <> $2)
             AND i.value ->> 'artifact' = ANY ($1)
           ORDER BY o.job_id LIMIT $3"#,
        &digests,
        outside.map(|pipeline| pipeline.0),
        NAMED_MAX,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Open jobs that need one of these jobs' artifacts within their own pipelines.
pub async fn list_dependents(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<JobId>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let ids = sqlx::query_scalar!(
        "SELECT DISTINCT o.job_id
         FROM job_needs n JOIN open_jobs o ON COALESCE(o.array_job_id, o.job_id) = n.job_id
         WHERE n.needs_job_id = ANY ($1) ORDER BY o.job_id LIMIT $2",
        &ids,
        NAMED_MAX,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// An artifact that would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    pub job: JobId,
    pub pipeline: PipelineId,
    pub digest: Digest,
    pub size_bytes: u64,
}

/// The artifacts of a pipeline, or those with a digest.
pub async fn list_going(
    conn: &mut Conn,
    pipeline: Option<PipelineId>,
    digest: Option<&Digest>,
) -> Result<Vec<Going>> {
    // Neither one named is nothing, and must not be everything.
    let rows = sqlx::query!(
        "SELECT a.job_id, j.pipeline_id, a.digest, a.size_bytes
         FROM artifacts a JOIN jobs j ON j.id = a.job_id
         WHERE ($1::bigint IS NOT NULL OR $2::text IS NOT NULL)
           AND ($1::bigint IS NULL OR j.pipeline_id = $1) AND ($2::text IS NULL OR a.digest = $2)
         ORDER BY a.job_id",
        pipeline.map(|id| id.0),
        digest.map(Digest::as_str),
    )
    .fetch_all(conn.sql())
    .await?;
    let going = rows.into_iter().map(|row| {
        Ok(Going {
            job: JobId(row.job_id),
            pipeline: PipelineId(row.pipeline_id),
            digest: convert::digest(row.digest)?,
            size_bytes: convert::u64_of("artifacts.size_bytes", row.size_bytes)?,
        })
    });
    going.collect()
}

/// Artifacts whose data may not be used any more on the day `today`, as the summary of the job that made them says.
pub async fn list_expired(
    conn: &mut Conn,
    today: chrono::NaiveDate,
    limit: u32,
) -> Result<Vec<(JobId, Digest)>> {
    // As text, as in `reuse`: what is no date must not fail the statement. A job that took an artifact over
    // has no rank to say so; the one that did the work has.
    let rows = sqlx::query!(
        "SELECT a.job_id, a.digest
         FROM artifacts a
         JOIN jobs j ON j.id = a.job_id
         JOIN attempt_ranks r ON r.job_id = COALESCE(j.reused_from, a.job_id) AND r.rank = 0
         WHERE r.summary #>> '{source,use_until}' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$'
           AND r.summary #>> '{source,use_until}' < to_char($1::date, 'YYYY-MM-DD')
         GROUP BY a.job_id, a.digest
         ORDER BY a.job_id LIMIT $2",
        today,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    let expired = rows
        .into_iter()
        .map(|row| Ok((JobId(row.job_id), convert::digest(row.digest)?)));
    expired.collect()
}

/// Digests of the files that jobs' artifacts, checkpoints and outputs name.
pub async fn list_files(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<Digest>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    // What is no digest names no file of ours, and what is no list names none at all: manifests of other
    // versions do not stop a removal.
    let digests = sqlx::query_scalar!(
        r#"SELECT DISTINCT f ->> 'digest' AS "digest!"
           FROM (SELECT manifest FROM artifacts WHERE job_id = ANY ($1)
                 UNION ALL SELECT manifest FROM checkpoints WHERE job_id = ANY ($1)
                 UNION ALL SELECT output FROM attempt_ranks WHERE job_id = ANY ($1)) m
           CROSS JOIN LATERAL jsonb_array_elements(
               CASE WHEN jsonb_typeof(m.manifest -> 'files') = 'array' THEN m.manifest -> 'files' ELSE '[]' END) f
           WHERE f ->> 'digest' ~ '^[0-9a-f]{64}$'"#,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    digests.into_iter().map(convert::digest).collect()
}

/// Which of `digests` no stored manifest names.
pub async fn list_unnamed(conn: &mut Conn, digests: &[Digest]) -> Result<Vec<Digest>> {
    let all: Vec<String> = digests.iter().map(ToString::to_string).collect();
    // Of every manifest there is: files are shared, and what one job lets go another one may need.
    let unnamed = sqlx::query_scalar!(
        r#"SELECT d AS "digest!" FROM unnest($1::text[]) d
           EXCEPT
           SELECT f ->> 'digest'
           FROM (SELECT manifest FROM artifacts
                 UNION ALL SELECT manifest FROM checkpoints
                 UNION ALL SELECT output FROM attempt_ranks WHERE output IS NOT NULL) m
           CROSS JOIN LATERAL jsonb_array_elements(
               CASE WHEN jsonb_typeof(m.manifest -> 'files') = 'array' THEN m.manifest -> 'files' ELSE '[]' END) f
           WHERE f ->> 'digest' = ANY ($1)"#,
        &all,
    )
    .fetch_all(conn.sql())
    .await?;
    unnamed.into_iter().map(convert::digest).collect()
}

/// The jobs of a pipeline, its arrays' elements among them.
pub async fn list_all_jobs(conn: &mut Conn, pipeline: PipelineId) -> Result<Vec<JobId>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE pipeline_id = $1 ORDER BY id",
        pipeline.0
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// Deletes some of the logs and metrics of jobs. False: none are left.
pub async fn delete_some_rows(tx: &mut Tx, jobs: &[JobId]) -> Result<bool> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    // By place (`ctid`), since DELETE has no LIMIT: all rows of a long training at once would take longer
    // than a statement may.
    let logs = sqlx::query!(
        "DELETE FROM log_lines WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM log_lines WHERE job_id = ANY ($1) LIMIT $2))",
        &ids,
        ROWS_AT_ONCE,
    )
    .execute(tx.sql())
    .await?;
    let metrics = sqlx::query!(
        "DELETE FROM metrics WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM metrics WHERE job_id = ANY ($1) LIMIT $2))",
        &ids,
        ROWS_AT_ONCE,
    )
    .execute(tx.sql())
    .await?;
    Ok(logs.rows_affected() + metrics.rows_affected() > 0)
}

/// Deletes a pipeline whose jobs have all ended, with all that is stored of them but logs and metrics, which go
/// before. What another pipeline's job took from one of them is its own by now.
pub async fn delete_pipeline(tx: &mut Tx, pipeline: PipelineId) -> Result<()> {
    // Before anything else goes: its lines are found by its jobs.
    audit::forget_pipeline(tx, pipeline).await?;
    // These jobs did not do the work themselves, but the artifact is theirs by now; only where it came from
    // is forgotten.
    sqlx::query!(
        "UPDATE jobs SET reused_from = NULL
         WHERE pipeline_id <> $1 AND reused_from IN (SELECT id FROM jobs WHERE pipeline_id = $1)",
        pipeline.0,
    )
    .execute(tx.sql())
    .await?;
    // Foreign keys are looked at when the statement ends, so that the order within it does not matter.
    sqlx::query!(
        "WITH gone AS (SELECT id FROM jobs WHERE pipeline_id = $1),
              a AS (DELETE FROM job_events WHERE job_id IN (SELECT id FROM gone)),
              b AS (DELETE FROM log_lines WHERE job_id IN (SELECT id FROM gone)),
              c AS (DELETE FROM metrics WHERE job_id IN (SELECT id FROM gone)),
              d AS (DELETE FROM checkpoints WHERE job_id IN (SELECT id FROM gone)),
              e AS (DELETE FROM artifacts WHERE job_id IN (SELECT id FROM gone)),
              f AS (DELETE FROM attempt_ranks WHERE job_id IN (SELECT id FROM gone)),
              g AS (DELETE FROM attempts WHERE job_id IN (SELECT id FROM gone)),
              h AS (DELETE FROM job_needs WHERE job_id IN (SELECT id FROM gone)),
              i AS (DELETE FROM arrays WHERE job_id IN (SELECT id FROM gone)),
              j AS (DELETE FROM job_inputs WHERE job_id IN (SELECT id FROM gone)),
              k AS (DELETE FROM job_forecasts WHERE job_id IN (SELECT id FROM gone)),
              l AS (DELETE FROM jobs WHERE pipeline_id = $1)
         DELETE FROM pipelines WHERE id = $1",
        pipeline.0,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Deletes the artifacts of jobs. Their jobs keep what else is known of them.
pub async fn delete_artifacts(tx: &mut Tx, jobs: &[JobId]) -> Result<()> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    // What a rank put forward would keep the files as the artifact did.
    sqlx::query!(
        "UPDATE attempt_ranks SET output = NULL WHERE job_id = ANY ($1)",
        &ids
    )
    .execute(tx.sql())
    .await?;
    sqlx::query!("DELETE FROM artifacts WHERE job_id = ANY ($1)", &ids)
        .execute(tx.sql())
        .await?;
    Ok(())
}
