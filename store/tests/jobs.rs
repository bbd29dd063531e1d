//! Jobs and their transitions on a real Postgres.

mod support;

use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::{JobState, JobStateName};
use marquee_store::artifacts::{NewArtifact, insert_artifact};
use marquee_store::attempts::{self, AttemptEnd, NewAttempt};
use marquee_store::jobs::{self, JobFilter};
use marquee_store::pipelines::{NewPipeline, find_pipeline_by_request_id, insert_pipeline};
use marquee_store::testing::TestDatabase;
use marquee_store::{StoreError, transitions, workers};
use support::{at, hello, job, pipeline, place, running_job, spec};

fn stale<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::StaleAttempt { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_job_comes_back_as_it_was_submitted() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let fetch = job(&mut tx, pipeline, 0, &spec("fetch", 1), &[]).await;
    let train = job(&mut tx, pipeline, 1, &spec("train", 2), &[fetch]).await;

    let stored = jobs::get_job(&mut tx, train).await.unwrap();
    assert_eq!(
        stored.state,
        JobState::Waiting {
            reason: "waits".into()
        }
    );
    assert_eq!(
        (stored.attempt, stored.max_attempts, stored.ranks),
        (0, 3, 2)
    );
    assert_eq!(stored.needs, ["fetch".parse().unwrap()]);
    assert_eq!(
        jobs::get_job_spec(&mut tx, train).await.unwrap(),
        spec("train", 2)
    );
    let missing = jobs::get_job(&mut tx, JobId(9999)).await;
    assert!(
        matches!(missing, Err(StoreError::JobNotFound(JobId(9999)))),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_request_id_makes_one_pipeline_also_when_two_come_at_once() {
    let database = TestDatabase::create().await;
    let mut first = database.db.write("first").await.unwrap();
    let id = pipeline(&mut first, "same").await;
    let db = database.db.clone();
    // Waits for the first transaction's end.
    let second = tokio::spawn(async move {
        let mut tx = db.autocommit().await.unwrap();
        let new = NewPipeline {
            name: &"other".parse().unwrap(),
            request_id: "same",
            document_digest: &Digest::of(b"other"),
            created_at: at(0),
        };
        let inserted = insert_pipeline(&mut tx, &new).await.unwrap();
        (
            inserted,
            find_pipeline_by_request_id(&mut tx, "same").await.unwrap(),
        )
    });
    first.commit().await.unwrap();
    let (inserted, found) = second.await.unwrap();
    assert_eq!(inserted, None);
    assert_eq!(found.unwrap().id, id);
}

#[tokio::test]
async fn only_the_expected_attempt_can_end_a_job() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let (old, new) = (AttemptNumber(1), AttemptNumber(2));
    let failure = Failure {
        class: FailureClass::LostWorker,
        message: "gone".into(),
    };

    let end = AttemptEnd::Failed(failure.clone());
    attempts::mark_attempt_ended(&mut tx, key.job, old, &end, at(2))
        .await
        .unwrap();
    transitions::mark_job_requeued(&mut tx, key.job, old, &failure, "again", at(3))
        .await
        .unwrap();
    // Nobody runs it: the old attempt cannot commit.
    stale(transitions::mark_job_succeeded(&mut tx, key.job, old, at(4)).await);
    let number = transitions::mark_job_running(&mut tx, key.job, 1, at(5))
        .await
        .unwrap();
    assert_eq!(number, new);
    // A newer one runs it: the old attempt cannot end it in any way.
    stale(transitions::mark_job_succeeded(&mut tx, key.job, old, at(6)).await);
    stale(transitions::mark_job_failed(&mut tx, key.job, old, &failure, at(6)).await);
    stale(transitions::mark_job_cancelled(&mut tx, key.job, 1, "no", None, at(6)).await);
    transitions::mark_job_succeeded(&mut tx, key.job, new, at(7))
        .await
        .unwrap();
    stale(transitions::mark_job_succeeded(&mut tx, key.job, new, at(8)).await);
    let state = jobs::get_job(&mut tx, key.job).await.unwrap().state;
    assert_eq!(
        state,
        JobState::Succeeded {
            attempt: new,
            finished_at: at(7)
        }
    );
}

#[tokio::test]
async fn a_job_is_never_placed_twice() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    stale(transitions::mark_job_running(&mut tx, key.job, 0, at(2)).await);
    stale(transitions::mark_job_running(&mut tx, key.job, 1, at(2)).await);
    // Even past the guards, the database refuses a second live attempt.
    let number = AttemptNumber(2);
    let second = NewAttempt {
        job: key.job,
        number,
        resume: None,
        created_at: at(2),
    };
    let refused = attempts::insert_attempt(&mut tx, &second).await;
    assert!(
        matches!(refused, Err(StoreError::Postgres(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_job_commits_one_artifact() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let manifest = Manifest::default();
    let new = NewArtifact {
        job: key.job,
        attempt: key.attempt,
        name: "output",
        manifest: &manifest,
        code: "",
        committed_at: at(2),
    };
    insert_artifact(&mut tx, &new).await.unwrap();
    assert!(insert_artifact(&mut tx, &new).await.is_err());
    let stored = jobs::get_job(&mut tx, key.job).await.unwrap();
    assert_eq!(stored.artifact, Some(manifest.digest()));
}

#[tokio::test]
async fn a_listing_narrows_and_pages() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = pipeline(&mut tx, "first").await;
    let second = pipeline(&mut tx, "second").await;
    let mut ids = Vec::new();
    for position in 0..3 {
        let name = format!("job{position}");
        ids.push(job(&mut tx, first, position, &spec(&name, 1), &[]).await);
    }
    job(&mut tx, second, 0, &spec("other", 1), &[]).await;

    let mut filter = JobFilter {
        pipeline: Some(first),
        ..JobFilter::default()
    };
    let page = jobs::list_jobs(&mut tx, &filter, 2).await.unwrap();
    assert_eq!(
        page.iter().map(|j| j.id).collect::<Vec<_>>(),
        [ids[2], ids[1]]
    );
    filter.before = Some(ids[1]);
    let page = jobs::list_jobs(&mut tx, &filter, 2).await.unwrap();
    assert_eq!(page.iter().map(|j| j.id).collect::<Vec<_>>(), [ids[0]]);
    let filter = JobFilter {
        states: Some(vec![JobStateName::Failed]),
        ..JobFilter::default()
    };
    assert_eq!(jobs::list_jobs(&mut tx, &filter, 9).await.unwrap(), []);
    let in_order = jobs::list_pipeline_jobs(&mut tx, first).await.unwrap();
    assert_eq!(in_order.iter().map(|j| j.id).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn dependents_come_in_pipeline_order_through_every_path() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let a = job(&mut tx, pipeline, 0, &spec("a", 1), &[]).await;
    let b = job(&mut tx, pipeline, 1, &spec("b", 1), &[a]).await;
    let c = job(&mut tx, pipeline, 2, &spec("c", 1), &[a, b]).await;
    let d = job(&mut tx, pipeline, 3, &spec("d", 1), &[c]).await;
    let ids =
        |neighbours: Vec<jobs::Neighbour>| neighbours.iter().map(|n| n.id).collect::<Vec<_>>();
    assert_eq!(
        ids(jobs::list_dependents(&mut tx, a).await.unwrap()),
        [b, c, d]
    );
    assert_eq!(ids(jobs::list_dependents(&mut tx, d).await.unwrap()), []);
    assert_eq!(ids(jobs::list_needs(&mut tx, c).await.unwrap()), [a, b]);
}

#[tokio::test]
async fn attempts_that_may_move_are_found() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    workers::mark_worker_online(&mut tx, &worker, at(0))
        .await
        .unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut timed = spec("timed", 1);
    timed.timeout_s = Some(60);
    let job = job(&mut tx, pipeline, 0, &timed, &[]).await;
    let key = place(&mut tx, job, worker.id).await;
    let due = async |now: i64, assigned_before: i64| {
        let mut conn = database.db.read().await.unwrap();
        attempts::list_jobs_to_advance(&mut conn, at(now), at(assigned_before))
            .await
            .unwrap()
    };
    assert_eq!(due(2, 0).await, []);
    assert_eq!(due(2, 1).await, [job], "prepared for too long");
    attempts::mark_attempt_running(&mut tx, job, key.attempt, at(10))
        .await
        .unwrap();
    assert_eq!(due(69, 69).await, []);
    assert_eq!(due(70, 70).await, [job], "its time is up");
    workers::mark_worker_gone(&mut tx, worker.id, workers::WorkerState::Lost)
        .await
        .unwrap();
    assert_eq!(due(11, 11).await, [job], "its worker is lost");
}
