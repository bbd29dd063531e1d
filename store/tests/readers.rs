//! What loops and sessions read of many at once: what is wrong with one row or one claim stops nobody else's.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support;
use std::time::Duration;

use crate::support::{at, hello, pipeline, place, report, spec};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::job::RankState;
use marquee_store::open::{self, Which};
use marquee_store::ranks::{self, RankChange, RankKey};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{At, Success, mark_cancels_requested, mark_jobs_succeeded};
use marquee_store::workers::{self, WorkerState};
use marquee_store::{StoreError, Tx, attempts, events, live, neighbours, pipelines};
use serde_json::json;

/// `N` jobs that run on one worker, each in a pipeline of its own.
async fn running<const N: usize>(tx: &mut Tx) -> (WorkerId, [RankKey; N]) {
    let worker = hello(1, "w1");
    workers::mark_worker_online(tx, &worker, at(0))
        .await
        .unwrap();
    let mut keys = Vec::new();
    for n in 0..N {
        let pipeline = pipeline(tx, &format!("request-{n}")).await;
        let [job] = support::jobs(tx, pipeline, [(&spec("job", 1), &[])]).await;
        keys.push(place(tx, job, 0, worker.id).await);
    }
    (worker.id, keys.try_into().unwrap())
}

fn jobs_of(keys: &[RankKey]) -> Vec<JobId> {
    keys.iter().map(|key| key.job).collect()
}

#[tokio::test]
async fn one_rank_that_cannot_be_given_out_keeps_no_other_from_its_worker() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, keys) = running::<3>(&mut tx).await;
    // As a newer version may have stored them before somebody went back to this one.
    for (job, damage) in [
        (
            keys[0].job,
            "UPDATE attempt_ranks SET devices = '[{\"kind\": \"tpu\", \"index\": 0}]' WHERE job_id",
        ),
        (
            keys[1].job,
            "UPDATE jobs SET spec = '{\"document_version\": 99}' WHERE id",
        ),
    ] {
        tx.execute_raw(&format!("{damage} = {}", job.0))
            .await
            .unwrap();
    }
    let absent = RankKey {
        attempt: AttemptNumber(9),
        ..keys[0]
    };
    let asked = [keys[0], absent, keys[1], keys[2]];
    let given = ranks::list_assignments(&mut tx, &asked).await.unwrap();
    let readable: Vec<(JobId, bool)> = given
        .iter()
        .map(|one| (one.key.job, one.spec.is_ok()))
        .collect();
    assert_eq!(
        readable,
        [
            (keys[0].job, false),
            (keys[1].job, false),
            (keys[2].job, true)
        ]
    );
    let why = given[0].spec.as_ref().unwrap_err();
    assert!(
        why.contains("attempt_ranks.devices") && why.contains("tpu"),
        "{why}"
    );
}

#[tokio::test]
async fn what_is_judged_together_is_read_apart() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, keys) = running::<4>(&mut tx).await;
    let all = jobs_of(&keys);
    tx.execute_raw(&format!("UPDATE attempt_ranks SET failure_class = 'gremlins', failure_message = '' WHERE job_id = {}", keys[1].job.0))
        .await
        .unwrap();
    let judged = live::list_live(&mut tx, &all).await.unwrap();
    assert_eq!(judged.len(), 4);
    for (key, found) in keys.iter().zip(&judged) {
        match found {
            Ok(found) => assert!(found.job == key.job && key.job != keys[1].job),
            Err((job, why)) => {
                assert_eq!(*job, keys[1].job);
                assert!(why.contains("gremlins"), "{why}");
            }
        }
    }
    // An output that is no manifest is named for its job alone.
    for (key, output) in [
        (keys[0], "{\"files\": []}"),
        (keys[2], "{\"files\": \"no\"}"),
    ] {
        tx.execute_raw(&format!(
            "UPDATE attempt_ranks SET output = '{output}' WHERE job_id = {}",
            key.job.0
        ))
        .await
        .unwrap();
    }
    let outputs = live::list_outputs(&mut tx, &keys).await.unwrap();
    let fine: Vec<(JobId, bool)> = outputs
        .iter()
        .map(|(job, output)| (*job, output.is_ok()))
        .collect();
    assert_eq!(fine, [(keys[0].job, true), (keys[2].job, false)]);
}

