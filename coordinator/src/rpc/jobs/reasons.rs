//! Why jobs wait, in words that are made when somebody reads them: what is stored is a class with its
//! figures, which says enough where the scheduler's index does not know the job.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::job::JobState;
use marquee_proto::v1;
use marquee_store::jobs::Job;

use super::encode;
use crate::app::App;
use crate::background::hosts;
use crate::index::{Open, aside};
use crate::lifecycle::waits_for;
use crate::scheduler::{Explainer, Host, Obstacle, Shape, back_off};

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
    let hosts: Vec<Host> = hosts(&open, &app.sessions);
    let explainer = Explainer::new(&hosts, &open.reservations);
    // Jobs alike wait for the same: it is said once for all of them.
    let mut said: BTreeMap<Shape, Option<String>> = BTreeMap::new();
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
    let waiting = match (&job.state, &job.elements) {
        (JobState::Waiting { .. }, Some(elements)) if job.waits_for.is_empty() => Some(format!(
            "{} of {} elements have succeeded",
            elements.succeeded,
            elements.size()
        )),
        (JobState::Waiting { .. }, _) => {
            Some(waits_for(job.waits_for.iter().map(|name| name.as_str())))
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
    if let Some(reason) = waiting {
        job.reason = reason;
    } else if !queued.is_empty() {
        job.reason = queued;
    }
    job
}

fn queued(
    open: &Open,
    explainer: &Explainer<'_>,
    said: &mut BTreeMap<Shape, Option<String>>,
    job: &Job,
    now: DateTime<Utc>,
) -> String {
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
    let shape = Shape::of(&known.spec);
    if let Some(why) = open.aside.why(job.id, shape) {
        return aside::words(why);
    }
    let reason = said
        .entry(shape)
        .or_insert_with(|| explainer.explain(shape));
    reason.clone().unwrap_or_default()
}

/// What the stored class says of a job that no round has read yet.
fn as_stored(job: &Job) -> String {
    let stored = job.obstacle.clone();
    let obstacle: Option<Obstacle> =
        stored.and_then(|obstacle| serde_json::from_value(obstacle).ok());
    obstacle.map(Obstacle::words).unwrap_or_default()
}
