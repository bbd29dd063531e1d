//! Where the jobs that match a filter are looked for: among few that are known to be all that could, or among all.
//!
//! A million jobs may have ended and as many be queued. Each source is read by an index from its newest end
//! (migration 0038), a piece at a time, and may name jobs that do not match: the listing asks each of them everything.

use marquee_domain::job::JobStateName;
use uuid::Uuid;

use super::Wanted;
use crate::jobs::JobFilter;
use crate::{Conn, Result};

/// Names that are compared with a word. Where there are more, it is looked for in every job.
const NAMES_MAX: i64 = 2_000;
/// Jobs, and pipelines, whose names have a word. Where there are more, the newest of all are soon enough some of them.
const NAMED_MAX: i64 = 10_000;

/// What is gone through.
#[derive(Debug)]
pub(super) enum Source {
    All,
    /// These, newest first.
    Ids(Vec<i64>),
    States(States),
    /// The elements of an array, from its last on.
    Elements(i64),
    /// Those of its elements that run or have failed.
    ElementsInStates {
        array: i64,
        states: States,
    },
}

/// Which jobs could be in the states that are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct States {
    /// Any that is open.
    open: bool,
    running: bool,
    failed: bool,
    cancelled: bool,
}

/// The workers of a name, and between which ids all jobs are that ever had a rank on one of them.
#[derive(Debug)]
pub(super) struct Workers {
    pub(super) ids: Vec<Uuid>,
    pub(super) first: i64,
    pub(super) last: i64,
}

impl Workers {
    /// None: there never was a rank there.
    pub(super) async fn find(conn: &mut Conn, name: &str) -> Result<Option<Self>> {
        let row = sqlx::query!(
            // Of each worker by itself, whose ends an index has.
            r#"SELECT array_agg(w.id) AS "ids!", min(b.first) AS first, max(b.last) AS last
               FROM workers w
               CROSS JOIN LATERAL (SELECT min(job_id) AS first, max(job_id) AS last
                                   FROM attempt_ranks WHERE worker_id = w.id) b
               WHERE w.name = $1
               HAVING count(*) > 0"#,
            name,
        )
        .fetch_optional(conn.sql())
        .await?;
        Ok(row.and_then(|row| {
            let (first, last) = row.first.zip(row.last)?;
            let ids = row.ids;
            Some(Self { ids, first, last })
        }))
    }
}

impl Source {
    /// The one that is likely to be the shortest. Several filters may each have one: what it names is asked the others.
    pub(super) async fn find(conn: &mut Conn, filter: &JobFilter, wanted: &Wanted) -> Result<Self> {
        if let Some(ids) = &filter.among {
            let mut ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
            ids.sort_unstable_by(|a, b| b.cmp(a));
            ids.dedup();
            return Ok(Self::Ids(ids));
        }
        // A pipeline has few jobs, and an index of its own.
        if filter.pipeline.is_some() && filter.array.is_none() {
            return Ok(Self::All);
        }
        let states = filter.states.as_deref().and_then(States::of);
        match (filter.array.map(|id| id.0), states) {
            (Some(array), Some(states)) if states.are_few_elements() => {
                return Ok(Self::ElementsInStates { array, states });
            }
            (Some(array), _) => return Ok(Self::Elements(array)),
            (None, Some(states)) => return Ok(Self::States(states)),
            (None, None) => {}
        }
        let named = match &wanted.text {
            Some(text) => list_named(conn, text).await?,
            None => None,
        };
        Ok(named.map_or(Self::All, Self::Ids))
    }

