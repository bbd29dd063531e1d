//! Stored jobs as messages.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobName;
use marquee_domain::job::{JobState, RankState};
use marquee_domain::spec::{InputRef, JobSpec, NeedOn, value_text};
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_store::attempts::Attempt;
use marquee_store::events::JobEvent;
use marquee_store::forecasts::{Accuracy, Forecast};
use marquee_store::jobs::Job;
use marquee_store::ranks::{Progress, RankRow};
use marquee_view::explain::{Explanation, Hint};
use marquee_view::outcome;

use crate::lifecycle::{Removed, Step};
use crate::session::Hangs;

pub(super) fn job(job: Job) -> v1::Job {
    let (reason, finished_at, cancel_requested, running) = match &job.state {
        JobState::Waiting { reason } | JobState::Queued { reason, .. } => {
            (reason.clone(), None, false, false)
        }
        JobState::Running {
            cancel_requested, ..
        } => (String::new(), None, *cancel_requested, true),
        JobState::Succeeded { finished_at, .. } | JobState::Failed { finished_at, .. } => {
            (String::new(), Some(*finished_at), false, false)
        }
        JobState::Cancelled {
            reason,
            finished_at,
        } => (reason.clone(), Some(*finished_at), false, false),
    };
    v1::Job {
        id: job.id.0,
        pipeline_id: job.pipeline_id.0,
        pipeline_name: job.pipeline_name.to_string(),
        name: job.name.to_string(),
        kind: v1::JobKind::from(job.kind).into(),
        state: v1::JobState::from(job.state.name()).into(),
        reason,
        attempt: job.attempt,
        max_attempts: job.max_attempts,
        ranks: job.ranks,
        priority: job.priority,
        created_at: Some(timestamp(job.created_at)),
        started_at: job.started_at.map(timestamp),
        finished_at: finished_at.map(timestamp),
        failure: job.failure.map(v1::Failure::from),
        // What a job that has ended said last stays stored; shown, it would look as if it went on.
        progress: job.progress.filter(|_| running).map(progress),
        artifact_digest: job.artifact.map(String::from).unwrap_or_default(),
        needs_on: needs_on(job.needs.iter().map(|(name, on)| (name, *on))),
        needs: job
            .needs
            .into_iter()
            .map(|(name, _)| String::from(name))
            .collect(),
        not_needed: job.is_not_needed,
        values: job
            .values
            .iter()
            .map(|(name, value)| (name.clone(), value_text(value)))
            .collect(),
        cancel_requested,
        elements: job.elements.map(|counts| v1::ElementCounts {
            waiting: counts.waiting,
            queued: counts.queued,
            running: counts.running,
            succeeded: counts.succeeded,
            failed: counts.failed,
            cancelled: counts.cancelled,
        }),
        element: job.element.map(|element| v1::ElementOf {
            array_job_id: element.array.0,
            index: element.index,
        }),
        reused_from_job_id: job.reused_from.map_or(0, |from| from.0),
        project: job.project,
        held_at: job.held.as_ref().map(|(_, at)| timestamp(*at)),
        held_by: job.held.map(|(by, _)| by).unwrap_or_default(),
        makes_room: job.makes_room.filter(|_| running).unwrap_or_default(),
    }
}

fn needs_on<'a>(needs: impl Iterator<Item = (&'a JobName, NeedOn)>) -> Vec<v1::NeedOn> {
    needs
        // Success is what a need means where nothing is said, to older clients too.
        .filter(|(_, on)| *on != NeedOn::Succeeded)
        .map(|(name, on)| v1::NeedOn {
            job_name: name.to_string(),
            on: on.as_str().to_owned(),
        })
        .collect()
}

/// A job that would be stored: it has no number yet.
pub(super) fn planned(spec: &JobSpec) -> v1::Job {
    let named = spec.inputs.values().filter_map(|input| match input {
        InputRef::Job { job, .. } => Some(job),
        InputRef::Artifact(_) => None,
    });
    let needs: BTreeSet<String> = spec
        .needs
        .iter()
        .chain(named)
        .map(ToString::to_string)
        .collect();
    v1::Job {
        name: spec.name.to_string(),
        kind: v1::JobKind::from(spec.work.kind()).into(),
        ranks: spec.resources.ranks,
        priority: spec.priority,
        max_attempts: spec.max_attempts,
        needs: needs.into_iter().collect(),
        needs_on: needs_on(spec.needs_on.iter().map(|(name, on)| (name, *on))),
        elements: spec.array.map(|waiting| v1::ElementCounts {
            waiting,
            ..v1::ElementCounts::default()
        }),
        ..v1::Job::default()
    }
}

