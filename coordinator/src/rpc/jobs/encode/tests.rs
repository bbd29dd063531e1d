use std::collections::BTreeMap;

use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::job::AttemptStateName;
use marquee_domain::resources::{Device, DeviceKind, Resources};
use marquee_domain::spec::{CommandSettings, JobKind, Work};
use marquee_store::checkpoints::CheckpointKey;
use marquee_store::jobs::{ElementCounts, ElementOf};
use marquee_store::ranks::RankKey;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::lifecycle::Retired;

pub(in crate::rpc::jobs) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

/// A job that is queued, with nothing said of it.
pub(in crate::rpc::jobs) fn stored(id: i64) -> Job {
    Job {
        id: JobId(id),
        pipeline_id: PipelineId(3),
        pipeline_name: "posters".parse().unwrap(),
        name: "train".parse().unwrap(),
        kind: JobKind::Train,
        state: JobState::Queued {
            reason: String::new(),
            not_before: None,
        },
        attempt: 0,
        max_attempts: 3,
        ranks: 2,
        priority: -1,
        created_at: at(0),
        started_at: None,
        failure: None,
        progress: None,
        artifact: None,
        needs: Vec::new(),
        waits_for: Vec::new(),
        is_not_needed: false,
        obstacle: None,
        elements: None,
        element: None,
        values: BTreeMap::new(),
        reused_from: None,
        project: "default".into(),
        held: None,
        makes_room: None,
    }
}

pub(in crate::rpc::jobs) fn running() -> JobState {
    JobState::Running {
        attempt: AttemptNumber(2),
        started_at: at(5),
        cancel_requested: false,
    }
}

fn some_progress() -> Progress {
    Progress {
        phase: "train".into(),
        done: 10,
        total: None,
        unit: "steps".into(),
        at: at(9),
        phase_started_at: at(6),
        bytes: Some(0),
        problems: BTreeMap::from([("skipped".to_owned(), 2)]),
        phase_started_done: 4,
        phase_started_bytes: 0,
    }
}

fn failure() -> Failure {
    Failure {
        class: FailureClass::OutOfMemory,
        message: "no memory left; use a smaller batch".into(),
    }
}

fn key(attempt: u32, rank: u32) -> RankKey {
    RankKey {
        job: JobId(1),
        attempt: AttemptNumber(attempt),
        rank: Rank(rank),
    }
}

fn rank_row(attempt: u32, rank: u32) -> RankRow {
    RankRow {
        key: key(attempt, rank),
        worker: WorkerId(Uuid::from_u128(7)),
        worker_name: "gpu-03".into(),
        worker_online: true,
        devices: vec![Device::Gpu { index: 1 }, Device::Cpu { index: 0 }],
        state: RankState::Running,
        progress: Some(some_progress()),
        summary: None,
        failure: None,
        ended_at: None,
        lost_at: None,
    }
}

