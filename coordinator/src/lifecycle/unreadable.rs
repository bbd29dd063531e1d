//! Jobs whose stored rows this version cannot read: each fails by itself, and everybody else goes on.

use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::{Tx, elements, events, pipelines, transitions};

use super::{LifecycleError, Result, settle};
use crate::app::App;

/// Fails open jobs that cannot be read, with the reason and the way out. One that runs is left to its
/// workers: what they hold ends as it would, and then it fails here.
pub async fn fail_unreadable(app: &App, jobs: Vec<(JobId, String)>) -> Result<()> {
    for (job, why) in jobs {
        match fail(app, job, &why).await {
            Ok(()) => {}
            // The database is away, and all is tried again. Any other error must not keep the jobs behind this one.
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                tracing::error!(%job, %error, why, "a job cannot be read, and not be failed for it")
            }
        }
    }
    Ok(())
}

async fn fail(app: &App, job: JobId, why: &str) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write("fail unreadable").await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    if head.life().fail_unplaced().is_err() {
        return Ok(());
    }
    let failure = Failure {
        class: FailureClass::BadInput,
        message: format!(
            "what is stored of this job cannot be read by version {}: {why}. If a newer version stored it, \
             start that one and \"marquee retry {job}\"; else submit it again",
            env!("CARGO_PKG_VERSION")
        ),
    };
    let mut changed = vec![job];
    if head.is_array {
        changed.extend(fail_elements(&mut tx, job, &failure, now).await?);
    }
    let open = [JobStateName::Waiting, JobStateName::Queued];
    transitions::mark_job_failed(&mut tx, job, head.attempt, &open, &failure, now).await?;
    let text = format!("failed ({}): {}", failure.class.as_str(), failure.message);
    events::insert_event(&mut tx, job, head.attempt, &text, now).await?;
    changed.extend(settle::after_failure(&mut tx, job, head.array_job, now).await?);
    tx.commit().await?;
    tracing::error!(%job, why, "a job cannot be read and has failed");
    app.jobs_changed(&changed);
    Ok(())
}

/// The elements of an array have no spec but its.
async fn fail_elements(
    tx: &mut Tx,
    array: JobId,
    failure: &Failure,
    now: chrono::DateTime<chrono::Utc>,
) -> std::result::Result<Vec<JobId>, LifecycleError> {
    elements::mark_elements_dropped(tx, &[array]).await?;
    let mut waiting = Vec::new();
    for head in transitions::list_open_elements(tx, array).await? {
        if head.life().fail_unplaced().is_ok() {
            waiting.push((head.id, head.attempt));
        }
    }
    Ok(
        transitions::mark_jobs_cancelled(tx, &waiting, &failure.message, Some(array), "", now)
            .await?,
    )
}
