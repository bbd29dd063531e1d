//! An identical step is not done twice: a queued job whose settings, inputs and code are those of
//! one that succeeded takes its artifact and succeeds too, without being placed. One that is at
//! work is waited for.
//!
//! Invariant: the artifact's files are all here, and its code is that of every worker that could
//! have done the work. Where that cannot be said, the job runs.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::InputRef;
use marquee_domain::step;
use marquee_store::Conn;
use marquee_store::artifacts::{self, NewArtifact};
use marquee_store::attempts::{self, AttemptEnd, NewAttempt};
use marquee_store::jobs::QueuedJob;
use marquee_store::reuse::{self, Reusable};
use marquee_store::workers::{Worker, WorkerState};
use marquee_store::{events, pipelines, transitions};

use super::{Result, dependents};
use crate::app::App;

/// Earlier artifacts looked at for one whose files are all here: more that are broken is a broken
/// disk, and then the work itself beats a search.
const ARTIFACTS_TRIED_MAX: u32 = 5;

/// Gives queued jobs the artifacts of identical steps, and keeps those back whose step somebody is
/// at. Returns the jobs that are left to place.
pub async fn reuse(
    app: &App,
    queued: Vec<QueuedJob>,
    workers: &[Worker],
) -> Result<Vec<QueuedJob>> {
    let code = common_code(workers);
    let mut left = Vec::with_capacity(queued.len());
    for mut job in queued {
        if !job.spec.work.kind().is_reusable() {
            left.push(job);
            continue;
        }
        if job.step.is_none() {
            job.step = note_step(app, &job).await?;
        }
        let (Some(step), Some(code), true) = (&job.step, code, job.spec.reuse) else {
            left.push(job);
            continue;
        };
        if take_earlier(app, &job, step, code).await? {
            continue;
        }
        let mut conn = app.db.read().await?;
        match reuse::find_running_step(&mut conn, step).await? {
            Some(at_it) => {
                drop(conn);
                keep_back(app, &job, at_it).await?;
            }
            None => left.push(job),
        }
    }
    Ok(left)
}

/// Of jobs that are about to be placed, those that need not be yet: they do what one before them
/// does.
#[derive(Debug, Default)]
pub struct Twins {
    steps: BTreeMap<Digest, JobId>,
}

impl Twins {
    /// The job placed before that does what `job` does; None: `job` is the first, and is noted.
    pub fn first_of(&mut self, job: &QueuedJob) -> Option<JobId> {
        let step = job.step.as_ref().filter(|_| job.spec.reuse)?;
        if let Some(first) = self.steps.get(step) {
            return Some(*first);
        }
        self.steps.insert(step.clone(), job.id);
        None
    }
}

/// Says of a job that it waits for one that does the same.
pub async fn keep_back(app: &App, job: &QueuedJob, at_it: JobId) -> Result<()> {
    let reason = format!(
        "job {at_it} is at the same step; its result will be taken (\"reuse = false\" runs it all the same)"
    );
    if job.reason != reason {
        let mut tx = app.db.write("reason").await?;
        let is_new =
            transitions::mark_reason(&mut tx, job.id, JobStateName::Queued, &reason).await?;
        tx.commit().await?;
        if is_new {
            let _ = app.changes.send(job.id);
        }
    }
    Ok(())
}

/// The version of the code that the work would be done with, if all workers agree on it.
fn common_code(workers: &[Worker]) -> Option<&str> {
    let online = workers.iter().filter(|worker| match worker.state {
        WorkerState::Online => true,
        WorkerState::Lost | WorkerState::Left => false,
    });
    let codes: BTreeSet<&str> = online.map(|worker| worker.prep_code.as_str()).collect();
    match codes.iter().collect::<Vec<_>>().as_slice() {
        [code] if !code.is_empty() => Some(**code),
        _ => None,
    }
}

/// Stores what a job does, so that it need not be found out again. None where an input is not there.
async fn note_step(app: &App, job: &QueuedJob) -> Result<Option<Digest>> {
    let mut conn = app.db.read().await?;
    let Some(inputs) = inputs(&mut conn, job).await? else {
        return Ok(None);
    };
    drop(conn);
    let step = step::digest(&job.spec.work, &inputs);
    let mut tx = app.db.write("note step").await?;
    reuse::mark_step(&mut tx, job.id, &step).await?;
    tx.commit().await?;
    Ok(Some(step))
}

async fn inputs(conn: &mut Conn, job: &QueuedJob) -> Result<Option<BTreeMap<String, Manifest>>> {
    let mut manifests = BTreeMap::new();
    for (name, input) in &job.spec.inputs {
        let manifest = match input {
            InputRef::Job { job: of, .. } => {
                artifacts::find_manifest_by_name(conn, job.pipeline_id, of).await?
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

/// Takes the artifact of an identical step that succeeded. True when the job is settled.
async fn take_earlier(app: &App, job: &QueuedJob, step: &Digest, code: &str) -> Result<bool> {
    let today = app.clock.now().date_naive();
    let mut conn = app.db.read().await?;
    let earlier = reuse::list_reusable(&mut conn, step, code, today, ARTIFACTS_TRIED_MAX).await?;
    drop(conn);
    for source in earlier {
        let digests = source.manifest.files.iter();
        let digests = digests.map(|file| file.digest.clone()).collect();
        let missing = app.blobs.missing(digests).await?;
        if missing.is_empty() {
            return match commit(app, job, &source, code).await {
                Ok(()) => Ok(true),
                // Cancelled since we read it.
                Err(error) if error.is_stale() => Ok(true),
                Err(error) => Err(error),
            };
        }
        tracing::warn!(
            job = %job.id, from = %source.job, missing = missing.len(),
            "an identical step is not reused: files of its artifact are missing"
        );
    }
    Ok(false)
}

/// queued -> succeeded with the artifact of `source`, in one transaction.
async fn commit(app: &App, job: &QueuedJob, source: &Reusable, code: &str) -> Result<()> {
    let now = app.clock.now();
    let (id, from) = (job.id, source.job);
    let mut tx = app.db.write("reuse").await?;
    pipelines::lock_pipeline(&mut tx, job.pipeline_id).await?;
    let number = transitions::mark_job_running(&mut tx, id, job.attempt, now).await?;
    // An attempt without ranks: what a job commits, an attempt of it commits.
    let attempt = NewAttempt {
        job: id,
        number,
        resume: None,
        created_at: now,
    };
    attempts::insert_attempt(&mut tx, &attempt).await?;
    transitions::mark_job_reused(&mut tx, id, number, from).await?;
    transitions::mark_job_succeeded(&mut tx, id, number, now).await?;
    attempts::mark_attempt_ended(&mut tx, id, number, &AttemptEnd::Succeeded, now).await?;
    let name = job.spec.work.kind().output();
    let artifact = NewArtifact {
        job: id,
        attempt: number,
        name,
        manifest: &source.manifest,
        code,
        committed_at: now,
    };
    artifacts::insert_artifact(&mut tx, &artifact).await?;
    let digest = source.manifest.digest();
    let text = format!(
        "reused from job {from}: same code, settings and inputs; committed {name} {}",
        digest.short()
    );
    events::insert_event(&mut tx, id, number.0, &text, now).await?;
    let mut changed = dependents::release(&mut tx, id, now).await?;
    tx.commit().await?;
    tracing::info!(job = %id, %from, artifact = digest.short(), "an identical step was reused");
    changed.push(id);
    for job in changed {
        app.job_changed(job);
    }
    Ok(())
}
