//! Retrying a job that ended without success, and bringing back what was cancelled for its sake.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::Tx;
use marquee_store::jobs::Neighbour;
use marquee_store::transitions::{self, JobHead};
use marquee_store::{events, jobs, pipelines};

use super::{LifecycleError, Result, array, dependents};
use crate::app::App;

/// Queues a failed or cancelled job again, with as many attempts as it had at first.
pub async fn retry_job(app: &App, job: JobId) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write("retry job").await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    match head.state {
        JobStateName::Failed | JobStateName::Cancelled => {}
        JobStateName::Waiting
        | JobStateName::Queued
        | JobStateName::Running
        | JobStateName::Succeeded => {
            return Err(LifecycleError::JobHasNotEnded {
                job,
                state: head.state,
            });
        }
    }
    let needs = jobs::list_needs(&mut tx, job).await?;
    let is_element = |need: &Neighbour| need.array_job == Some(job);
    if let Some(need) = needs
        .iter()
        .find(|need| ended_badly(need.state) && !is_element(need))
    {
        let (needs, name) = (need.id, need.name.to_string());
        return Err(LifecycleError::NeedHasNotSucceeded { job, needs, name });
    }
    const BY_USER: &str = "a user asked for a retry";
    let mut changed = Vec::new();
    for element in needs.iter().filter(|need| is_element(need)) {
        if ended_badly(element.state) {
            let head = transitions::get_job_head(&mut tx, element.id).await?;
            changed.extend(revive(&mut tx, &head, element, BY_USER, now).await?);
        }
    }
    let itself = jobs::get_neighbour(&mut tx, job).await?;
    changed.extend(revive(&mut tx, &head, &itself, BY_USER, now).await?);
    for dependent in jobs::list_dependents(&mut tx, job).await? {
        if changed.contains(&dependent.id) || !comes_back(&dependent) {
            continue;
        }
        // In pipeline order, so that its needs are as this retry leaves them.
        let needs = jobs::list_needs(&mut tx, dependent.id).await?;
        if needs.iter().any(|need| ended_badly(need.state)) {
            continue;
        }
        let head = transitions::get_job_head(&mut tx, dependent.id).await?;
        let text = format!("back, because job {job} is retried");
        changed.extend(revive(&mut tx, &head, &dependent, &text, now).await?);
    }
    tx.commit().await?;
    tracing::info!(%job, attempt = head.attempt, back = changed.len(), "job retried");
    for job in changed {
        app.job_changed(job);
    }
    Ok(())
}

/// Whether a job ended only because one that it needs did. What a user cancelled by its own name
/// stays cancelled.
fn comes_back(dependent: &Neighbour) -> bool {
    match dependent.state {
        JobStateName::Cancelled => dependent.cancelled_for.is_some(),
        JobStateName::Failed => dependent.is_array,
        JobStateName::Waiting
        | JobStateName::Queued
        | JobStateName::Running
        | JobStateName::Succeeded => false,
    }
}

/// Puts a job back to where its needs let it be. Returns what changed.
async fn revive(
    tx: &mut Tx,
    head: &JobHead,
    job: &Neighbour,
    text: &str,
    now: DateTime<Utc>,
) -> Result<Vec<JobId>> {
    let id = head.id;
    let needs = jobs::list_needs(tx, id).await?;
    let waits = dependents::waits_for_needs(job, &needs);
    // An array has no work of its own: it waits until it is committed.
    let waits = waits.or_else(|| head.is_array.then(String::new));
    let commits = head.is_array && waits.as_deref() == Some("");
    let last_attempt = head.attempt.saturating_add(head.max_attempts);
    transitions::mark_job_revived(tx, id, head.attempt, last_attempt, waits.as_deref(), now)
        .await?;
    events::insert_event(tx, id, head.attempt, text, now).await?;
    if commits {
        return Ok(array::commit(tx, job, now).await?);
    }
    Ok(vec![id])
}

fn ended_badly(state: JobStateName) -> bool {
    match state {
        JobStateName::Failed | JobStateName::Cancelled => true,
        JobStateName::Waiting
        | JobStateName::Queued
        | JobStateName::Running
        | JobStateName::Succeeded => false,
    }
}
