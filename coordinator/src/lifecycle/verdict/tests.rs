//! Verdicts, each from its situation.

use marquee_domain::ids::{AttemptNumber, JobId, Rank, WorkerId};
use marquee_store::attempts::Rendezvous;
use marquee_store::ranks::RankKey;
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn attempt(state: AttemptStateName) -> Attempt {
    let running = state == AttemptStateName::Running;
    Attempt {
        number: AttemptNumber(1),
        state,
        rendezvous: Some(Rendezvous {
            host: "a".into(),
            port: 1,
        }),
        standby: None,
        resumed_from: None,
        failure: None,
        created_at: at(0),
        started_at: running.then(|| at(0)),
        finished_at: None,
        waited_for: None,
    }
}

fn rank(number: u32, state: RankState) -> RankRow {
    RankRow {
        key: RankKey {
            job: JobId(1),
            attempt: AttemptNumber(1),
            rank: Rank(number),
        },
        worker: WorkerId(Uuid::from_u128(u128::from(number))),
        worker_name: format!("w{number}"),
        worker_online: true,
        devices: vec![],
        state,
        progress: None,
        summary: None,
        failure: None,
        ended_at: state.has_ended().then(|| at(10)),
        lost_at: None,
    }
}

fn failed(number: u32, class: FailureClass) -> RankRow {
    let failure = Failure {
        class,
        message: "broke".into(),
    };
    RankRow {
        failure: Some(failure),
        ..rank(number, RankState::Failed)
    }
}

fn lost(number: u32, state: RankState) -> RankRow {
    RankRow {
        worker_online: false,
        ..rank(number, state)
    }
}

/// Half a minute in, with nothing asked of it: what a test is about it says beside.
fn quiet<'a>(attempt: &'a Attempt, ranks: &'a [RankRow]) -> Situation<'a> {
    Situation {
        attempt,
        ranks,
        cancel_requested: false,
        makes_room: None,
        deadline: None,
        min_ranks: None,
        timeout: None,
        settle: Duration::from_secs(1),
        is_leaving: false,
        was_not_replaced: false,
        hung: None,
        now: at(30),
    }
}

fn judge_at(now: i64, state: AttemptStateName, ranks: &[RankRow], cancel: bool) -> Verdict {
    judge(&Situation {
        cancel_requested: cancel,
        timeout: Some(Duration::from_secs(100)),
        now: at(now),
        ..quiet(&attempt(state), ranks)
    })
}

fn class(verdict: Verdict) -> FailureClass {
    match verdict {
        Verdict::Fail(failure) => failure.class,
        Verdict::Wait
        | Verdict::Start
        | Verdict::Commit
        | Verdict::GoOn(_)
        | Verdict::MakeRoom { .. }
        | Verdict::Interrupt { .. }
        | Verdict::Cancel => {
            panic!("expected a failure, got {verdict:?}")
        }
    }
}

use AttemptStateName::{Assigned, Running};

#[test]
fn a_gang_starts_when_its_last_rank_is_prepared() {
    let half = [rank(0, RankState::Prepared), rank(1, RankState::Assigned)];
    assert_eq!(judge_at(1, Assigned, &half, false), Verdict::Wait);
    let whole = [rank(0, RankState::Prepared), rank(1, RankState::Prepared)];
    assert_eq!(judge_at(1, Assigned, &whole, false), Verdict::Start);
    assert_eq!(judge_at(1, Running, &whole, false), Verdict::Wait);
}

#[test]
fn peers_have_a_moment_to_name_a_better_cause() {
    let first = [
        failed(0, FailureClass::Network),
        rank(1, RankState::Running),
    ];
    assert_eq!(judge_at(10, Running, &first, false), Verdict::Wait);
    assert_eq!(
        class(judge_at(11, Running, &first, false)),
        FailureClass::Network
    );
    let both = [
        failed(0, FailureClass::Network),
        failed(1, FailureClass::OutOfMemory),
    ];
    let verdict = judge_at(10, Running, &both, false);
    let message = "rank 1 on worker \"w1\": broke".into();
    let class = FailureClass::OutOfMemory;
    assert_eq!(verdict, Verdict::Fail(Failure { class, message }));
}

#[test]
fn a_lost_worker_fails_its_attempt_at_once() {
    let ranks = [rank(0, RankState::Running), lost(1, RankState::Running)];
    assert_eq!(
        class(judge_at(1, Running, &ranks, false)),
        FailureClass::LostWorker
    );
}