#[test]
fn each_state_shows_what_is_true_in_it_and_nothing_else() {
    let word = || "because".to_owned();
    let ended = at(50);
    type Shown<'a> = (v1::JobState, &'a str, Option<DateTime<Utc>>, bool, bool);
    let cases: [(JobState, Shown<'_>); 7] = [
        (
            JobState::Waiting { reason: word() },
            (v1::JobState::Waiting, "because", None, false, false),
        ),
        (
            JobState::Queued {
                reason: word(),
                not_before: Some(at(9)),
            },
            (v1::JobState::Queued, "because", None, false, false),
        ),
        (running(), (v1::JobState::Running, "", None, false, true)),
        (
            JobState::Running {
                attempt: AttemptNumber(2),
                started_at: at(5),
                cancel_requested: true,
            },
            (v1::JobState::Running, "", None, true, true),
        ),
        (
            JobState::Succeeded {
                attempt: AttemptNumber(2),
                finished_at: ended,
            },
            (v1::JobState::Succeeded, "", Some(ended), false, false),
        ),
        (
            JobState::Failed {
                failure: failure(),
                finished_at: ended,
            },
            (v1::JobState::Failed, "", Some(ended), false, false),
        ),
        (
            JobState::Cancelled {
                reason: word(),
                finished_at: ended,
            },
            (
                v1::JobState::Cancelled,
                "because",
                Some(ended),
                false,
                false,
            ),
        ),
    ];
    for (state, (name, reason, finished_at, cancel_requested, is_running)) in cases {
        let encoded = job(Job {
            state,
            // What is left in the row of an attempt that ended says nothing about now.
            progress: Some(some_progress()),
            makes_room: Some("job 9".into()),
            ..stored(1)
        });
        assert_eq!(encoded.state(), name);
        assert_eq!(encoded.reason, reason, "{name:?}");
        assert_eq!(encoded.finished_at, finished_at.map(timestamp), "{name:?}");
        assert_eq!(encoded.cancel_requested, cancel_requested, "{name:?}");
        assert_eq!(encoded.progress.is_some(), is_running, "{name:?}");
        assert_eq!(encoded.makes_room.is_empty(), !is_running, "{name:?}");
    }
}

