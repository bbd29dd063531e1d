//! Jobs that do again what is damaged, and those that wait for them.

use crate::support::bench::{Bench, failure, succeed};
use crate::support::{self, at, pipeline, place, spec};
use marquee_domain::artifact::Manifest;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::Ended;
use marquee_store::again::{
    find_job_named, get_made, list_made_elements, list_needing, mark_jobs_made_again,
    mark_waiting_again,
};
use marquee_store::needs::{recount_needs, release};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{list_open_elements, mark_job_failed, mark_job_reused};
use marquee_store::{StoreError, Tx, jobs};

async fn state(tx: &mut Tx, job: JobId) -> JobStateName {
    jobs::get_job(tx, job).await.unwrap().state.name()
}

/// How many needs an open job waits for, as its row says.
async fn needs_left(database: &TestDatabase, job: JobId) -> i64 {
    database
        .number(&format!(
            "SELECT needs_left::bigint FROM open_jobs WHERE job_id = {job}"
        ))
        .await
}

#[tokio::test]
async fn what_a_job_made_says_who_made_it_and_how_often() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (pair, key) = bench.running(&mut tx).await;
    let made = get_made(&mut tx, pair.job).await.unwrap();
    assert_eq!((made.digest, made.is_rescued, made.again), (None, false, 0));
    succeed(&mut tx, pair.job, key.attempt).await;
    let made = get_made(&mut tx, pair.job).await.unwrap();
    assert_eq!(made.digest, Some(Manifest::default().digest()));
    assert_eq!((made.is_rescued, made.committed_at), (false, Some(at(2))));
    // What it needs ran without a rank: as a rescued output does, and not as one that was taken from others.
    assert!(get_made(&mut tx, pair.needed).await.unwrap().is_rescued);
    let other = bench.waiting(&mut tx).await;
    mark_job_reused(&mut tx, other.needed, pair.needed)
        .await
        .unwrap();
    let number = marquee_store::transitions::mark_job_running_here(&mut tx, other.needed, 0, at(1));
    let number = number.await.unwrap();
    succeed(&mut tx, other.needed, number).await;
    assert!(!get_made(&mut tx, other.needed).await.unwrap().is_rescued);

    let done = mark_jobs_made_again(&mut tx, &[(pair.job, 1)], 2, "damaged", "test", at(3)).await;
    assert_eq!(done.unwrap(), [pair.job]);
    let made = get_made(&mut tx, pair.job).await.unwrap();
    assert_eq!(made.again, 2);
    assert!(
        made.digest.is_some(),
        "it stays until another takes its place"
    );
    let absent = get_made(&mut tx, JobId(i64::MAX)).await;
    assert!(matches!(absent, Err(StoreError::JobNotFound(_))));
}

#[tokio::test]
async fn a_job_is_found_by_its_name_within_its_pipeline() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut many = spec("many", 1);
    many.array = Some(2);
    let first = spec("first", 1);
    let one = pipeline(&mut tx, "one").await;
    let [one_first, one_many] = support::jobs(&mut tx, one, [(&first, &[]), (&many, &[0])]).await;
    let two = pipeline(&mut tx, "two").await;
    let [two_first] = support::jobs(&mut tx, two, [(&first, &[])]).await;
    for (pipeline, name, id) in [
        (one, "first", Some(one_first)),
        // The array, and none of its elements, which are called the same.
        (one, "many", Some(one_many)),
        (two, "first", Some(two_first)),
        (two, "many", None),
        (PipelineId(i64::MAX), "first", None),
    ] {
        let found = find_job_named(&mut tx, pipeline, &name.parse().unwrap()).await;
        assert_eq!(found.unwrap(), id, "{name} of {pipeline}");
    }
    assert_eq!(list_needing(&mut tx, one_first).await.unwrap(), [one_many]);
    assert_eq!(list_needing(&mut tx, one_many).await.unwrap(), []);
}

/// A job of each state that needs another one, which is made again.
#[tokio::test]
async fn only_what_has_not_begun_waits_again() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for before in JobStateName::ALL {
        let (pair, _) = bench.job_in(&mut tx, before).await;
        let needed_state = state(&mut tx, pair.needed).await;
        if needed_state == JobStateName::Succeeded {
            let done =
                mark_jobs_made_again(&mut tx, &[(pair.needed, 1)], 1, "again", "test", at(3)).await;
            assert_eq!(done.unwrap(), [pair.needed]);
        }
        let waits = matches!(before, JobStateName::Waiting | JobStateName::Queued);
        for round in ["first", "second"] {
            let again = mark_waiting_again(&mut tx, &[pair.job], at(4))
                .await
                .unwrap();
            let expected: &[JobId] = if waits { &[pair.job] } else { &[] };
            assert_eq!(again, expected, "{before:?}, {round} time");
            let after = if waits { JobStateName::Waiting } else { before };
            assert_eq!(state(&mut tx, pair.job).await, after);
        }
        if !waits {
            continue;
        }
        assert_eq!(needs_left(&database, pair.job).await, 1, "{before:?}");
        let told = format!(
            "SELECT count(*) FROM job_events WHERE job_id = {} AND text LIKE 'waits again%'",
            pair.job
        );
        let said = i64::from(before == JobStateName::Queued);
        assert_eq!(database.number(&told).await, said, "{before:?}: said once");
        let released = release(&mut tx, &[(pair.needed, Ended::Succeeded)], at(5)).await;
        assert_eq!(released.unwrap().queued, [pair.job], "{before:?}");
    }
}

