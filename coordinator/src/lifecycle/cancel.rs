//! Cancelling: at once while a job waits, by way of its ranks while it runs.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_domain::job::JobStateName;
use marquee_domain::limits::PIPELINE_MAX_JOBS;
use marquee_domain::spec::Ended;
use marquee_store::jobs::JobFilter;
use marquee_store::listing::{self, Wanted};
use marquee_store::transitions::{self, JobHead};
use marquee_store::{Tx, elements, events, needs, pipelines, ranks};

use super::{LifecycleError, Result, dependents};
use crate::app::App;

/// What a job says that a user cancelled.
pub(super) const BY_USER: &str = "cancelled by a user";

/// Cancels one job, and with it the jobs that cannot run without it.
pub async fn cancel_job(app: &App, job: JobId, caller: &str) -> Result<()> {
    let mut tx = app.db.write_as("cancel", caller).await?;
    // The lock comes before the state is read: what is read without it may have ended when the cancel is written.
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    let now = app.clock.now();
    let done = if head.life().request_cancel().is_ok() {
        cancel(&mut tx, vec![head], caller, now).await?
    } else if goes_on(&mut tx, &head).await? {
        cancel_elements(&mut tx, job, caller, now).await?
    } else {
        return Err(LifecycleError::JobHasEnded {
            job,
            state: head.state,
        });
    };
    tx.commit().await?;
    done.tell(app);
    Ok(())
}

/// Cancels every job of a pipeline that has not ended.
pub async fn cancel_pipeline(app: &App, pipeline: PipelineId, caller: &str) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write_as("cancel", caller).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    tx.plan_anew().await?;
    // Their ids alone: a job whose row cannot be read is to be cancelled, too.
    let of_pipeline = JobFilter {
        pipeline: Some(pipeline),
        ..JobFilter::default()
    };
    let ids =
        listing::list_job_ids(&mut tx, &of_pipeline, &Wanted::default(), PIPELINE_MAX_JOBS).await?;
    let heads = transitions::list_job_heads(&mut tx, &ids).await?;
    let (open, ended): (Vec<JobHead>, Vec<JobHead>) = heads
        .into_iter()
        .partition(|head| head.life().request_cancel().is_ok());
    let mut done = cancel(&mut tx, open, caller, now).await?;
    for array in ended {
        if goes_on(&mut tx, &array).await? {
            done.also(cancel_elements(&mut tx, array.id, caller, now).await?);
        }
    }
    tx.commit().await?;
    done.tell(app);
    Ok(())
}

/// What was changed, and the workers that have something to stop.
#[derive(Debug, Default)]
struct Cancelled {
    jobs: Vec<JobId>,
    workers: Vec<WorkerId>,
}

impl Cancelled {
    fn also(&mut self, other: Self) {
        self.jobs.extend(other.jobs);
        self.workers.extend(other.workers);
    }

    fn tell(&self, app: &App) {
        app.jobs_changed(&self.jobs);
        app.sessions.nudge(&self.workers);
    }
}

/// Whether elements of a job that has ended have not: an array ends with the failure that is one too many.
async fn goes_on(tx: &mut Tx, ended: &JobHead) -> Result<bool> {
    Ok(ended.is_array && needs::find_array_end(tx, ended.id).await?.is_none())
}

/// Cancels the elements of an array that has ended and whose elements have not.
async fn cancel_elements(
    tx: &mut Tx,
    array: JobId,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Cancelled> {
    elements::mark_elements_dropped(tx, &[array]).await?;
    let open = transitions::list_open_elements(tx, array).await?;
    if !open.is_empty() {
        return cancel(tx, open, caller, now).await;
    }
    // All that was left of it was to come: it is over for those that wait for that.
    let mut jobs = dependents::element_missed(tx, array, now).await?;
    jobs.push(array);
    Ok(Cancelled {
        jobs,
        workers: Vec::new(),
    })
}

/// Cancels jobs of one pipeline that have not ended, with the elements of those that are arrays, under the
/// pipeline's lock.
async fn cancel(
    tx: &mut Tx,
    mut heads: Vec<JobHead>,
    caller: &str,
    now: DateTime<Utc>,
) -> Result<Cancelled> {
    let arrays: Vec<JobId> = heads
        .iter()
        .filter(|head| head.is_array)
        .map(|head| head.id)
        .collect();
    // Before the elements that are there: with the last of these the array is through only if none is to come.
    elements::mark_elements_dropped(tx, &arrays).await?;
    for array in arrays {
        heads.extend(transitions::list_open_elements(tx, array).await?);
    }
    // What runs is asked, and ends when its ranks have; what does not run ends here and now.
    let (running, waiting): (Vec<JobHead>, Vec<JobHead>) = heads
        .into_iter()
        .partition(|head| head.state == JobStateName::Running);

    let ended: Vec<(JobId, u32)> = waiting.iter().map(|head| (head.id, head.attempt)).collect();
    let mut changed =
        transitions::mark_jobs_cancelled(tx, &ended, BY_USER, None, caller, now).await?;
    tracing::info!(jobs = changed.len(), first = ?changed.first(), "cancelled before they ran");
    // An array that goes with its elements tells those that wait for it itself.
    let mut arrays: BTreeSet<JobId> = waiting.iter().filter_map(|head| head.array_job).collect();
    for head in waiting.iter().filter(|head| head.array_job.is_none()) {
        arrays.remove(&head.id);
        changed.extend(dependents::ended(tx, head.id, Ended::Cancelled, now).await?);
    }
    for array in arrays {
        changed.extend(dependents::element_missed(tx, array, now).await?);
    }

    let at = |head: &JobHead| (head.id, AttemptNumber(head.attempt));
    let asked: Vec<_> = running.iter().map(at).collect();
    let newly = transitions::mark_cancels_requested(tx, &asked).await?;
    let mut workers = Vec::new();
    for (job, attempt) in asked {
        if newly.contains(&job) {
            let text = "a user asked for its cancel; stopping its ranks";
            events::insert_event_by(tx, job, attempt.0, text, caller, now).await?;
            tracing::info!(%job, %attempt, "cancel requested");
        }
        // Also where it was asked for before: the word to its worker may have been lost, and saying it twice does no
        // harm.
        let ranks = ranks::list_ranks(tx, job, Some(attempt)).await?;
        workers.extend(ranks.iter().map(|rank| rank.worker));
        changed.push(job);
    }
    Ok(Cancelled {
        jobs: changed,
        workers,
    })
}
