//! What has ended and whose time has come, by the days that its project keeps it.
//!
//! Invariant: a pipeline goes only when all its jobs have ended long enough ago, nobody keeps it, and no pipeline that
//! stays took an artifact of it: where a kept result came from can be told as long as it is kept.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, JobName, PipelineId};

use crate::{Conn, Result, Tx, convert};

/// Whether any project lets something go.
pub async fn is_wanted(conn: &mut Conn) -> Result<bool> {
    // Asked first, so that a cluster which keeps everything is not gone through each hour.
    let wanted = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM projects WHERE keep_days IS NOT NULL OR keep_log_days IS NOT NULL)
           AS "wanted!""#
    )
    .fetch_one(conn.sql())
    .await?;
    Ok(wanted)
}

/// A pipeline whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aged {
    pub id: PipelineId,
    pub name: JobName,
    /// When the last of its jobs ended.
    pub ended_at: DateTime<Utc>,
    /// Why it stays all the same.
    pub stays: Option<Stays>,
}

/// What keeps a pipeline beyond its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// Somebody said so.
    KeptBy(String),
    /// A job of another pipeline took an artifact of it.
    TakenBy(JobId, PipelineId),
}

/// Looks at the next `limit` pipelines after `after`, by number. Returns those whose time has come, and the last one,
/// None where there are no more.
pub async fn list_aged(
    conn: &mut Conn,
    after: PipelineId,
    now: DateTime<Utc>,
    limit: u32,
) -> Result<(Vec<Aged>, Option<PipelineId>)> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM pipelines WHERE id > $1 ORDER BY id LIMIT $2",
        after.0,
        i64::from(limit),
    )
    .fetch_all(conn.sql())
    .await?;
    // Also where none is old: the next look goes on behind them.
    let last = ids.last().copied().map(PipelineId);
    Ok((list_aged_among(conn, &ids, now).await?, last))
}

/// One pipeline, if its time has come. Ask within the transaction that takes it away, under its lock: a retry, or a
/// new job that takes an artifact of it, may have come in between.
pub async fn find_aged(
    conn: &mut Conn,
    pipeline: PipelineId,
    now: DateTime<Utc>,
) -> Result<Option<Aged>> {
    Ok(list_aged_among(conn, &[pipeline.0], now).await?.pop())
}

async fn list_aged_among(conn: &mut Conn, ids: &[i64], now: DateTime<Utc>) -> Result<Vec<Aged>> {
    // A project that is not stored, or says nothing, keeps its jobs for ever: deleting takes somebody's word.
    let rows = sqlx::query!(
        r#"SELECT p.id, p.name, p.kept_by, e.ended_at AS "ended_at!", t.job_id AS "taker?",
                  t.pipeline_id AS "taker_pipeline?"
           FROM pipelines p
           CROSS JOIN LATERAL (
               -- Elements of arrays end before their array does, or are looked for as open ones below.
               SELECT max(j.finished_at) AS ended_at,
                      bool_and(j.finished_at < $2::timestamptz - r.keep_days * interval '1 day') AS is_old,
                      count(*) FILTER (WHERE j.finished_at IS NULL OR r.keep_days IS NULL) AS staying
               FROM jobs j LEFT JOIN projects r ON r.name = j.project
               WHERE j.pipeline_id = p.id AND j.array_job_id IS NULL) e
           LEFT JOIN LATERAL (
               SELECT u.job_id, u.pipeline_id FROM (
                   SELECT k.id AS job_id, k.pipeline_id
                   FROM jobs j JOIN jobs k ON k.reused_from = j.id
                   WHERE j.pipeline_id = p.id AND k.pipeline_id <> p.id
                   UNION ALL
                   SELECT k.id, k.pipeline_id
                   FROM jobs j
                   JOIN artifacts a ON a.job_id = j.id
                   JOIN job_inputs i ON i.digest = a.digest
                   JOIN jobs k ON k.id = i.job_id
                   WHERE j.pipeline_id = p.id AND k.pipeline_id <> p.id
                     -- Of several with the same contents the first is where it came from.
                     AND NOT EXISTS (SELECT 1 FROM artifacts b
                                     WHERE b.digest = a.digest AND b.job_id < a.job_id)) u
               LIMIT 1) t ON true
           WHERE p.id = ANY ($1) AND e.is_old AND e.staying = 0
             AND NOT EXISTS (SELECT 1 FROM jobs j JOIN open_jobs o ON o.job_id = j.id WHERE j.pipeline_id = p.id)
             AND NOT EXISTS (SELECT 1 FROM jobs j JOIN arrays a ON a.job_id = j.id
                             WHERE j.pipeline_id = p.id AND a.to_come > 0)
             AND NOT EXISTS (SELECT 1 FROM jobs j JOIN held_ranks h ON h.job_id = j.id WHERE j.pipeline_id = p.id)
           ORDER BY p.id"#,
        ids,
        now,
    )
    .fetch_all(conn.sql())
    .await?;
    let aged = rows.into_iter().map(|row| {
        // One column without the other cannot be: both come from one row.
        let taken = row.taker.zip(row.taker_pipeline);
        Ok(Aged {
            id: PipelineId(row.id),
            name: convert::job_name(row.name)?,
            ended_at: row.ended_at,
            stays: match (row.kept_by, taken) {
                (Some(by), _) => Some(Stays::KeptBy(by)),
                (None, Some((job, pipeline))) => {
                    Some(Stays::TakenBy(JobId(job), PipelineId(pipeline)))
                }
                (None, None) => None,
            },
        })
    });
    aged.collect()
}

