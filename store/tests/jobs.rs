//! Jobs and their transitions on a real Postgres.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::{at, hello, jobs, pipeline, place, running_job, spec, success, try_place};
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::end::AttemptEnd;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::{JobState, JobStateName};
use marquee_domain::spec::{Ended, NeedOn};
use marquee_store::attempts::{self, list_jobs_to_advance};
use marquee_store::events::list_events;
use marquee_store::jobs::{
    JobFilter, NewJob, as_stored, get_job, get_job_spec, insert_jobs, list_jobs, list_pipeline_jobs,
};
use marquee_store::needs::{find_array_end, release};
use marquee_store::neighbours::{list_dependents, list_needs};
use marquee_store::pipelines::{NewPipeline, find_pipeline_by_request_id, insert_pipeline};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    get_elements_left, list_open_elements, mark_job_failed, mark_job_requeued, mark_jobs_cancelled,
    mark_jobs_revived, mark_jobs_succeeded,
};
use marquee_store::{StoreError, Tx, workers};

#[tokio::test]
async fn a_job_comes_back_as_it_was_submitted() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let specs = [spec("fetch", 1), spec("train", 2)];
    let [fetch, train] = jobs(&mut tx, pipeline, [(&specs[0], &[]), (&specs[1], &[0])]).await;

    let stored = get_job(&mut tx, train).await.unwrap();
    assert_eq!(stored.state.name(), JobStateName::Waiting);
    assert_eq!(
        (stored.attempt, stored.max_attempts, stored.ranks),
        (0, 3, 2)
    );
    assert_eq!(
        stored.needs,
        [("fetch".parse().unwrap(), NeedOn::Succeeded)]
    );
    assert_eq!(stored.waits_for, stored.needs);
    assert_eq!(
        get_job_spec(&mut tx, train).await.unwrap(),
        spec("train", 2)
    );
    let first = get_job(&mut tx, fetch).await.unwrap();
    assert_eq!(first.state.name(), JobStateName::Queued);
    let events = list_events(&mut tx, train, 9).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].text.as_str(), events[0].caller.as_str()),
        ("submitted", "test")
    );
    let missing = get_job(&mut tx, JobId(9999)).await;
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
    let (worker, key) = running_job(&mut tx).await;
    let (job, old, new) = (key.job, AttemptNumber(1), AttemptNumber(2));
    let failure = Failure {
        class: FailureClass::LostWorker,
        message: "gone".into(),
    };
    let manifest = Manifest::default();
    let succeeded = async |tx: &mut Tx, attempt| {
        let successes = [success((job, attempt), &manifest)];
        let done = mark_jobs_succeeded(tx, &successes, at(7)).await.unwrap();
        done.0 == [job]
    };

    let end = AttemptEnd::Failed(failure.clone());
    attempts::mark_attempt_ended(&mut tx, job, old, &end, at(2))
        .await
        .unwrap();
    mark_job_requeued(&mut tx, (job, old), 3, Some(&failure), Some(at(3)))
        .await
        .unwrap();
    // Nobody runs it: the old attempt cannot commit.
    assert!(!succeeded(&mut tx, old).await);
    place(&mut tx, job, 1, worker.id).await;
    // A newer one runs it: the old attempt cannot end it in any way.
    assert!(!succeeded(&mut tx, old).await);
    let running = [JobStateName::Running];
    let failed = mark_job_failed(&mut tx, job, 1, &running, &failure, at(6)).await;
    assert!(
        matches!(failed, Err(StoreError::StaleAttempt { .. })),
        "{failed:?}"
    );
    let cancelled = mark_jobs_cancelled(&mut tx, &[(job, 1)], "no", None, "test", at(6)).await;
    assert_eq!(cancelled.unwrap(), []);
    assert!(succeeded(&mut tx, new).await);
    assert!(!succeeded(&mut tx, new).await);
    let state = get_job(&mut tx, job).await.unwrap().state;
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
    let (worker, key) = running_job(&mut tx).await;
    for after in [0, 1] {
        assert_eq!(try_place(&mut tx, key.job, after, worker.id).await, []);
    }
    let attempts = attempts::list_attempts(&mut tx, key.job).await.unwrap();
    assert_eq!(attempts.len(), 1);
}

