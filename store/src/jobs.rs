//! Jobs as they are: storing new ones and reading them. Changes of state are in `transitions`.

mod fresh;
mod near;
mod row;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::failure::Failure;
use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::job::{JobState, JobStateName};
use marquee_domain::spec::{JobKind, JobSpec, NeedOn};

pub use self::fresh::as_stored;
use self::row::RawJob;
use crate::elements::insert_elements;
use crate::ranks::Progress;
use crate::{Conn, Result, StoreError, Tx, convert, ranks};

/// Elements whose progress is summed up for a listing: of more, the counts tell enough.
const PROGRESS_ELEMENTS_MAX: i32 = 1_000;

/// A job to store: waiting where it needs others or is an array, else queued.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    pub spec: &'a JobSpec,
    /// Places within the pipeline, from 0, of the jobs that it needs, each once, and how they must end.
    pub needs: Vec<(u32, NeedOn)>,
}

/// A stored job with what belongs to it at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub pipeline_id: PipelineId,
    pub pipeline_name: JobName,
    pub name: JobName,
    pub kind: JobKind,
    pub state: JobState,
    /// Number of the newest attempt, 0 before the first.
    pub attempt: u32,
    pub max_attempts: u32,
    pub ranks: u32,
    pub priority: i32,
    pub created_at: DateTime<Utc>,
    /// Start of the newest attempt.
    pub started_at: Option<DateTime<Utc>>,
    /// Of the job, or of the newest attempt while its retry is due.
    pub failure: Option<Failure>,
    /// Newest progress of the newest attempt's first rank that was not lost.
    pub progress: Option<Progress>,
    /// Digest of the committed artifact.
    pub artifact: Option<Digest>,
    /// Names of the jobs it needs, in pipeline order, and how they must end.
    pub needs: Vec<(JobName, NeedOn)>,
    /// Of a waiting job: those among them that have not ended so.
    pub waits_for: Vec<(JobName, NeedOn)>,
    /// Of a cancelled job: what it was there for did not happen, and could not any more.
    pub is_not_needed: bool,
    /// Of a queued job: class and figures of what keeps it waiting, as stored.
    pub obstacle: Option<serde_json::Value>,
    /// Of an array: its elements, by state.
    pub elements: Option<ElementCounts>,
    /// Of an element: its array and its place in it.
    pub element: Option<ElementOf>,
    /// Of an element of an array over values: its own, by name.
    pub values: BTreeMap<String, serde_json::Value>,
    /// The job whose artifact was taken for its own.
    pub reused_from: Option<JobId>,
    pub project: String,
    /// Who holds it, and since when.
    pub held: Option<(String, DateTime<Utc>)>,
    /// Of a running job that is to make room: for whose sake.
    pub makes_room: Option<String>,
}

/// How many elements of an array are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
pub struct ElementCounts {
    pub waiting: u32,
    pub queued: u32,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
}

impl ElementCounts {
    /// All of them.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.waiting + self.queued + self.running + self.succeeded + self.failed + self.cancelled
    }
}

/// Where an element belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementOf {
    pub array: JobId,
    /// From 0.
    pub index: u32,
}

/// Which jobs to list. Every part that is set narrows the list. Elements of arrays are listed only
/// when their array, or they themselves, are named.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub pipeline: Option<PipelineId>,
    /// The elements of this array.
    pub array: Option<JobId>,
    pub ids: Option<Vec<JobId>>,
    /// As `ids`, of a listing: rows that cannot be read are left out.
    pub among: Option<Vec<JobId>>,
    pub states: Option<Vec<JobStateName>>,
    pub kinds: Option<Vec<JobKind>>,
    /// Of one of these projects.
    pub projects: Option<Vec<String>>,
    /// Only jobs submitted before this one.
    pub before: Option<JobId>,
}

