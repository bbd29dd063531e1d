//! Taking away what ended: a pipeline with all that is stored of it, an artifact by itself, and then the files that
//! nothing names any more.
//!
//! Invariant: what an open job needs stays, and whoever asks is told who needs it. The rows go first, in one
//! transaction; a file goes only when no stored manifest names it, so that a crash in between leaves a file too many,
//! which `background::sweep` finds, and never one too few. A file that somebody is about to name stays too
//! (`blobs::vouch`), and is left to the sweep. One that a coordinator removes which no longer leads stays as well
//! (`blobs::remove`).

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_store::removal::{self, Going};
use marquee_store::{Conn, Tx, events, pipelines, retention, transitions};

use super::{LifecycleError, Result};
use crate::app::App;

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    pub jobs: u64,
    pub artifacts: u64,
    /// Files that nothing named any more, and their bytes on the disk.
    pub files: u64,
    pub bytes: u64,
}

/// Who wants a pipeline to go.
#[derive(Debug, Clone, Copy)]
pub enum Because {
    Asked,
    /// Its project keeps it no longer.
    Aged,
}

/// Removes a pipeline whose jobs have all ended.
pub async fn remove_pipeline(
    app: &App,
    id: PipelineId,
    because: Because,
    dry_run: bool,
    caller: &str,
) -> Result<Removed> {
    let now = app.clock.now();
    let mut conn = app.db.read().await?;
    pipelines::get_pipeline(&mut conn, id).await?;
    let jobs = removal::list_all_jobs(&mut conn, id).await?;
    // Asked first without a lock: a dry run, and a refusal, hold up nobody.
    let going = pipeline_is_free(&mut conn, id, because, now).await?;
    let files = removal::list_files(&mut conn, &jobs).await?;
    drop(conn);
    let counted = |files: u64, bytes| Removed {
        jobs: jobs.len() as u64,
        artifacts: going.len() as u64,
        files,
        bytes,
    };
    if dry_run {
        return Ok(counted(files.len() as u64, sum(&going)));
    }
    // Logs can be many: they go in pieces, before the pipeline itself, which is still there if this is cut short.
    loop {
        let mut tx = app.db.write("remove rows").await?;
        tx.plan_anew().await?;
        // Under the lock each time, and asked anew: a retry between two pieces ends the removal there.
        pipelines::lock_pipeline(&mut tx, id).await?;
        pipeline_is_free(&mut tx, id, because, now).await?;
        let some = removal::delete_some_rows(&mut tx, &jobs).await?;
        tx.commit().await?;
        if !some {
            break;
        }
    }
    let mut tx = app.db.write_as("remove pipeline", caller).await?;
    tx.plan_anew().await?;
    pipelines::lock_pipeline(&mut tx, id).await?;
    // Locked before they are asked for: a submission that names one of them is either seen, or finds it gone.
    retention::lock_artifacts(&mut tx, &jobs).await?;
    // A retry may have come in between.
    pipeline_is_free(&mut tx, id, because, now).await?;
    removal::delete_pipeline(&mut tx, id).await?;
    tx.commit().await?;
    let (gone, bytes) = collect(app, &files).await?;
    tracing::info!(pipeline = %id, jobs = jobs.len(), files = gone, bytes, caller, "pipeline removed");
    Ok(counted(gone, bytes))
}

/// Removes the artifacts with this digest.
pub async fn remove_artifact(
    app: &App,
    digest: &Digest,
    dry_run: bool,
    caller: &str,
    why: &str,
) -> Result<Removed> {
    let mut conn = app.db.read().await?;
    let going = artifact_is_free(&mut conn, digest).await?;
    let jobs: Vec<JobId> = going.iter().map(|going| going.job).collect();
    let files = removal::list_files(&mut conn, &jobs).await?;
    drop(conn);
    let counted = |files, bytes| Removed {
        jobs: 0,
        artifacts: going.len() as u64,
        files,
        bytes,
    };
    if dry_run {
        return Ok(counted(files.len() as u64, sum(&going)));
    }
    let now = app.clock.now();
    let mut tx = app.db.write_as("remove artifact", caller).await?;
    tx.plan_anew().await?;
    let mut of: Vec<PipelineId> = going.iter().map(|going| going.pipeline).collect();
    of.sort_unstable();
    of.dedup();
    // In order, as whoever locks several does.
    pipelines::lock_pipelines(&mut tx, &of).await?;
    retention::lock_artifacts(&mut tx, &jobs).await?;
    artifact_is_free(&mut tx, digest).await?;
    removal::delete_artifacts(&mut tx, &jobs).await?;
    for job in &jobs {
        note(&mut tx, *job, why, caller, now).await?;
    }
    tx.commit().await?;
    let (gone, bytes) = collect(app, &files).await?;
    tracing::info!(
        artifact = digest.short(),
        files = gone,
        bytes,
        caller,
        why,
        "artifact removed"
    );
    app.jobs_shown(&jobs);
    Ok(counted(gone, bytes))
}

async fn note(tx: &mut Tx, job: JobId, why: &str, caller: &str, now: DateTime<Utc>) -> Result<()> {
    let head = transitions::get_job_head(tx, job).await?;
    events::insert_event_by(tx, job, head.attempt, why, caller, now).await?;
    Ok(())
}

