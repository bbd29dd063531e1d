//! The check of a cluster's own history: what the database wrote down, and what is stored, held against the rules.
//!
//! Invariant: nothing is changed, and nobody waits for it. It reads one moment of the database, a page at a time, on one
//! connection; only files are looked for afterwards, and what went meanwhile is no finding.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId};
use marquee_domain::rank::RankKey;
use marquee_history::{Checker, Limits, MissingFile, Report, What};
use marquee_store::audit::{self, Filter};
use marquee_store::{Conn, artifacts};
use tokio::sync::mpsc;

use crate::app::App;
use crate::lifecycle::{LifecycleError, Result};

/// Rows of one statement: some milliseconds each.
const ROWS_AT_ONCE: u32 = 5_000;
/// Artifacts whose files are looked for before the next page is read.
const ARTIFACTS_AT_ONCE: u32 = 500;
/// Files of one artifact that are named as missing; the others are counted.
const FILES_NAMED_MAX: usize = 3;
/// How long one check may take. As long as it reads, rows that change are kept for it.
pub const WITHIN: Duration = Duration::from_secs(15 * 60);

/// What to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Leave files alone.
    pub skip_files: bool,
    /// Faults have stopped, and everything had the time to come to rest.
    pub expect_quiet: bool,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: &'static str,
    pub done: u64,
}

/// What a check found.
#[derive(Debug, Clone)]
pub struct Verified {
    pub report: Report,
    /// Artifacts whose files were looked for.
    pub artifacts: u64,
    /// Since when the audit knows what happened.
    pub began_at: Option<DateTime<Utc>>,
}

/// Checks everything. Progress that nobody takes is dropped.
pub async fn verify(
    app: &App,
    wanted: Wanted,
    progress: &mpsc::Sender<Progress>,
) -> Result<Verified> {
    let mut checker = Checker::new(Limits {
        lease: app.settings.lease,
        ..Limits::default()
    });
    // Lines and rows of one moment: read one after the other from a cluster at work they would contradict
    // each other.
    let mut conn = app.db.snapshot().await?;
    let began_at = read_lines(&mut conn, &mut checker, progress).await?;
    read_stored(&mut conn, &mut checker, progress).await?;
    // Given back before the files are looked for, which takes longest: as long as it is held, Postgres keeps
    // old rows for it.
    drop(conn);
    let artifacts = match wanted.skip_files {
        true => 0,
        false => look_for_files(app, &mut checker, progress).await?,
    };
    Ok(Verified {
        report: checker.finish(app.clock.now(), wanted.expect_quiet),
        artifacts,
        began_at,
    })
}

async fn read_lines(
    conn: &mut Conn,
    checker: &mut Checker,
    progress: &mpsc::Sender<Progress>,
) -> Result<Option<DateTime<Utc>>> {
    let mut filter = Filter::default();
    let (mut began_at, mut done) = (None, 0);
    loop {
        let page = audit::list_lines(conn, &filter, ROWS_AT_ONCE).await?;
        for event in page.lines.iter().filter_map(audit::event) {
            if let What::Began { .. } = event.what {
                began_at.get_or_insert(event.at);
            }
            checker.event(&event);
        }
        done += page.lines.len() as u64;
        tell(progress, "lines", done);
        match page.next {
            Some(next) => filter.after = next,
            None => return Ok(began_at),
        }
    }
}

async fn read_stored(
    conn: &mut Conn,
    checker: &mut Checker,
    progress: &mpsc::Sender<Progress>,
) -> Result<()> {
    let mut after = PipelineId(0);
    loop {
        let page = audit::list_stored_pipelines(conn, after, ROWS_AT_ONCE).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        page.iter().for_each(|pipeline| checker.pipeline(pipeline));
    }
    let (mut after, mut done) = (JobId(0), 0);
    loop {
        let page = audit::list_stored_jobs(conn, after, ROWS_AT_ONCE).await?;
        let Some(last) = page.last() else { break };
        after = last.id;
        page.iter().for_each(|job| checker.job(job));
        done += page.len() as u64;
        tell(progress, "jobs", done);
    }
    let (mut after, mut done) = (RankKey::new(0, 0, 0), 0);
    loop {
        let page = audit::list_stored_ranks(conn, after, ROWS_AT_ONCE).await?;
        let Some(last) = page.last() else { break };
        after = last.key;
        page.iter().for_each(|rank| checker.rank(rank));
        done += page.len() as u64;
        tell(progress, "ranks", done);
    }
    Ok(())
}

/// Looks whether the files of every artifact are there. Returns how many artifacts it looked at.
async fn look_for_files(
    app: &App,
    checker: &mut Checker,
    progress: &mpsc::Sender<Progress>,
) -> Result<u64> {
    let (mut after, mut done) = (JobId(0), 0);
    loop {
        let mut conn = app.db.read().await?;
        let page = audit::list_jobs_with_artifact(&mut conn, after, ARTIFACTS_AT_ONCE).await?;
        drop(conn);
        let Some((last, _)) = page.last() else {
            return Ok(done);
        };
        after = *last;
        for (job, attempt) in &page {
            if let Some(what) = wrong_with(app, *job).await? {
                let attempt: AttemptNumber = *attempt;
                let job = *job;
                checker.missing(&MissingFile { job, attempt, what });
            }
        }
        done += page.len() as u64;
        tell(progress, "artifacts", done);
    }
}

/// What is wrong with the files of a job's artifact.
async fn wrong_with(app: &App, job: JobId) -> Result<Option<String>> {
    let Some(manifest) = manifest(app, job).await? else {
        return Ok(None);
    };
    let wrong = app.blobs.check(&manifest).await?.wrong;
    if wrong.is_empty() || manifest_is_gone(app, job).await? {
        return Ok(None);
    }
    let named = wrong.iter().take(FILES_NAMED_MAX).map(ToString::to_string);
    let mut text = named.collect::<Vec<_>>().join("; ");
    if wrong.len() > FILES_NAMED_MAX {
        text.push_str(&format!("; and {} more", wrong.len() - FILES_NAMED_MAX));
    }
    Ok(Some(text))
}

/// It was removed since it was listed.
async fn manifest_is_gone(app: &App, job: JobId) -> Result<bool> {
    Ok(manifest(app, job).await?.is_none())
}

async fn manifest(
    app: &App,
    job: JobId,
) -> std::result::Result<Option<marquee_domain::artifact::Manifest>, LifecycleError> {
    let mut conn = app.db.read().await?;
    Ok(artifacts::find_manifest_of_job(&mut conn, job).await?)
}

fn tell(progress: &mpsc::Sender<Progress>, phase: &'static str, done: u64) {
    // Who is slow, or has left, misses it.
    let _ = progress.try_send(Progress { phase, done });
}
