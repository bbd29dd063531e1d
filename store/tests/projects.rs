//! Projects, holds and interruptions as they are stored.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use crate::support::{at, hello, jobs as store_jobs, pipeline, spec};
use marquee_domain::end::Interruption;
use marquee_domain::ids::{AttemptNumber, WorkerId};
use marquee_domain::project::{ProjectName, Quotas, Reset, Retention};
use marquee_domain::standing::{Decision, Standing};
use marquee_store::open::{self, Which};
use marquee_store::projects::{self, ProjectChange, Set, Used};
use marquee_store::testing::TestDatabase;
use marquee_store::{jobs, steering, workers};
use uuid::Uuid;

fn name(text: &str) -> ProjectName {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_project_is_read_as_it_was_stored_with_who_changed_it() {
    let database = TestDatabase::create().await;
    let tx = &mut database.db.write("test").await.unwrap();
    let quotas = Quotas {
        gpus: Some(8),
        queued: Some(0),
        gpu_hours_week: Some(41.5),
        reset: Reset::from_word("tue").unwrap(),
        ..Quotas::default()
    };
    let kept = Retention {
        keep_days: Some(90),
        keep_log_days: None,
    };
    let vision = name("vision");
    assert!(!projects::lock_project(tx, &vision).await.unwrap());
    let set = Set {
        weight: 2.0,
        quotas: &quotas,
        retention: kept,
        idle_stop_min: Some(30),
    };
    projects::upsert_project(tx, &vision, &set, at(0))
        .await
        .unwrap();
    assert!(projects::lock_project(tx, &vision).await.unwrap());
    let change = ProjectChange {
        text: "made".into(),
        caller: "local".into(),
        at: at(0),
    };
    projects::insert_project_change(tx, &vision, &change)
        .await
        .unwrap();
    let used = Used {
        name: "vision".into(),
        usage: 100.0,
        hours: vec![(500_000, 60.0), (500_001, 40.0)],
    };
    let unknown = Used {
        name: "nobody".into(),
        ..used.clone()
    };
    projects::mark_used(tx, &[used.clone(), unknown], 0, at(60))
        .await
        .unwrap();
    // The same hour again replaces its figure, and old hours are forgotten.
    let more = Used {
        hours: vec![(500_001, 50.0)],
        ..used
    };
    projects::mark_used(tx, &[more], 500_001, at(120))
        .await
        .unwrap();
    let listed = projects::list_projects(tx).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].name, ProjectName::default());
    assert_eq!((listed[1].weight, listed[1].quotas), (2.0, quotas));
    assert_eq!(
        (listed[1].retention, listed[1].idle_stop_min),
        (kept, Some(30))
    );
    assert_eq!(listed[1].usage.at(at(120)), 100.0);
    let hours = projects::list_hours(tx, 0).await.unwrap();
    assert_eq!(hours.len(), 1);
    assert_eq!(hours[0].1.iter().collect::<Vec<_>>(), [(500_001, 50.0)]);
    assert_eq!(projects::get_counted_to(tx).await.unwrap(), Some(at(120)));
    let changes = projects::list_project_changes(tx, &vision, 9)
        .await
        .unwrap();
    assert_eq!(changes, [change]);
}