/// Stores the jobs of a pipeline, in its order, with what they need and the first elements of arrays, of each at most
/// `elements_ahead`. Returns their ids in the same order, without those of elements.
pub async fn insert_jobs(
    tx: &mut Tx,
    pipeline: PipelineId,
    new: &[NewJob<'_>],
    elements_ahead: u32,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let positions: Result<Vec<i32>> = (0..new.len())
        .map(|position| convert::int("position", u32::try_from(position).unwrap_or(u32::MAX)))
        .collect();
    let positions = positions?;
    let texts = |text: fn(&JobSpec) -> String| -> Vec<String> {
        new.iter().map(|job| text(job.spec)).collect()
    };
    let ints = |what, number: fn(&NewJob<'_>) -> u32| -> Result<Vec<i32>> {
        let numbers = new.iter().map(|job| convert::int(what, number(job)));
        numbers.collect()
    };
    let specs: Result<Vec<serde_json::Value>> = new
        .iter()
        .map(|job| convert::to_document("spec", job.spec))
        .collect();
    let arrays: Result<Vec<Option<i32>>> = new
        .iter()
        .map(|job| convert::optional_int("array", job.spec.array))
        .collect();
    let needs = positions.iter().zip(new).flat_map(|(position, job)| {
        let of = |(need, on): &(u32, NeedOn)| {
            let need = convert::int("position", *need)?;
            Ok(((*position, need), on.as_str().to_owned()))
        };
        job.needs
            .iter()
            .map(of)
            .collect::<Vec<Result<((i32, i32), String)>>>()
    });
    let (pairs, wanted): (Vec<(i32, i32)>, Vec<String>) =
        needs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let (dependents, needed): (Vec<i32>, Vec<i32>) = pairs.into_iter().unzip();
    let priorities: Vec<i32> = new.iter().map(|job| job.spec.priority).collect();
    // One statement for a pipeline of any size: submit answers after a round trip, and jobs, needs, counters
    // and history are there together or not at all.
    let rows = sqlx::query_scalar!(
        r#"WITH given AS (
               SELECT * FROM unnest($3::int[], $4::text[], $5::text[], $6::jsonb[], $7::int[],
                                    $8::int[], $9::int[], $10::int[], $11::int[], $15::text[])
                   AS g (position, name, kind, spec, priority, ranks, max_attempts, array_size, needs,
                         project)
           ), stored AS (
               INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks,
                                 max_attempts, array_size, created_at, project)
               SELECT $1, position, name, kind, spec, priority, ranks, max_attempts, array_size, $2,
                      project
               FROM given ORDER BY position
               RETURNING id, position
           ), opened AS (
               INSERT INTO open_jobs (job_id, state, attempt, last_attempt, needs_left, queued_at)
               SELECT s.id,
                      CASE WHEN g.needs = 0 AND g.array_size IS NULL THEN 'queued' ELSE 'waiting' END,
                      0, g.max_attempts, g.needs, CASE WHEN g.needs = 0 THEN $2 END
               FROM stored s JOIN given g ON g.position = s.position
           ), counted AS (
               INSERT INTO arrays (job_id, size, to_come)
               SELECT s.id, g.array_size, g.array_size FROM stored s JOIN given g ON g.position = s.position
               WHERE g.array_size IS NOT NULL
           ), needed AS (
               INSERT INTO job_needs (job_id, needs_job_id, wanted)
               SELECT s.id, d.id, n.wanted
               FROM unnest($12::int[], $13::int[], $16::text[]) AS n (position, needs, wanted)
               JOIN stored s ON s.position = n.position JOIN stored d ON d.position = n.needs
           ), told AS (
               INSERT INTO job_events (job_id, attempt, text, at, caller)
               SELECT id, 0, 'submitted', $2, $14 FROM stored
           )
           SELECT id AS "id!" FROM stored ORDER BY position"#,
        pipeline.0,
        now,
        &positions,
        &texts(|spec| spec.name.to_string()),
        &texts(|spec| spec.work.kind().as_str().to_owned()),
        &specs?,
        &priorities,
        &ints("ranks", |job| job.spec.resources.ranks)?,
        &ints("max_attempts", |job| job.spec.max_attempts)?,
        &arrays? as &[Option<i32>],
        &ints("needs", |job| u32::try_from(job.needs.len()).unwrap_or(u32::MAX))?,
        &dependents,
        &needed,
        caller,
        &texts(|spec| spec.sharing.project.to_string()),
        &wanted,
    )
    .fetch_all(tx.sql())
    .await?;
    let ids: Vec<JobId> = rows.into_iter().map(JobId).collect();
    let arrays = ids
        .iter()
        .zip(new)
        .filter(|(_, job)| job.spec.array.is_some());
    let first: Vec<(JobId, u32)> = arrays.map(|(array, _)| (*array, elements_ahead)).collect();
    if !first.is_empty() {
        insert_elements(tx, &first).await?;
    }
    Ok(ids)
}

