//! Jobs as they are: storing new ones and reading them. Changes of state are in `transitions`.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::failure::Failure;
use marquee_domain::ids::{AttemptNumber, JobId, JobName, PipelineId};
use marquee_domain::job::{JobState, JobStateName};
use marquee_domain::spec::{JobKind, JobSpec};

use crate::ranks::Progress;
use crate::{Conn, Result, StoreError, Tx, convert};

/// A job to store, waiting for what it needs or queued.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    pub pipeline: PipelineId,
    /// Place within the pipeline, from 0.
    pub position: u32,
    pub spec: &'a JobSpec,
    /// Why it waits for other jobs; None queues it at once.
    pub waits: Option<&'a str>,
    /// The array that it is an element of, as `spec.element` says.
    pub array_job: Option<JobId>,
    pub created_at: DateTime<Utc>,
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
    /// Names of the jobs it needs, in pipeline order; without the elements of an array.
    pub needs: Vec<JobName>,
    /// Of an array: its elements, by state.
    pub elements: Option<ElementCounts>,
    /// Of an element: its array and its place in it.
    pub element: Option<ElementOf>,
    /// The job whose artifact was taken for its own.
    pub reused_from: Option<JobId>,
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
    pub states: Option<Vec<JobStateName>>,
    pub kinds: Option<Vec<JobKind>>,
    /// Only jobs submitted before this one.
    pub before: Option<JobId>,
}

/// Stores a job.
pub async fn insert_job(tx: &mut Tx, new: &NewJob<'_>) -> Result<JobId> {
    let state = if new.waits.is_some() {
        JobStateName::Waiting
    } else {
        JobStateName::Queued
    };
    let queued_at = new.waits.is_none().then_some(new.created_at);
    let id = sqlx::query_scalar!(
        "INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, reason,
                           last_attempt, created_at, queued_at, array_size, array_job_id,
                           array_index)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
         RETURNING id",
        new.pipeline.0,
        convert::int("position", new.position)?,
        new.spec.name.as_str(),
        new.spec.work.kind().as_str(),
        convert::to_json("spec", new.spec)?,
        new.spec.priority,
        convert::int("ranks", new.spec.resources.ranks)?,
        state.as_str(),
        new.waits.unwrap_or_default(),
        convert::int("max_attempts", new.spec.max_attempts)?,
        new.created_at,
        queued_at,
        convert::optional_int("array", new.spec.array)?,
        new.array_job.map(|job| job.0),
        convert::optional_int("array_index", new.spec.element.map(|element| element.index))?,
    )
    .fetch_one(tx.sql())
    .await?;
    Ok(JobId(id))
}

/// Stores that `job` needs `needs` to succeed first.
pub async fn insert_need(tx: &mut Tx, job: JobId, needs: JobId) -> Result<()> {
    sqlx::query!(
        "INSERT INTO job_needs (job_id, needs_job_id) VALUES ($1, $2)",
        job.0,
        needs.0
    )
    .execute(tx.sql())
    .await?;
    Ok(())
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
    let mut jobs = list_jobs(conn, &filter, marquee_domain::limits::PIPELINE_MAX_JOBS).await?;
    jobs.sort_by_key(|job| job.id);
    Ok(jobs)
}

