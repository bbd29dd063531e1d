//! Jobs, attempts and ranks that have come to a state as they do.

use marquee_domain::artifact::Manifest;
use marquee_domain::end::{AttemptEnd, Interruption};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::spec::Ended;
use marquee_store::needs::release;
use marquee_store::ranks::{RankChange, RankKey};
use marquee_store::transitions::{
    mark_job_failed, mark_job_running_here, mark_jobs_cancelled, mark_jobs_succeeded,
};
use marquee_store::workers::{self, WorkerHello};
use marquee_store::{Tx, attempts};

use super::{at, hello, jobs, pipeline, place, report, spec, success};

pub fn failure() -> Failure {
    Failure {
        class: FailureClass::Crash,
        message: "broke".into(),
    }
}

/// A job, and the one that it needs.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    pub needed: JobId,
    pub job: JobId,
}

/// What the tests place jobs on.
pub struct Bench {
    pub worker: WorkerHello,
    made: u32,
}

impl Bench {
    pub async fn new(tx: &mut Tx) -> Self {
        let worker = hello(1, "w1");
        workers::mark_worker_online(tx, &worker, at(0))
            .await
            .unwrap();
        Self { worker, made: 0 }
    }

    /// A job that waits for another one.
    pub async fn waiting(&mut self, tx: &mut Tx) -> Pair {
        self.made += 1;
        let pipeline = pipeline(tx, &format!("request-{}", self.made)).await;
        let specs = [spec("needed", 1), spec("job", 1)];
        let pair = [(&specs[0], [].as_slice()), (&specs[1], &[0])];
        let [needed, job] = jobs(tx, pipeline, pair).await;
        Pair { needed, job }
    }

    pub async fn queued(&mut self, tx: &mut Tx) -> Pair {
        let pair = self.waiting(tx).await;
        let number = mark_job_running_here(tx, pair.needed, 0, at(1)).await;
        succeed(tx, pair.needed, number.unwrap()).await;
        let released = release(tx, &[(pair.needed, Ended::Succeeded)], at(1))
            .await
            .unwrap();
        assert_eq!(released.queued, [pair.job]);
        pair
    }

    pub async fn running(&mut self, tx: &mut Tx) -> (Pair, RankKey) {
        let pair = self.queued(tx).await;
        (pair, place(tx, pair.job, 0, self.worker.id).await)
    }

    /// A new job that has come to `state` as jobs do, and the number of its newest attempt.
    pub async fn job_in(&mut self, tx: &mut Tx, state: JobStateName) -> (Pair, u32) {
        match state {
            JobStateName::Waiting => (self.waiting(tx).await, 0),
            JobStateName::Queued => (self.queued(tx).await, 0),
            JobStateName::Running => (self.running(tx).await.0, 1),
            JobStateName::Succeeded => {
                let (pair, key) = self.running(tx).await;
                succeed(tx, pair.job, key.attempt).await;
                (pair, 1)
            }
            JobStateName::Failed => {
                let (pair, key) = self.running(tx).await;
                let end = AttemptEnd::Failed(failure());
                attempts::mark_attempt_ended(tx, pair.job, key.attempt, &end, at(2))
                    .await
                    .unwrap();
                mark_job_failed(tx, pair.job, 1, &[state_running()], &failure(), at(2))
                    .await
                    .unwrap();
                (pair, 1)
            }
            JobStateName::Cancelled => {
                let pair = self.queued(tx).await;
                let jobs = [(pair.job, 0)];
                let done = mark_jobs_cancelled(tx, &jobs, "no", None, "test", at(2)).await;
                assert_eq!(done.unwrap(), [pair.job]);
                (pair, 0)
            }
        }
    }

    /// A new attempt that has come to `state`.
    pub async fn attempt_in(&mut self, tx: &mut Tx, state: AttemptStateName) -> RankKey {
        let (_, key) = self.running(tx).await;
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
            AttemptStateName::Interrupted => interrupted(),
        };
        attempts::mark_attempt_ended(tx, job, number, &end, at(2))
            .await
            .unwrap();
        key
    }

    /// A new rank that has come to `state`, with one report stored.
    pub async fn rank_in(&mut self, tx: &mut Tx, state: RankState) -> RankKey {
        let key = self.attempt_in(tx, AttemptStateName::Running).await;
        let change = RankChange {
            state: Some(state),
            ..RankChange::default()
        };
        report(tx, key, 0, 1, &change).await.unwrap();
        key
    }
}

fn state_running() -> JobStateName {
    JobStateName::Running
}

pub fn interrupted() -> AttemptEnd {
    AttemptEnd::Interrupted {
        cause: Interruption::Drained,
        message: "the host is emptied".into(),
    }
}

pub async fn succeed(tx: &mut Tx, job: JobId, attempt: AttemptNumber) {
    let manifest = Manifest::default();
    let successes = [success((job, attempt), &manifest)];
    let (done, _) = mark_jobs_succeeded(tx, &successes, at(2)).await.unwrap();
    assert_eq!(done, [job]);
}
