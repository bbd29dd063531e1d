//! Arrays as listings show them: right counts in every state, at a price that does not grow with their size.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::{at, hello, jobs, pipeline, place, spec, success};
use marquee_domain::artifact::Manifest;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::Ended;
use marquee_store::jobs::{Job, JobFilter, get_job, list_jobs};
use marquee_store::needs::release;
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    list_open_elements, mark_job_failed, mark_job_requeued, mark_jobs_cancelled, mark_jobs_revived,
    mark_jobs_succeeded,
};
use marquee_store::workers::mark_worker_online;
use marquee_store::{Tx, attempts};

/// Waiting, queued, running, succeeded, failed, cancelled.
async fn counts(tx: &mut Tx, array: JobId) -> [u32; 6] {
    let job: Job = get_job(tx, array).await.unwrap();
    let of = job.elements.unwrap();
    [
        of.waiting,
        of.queued,
        of.running,
        of.succeeded,
        of.failed,
        of.cancelled,
    ]
}

#[tokio::test]
async fn an_array_counts_its_elements_in_every_state() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut many = spec("many", 1);
    many.array = Some(5);
    let first = spec("first", 1);
    let [first, array] = jobs(&mut tx, pipeline, [(&first, &[]), (&many, &[0])]).await;
    assert_eq!(counts(&mut tx, array).await, [5, 0, 0, 0, 0, 0]);
    release(&mut tx, &[(first, Ended::Succeeded)], at(1))
        .await
        .unwrap();
    assert_eq!(counts(&mut tx, array).await, [0, 5, 0, 0, 0, 0]);

    let elements = list_open_elements(&mut tx, array).await.unwrap();
    let ids: Vec<JobId> = elements.iter().map(|element| element.id).collect();
    for id in &ids[..4] {
        place(&mut tx, *id, 0, worker.id).await;
    }
    assert_eq!(counts(&mut tx, array).await, [0, 1, 4, 0, 0, 0]);
    let one = AttemptNumber(1);
    let nothing = Manifest::default();
    mark_jobs_succeeded(&mut tx, &[success((ids[0], one), &nothing)], at(2))
        .await
        .unwrap();
    let failure = Failure {
        class: FailureClass::Crash,
        message: "exit code 1".into(),
    };
    let running = [JobStateName::Running];
    mark_job_failed(&mut tx, ids[1], 1, &running, &failure, at(2))
        .await
        .unwrap();
    mark_jobs_cancelled(&mut tx, &[(ids[2], 1)], "by a user", None, "", at(2))
        .await
        .unwrap();
    assert_eq!(counts(&mut tx, array).await, [0, 1, 1, 1, 1, 1]);
    // It waits for its next attempt while its rank's devices are not free yet: it is queued.
    mark_job_requeued(&mut tx, (ids[3], one), 3, Some(&failure), None)
        .await
        .unwrap();
    assert_eq!(counts(&mut tx, array).await, [0, 2, 0, 1, 1, 1]);
    mark_jobs_revived(&mut tx, &[(ids[1], 1)], "again", "", at(3))
        .await
        .unwrap();
    assert_eq!(counts(&mut tx, array).await, [0, 3, 0, 1, 0, 1]);
}

/// Rows that statements of this connection have read, by whatever way.
async fn rows_read(database: &TestDatabase, tx: &mut Tx) -> i64 {
    tx.execute_raw("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
    database
        .number(
            "SELECT sum(seq_tup_read + COALESCE(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables",
        )
        .await
}

/// Whoever watches an array looks at it several times a second, with plans that were made when the tables
/// were empty.
#[tokio::test]
async fn a_look_at_an_array_costs_the_same_however_large_it_is() {
    const LOOKS: i64 = 10;
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    let small = pipeline(&mut tx, "small").await;
    let mut few = spec("few", 1);
    few.array = Some(2);
    let [few] = jobs(&mut tx, small, [(&few, &[])]).await;
    let one = |id| JobFilter {
        ids: Some(vec![id]),
        ..JobFilter::default()
    };
    for _ in 0..LOOKS {
        list_jobs(&mut tx, &one(few), 1).await.unwrap();
    }
    let large = pipeline(&mut tx, "large").await;
    let mut many = spec("many", 1);
    many.array = Some(20_000);
    let [many] = jobs(&mut tx, large, [(&many, &[])]).await;
    let first = list_open_elements(&mut tx, many).await.unwrap()[0].id;
    place(&mut tx, first, 0, worker.id).await;
    attempts::mark_attempt_running(&mut tx, first, AttemptNumber(1), at(2))
        .await
        .unwrap();

    let before = rows_read(&database, &mut tx).await;
    for _ in 0..LOOKS {
        let found = list_jobs(&mut tx, &one(many), 1).await.unwrap();
        let counts = found[0].elements.unwrap();
        assert_eq!((counts.running, counts.queued), (1, 19_999));
    }
    let each = (rows_read(&database, &mut tx).await - before) / LOOKS;
    assert!(each < 200, "{each} rows a look");
}