#[test]
fn a_job_with_everything_said_of_it_loses_nothing_on_the_way() {
    let name = |text: &str| text.parse::<JobName>().unwrap();
    let digest = marquee_domain::artifact::Digest::of(b"model");
    let encoded = job(Job {
        failure: Some(failure()),
        artifact: Some(digest.clone()),
        needs: vec![
            (name("fetch"), NeedOn::Succeeded),
            (name("try"), NeedOn::Failed),
            (name("clean"), NeedOn::Finished),
        ],
        is_not_needed: true,
        elements: Some(ElementCounts {
            waiting: 1,
            queued: 2,
            running: 3,
            succeeded: 4,
            failed: 5,
            cancelled: 6,
        }),
        element: Some(ElementOf {
            array: JobId(40),
            index: 0,
        }),
        values: BTreeMap::from([
            ("lr".to_owned(), json!(0.1)),
            ("mix".to_owned(), json!({ "a": [1, null] })),
            ("word".to_owned(), json!("as it is")),
        ]),
        reused_from: Some(JobId(12)),
        project: "vision".into(),
        held: Some(("anna".into(), at(3))),
        started_at: Some(at(5)),
        ..stored(41)
    });
    assert_eq!((encoded.id, encoded.pipeline_id), (41, 3));
    assert_eq!(encoded.kind(), v1::JobKind::Train);
    assert_eq!(
        (encoded.ranks, encoded.priority, encoded.max_attempts),
        (2, -1, 3)
    );
    assert_eq!(encoded.needs, ["fetch", "try", "clean"]);
    // Success is what everybody waits for: an older client reads no word of it.
    let on: Vec<(&str, &str)> = encoded
        .needs_on
        .iter()
        .map(|need| (need.job_name.as_str(), need.on.as_str()))
        .collect();
    assert_eq!(on, [("try", "failed"), ("clean", "finished")]);
    assert_eq!(encoded.artifact_digest, digest.as_str());
    assert_eq!(encoded.failure.unwrap().message, failure().message);
    assert_eq!(encoded.values["lr"], "0.1");
    assert_eq!(encoded.values["mix"], r#"{"a":[1,null]}"#);
    assert_eq!(encoded.values["word"], "as it is");
    let counts = encoded.elements.unwrap();
    let counts = [
        counts.waiting,
        counts.queued,
        counts.running,
        counts.succeeded,
        counts.failed,
        counts.cancelled,
    ];
    assert_eq!(counts, [1, 2, 3, 4, 5, 6]);
    assert_eq!(encoded.element.unwrap().array_job_id, 40);
    assert_eq!(encoded.reused_from_job_id, 12);
    assert_eq!(
        (encoded.held_by.as_str(), encoded.held_at),
        ("anna", Some(timestamp(at(3))))
    );
    assert!(encoded.not_needed);
}

#[test]
fn what_is_not_there_is_empty_and_not_a_made_up_value() {
    let encoded = job(stored(1));
    assert_eq!(encoded.artifact_digest, "");
    assert_eq!(encoded.reused_from_job_id, 0);
    assert_eq!((encoded.held_by.as_str(), encoded.held_at), ("", None));
    assert!(encoded.failure.is_none() && encoded.elements.is_none() && encoded.element.is_none());
    assert!(encoded.started_at.is_none() && encoded.needs_on.is_empty());
    assert_eq!(encoded.attempt, 0);
}

#[test]
fn a_planned_job_names_what_it_needs_once_inputs_included() {
    let name = |text: &str| text.parse::<JobName>().unwrap();
    let from = |text: &str| InputRef::Job {
        job: name(text),
        output: "shards".into(),
    };
    let spec = JobSpec {
        name: name("eval"),
        work: Work::Command(CommandSettings {
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            env_from_worker: Vec::new(),
        }),
        needs: vec![name("train"), name("prepare")],
        needs_on: BTreeMap::from([(name("train"), NeedOn::Finished)]),
        inputs: BTreeMap::from([
            ("shards".to_owned(), from("prepare")),
            ("model".to_owned(), from("train")),
            (
                "weights".to_owned(),
                InputRef::Artifact(marquee_domain::artifact::Digest::of(b"w")),
            ),
        ]),
        resources: Resources {
            ranks: 4,
            min_ranks: None,
            device: DeviceKind::Any,
            devices_per_rank: 1,
        },
        priority: 7,
        max_attempts: 1,
        timeout_s: None,
        reuse: true,
        array: Some(12),
        may_fail: 0,
        element: None,
        values: Default::default(),
        watch: Default::default(),
        sharing: Default::default(),
    };
    let encoded = planned(&spec);
    assert_eq!(encoded.id, 0, "it has no number yet");
    assert_eq!(encoded.needs, ["prepare", "train"]);
    assert_eq!(encoded.needs_on.len(), 1);
    assert_eq!(
        (encoded.ranks, encoded.priority, encoded.max_attempts),
        (4, 7, 1)
    );
    assert_eq!(encoded.elements.unwrap().waiting, 12);
}

#[test]
fn an_attempt_shows_its_own_ranks_and_a_stall_of_those_that_run_alone() {
    let hangs = Hangs::default();
    let stall = v1::Stall {
        idle_ms: 60_000,
        phase: "all-reduce".into(),
        ..v1::Stall::default()
    };
    let held = |attempt, rank| v1::HeldRank {
        job_id: 1,
        attempt,
        rank,
        stall: Some(stall.clone()),
        ..v1::HeldRank::default()
    };
    hangs.heard(WorkerId(Uuid::from_u128(7)), &[held(2, 0), held(2, 1)]);
    let ended = RankRow {
        state: RankState::Failed,
        failure: Some(failure()),
        lost_at: Some(at(30)),
        summary: Some(json!({ "f1": 0.5 })),
        ..rank_row(2, 1)
    };
    let other_host = RankRow {
        worker: WorkerId(Uuid::from_u128(8)),
        ..rank_row(2, 2)
    };
    let stored = Attempt {
        number: AttemptNumber(2),
        state: AttemptStateName::Running,
        rendezvous: None,
        standby: None,
        resumed_from: Some(CheckpointKey {
            attempt: AttemptNumber(1),
            step: 0,
        }),
        failure: None,
        created_at: at(1),
        started_at: Some(at(2)),
        finished_at: None,
        waited_for: None,
    };
    let rows = [rank_row(1, 0), rank_row(2, 0), ended, other_host];
    let encoded = attempt(stored, &rows, &hangs);
    assert_eq!(encoded.number, 2);
    // From the very beginning is not the same as from nowhere.
    assert_eq!(encoded.resumed_from_step, Some(0));
    let ranks: Vec<u32> = encoded.ranks.iter().map(|rank| rank.rank).collect();
    assert_eq!(ranks, [0, 1, 2]);
    let stalls: Vec<bool> = encoded
        .ranks
        .iter()
        .map(|rank| rank.stall.is_some())
        .collect();
    assert_eq!(stalls, [true, false, false]);
    assert_eq!(encoded.ranks[0].devices.len(), 2);
    assert_eq!(encoded.ranks[0].summary_json, "");
    assert_eq!(encoded.ranks[1].summary_json, r#"{"f1":0.5}"#);
    assert_eq!(encoded.ranks[1].lost_at, Some(timestamp(at(30))));
    assert_eq!(encoded.ranks[1].state(), v1::RankState::Failed);
}

#[test]
fn progress_keeps_apart_what_is_nothing_and_what_nobody_counts() {
    let encoded = progress(some_progress());
    assert_eq!((encoded.total, encoded.bytes), (None, Some(0)));
    assert_eq!((encoded.done, encoded.phase_started_done), (10, 4));
    assert_eq!(encoded.problems["skipped"], 2);
    assert_eq!(encoded.phase_started_at, Some(timestamp(at(6))));
}

#[test]
fn a_step_of_the_garbage_collection_says_what_stays_and_where_to_go_on() {
    let one = |id: i64, stays: Option<&str>| Retired {
        id: PipelineId(id),
        name: "old".into(),
        ended_at: at(0),
        stays: stays.map(str::to_owned),
        removed: Removed {
            jobs: 2,
            artifacts: 1,
            files: 3,
            bytes: 4_096,
        },
    };
    let full = Step {
        retired: vec![one(1, None), one(2, Some("it is kept by anna"))],
        logs_of: 5,
        next: Some(PipelineId(2)),
    };
    let answer = step(full, 9, 900);
    let stays: Vec<&str> = answer
        .pipelines
        .iter()
        .map(|one| one.stays.as_str())
        .collect();
    assert_eq!(stays, ["", "it is kept by anna"]);
    assert_eq!(answer.pipelines[0].removed.as_ref().unwrap().bytes, 4_096);
    assert_eq!((answer.logs_of_jobs, answer.next_pipeline_id), (5, 2));
    assert_eq!((answer.unnamed_files, answer.unnamed_bytes), (9, 900));
    assert_eq!(
        step(Step::default(), 0, 0),
        v1::CollectGarbageResponse::default()
    );
}

#[test]
fn an_answer_about_no_job_explains_nothing() {
    let nothing = explanation(&v1::JobDetail::default(), &[], at(0));
    assert_eq!(nothing, v1::ExplainResponse::default());
    let detail = v1::JobDetail {
        job: Some(job(stored(1))),
        ..v1::JobDetail::default()
    };
    let queued = explanation(&detail, &[], at(60));
    assert!(!queued.why.is_empty());
    for hint in &queued.what_to_do {
        assert!(
            !hint.text.is_empty(),
            "a hint has words, with a command or without"
        );
    }
}

#[test]
fn what_was_said_of_a_start_and_how_true_it_was_come_through() {
    let said = forecast(Forecast {
        said_at: at(0),
        expected_at: at(60),
        likely_by: at(120),
        basis: "by the time limits of what runs".into(),
    });
    assert_eq!(said.expected_at, Some(timestamp(at(60))));
    assert_eq!(said.likely_by, Some(timestamp(at(120))));
    assert_eq!(said.basis, "by the time limits of what runs");
    let held = accuracy(Accuracy {
        jobs: 10,
        median_error_s: 4.5,
        held: 9,
    });
    assert_eq!((held.jobs, held.held), (10, 9));
    let told = event(JobEvent {
        at: at(1),
        attempt: 2,
        text: "cancelled".into(),
        caller: "anna".into(),
    });
    assert_eq!(
        (told.attempt, told.text.as_str(), told.caller.as_str()),
        (2, "cancelled", "anna")
    );
}