/// One job.
pub async fn get_job(conn: &mut Conn, id: JobId) -> Result<Job> {
    let filter = JobFilter {
        ids: Some(vec![id]),
        ..JobFilter::default()
    };
    let mut jobs = list_jobs(conn, &filter, 1).await?;
    jobs.pop().ok_or(StoreError::JobNotFound(id))
}

/// The jobs of a pipeline, each after what it needs.
pub async fn list_pipeline_jobs(conn: &mut Conn, id: PipelineId) -> Result<Vec<Job>> {
    let filter = JobFilter {
        pipeline: Some(id),
        ..JobFilter::default()
    };
    // As many as a document may have, so that nothing is cut off.
    let mut jobs = list_jobs(conn, &filter, marquee_domain::limits::PIPELINE_MAX_JOBS).await?;
    jobs.sort_by_key(|job| job.id);
    Ok(jobs)
}

/// The newest `limit` jobs that `filter` lets through, newest first.
pub async fn list_jobs(conn: &mut Conn, filter: &JobFilter, limit: usize) -> Result<Vec<Job>> {
    let of_pipeline = match (filter.pipeline, filter.array) {
        // By their ids, too: Postgres would rather look for few jobs among all that there are, the newest first.
        (Some(pipeline), None) => Some(list_ids_of_pipeline(conn, pipeline).await?),
        (Some(_), Some(_)) | (None, _) => None,
    };
    let named = filter.ids.as_ref().or(filter.among.as_ref());
    let Some(ids) = named.or(of_pipeline.as_ref()) else {
        return list_in_one(conn, filter, None, limit).await;
    };
    let mut jobs = Vec::new();
    // Of none there is no first and no last one, between which they would be looked for.
    if ids.is_empty() {
        return Ok(jobs);
    }
    for group in near::groups(ids.iter().map(|id| id.0).collect()) {
        if jobs.len() >= limit {
            break;
        }
        jobs.extend(list_in_one(conn, filter, Some(group), limit - jobs.len()).await?);
    }
    Ok(jobs)
}

/// The jobs of a pipeline, without elements.
async fn list_ids_of_pipeline(conn: &mut Conn, pipeline: PipelineId) -> Result<Vec<JobId>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM jobs WHERE pipeline_id = $1 AND array_job_id IS NULL",
        pipeline.0
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(ids.into_iter().map(JobId).collect())
}

