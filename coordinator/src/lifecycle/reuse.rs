//! An identical step is not done twice: a queued job whose settings, inputs and code are those of
//! one that succeeded takes its artifact and succeeds too, without being placed. One that is at
//! work is waited for.
//!
//! Invariant: the artifact's files are all here, and its code is that of every worker that could
//! have done the work. Where that cannot be said, the job runs.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::JobId;
use marquee_domain::spec::InputRef;
use marquee_domain::step;
use marquee_store::reuse::{self, Reusable};
use marquee_store::transitions::{self, Success};
use marquee_store::{Conn, artifacts, pipelines};

use super::{Result, dependents};
use crate::app::App;
use crate::blobs::Checked;
use crate::index::Known;
use crate::walls::caught;

/// Earlier artifacts looked at for one whose files are all here: more that are broken is a broken
/// disk, and then the work itself beats a search.
const ARTIFACTS_TRIED_MAX: u32 = 5;

/// Gives those among the queued jobs of `read` and `freed` the artifacts of identical steps. Those whose step
/// another job is at stay in the index and out of its queue; `freed` are those for whom that has ended.
pub async fn reuse(app: &App, read: &BTreeSet<JobId>, freed: Vec<JobId>) -> Result<()> {
    let candidates: Vec<(JobId, Known)> = {
        let open = app.index.open();
        let freed = freed.iter().copied();
        let all = read.iter().copied().chain(freed);
        let known = all.filter_map(|job| Some((job, open.job(job)?.clone())));
        known
            .filter(|(_, known)| !known.is_running && known.spec.work.kind().is_reusable())
            .collect()
    };
    for (id, known) in candidates {
        let is_freed = freed.contains(&id);
        match caught(consider(app, id, known, is_freed)).await? {
            Ok(()) => {}
            Err(error) if error.may_pass() => return Err(error),
            // It does its own work, and the others do not notice.
            Err(error) => {
                tracing::error!(job = %id, %error, "not reused: what it needs cannot be read")
            }
        }
    }
    Ok(())
}

async fn consider(app: &App, id: JobId, mut known: Known, is_freed: bool) -> Result<()> {
    if known.step.is_none() {
        known.step = note_step(app, id, &known).await?;
        if let Some(step) = known.step.clone() {
            app.index.open().learn_step(id, step);
        }
    } else if is_freed {
        app.index.open().without_twin(id);
    }
    let code = app.index.open().common_code().map(str::to_owned);
    if let (Some(step), Some(code), true) = (&known.step, code, known.spec.reuse) {
        take_earlier(app, id, &known, step, &code).await?;
    }
    Ok(())
}

/// Stores what a job does, so that it need not be found out again. None where an input is not there.
async fn note_step(app: &App, id: JobId, job: &Known) -> Result<Option<Digest>> {
    let mut conn = app.db.read().await?;
    let Some(inputs) = inputs(&mut conn, job).await? else {
        return Ok(None);
    };
    drop(conn);
    let step = step::digest(&job.spec.work, &inputs);
    // In a transaction of its own: what the job does stays true, whatever becomes of the reuse.
    let mut tx = app.db.write("note step").await?;
    reuse::mark_step(&mut tx, id, &step).await?;
    tx.commit().await?;
    Ok(Some(step))
}

async fn inputs(conn: &mut Conn, job: &Known) -> Result<Option<BTreeMap<String, Manifest>>> {
    let mut manifests = BTreeMap::new();
    for (name, input) in &job.spec.inputs {
        let manifest = match input {
            InputRef::Job { job: of, .. } => {
                artifacts::find_manifest_by_name(conn, job.pipeline, of).await?
            }
            InputRef::Artifact(digest) => artifacts::find_manifest_by_digest(conn, digest).await?,
        };
        let Some(manifest) = manifest else {
            return Ok(None);
        };
        manifests.insert(name.clone(), manifest);
    }
    Ok(Some(manifests))
}

/// Takes the artifact of an identical step that succeeded, where there is one.
async fn take_earlier(app: &App, id: JobId, job: &Known, step: &Digest, code: &str) -> Result<()> {
    let today = app.clock.now().date_naive();
    let mut conn = app.db.read().await?;
    let earlier = reuse::list_reusable(&mut conn, step, code, today, ARTIFACTS_TRIED_MAX).await?;
    drop(conn);
    for source in earlier {
        let Checked { wrong, vouch } = app.blobs.check(&source.manifest).await?;
        let Some(first) = wrong.first() else {
            let done = commit(app, id, job, &source, code).await;
            // Whoever removes that artifact meanwhile leaves its files, which are this job's now.
            drop(vouch);
            return match done {
                // Cancelled since we read it.
                Err(error) if error.is_stale() => Ok(()),
                done => done,
            };
        };
        tracing::warn!(
            job = %id, from = %source.job, files = wrong.len(), %first,
            "an identical step is not reused: files of its artifact are missing or damaged"
        );
    }
    Ok(())
}

/// queued -> succeeded with the artifact of `source`, in one transaction.
async fn commit(app: &App, id: JobId, job: &Known, source: &Reusable, code: &str) -> Result<()> {
    let now = app.clock.now();
    let from = source.job;
    let mut tx = app.db.write("reuse").await?;
    pipelines::lock_pipeline(&mut tx, job.pipeline).await?;
    // An attempt without ranks: what a job commits, an attempt of it commits.
    let number = transitions::mark_job_running_here(&mut tx, id, job.attempt, now).await?;
    transitions::mark_job_reused(&mut tx, id, from).await?;
    let name = job.spec.work.kind().output();
    let digest = source.manifest.digest();
    let text = format!(
        "reused from job {from}: same code, settings and inputs; committed {name} {}",
        digest.short()
    );
    let success = Success {
        at: (id, number),
        name,
        manifest: &source.manifest,
        code,
        text: &text,
    };
    let (done, arrays) = transitions::mark_jobs_succeeded(&mut tx, &[success], now).await?;
    let mut changed = dependents::release(&mut tx, done, &arrays, now).await?;
    tx.commit().await?;
    tracing::info!(job = %id, %from, artifact = digest.short(), "an identical step was reused");
    changed.push(id);
    app.jobs_changed(&changed);
    // It must not be planned before its end is read.
    app.index.open().settled(id);
    Ok(())
}
