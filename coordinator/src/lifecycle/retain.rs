//! Letting go of what has had its time, a few pipelines at a time; and keeping what somebody wants to keep.
//!
//! Each transaction is a small one under the lock of the pipelines that it is about, so that nobody else waits, and
//! asks anew whether their time has come: a retry wins over it, and so does whoever takes an artifact.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::{JobId, PipelineId};
use marquee_store::retention::{self, AgedLogs, LogsOf, Stays};
use marquee_store::{events, pipelines, removal};

use super::remove::{Because, collect, count_unnamed, remove_pipeline};
use super::{LifecycleError, Removed, Result};
use crate::app::App;

/// Pipelines that are looked at in one step.
const PIPELINES_AT_ONCE: u32 = 100;
/// Jobs whose logs and metrics go in one transaction, which deletes 20,000 rows of each at most.
const JOBS_AT_ONCE: u32 = 100;
/// A file that nobody names is one that somebody may be about to name, until it is this old: a rank uploads its
/// files before it names them.
const ABOUT_TO_BE_NAMED: TimeDelta = TimeDelta::days(2);

/// A pipeline whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    pub id: PipelineId,
    pub name: String,
    pub ended_at: DateTime<Utc>,
    /// Why it stays all the same, in words.
    pub stays: Option<String>,
    /// What went with it, or would go.
    pub removed: Removed,
}

/// What a step found.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub retired: Vec<Retired>,
    /// Jobs whose logs and metrics went, or would go, and which stay themselves.
    pub logs_of: u64,
    /// The last pipeline that was looked at. None: there are no more.
    pub next: Option<PipelineId>,
}

/// Looks at the next pipelines after `after`, and removes what has had its time. `dry_run`: only says so.
pub async fn retire(app: &App, after: PipelineId, dry_run: bool, caller: &str) -> Result<Step> {
    let now = app.clock.now();
    let mut conn = app.db.read().await?;
    let (aged, next) = retention::list_aged(&mut conn, after, now, PIPELINES_AT_ONCE).await?;
    drop(conn);
    let Some(last) = next else {
        return Ok(Step::default());
    };
    let mut step = Step {
        next,
        ..Step::default()
    };
    // Newest first: what took from an earlier one and goes itself keeps that one no longer.
    let mut going = BTreeSet::new();
    for one in aged.into_iter().rev() {
        let stays = one
            .stays
            .filter(|stays| !matches!(stays, Stays::TakenBy(_, by) if going.contains(by)));
        let mut retired = Retired {
            id: one.id,
            name: one.name.to_string(),
            ended_at: one.ended_at,
            stays: stays.map(words),
            removed: Removed::default(),
        };
        if retired.stays.is_none() {
            // A dry run removes nothing, so what took from a pipeline is still there: asked by age, it would keep what
            // goes with it.
            let because = if dry_run {
                Because::Asked
            } else {
                Because::Aged
            };
            match remove_pipeline(app, one.id, because, dry_run, caller).await {
                Ok(removed) => retired.removed = removed,
                Err(error) if error.may_pass() => return Err(error),
                // A fault of the store is the round's. What a person can undo (a retry, a keeper) is this pipeline's
                // own.
                Err(LifecycleError::Store(error)) => return Err(error.into()),
                Err(error) => retired.stays = Some(error.to_string()),
            }
        }
        if retired.stays.is_none() {
            going.insert(one.id);
        }
        step.retired.push(retired);
    }
    step.retired.reverse();
    step.logs_of = thin_out(app, LogsOf::Pipelines(after, last), now, dry_run).await?;
    Ok(step)
}

fn words(stays: Stays) -> String {
    match stays {
        Stays::KeptBy(by) => format!("kept by {by}"),
        Stays::TakenBy(job, pipeline) => {
            format!("job {job} of p{pipeline} took an artifact of it")
        }
    }
}

/// Deletes logs and metrics that have had their time. Returns of how many jobs.
async fn thin_out(app: &App, of: LogsOf<'_>, now: DateTime<Utc>, dry_run: bool) -> Result<u64> {
    let mut count = 0;
    loop {
        let mut conn = app.db.read().await?;
        let limit = if dry_run { u32::MAX } else { JOBS_AT_ONCE };
        let aged = retention::list_aged_logs(&mut conn, of, now, limit).await?;
        drop(conn);
        if dry_run || aged.is_empty() {
            return Ok(count + aged.len() as u64);
        }
        count += thin_out_some(app, &aged, now).await?;
    }
}

async fn thin_out_some(app: &App, aged: &[AgedLogs], now: DateTime<Utc>) -> Result<u64> {
    let mut of: Vec<PipelineId> = aged.iter().map(|one| one.pipeline).collect();
    of.sort_unstable();
    of.dedup();
    let jobs: Vec<JobId> = aged.iter().map(|one| one.job).collect();
    let mut tx = app.db.write("thin out logs").await?;
    tx.plan_anew().await?;
    pipelines::lock_pipelines(&mut tx, &of).await?;
    // One that was retried in between writes its log anew.
    let aged = retention::list_aged_logs(&mut tx, LogsOf::Jobs(&jobs), now, u32::MAX).await?;
    let jobs: Vec<JobId> = aged.iter().map(|one| one.job).collect();
    removal::delete_some_rows(&mut tx, &jobs).await?;
    // Long logs go over several transactions: the history says that they went when the last of them has.
    let left = retention::list_aged_logs(&mut tx, LogsOf::Jobs(&jobs), now, u32::MAX).await?;
    let mut done = 0;
    for one in aged {
        if left.iter().any(|other| other.job == one.job) {
            continue;
        }
        let days = one.keep_log_days;
        let text =
            format!("its logs and metrics were removed: its project keeps them for {days} days");
        events::insert_event(&mut tx, one.job, one.attempt, &text, now).await?;
        done += 1;
    }
    tx.commit().await?;
    Ok(done)
}

/// Removes files that no artifact and no checkpoint names, once nobody can be about to name them. Returns how many,
/// and their bytes.
pub async fn collect_unnamed(app: &App, dry_run: bool) -> Result<(u64, u64)> {
    let before = app.clock.now() - ABOUT_TO_BE_NAMED;
    if dry_run {
        return count_unnamed(app, before).await;
    }
    app.blobs.sweep(before).await?;
    let old = app.blobs.list_older(before).await?;
    collect(app, &old).await
}

/// Keeps a pipeline whatever its project says, or lets it age again.
pub async fn keep_pipeline(app: &App, id: PipelineId, keep: bool, caller: &str) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write("keep pipeline").await?;
    pipelines::lock_pipeline(&mut tx, id).await?;
    retention::mark_kept(&mut tx, id, keep.then_some(caller), now).await?;
    tx.commit().await?;
    tracing::info!(pipeline = %id, caller, keep, "pipeline kept, or let go");
    Ok(())
}
