//! The words for states, kinds, devices and failures, and for how a job is called.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::failure::FailureClass;
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::spec::{JobKind, NeedOn};
use marquee_proto::v1;

use crate::units;

/// Shown for a value that only a newer coordinator knows.
const UNKNOWN: &str = "unknown";

/// The word of a job's state.
#[must_use]
pub fn job_state(job: &v1::Job) -> &'static str {
    state_name(job).map_or(UNKNOWN, JobStateName::as_str)
}

/// A job's state, unless only a newer coordinator knows it.
#[must_use]
pub fn state_name(job: &v1::Job) -> Option<JobStateName> {
    JobStateName::try_from(job.state()).ok()
}

/// Whether the job will not change any more.
#[must_use]
pub fn has_ended(job: &v1::Job) -> bool {
    // A state that is not known counts as open: to stop following is what cannot be made good.
    state_name(job).is_some_and(JobStateName::is_final)
}

/// Whether nothing went wrong: every job succeeded, or was there for a failure that did not come.
#[must_use]
pub fn all_succeeded(jobs: &[v1::Job]) -> bool {
    jobs.iter().all(is_well)
}

/// Whether nothing went wrong with a job that has ended.
#[must_use]
pub fn is_well(job: &v1::Job) -> bool {
    job.not_needed || state_name(job) == Some(JobStateName::Succeeded)
}

/// How the job `name` must end for `job` to run.
#[must_use]
pub fn needs_of(job: &v1::Job, name: &str) -> NeedOn {
    let told = job.needs_on.iter().find(|need| need.job_name == name);
    // What is not told, or in a word of a newer coordinator, is the usual need: that it succeeded.
    told.and_then(|need| NeedOn::from_word(&need.on))
        .unwrap_or_default()
}

/// `fetch, train (finished)`.
#[must_use]
pub fn needs(job: &v1::Job) -> String {
    let needs = job.needs.iter().map(|name| match needs_of(job, name) {
        NeedOn::Succeeded => name.clone(),
        on @ (NeedOn::Finished | NeedOn::Failed) => format!("{name} ({})", on.as_str()),
    });
    needs.collect::<Vec<_>>().join(", ")
}

/// `lr=0.1 seed=2`; empty for what is no element of an array over values.
#[must_use]
pub fn values(job: &v1::Job) -> String {
    let mut values: Vec<String> = job
        .values
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    // A map on the wire has no order, and an element must read the same in every listing.
    values.sort_unstable();
    values.join(" ")
}

/// A job's name: `fetch`, an array's `fetch[0-15]`, an element's `fetch[3]`.
#[must_use]
pub fn job_name(job: &v1::Job) -> String {
    match (&job.elements, &job.element) {
        (Some(counts), _) => format!(
            "{}[0-{}]",
            job.name,
            element_count(counts).saturating_sub(1)
        ),
        (None, Some(element)) => format!("{}[{}]", job.name, element.index),
        (None, None) => job.name.clone(),
    }
}

/// How many elements an array has.
#[must_use]
pub fn element_count(counts: &v1::ElementCounts) -> u32 {
    // By name, without a rest: a state that is added has to be counted here, or this does not compile.
    let v1::ElementCounts {
        waiting,
        queued,
        running,
        succeeded,
        failed,
        cancelled,
    } = *counts;
    [waiting, queued, running, succeeded, failed, cancelled]
        .into_iter()
        .fold(0, u32::saturating_add)
}

/// `12 of 16 elements succeeded, 3 running, 1 queued`.
#[must_use]
pub fn element_states(counts: &v1::ElementCounts) -> String {
    let mut text = format!(
        "{} of {} elements succeeded",
        counts.succeeded,
        element_count(counts)
    );
    for (count, state) in [
        (counts.failed, JobStateName::Failed),
        (counts.cancelled, JobStateName::Cancelled),
        (counts.running, JobStateName::Running),
        (counts.queued, JobStateName::Queued),
        (counts.waiting, JobStateName::Waiting),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {}", state.as_str()));
        }
    }
    text
}

