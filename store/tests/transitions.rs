//! Each change of state is tried from each state: from those it is meant for it works, from all others it is
//! refused and changes nothing.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::bench::{Bench, Pair, failure, interrupted};
use crate::support::{at, hello, report, success, try_place};
use marquee_domain::artifact::Manifest;
use marquee_domain::end::{AttemptEnd, Interruption};
use marquee_domain::ids::AttemptNumber;
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::spec::Ended;
use marquee_store::again::mark_jobs_made_again;
use marquee_store::attempts::{self, Rendezvous};
use marquee_store::needs::release;
use marquee_store::ranks::{self, RankChange, RankKey};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    mark_cancels_requested, mark_job_failed, mark_job_requeued, mark_job_reused,
    mark_job_running_here, mark_jobs_cancelled, mark_jobs_revived, mark_jobs_succeeded,
};
use marquee_store::workers::{self, WhichWorkers, WorkerState};
use marquee_store::{StoreError, Tx, jobs, steering};

/// Each change of a job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Release,
    Place,
    RunHere,
    Succeed,
    Reuse,
    FailRunning,
    FailOpen,
    Requeue,
    Cancel,
    AskToCancel,
    Revive,
    MakeAgain,
    Hold,
    LetGo,
    Interrupt,
}

impl Change {
    const ALL: [Self; 15] = [
        Self::Release,
        Self::Place,
        Self::RunHere,
        Self::Succeed,
        Self::Reuse,
        Self::FailRunning,
        Self::FailOpen,
        Self::Requeue,
        Self::Cancel,
        Self::AskToCancel,
        Self::Revive,
        Self::MakeAgain,
        Self::Hold,
        Self::LetGo,
        Self::Interrupt,
    ];

    /// The states that it is meant for.
    fn from(self) -> &'static [JobStateName] {
        use JobStateName::{Cancelled, Failed, Queued, Running, Succeeded, Waiting};
        match self {
            Self::Release => &[Waiting],
            Self::Place => &[Queued],
            Self::RunHere | Self::FailOpen | Self::Hold | Self::LetGo => &[Waiting, Queued],
            Self::Succeed
            | Self::FailRunning
            | Self::Requeue
            | Self::AskToCancel
            | Self::Interrupt => &[Running],
            Self::Reuse | Self::Cancel => &[Waiting, Queued, Running],
            Self::Revive => &[Failed, Cancelled],
            Self::MakeAgain => &[Succeeded],
        }
    }

    /// Whether it names the attempt that it expects.
    fn names_an_attempt(self) -> bool {
        match self {
            Self::Release | Self::Reuse | Self::Hold | Self::LetGo => false,
            Self::Place
            | Self::RunHere
            | Self::Succeed
            | Self::FailRunning
            | Self::FailOpen
            | Self::Requeue
            | Self::Cancel
            | Self::AskToCancel
            | Self::Revive
            | Self::MakeAgain
            | Self::Interrupt => true,
        }
    }

    /// Tries it. Whether it found the job as it expects it.
    async fn apply(self, tx: &mut Tx, bench: &Bench, pair: Pair, attempt: u32) -> bool {
        let (job, number) = (pair.job, AttemptNumber(attempt));
        let failure = failure();
        let fail = async |tx: &mut Tx, open: &[JobStateName]| {
            found(mark_job_failed(tx, job, attempt, open, &failure, at(9)).await)
        };
        let changed = match self {
            Self::Release => {
                let released = release(tx, &[(pair.needed, Ended::Succeeded)], at(9))
                    .await
                    .unwrap();
                released.queued
            }
            Self::Place => try_place(tx, job, attempt, bench.worker.id).await,
            Self::RunHere => {
                return found(
                    mark_job_running_here(tx, job, attempt, at(9))
                        .await
                        .map(drop),
                );
            }
            Self::Succeed => {
                let manifest = Manifest::default();
                let successes = [success((job, number), &manifest)];
                mark_jobs_succeeded(tx, &successes, at(9)).await.unwrap().0
            }
            Self::Reuse => return found(mark_job_reused(tx, job, pair.needed).await),
            Self::FailRunning => return fail(tx, &[JobStateName::Running]).await,
            Self::FailOpen => {
                return fail(tx, &[JobStateName::Waiting, JobStateName::Queued]).await;
            }
            Self::Requeue => {
                let done =
                    mark_job_requeued(tx, (job, number), attempt + 3, Some(&failure), None).await;
                return found(done);
            }
            Self::Cancel => {
                let jobs = [(job, attempt)];
                mark_jobs_cancelled(tx, &jobs, "no", None, "test", at(9))
                    .await
                    .unwrap()
            }
            Self::AskToCancel => mark_cancels_requested(tx, &[(job, number)]).await.unwrap(),
            Self::Revive => mark_jobs_revived(tx, &[(job, attempt)], "back", "test", at(9))
                .await
                .unwrap(),
            Self::MakeAgain => {
                mark_jobs_made_again(tx, &[(job, attempt)], 1, "again", "test", at(9))
                    .await
                    .unwrap()
            }
            Self::Hold => {
                return steering::mark_held(tx, job, Some("ada"), at(9))
                    .await
                    .unwrap();
            }
            Self::LetGo => {
                // What nobody holds is let go with nothing to see: it is held first, where it can be.
                let held = steering::mark_held(tx, job, Some("ada"), at(8))
                    .await
                    .unwrap();
                let gone = steering::mark_held(tx, job, None, at(9)).await.unwrap();
                assert_eq!(held, gone);
                return gone;
            }
            Self::Interrupt => {
                let jobs = [(job, number)];
                let cause = Interruption::Preempted;
                steering::mark_interrupted(tx, &jobs, cause, "job 9 goes first", at(9))
                    .await
                    .unwrap()
            }
        };
        assert!(changed.is_empty() || changed == [job], "{changed:?}");
        !changed.is_empty()
    }
}