/// Why a job is where it is, in the words of the command line.
pub(super) fn explanation(
    detail: &v1::JobDetail,
    needs: &[v1::Job],
    now: DateTime<Utc>,
) -> v1::ExplainResponse {
    let explanation = Explanation { detail, needs };
    let Some(job) = &detail.job else {
        return v1::ExplainResponse::default();
    };
    let hint = |hint| match hint {
        Hint::Command { line, does } => v1::Hint {
            command: line,
            text: does,
        },
        Hint::Sentence(text) => v1::Hint {
            command: String::new(),
            text: text.to_owned(),
        },
    };
    v1::ExplainResponse {
        why: explanation.why(job, now),
        what_to_do: explanation.what_to_do(job).into_iter().map(hint).collect(),
        result: outcome::result(detail).unwrap_or_default(),
        warnings: outcome::eval_warnings(detail),
    }
}

pub(super) fn attempt(attempt: Attempt, ranks: &[RankRow], hangs: &Hangs) -> v1::Attempt {
    let own = ranks
        .iter()
        .filter(|rank| rank.key.attempt == attempt.number);
    v1::Attempt {
        number: attempt.number.0,
        state: v1::AttemptState::from(attempt.state).into(),
        created_at: Some(timestamp(attempt.created_at)),
        started_at: attempt.started_at.map(timestamp),
        finished_at: attempt.finished_at.map(timestamp),
        failure: attempt.failure.map(v1::Failure::from),
        ranks: own.map(|one| rank(one, hangs)).collect(),
        resumed_from_step: attempt.resumed_from.map(|from| from.step),
    }
}

fn rank(rank: &RankRow, hangs: &Hangs) -> v1::AttemptRank {
    v1::AttemptRank {
        rank: rank.key.rank.0,
        worker_name: rank.worker_name.clone(),
        devices: rank.devices.iter().map(v1::Device::from).collect(),
        state: v1::RankState::from(rank.state).into(),
        progress: rank.progress.clone().map(progress),
        summary_json: rank
            .summary
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        failure: rank.failure.clone().map(v1::Failure::from),
        lost_at: rank.lost_at.map(timestamp),
        stall: hangs
            .stall(rank.worker, rank.key)
            // A look into a rank that has ended since says nothing of now.
            .filter(|_| rank.state == RankState::Running),
    }
}

pub(in crate::rpc) fn accuracy(accuracy: Accuracy) -> v1::ForecastAccuracy {
    v1::ForecastAccuracy {
        jobs: accuracy.jobs,
        median_error_s: accuracy.median_error_s,
        held: accuracy.held,
    }
}

pub(super) fn forecast(forecast: Forecast) -> v1::Forecast {
    v1::Forecast {
        said_at: Some(timestamp(forecast.said_at)),
        expected_at: Some(timestamp(forecast.expected_at)),
        likely_by: Some(timestamp(forecast.likely_by)),
        basis: forecast.basis,
    }
}

pub(super) fn event(event: JobEvent) -> v1::JobEvent {
    v1::JobEvent {
        at: Some(timestamp(event.at)),
        attempt: event.attempt,
        text: event.text,
        caller: event.caller,
    }
}

pub(in crate::rpc) fn removed(removed: &Removed) -> v1::Removed {
    v1::Removed {
        jobs: removed.jobs,
        artifacts: removed.artifacts,
        files: removed.files,
        bytes: removed.bytes,
    }
}

pub(super) fn step(
    step: Step,
    unnamed_files: u64,
    unnamed_bytes: u64,
) -> v1::CollectGarbageResponse {
    let pipelines = step.retired.into_iter().map(|one| v1::RetiredPipeline {
        id: one.id.0,
        name: one.name,
        ended_at: Some(timestamp(one.ended_at)),
        stays: one.stays.unwrap_or_default(),
        removed: Some(removed(&one.removed)),
    });
    v1::CollectGarbageResponse {
        pipelines: pipelines.collect(),
        logs_of_jobs: step.logs_of,
        next_pipeline_id: step.next.map_or(0, |next| next.0),
        unnamed_files,
        unnamed_bytes,
    }
}

fn progress(progress: Progress) -> v1::Progress {
    v1::Progress {
        phase: progress.phase,
        done: progress.done,
        total: progress.total,
        unit: progress.unit,
        at: Some(timestamp(progress.at)),
        phase_started_at: Some(timestamp(progress.phase_started_at)),
        bytes: progress.bytes,
        problems: progress.problems.into_iter().collect(),
        phase_started_done: progress.phase_started_done,
        phase_started_bytes: progress.phase_started_bytes,
    }
}
