use chrono::{DateTime, Utc};
use marquee_domain::artifact::{Digest, FileEntry};
use marquee_domain::ids::{Rank, WorkerId};
use marquee_domain::job::AttemptStateName;
use marquee_store::attempts::Attempt;
use marquee_store::ranks::RankRow;
use uuid::Uuid;

use super::*;

fn key(rank: u32) -> RankKey {
    RankKey {
        job: JobId(1),
        attempt: AttemptNumber(2),
        rank: Rank(rank),
    }
}

fn row(rank: u32, state: RankState) -> RankRow {
    RankRow {
        key: key(rank),
        worker: WorkerId(Uuid::from_u128(u128::from(rank))),
        worker_name: format!("w{rank}"),
        worker_online: true,
        devices: Vec::new(),
        state,
        progress: None,
        summary: None,
        failure: None,
        ended_at: None,
        lost_at: None,
    }
}

fn lost(rank: u32) -> RankRow {
    RankRow {
        lost_at: Some(DateTime::<Utc>::UNIX_EPOCH),
        failure: Some(Failure {
            class: FailureClass::LostWorker,
            message: "its worker is lost".into(),
        }),
        ..row(rank, RankState::Failed)
    }
}

fn live(kind: JobKind, ranks: Vec<RankRow>) -> Live {
    Live {
        job: JobId(1),
        kind,
        array: None,
        cancel_requested: false,
        makes_room: None,
        deadline: None,
        last_attempt: 3,
        timeout_s: None,
        min_ranks: None,
        max_attempts: 3,
        is_needed: false,
        attempt: Attempt {
            number: AttemptNumber(2),
            state: AttemptStateName::Running,
            rendezvous: None,
            standby: None,
            resumed_from: None,
            failure: None,
            created_at: DateTime::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            waited_for: None,
        },
        ranks,
        with_output: Vec::new(),
    }
}

fn manifest() -> Manifest {
    Manifest {
        files: vec![FileEntry {
            path: "model.safetensors".into(),
            size_bytes: 1,
            digest: Digest::of(b"m"),
        }],
        ..Manifest::default()
    }
}

use RankState::{Failed, Finished, Running};

#[test]
fn the_first_rank_that_went_on_commits_once_all_that_did_are_through() {
    let of = |ranks: Vec<RankRow>| committing_rank(&live(JobKind::Train, ranks));
    assert_eq!(of(vec![row(0, Finished), row(1, Finished)]), Some(key(0)));
    assert_eq!(of(vec![row(0, Finished), row(1, Running)]), None);
    assert_eq!(of(vec![row(0, Finished), row(1, Failed)]), None);
    assert_eq!(
        of(vec![lost(0), row(1, Finished), row(2, Finished)]),
        Some(key(1))
    );
    assert_eq!(of(vec![lost(0), lost(1)]), None, "nobody is left");
    assert_eq!(of(Vec::new()), None);
}

#[test]
fn a_program_that_leaves_nothing_needs_no_look_at_files() {
    let done = |kind| live(kind, vec![row(0, Finished)]);
    assert!(leaves_nothing(&done(JobKind::Command), key(0)));
    let with = Live {
        with_output: vec![Rank(0)],
        ..done(JobKind::Command)
    };
    assert!(!leaves_nothing(&with, key(0)));
    for kind in [
        JobKind::Fetch,
        JobKind::Preprocess,
        JobKind::Train,
        JobKind::Eval,
    ] {
        assert!(!leaves_nothing(&done(kind), key(0)), "{kind}");
    }
    let nothing = Outputs::default();
    assert_eq!(
        nothing.of(&done(JobKind::Command)),
        Some(Ok(Manifest::default()))
    );
    assert_eq!(nothing.of(&done(JobKind::Train)), None, "nobody has looked");
    assert_eq!(
        nothing.of(&live(JobKind::Command, vec![row(0, Running)])),
        None
    );
}

#[test]
fn what_was_looked_at_counts_for_its_attempt_alone() {
    let train = live(JobKind::Train, vec![row(0, Finished)]);
    let with = |number: u32| Outputs {
        looked_at: [(JobId(1), (AttemptNumber(number), Ok(manifest())))].into(),
        inputs: [(JobId(1), (AttemptNumber(number), Vec::new()))].into(),
        ..Outputs::default()
    };
    assert_eq!(with(2).of(&train), Some(Ok(manifest())));
    assert!(with(2).inputs_of(&train).is_some());
    // Of an old attempt nothing is committed, however whole it is.
    assert_eq!(with(1).of(&train), None);
    assert!(with(1).inputs_of(&train).is_none());
    assert_eq!(with(3).of(&train), None);
}

#[test]
fn a_rank_that_puts_nothing_forward_is_at_fault_unless_another_was_lost_with_it() {
    let put = |kind, ranks, output| put_forward(&live(kind, ranks), key(0), output);
    let one = || vec![row(0, Finished)];
    assert_eq!(
        put(JobKind::Train, one(), Some(Ok(manifest()))),
        Ok(manifest())
    );
    assert_eq!(put(JobKind::Command, one(), None), Ok(Manifest::default()));
    for kind in [
        JobKind::Fetch,
        JobKind::Preprocess,
        JobKind::Train,
        JobKind::Eval,
    ] {
        let failure = put(kind, one(), None).unwrap_err();
        assert_eq!(failure.class, FailureClass::Crash);
        assert!(
            failure
                .message
                .contains("without putting forward its output"),
            "{}",
            failure.message
        );
    }
    // No fault of its own: the next attempt may do better, and it is not said to have crashed.
    let failure = put(JobKind::Train, vec![row(0, Finished), lost(1)], None).unwrap_err();
    assert_eq!(failure.class, FailureClass::LostWorker);
    assert!(
        failure
            .message
            .contains("rank 1 was lost before its output was stored")
    );
    let odd = put(
        JobKind::Command,
        one(),
        Some(Err("a path with \"..\"".into())),
    )
    .unwrap_err();
    assert!(
        odd.message.contains("cannot be stored: a path with"),
        "{}",
        odd.message
    );
}

#[test]
fn a_list_that_lies_is_told_with_the_first_of_its_lies() {
    assert_eq!(all_here(key(0), manifest(), &[]), Ok(manifest()));
    let wrong = |path: &str| Wrong {
        path: path.into(),
        digest: Digest::of(b"m"),
        why: "was not uploaded, or is not here any more".into(),
    };
    let failure = all_here(key(3), manifest(), &[wrong("a"), wrong("b")]).unwrap_err();
    assert!(
        failure
            .message
            .starts_with("rank 3 put forward 1 files, but 2 of them are not here"),
        "{}",
        failure.message
    );
    assert!(failure.message.contains("\"a\"") && !failure.message.contains("\"b\""));
}