#[tokio::test]
async fn jobs_are_listed_and_counted_by_project_and_elements_are_their_arrays() {
    let database = TestDatabase::create().await;
    let tx = &mut database.db.write("test").await.unwrap();
    let set = Set {
        weight: 1.0,
        quotas: &Quotas::default(),
        retention: Retention::default(),
        idle_stop_min: None,
    };
    projects::upsert_project(tx, &name("vision"), &set, at(0))
        .await
        .unwrap();
    let id = pipeline(tx, "r").await;
    let mut array = spec("array", 1);
    array.array = Some(3);
    array.sharing.project = name("vision");
    let [array, other] = store_jobs(tx, id, [(&array, &[]), (&spec("other", 1), &[])]).await;
    assert_eq!(
        projects::count_queued(tx, &name("vision")).await.unwrap(),
        3
    );
    let filter = jobs::JobFilter {
        projects: Some(vec!["vision".into()]),
        ..jobs::JobFilter::default()
    };
    let listed = jobs::list_jobs(tx, &filter, 9).await.unwrap();
    assert_eq!(listed.iter().map(|job| job.id).collect::<Vec<_>>(), [array]);
    assert_eq!(jobs::get_job(tx, other).await.unwrap().project, "default");
    // A hold of an array is its elements' too, and only theirs.
    assert!(
        steering::mark_held(tx, array, Some("me"), at(5))
            .await
            .unwrap()
    );
    let open = open::list_open_jobs(tx, Which::All).await.unwrap();
    let held: Vec<bool> = open
        .into_iter()
        .map(|job| job.unwrap().held.is_some())
        .collect();
    assert_eq!(held, [false, true, true, true]);
    assert!(steering::mark_held(tx, array, None, at(6)).await.unwrap());
    assert_eq!(jobs::get_job(tx, array).await.unwrap().held, None);
}

#[tokio::test]
async fn a_running_job_is_asked_once_and_by_its_attempt_to_make_room() {
    let database = TestDatabase::create().await;
    let tx = &mut database.db.write("test").await.unwrap();
    workers::mark_worker_online(tx, &hello(1, "w1"), at(0))
        .await
        .unwrap();
    let id = pipeline(tx, "r").await;
    let [job] = store_jobs(tx, id, [(&spec("job", 1), &[])]).await;
    support::place(tx, job, 0, WorkerId(Uuid::from_u128(1))).await;
    let cause = Interruption::Preempted;
    let ask = async |tx: &mut marquee_store::Tx, attempt: u32| {
        let at_attempt = [(job, AttemptNumber(attempt))];
        steering::mark_interrupted(tx, &at_attempt, cause, "job 9 goes first", at(10))
            .await
            .unwrap()
    };
    assert_eq!(ask(tx, 2).await, [], "of another attempt");
    assert_eq!(ask(tx, 1).await, [job]);
    assert_eq!(ask(tx, 1).await, [], "it was asked already");
    let open = open::list_open_jobs(tx, Which::Of(&[job])).await.unwrap();
    let open = open.into_iter().next().unwrap().unwrap();
    assert!(open.is_leaving);
    assert_eq!(open.preempted, (1, Some(at(10).date_naive())));
    let shown = jobs::get_job(tx, job).await.unwrap();
    assert_eq!(shown.makes_room.as_deref(), Some("job 9 goes first"));
    // A hold finds it running, and leaves it.
    assert!(
        !steering::mark_held(tx, job, Some("me"), at(11))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_standing_stays_when_its_worker_comes_back() {
    let database = TestDatabase::create().await;
    let tx = &mut database.db.write("test").await.unwrap();
    workers::mark_worker_online(tx, &hello(1, "w1"), at(0))
        .await
        .unwrap();
    let decision = Decision {
        by: "me".into(),
        at: at(1),
        reason: "fan is loud".into(),
    };
    let standing = Standing {
        quarantine: Some(decision),
        ..Standing::default()
    };
    let worker = WorkerId(Uuid::from_u128(1));
    steering::mark_standing(tx, worker, &standing)
        .await
        .unwrap();
    workers::mark_worker_online(tx, &hello(1, "w1"), at(2))
        .await
        .unwrap();
    let named = steering::list_workers_named(tx, "w1").await.unwrap();
    assert_eq!(named, [(worker, Ok(standing.clone()))]);
    let listed = workers::list_workers(tx, workers::WhichWorkers::Known)
        .await
        .unwrap();
    assert_eq!(listed[0].standing, Ok(standing));
    assert_eq!(steering::list_workers_named(tx, "w2").await.unwrap(), []);
}
