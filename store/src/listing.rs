//! Which jobs a person looks for: by state, kind, words and worker. Here only their ids are found, from narrow rows;
//! what is shown of them is read afterwards ([`jobs::list_jobs`](crate::jobs::list_jobs)), so that a filter that lets
//! few of many jobs through costs little. Where such a filter names few from the outset, they are gathered first
//! (`source.rs`), and the others never looked at.

mod source;

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;

use self::source::{Source, Workers, pattern};
use crate::jobs::JobFilter;
use crate::{Conn, Result, convert};

/// By how much more is looked at each time that too few of what was looked at match, and at most.
const CANDIDATES_GROWTH: usize = 4;
const CANDIDATES_MAX: usize = 10_000;

/// How many of the newest jobs are looked at to count and list those that ended.
const ENDED_LOOKED_AT: i64 = 20_000;

/// What a person looks for, beside what a [`JobFilter`] says. Elements of arrays are found where their array is named.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Stands in the name of the job or of its pipeline.
    pub text: Option<String>,
    /// Its newest attempt has or had a rank there.
    pub worker_name: Option<String>,
}

/// The newest `limit` jobs, newest first.
pub async fn list_job_ids(
    conn: &mut Conn,
    filter: &JobFilter,
    wanted: &Wanted,
    limit: usize,
) -> Result<Vec<JobId>> {
    let workers = match &wanted.worker_name {
        Some(name) => match Workers::find(conn, name).await? {
            Some(workers) => Some(workers),
            None => return Ok(vec![]),
        },
        None => None,
    };
    let source = Source::find(conn, filter, wanted).await?;
    let mut found: Vec<i64> = Vec::new();
    let mut before = filter.before.map(|id| id.0);
    let mut size = limit.max(1);
    while found.len() < limit {
        let asked = Asked {
            before,
            among: source.next(conn, before, size).await?,
            limit: limit - found.len(),
        };
        let is_last = asked.among.as_ref().is_none_or(|ids| ids.len() < size);
        before = asked.among.as_ref().and_then(|ids| ids.last().copied());
        if asked.among.as_ref().is_none_or(|ids| !ids.is_empty()) {
            found.extend(list_matching(conn, filter, wanted, workers.as_ref(), &asked).await?);
        }
        if is_last {
            break;
        }
        // What lets few through is asked for more at a time: few statements, and never all rows for one page.
        size = (size * CANDIDATES_GROWTH).min(CANDIDATES_MAX);
    }
    Ok(found.into_iter().map(JobId).collect())
}

/// A piece of a listing.
#[derive(Debug)]
struct Asked {
    before: Option<i64>,
    /// None: all.
    among: Option<Vec<i64>>,
    limit: usize,
}

async fn list_matching(
    conn: &mut Conn,
    filter: &JobFilter,
    wanted: &Wanted,
    workers: Option<&Workers>,
    asked: &Asked,
) -> Result<Vec<i64>> {
    let states: Option<Vec<String>> = filter
        .states
        .as_ref()
        .map(|states| states.iter().map(|s| s.as_str().to_owned()).collect());
    let kinds: Option<Vec<String>> = filter
        .kinds
        .as_ref()
        .map(|kinds| kinds.iter().map(|k| k.as_str().to_owned()).collect());
    let ids = sqlx::query_scalar!(
        r#"SELECT j.id
           FROM jobs j
           JOIN pipelines p ON p.id = j.pipeline_id
           LEFT JOIN LATERAL (
               -- Job by job: Postgres would rather read all that are open, of which there may be a million.
               SELECT w.state, w.attempt FROM open_jobs w WHERE w.job_id = j.id OFFSET 0
           ) o ON true
           WHERE ($1::bigint IS NULL OR j.pipeline_id = $1)
             AND CASE WHEN $2::bigint IS NULL THEN j.array_job_id IS NULL ELSE j.array_job_id = $2 END
             AND ($3::text[] IS NULL OR
                  CASE WHEN o.state IS NULL THEN j.state
                       -- An array whose elements have begun runs.
                       WHEN o.state = 'waiting' AND j.array_size IS NOT NULL AND (
                            EXISTS (SELECT FROM arrays n WHERE n.job_id = j.id AND n.succeeded > 0)
                            OR EXISTS (SELECT FROM held_ranks h JOIN open_jobs e ON e.job_id = h.job_id
                                       WHERE e.array_job_id = j.id AND e.state = 'running'))
                       THEN 'running'
                       ELSE o.state END = ANY ($3))
             AND ($4::text[] IS NULL OR j.kind = ANY ($4))
             AND ($5::text IS NULL OR j.name ILIKE $5 OR p.name ILIKE $5)
             AND ($6::uuid[] IS NULL OR EXISTS (
                  SELECT FROM attempt_ranks r
                  WHERE r.job_id = j.id AND r.attempt = COALESCE(o.attempt, j.attempt) AND r.worker_id = ANY ($6)
                  -- Asked of each job: Postgres would rather gather all ranks that the worker ever had.
                  OFFSET 0))
             AND ($7::bigint IS NULL OR j.id < $7)
             AND ($9::bigint[] IS NULL OR j.id = ANY ($9))
             AND ($10::text[] IS NULL OR j.project = ANY ($10))
             AND ($11::bigint IS NULL OR j.id BETWEEN $11 AND $12)
           ORDER BY j.id DESC
           LIMIT $8"#,
        filter.pipeline.map(|id| id.0),
        filter.array.map(|id| id.0),
        states.as_deref(),
        kinds.as_deref(),
        wanted.text.as_deref().map(pattern),
        workers.map(|workers| &workers.ids[..]),
        asked.before,
        i64::try_from(asked.limit).unwrap_or(i64::MAX),
        asked.among.as_deref(),
        filter.projects.as_deref(),
        workers.map(|workers| workers.first),
        workers.map(|workers| workers.last),
    )
    // Planned for this filter, each time: a plan that Postgres keeps for all filters goes through every job.
    .persistent(false)
    .fetch_all(conn.sql())
    .await?;
    Ok(ids)
}

