//! Each change of state is tried from each state: from those it is meant for it works, from all others it is
//! refused and changes nothing.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_store::attempts::{self, AttemptEnd, Rendezvous};
use marquee_store::ranks::{self, RankChange, RankKey};
use marquee_store::testing::TestDatabase;
use marquee_store::workers::{self, WorkerHello, WorkerState};
use marquee_store::{StoreError, Tx, jobs, transitions};
use support::{at, hello, job, pipeline, place, spec};

fn failure() -> Failure {
    Failure {
        class: FailureClass::Crash,
        message: "broke".into(),
    }
}

/// What the tests place jobs on.
struct Bench {
    pipeline: PipelineId,
    worker: WorkerHello,
    made: u32,
}

impl Bench {
    async fn new(tx: &mut Tx) -> Self {
        let worker = hello(1, "w1");
        workers::mark_worker_online(tx, &worker, at(0))
            .await
            .unwrap();
        let pipeline = pipeline(tx, "request").await;
        Self {
            pipeline,
            worker,
            made: 0,
        }
    }

    async fn queued(&mut self, tx: &mut Tx) -> JobId {
        self.made += 1;
        let spec = spec(&format!("job-{}", self.made), 1);
        job(tx, self.pipeline, self.made, &spec, &[]).await
    }

    async fn running(&mut self, tx: &mut Tx) -> RankKey {
        let job = self.queued(tx).await;
        place(tx, job, self.worker.id).await
    }

    /// A new job that has come to `state` as jobs do, and the number of its newest attempt.
    async fn job_in(&mut self, tx: &mut Tx, state: JobStateName) -> (JobId, u32) {
        let end = AttemptEnd::Failed(failure());
        match state {
            JobStateName::Waiting => {
                let needed = self.queued(tx).await;
                self.made += 1;
                let spec = spec(&format!("job-{}", self.made), 1);
                let id = job(tx, self.pipeline, self.made, &spec, &[needed]).await;
                (id, 0)
            }
            JobStateName::Queued => (self.queued(tx).await, 0),
            JobStateName::Running => (self.running(tx).await.job, 1),
            JobStateName::Succeeded => {
                let RankKey { job, attempt, .. } = self.running(tx).await;
                transitions::mark_job_succeeded(tx, job, attempt, at(2))
                    .await
                    .unwrap();
                attempts::mark_attempt_ended(tx, job, attempt, &AttemptEnd::Succeeded, at(2))
                    .await
                    .unwrap();
                (job, 1)
            }
            JobStateName::Failed => {
                let RankKey { job, attempt, .. } = self.running(tx).await;
                attempts::mark_attempt_ended(tx, job, attempt, &end, at(2))
                    .await
                    .unwrap();
                transitions::mark_job_failed(tx, job, attempt, &failure(), at(2))
                    .await
                    .unwrap();
                (job, 1)
            }
            JobStateName::Cancelled => {
                let job = self.queued(tx).await;
                transitions::mark_job_cancelled(tx, job, 0, "no", None, at(2))
                    .await
                    .unwrap();
                (job, 0)
            }
        }
    }

    /// A new attempt that has come to `state`.
    async fn attempt_in(&mut self, tx: &mut Tx, state: AttemptStateName) -> RankKey {
        let key = self.running(tx).await;
        let (job, number) = (key.job, key.attempt);
        let end = match state {
            AttemptStateName::Assigned => return key,
            AttemptStateName::Running => {
                attempts::mark_attempt_running(tx, job, number, at(2))
                    .await
                    .unwrap();
                return key;
            }
            AttemptStateName::Succeeded => AttemptEnd::Succeeded,
            AttemptStateName::Failed => AttemptEnd::Failed(failure()),
            AttemptStateName::Cancelled => AttemptEnd::Cancelled,
        };
        attempts::mark_attempt_ended(tx, job, number, &end, at(2))
            .await
            .unwrap();
        key
    }

    /// A new rank that has come to `state`, with one report stored.
    async fn rank_in(&mut self, tx: &mut Tx, state: RankState) -> RankKey {
        let key = self.attempt_in(tx, AttemptStateName::Running).await;
        let change = RankChange {
            state: Some(state),
            ..RankChange::default()
        };
        ranks::mark_rank_reported(tx, key, 0, 1, &change)
            .await
            .unwrap();
        key
    }
}

/// Each change of a job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Queue,
    Run,
    Succeed,
    Reuse,
    Fail,
    FailArray,
    Requeue,
    Cancel,
    AskToCancel,
    Revive,
}

impl Change {
    const ALL: [Self; 10] = [
        Self::Queue,
        Self::Run,
        Self::Succeed,
        Self::Reuse,
        Self::Fail,
        Self::FailArray,
        Self::Requeue,
        Self::Cancel,
        Self::AskToCancel,
        Self::Revive,
    ];

