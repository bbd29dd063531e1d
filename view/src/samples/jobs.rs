//! Jobs in every state, and one with a history.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::convert::timestamp;
use marquee_proto::v1::{
    Attempt, AttemptRank, AttemptState, Device, Failure, FailureClass, Job, JobDetail, JobEvent,
    JobKind, JobState, Pipeline, Progress, RankState, device,
};
use prost_types::Timestamp;

/// The time of every sample.
#[must_use]
pub fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000)
}

fn ago(seconds: i64) -> Option<Timestamp> {
    Some(timestamp(now() - TimeDelta::seconds(seconds)))
}

#[must_use]
pub fn job(id: i64, name: &str, kind: JobKind, state: JobState) -> Job {
    Job {
        id,
        pipeline_id: 3,
        pipeline_name: "posters".into(),
        name: name.into(),
        kind: kind.into(),
        state: state.into(),
        max_attempts: 3,
        ranks: 1,
        created_at: ago(300),
        ..Job::default()
    }
}

#[must_use]
pub fn pipeline() -> Pipeline {
    let fetch = Job {
        attempt: 1,
        started_at: ago(290),
        finished_at: ago(240),
        artifact_digest: "5a".repeat(32),
        ..job(15, "fetch", JobKind::Fetch, JobState::Succeeded)
    };
    let preprocess = Job {
        attempt: 1,
        needs: vec!["fetch".into()],
        started_at: ago(4),
        progress: Some(Progress {
            phase: "resize".into(),
            done: 1_200,
            total: Some(3_000),
            unit: "images".into(),
            at: ago(0),
            phase_started_at: ago(4),
            ..Progress::default()
        }),
        ..job(16, "preprocess", JobKind::Preprocess, JobState::Running)
    };
    let train = Job {
        needs: vec!["preprocess".into()],
        ranks: 2,
        reason: "waits for \"preprocess\" to succeed".into(),
        ..job(17, "train", JobKind::Train, JobState::Waiting)
    };
    Pipeline {
        id: 3,
        name: "posters".into(),
        created_at: ago(300),
        jobs: vec![fetch, preprocess, train],
        ..Pipeline::default()
    }
}

#[must_use]
pub fn failure() -> Failure {
    Failure {
        class: FailureClass::OutOfMemory.into(),
        message: "rank 1 was killed: the host's memory ran out; lower batch_size".into(),
    }
}

/// [`failed_train`] while its second attempt still runs.
#[must_use]
pub fn still_running() -> JobDetail {
    let mut detail = failed_train();
    if let Some(job) = detail.job.as_mut() {
        job.state = JobState::Running.into();
        job.failure = None;
        job.finished_at = None;
    }
    if let Some(attempt) = detail.attempts.last_mut() {
        attempt.failure = None;
    }
    detail
}

/// A train job that lost a worker first and its memory then.
#[must_use]
pub fn failed_train() -> JobDetail {
    let rank = |rank, worker: &str, state: RankState| AttemptRank {
        rank,
        worker_name: worker.into(),
        devices: vec![Device {
            kind: Some(device::Kind::Cpu(0)),
        }],
        state: state.into(),
        ..AttemptRank::default()
    };
    let lost = Failure {
        class: FailureClass::LostWorker.into(),
        message: "worker \"worker-2\" was not heard from for 10 s".into(),
    };
    let first = Attempt {
        number: 1,
        state: AttemptState::Failed.into(),
        started_at: ago(200),
        finished_at: ago(150),
        failure: Some(lost),
        ranks: vec![
            rank(0, "worker-1", RankState::Stopped),
            rank(1, "worker-2", RankState::Running),
        ],
        ..Attempt::default()
    };
    let mut killed = rank(1, "worker-2", RankState::Failed);
    killed.failure = Some(failure());
    let second = Attempt {
        number: 2,
        state: AttemptState::Failed.into(),
        started_at: ago(140),
        finished_at: ago(75),
        failure: Some(failure()),
        ranks: vec![rank(0, "worker-1", RankState::Stopped), killed],
        resumed_from_step: Some(1_200),
        ..Attempt::default()
    };
    let event = |seconds, attempt, text: &str| JobEvent {
        at: ago(seconds),
        attempt,
        text: text.into(),
        ..JobEvent::default()
    };
    JobDetail {
        job: Some(Job {
            attempt: 2,
            max_attempts: 2,
            ranks: 2,
            needs: vec!["preprocess".into()],
            started_at: ago(140),
            finished_at: ago(75),
            failure: Some(failure()),
            ..job(17, "train", JobKind::Train, JobState::Failed)
        }),
        spec_json: r#"{"name":"train"}"#.into(),
        spec_unreadable: String::new(),
        attempts: vec![first, second],
        events: vec![
            event(300, 0, "submitted"),
            event(201, 1, "placed on worker-1 and worker-2"),
            event(
                150,
                1,
                "failed (lost_worker): worker \"worker-2\" was not heard from for 10 s",
            ),
            event(141, 2, "placed on worker-1 and worker-2"),
            event(75, 2, "failed (out_of_memory): rank 1 was killed"),
        ],
        ..JobDetail::default()
    }
}