/// Whether a change of one job found it as expected; a refusal is of one kind.
fn found(done: Result<(), StoreError>) -> bool {
    match done {
        Ok(()) => true,
        Err(StoreError::StaleAttempt { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_job_changes_from_the_states_that_a_change_is_meant_for_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for change in Change::ALL {
        for state in JobStateName::ALL {
            let (pair, attempt) = bench.job_in(&mut tx, state).await;
            let before = jobs::get_job(&mut tx, pair.job).await.unwrap();
            assert_eq!(before.state.name(), state);
            let done = change.apply(&mut tx, &bench, pair, attempt).await;
            assert_eq!(
                done,
                change.from().contains(&state),
                "{change:?} from {state:?}"
            );
            let after = jobs::get_job(&mut tx, pair.job).await.unwrap();
            assert_eq!(
                after != before,
                done && change != Change::LetGo,
                "{change:?} from {state:?}: {after:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_job_changes_at_the_attempt_that_was_meant_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for change in Change::ALL.into_iter().filter(|c| c.names_an_attempt()) {
        for state in change.from() {
            let (pair, attempt) = bench.job_in(&mut tx, *state).await;
            let before = jobs::get_job(&mut tx, pair.job).await.unwrap();
            let others = [attempt + 1, attempt.saturating_sub(1)];
            for other in others.into_iter().filter(|other| *other != attempt) {
                let done = change.apply(&mut tx, &bench, pair, other).await;
                assert!(!done, "{change:?} from {state:?} at {other} of {attempt}");
            }
            let after = jobs::get_job(&mut tx, pair.job).await.unwrap();
            assert_eq!(after, before, "{change:?} from {state:?}");
        }
    }
}

/// Each change of an attempt, and the states it is meant for.
const ATTEMPT_CHANGES: [(&str, &[AttemptStateName]); 7] = {
    use AttemptStateName::{Assigned, Running};
    [
        ("rendezvous", &[Assigned]),
        ("standby", &[Assigned]),
        ("running", &[Assigned]),
        ("succeeded", &[Assigned, Running]),
        ("failed", &[Assigned, Running]),
        ("cancelled", &[Assigned, Running]),
        ("interrupted", &[Assigned, Running]),
    ]
};

async fn change_attempt(tx: &mut Tx, change: &str, key: RankKey) -> Result<(), StoreError> {
    let (job, number) = (key.job, key.attempt);
    let place = Rendezvous {
        host: "10.0.0.1".into(),
        port: 4711,
    };
    let end = match change {
        "rendezvous" => return attempts::mark_rendezvous(tx, job, number, &place).await,
        "standby" => return attempts::mark_standby(tx, job, number, &place).await,
        "running" => return attempts::mark_attempt_running(tx, job, number, at(9)).await,
        "succeeded" => AttemptEnd::Succeeded,
        "failed" => AttemptEnd::Failed(failure()),
        "cancelled" => AttemptEnd::Cancelled,
        "interrupted" => interrupted(),
        other => panic!("no change is called {other:?}"),
    };
    attempts::mark_attempt_ended(tx, job, number, &end, at(9)).await
}

#[tokio::test]
async fn an_attempt_changes_from_the_states_that_a_change_is_meant_for_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for (change, from) in ATTEMPT_CHANGES {
        for state in AttemptStateName::ALL {
            let key = bench.attempt_in(&mut tx, state).await;
            let before = attempts::list_attempts(&mut tx, key.job).await.unwrap();
            assert_eq!(before[0].state, state);
            let done = change_attempt(&mut tx, change, key).await;
            let after = attempts::list_attempts(&mut tx, key.job).await.unwrap();
            if from.contains(&state) {
                assert!(done.is_ok(), "{change} from {state:?}: {done:?}");
                assert_ne!(after, before, "{change} from {state:?}");
                continue;
            }
            assert!(
                matches!(done, Err(StoreError::StaleAttempt { .. })),
                "{change} from {state:?}: {done:?}"
            );
            assert_eq!(after, before, "{change} from {state:?}");
            let next = RankKey {
                attempt: AttemptNumber(2),
                ..key
            };
            let done = change_attempt(&mut tx, change, next).await;
            assert!(
                matches!(done, Err(StoreError::StaleAttempt { .. })),
                "{change} of an attempt that is not there: {done:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_rank_that_has_ended_changes_no_more() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for state in RankState::ALL {
        for change in ["reported", "gone", "failed", "lost"] {
            let key = bench.rank_in(&mut tx, state).await;
            let before = ranks::list_ranks(&mut tx, key.job, None).await.unwrap();
            assert_eq!(before[0].state, state);
            let failed = failure();
            let done = match change {
                "reported" => {
                    let change = RankChange {
                        state: Some(RankState::Running),
                        ..RankChange::default()
                    };
                    report(&mut tx, key, 1, 2, &change).await
                }
                "gone" => ranks::mark_rank_gone(&mut tx, key, None, at(9)).await,
                "failed" => ranks::mark_rank_gone(&mut tx, key, Some(&failed), at(9)).await,
                _ => {
                    // Other than the rest it may hit a rank that has ended badly: its attempt goes on without it.
                    let lost = ranks::mark_rank_lost(&mut tx, key, &failed, at(9))
                        .await
                        .unwrap();
                    assert_eq!(lost, state != RankState::Finished, "lost from {state:?}");
                    let again = ranks::mark_rank_lost(&mut tx, key, &failed, at(10)).await;
                    assert!(!again.unwrap(), "lost twice");
                    continue;
                }
            };
            if state.has_ended() {
                assert!(
                    matches!(done, Err(StoreError::StaleRank { .. })),
                    "{change} from {state:?}: {done:?}"
                );
                let after = ranks::list_ranks(&mut tx, key.job, None).await.unwrap();
                assert_eq!(after, before, "{change} from {state:?}");
            } else {
                assert!(done.is_ok(), "{change} from {state:?}: {done:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_rank_takes_only_the_report_that_follows_its_last() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let key = bench.rank_in(&mut tx, RankState::Running).await;
    for from in [0, 2, 7] {
        let done = report(&mut tx, key, from, 8, &RankChange::default()).await;
        assert!(
            matches!(done, Err(StoreError::StaleRank { .. })),
            "after {from}: {done:?}"
        );
    }
    report(&mut tx, key, 1, 8, &RankChange::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_worker_that_left_comes_back_with_a_hello_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    for (state, is_seen) in [
        (WorkerState::Online, WorkerState::Online),
        (WorkerState::Lost, WorkerState::Online),
        (WorkerState::Left, WorkerState::Left),
    ] {
        workers::mark_worker_online(&mut tx, &worker, at(0))
            .await
            .unwrap();
        if state != WorkerState::Online {
            assert!(
                workers::mark_worker_gone(&mut tx, worker.id, state)
                    .await
                    .unwrap()
            );
            let again = workers::mark_worker_gone(&mut tx, worker.id, WorkerState::Left).await;
            assert!(!again.unwrap(), "gone twice");
        }
        workers::mark_worker_seen(&mut tx, worker.id, "w1", at(1))
            .await
            .unwrap();
        let known = workers::list_workers(&mut tx, WhichWorkers::Ever)
            .await
            .unwrap();
        assert_eq!(known[0].state, is_seen, "seen when {state:?}");
    }
}

/// So no worker that is not here, and no name that was taken meanwhile, is in the way of the others.
#[tokio::test]
async fn signs_of_life_are_stored_of_workers_that_are_online_and_the_others_are_named() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let names = ["here", "lost", "left", "here too"];
    let all: Vec<_> = (1..).zip(names).map(|(n, name)| hello(n, name)).collect();
    for worker in &all {
        workers::mark_worker_online(&mut tx, worker, at(0))
            .await
            .unwrap();
    }
    for (worker, state) in [(1, WorkerState::Lost), (2, WorkerState::Left)] {
        let id = all[worker].id;
        workers::mark_worker_gone(&mut tx, id, state).await.unwrap();
    }
    let unknown = hello(9, "never here").id;
    let ids = all.iter().map(|worker| worker.id).chain([unknown]);
    let heard: Vec<_> = ids.zip((1..).map(at)).collect();
    let missing = workers::mark_workers_seen(&mut tx, &heard).await.unwrap();
    assert_eq!(missing, [all[1].id, all[2].id, unknown]);
    let known = workers::list_workers(&mut tx, WhichWorkers::Ever).await;
    let known: Vec<_> = known
        .unwrap()
        .into_iter()
        .map(|worker| (worker.name, worker.state, worker.last_seen_at))
        .collect();
    let expected = [
        ("here", WorkerState::Online, at(1)),
        ("here too", WorkerState::Online, at(4)),
        ("left", WorkerState::Left, at(0)),
        ("lost", WorkerState::Lost, at(0)),
    ];
    assert_eq!(
        known,
        expected.map(|(name, state, seen)| (name.to_owned(), state, seen))
    );
}

/// A word that comes twice, as when its answer was lost, changes nothing the second time.
#[tokio::test]
async fn a_change_that_is_tried_again_finds_nothing_to_change() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for change in Change::ALL {
        // These say the same again, and are meant to.
        if matches!(change, Change::Reuse | Change::Hold | Change::LetGo) {
            continue;
        }
        for state in change.from() {
            let (pair, attempt) = bench.job_in(&mut tx, *state).await;
            assert!(change.apply(&mut tx, &bench, pair, attempt).await);
            let once = jobs::get_job(&mut tx, pair.job).await.unwrap();
            let done = change.apply(&mut tx, &bench, pair, attempt).await;
            assert!(!done, "{change:?} from {state:?} a second time");
            let twice = jobs::get_job(&mut tx, pair.job).await.unwrap();
            assert_eq!(twice, once, "{change:?} from {state:?}");
        }
    }
}

/// What a job holds goes with its end, whatever the end: the next one to have it must be able to run.
#[tokio::test]
async fn an_end_leaves_no_open_row_behind() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for change in Change::ALL {
        for state in change.from() {
            let (pair, attempt) = bench.job_in(&mut tx, *state).await;
            assert!(change.apply(&mut tx, &bench, pair, attempt).await);
            let job = jobs::get_job(&mut tx, pair.job).await.unwrap();
            let open = format!("SELECT count(*) FROM open_jobs WHERE job_id = {}", pair.job);
            let open = database.number(&open).await;
            let is_open = !job.state.name().is_final();
            assert_eq!(open, i64::from(is_open), "{change:?} from {state:?}");
        }
    }
}