#[tokio::test]
async fn attempts_are_looked_at_when_something_may_have_to_happen_and_then_alone() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (worker, keys) = running::<6>(&mut tx).await;
    let all = jobs_of(&keys);
    let due = async |tx: &mut Tx, now: i64, before: i64| {
        attempts::list_jobs_to_advance(tx, &all, at(now), at(before))
            .await
            .unwrap()
    };
    assert_eq!(
        due(&mut tx, 5, 0).await,
        [],
        "all of them are being prepared"
    );
    assert_eq!(due(&mut tx, 5, 1).await, all, "for too long");

    let moves = [
        (keys[0], RankState::Prepared),
        (keys[1], RankState::Running),
        (keys[2], RankState::Failed),
    ];
    for (key, state) in moves {
        let change = RankChange {
            state: Some(state),
            ..RankChange::default()
        };
        report(&mut tx, key, 0, 1, &change).await.unwrap();
    }
    attempts::mark_attempt_running(&mut tx, keys[1].job, AttemptNumber(1), at(2))
        .await
        .unwrap();
    mark_cancels_requested(&mut tx, &[(keys[3].job, AttemptNumber(1))])
        .await
        .unwrap();
    assert_eq!(
        due(&mut tx, 5, 0).await,
        [keys[0].job, keys[2].job, keys[3].job]
    );

    // A time limit counts from the start; one that no interval can hold, or that is none, hits nobody.
    for (limit, now, is_due) in [
        (json!(60), 61, false),
        (json!(60), 62, true),
        (json!(999_999_999_999_999_999_u64), 62, false),
        (json!(u64::MAX), 62, false),
        (json!("x"), 62, false),
        (json!(-5), 62, false),
        (json!(null), 62, false),
    ] {
        let set = format!(
            "UPDATE jobs SET spec = jsonb_set(spec, '{{timeout_s}}', '{limit}') WHERE id = {}",
            keys[1].job.0
        );
        tx.execute_raw(&set).await.unwrap();
        assert_eq!(
            due(&mut tx, now, 0).await.contains(&keys[1].job),
            is_due,
            "{limit} at {now}"
        );
    }
    // A worker that is not there moves all that it had.
    workers::mark_worker_gone(&mut tx, worker, WorkerState::Lost)
        .await
        .unwrap();
    assert_eq!(due(&mut tx, 5, 0).await, all);
    let none = attempts::list_jobs_to_advance(&mut tx, &[], at(5), at(0)).await;
    assert_eq!(none.unwrap(), []);
}

#[tokio::test]
async fn a_worker_may_claim_what_it_likes_and_is_told_of_its_own() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (worker, keys) = running::<2>(&mut tx).await;
    let far = RankKey {
        job: JobId(i64::MAX),
        attempt: AttemptNumber(u32::MAX),
        rank: Rank(u32::MAX),
    };
    let claimed = [
        far,
        keys[0],
        RankKey {
            job: JobId(-1),
            ..keys[0]
        },
    ];
    let rows = ranks::list_worker_ranks(&mut tx, worker, &claimed)
        .await
        .unwrap();
    let found: Vec<RankKey> = rows.iter().map(|row| row.key).collect();
    assert_eq!(found, keys);
    assert_eq!(
        workers::list_worker_jobs(&mut tx, worker).await.unwrap(),
        jobs_of(&keys)
    );
    let stranger = hello(2, "w2");
    workers::mark_worker_online(&mut tx, &stranger, at(0))
        .await
        .unwrap();
    // Another worker's claim on a rank tells it nothing of that rank.
    let rows = ranks::list_worker_ranks(&mut tx, stranger.id, &[keys[0]])
        .await
        .unwrap();
    assert_eq!(rows, []);
    assert_eq!(
        workers::list_worker_jobs(&mut tx, stranger.id)
            .await
            .unwrap(),
        []
    );
    let online = workers::list_online_workers(&mut tx).await.unwrap();
    assert_eq!(
        online
            .iter()
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>(),
        ["w1", "w2"]
    );
    workers::mark_worker_gone(&mut tx, worker, WorkerState::Left)
        .await
        .unwrap();
    assert_eq!(
        workers::list_online_workers(&mut tx).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn an_id_and_a_name_belong_to_the_certificate_that_first_came_with_them() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let by = |number, name: &str, identity: Option<&str>| workers::WorkerHello {
        identity: identity.map(str::to_owned),
        ..hello(number, name)
    };
    workers::mark_worker_online(&mut tx, &by(1, "w1", None), at(0))
        .await
        .unwrap();
    // Nobody's so far: the first certificate takes it.
    workers::mark_worker_online(&mut tx, &by(1, "w1", Some("a")), at(1))
        .await
        .unwrap();
    for (hello, refused) in [
        (by(1, "w1", Some("a")), None),
        (by(1, "other", Some("a")), None),
        (by(1, "w1", Some("b")), Some("id")),
        (by(2, "w1", Some("b")), Some("name")),
        (by(2, "w2", Some("b")), None),
        // Where no certificate is asked for, nobody is turned away for it.
        (by(1, "w1", None), None),
    ] {
        let done = workers::check_owner(&mut tx, &hello).await;
        match (done, refused) {
            (Ok(()), None) => {}
            (Err(StoreError::WorkerOwned { what, .. }), Some(expected)) => {
                assert_eq!(what, expected)
            }
            (done, _) => panic!("{hello:?}: {done:?}"),
        }
    }
}

