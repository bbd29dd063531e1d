//! Why jobs wait, in words that are made when somebody reads them: what is stored is a class with its
//! figures, which says enough where the scheduler's index does not know the job.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobState;
use marquee_proto::v1;
use marquee_store::jobs::Job;

use super::encode;
use crate::app::App;
use crate::background::hosts;
use crate::index::{Known, Open, aside};
use crate::lifecycle::waits_for;
use crate::scheduler::{
    AtOnce, Explainer, Host, Limits, Obstacle, Pending, ProjectId, QuotaHit, Shape, back_off,
    not_before,
};

/// Jobs named in one reason.
const NAMED_JOBS_MAX: usize = 3;

/// Jobs as messages, those that wait with the reason.
pub(in crate::rpc) fn with_reasons(app: &App, jobs: Vec<Job>) -> Vec<v1::Job> {
    let now = app.clock.now();
    let is_queued = |job: &Job| matches!(job.state, JobState::Queued { .. });
    if !jobs.iter().any(is_queued) {
        return jobs
            .into_iter()
            .map(|job| encode_with(job, String::new()))
            .collect();
    }
    let open = app.index.open();
    let hosts: Vec<Host> = hosts(&open, &app.sessions, now);
    let limits: Limits = open.limits(now);
    let shape_of = |job| Some(open.job(job)?.shape);
    let explainer = Explainer::new(&hosts, &limits, &open.reservations, shape_of, now);
    // Jobs alike wait for the same: it is said once for all of them.
    let mut said: BTreeMap<(ProjectId, Shape), Option<String>> = BTreeMap::new();
    let words = |job: Job| {
        let reason = if is_queued(&job) {
            queued(&open, &explainer, &mut said, &job, now)
        } else {
            String::new()
        };
        encode_with(job, reason)
    };
    jobs.into_iter().map(words).collect()
}

/// One job as a message.
pub(super) fn with_reason(app: &App, job: Job) -> Option<v1::Job> {
    with_reasons(app, vec![job]).pop()
}

fn encode_with(job: Job, queued: String) -> v1::Job {
    let is_running = matches!(job.state, JobState::Running { .. });
    // An element that runs goes on, whoever holds its array.
    let is_kept = !job.state.name().is_final() && (!is_running || job.elements.is_some());
    let held = job.held.as_ref().filter(|_| is_kept);
    let held = held.map(|(by, at)| held_by(by, *at, job.id));
    let waiting = match (&job.state, &job.elements) {
        (JobState::Waiting { .. }, Some(elements)) if job.waits_for.is_empty() => Some(format!(
            "{} of {} elements have succeeded",
            elements.succeeded,
            elements.size()
        )),
        (JobState::Waiting { .. }, _) => {
            let needs = job.waits_for.iter();
            Some(waits_for(needs.map(|(name, on)| (name.as_str(), *on))))
        }
        (
            JobState::Queued { .. }
            | JobState::Running { .. }
            | JobState::Succeeded { .. }
            | JobState::Failed { .. }
            | JobState::Cancelled { .. },
            _,
        ) => None,
    };
    let mut job = encode::job(job);
    if let Some(held) = held {
        job.reason = match waiting {
            Some(waiting) => format!("{held}; {waiting}"),
            None => held,
        };
    } else if let Some(reason) = waiting {
        job.reason = reason;
    } else if !queued.is_empty() {
        job.reason = queued;
    }
    job
}