#[tokio::test]
async fn a_job_commits_one_artifact() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let manifest = Manifest::default();
    let at_attempt = (key.job, key.attempt);
    let successes = [success(at_attempt, &manifest)];
    let (done, _) = mark_jobs_succeeded(&mut tx, &successes, at(2))
        .await
        .unwrap();
    assert_eq!(done, [key.job]);
    // The same attempt again, and any other one: it is not running any more.
    for attempt in [key.attempt.0, key.attempt.0 + 1] {
        let at_attempt = (key.job, AttemptNumber(attempt));
        let again = [success(at_attempt, &manifest)];
        let (done, _) = mark_jobs_succeeded(&mut tx, &again, at(3)).await.unwrap();
        assert_eq!(done, []);
    }
    let stored = get_job(&mut tx, key.job).await.unwrap();
    assert_eq!(stored.artifact, Some(manifest.digest()));
}

#[tokio::test]
async fn a_listing_narrows_and_pages() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let first = pipeline(&mut tx, "first").await;
    let second = pipeline(&mut tx, "second").await;
    let specs = [spec("job0", 1), spec("job1", 1), spec("job2", 1)];
    let ids = jobs(
        &mut tx,
        first,
        [(&specs[0], &[]), (&specs[1], &[]), (&specs[2], &[])],
    )
    .await;
    jobs(&mut tx, second, [(&spec("other", 1), &[])]).await;

    let mut filter = JobFilter {
        pipeline: Some(first),
        ..JobFilter::default()
    };
    let page = list_jobs(&mut tx, &filter, 2).await.unwrap();
    assert_eq!(
        page.iter().map(|j| j.id).collect::<Vec<_>>(),
        [ids[2], ids[1]]
    );
    filter.before = Some(ids[1]);
    let page = list_jobs(&mut tx, &filter, 2).await.unwrap();
    assert_eq!(page.iter().map(|j| j.id).collect::<Vec<_>>(), [ids[0]]);
    let filter = JobFilter {
        states: Some(vec![JobStateName::Failed]),
        ..JobFilter::default()
    };
    assert_eq!(list_jobs(&mut tx, &filter, 9).await.unwrap(), []);
    let in_order = list_pipeline_jobs(&mut tx, first).await.unwrap();
    assert_eq!(in_order.iter().map(|j| j.id).collect::<Vec<_>>(), ids);
}

/// The answer to a submission is made of what was stored; whoever reads it in the same moment must find the same.
#[tokio::test]
async fn what_is_said_of_jobs_just_stored_is_what_is_read_of_them() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut specs = ["zeta", "gang", "array", "open-array", "last"].map(|name| spec(name, 1));
    specs[1].resources.ranks = 3;
    specs[1].priority = -7;
    specs[1].max_attempts = 5;
    specs[2].array = Some(40);
    specs[3].array = Some(2);
    let needs = [
        vec![],
        vec![(0, NeedOn::Finished)],
        vec![(1, NeedOn::Succeeded)],
        vec![],
        // Not in the order of their places.
        vec![
            (3, NeedOn::Failed),
            (0, NeedOn::Succeeded),
            (2, NeedOn::Finished),
        ],
    ];
    let new: Vec<NewJob<'_>> = specs
        .iter()
        .zip(needs)
        .map(|(spec, needs)| NewJob { spec, needs })
        .collect();
    // Finer than what Postgres keeps.
    let now = at(3) + chrono::TimeDelta::nanoseconds(1_234_567);
    let ids = insert_jobs(&mut tx, pipeline, &new, 7, "test", now)
        .await
        .unwrap();
    let read = list_pipeline_jobs(&mut tx, pipeline).await.unwrap();
    let name = read[0].pipeline_name.clone();
    assert_eq!(as_stored((pipeline, &name), &ids, &new, now), read);
}