/// The newest `limit` jobs that `filter` lets through, newest first.
pub async fn list_jobs(conn: &mut Conn, filter: &JobFilter, limit: usize) -> Result<Vec<Job>> {
    let ids = filter
        .ids
        .as_ref()
        .map(|ids| ids.iter().map(|id| id.0).collect::<Vec<_>>());
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
        r#"SELECT j.id, j.pipeline_id, p.name AS pipeline_name, j.name, j.kind,
                  s.state AS "state!", j.reason,
                  j.attempt, (j.spec ->> 'max_attempts')::int AS "max_attempts!", j.ranks,
                  j.priority, j.created_at, j.not_before,
                  COALESCE(e.started_at, j.started_at) AS started_at, j.finished_at,
                  j.cancel_requested, j.failure_class, j.failure_message,
                  COALESCE(e.progress, r.progress) AS "progress?", a.digest AS "artifact?",
                  ARRAY(SELECT n.name FROM job_needs d JOIN jobs n ON n.id = d.needs_job_id
                        WHERE d.job_id = j.id AND n.array_job_id IS NULL
                        ORDER BY n.position) AS "needs!",
                  e.counts AS "elements?", j.array_job_id, j.array_index, j.reused_from
           FROM jobs j
           JOIN pipelines p ON p.id = j.pipeline_id
           LEFT JOIN LATERAL (
               SELECT f.progress FROM attempt_ranks f
               WHERE f.job_id = j.id AND f.attempt = j.attempt AND f.lost_at IS NULL
               ORDER BY f.rank LIMIT 1
           ) r ON true
           LEFT JOIN artifacts a ON a.job_id = j.id
           LEFT JOIN LATERAL (
               SELECT min(m.started_at) AS started_at,
                      count(*) FILTER (WHERE m.state IN ('running', 'succeeded')) AS begun,
                      jsonb_build_object(
                          'waiting', count(*) FILTER (WHERE m.state = 'waiting'),
                          'queued', count(*) FILTER (WHERE m.state = 'queued'),
                          'running', count(*) FILTER (WHERE m.state = 'running'),
                          'succeeded', count(*) FILTER (WHERE m.state = 'succeeded'),
                          'failed', count(*) FILTER (WHERE m.state = 'failed'),
                          'cancelled', count(*) FILTER (WHERE m.state = 'cancelled')) AS counts,
                      CASE WHEN count(mr.progress) > 0 THEN jsonb_build_object(
                          'phase', max(mr.progress ->> 'phase'),
                          'unit', max(mr.progress ->> 'unit'),
                          'done', sum((mr.progress ->> 'done')::bigint),
                          'bytes', sum((mr.progress ->> 'bytes')::bigint),
                          'phase_started_done',
                              COALESCE(sum((mr.progress ->> 'phase_started_done')::bigint), 0),
                          'phase_started_bytes',
                              COALESCE(sum((mr.progress ->> 'phase_started_bytes')::bigint), 0),
                          'problems', COALESCE((
                              SELECT jsonb_object_agg(c.class, c.count)
                              FROM (SELECT p.key AS class, sum(p.value::bigint) AS count
                                    FROM jobs m2
                                    JOIN attempt_ranks r2 ON r2.job_id = m2.id
                                        AND r2.attempt = m2.attempt AND r2.rank = 0
                                    CROSS JOIN LATERAL
                                        jsonb_each_text(r2.progress -> 'problems') p
                                    WHERE m2.array_job_id = j.id
                                    GROUP BY p.key) c), '{}'),
                          -- Unknown until each element has said how much it has to do.
                          'total', CASE WHEN count(mr.progress ->> 'total') = count(*)
                                        THEN sum((mr.progress ->> 'total')::bigint) END,
                          'at', max(mr.progress ->> 'at'),
                          'phase_started_at', min(mr.progress ->> 'phase_started_at')) END AS progress
               FROM jobs m
               LEFT JOIN attempt_ranks mr
                   ON mr.job_id = m.id AND mr.attempt = m.attempt AND mr.rank = 0
               WHERE m.array_job_id = j.id
           ) e ON j.array_size IS NOT NULL
           -- What an array waits for is its elements' work: then it runs.
           CROSS JOIN LATERAL (
               SELECT CASE WHEN j.state = 'waiting' AND e.begun > 0 THEN 'running'
                           ELSE j.state END AS state
           ) s
           WHERE ($1::bigint IS NULL OR j.pipeline_id = $1)
             AND ($2::bigint[] IS NULL OR j.id = ANY ($2))
             AND ($3::text[] IS NULL OR s.state = ANY ($3))
             AND ($4::text[] IS NULL OR j.kind = ANY ($4))
             AND ($5::bigint IS NULL OR j.id < $5)
             AND CASE WHEN $7::bigint IS NOT NULL THEN j.array_job_id = $7
                      ELSE $2::bigint[] IS NOT NULL OR j.array_job_id IS NULL END
           ORDER BY j.id DESC
           LIMIT $6"#,
        filter.pipeline.map(|id| id.0),
        ids.as_deref(),
        states.as_deref(),
        kinds.as_deref(),
        filter.before.map(|id| id.0),
        i64::try_from(limit).unwrap_or(i64::MAX),
        filter.array.map(|id| id.0),
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Job::try_from).collect()
}

fn words<T: Copy>(values: &[T], word: impl Fn(T) -> &'static str) -> Vec<String> {
    values.iter().map(|value| word(*value).to_owned()).collect()
}

/// What a job was asked to do.
pub async fn get_job_spec(conn: &mut Conn, id: JobId) -> Result<JobSpec> {
    let spec = sqlx::query_scalar!("SELECT spec FROM jobs WHERE id = $1", id.0)
        .fetch_optional(conn.sql())
        .await?
        .ok_or(StoreError::JobNotFound(id))?;
    convert::json("jobs.spec", spec)
}