    /// The newest `size` of those below `before`, newest first; fewer: there are no more. None: it does not name any, and
    /// all are to be looked at.
    pub(super) async fn next(
        &self,
        conn: &mut Conn,
        before: Option<i64>,
        size: usize,
    ) -> Result<Option<Vec<i64>>> {
        let below = before.unwrap_or(i64::MAX);
        let count = i64::try_from(size).unwrap_or(i64::MAX);
        match self {
            Self::All => Ok(None),
            Self::Ids(ids) => {
                let from = ids.partition_point(|id| *id >= below);
                Ok(Some(ids.iter().skip(from).take(size).copied().collect()))
            }
            Self::States(states) => list_in_states(conn, *states, below, count).await.map(Some),
            Self::Elements(array) => list_elements(conn, *array, below, count).await.map(Some),
            Self::ElementsInStates { array, states } => {
                list_elements_in_states(conn, *array, *states, below, count)
                    .await
                    .map(Some)
            }
        }
    }
}

impl States {
    /// None: one of them is what most jobs come to.
    fn of(states: &[JobStateName]) -> Option<Self> {
        let has = |wanted: &[JobStateName]| states.iter().any(|state| wanted.contains(state));
        (!has(&[JobStateName::Succeeded])).then(|| Self {
            open: has(&[JobStateName::Waiting, JobStateName::Queued]),
            running: has(&[JobStateName::Running]),
            failed: has(&[JobStateName::Failed]),
            cancelled: has(&[JobStateName::Cancelled]),
        })
    }

    /// Of an array's elements those that wait may be nearly all, and those that were cancelled with it, too.
    fn are_few_elements(self) -> bool {
        !self.open && !self.cancelled
    }
}

/// A word that a person typed, as a pattern: it is text, and stands anywhere.
pub(super) fn pattern(text: &str) -> String {
    let escaped = text
        .replace('\\', r"\\")
        .replace('%', r"\%")
        .replace('_', r"\_");
    format!("%{escaped}%")
}

/// Jobs outside of arrays. What runs is found by what it holds: it is the oldest of what is open, behind all that is queued.
async fn list_in_states(
    conn: &mut Conn,
    states: States,
    below: i64,
    count: i64,
) -> Result<Vec<i64>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM (
               (SELECT job_id AS id FROM open_jobs
                WHERE $3 AND array_job_id IS NULL AND job_id < $1 ORDER BY job_id DESC LIMIT $2)
               UNION
               (SELECT job_id FROM jobs_unsuccessful
                WHERE $4 AND state = 'failed' AND array_job_id IS NULL AND job_id < $1
                ORDER BY job_id DESC LIMIT $2)
               UNION
               (SELECT job_id FROM jobs_unsuccessful
                WHERE $6 AND state = 'cancelled' AND array_job_id IS NULL AND job_id < $1
                ORDER BY job_id DESC LIMIT $2)
               UNION
               SELECT COALESCE(o.array_job_id, o.job_id)
               FROM held_ranks h JOIN open_jobs o ON o.job_id = h.job_id WHERE $5
               UNION
               -- An array runs on while none of its elements does.
               SELECT o.job_id FROM open_jobs o JOIN arrays a ON a.job_id = o.job_id
               WHERE $5 AND o.array_job_id IS NULL AND a.succeeded > 0
           ) c
           WHERE id < $1 ORDER BY id DESC LIMIT $2"#,
        below,
        count,
        states.open,
        states.failed,
        states.running,
        states.cancelled,
    )
    .persistent(false)
    .fetch_all(conn.sql())
    .await?;
    Ok(ids)
}

async fn list_elements_in_states(
    conn: &mut Conn,
    array: i64,
    states: States,
    below: i64,
    count: i64,
) -> Result<Vec<i64>> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM (
               (SELECT job_id AS id FROM jobs_unsuccessful
                WHERE $4 AND array_job_id = $3 AND job_id < $1 ORDER BY job_id DESC LIMIT $2)
               UNION
               -- By its own key alone: by the array's, each would go through all elements.
               SELECT h.job_id FROM held_ranks h CROSS JOIN LATERAL (
                   SELECT o.array_job_id FROM open_jobs o WHERE o.job_id = h.job_id OFFSET 0) o
               WHERE $5 AND o.array_job_id = $3
           ) c
           WHERE id < $1 ORDER BY id DESC LIMIT $2"#,
        below,
        count,
        array,
        states.failed,
        states.running,
    )
    .persistent(false)
    .fetch_all(conn.sql())
    .await?;
    Ok(ids)
}