/// Rows that statements of this connection have read so far.
async fn rows_read(tx: &mut Tx, database: &TestDatabase) -> i64 {
    tx.execute_raw("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
    database
        .number(
            "SELECT sum(seq_tup_read + COALESCE(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
             WHERE relname = 'jobs'",
        )
        .await
}

/// Whoever watches a pipeline looks at it several times a second.
#[tokio::test]
async fn the_jobs_of_a_pipeline_are_found_without_a_look_at_those_of_others() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let [job] = jobs(&mut tx, pipeline, [(&spec("job", 1), &[])]).await;
    for statement in [
        "INSERT INTO pipelines (name, request_id, document_digest, created_at)
         SELECT 'many', 'many-' || n, repeat('ab', 32), now() FROM generate_series(1, 3000) n",
        "INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, max_attempts, created_at)
         SELECT p.id, 0, 'job', j.kind, j.spec, 0, 1, 1, now()
         FROM pipelines p, jobs j WHERE p.name = 'many' AND j.name = 'job'",
    ] {
        tx.execute_raw(statement).await.unwrap();
    }
    // As often as Postgres makes a plan anew before it thinks of keeping one, and more.
    for _ in 0..10 {
        list_pipeline_jobs(&mut tx, pipeline).await.unwrap();
    }
    let before = rows_read(&mut tx, &database).await;
    let found = list_pipeline_jobs(&mut tx, pipeline).await.unwrap();
    assert_eq!(found.iter().map(|job| job.id).collect::<Vec<_>>(), [job]);
    let read = rows_read(&mut tx, &database).await - before;
    assert!(read < 50, "{read} rows were read for one job among 3,000");
}

#[tokio::test]
async fn dependents_come_in_pipeline_order_through_every_path() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let specs = ["a", "b", "c", "d"].map(|name| spec(name, 1));
    let [a, b, c, d] = jobs(
        &mut tx,
        pipeline,
        [
            (&specs[0], &[]),
            (&specs[1], &[0]),
            (&specs[2], &[0, 1]),
            (&specs[3], &[2]),
        ],
    )
    .await;
    let mut dependents = async |job| -> Vec<JobId> {
        let found = list_dependents(&mut tx, job).await.unwrap();
        found.iter().map(|n| n.id).collect()
    };
    assert_eq!(dependents(a).await, [b, c, d]);
    assert_eq!(dependents(d).await, []);
    let needs = list_needs(&mut tx, c).await.unwrap();
    assert_eq!(needs.iter().map(|n| n.id).collect::<Vec<_>>(), [a, b]);
}

/// The end of an array's last need frees its elements, and the array waits for them.
#[tokio::test]
async fn what_a_job_needs_is_counted_down_once() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut array = spec("array", 1);
    array.array = Some(2);
    let specs = [spec("a", 1), spec("b", 1), spec("c", 1)];
    let [a, b, c, array] = jobs(
        &mut tx,
        pipeline,
        [
            (&specs[0], &[]),
            (&specs[1], &[]),
            (&specs[2], &[0, 1]),
            (&array, &[0]),
        ],
    )
    .await;
    let released = release(&mut tx, &[(a, Ended::Succeeded)], at(2))
        .await
        .unwrap();
    assert_eq!(
        (released.queued, released.arrays, released.waiting),
        (vec![], vec![array], vec![c])
    );
    let elements = list_open_elements(&mut tx, array).await.unwrap();
    assert_eq!(elements.len(), 2);
    assert!(elements.iter().all(|e| e.state == JobStateName::Queued));
    assert_eq!(get_elements_left(&mut tx, array).await.unwrap(), 2);
    let released = release(&mut tx, &[(b, Ended::Succeeded)], at(3))
        .await
        .unwrap();
    assert_eq!((released.queued, released.waiting), (vec![c], vec![]));
    // It waits no longer: what comes twice changes nothing.
    let again = release(&mut tx, &[(b, Ended::Succeeded)], at(4))
        .await
        .unwrap();
    assert_eq!((again.queued, again.waiting), (vec![], vec![]));
}

