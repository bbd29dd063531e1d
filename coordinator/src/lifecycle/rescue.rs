//! An output that could not be stored when its job ended, and is stored now: it becomes the job's artifact.

use marquee_domain::artifact::Manifest;
use marquee_store::ranks::RankKey;
use marquee_store::transitions::{self, Success};
use marquee_store::{jobs, pipelines};

use super::retry::bring_back;
use super::{LifecycleError, Result, dependents};
use crate::app::App;
use crate::blobs::Checked;

/// failed or cancelled -> succeeded, with the output that an earlier attempt left; jobs that were cancelled
/// for its sake come back. `by` says whose output it is.
///
/// What a job commits, an attempt of it commits: as an ended attempt never changes, this is the next one, which
/// has no ranks.
pub async fn rescue(app: &App, key: RankKey, manifest: &Manifest, by: &str) -> Result<()> {
    let job = key.job;
    let Checked { wrong, vouch } = app.blobs.check(manifest).await?;
    if let Some(first) = wrong.first() {
        let text = format!(
            "{} of its files are not here, among them {first}",
            wrong.len()
        );
        return Err(LifecycleError::Unstored(text));
    }
    // The files were looked at before: reading them under the pipeline's lock would hold up all of its jobs. The vouch
    // keeps them where they are until the commit.
    let now = app.clock.now();
    let mut tx = app.db.write_as("rescue", by).await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let head = transitions::get_job_head(&mut tx, job).await?;
    let asked = format!(
        "a user asked to rescue the output of attempt {}",
        key.attempt
    );
    // Brought back first, with all that was cancelled for its sake. What follows is a commit like any other.
    let mut changed = bring_back(&mut tx, &head, &asked, "", now).await?;
    let number = transitions::mark_job_running_here(&mut tx, job, head.attempt, now).await?;
    let name = jobs::get_job_spec(&mut tx, job).await?.work.kind().output();
    let digest = manifest.digest();
    let success = Success {
        at: (job, number),
        name,
        manifest,
        code: "",
        text: &format!("succeeded; committed {name} {}, {by}", digest.short()),
    };
    let (done, arrays) = transitions::mark_jobs_succeeded(&mut tx, &[success], now).await?;
    changed.extend(dependents::release(&mut tx, done, &arrays, now).await?);
    tx.commit().await?;
    vouch.named();
    tracing::info!(%job, from_attempt = %key.attempt, artifact = digest.short(), by, "an output was rescued");
    app.jobs_changed(&changed);
    app.jobs_ended(&[job]);
    Ok(())
}