/// The same by one statement, for `ids` where some are named.
async fn list_in_one(
    conn: &mut Conn,
    filter: &JobFilter,
    ids: Option<Vec<i64>>,
    limit: usize,
) -> Result<Vec<Job>> {
    // Between which ids: an index serves these, whatever plan Postgres keeps, which it does not do for a list that
    // may be null. Without them a look at one job would go through all that are newer.
    let below = filter.before.map_or(i64::MAX, |id| id.0.saturating_sub(1));
    let named = ids.iter().flatten();
    let last = named.clone().max().map_or(below, |id| below.min(*id));
    let first = named.min().copied().unwrap_or(i64::MIN);
    let states = filter
        .states
        .as_ref()
        .map(|states| words(states, |s| s.as_str()));
    let kinds = filter
        .kinds
        .as_ref()
        .map(|kinds| words(kinds, |k| k.as_str()));
    let rows = sqlx::query_as!(
        RawJob,
        r#"SELECT j.id AS "id!", j.pipeline_id AS "pipeline_id!", p.name AS pipeline_name,
                  j.name AS "name!", j.kind AS "kind!", s.state AS "state!", j.reason AS "reason!",
                  j.attempt AS "attempt!", j.max_attempts AS "max_attempts!", j.ranks AS "ranks!",
                  j.priority AS "priority!", j.created_at AS "created_at!", j.not_before,
                  COALESCE(j.started_at, CASE WHEN s.state = 'running' THEN j.created_at END)
                      AS started_at,
                  j.finished_at, j.cancel_requested AS "cancel_requested!",
                  j.failure_class, j.failure_message, j.obstacle,
                  COALESCE(e.progress, r.progress) AS "progress?", a.digest AS "artifact?",
                  -- Names hold no space.
                  ARRAY(SELECT n.name || ' ' || d.wanted
                        FROM job_needs d JOIN jobs n ON n.id = d.needs_job_id
                        WHERE d.job_id = COALESCE(j.array_job_id, j.id)
                        ORDER BY n.position) AS "needs!",
                  ARRAY(SELECT n.name || ' ' || d.wanted
                        FROM need_states d JOIN jobs n ON n.id = d.needs_job_id
                        WHERE j.needs_left > 0 AND d.job_id = COALESCE(j.array_job_id, j.id) AND NOT d.met
                        ORDER BY n.position) AS "waits_for!",
                  EXISTS (SELECT 1 FROM jobs r
                          WHERE s.state = 'cancelled' AND r.id = j.cancelled_for AND r.state = 'succeeded')
                      AS "is_not_needed!",
                  (SELECT g.spec #> '{values,over}' FROM jobs g WHERE g.id = j.array_job_id) AS over_values,
                  c.counts AS "elements?", j.array_job_id, j.array_index, j.reused_from,
                  j.project AS "project!", COALESCE(j.held_by, y.held_by) AS held_by,
                  COALESCE(j.held_at, y.held_at) AS held_at, j.interruption_message
           FROM job_states j
           JOIN pipelines p ON p.id = j.pipeline_id
           LEFT JOIN LATERAL (
               -- Row by row: to look at one job is not to go through all that are open.
               SELECT o.held_by, o.held_at FROM open_jobs o WHERE o.job_id = j.array_job_id LIMIT 1
           ) y ON true
           LEFT JOIN LATERAL (
               SELECT f.progress FROM attempt_ranks f
               WHERE f.job_id = j.id AND f.attempt = j.attempt AND f.lost_at IS NULL
               ORDER BY f.rank LIMIT 1
           ) r ON true
           LEFT JOIN artifacts a ON a.job_id = j.id
           LEFT JOIN LATERAL (
               -- What has ended is counted as it ends. Of what is open, what runs holds devices: going
               -- through those costs a look at a hundred thousand elements no more than one at ten. The
               -- others wait as their array does, whose needs are theirs.
               SELECT n.succeeded + q.running AS begun,
                      jsonb_build_object(
                          'waiting', CASE WHEN j.needs_left > 0 THEN p.pending ELSE 0 END,
                          'queued', CASE WHEN j.needs_left > 0 THEN 0 ELSE p.pending END,
                          'running', q.running, 'succeeded', n.succeeded, 'failed', n.failed,
                          'cancelled', n.cancelled) AS counts
               FROM arrays n
               CROSS JOIN LATERAL (
                   SELECT count(DISTINCT h.job_id) AS running
                   FROM held_ranks h CROSS JOIN LATERAL (
                       -- By its own key alone: by the array's, each would go through all elements.
                       SELECT o.array_job_id, o.state FROM open_jobs o WHERE o.job_id = h.job_id
                       OFFSET 0) o
                   WHERE o.array_job_id = n.job_id AND o.state = 'running') q
               CROSS JOIN LATERAL (
                   SELECT GREATEST(n.size - n.succeeded - n.failed - n.cancelled - q.running, 0)
                          AS pending) p
               WHERE n.job_id = j.id
           ) c ON j.array_size IS NOT NULL
           LEFT JOIN LATERAL (
               SELECT CASE WHEN count(mr.progress) > 0 THEN jsonb_build_object(
                          'phase', max(mr.progress ->> 'phase'),
                          'unit', max(mr.progress ->> 'unit'),
                          'done', sum(number_in(mr.progress ->> 'done')),
                          'bytes', sum(number_in(mr.progress ->> 'bytes')),
                          'phase_started_done',
                              COALESCE(sum(number_in(mr.progress ->> 'phase_started_done')), 0),
                          'phase_started_bytes',
                              COALESCE(sum(number_in(mr.progress ->> 'phase_started_bytes')), 0),
                          'problems', COALESCE((
                              SELECT jsonb_object_agg(c.class, c.count)
                              FROM (SELECT p.key AS class, sum(number_in(p.value)) AS count
                                    FROM job_states m2
                                    JOIN attempt_ranks r2 ON r2.job_id = m2.id
                                        AND r2.attempt = m2.attempt AND r2.rank = 0
                                    CROSS JOIN LATERAL
                                        jsonb_each_text(r2.progress -> 'problems') p
                                    WHERE m2.array_job_id = j.id
                                    GROUP BY p.key) c), '{}'),
                          -- Unknown until each element has said how much it has to do.
                          'total', CASE WHEN count(mr.progress ->> 'total') = count(*)
                                        THEN sum(number_in(mr.progress ->> 'total')) END,
                          'at', max(mr.progress ->> 'at'),
                          'phase_started_at', min(mr.progress ->> 'phase_started_at')) END AS progress
               FROM job_states m
               LEFT JOIN attempt_ranks mr
                   ON mr.job_id = m.id AND mr.attempt = m.attempt AND mr.rank = 0
               -- In here, not behind ON: there the elements of a larger array would be added up all the same.
               WHERE m.array_job_id = j.id AND j.array_size <= $8
           ) e ON true
           -- What an array waits for is its elements' work: then it runs.
           CROSS JOIN LATERAL (
               SELECT CASE WHEN j.state = 'waiting' AND c.begun > 0 THEN 'running'
                           ELSE j.state END AS state
           ) s
           WHERE ($1::bigint IS NULL OR j.pipeline_id = $1)
             AND ($2::bigint[] IS NULL OR j.id = ANY ($2))
             AND ($3::text[] IS NULL OR s.state = ANY ($3))
             AND ($4::text[] IS NULL OR j.kind = ANY ($4))
             AND j.id BETWEEN $5 AND $10
             AND ($9::text[] IS NULL OR j.project = ANY ($9))
             AND CASE WHEN $7::bigint IS NOT NULL THEN j.array_job_id = $7
                      ELSE $2::bigint[] IS NOT NULL OR j.array_job_id IS NULL END
           ORDER BY j.id DESC
           LIMIT $6"#,
        filter.pipeline.map(|id| id.0),
        ids.as_deref(),
        states.as_deref(),
        kinds.as_deref(),
        first,
        i64::try_from(limit).unwrap_or(i64::MAX),
        filter.array.map(|id| id.0),
        PROGRESS_ELEMENTS_MAX,
        filter.projects.as_deref(),
        last,
    )
    .fetch_all(conn.sql())
    .await?;
    // Whoever asks for one job by its number must hear what is wrong with it.
    let named = filter.ids.is_some();
    let mut jobs = Vec::with_capacity(rows.len());
    for row in rows {
        let job = row.id;
        match Job::try_from(row) {
            Ok(read) => jobs.push(read),
            // One damaged row must not hide all others from who lists them.
            Err(error) if !named => tracing::error!(job, %error, "a job's row cannot be read"),
            Err(error) => return Err(error),
        }
    }
    Ok(jobs)
}

fn words<T: Copy>(values: &[T], word: impl Fn(T) -> &'static str) -> Vec<String> {
    values.iter().map(|value| word(*value).to_owned()).collect()
}

/// The names of jobs; those that are not there are left out.
pub async fn list_job_names(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<(JobId, JobName)>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let rows = sqlx::query!("SELECT id, name FROM jobs WHERE id = ANY ($1)", &ids)
        .fetch_all(conn.sql())
        .await?;
    let names = rows.into_iter();
    names
        .map(|row| Ok((JobId(row.id), convert::job_name(row.name)?)))
        .collect()
}

/// The projects of jobs; those that are not there are left out.
pub async fn list_job_projects(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<(JobId, String)>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let rows = sqlx::query!("SELECT id, project FROM jobs WHERE id = ANY ($1)", &ids)
        .fetch_all(conn.sql())
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| (JobId(row.id), row.project))
        .collect())
}

/// The projects of a pipeline's jobs, each once. Empty: there is no such pipeline.
pub async fn list_pipeline_projects(conn: &mut Conn, id: PipelineId) -> Result<Vec<String>> {
    let projects = sqlx::query_scalar!(
        "SELECT DISTINCT project FROM jobs WHERE pipeline_id = $1 ORDER BY project",
        id.0
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(projects)
}

/// What a job was asked to do; for an element, its array's spec with its place in it.
pub async fn get_job_spec(conn: &mut Conn, id: JobId) -> Result<JobSpec> {
    let row = sqlx::query!(
        r#"SELECT COALESCE(j.spec, a.spec) AS "spec!", j.array_index
           FROM jobs j LEFT JOIN jobs a ON a.id = j.array_job_id
           WHERE j.id = $1"#,
        id.0
    )
    .fetch_optional(conn.sql())
    .await?
    .ok_or(StoreError::JobNotFound(id))?;
    ranks::element_spec(row.spec, row.array_index)
}