#[tokio::test]
async fn obstacles_are_written_for_open_jobs_and_gone_when_they_run() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    workers::mark_worker_online(&mut tx, &worker, at(0))
        .await
        .unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let specs = [spec("a", 1), spec("b", 1)];
    let [a, b] = support::jobs(&mut tx, pipeline, [(&specs[0], &[]), (&specs[1], &[])]).await;
    let busy = json!({ "class": "busy", "needs": 1, "free": 0, "total": 2 });
    open::mark_obstacles(
        &mut tx,
        &[
            (a, busy.clone()),
            (b, busy.clone()),
            (JobId(999), busy.clone()),
        ],
    )
    .await
    .unwrap();
    let stored = async |tx: &mut Tx| -> Vec<Option<serde_json::Value>> {
        let listed = open::list_open_jobs(tx, Which::Of(&[a, b])).await.unwrap();
        listed
            .into_iter()
            .map(|job| job.unwrap().obstacle)
            .collect()
    };
    assert_eq!(
        stored(&mut tx).await,
        [Some(busy.clone()), Some(busy.clone())]
    );
    place(&mut tx, a, 0, worker.id).await;
    assert_eq!(stored(&mut tx).await, [None, Some(busy)]);
    let held = open::list_held_ranks(&mut tx, Which::All).await.unwrap();
    assert_eq!(
        held.iter().map(|rank| rank.key.job).collect::<Vec<_>>(),
        [a]
    );
    // Devices that cannot be read hide nobody else's.
    place(&mut tx, b, 0, worker.id).await;
    tx.execute_raw(&format!(
        "UPDATE attempt_ranks SET devices = '7' WHERE job_id = {}",
        a.0
    ))
    .await
    .unwrap();
    let held = open::list_held_ranks(&mut tx, Which::All).await.unwrap();
    assert_eq!(
        held.iter().map(|rank| rank.key.job).collect::<Vec<_>>(),
        [b]
    );
}

#[tokio::test]
async fn elements_have_their_arrays_needs_and_nobody_is_its_own_neighbour() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut many = spec("many", 1);
    many.array = Some(2);
    let specs = [spec("first", 1), many, spec("last", 1)];
    let given = [
        (&specs[0], [].as_slice()),
        (&specs[1], &[0]),
        (&specs[2], &[1]),
    ];
    let [first, array, last] = support::jobs(&mut tx, pipeline, given).await;
    let element = marquee_store::transitions::list_open_elements(&mut tx, array)
        .await
        .unwrap()[0]
        .id;
    for (job, needs) in [
        (first, vec![]),
        (array, vec![first]),
        (element, vec![first]),
        (last, vec![array]),
    ] {
        assert_eq!(
            neighbours::list_needs(&mut tx, job)
                .await
                .unwrap()
                .iter()
                .map(|one| one.id)
                .collect::<Vec<_>>(),
            needs,
            "{job}"
        );
    }
    for (job, dependents) in [
        (first, vec![array, last]),
        (array, vec![last]),
        (element, vec![]),
        (last, vec![]),
    ] {
        let found = neighbours::list_dependents(&mut tx, job).await.unwrap();
        let found: Vec<JobId> = found.iter().map(|one| one.id).collect();
        assert_eq!(found, dependents, "{job}");
    }
}