    /// The states that it is meant for.
    fn from(self) -> &'static [JobStateName] {
        use JobStateName::{Cancelled, Failed, Queued, Running, Waiting};
        match self {
            Self::Queue => &[Waiting],
            Self::Run => &[Queued],
            Self::Succeed | Self::Reuse | Self::Fail | Self::Requeue | Self::AskToCancel => {
                &[Running]
            }
            // None of these jobs is an array.
            Self::FailArray => &[],
            Self::Cancel => &[Waiting, Queued, Running],
            Self::Revive => &[Failed, Cancelled],
        }
    }

    /// Whether it names the attempt that it expects.
    fn names_an_attempt(self) -> bool {
        match self {
            // A job that waits has had no attempt, or none that counts.
            Self::Queue | Self::FailArray => false,
            Self::Run
            | Self::Succeed
            | Self::Reuse
            | Self::Fail
            | Self::Requeue
            | Self::Cancel
            | Self::AskToCancel
            | Self::Revive => true,
        }
    }

    async fn apply(
        self,
        tx: &mut Tx,
        job: JobId,
        attempt: u32,
        source: JobId,
    ) -> Result<(), StoreError> {
        let (number, failure) = (AttemptNumber(attempt), failure());
        match self {
            Self::Queue => transitions::mark_job_queued(tx, job, at(9)).await,
            Self::Run => transitions::mark_job_running(tx, job, attempt, at(9))
                .await
                .map(drop),
            Self::Succeed => transitions::mark_job_succeeded(tx, job, number, at(9)).await,
            Self::Reuse => transitions::mark_job_reused(tx, job, number, source).await,
            Self::Fail => transitions::mark_job_failed(tx, job, number, &failure, at(9)).await,
            Self::FailArray => transitions::mark_array_failed(tx, job, &failure, at(9)).await,
            Self::Requeue => {
                transitions::mark_job_requeued(tx, job, number, &failure, "again", at(9)).await
            }
            Self::Cancel => {
                transitions::mark_job_cancelled(tx, job, attempt, "no", None, at(9)).await
            }
            Self::AskToCancel => transitions::mark_cancel_requested(tx, job, attempt).await,
            Self::Revive => {
                transitions::mark_job_revived(tx, job, attempt, attempt + 3, None, at(9)).await
            }
        }
    }
}

#[tokio::test]
async fn a_job_changes_from_the_states_that_a_change_is_meant_for_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (source, _) = bench.job_in(&mut tx, JobStateName::Succeeded).await;
    for change in Change::ALL {
        for state in JobStateName::ALL {
            let (job, attempt) = bench.job_in(&mut tx, state).await;
            let before = jobs::get_job(&mut tx, job).await.unwrap();
            assert_eq!(before.state.name(), state);
            let done = change.apply(&mut tx, job, attempt, source).await;
            if change.from().contains(&state) {
                assert!(done.is_ok(), "{change:?} from {state:?}: {done:?}");
                continue;
            }
            assert!(
                matches!(done, Err(StoreError::StaleAttempt { .. })),
                "{change:?} from {state:?}: {done:?}"
            );
            let after = jobs::get_job(&mut tx, job).await.unwrap();
            assert_eq!(after, before, "{change:?} from {state:?}");
        }
    }
}

#[tokio::test]
async fn a_job_changes_at_the_attempt_that_was_meant_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (source, _) = bench.job_in(&mut tx, JobStateName::Succeeded).await;
    for change in Change::ALL.into_iter().filter(|c| c.names_an_attempt()) {
        for state in change.from() {
            let (job, attempt) = bench.job_in(&mut tx, *state).await;
            let before = jobs::get_job(&mut tx, job).await.unwrap();
            let others = [attempt + 1, attempt.saturating_sub(1)];
            for other in others.into_iter().filter(|other| *other != attempt) {
                let done = change.apply(&mut tx, job, other, source).await;
                assert!(
                    matches!(done, Err(StoreError::StaleAttempt { .. })),
                    "{change:?} from {state:?} at {other} of {attempt}: {done:?}"
                );
            }
            assert_eq!(jobs::get_job(&mut tx, job).await.unwrap(), before);
        }
    }
}

/// Each change of an attempt, and the states it is meant for.
const ATTEMPT_CHANGES: [(&str, &[AttemptStateName]); 6] = {
    use AttemptStateName::{Assigned, Running};
    [
        ("rendezvous", &[Assigned]),
        ("standby", &[Assigned]),
        ("running", &[Assigned]),
        ("succeeded", &[Assigned, Running]),
        ("failed", &[Assigned, Running]),
        ("cancelled", &[Assigned, Running]),
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
                    ranks::mark_rank_reported(&mut tx, key, 1, 2, &change).await
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
        let done = ranks::mark_rank_reported(&mut tx, key, from, 8, &RankChange::default()).await;
        assert!(
            matches!(done, Err(StoreError::StaleRank { .. })),
            "after {from}: {done:?}"
        );
    }
    ranks::mark_rank_reported(&mut tx, key, 1, 8, &RankChange::default())
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
        let known = workers::list_workers(&mut tx).await.unwrap();
        assert_eq!(known[0].state, is_seen, "seen when {state:?}");
    }
}
