//! Retrying a job that ended without success, and bringing back what was cancelled for its sake.

use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::transitions::{self, JobHead};
use marquee_store::{events, jobs, pipelines};
use sqlx::PgConnection;

use super::{LifecycleError, Result, dependents};
use crate::app::App;

/// Queues a failed or cancelled job again, with as many attempts as it had at first.
pub async fn retry_job(app: &App, job: JobId) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
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
    if let Some(need) = needs.iter().find(|need| ended_badly(need.state)) {
        let (needs, name) = (need.id, need.name.to_string());
        return Err(LifecycleError::NeedHasNotSucceeded { job, needs, name });
    }
    revive(&mut tx, &head, "a user asked for a retry", now).await?;
    let mut changed = vec![job];
    for dependent in jobs::list_dependents(&mut tx, job).await? {
        // A job that a user cancelled by its own name stays cancelled.
        if dependent.state != JobStateName::Cancelled || dependent.cancelled_for.is_none() {
            continue;
        }
        // In pipeline order, so that its needs are as this retry leaves them.
        let needs = jobs::list_needs(&mut tx, dependent.id).await?;
        if needs.iter().any(|need| ended_badly(need.state)) {
            continue;
        }
        let head = transitions::get_job_head(&mut tx, dependent.id).await?;
        let text = format!("back, because job {job} is retried");
        revive(&mut tx, &head, &text, now).await?;
        changed.push(dependent.id);
    }
    tx.commit().await?;
    tracing::info!(%job, attempt = head.attempt, back = changed.len(), "job retried");
    for job in changed {
        app.job_changed(job);
    }
    Ok(())
}

/// Puts a job back to where its needs let it be.
async fn revive(
    conn: &mut PgConnection,
    head: &JobHead,
    text: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<()> {
    let needs = jobs::list_needs(conn, head.id).await?;
    let waits = dependents::waits_for_needs(&needs);
    let last_attempt = head.attempt.saturating_add(head.max_attempts);
    transitions::mark_job_revived(
        conn,
        head.id,
        head.attempt,
        last_attempt,
        waits.as_deref(),
        now,
    )
    .await?;
    events::insert_event(conn, head.id, head.attempt, text, now).await?;
    Ok(())
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