/// A queued job, as the scheduler needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedJob {
    pub id: JobId,
    pub pipeline_id: PipelineId,
    pub spec: JobSpec,
    pub attempt: u32,
    pub reason: String,
    pub queued_at: DateTime<Utc>,
    pub not_before: Option<DateTime<Utc>>,
    /// What it does, once somebody has looked.
    pub step: Option<Digest>,
}

/// The first `limit` queued jobs, by priority and then by age.
pub async fn list_queued_jobs(conn: &mut Conn, limit: usize) -> Result<Vec<QueuedJob>> {
    let rows = sqlx::query!(
        r#"SELECT id, pipeline_id, spec, attempt, reason, not_before, step_digest,
                  COALESCE(queued_at, created_at) AS "queued_at!"
           FROM jobs WHERE state = 'queued'
           ORDER BY priority DESC, id
           LIMIT $1"#,
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(conn.sql())
    .await?;
    let jobs = rows.into_iter().map(|row| {
        Ok(QueuedJob {
            id: JobId(row.id),
            pipeline_id: PipelineId(row.pipeline_id),
            spec: convert::json("jobs.spec", row.spec)?,
            attempt: convert::u32_of("jobs.attempt", row.attempt)?,
            reason: row.reason,
            queued_at: row.queued_at,
            not_before: row.not_before,
            step: row.step_digest.map(convert::digest).transpose()?,
        })
    });
    jobs.collect()
}

/// A job that needs another one, or is needed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub id: JobId,
    pub name: JobName,
    pub state: JobStateName,
    pub attempt: u32,
    /// The job whose end without success cancelled it.
    pub cancelled_for: Option<JobId>,
    pub is_array: bool,
    /// The array that it is an element of.
    pub array_job: Option<JobId>,
}

/// A job as those beside it see it.
pub async fn get_neighbour(conn: &mut Conn, job: JobId) -> Result<Neighbour> {
    let row = sqlx::query_as!(
        RawNeighbour,
        r#"SELECT id, name, state, attempt, cancelled_for, array_size IS NOT NULL AS "is_array!",
                  array_job_id
           FROM jobs WHERE id = $1"#,
        job.0,
    )
    .fetch_optional(conn.sql())
    .await?
    .ok_or(StoreError::JobNotFound(job))?;
    Neighbour::try_from(row)
}

/// The jobs that `job` needs, in pipeline order.
pub async fn list_needs(conn: &mut Conn, job: JobId) -> Result<Vec<Neighbour>> {
    let rows = sqlx::query_as!(
        RawNeighbour,
        r#"SELECT j.id, j.name, j.state, j.attempt, j.cancelled_for,
                  j.array_size IS NOT NULL AS "is_array!", j.array_job_id
         FROM job_needs d JOIN jobs j ON j.id = d.needs_job_id
         WHERE d.job_id = $1
         ORDER BY j.position, j.id"#,
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Neighbour::try_from).collect()
}

/// The jobs that need `job`, directly or through others, each after what it needs.
pub async fn list_dependents(conn: &mut Conn, job: JobId) -> Result<Vec<Neighbour>> {
    let rows = sqlx::query_as!(
        RawNeighbour,
        r#"WITH RECURSIVE dependents (id) AS (
               SELECT job_id FROM job_needs WHERE needs_job_id = $1
               UNION
               SELECT n.job_id FROM job_needs n JOIN dependents d ON n.needs_job_id = d.id
           )
           SELECT j.id, j.name, j.state, j.attempt, j.cancelled_for,
                  j.array_size IS NOT NULL AS "is_array!", j.array_job_id
           FROM dependents d JOIN jobs j ON j.id = d.id
           -- An array stands before its elements, and needs them.
           ORDER BY j.position, j.array_size IS NOT NULL, j.id"#,
        job.0,
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Neighbour::try_from).collect()
}

/// The elements of an array, in order; none for any other job.
pub async fn list_elements(conn: &mut Conn, array: JobId) -> Result<Vec<Neighbour>> {
    let rows = sqlx::query_as!(
        RawNeighbour,
        r#"SELECT id, name, state, attempt, cancelled_for, array_size IS NOT NULL AS "is_array!",
                  array_job_id
           FROM jobs WHERE array_job_id = $1
           ORDER BY array_index"#,
        array.0,
    )
    .fetch_all(conn.sql())
    .await?;
    rows.into_iter().map(Neighbour::try_from).collect()
}

