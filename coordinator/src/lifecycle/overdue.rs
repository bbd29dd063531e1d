//! Queued jobs whose deadline has passed: they fail without an attempt. Those that run are stopped by their verdict.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::{events, pipelines, transitions};

use super::verdict::too_late;
use super::{Result, settle};
use crate::app::App;

/// Jobs that fail for it in one round; the rest follows in later ones.
const JOBS_MAX: usize = 200;

/// Fails queued jobs whose deadline has passed.
pub async fn fail_overdue(app: &App) -> Result<()> {
    let now = app.clock.now();
    let overdue = app.index.open().overdue(now, JOBS_MAX);
    for (job, deadline) in overdue {
        match fail(app, job, deadline).await {
            Ok(()) => {}
            // Postgres is away: the others would meet the same, one time-out after the other.
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                tracing::error!(%job, %error, "a job past its deadline cannot be failed");
            }
        }
        // Whatever became of it: its row is read before it is looked at again.
        app.index.open().settled(job);
        app.index.touch([job]);
    }
    Ok(())
}

async fn fail(app: &App, job: JobId, deadline: DateTime<Utc>) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write("fail overdue").await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    if head.life().fail_unplaced().is_err() {
        return Ok(());
    }
    let failure = too_late(deadline);
    let queued = [JobStateName::Queued];
    transitions::mark_job_failed(&mut tx, job, head.attempt, &queued, &failure, now).await?;
    let text = format!("failed ({}): {}", failure.class.as_str(), failure.message);
    events::insert_event(&mut tx, job, head.attempt, &text, now).await?;
    let mut changed = settle::after_failure(&mut tx, job, head.array_job, now).await?;
    tx.commit().await?;
    tracing::warn!(%job, %deadline, "a queued job has failed: its deadline has passed");
    changed.push(job);
    app.jobs_ended(&changed);
    Ok(())
}