/// A job whose logs and metrics have had their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgedLogs {
    pub job: JobId,
    pub pipeline: PipelineId,
    /// Number of its newest attempt.
    pub attempt: u32,
    /// For how many days its project keeps them.
    pub keep_log_days: u32,
}

/// Which jobs to look at.
#[derive(Debug, Clone, Copy)]
pub enum LogsOf<'a> {
    /// Those of the pipelines after the first and up to the second.
    Pipelines(PipelineId, PipelineId),
    Jobs(&'a [JobId]),
}

/// Jobs whose logs and metrics have had their time, and that have any. What somebody keeps keeps those too.
pub async fn list_aged_logs(
    conn: &mut Conn,
    of: LogsOf<'_>,
    now: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<AgedLogs>> {
    let (after, up_to, jobs) = match of {
        LogsOf::Pipelines(after, up_to) => (after.0, up_to.0, None),
        LogsOf::Jobs(jobs) => (0, i64::MAX, Some(jobs)),
    };
    let jobs: Option<Vec<i64>> = jobs.map(|jobs| jobs.iter().map(|job| job.0).collect());
    // What was kept by somebody keeps its logs: they are part of what that person wanted.
    let rows = sqlx::query!(
        r#"SELECT j.id, j.pipeline_id, j.attempt, r.keep_log_days AS "keep_log_days!"
           FROM pipelines p
           JOIN jobs j ON j.pipeline_id = p.id
           JOIN projects r ON r.name = j.project
           WHERE p.id > $1 AND p.id <= $2 AND p.kept_by IS NULL
             AND ($5::bigint[] IS NULL OR j.id = ANY ($5))
             AND j.finished_at < $3::timestamptz - r.keep_log_days * interval '1 day'
             AND NOT EXISTS (SELECT 1 FROM held_ranks h WHERE h.job_id = j.id)
             AND (EXISTS (SELECT 1 FROM log_lines l WHERE l.job_id = j.id)
                  OR EXISTS (SELECT 1 FROM metrics m WHERE m.job_id = j.id))
           ORDER BY j.id LIMIT $4"#,
        after,
        up_to,
        now,
        i64::from(limit),
        jobs.as_deref(),
    )
    .fetch_all(conn.sql())
    .await?;
    let aged = rows.into_iter().map(|row| {
        Ok(AgedLogs {
            job: JobId(row.id),
            pipeline: PipelineId(row.pipeline_id),
            attempt: convert::u32_of("jobs.attempt", row.attempt)?,
            keep_log_days: convert::u32_of("projects.keep_log_days", row.keep_log_days)?,
        })
    });
    aged.collect()
}

/// Keeps a pipeline, or lets it age again; None: nobody keeps it. False where there is no such pipeline.
pub async fn mark_kept(
    tx: &mut Tx,
    pipeline: PipelineId,
    by: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE pipelines
         SET kept_by = $2, kept_at = CASE WHEN $2::text IS NOT NULL THEN $3::timestamptz END
         WHERE id = $1",
        pipeline.0,
        by,
        now,
    )
    .execute(tx.sql())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Who keeps a pipeline, and since when.
pub async fn find_keeper(
    conn: &mut Conn,
    pipeline: PipelineId,
) -> Result<Option<(String, DateTime<Utc>)>> {
    let row = sqlx::query!(
        "SELECT kept_by, kept_at FROM pipelines WHERE id = $1",
        pipeline.0
    )
    .fetch_optional(conn.sql())
    .await?;
    Ok(row.and_then(|row| row.kept_by.zip(row.kept_at)))
}

/// Notes which artifacts new jobs name. Each is locked until the transaction ends, so that whoever takes one away
/// either sees these jobs, or was there before them; returns those that are not there, which must refuse the jobs.
pub async fn insert_inputs(tx: &mut Tx, inputs: &[(JobId, Digest)]) -> Result<Vec<Digest>> {
    if inputs.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<i64> = inputs.iter().map(|(job, _)| job.0).collect();
    let digests: Vec<String> = inputs
        .iter()
        .map(|(_, digest)| digest.to_string())
        .collect();
    // KEY SHARE: many who submit may name one artifact at once; only whoever takes it away waits for them,
    // and they for that one. In order, so that no two wait for each other.
    let there = sqlx::query_scalar!(
        "SELECT digest FROM artifacts WHERE digest = ANY ($1) ORDER BY job_id FOR KEY SHARE",
        &digests,
    )
    .fetch_all(tx.sql())
    .await?;
    // Those that are missing are stored too: the caller refuses the jobs, and all of it is rolled back.
    sqlx::query!(
        "INSERT INTO job_inputs (job_id, digest)
         SELECT DISTINCT job_id, digest FROM unnest($1::bigint[], $2::text[]) AS g (job_id, digest)",
        &jobs,
        &digests,
    )
    .execute(tx.sql())
    .await?;
    let missing = inputs
        .iter()
        .filter(|(_, digest)| !there.iter().any(|known| known == digest.as_str()));
    Ok(missing.map(|(_, digest)| digest.clone()).collect())
}

/// Locks the artifacts of jobs until the transaction ends: nobody begins to name one meanwhile.
pub async fn lock_artifacts(tx: &mut Tx, jobs: &[JobId]) -> Result<()> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    sqlx::query_scalar!(
        "SELECT job_id FROM artifacts WHERE job_id = ANY ($1) ORDER BY job_id FOR UPDATE",
        &ids,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(())
}
