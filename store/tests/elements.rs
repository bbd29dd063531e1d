//! Elements of arrays become jobs in the order of their indexes, each once, whatever happens to the array meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::{at, hello, pipeline, place, spec, success};
use marquee_domain::artifact::Manifest;
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_store::Tx;
use marquee_store::elements::{
    find_element, find_left, insert_elements, list_to_come, mark_elements_dropped,
    mark_elements_to_come,
};
use marquee_store::jobs::{JobFilter, NewJob, get_job, insert_jobs, list_jobs};
use marquee_store::open::{Which, list_open_jobs};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    get_array_ends, list_elements_to_revive, list_open_elements, mark_jobs_cancelled,
    mark_jobs_revived, mark_jobs_succeeded,
};
use marquee_store::workers::mark_worker_online;

const SIZE: u32 = 23;

async fn array(tx: &mut Tx, request: &str, ahead: u32) -> JobId {
    let pipeline = pipeline(tx, request).await;
    let mut spec = spec("many", 1);
    spec.array = Some(SIZE);
    let new = [NewJob {
        spec: &spec,
        needs: Vec::new(),
    }];
    let ids = insert_jobs(tx, pipeline, &new, ahead, "test", at(0)).await;
    ids.unwrap()[0]
}

/// The indexes of those that are jobs.
async fn indexes(tx: &mut Tx, array: JobId) -> Vec<u32> {
    let of_array = JobFilter {
        array: Some(array),
        ..JobFilter::default()
    };
    let mut jobs = list_jobs(tx, &of_array, 100).await.unwrap();
    jobs.reverse();
    let indexes = jobs.iter().map(|job| job.element.unwrap().index);
    indexes.collect()
}

async fn to_come(tx: &mut Tx, array: JobId) -> u32 {
    let listed = list_to_come(tx, Which::Of(&[array])).await.unwrap();
    listed.first().map_or(0, |(_, left)| *left)
}

#[tokio::test]
async fn of_an_array_so_many_become_jobs_as_are_asked_for_and_never_one_twice() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let none = array(&mut tx, "none", 0).await;
    assert_eq!(indexes(&mut tx, none).await, [0; 0]);
    let some = array(&mut tx, "some", 5).await;
    let whole = array(&mut tx, "whole", u32::MAX).await;
    assert_eq!(indexes(&mut tx, whole).await.len(), SIZE as usize);
    let all = list_to_come(&mut tx, Which::All).await.unwrap();
    assert_eq!(all, [(none, SIZE), (some, SIZE - 5)]);
    // Of several at once, of one that has none, and of one that is not there.
    let asked = [(none, 2), (some, 0), (whole, 9), (JobId(1 << 40), 1)];
    let made = insert_elements(&mut tx, &asked).await.unwrap();
    assert_eq!(made.len(), 2);
    assert_eq!(indexes(&mut tx, none).await, [0, 1]);
    let made = insert_elements(&mut tx, &[(some, u32::MAX)]).await.unwrap();
    assert_eq!(made.len(), SIZE as usize - 5);
    let every: Vec<u32> = (0..SIZE).collect();
    assert_eq!(indexes(&mut tx, some).await, every);
    let again = insert_elements(&mut tx, &[(some, 1)]).await.unwrap();
    assert_eq!(again, []);
    assert_eq!(
        find_element(&mut tx, none, 1).await.unwrap(),
        Some(JobId(made_at(&mut tx, none, 1).await))
    );
    assert_eq!(find_element(&mut tx, none, 2).await.unwrap(), None);
}

async fn made_at(tx: &mut Tx, array: JobId, index: u32) -> i64 {
    let of_array = JobFilter {
        array: Some(array),
        ..JobFilter::default()
    };
    let jobs = list_jobs(tx, &of_array, 100).await.unwrap();
    let at = jobs.iter().find(|job| job.element.unwrap().index == index);
    at.unwrap().id.0
}

