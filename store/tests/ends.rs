//! What the ends of elements come to for their array, and who is waited for.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::bench::{Bench, failure};
use crate::support::{self, at, pipeline, spec};
use marquee_domain::end::AttemptBudget;
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::NeedOn;
use marquee_domain::transitions::JobStage;
use marquee_domain::transitions::needs::Need;
use marquee_store::jobs::{NewJob, insert_jobs};
use marquee_store::neighbours::{Waiting, list_waiting_needs};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    ArrayEnds, Missed, find_missed_element, get_array_ends, get_job_head, list_open_elements,
    mark_job_failed, mark_job_running_here, mark_jobs_cancelled,
};
use marquee_store::{StoreError, Tx};

/// An array of `size` elements, of which so many may fail, with its elements.
async fn array(tx: &mut Tx, size: u32, may_fail: u32) -> (JobId, Vec<JobId>) {
    let pipeline = pipeline(tx, "request").await;
    let mut many = spec("many", 1);
    (many.array, many.may_fail) = (Some(size), may_fail);
    let [array] = support::jobs(tx, pipeline, [(&many, &[])]).await;
    let elements = list_open_elements(tx, array).await.unwrap();
    (array, elements.into_iter().map(|one| one.id).collect())
}

async fn fail(tx: &mut Tx, element: JobId) {
    let queued = [JobStateName::Queued];
    mark_job_failed(tx, element, 0, &queued, &failure(), at(2))
        .await
        .unwrap();
}

async fn cancel(tx: &mut Tx, element: JobId) {
    let done = mark_jobs_cancelled(tx, &[(element, 0)], "no", None, "test", at(2)).await;
    assert_eq!(done.unwrap(), [element]);
}

#[tokio::test]
async fn the_ends_of_elements_are_counted_up_to_the_one_that_loses_their_array() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (id, elements) = array(&mut tx, 5, 2).await;
    let mut expected = ArrayEnds {
        size: 5,
        succeeded: 0,
        missed: 0,
        may_fail: 2,
    };
    assert_eq!(get_array_ends(&mut tx, id).await.unwrap(), expected);
    assert_eq!((expected.open(), expected.is_lost()), (5, false));

    let number = mark_job_running_here(&mut tx, elements[0], 0, at(1)).await;
    support::bench::succeed(&mut tx, elements[0], number.unwrap()).await;
    expected.succeeded = 1;
    assert_eq!(get_array_ends(&mut tx, id).await.unwrap(), expected);
    for (n, element) in elements[1..4].iter().enumerate() {
        match n % 2 {
            0 => fail(&mut tx, *element).await,
            _ => cancel(&mut tx, *element).await,
        }
        expected.missed += 1;
        let found = get_array_ends(&mut tx, id).await.unwrap();
        assert_eq!(found, expected);
        assert_eq!(found.is_lost(), found.missed > 2);
    }
    assert_eq!(expected.open(), 1);
}

#[tokio::test]
async fn what_may_fail_is_read_from_documents_of_any_version() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (id, _) = array(&mut tx, 2, 1).await;
    for (spec, may_fail) in [
        ("spec - 'may_fail'", 0),
        ("jsonb_set(spec, '{may_fail}', 'null')", 0),
        ("jsonb_set(spec, '{may_fail}', '\"all\"')", 0),
        ("jsonb_set(spec, '{may_fail}', '-1')", 0),
        ("jsonb_set(spec, '{may_fail}', '4294967295')", u32::MAX),
        ("jsonb_set(spec, '{may_fail}', '4294967296')", u32::MAX),
        ("'7'", 0),
    ] {
        let set = format!("UPDATE jobs SET spec = {spec} WHERE id = {id}");
        database.execute(&set).await;
        let ends = get_array_ends(&mut tx, id).await.unwrap();
        assert_eq!(ends.may_fail, may_fail, "{spec}");
    }
}