#[test]
fn a_worker_that_shuts_down_interrupts_and_does_not_fail() {
    let drained = |verdict| match verdict {
        Verdict::Interrupt { cause, .. } => cause == Interruption::Drained,
        Verdict::Wait
        | Verdict::Start
        | Verdict::Commit
        | Verdict::GoOn(_)
        | Verdict::Fail(_)
        | Verdict::MakeRoom { .. }
        | Verdict::Cancel => false,
    };
    assert!(drained(judge_at(
        10,
        Running,
        &[rank(0, RankState::Stopped)],
        false
    )));
    // Its peer lost the connection to it: whatever it makes of that tells nothing new.
    for class in FailureClass::ALL {
        let gang = [failed(0, class), rank(1, RankState::Stopped)];
        assert!(drained(judge_at(11, Running, &gang, false)), "{class:?}");
    }
    // What a worker of 0.1 says at its end.
    let message = "worker \"gpu-1\" was shut down".to_owned();
    let class = FailureClass::LostWorker;
    let of_old = RankRow {
        failure: Some(Failure { class, message }),
        ..rank(1, RankState::Failed)
    };
    assert!(drained(judge_at(11, Running, &[of_old], false)));
    let lost = [failed(0, FailureClass::LostWorker)];
    assert!(!drained(judge_at(11, Running, &lost, false)));
}

/// Their checkpoint is the attempt's, for as long as it lives.
#[test]
fn when_a_worker_stops_its_rank_the_others_are_asked_to_leave_at_once() {
    let gang = [rank(0, RankState::Running), rank(1, RankState::Stopped)];
    let first = judge_at(0, Running, &gang, false);
    assert!(
        matches!(
            first,
            Verdict::MakeRoom { cause: Interruption::Drained, ref message } if message.contains("shut")
        ),
        "{first:?}"
    );
    let asked = (Interruption::Drained, "asked".to_owned());
    let judge_asked = |ranks: &[RankRow]| {
        judge(&Situation {
            makes_room: Some(&asked),
            ..quiet(&attempt(Running), ranks)
        })
    };
    assert_eq!(judge_asked(&gang), Verdict::Wait);
    let gone = [rank(0, RankState::Stopped), rank(1, RankState::Stopped)];
    assert!(matches!(judge_asked(&gone), Verdict::Interrupt { .. }));
}

#[test]
fn whoever_is_stopped_for_idling_fails_once_nothing_of_it_is_left() {
    let idles = (Interruption::Idle, "its GPU did nothing".to_owned());
    let judge_idle = |ranks: &[RankRow]| {
        judge(&Situation {
            makes_room: Some(&idles),
            ..quiet(&attempt(Running), ranks)
        })
    };
    let half = [rank(0, RankState::Stopped), rank(1, RankState::Running)];
    assert_eq!(judge_idle(&half), Verdict::Wait);
    // Whatever a rank made of it.
    let gone = [
        rank(0, RankState::Stopped),
        failed(1, FailureClass::Collective),
    ];
    assert_eq!(
        judge_idle(&gone),
        Verdict::Fail(Failure {
            class: FailureClass::Idle,
            message: "its GPU did nothing".into()
        })
    );
    let done = [rank(0, RankState::Finished), rank(1, RankState::Finished)];
    assert_eq!(judge_idle(&done), Verdict::Commit);
}

#[test]
fn what_fails_while_a_worker_leaves_is_judged_when_that_has_stopped_its_rank() {
    let judge_leaving = |ranks: &[RankRow], is_leaving| {
        judge(&Situation {
            is_leaving,
            ..quiet(&attempt(Running), ranks)
        })
    };
    let gang = [
        failed(0, FailureClass::UserError),
        rank(1, RankState::Running),
    ];
    assert_eq!(judge_leaving(&gang, true), Verdict::Wait);
    assert_eq!(class(judge_leaving(&gang, false)), FailureClass::UserError);
    // It never came back, and its lease ran out.
    let gone = [
        failed(0, FailureClass::UserError),
        lost(1, RankState::Running),
    ];
    assert_eq!(class(judge_leaving(&gone, true)), FailureClass::UserError);
}

#[test]
fn what_a_worker_said_of_a_stop_is_told_and_costs_nothing() {
    for cause in Interruption::ALL {
        let told = StoppedFor {
            cause,
            reason: "it had to be".into(),
        };
        let stopped = RankRow {
            summary: serde_json::to_value(told).ok(),
            ..rank(1, RankState::Stopped)
        };
        let gang = [failed(0, FailureClass::Collective), stopped];
        match judge_at(11, Running, &gang, false) {
            Verdict::Interrupt {
                cause: found,
                message,
            } => {
                assert_eq!(found, cause);
                assert_eq!(message, "rank 1 on worker \"w1\": it had to be");
            }
            other @ (Verdict::Wait
            | Verdict::Start
            | Verdict::Commit
            | Verdict::GoOn(_)
            | Verdict::Fail(_)
            | Verdict::MakeRoom { .. }
            | Verdict::Cancel) => panic!("{cause:?}: {other:?}"),
        }
    }
}