/// Whatever is done with it in whatever order, each element is a job, to come, or dropped, and the counts add up.
#[tokio::test]
async fn an_array_that_is_cancelled_and_brought_back_at_any_time_loses_and_doubles_nothing() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    let nothing = Manifest::default();
    for seed in 0..12_u32 {
        let array = array(&mut tx, &format!("r{seed}"), seed % 4).await;
        let mut draw = seed.wrapping_mul(2_654_435_761).max(1);
        let mut cancelled = false;
        let mut done = 0;
        for _ in 0..60 {
            draw ^= draw << 13;
            draw ^= draw >> 17;
            draw ^= draw << 5;
            match draw % 5 {
                0 | 1 if !cancelled => {
                    insert_elements(&mut tx, &[(array, draw % 7)])
                        .await
                        .unwrap();
                }
                2 if !cancelled => {
                    let open = list_open_elements(&mut tx, array).await.unwrap();
                    if let Some(first) = open.first() {
                        place(&mut tx, first.id, first.attempt, worker.id).await;
                        let key = (first.id, AttemptNumber(first.attempt + 1));
                        mark_jobs_succeeded(&mut tx, &[success(key, &nothing)], at(2))
                            .await
                            .unwrap();
                        done += 1;
                    }
                }
                3 if !cancelled => {
                    mark_elements_dropped(&mut tx, &[array]).await.unwrap();
                    let open = list_open_elements(&mut tx, array).await.unwrap();
                    let mut all: Vec<(JobId, u32)> =
                        open.iter().map(|head| (head.id, head.attempt)).collect();
                    all.push((array, 0));
                    mark_jobs_cancelled(&mut tx, &all, "no", None, "", at(3))
                        .await
                        .unwrap();
                    cancelled = true;
                    let ends = get_array_ends(&mut tx, array).await.unwrap();
                    assert_eq!((ends.open(), ends.succeeded), (0, done), "seed {seed}");
                    // What is cancelled becomes no job.
                    assert_eq!(insert_elements(&mut tx, &[(array, 3)]).await.unwrap(), []);
                }
                4 if cancelled => {
                    let mut back = list_elements_to_revive(&mut tx, array).await.unwrap();
                    back.push((array, 0));
                    mark_jobs_revived(&mut tx, &back, "again", "", at(4))
                        .await
                        .unwrap();
                    mark_elements_to_come(&mut tx, &[array]).await.unwrap();
                    cancelled = false;
                }
                _ => {}
            }
            let there = indexes(&mut tx, array).await;
            let first: Vec<u32> = (0..u32::try_from(there.len()).unwrap()).collect();
            assert_eq!(there, first, "seed {seed}");
            let job = get_job(&mut tx, array).await.unwrap();
            let of = job.elements.unwrap();
            assert_eq!(
                (of.size(), of.succeeded),
                (SIZE, done),
                "seed {seed}: {of:?}"
            );
            if cancelled {
                assert_eq!(of.cancelled, SIZE - done, "seed {seed}");
            } else {
                let left = SIZE - u32::try_from(there.len()).unwrap();
                assert_eq!(
                    (of.cancelled, to_come(&mut tx, array).await),
                    (0, left),
                    "seed {seed}"
                );
            }
        }
    }
}

/// What an array needs may be made again while elements of it run: then nothing further stands in line.
#[tokio::test]
async fn what_is_to_come_waits_while_something_that_the_array_needs_is_made_again() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    let array = array(&mut tx, "request", 2).await;
    let first = list_open_elements(&mut tx, array).await.unwrap()[0].id;
    place(&mut tx, first, 0, worker.id).await;
    let said = async |tx: &mut Tx| -> Vec<u32> {
        let jobs = list_open_jobs(tx, Which::All).await.unwrap();
        let jobs = jobs.into_iter().map(|job| job.unwrap().to_come);
        jobs.collect()
    };
    assert_eq!(said(&mut tx).await, [SIZE - 2; 2]);
    for (needs_left, expected) in [(1, 0), (0, SIZE - 2)] {
        let set = format!("UPDATE open_jobs SET needs_left = {needs_left} WHERE job_id = {array}");
        database.execute(&set).await;
        assert_eq!(said(&mut tx).await, [expected; 2]);
        assert_eq!(to_come(&mut tx, array).await, expected);
    }
}

/// The release before this one may lead beside it: it makes every element a job, and says nothing of any to come.
#[tokio::test]
async fn an_array_that_an_older_release_stored_has_nothing_to_come() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let array = array(&mut tx, "request", u32::MAX).await;
    database
        .execute(&format!(
            "DELETE FROM arrays WHERE job_id = {array}; INSERT INTO arrays (job_id, size) VALUES ({array}, {SIZE})"
        ))
        .await;
    assert_eq!(find_left(&mut tx, array).await.unwrap(), None);
    assert_eq!(list_to_come(&mut tx, Which::All).await.unwrap(), []);
    assert_eq!(insert_elements(&mut tx, &[(array, 5)]).await.unwrap(), []);
    assert_eq!(get_array_ends(&mut tx, array).await.unwrap().open(), SIZE);
}