#[tokio::test]
async fn counts_of_a_job_that_is_no_array_are_not_to_be_had() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pair = Bench::new(&mut tx).await.waiting(&mut tx).await;
    for job in [pair.job, JobId(i64::MAX), JobId(-1)] {
        let ends = get_array_ends(&mut tx, job).await;
        assert!(matches!(ends, Err(StoreError::JobNotFound(found)) if found == job));
        assert_eq!(find_missed_element(&mut tx, job).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_failure_is_named_before_a_cancel_and_the_first_of_each_kind() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (id, elements) = array(&mut tx, 6, 6).await;
    assert_eq!(find_missed_element(&mut tx, id).await.unwrap(), None);
    let expected = |index: u32, failure| {
        Some(Missed {
            id: elements[index as usize],
            index,
            failure,
        })
    };
    // In an order in which no answer is that of the time.
    for (index, fails, named, by) in [
        (3, false, 3, None),
        (1, false, 1, None),
        (5, true, 5, Some(failure())),
        (4, true, 4, Some(failure())),
        (0, false, 4, Some(failure())),
        (2, true, 2, Some(failure())),
    ] {
        let element = elements[index];
        if fails {
            fail(&mut tx, element).await;
        } else {
            cancel(&mut tx, element).await;
        }
        let found = find_missed_element(&mut tx, id).await.unwrap();
        assert_eq!(found, expected(named, by), "after {index}");
    }
}

#[tokio::test]
async fn a_head_tells_the_domain_where_a_job_is() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for state in JobStateName::ALL {
        let (pair, newest) = bench.job_in(&mut tx, state).await;
        let head = get_job_head(&mut tx, pair.job).await.unwrap();
        assert_eq!((head.state, head.attempt), (state, newest));
        let life = head.life();
        let stage = match life.stage {
            JobStage::Waiting => JobStateName::Waiting,
            JobStage::Queued { .. } => JobStateName::Queued,
            JobStage::Running {
                cancel_requested, ..
            } => {
                assert!(!cancel_requested);
                JobStateName::Running
            }
            JobStage::Succeeded => JobStateName::Succeeded,
            JobStage::Failed => JobStateName::Failed,
            JobStage::Cancelled { for_job } => {
                assert_eq!(for_job, None);
                JobStateName::Cancelled
            }
        };
        assert_eq!(stage, state);
        let AttemptBudget {
            newest: at,
            granted,
            ..
        } = life.budget;
        assert_eq!((at, granted, life.is_array), (newest, 3, false));
    }
}

#[tokio::test]
async fn who_waits_is_listed_after_what_it_needs_with_all_that_it_needs() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut many = spec("many", 1);
    many.array = Some(3);
    let specs = ["fetch", "side", "clean", "last"].map(|name| spec(name, 1));
    let all = [&specs[0], &specs[1], &many, &specs[2], &specs[3]];
    let needs: [&[(u32, NeedOn)]; 5] = [
        &[],
        &[],
        &[(0, NeedOn::Succeeded)],
        &[(0, NeedOn::Failed), (1, NeedOn::Finished)],
        &[(2, NeedOn::Succeeded), (3, NeedOn::Finished)],
    ];
    let new: Vec<NewJob<'_>> = all
        .into_iter()
        .zip(needs)
        .map(|(spec, needs)| NewJob {
            spec,
            needs: needs.to_vec(),
        })
        .collect();
    let ids = insert_jobs(&mut tx, pipeline, &new, u32::MAX, "test", at(0))
        .await
        .unwrap();
    let [fetch, side, many, clean, last] = ids[..] else {
        panic!("five jobs");
    };
    let waits = |id: JobId| Waiting {
        id,
        attempt: 0,
        is_array: id == many,
    };
    let need = |job: JobId, of: JobId, on: NeedOn| Need { job, of, on };
    let of_last = [
        need(last, many, NeedOn::Succeeded),
        need(last, clean, NeedOn::Finished),
    ];
    let of_clean = [
        need(clean, fetch, NeedOn::Failed),
        need(clean, side, NeedOn::Finished),
    ];
    let of_many = [need(many, fetch, NeedOn::Succeeded)];

    let (waiting, needs) = list_waiting_needs(&mut tx, fetch).await.unwrap();
    assert_eq!(waiting, [waits(many), waits(clean), waits(last)]);
    assert_eq!(needs, [&of_many[..], &of_clean, &of_last].concat());
    let (waiting, needs) = list_waiting_needs(&mut tx, side).await.unwrap();
    assert_eq!(waiting, [waits(clean), waits(last)]);
    assert_eq!(needs, [&of_clean[..], &of_last].concat());
    for nobody in [last, JobId(i64::MAX)] {
        let (waiting, needs) = list_waiting_needs(&mut tx, nobody).await.unwrap();
        assert!(waiting.is_empty() && needs.is_empty());
    }

    // Through one that has ended without success, and not through one that did what others waited for.
    mark_jobs_cancelled(&mut tx, &[(clean, 0)], "no", None, "test", at(2))
        .await
        .unwrap();
    let (waiting, _) = list_waiting_needs(&mut tx, side).await.unwrap();
    assert_eq!(waiting, [waits(last)]);
    let number = mark_job_running_here(&mut tx, many, 0, at(3))
        .await
        .unwrap();
    assert_eq!(number, AttemptNumber(1));
    let (waiting, _) = list_waiting_needs(&mut tx, many).await.unwrap();
    assert_eq!(waiting, [waits(last)]);
    let (waiting, _) = list_waiting_needs(&mut tx, fetch).await.unwrap();
    assert_eq!(
        waiting,
        [waits(last)],
        "by way of the one that was cancelled"
    );
}