fn queued(
    open: &Open,
    explainer: &Explainer<'_>,
    said: &mut BTreeMap<(ProjectId, Shape), Option<String>>,
    job: &Job,
    now: DateTime<Utc>,
) -> String {
    // The first that applies is told: what it waits for now, not all that it may meet later.
    let Some(known) = open.job(job.id).filter(|known| !known.is_running) else {
        return as_stored(job);
    };
    if let Some(twin) = known.twin {
        return format!(
            "job {twin} is at the same step; its result will be taken (\"reuse = false\" runs it all the same)"
        );
    }
    if let Some(until) = known.not_before.filter(|until| *until > now) {
        return back_off(until);
    }
    if let Some(until) = known.spec.sharing.start_after.filter(|until| *until > now) {
        return not_before(until);
    }
    if let Some(turn) = turn(open, known) {
        return turn;
    }
    // It is in the queue: nothing else keeps it.
    let Some(line) = open.queue.get(job.id).map(Pending::line) else {
        return as_stored(job);
    };
    if let Some(why) = open.aside.why(job.id, line.shape) {
        return aside::words(why);
    }
    if let Some(hit) = explainer.quota(line) {
        let project = known.spec.sharing.project.as_str();
        let frees_at = open.frees_at(project, now);
        return format!(
            "quota of project {project}: {}",
            timed(hit, frees_at).words()
        );
    }
    let reason = said
        .entry((line.project, line.shape))
        .or_insert_with(|| explainer.explain(line));
    let reason = reason.clone().unwrap_or_default();
    match kept_for(open, job.id) {
        Some(kept) if !reason.is_empty() => format!("{reason}; {kept}"),
        Some(_) | None => reason,
    }
}

/// What is done for a job that waits for devices: it gets those that others leave, or that come free.
fn kept_for(open: &Open, job: JobId) -> Option<String> {
    if open.claims.contains_key(&job) {
        return Some("others make room for it, and what they leave is kept for it".to_owned());
    }
    let reservation = open.reservations.iter().find(|other| other.job == job)?;
    Some(match reservation.until {
        Some(at) if reservation.is_sure => format!(
            "devices are held back for it: it starts by {} UTC at the latest, by the time limits of what runs",
            at.format("%Y-%m-%d %H:%M:%S")
        ),
        Some(at) => format!(
            "devices are held back for it: it starts by {} UTC if what runs takes no longer than its like did before",
            at.format("%Y-%m-%d %H:%M:%S")
        ),
        None => "devices are held back for it as they come free".to_owned(),
    })
}

/// A quota of devices with the time at which some come back.
fn timed(hit: QuotaHit, frees_at: Option<DateTime<Utc>>) -> QuotaHit {
    match hit {
        QuotaHit::Gpus(of) => QuotaHit::Gpus(AtOnce { frees_at, ..of }),
        QuotaHit::CpuSlots(of) => QuotaHit::CpuSlots(AtOnce { frees_at, ..of }),
        QuotaHit::GpuHours(spent) => QuotaHit::GpuHours(spent),
    }
}

/// Those of which only some may run at a time, where they do.
fn turn(open: &Open, known: &Known) -> Option<String> {
    let sharing = &known.spec.sharing;
    let at_once = match (&sharing.concurrency_key, sharing.at_once) {
        (Some(_), _) => 1,
        (None, at_once) => at_once? as usize,
    };
    // One more than are named tells whether there are more.
    let running = open.running_of(known.group, at_once.max(NAMED_JOBS_MAX + 1));
    if running.len() < at_once {
        return None;
    }
    let named: Vec<String> = running
        .iter()
        .take(NAMED_JOBS_MAX)
        .map(|job| format!("job {job}"))
        .collect();
    let more = if running.len() > NAMED_JOBS_MAX {
        " and others"
    } else {
        ""
    };
    let named = format!("{}{more}", named.join(", "));
    Some(match &sharing.concurrency_key {
        Some(key) => {
            format!("one job of concurrency key {key:?} runs at a time: waits for {named}")
        }
        None => format!("at most {at_once} elements run at a time (at_once): waits for {named}"),
    })
}

/// Somebody keeps it from being placed.
fn held_by(by: &str, at: DateTime<Utc>, job: JobId) -> String {
    let since = at.format("%Y-%m-%d %H:%M:%S");
    format!("held since {since} UTC by {by}; \"marquee release {job}\" lets it go")
}

/// What the stored class says of a job that no round has read yet.
fn as_stored(job: &Job) -> String {
    let stored = job.obstacle.clone();
    let obstacle: Option<Obstacle> =
        stored.and_then(|obstacle| serde_json::from_value(obstacle).ok());
    obstacle.map(Obstacle::words).unwrap_or_default()
}
