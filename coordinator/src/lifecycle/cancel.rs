//! Cancelling: at once while a job waits, by way of its ranks while it runs.

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_domain::job::JobStateName;
use marquee_store::Tx;
use marquee_store::transitions::{self, JobHead};
use marquee_store::{events, jobs, pipelines, ranks};

use super::{LifecycleError, Result, dependents};
use crate::app::App;

/// What a job says that a user cancelled.
pub(super) const BY_USER: &str = "cancelled by a user";

/// Cancels one job, and with it the jobs that cannot run without it.
pub async fn cancel_job(app: &App, job: JobId) -> Result<()> {
    let mut tx = app.db.write("cancel job").await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    if head.state.is_final() {
        return Err(LifecycleError::JobHasEnded {
            job,
            state: head.state,
        });
    }
    let done = cancel_whole(&mut tx, &head, app.clock.now()).await?;
    tx.commit().await?;
    done.tell(app);
    Ok(())
}

/// Cancels every job of a pipeline that has not ended.
pub async fn cancel_pipeline(app: &App, pipeline: PipelineId) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write("cancel pipeline").await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let mut all = Cancelled::default();
    for job in jobs::list_pipeline_jobs(&mut tx, pipeline).await? {
        // Looked at again each time: an earlier job's end may have cancelled this one.
        let head = transitions::get_job_head(&mut tx, job.id).await?;
        if !head.state.is_final() {
            let done = cancel_whole(&mut tx, &head, now).await?;
            all.jobs.extend(done.jobs);
            all.workers.extend(done.workers);
        }
    }
    tx.commit().await?;
    all.tell(app);
    Ok(())
}

/// What was changed, and the workers that have something to stop.
#[derive(Debug, Default)]
struct Cancelled {
    jobs: Vec<JobId>,
    workers: Vec<WorkerId>,
}

impl Cancelled {
    fn tell(&self, app: &App) {
        for job in &self.jobs {
            app.job_changed(*job);
        }
        app.sessions.nudge(&self.workers);
    }
}

/// Cancels a job that has not ended, and with an array its elements.
async fn cancel_whole(tx: &mut Tx, head: &JobHead, now: DateTime<Utc>) -> Result<Cancelled> {
    let mut all = cancel(tx, head, now).await?;
    if head.is_array {
        for element in jobs::list_elements(tx, head.id).await? {
            let head = transitions::get_job_head(tx, element.id).await?;
            if !head.state.is_final() {
                let done = cancel(tx, &head, now).await?;
                all.jobs.extend(done.jobs);
                all.workers.extend(done.workers);
            }
        }
    }
    Ok(all)
}

/// Cancels one job that has not ended, under the pipeline's lock.
async fn cancel(tx: &mut Tx, head: &JobHead, now: DateTime<Utc>) -> Result<Cancelled> {
    let JobHead { id, attempt, .. } = *head;
    match head.state {
        JobStateName::Waiting | JobStateName::Queued => {
            transitions::mark_job_cancelled(tx, id, attempt, BY_USER, None, now).await?;
            events::insert_event(tx, id, attempt, BY_USER, now).await?;
            tracing::info!(job = %id, "job cancelled before it ran");
            let mut jobs = dependents::cancel(tx, id, "was cancelled", now).await?;
            jobs.push(id);
            Ok(Cancelled {
                jobs,
                workers: vec![],
            })
        }
        JobStateName::Running => {
            if !head.cancel_requested {
                transitions::mark_cancel_requested(tx, id, attempt).await?;
                let text = "a user asked for its cancel; stopping its ranks";
                events::insert_event(tx, id, attempt, text, now).await?;
                tracing::info!(job = %id, attempt, "cancel requested");
            }
            let ranks = ranks::list_ranks(tx, id, Some(AttemptNumber(attempt))).await?;
            let workers = ranks.iter().map(|rank| rank.worker).collect();
            Ok(Cancelled {
                jobs: vec![id],
                workers,
            })
        }
        JobStateName::Succeeded | JobStateName::Failed | JobStateName::Cancelled => {
            Err(LifecycleError::JobHasEnded {
                job: id,
                state: head.state,
            })
        }
    }
}