/// How many jobs, without elements of arrays, are in each state: those that are open, and of the newest 20,000 those
/// that ended after `since`.
pub async fn count_jobs(conn: &mut Conn, since: DateTime<Utc>) -> Result<Vec<(JobStateName, u32)>> {
    let rows = sqlx::query!(
        r#"SELECT o.state AS "state!", count(*) AS "count!" FROM (
               -- As `list_job_ids` has it: whoever follows a count finds as many jobs.
               SELECT CASE WHEN o.state = 'waiting' AND (n.succeeded > 0
                                OR EXISTS (
                                    -- By the ranks, of which there are few: an array may have 100,000 elements.
                                    SELECT FROM held_ranks h CROSS JOIN LATERAL (
                                        SELECT r.array_job_id, r.state FROM open_jobs r
                                        WHERE r.job_id = h.job_id OFFSET 0) e
                                    WHERE e.array_job_id = n.job_id AND e.state = 'running'))
                           THEN 'running' ELSE o.state END AS state
               FROM open_jobs o LEFT JOIN arrays n ON n.job_id = o.job_id
               WHERE o.array_job_id IS NULL) o
           GROUP BY o.state
           UNION ALL
           SELECT e.state, count(*) FROM (
               SELECT state, finished_at FROM jobs WHERE array_job_id IS NULL ORDER BY id DESC LIMIT $2) e
           WHERE e.state <> 'open' AND e.finished_at >= $1
           GROUP BY e.state"#,
        since,
        ENDED_LOOKED_AT,
    )
    .fetch_all(conn.sql())
    .await?;
    let counts = rows.into_iter().map(|row| {
        let count = u32::try_from(row.count).unwrap_or(u32::MAX);
        Ok((convert::job_state(&row.state)?, count))
    });
    counts.collect()
}

/// The jobs that ended last, of the newest 20,000, latest first; without elements of arrays. Of these projects alone,
/// where some are named.
pub async fn list_ended_ids(
    conn: &mut Conn,
    projects: Option<&[String]>,
    limit: u32,
) -> Result<Vec<JobId>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM (
             SELECT id, state, finished_at, project FROM jobs WHERE array_job_id IS NULL ORDER BY id DESC LIMIT $2) e
         WHERE state <> 'open' AND finished_at IS NOT NULL AND ($3::text[] IS NULL OR project = ANY ($3))
         ORDER BY finished_at DESC LIMIT $1",
        i64::from(limit),
        ENDED_LOOKED_AT,
        projects,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// The newest job, elements of arrays included. None: there has been none.
pub async fn find_newest_id(conn: &mut Conn) -> Result<Option<JobId>> {
    let id = sqlx::query_scalar!("SELECT max(id) FROM jobs")
        .fetch_one(conn.sql())
        .await?;
    Ok(id.map(JobId))
}