#[test]
fn a_worker_that_went_to_be_replaced_and_did_not_come_back_costs_its_jobs_nothing() {
    let judge_gone = |was_not_replaced| {
        judge(&Situation {
            was_not_replaced,
            now: at(200),
            ..quiet(&attempt(Running), &[lost(0, RankState::Running)])
        })
    };
    let cause = Interruption::HostUpgraded;
    assert!(matches!(judge_gone(true), Verdict::Interrupt { cause: found, .. } if found == cause));
    assert_eq!(class(judge_gone(false)), FailureClass::LostWorker);
}

#[test]
fn who_hangs_is_named_where_its_peers_gave_it_up() {
    let judge_hung = |ranks: &[RankRow], hung| {
        judge(&Situation {
            hung,
            ..quiet(&attempt(Running), ranks)
        })
    };
    let hung = Some("hung: rank 1 on w1 is stopped by a signal");
    let gang = [
        failed(0, FailureClass::Collective),
        rank(1, RankState::Running),
    ];
    match judge_hung(&gang, hung) {
        Verdict::Fail(failure) => {
            assert_eq!(failure.class, FailureClass::Hang);
            assert!(
                failure.message.starts_with("hung: rank 1 on w1"),
                "{failure:?}"
            );
        }
        other @ (Verdict::Wait
        | Verdict::Start
        | Verdict::Commit
        | Verdict::GoOn(_)
        | Verdict::Interrupt { .. }
        | Verdict::MakeRoom { .. }
        | Verdict::Cancel) => panic!("{other:?}"),
    }
    assert_eq!(class(judge_hung(&gang, None)), FailureClass::Collective);
    // What hangs explains no other failure.
    let crashed = [failed(0, FailureClass::Crash), rank(1, RankState::Running)];
    assert_eq!(class(judge_hung(&crashed, hung)), FailureClass::Crash);
}

/// Judged as a gang of three that may go on with two, half a minute after the first step.
fn judge_elastic(ranks: &[RankRow]) -> Verdict {
    let progress = marquee_store::ranks::Progress {
        phase: "epoch 1/2".into(),
        done: 8,
        total: None,
        unit: "images".into(),
        at: at(5),
        phase_started_at: at(5),
        bytes: None,
        problems: std::collections::BTreeMap::new(),
        phase_started_done: 0,
        phase_started_bytes: 0,
    };
    let ranks: Vec<RankRow> = ranks
        .iter()
        .map(|rank| RankRow {
            progress: Some(progress.clone()),
            ..rank.clone()
        })
        .collect();
    judge(&Situation {
        min_ranks: Some(2),
        ..quiet(&attempt(Running), &ranks)
    })
}

fn left_behind(rank: RankRow) -> RankRow {
    RankRow {
        lost_at: Some(at(12)),
        ..rank
    }
}

#[test]
fn a_gang_goes_on_without_a_rank_whose_loss_may_pass() {
    let runs = |number| rank(number, RankState::Running);
    for class in FailureClass::ALL {
        let verdict = judge_elastic(&[runs(0), failed(1, class), runs(2)]);
        match verdict {
            Verdict::GoOn(lost) if class.spares_the_others() => {
                assert_eq!(lost.len(), 1);
                assert_eq!((lost[0].0.rank, lost[0].1.class), (Rank(1), class));
            }
            Verdict::Fail(failure) if !class.spares_the_others() => {
                assert_eq!(failure.class, class);
            }
            other @ (Verdict::Wait
            | Verdict::Start
            | Verdict::Commit
            | Verdict::GoOn(_)
            | Verdict::Fail(_)
            | Verdict::Interrupt { .. }
            | Verdict::MakeRoom { .. }
            | Verdict::Cancel) => panic!("{class:?}: {other:?}"),
        }
    }
    // Its host went away, rank 0 with it.
    let host = [lost(0, RankState::Running), runs(1), runs(2)];
    assert!(matches!(judge_elastic(&host), Verdict::GoOn(lost) if lost[0].0.rank == Rank(0)));
    // What is known is acted on once.
    let known = [
        left_behind(failed(0, FailureClass::Crash)),
        runs(1),
        runs(2),
    ];
    assert_eq!(judge_elastic(&known), Verdict::Wait);
    let known = [left_behind(lost(0, RankState::Running)), runs(1), runs(2)];
    assert_eq!(judge_elastic(&known), Verdict::Wait);
}