#[tokio::test]
async fn elements_wait_again_with_their_array_and_go_on_with_it() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (maker, key) = bench.running(&mut tx).await;
    succeed(&mut tx, maker.job, key.attempt).await;
    let mut many = spec("many", 1);
    many.array = Some(4);
    let (first, last) = (spec("first", 1), spec("last", 1));
    let line = pipeline(&mut tx, "line").await;
    let jobs = [(&first, [].as_slice()), (&many, &[0]), (&last, &[1])];
    let [first, array, last] = support::jobs(&mut tx, line, jobs).await;
    let key = place(&mut tx, first, 0, bench.worker.id).await;
    succeed(&mut tx, first, key.attempt).await;
    release(&mut tx, &[(first, Ended::Succeeded)], at(3))
        .await
        .unwrap();
    let elements: Vec<JobId> = list_open_elements(&mut tx, array)
        .await
        .unwrap()
        .iter()
        .map(|element| element.id)
        .collect();
    // One has succeeded, one runs, one has failed; one has not begun.
    let keys = [
        place(&mut tx, elements[0], 0, bench.worker.id).await,
        place(&mut tx, elements[1], 0, bench.worker.id).await,
        place(&mut tx, elements[2], 0, bench.worker.id).await,
    ];
    succeed(&mut tx, elements[0], keys[0].attempt).await;
    let running = [JobStateName::Running];
    mark_job_failed(&mut tx, elements[2], 1, &running, &failure(), at(3))
        .await
        .unwrap();
    let made = list_made_elements(&mut tx, array).await.unwrap();
    assert_eq!(made, [(elements[0], 1, Manifest::default())]);

    let done = mark_jobs_made_again(&mut tx, &[(first, 1)], 1, "again", "test", at(4)).await;
    assert_eq!(done.unwrap(), [first]);
    let needing = list_needing(&mut tx, first).await.unwrap();
    let again = mark_waiting_again(&mut tx, &needing, at(4)).await.unwrap();
    assert_eq!(
        again,
        [array],
        "elements are left out where their array is named"
    );
    for (element, after) in [
        (0, JobStateName::Succeeded),
        (1, JobStateName::Running),
        (2, JobStateName::Failed),
        (3, JobStateName::Waiting),
    ] {
        assert_eq!(state(&mut tx, elements[element]).await, after, "{element}");
    }
    // What waits for the array waits for the array alone, as before.
    assert_eq!(needs_left(&database, last).await, 1);
    let key = place(&mut tx, first, 1, bench.worker.id).await;
    succeed(&mut tx, first, key.attempt).await;
    let released = release(&mut tx, &[(first, Ended::Succeeded)], at(5))
        .await
        .unwrap();
    assert_eq!(released.arrays, [array]);
    assert_eq!(state(&mut tx, elements[3]).await, JobStateName::Queued);
    assert_eq!(state(&mut tx, elements[1]).await, JobStateName::Running);
    // Twice changes nothing: all that it needs is there.
    let again = mark_waiting_again(&mut tx, &[array, last], at(6)).await;
    assert_eq!(again.unwrap(), [last]);
    assert_eq!(state(&mut tx, elements[3]).await, JobStateName::Queued);
}

/// Of three needs two are through; one of those is opened again.
#[tokio::test]
async fn needs_are_counted_anew_and_never_down_to_none() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let bench = Bench::new(&mut tx).await;
    let needs = ["one", "two", "three"].map(|name| spec(name, 1));
    let job = spec("job", 1);
    let all = pipeline(&mut tx, "all").await;
    let jobs = [
        (&needs[0], [].as_slice()),
        (&needs[1], &[]),
        (&needs[2], &[]),
        (&job, &[0, 1, 2]),
    ];
    let [one, two, three, job] = support::jobs(&mut tx, all, jobs).await;
    for need in [one, two] {
        let key = place(&mut tx, need, 0, bench.worker.id).await;
        succeed(&mut tx, need, key.attempt).await;
        let released = release(&mut tx, &[(need, Ended::Succeeded)], at(3)).await;
        assert_eq!(released.unwrap().waiting, [job]);
    }
    assert_eq!(needs_left(&database, job).await, 1);
    recount_needs(&mut tx, &[job]).await.unwrap();
    assert_eq!(needs_left(&database, job).await, 1, "nothing has changed");
    mark_jobs_made_again(&mut tx, &[(one, 1)], 1, "again", "test", at(4))
        .await
        .unwrap();
    for _ in 0..2 {
        recount_needs(&mut tx, &[job, JobId(i64::MAX)])
            .await
            .unwrap();
        assert_eq!(needs_left(&database, job).await, 2);
    }
    // Who has all that it needs is released by the end of a need, which also tells its history, and by nothing else.
    for need in [one, three] {
        let attempt = u32::from(need == one);
        let key = place(&mut tx, need, attempt, bench.worker.id).await;
        succeed(&mut tx, need, key.attempt).await;
    }
    recount_needs(&mut tx, &[job]).await.unwrap();
    assert_eq!(needs_left(&database, job).await, 2);
    assert_eq!(state(&mut tx, job).await, JobStateName::Waiting);
    let ends = [(one, Ended::Succeeded), (three, Ended::Succeeded)];
    let released = release(&mut tx, &ends, at(5)).await.unwrap();
    assert_eq!(released.queued, [job]);
}
