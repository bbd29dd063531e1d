//! Holding a job back and letting it go. What runs is not touched by it: of an array, the elements that run go on
//! and no further one starts.

use marquee_domain::ids::JobId;
use marquee_store::{events, pipelines, steering, transitions};

use super::{LifecycleError, Result};
use crate::app::App;

/// Keeps a job that waits or is queued from being placed. Holding it twice is the same as once, by whoever did so
/// last.
pub async fn hold_job(app: &App, job: JobId, caller: &str) -> Result<()> {
    set(app, job, Some(caller), caller).await
}

/// Lets it be placed again, at its old place in the queue. A job that nobody holds is left as it is.
pub async fn release_job(app: &App, job: JobId, caller: &str) -> Result<()> {
    set(app, job, None, caller).await
}

async fn set(app: &App, job: JobId, by: Option<&str>, caller: &str) -> Result<()> {
    let now = app.clock.now();
    let operation = if by.is_some() { "hold" } else { "release" };
    let mut tx = app.db.write(operation).await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    let refused = || LifecycleError::JobCannotBeHeld {
        job,
        state: head.state,
    };
    if !head.life().stage.may_be_held() {
        return Err(refused());
    }
    // The domain's word is by what was read; the statement's guard is by what is there now, placement included.
    if !steering::mark_held(&mut tx, job, by, now).await? {
        return Err(refused());
    }
    let text = match by {
        Some(_) => "held: it is not placed until it is released",
        None => "released: it may be placed",
    };
    events::insert_event_by(&mut tx, job, head.attempt, text, caller, now).await?;
    tx.commit().await?;
    tracing::info!(%job, caller, "{text}");
    app.jobs_changed(&[job]);
    Ok(())
}
