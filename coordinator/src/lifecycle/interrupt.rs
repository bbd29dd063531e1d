//! Asking running jobs to make room: for one that goes first, or because a host is emptied. Their ranks get TERM and
//! time to write a checkpoint; then the jobs are queued again at their old place, at no cost.

use std::collections::BTreeSet;

use marquee_domain::end::Interruption;
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_store::{pipelines, ranks, steering, transitions};

use super::{LifecycleError, Result};
use crate::app::App;
use crate::scheduler::Preemption;

/// Asks the victims of a preemption to make room.
pub async fn preempt(app: &App, preemption: &Preemption) -> Result<()> {
    let Preemption { for_job, victims } = preemption;
    let message = format!("job {for_job}, of a higher priority, needs its devices");
    interrupt(app, victims, Interruption::Preempted, &message).await
}

/// Asks jobs to leave a host that an operator empties, for the reason given.
pub async fn move_away(app: &App, jobs: &[JobId], why: &str) -> Result<()> {
    interrupt(app, jobs, Interruption::Drained, why).await
}

async fn interrupt(app: &App, jobs: &[JobId], cause: Interruption, message: &str) -> Result<()> {
    let (at, pipelines, workers) = {
        // From memory: the loops ask for many jobs at once, and the statement below names the attempt, so that what is
        // out of date here asks nobody.
        let open = app.index.open();
        let known = jobs.iter().filter_map(|job| Some((*job, open.job(*job)?)));
        let running: Vec<_> = known.filter(|(_, known)| known.is_running).collect();
        let at: Vec<(JobId, AttemptNumber)> = running
            .iter()
            .map(|(job, known)| (*job, AttemptNumber(known.attempt)))
            .collect();
        let pipelines: BTreeSet<PipelineId> =
            running.iter().map(|(_, known)| known.pipeline).collect();
        let workers: BTreeSet<WorkerId> = running
            .iter()
            .flat_map(|(job, _)| open.workers_of(*job))
            .collect();
        (at, pipelines, workers)
    };
    if at.is_empty() {
        return Ok(());
    }
    ask(app, at, pipelines, workers, cause, message).await
}

/// Asks a gang that lost ranks to stop at a checkpoint: it starts again with all of them.
pub async fn grow(app: &App, job: JobId) -> Result<()> {
    let (all, held) = {
        let open = app.index.open();
        let all = open.job(job).map_or(0, |known| known.shape.ranks);
        let short = open.short.iter().find(|short| short.job == job);
        // Where something may be left of those that it lost they count as held.
        let is_left =
            |worker: &WorkerId| short.is_none_or(|short| !short.unproven.contains(worker));
        (all, open.workers_of(job).filter(is_left).count())
    };
    let message =
        format!("it goes on with {held} of {all} ranks, and devices for all {all} are free");
    interrupt(app, &[job], Interruption::Grown, &message).await
}

/// Stops a job whose GPUs do nothing, if it still runs at this attempt: its ranks may write a checkpoint, and then it
/// fails with this message.
pub async fn stop_idle(app: &App, at: (JobId, AttemptNumber), message: &str) -> Result<()> {
    let (pipelines, workers) = {
        let open = app.index.open();
        let known = open.job(at.0).filter(|known| known.attempt == at.1.0);
        let Some(known) = known else {
            return Ok(());
        };
        let workers = open.workers_of(at.0).collect();
        (BTreeSet::from([known.pipeline]), workers)
    };
    ask(
        app,
        vec![at],
        pipelines,
        workers,
        Interruption::Idle,
        message,
    )
    .await
}

/// Asks a job that runs to leave where it does, for another place where there is one. Asking twice is the same.
pub async fn move_job(app: &App, job: JobId, caller: &str) -> Result<()> {
    let mut conn = app.db.read().await?;
    let head = transitions::get_job_head(&mut conn, job).await?;
    if head.life().interrupt().is_err() {
        let state = head.state;
        return Err(LifecycleError::JobCannotBeMoved { job, state });
    }
    let attempt = AttemptNumber(head.attempt);
    let ranks = ranks::list_ranks(&mut conn, job, Some(attempt)).await?;
    drop(conn);
    let workers: BTreeSet<WorkerId> = ranks.iter().map(|rank| rank.worker).collect();
    // A wish: where nothing else would do it comes back.
    app.index.avoid(job, workers.iter().copied());
    let message = format!("{caller} asked to move it to another host");
    let (at, pipelines) = (vec![(job, attempt)], BTreeSet::from([head.pipeline_id]));
    ask(app, at, pipelines, workers, Interruption::Drained, &message).await
}

async fn ask(
    app: &App,
    at: Vec<(JobId, AttemptNumber)>,
    pipelines: BTreeSet<PipelineId>,
    workers: BTreeSet<WorkerId>,
    cause: Interruption,
    message: &str,
) -> Result<()> {
    let pipelines: Vec<PipelineId> = pipelines.into_iter().collect();
    let mut tx = app.db.write("interrupt").await?;
    pipelines::lock_pipelines(&mut tx, &pipelines).await?;
    // The guard is the statement's: who has ended, or is to be cancelled, is not among those that were asked.
    let heads =
        transitions::list_job_heads(&mut tx, &at.iter().map(|(job, _)| *job).collect::<Vec<_>>())
            .await?;
    let may: BTreeSet<JobId> = heads
        .into_iter()
        .filter(|head| head.life().interrupt().is_ok())
        .map(|head| head.id)
        .collect();
    let at: Vec<_> = at
        .into_iter()
        .filter(|(job, _)| may.contains(job))
        .collect();
    let asked = steering::mark_interrupted(&mut tx, &at, cause, message, app.clock.now()).await?;
    tx.commit().await?;
    tracing::info!(jobs = asked.len(), first = ?asked.first(), cause = cause.as_str(), message, "asked to make room");
    // Before their rows are read again: else the next plan would ask others to make room for the same job.
    app.index.open().asked_to_leave(&asked);
    app.jobs_changed(&asked);
    let workers: Vec<WorkerId> = workers.into_iter().collect();
    app.sessions.nudge(&workers);
    Ok(())
}
