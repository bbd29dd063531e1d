//! Train and command jobs whose GPUs do nothing: said in their history and wherever jobs are shown, and stopped where
//! their project wants that.
//!
//! Invariant: only what was read counts. Each GPU of a job must have been read without a gap over the whole time, by this
//! coordinator, while all ranks of the attempt ran; nothing is concluded from silence. A job is said to idle in one round
//! and stopped in a later one.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::idle::{BUSY_PERCENT_MAX, said_after};
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_domain::spec::JobKind;
use marquee_store::live::{self, Live};
use marquee_store::{events, pipelines, steering};

use super::Pace;
use crate::app::App;
use crate::index::Open;
use crate::lifecycle::{self, Result};
use crate::session::{Activity, Sessions};

/// Workers send readings every five seconds, and a job is judged by minutes of them: looking more often finds nothing.
const EVERY: Duration = Duration::from_secs(10);
/// GPUs named in one line.
const NAMED_MAX: usize = 4;

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("idle", EVERY.min(app.settings.poll_every * 3));
    loop {
        let pause = pace.after(&round(&app).await);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A running job with what its GPUs do.
#[derive(Debug)]
struct Seen {
    job: JobId,
    attempt: AttemptNumber,
    activity: Activity,
    is_said: bool,
    project: String,
    stop_min: Option<u32>,
    /// As `worker/index`.
    gpus: Vec<String>,
}

pub(super) async fn round(app: &App) -> Result<()> {
    let seen = look(&app.index.open(), &app.sessions);
    // Not one of whose GPUs nothing is known: what was said of it stands until something is.
    let at_work = |seen: &&Seen| seen.is_said && seen.activity == Activity::Busy;
    for seen in seen.iter().filter(at_work) {
        works_again(app, seen).await?;
    }
    let quiet: Vec<&Seen> = seen
        .iter()
        .filter(|seen| matches!(seen.activity, Activity::Quiet(length) if length >= said_after(seen.stop_min)))
        .collect();
    if quiet.is_empty() {
        return Ok(());
    }
    let jobs: Vec<JobId> = quiet.iter().map(|seen| seen.job).collect();
    // Looked up for the quiet ones alone: most rounds find none, and then ask Postgres nothing.
    let mut conn = app.db.read().await?;
    let live = live::list_live(&mut conn, &jobs).await?;
    drop(conn);
    for live in live.into_iter().flatten() {
        let Some(seen) = quiet.iter().find(|seen| seen.job == live.job) else {
            continue;
        };
        let now = app.clock.now();
        let Some(idle) = idle_for(seen, &live, now) else {
            continue;
        };
        match seen.stop_min {
            Some(minutes) if seen.is_said && idle >= TimeDelta::minutes(minutes.into()) => {
                let message = stopped(seen, live.kind, idle, minutes);
                lifecycle::stop_idle(app, (seen.job, seen.attempt), &message).await?;
            }
            Some(_) | None if !seen.is_said => say(app, seen, now - idle, now).await?,
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// The running jobs that hold GPUs and ought to use them. Of its GPUs the one tells that did something last.
fn look(open: &Open, sessions: &Sessions) -> Vec<Seen> {
    let of = |job: JobId| {
        let known = open.job(job)?;
        let sharing = &known.spec.sharing;
        let is_concerned = match known.spec.work.kind() {
            JobKind::Train | JobKind::Command => !sharing.idle_ok && !known.is_leaving,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Eval => false,
        };
        let gpus = open.gpus_of(job);
        if !is_concerned || gpus.is_empty() {
            return None;
        }
        let activities = gpus
            .iter()
            .map(|(worker, index)| sessions.activity(*worker, *index));
        let name = |worker| {
            let known = open.workers.iter().find(|known| known.id == worker);
            known.map_or_else(|| worker.to_string(), |known| known.name.clone())
        };
        Some(Seen {
            job,
            attempt: AttemptNumber(known.attempt),
            // Unknown before busy before the shortest rest.
            activity: activities.min()?,
            is_said: known.idle_since.is_some(),
            stop_min: open
                .accounts
                .get(sharing.project.as_str())
                .and_then(|account| account.idle_stop_min),
            project: sharing.project.to_string(),
            gpus: gpus
                .iter()
                .map(|(worker, index)| format!("{}/{index}", name(*worker)))
                .collect(),
        })
    };
    open.running().filter_map(of).collect()
}

/// How long the job has idled, where that is long enough to say so. None too while its ranks fetch what they need, start
/// or end: then GPUs have nothing to do.
fn idle_for(seen: &Seen, live: &Live, now: DateTime<Utc>) -> Option<TimeDelta> {
    let Activity::Quiet(quiet) = seen.activity else {
        return None;
    };
    let mut members = live.ranks.iter().filter(|rank| rank.lost_at.is_none());
    let runs = live.attempt.number == seen.attempt
        && live.attempt.state == AttemptStateName::Running
        && live.makes_room.is_none()
        && !live.cancel_requested
        && members.all(|rank| rank.state == RankState::Running);
    // The first step of a training comes after models are built and kernels chosen, however long that takes.
    let has_begun =
        live.kind != JobKind::Train || live.ranks.iter().any(|rank| rank.progress.is_some());
    if !runs || !has_begun {
        return None;
    }
    // What the GPUs did before this attempt began is not its own.
    let idle = (now - live.attempt.started_at?).min(TimeDelta::from_std(quiet).ok()?);
    let long = TimeDelta::from_std(said_after(seen.stop_min)).ok()?;
    (idle >= long).then_some(idle)
}

async fn say(app: &App, seen: &Seen, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<()> {
    let then = match seen.stop_min {
        Some(minutes) => format!(
            "project {} stops such jobs after {minutes} min (idle_stop); idle_ok = true lets one go on",
            seen.project
        ),
        None => format!(
            "nothing stops it (project {} has no idle_stop)",
            seen.project
        ),
    };
    let text = format!(
        "idles: in no reading since {} UTC was {} more than {BUSY_PERCENT_MAX} % busy; {then}",
        since.format("%Y-%m-%d %H:%M:%S"),
        gpus(seen),
    );
    tracing::warn!(job = %seen.job, attempt = %seen.attempt, text, "about its GPUs");
    change(app, seen, Some(since), &text, now).await
}

async fn works_again(app: &App, seen: &Seen) -> Result<()> {
    let text = format!("idles no more: {} worked", gpus(seen));
    change(app, seen, None, &text, app.clock.now()).await
}

/// Stores since when the job idles, if it does, and says so in its history. Nothing where somebody did so before.
async fn change(
    app: &App,
    seen: &Seen,
    since: Option<DateTime<Utc>>,
    text: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let Some(pipeline) = app.index.open().job(seen.job).map(|known| known.pipeline) else {
        return Ok(());
    };
    let at = (seen.job, seen.attempt);
    let mut tx = app.db.write("idle").await?;
    // The lock of all that changes a job: an end that comes at the same time is either seen by
    // this, or comes after it.
    pipelines::lock_pipelines(&mut tx, &[pipeline]).await?;
    let is_news = match since {
        Some(since) => steering::mark_idle(&mut tx, at, since).await?,
        None => steering::mark_busy(&mut tx, at).await?,
    };
    if is_news {
        events::insert_event(&mut tx, seen.job, seen.attempt.0, text, now).await?;
    }
    tx.commit().await?;
    app.jobs_changed(&[seen.job]);
    Ok(())
}

/// Why a job was stopped, and the way out.
fn stopped(seen: &Seen, kind: JobKind, idle: TimeDelta, limit_min: u32) -> String {
    let Seen { job, project, .. } = seen;
    let again = match kind {
        JobKind::Train => "goes on from its last checkpoint",
        JobKind::Command | JobKind::Fetch | JobKind::Preprocess | JobKind::Eval => "runs it again",
    };
    format!(
        "in no reading of the last {} min was {} more than {BUSY_PERCENT_MAX} % busy, and project {project} stops such \
         jobs after {limit_min} min; let it use its GPUs or ask for none, say idle_ok = true in its document, or give \
         all of the project more time (\"marquee project set {project} --idle-stop 2h\"); \"marquee retry {job}\" {again}",
        idle.num_minutes(),
        gpus(seen),
    )
}

/// "gpu-1/0, gpu-1/1 and 6 other GPUs".
fn gpus(seen: &Seen) -> String {
    let named = seen.gpus[..seen.gpus.len().min(NAMED_MAX)].join(", ");
    match seen.gpus.len().saturating_sub(NAMED_MAX) {
        0 if seen.gpus.len() == 1 => format!("its GPU ({named})"),
        0 => format!("any of its GPUs ({named})"),
        more => format!("any of its GPUs ({named} and {more} others)"),
    }
}