/// Elements have ids in the order of their indexes.
async fn list_elements(conn: &mut Conn, array: i64, below: i64, count: i64) -> Result<Vec<i64>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM jobs
         WHERE array_job_id = $3 AND id < $1
           AND array_index < COALESCE(
               (SELECT b.array_index FROM jobs b WHERE b.id = $1 AND b.array_job_id = $3), 2147483647)
         ORDER BY array_index DESC LIMIT $2",
        below,
        count,
        array,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids)
}

/// All jobs outside of arrays in whose name, or whose pipeline's, a word stands, newest first. None: they are too many
/// to name, or the names are too many to look at.
async fn list_named(conn: &mut Conn, text: &str) -> Result<Option<Vec<i64>>> {
    let (Some(of_jobs), Some(of_pipelines)) =
        (list_names(conn).await?, list_pipeline_names(conn).await?)
    else {
        return Ok(None);
    };
    let ids: Option<Vec<i64>> = sqlx::query_scalar!(
        r#"WITH by_name AS (
               SELECT j.id FROM unnest($1::text[]) AS n(name)
               CROSS JOIN LATERAL (SELECT id FROM jobs WHERE array_job_id IS NULL AND name = n.name
                                   LIMIT $4) j
               WHERE n.name ILIKE $3 LIMIT $4
           ), named AS (
               SELECT p.id FROM unnest($2::text[]) AS n(name)
               CROSS JOIN LATERAL (SELECT id FROM pipelines WHERE name = n.name LIMIT $4) p
               WHERE n.name ILIKE $3 LIMIT $4
           ), by_pipeline AS (
               SELECT j.id FROM named n JOIN jobs j ON j.pipeline_id = n.id AND j.array_job_id IS NULL
               LIMIT $4
           )
           SELECT CASE WHEN GREATEST((SELECT count(*) FROM by_name), (SELECT count(*) FROM named),
                                     (SELECT count(*) FROM by_pipeline)) < $4
                       THEN ARRAY(SELECT id FROM by_name UNION SELECT id FROM by_pipeline ORDER BY id DESC) END"#,
        &of_jobs,
        &of_pipelines,
        pattern(text),
        NAMED_MAX + 1,
    )
    .persistent(false)
    .fetch_one(conn.sql())
    .await?;
    Ok(ids)
}

/// Each name once, of jobs outside of arrays, from one to the next by the index; None: there are more than [`NAMES_MAX`].
async fn list_names(conn: &mut Conn) -> Result<Option<Vec<String>>> {
    let names = sqlx::query_scalar!(
        r#"WITH RECURSIVE names AS (
               (SELECT name FROM jobs WHERE array_job_id IS NULL ORDER BY name LIMIT 1)
               UNION ALL
               SELECT (SELECT j.name FROM jobs j WHERE j.array_job_id IS NULL AND j.name > n.name
                       ORDER BY j.name LIMIT 1)
               FROM names n WHERE n.name IS NOT NULL
           )
           SELECT name AS "name!" FROM names WHERE name IS NOT NULL LIMIT $1"#,
        NAMES_MAX + 1,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(all_of(names))
}

/// The same of pipelines.
async fn list_pipeline_names(conn: &mut Conn) -> Result<Option<Vec<String>>> {
    let names = sqlx::query_scalar!(
        r#"WITH RECURSIVE names AS (
               (SELECT name FROM pipelines ORDER BY name LIMIT 1)
               UNION ALL
               SELECT (SELECT p.name FROM pipelines p WHERE p.name > n.name ORDER BY p.name LIMIT 1)
               FROM names n WHERE n.name IS NOT NULL
           )
           SELECT name AS "name!" FROM names WHERE name IS NOT NULL LIMIT $1"#,
        NAMES_MAX + 1,
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(all_of(names))
}

fn all_of(names: Vec<String>) -> Option<Vec<String>> {
    let most = usize::try_from(NAMES_MAX).unwrap_or(usize::MAX);
    (names.len() <= most).then_some(names)
}