/// What is waited for is an end: each need is counted down by its own, and told of another one.
#[tokio::test]
async fn a_need_of_another_end_is_met_by_that_end_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut array = spec("array", 1);
    array.array = Some(2);
    let names = ["fetch", "clean", "tell", "use"].map(|name| spec(name, 1));
    let on = |needs: &[(u32, NeedOn)]| needs.to_vec();
    let new = [
        (&names[0], vec![]),
        (&array, on(&[(0, NeedOn::Succeeded)])),
        (&names[1], on(&[(1, NeedOn::Finished)])),
        (&names[2], on(&[(1, NeedOn::Failed)])),
        (
            &names[3],
            on(&[(1, NeedOn::Succeeded), (2, NeedOn::Finished)]),
        ),
    ]
    .map(|(spec, needs)| NewJob { spec, needs });
    let ids = insert_jobs(&mut tx, pipeline, &new, u32::MAX, "test", at(0))
        .await
        .unwrap();
    let [fetch, array, clean, tell, uses] = ids.try_into().unwrap();
    let stored = get_job(&mut tx, uses).await.unwrap();
    let wanted: Vec<NeedOn> = stored.needs.iter().map(|(_, on)| *on).collect();
    assert_eq!(wanted, [NeedOn::Succeeded, NeedOn::Finished]);
    release(&mut tx, &[(fetch, Ended::Succeeded)], at(1))
        .await
        .unwrap();
    let failure = Failure {
        class: FailureClass::UserError,
        message: "no".into(),
    };
    let waiting = [JobStateName::Waiting];
    mark_job_failed(&mut tx, array, 0, &waiting, &failure, at(2))
        .await
        .unwrap();
    // Its elements go on: it is not over for those that clean up.
    assert_eq!(find_array_end(&mut tx, array).await.unwrap(), None);
    let needs = list_needs(&mut tx, clean).await.unwrap();
    assert_eq!((needs[0].ended, needs[0].is_missed()), (None, false));
    let elements = list_open_elements(&mut tx, array).await.unwrap();
    let elements: Vec<_> = elements
        .iter()
        .map(|head| (head.id, head.attempt))
        .collect();
    mark_jobs_cancelled(&mut tx, &elements, "", None, "", at(3))
        .await
        .unwrap();
    assert_eq!(
        find_array_end(&mut tx, array).await.unwrap(),
        Some(Ended::Failed)
    );
    let needs = list_needs(&mut tx, uses).await.unwrap();
    assert!(needs[0].is_missed() && !needs[1].is_missed());
    let released = release(&mut tx, &[(array, Ended::Failed)], at(4))
        .await
        .unwrap();
    assert_eq!(
        (released.queued, released.missed),
        (vec![clean, tell], vec![array])
    );
    // What is brought back by the same statement counts as open again, although it had ended.
    mark_jobs_cancelled(
        &mut tx,
        &[(clean, 0), (uses, 0)],
        "",
        Some(array),
        "",
        at(5),
    )
    .await
    .unwrap();
    mark_jobs_revived(&mut tx, &[(clean, 0), (uses, 0), (array, 0)], "", "", at(6))
        .await
        .unwrap();
    for (job, left) in [(clean, 1), (uses, 2)] {
        let stored = get_job(&mut tx, job).await.unwrap();
        assert_eq!(stored.waits_for.len(), left, "{:?}", stored.name);
    }
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
    let [job] = jobs(&mut tx, pipeline, [(&timed, &[])]).await;
    let key = place(&mut tx, job, 0, worker.id).await;
    let due = async |now: i64, assigned_before: i64| {
        let mut conn = database.db.read().await.unwrap();
        list_jobs_to_advance(&mut conn, &[job], at(now), at(assigned_before)).await
    };
    assert_eq!(due(2, 0).await.unwrap(), []);
    assert_eq!(due(2, 1).await.unwrap(), [job], "prepared for too long");
    attempts::mark_attempt_running(&mut tx, job, key.attempt, at(10))
        .await
        .unwrap();
    assert_eq!(due(69, 69).await.unwrap(), []);
    assert_eq!(due(70, 70).await.unwrap(), [job], "its time is up");
    workers::mark_worker_gone(&mut tx, worker.id, workers::WorkerState::Lost)
        .await
        .unwrap();
    assert_eq!(due(11, 11).await.unwrap(), [job], "its worker is lost");
}
