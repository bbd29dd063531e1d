//! Heartbeats that are stored together: what fails is stored by the next round, and no verdict asks when one was stored.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use marquee_coordinator::App;
use marquee_coordinator::background::{self, Loop};
use marquee_proto::v1::JobState;
use marquee_store::When;
use tokio::time::timeout;

use crate::support::worker::FakeWorker;
use crate::support::{Cluster, SOON};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
const STORE: &str = "worker heartbeats";
/// Workers whose newest sign of life is one that a test wrote.
const OF_LONG_AGO: &str = "SELECT count(*) FROM workers WHERE last_seen_at < '2000-01-01'";

/// A coordinator that does nothing by itself, so that each round is the test's.
async fn idle() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.kill().await;
    cluster.start_idle().await;
    cluster
}

async fn change(cluster: &Cluster, statement: &str) {
    let mut tx = cluster.database.db.write("a test's own").await.unwrap();
    tx.execute_raw(statement).await.unwrap();
    tx.commit().await.unwrap();
}

async fn long_ago(cluster: &Cluster) {
    change(cluster, "UPDATE workers SET last_seen_at = '1999-01-01'").await;
}

/// Rounds until one of them is as wanted.
async fn rounds_until(app: &App, of: Loop, fails: bool) {
    let until = async {
        while background::one_round(app, of).await.is_err() != fails {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, until).await.unwrap();
}

async fn state_of(cluster: &Cluster, name: &str) -> String {
    let query = format!("SELECT state FROM workers WHERE name = '{name}'");
    cluster.database.words(&query).await.remove(0)
}

/// Rounds until a worker is stored as this.
async fn until_state(cluster: &Cluster, of: Loop, name: &str, state: &str) {
    let until = async {
        while state_of(cluster, name).await != state {
            background::one_round(cluster.app(), of).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, until).await.unwrap();
}

#[tokio::test]
async fn what_could_not_be_stored_is_stored_by_the_next_round() {
    for when in [When::BeforeCommit, When::Conflict, When::AfterCommit] {
        let cluster = idle().await;
        let (one, two) = (cluster.worker("w1").await, cluster.worker("w2").await);
        let app = cluster.app();
        let database = &cluster.database;
        long_ago(&cluster).await;
        database.db.fail_next(STORE, when);
        // Nothing was heard yet, or one of them, or both.
        rounds_until(app, Loop::Signs, true).await;
        one.fall_silent();
        two.fall_silent();
        if when != When::AfterCommit {
            database.db.fail_next(STORE, when);
            rounds_until(app, Loop::Signs, true).await;
            assert_eq!(database.number(OF_LONG_AGO).await, 2, "{when:?}");
        }
        background::one_round(app, Loop::Signs).await.unwrap();
        assert!(database.number(OF_LONG_AGO).await < 2, "{when:?}");
    }
}

#[tokio::test]
async fn a_round_with_nothing_to_store_asks_nothing_of_postgres() {
    let cluster = idle().await;
    let worker = cluster.worker("w1").await;
    let app = cluster.app();
    worker.fall_silent();
    // What came before it fell silent.
    let settled = async {
        loop {
            long_ago(&cluster).await;
            background::one_round(app, Loop::Signs).await.unwrap();
            if cluster.database.number(OF_LONG_AGO).await == 1 {
                break;
            }
        }
    };
    timeout(SOON, settled).await.unwrap();
    // A round that wrote would meet this.
    cluster.database.db.fail_next(STORE, When::BeforeCommit);
    for _ in 0..3 {
        background::one_round(app, Loop::Signs).await.unwrap();
    }
}

#[tokio::test]
async fn who_was_heard_is_not_lost_however_old_his_row_is() {
    let cluster = idle().await;
    let _worker = cluster.worker("w1").await;
    for _ in 0..3 {
        long_ago(&cluster).await;
        background::one_round(cluster.app(), Loop::Leases)
            .await
            .unwrap();
        assert_eq!(state_of(&cluster, "w1").await, "online");
    }
    assert_eq!(cluster.database.number(OF_LONG_AGO).await, 1);
}

#[tokio::test]
async fn who_fell_silent_is_lost_however_new_his_row_is() {
    let cluster = idle().await;
    let worker = cluster.worker("w1").await;
    worker.fall_silent();
    change(
        &cluster,
        "UPDATE workers SET last_seen_at = now() + interval '1 h'",
    )
    .await;
    // A lease that is over at once.
    let mut app = cluster.app().clone();
    app.settings.lease = Duration::from_millis(1);
    let lost = async {
        while state_of(&cluster, "w1").await != "lost" {
            background::one_round(&app, Loop::Leases).await.unwrap();
        }
    };
    timeout(SOON, lost).await.unwrap();
}

#[tokio::test]
async fn one_that_is_stored_as_lost_is_brought_back_and_one_that_left_is_not() {
    let cluster = idle().await;
    let _workers = (cluster.worker("w1").await, cluster.worker("w2").await);
    change(
        &cluster,
        "UPDATE workers SET state = 'left' WHERE name = 'w2'",
    )
    .await;
    // More than once: what is missed is missed again.
    for _ in 0..2 {
        change(
            &cluster,
            "UPDATE workers SET state = 'lost' WHERE name = 'w1'",
        )
        .await;
        // That it is back could not be stored at first.
        cluster
            .database
            .db
            .fail_next("worker back", When::BeforeCommit);
        until_state(&cluster, Loop::Signs, "w1", "online").await;
    }
    // It said goodbye: only a Hello brings it back.
    assert_eq!(state_of(&cluster, "w2").await, "left");
}

#[tokio::test]
async fn a_coordinator_that_stops_with_signs_unstored_loses_nothing_that_matters() {
    let mut cluster = Cluster::start().await;
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    cluster.kill().await;
    // As if none of its heartbeats had ever been stored.
    long_ago(&cluster).await;
    cluster.start_again().await;
    let mut again = worker.reconnect(&cluster.running.address).await.unwrap();
    assert!(again.holds(key));
    again.finish(key, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    let stored = async {
        while cluster.database.number(OF_LONG_AGO).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, stored).await.unwrap();
    let lost = "SELECT count(*) FROM audit WHERE kind = 'worker_lost'";
    assert_eq!(cluster.database.number(lost).await, 0);
}

/// Waits until so many more messages of a worker have come.
async fn heard(app: &App, worker: &FakeWorker, times: usize) {
    let last = || app.sessions.last_seen(worker.id());
    let heard = async {
        for _ in 0..times {
            let before = last();
            while last() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    timeout(SOON, heard).await.unwrap();
}

#[tokio::test]
async fn idle_workers_cost_postgres_nothing_and_have_what_they_are_given_at_once() {
    let cluster = idle().await;
    let app = cluster.app();
    let mut workers = [cluster.worker("w1").await, cluster.worker("w2").await];
    let reads = || cluster.database.db.stats().reads.begun;
    // The first heartbeats say what a worker holds by now, and are compared with its rows.
    for worker in &workers {
        heard(app, worker, 3).await;
    }
    let before = reads();
    for worker in &workers {
        heard(app, worker, 4).await;
    }
    assert_eq!(reads(), before, "rows that are known to be none");
    let body: String = (0..4)
        .map(|n| format!("[jobs.j{n}]\nkind = \"command\"\nargv = [\"true\"]\n"))
        .collect();
    let jobs = cluster.submit(&body).await;
    background::one_round(app, Loop::Schedule).await.unwrap();
    // All slots of both are taken, each by a rank that its worker was told of.
    let mut given = Vec::new();
    for worker in &mut workers {
        given.extend([worker.take().await.job_id, worker.take().await.job_id]);
    }
    given.sort_unstable();
    let submitted: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(given, submitted);
    // What is held is compared with its rows again, by each heartbeat.
    for worker in &workers {
        let before = reads();
        heard(app, worker, 3).await;
        assert!(reads() > before, "{}", worker.name);
    }
}