struct RawNeighbour {
    id: i64,
    name: String,
    state: String,
    attempt: i32,
    cancelled_for: Option<i64>,
    is_array: bool,
    array_job_id: Option<i64>,
}

impl TryFrom<RawNeighbour> for Neighbour {
    type Error = StoreError;
    fn try_from(raw: RawNeighbour) -> Result<Self> {
        Ok(Self {
            id: JobId(raw.id),
            name: convert::job_name(raw.name)?,
            state: convert::job_state(&raw.state)?,
            attempt: convert::u32_of("jobs.attempt", raw.attempt)?,
            cancelled_for: raw.cancelled_for.map(JobId),
            is_array: raw.is_array,
            array_job: raw.array_job_id.map(JobId),
        })
    }
}

struct RawJob {
    id: i64,
    pipeline_id: i64,
    pipeline_name: String,
    name: String,
    kind: String,
    state: String,
    reason: String,
    attempt: i32,
    max_attempts: i32,
    ranks: i32,
    priority: i32,
    created_at: DateTime<Utc>,
    not_before: Option<DateTime<Utc>>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    cancel_requested: bool,
    failure_class: Option<String>,
    failure_message: Option<String>,
    progress: Option<serde_json::Value>,
    artifact: Option<String>,
    needs: Vec<String>,
    elements: Option<serde_json::Value>,
    array_job_id: Option<i64>,
    array_index: Option<i32>,
    reused_from: Option<i64>,
}

impl RawJob {
    /// The state with what is true in it; a column that it needs and lacks cannot be read.
    fn state(&self, failure: Option<&Failure>) -> Result<JobState> {
        let attempt = AttemptNumber(convert::u32_of("jobs.attempt", self.attempt)?);
        let finished_at = || {
            self.finished_at
                .ok_or_else(|| convert::unreadable("jobs.finished_at", "null"))
        };
        Ok(match convert::job_state(&self.state)? {
            JobStateName::Waiting => JobState::Waiting {
                reason: self.reason.clone(),
            },
            JobStateName::Queued => JobState::Queued {
                reason: self.reason.clone(),
                not_before: self.not_before,
            },
            JobStateName::Running => JobState::Running {
                attempt,
                started_at: self
                    .started_at
                    .ok_or_else(|| convert::unreadable("jobs.started_at", "null"))?,
                cancel_requested: self.cancel_requested,
            },
            JobStateName::Succeeded => JobState::Succeeded {
                attempt,
                finished_at: finished_at()?,
            },
            JobStateName::Failed => JobState::Failed {
                failure: failure
                    .cloned()
                    .ok_or_else(|| convert::unreadable("jobs.failure_class", "null"))?,
                finished_at: finished_at()?,
            },
            JobStateName::Cancelled => JobState::Cancelled {
                reason: self.reason.clone(),
                finished_at: finished_at()?,
            },
        })
    }
}

impl TryFrom<RawJob> for Job {
    type Error = StoreError;
    fn try_from(raw: RawJob) -> Result<Self> {
        let failure = convert::failure(raw.failure_class.clone(), raw.failure_message.clone())?;
        let state = raw.state(failure.as_ref())?;
        Ok(Self {
            id: JobId(raw.id),
            pipeline_id: PipelineId(raw.pipeline_id),
            pipeline_name: convert::job_name(raw.pipeline_name)?,
            name: convert::job_name(raw.name)?,
            kind: convert::kind(&raw.kind)?,
            state,
            attempt: convert::u32_of("jobs.attempt", raw.attempt)?,
            max_attempts: convert::u32_of("jobs.spec", raw.max_attempts)?,
            ranks: convert::u32_of("jobs.ranks", raw.ranks)?,
            priority: raw.priority,
            created_at: raw.created_at,
            started_at: raw.started_at,
            failure,
            progress: raw
                .progress
                .map(|p| convert::json("progress", p))
                .transpose()?,
            artifact: raw.artifact.map(convert::digest).transpose()?,
            needs: raw
                .needs
                .into_iter()
                .map(convert::job_name)
                .collect::<Result<_>>()?,
            elements: raw
                .elements
                .map(|counts| convert::json("elements", counts))
                .transpose()?,
            element: element_of(raw.array_job_id, raw.array_index)?,
            reused_from: raw.reused_from.map(JobId),
        })
    }
}

fn element_of(array: Option<i64>, index: Option<i32>) -> Result<Option<ElementOf>> {
    let (Some(array), Some(index)) = (array, index) else {
        return Ok(None);
    };
    Ok(Some(ElementOf {
        array: JobId(array),
        index: convert::u32_of("jobs.array_index", index)?,
    }))
}