#[tokio::test]
async fn locks_of_pipelines_are_taken_in_one_order_and_held_to_the_end() {
    let database = TestDatabase::create().await;
    let mut setup = database.db.autocommit().await.unwrap();
    let mut ids: Vec<PipelineId> = Vec::new();
    for n in 0..20 {
        ids.push(pipeline(&mut setup, &format!("request-{n}")).await);
    }
    let backwards: Vec<PipelineId> = ids.iter().rev().copied().collect();
    // Named forwards and backwards at once, again and again: a deadlock would end one of them with an error.
    let orders = [ids.clone(), backwards];
    let rounds = ids.iter().zip(orders.iter().cycle()).map(|(_, order)| {
        let (db, order) = (database.db.clone(), order.clone());
        tokio::spawn(async move {
            let mut tx = db.write("test").await.unwrap();
            pipelines::lock_pipelines(&mut tx, &order).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            tx.commit().await.unwrap();
        })
    });
    for round in rounds.collect::<Vec<_>>() {
        round.await.unwrap();
    }
    // Who comes second waits for the first one's end, and one that is not there is said so or left out.
    let mut first = database.db.write("test").await.unwrap();
    pipelines::lock_pipeline(&mut first, ids[0]).await.unwrap();
    let db = database.db.clone();
    let one = ids[0];
    let mut second = tokio::spawn(async move {
        let mut tx = db.write("test").await.unwrap();
        pipelines::lock_pipeline(&mut tx, one).await.unwrap();
        tx.commit().await.unwrap();
    });
    let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(early.is_err(), "two had the lock");
    first.commit().await.unwrap();
    second.await.unwrap();
    let mut tx = database.db.write("test").await.unwrap();
    pipelines::lock_pipelines(&mut tx, &[PipelineId(999)])
        .await
        .unwrap();
    let absent = pipelines::lock_pipeline(&mut tx, PipelineId(999)).await;
    assert!(matches!(
        absent,
        Err(StoreError::PipelineNotFound(PipelineId(999)))
    ));
}

#[tokio::test]
async fn a_line_names_who_caused_it_in_its_own_transaction_and_no_other() {
    let database = TestDatabase::create().await;
    let mut setup = database.db.autocommit().await.unwrap();
    let (_, keys) = running::<2>(&mut setup).await;
    let jobs = jobs_of(&keys);
    let mut tx = database.db.write("test").await.unwrap();
    tx.caused_by(jobs[0], "worker w1");
    let nothing = marquee_domain::artifact::Manifest::default();
    let success = |at: At| Success {
        at,
        name: "output",
        manifest: &nothing,
        code: "",
        text: "succeeded",
    };
    let both = [
        success((jobs[0], AttemptNumber(1))),
        success((jobs[1], AttemptNumber(1))),
    ];
    mark_jobs_succeeded(&mut tx, &both, at(9)).await.unwrap();
    events::insert_event(&mut tx, jobs[0], 1, "by itself", at(10))
        .await
        .unwrap();
    events::insert_event_by(&mut tx, jobs[0], 1, "asked", "alice", at(11))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut tx = database.db.write("test").await.unwrap();
    events::insert_event(&mut tx, jobs[0], 1, "later", at(12))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let callers = async |tx: &mut Tx, job| -> Vec<(String, String)> {
        let listed = events::list_events(tx, job, 4).await.unwrap();
        listed
            .into_iter()
            .map(|event| (event.text, event.caller))
            .collect()
    };
    let said = callers(&mut setup, jobs[0]).await;
    let said: Vec<(&str, &str)> = said
        .iter()
        .map(|(text, by)| (text.as_str(), by.as_str()))
        .collect();
    let expected = [
        ("succeeded", "worker w1"),
        ("by itself", "worker w1"),
        ("asked", "alice"),
        ("later", ""),
    ];
    assert_eq!(said, expected);
    let other = callers(&mut setup, jobs[1]).await;
    assert_eq!(other.last(), Some(&("succeeded".to_owned(), String::new())));
}