#[test]
fn fewer_than_the_least_are_the_end() {
    let ranks = [
        left_behind(failed(0, FailureClass::Crash)),
        failed(1, FailureClass::Crash),
        rank(2, RankState::Running),
    ];
    match judge_elastic(&ranks) {
        Verdict::Fail(failure) => assert!(
            failure
                .message
                .ends_with("1 of 3 ranks were left, fewer than ranks.min (2)"),
            "{failure:?}"
        ),
        other @ (Verdict::Wait
        | Verdict::Start
        | Verdict::Commit
        | Verdict::GoOn(_)
        | Verdict::Interrupt { .. }
        | Verdict::MakeRoom { .. }
        | Verdict::Cancel) => panic!("{other:?}"),
    }
}

#[test]
fn a_gang_that_has_not_met_needs_all_its_ranks() {
    let ranks = [
        failed(0, FailureClass::Crash),
        rank(1, RankState::Running),
        rank(2, RankState::Running),
    ];
    let verdict = judge(&Situation {
        min_ranks: Some(2),
        ..quiet(&attempt(Running), &ranks)
    });
    assert_eq!(class(verdict), FailureClass::Crash);
}

#[test]
fn those_that_went_on_commit_without_the_lost_one() {
    let ranks = [
        left_behind(rank(0, RankState::Running)),
        rank(1, RankState::Finished),
        rank(2, RankState::Finished),
    ];
    assert_eq!(judge_elastic(&ranks), Verdict::Commit);
    let ranks = [
        failed(0, FailureClass::Network),
        rank(1, RankState::Finished),
        rank(2, RankState::Finished),
    ];
    assert!(matches!(judge_elastic(&ranks), Verdict::GoOn(_)));
}

#[test]
fn a_cancel_takes_effect_when_nothing_is_left() {
    let some = [rank(0, RankState::Stopped), rank(1, RankState::Running)];
    assert_eq!(judge_at(1, Running, &some, true), Verdict::Wait);
    let none = [rank(0, RankState::Stopped), lost(1, RankState::Running)];
    assert_eq!(judge_at(1, Running, &none, true), Verdict::Cancel);
}

fn judge_with(ranks: &[RankRow], makes_room: bool, deadline: Option<i64>) -> Verdict {
    let why = (Interruption::Preempted, "job 9 goes first".to_owned());
    judge(&Situation {
        makes_room: makes_room.then_some(&why),
        deadline: deadline.map(at),
        ..quiet(&attempt(Running), ranks)
    })
}

#[test]
fn who_makes_room_is_interrupted_when_nothing_is_left_of_it_whatever_its_ranks_say() {
    let some = [
        failed(0, FailureClass::UserError),
        rank(1, RankState::Running),
    ];
    assert_eq!(judge_with(&some, true, None), Verdict::Wait);
    let none = [
        failed(0, FailureClass::Network),
        rank(1, RankState::Stopped),
    ];
    assert_eq!(
        judge_with(&none, true, None),
        Verdict::Interrupt {
            cause: Interruption::Preempted,
            message: "job 9 goes first".into()
        }
    );
    // It had finished before the word came.
    let done = [rank(0, RankState::Finished), rank(1, RankState::Finished)];
    assert_eq!(judge_with(&done, true, None), Verdict::Commit);
}

#[test]
fn a_deadline_ends_what_runs() {
    let ranks = [rank(0, RankState::Running)];
    assert_eq!(judge_with(&ranks, false, Some(31)), Verdict::Wait);
    assert_eq!(
        class(judge_with(&ranks, false, Some(30))),
        FailureClass::Timeout
    );
}

#[test]
fn a_result_that_is_complete_is_kept() {
    let done = [rank(0, RankState::Finished), rank(1, RankState::Finished)];
    assert_eq!(judge_at(1000, Running, &done, true), Verdict::Commit);
}

#[test]
fn an_attempt_may_run_as_long_as_its_timeout() {
    let ranks = [rank(0, RankState::Running)];
    assert_eq!(judge_at(99, Running, &ranks, false), Verdict::Wait);
    assert_eq!(
        class(judge_at(100, Running, &ranks, false)),
        FailureClass::Timeout
    );
}

#[test]
fn preparing_has_an_end() {
    let ranks = [rank(0, RankState::Prepared), rank(1, RankState::Assigned)];
    let late = i64::try_from(PREPARE_MAX.as_secs()).unwrap();
    assert_eq!(judge_at(late - 1, Assigned, &ranks, false), Verdict::Wait);
    assert_eq!(
        class(judge_at(late, Assigned, &ranks, false)),
        FailureClass::Network
    );
}
