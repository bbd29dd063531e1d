//! Jobs' states, as what decides over a change needs them.

use chrono::DateTime;
use marquee_domain::end::AttemptBudget;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::JobKind;
use marquee_domain::transitions::{JobLife, JobStage};

use crate::{Conn, Result, StoreError, convert};

/// What a transition decides by. Read it under the pipeline's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobHead {
    pub id: JobId,
    pub pipeline_id: PipelineId,
    /// As people read it: an element has its place in its array behind its name.
    pub display_name: String,
    pub kind: JobKind,
    pub state: JobStateName,
    /// Number of the newest attempt, 0 before the first.
    pub attempt: u32,
    /// The highest attempt number that may still be made.
    pub last_attempt: u32,
    pub max_attempts: u32,
    pub cancel_requested: bool,
    pub is_array: bool,
    /// The array that it is an element of.
    pub array_job: Option<JobId>,
    /// The job whose end without success cancelled it.
    pub cancelled_for: Option<JobId>,
}

impl JobHead {
    /// The job as the domain's transitions take it. What they need of times does not decide here.
    #[must_use]
    pub fn life(&self) -> JobLife {
        let queued_at = DateTime::UNIX_EPOCH;
        JobLife {
            stage: match self.state {
                JobStateName::Waiting => JobStage::Waiting,
                JobStateName::Queued => JobStage::Queued {
                    queued_at,
                    not_before: None,
                },
                JobStateName::Running => JobStage::Running {
                    queued_at,
                    cancel_requested: self.cancel_requested,
                },
                JobStateName::Succeeded => JobStage::Succeeded,
                JobStateName::Failed => JobStage::Failed,
                JobStateName::Cancelled => JobStage::Cancelled {
                    for_job: self.cancelled_for,
                },
            },
            budget: AttemptBudget {
                newest: self.attempt,
                last: self.last_attempt,
                granted: self.max_attempts,
            },
            is_array: self.is_array,
        }
    }
}

/// The pipelines of jobs: what to lock before their states are looked at. Jobs that are not there are
/// left out.
pub async fn list_pipelines_of_jobs(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<PipelineId>> {
    let ids = numbers(jobs);
    // In order, as locks are taken.
    let rows = sqlx::query_scalar!(
        "SELECT DISTINCT pipeline_id FROM jobs WHERE id = ANY ($1) ORDER BY pipeline_id",
        &ids
    )
    .fetch_all(conn.sql())
    .await?;
    Ok(rows.into_iter().map(PipelineId).collect())
}

/// The pipeline of a job: what to lock before its state is looked at.
pub async fn get_pipeline_of_job(conn: &mut Conn, id: JobId) -> Result<PipelineId> {
    let pipelines = list_pipelines_of_jobs(conn, &[id]).await?;
    pipelines
        .first()
        .copied()
        .ok_or(StoreError::JobNotFound(id))
}

/// Jobs' states as transitions need them, in order of number; those that are not there are left out.
pub async fn list_job_heads(conn: &mut Conn, jobs: &[JobId]) -> Result<Vec<JobHead>> {
    // From the view of open and ended jobs together: whoever decides must also see that a job has ended
    // meanwhile.
    let ids = numbers(jobs);
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", pipeline_id AS "pipeline_id!", name AS "name!", array_index,
                  kind AS "kind!", state AS "state!", attempt AS "attempt!", last_attempt AS "last_attempt!",
                  max_attempts AS "max_attempts!", cancel_requested AS "cancel_requested!",
                  array_job_id, cancelled_for, array_size IS NOT NULL AS "is_array!"
           FROM job_states WHERE id = ANY ($1) ORDER BY id"#,
        &ids,
    )
    .fetch_all(conn.sql())
    .await?;
    let heads = rows.into_iter().map(|row| {
        Ok(JobHead {
            id: JobId(row.id),
            pipeline_id: PipelineId(row.pipeline_id),
            display_name: match row.array_index {
                Some(index) => format!("{}[{index}]", row.name),
                None => row.name,
            },
            kind: convert::kind(&row.kind)?,
            state: convert::job_state(&row.state)?,
            attempt: convert::u32_of("open_jobs.attempt", row.attempt)?,
            last_attempt: convert::u32_of("open_jobs.last_attempt", row.last_attempt)?,
            max_attempts: convert::u32_of("jobs.max_attempts", row.max_attempts)?,
            cancel_requested: row.cancel_requested,
            is_array: row.is_array,
            array_job: row.array_job_id.map(JobId),
            cancelled_for: row.cancelled_for.map(JobId),
        })
    });
    heads.collect()
}

/// A job's state as transitions need it.
pub async fn get_job_head(conn: &mut Conn, id: JobId) -> Result<JobHead> {
    let mut heads = list_job_heads(conn, &[id]).await?;
    heads.pop().ok_or(StoreError::JobNotFound(id))
}

/// The elements of an array that are open, as transitions need them.
pub async fn list_open_elements(conn: &mut Conn, array: JobId) -> Result<Vec<JobHead>> {
    let ids = sqlx::query_scalar!(
        "SELECT job_id FROM open_jobs WHERE array_job_id = $1",
        array.0
    )
    .fetch_all(conn.sql())
    .await?;
    let ids: Vec<JobId> = ids.into_iter().map(JobId).collect();
    list_job_heads(conn, &ids).await
}

fn numbers(jobs: &[JobId]) -> Vec<i64> {
    jobs.iter().map(|job| job.0).collect()
}