/// The word of a job's kind.
#[must_use]
pub fn job_kind(job: &v1::Job) -> &'static str {
    JobKind::try_from(job.kind()).map_or(UNKNOWN, JobKind::as_str)
}

/// `2/3`: the second attempt of at most three. Attempts that cost nothing, and those before a retry, have numbers
/// too: of a number beyond the limit that says nothing, so it stands alone.
#[must_use]
pub fn attempt_of(job: &v1::Job) -> String {
    if job.attempt > job.max_attempts {
        job.attempt.to_string()
    } else {
        format!("{}/{}", job.attempt, job.max_attempts)
    }
}

#[must_use]
pub fn attempt_state(attempt: &v1::Attempt) -> &'static str {
    AttemptStateName::try_from(attempt.state()).map_or(UNKNOWN, AttemptStateName::as_str)
}

#[must_use]
pub fn rank_state(rank: &v1::AttemptRank) -> &'static str {
    RankState::try_from(rank.state()).map_or(UNKNOWN, RankState::as_str)
}

#[must_use]
pub fn worker_state(worker: &v1::Worker) -> &'static str {
    match worker.state() {
        v1::WorkerState::Online => "online",
        v1::WorkerState::Lost => "lost",
        v1::WorkerState::Left => "left",
        v1::WorkerState::Unspecified => UNKNOWN,
    }
}

/// The class of a failure.
#[must_use]
pub fn failure_class(failure: &v1::Failure) -> Option<FailureClass> {
    FailureClass::try_from(failure.class()).ok()
}

/// The word of a failure's class.
#[must_use]
pub fn failure_word(failure: &v1::Failure) -> &'static str {
    failure_class(failure).map_or(UNKNOWN, FailureClass::as_str)
}

/// `cpu 0` or `gpu 3`.
#[must_use]
pub fn device(device: &v1::Device) -> String {
    match device.kind {
        Some(v1::device::Kind::Cpu(index)) => format!("cpu {index}"),
        Some(v1::device::Kind::Gpu(index)) => format!("gpu {index}"),
        None => UNKNOWN.to_owned(),
    }
}

/// All devices of a rank.
#[must_use]
pub fn devices(devices: &[v1::Device]) -> String {
    devices.iter().map(device).collect::<Vec<_>>().join(", ")
}

/// How long a job's newest attempt ran, or has run until now. None before the first, and between two of them.
#[must_use]
pub fn ran_for(job: &v1::Job, now: DateTime<Utc>) -> Option<Duration> {
    // Its start may be stored from an earlier attempt, and would count the time in the queue as
    // work.
    if matches!(job.state(), v1::JobState::Waiting | v1::JobState::Queued) {
        return None;
    }
    let started = units::time(job.started_at.as_ref())?;
    let ended = units::time(job.finished_at.as_ref()).unwrap_or(now);
    Some(units::between(started, ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_handed_back_and_waits_again_does_not_run() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let job = |state: v1::JobState| v1::Job {
            state: state.into(),
            started_at: Some(marquee_proto::convert::timestamp(
                now - Duration::from_secs(90),
            )),
            ..v1::Job::default()
        };
        let running = ran_for(&job(v1::JobState::Running), now);
        assert_eq!(running, Some(Duration::from_secs(90)));
        assert_eq!(ran_for(&job(v1::JobState::Queued), now), None);
    }

    #[test]
    fn an_array_and_its_elements_are_told_apart_by_name() {
        let counts = v1::ElementCounts {
            succeeded: 12,
            running: 3,
            failed: 1,
            ..v1::ElementCounts::default()
        };
        let mut job = v1::Job {
            name: "fetch".into(),
            elements: Some(counts),
            ..v1::Job::default()
        };
        assert_eq!(job_name(&job), "fetch[0-15]");
        assert_eq!(
            element_states(&counts),
            "12 of 16 elements succeeded, 1 failed, 3 running"
        );
        job.elements = None;
        job.element = Some(v1::ElementOf {
            array_job_id: 1,
            index: 3,
        });
        assert_eq!(job_name(&job), "fetch[3]");
    }
}