/// The artifacts of a pipeline, unless somebody needs it.
async fn pipeline_is_free(
    conn: &mut Conn,
    id: PipelineId,
    because: Because,
    now: DateTime<Utc>,
) -> Result<Vec<Going>> {
    let what = || format!("pipeline p{id}");
    if let Some((by, _)) = retention::find_keeper(conn, id).await? {
        return Err(LifecycleError::Kept { pipeline: id, by });
    }
    let open = removal::list_open(conn, id).await?;
    unless_needed(what, "have not ended; cancel them first", &open)?;
    let held = removal::list_held(conn, id).await?;
    unless_needed(
        what,
        "have ended, but their worker has not said yet that nothing is left of them",
        &held,
    )?;
    let going = removal::list_going(conn, Some(id), None).await?;
    let digests: Vec<Digest> = going.iter().map(|going| going.digest.clone()).collect();
    // Those of its own go with it. Jobs that have ended do not count: they have had their inputs.
    let users = removal::list_users(conn, &digests, Some(id)).await?;
    unless_needed(
        what,
        "of other pipelines take its artifacts as inputs",
        &users,
    )?;
    if let Because::Aged = because
        && retention::find_aged(conn, id, now)
            .await?
            .is_none_or(|aged| aged.stays.is_some())
    {
        return Err(LifecycleError::NotAged(id));
    }
    Ok(going)
}

/// The artifacts with a digest, unless somebody needs them.
async fn artifact_is_free(conn: &mut Conn, digest: &Digest) -> Result<Vec<Going>> {
    let going = removal::list_going(conn, None, Some(digest)).await?;
    if going.is_empty() {
        return Err(LifecycleError::ArtifactNotFound(digest.clone()));
    }
    let what = || format!("artifact {}", digest.short());
    let users = removal::list_users(conn, std::slice::from_ref(digest), None).await?;
    unless_needed(what, "take it as an input", &users)?;
    let jobs: Vec<JobId> = going.iter().map(|going| going.job).collect();
    let dependents = removal::list_dependents(conn, &jobs).await?;
    unless_needed(what, "need the job that made it", &dependents)?;
    Ok(going)
}

fn unless_needed(what: impl Fn() -> String, how: &'static str, by: &[JobId]) -> Result<()> {
    if by.is_empty() {
        return Ok(());
    }
    let by: Vec<String> = by.iter().map(ToString::to_string).collect();
    Err(LifecycleError::Needed {
        what: what(),
        by: by.join(", "),
        how,
    })
}

fn sum(going: &[Going]) -> u64 {
    let sizes = going.iter().map(|going| going.size_bytes);
    sizes.fold(0, u64::saturating_add)
}

/// Removes those files that no stored manifest names, and that nobody is about to name.
pub async fn collect(app: &App, files: &[Digest]) -> Result<(u64, u64)> {
    let (mut gone, mut bytes) = (0, 0);
    for some in files.chunks(FILES_AT_ONCE) {
        // Condemned before the manifests are read: what is committed between the two saves its files.
        let condemned = app.blobs.condemn(some).await;
        let mut conn = app.db.read().await?;
        let unnamed = removal::list_unnamed(&mut conn, some).await?;
        drop(conn);
        let going = condemned.take_out(unnamed).await?;
        // Once more, now that they are out of their places, and as the one that leads: whatever another coordinator
        // has committed since this one led is seen here, or this is refused. Then they are put back.
        let mut tx = app.db.write("remove files").await?;
        let unnamed = removal::list_unnamed(&mut tx, going.digests()).await?;
        drop(tx);
        let (count, size) = going.remove(unnamed).await?;
        gone += count;
        bytes += size;
    }
    Ok((gone, bytes))
}

/// Puts those files back that a killed coordinator had begun to remove and that something names.
pub async fn settle_going(app: &App) -> Result<()> {
    for some in app.blobs.going().chunks(FILES_AT_ONCE) {
        let mut conn = app.db.read().await?;
        let unnamed: BTreeSet<Digest> = removal::list_unnamed(&mut conn, some)
            .await?
            .into_iter()
            .collect();
        drop(conn);
        // What nobody names goes on counting as missing, and the sweep deletes what is left of it.
        let named = some.iter().filter(|digest| !unnamed.contains(*digest));
        app.blobs.settle_going(named.cloned().collect()).await?;
    }
    Ok(())
}

/// Files that were stored before `before` and that no stored manifest names: how many would go, and their bytes.
pub(super) async fn count_unnamed(app: &App, before: DateTime<Utc>) -> Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for some in app.blobs.list_older(before).await?.chunks(FILES_AT_ONCE) {
        let mut conn = app.db.read().await?;
        let unnamed = removal::list_unnamed(&mut conn, some).await?;
        drop(conn);
        count += unnamed.len() as u64;
        bytes += app.blobs.bytes_of(unnamed).await?;
    }
    Ok((count, bytes))
}

/// Files whose names are asked for in one statement.
const FILES_AT_ONCE: usize = 10_000;
