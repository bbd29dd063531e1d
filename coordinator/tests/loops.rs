//! Every background loop twice, over the same tables and sessions: a round that somebody else has done already
//! changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Cluster, LEASE, SOON, channel};
use chrono::{DateTime, Utc};
use marquee_coordinator::background::{self, Loop};
use marquee_coordinator::env::{Clock, Env};
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{AttemptState, FailureClass, JobState};
use marquee_store::testing::TestDatabase;
use tokio::time::timeout;

const JOBS: usize = 6;

/// How often each line stands in a job's history.
async fn history(cluster: &Cluster, id: i64) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for event in cluster.detail(id).await.events {
        *lines.entry(event.text).or_default() += 1;
    }
    lines
}

#[tokio::test]
async fn what_two_of_each_loop_do_happens_once() {
    let cluster = Cluster::start().await;
    let _second = background::start(cluster.app());
    let body: String = (0..JOBS)
        .map(|n| format!("[jobs.j{n}]\nkind = \"command\"\nargv = [\"true\"]\n"))
        .collect();
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.submit(&body).await;
    for _ in 0..JOBS {
        let key = worker.take_and_start().await;
        worker.finish(key, None).await;
    }
    for job in &jobs {
        let done = cluster.wait_for(job.id, JobState::Succeeded).await;
        assert_eq!(done.attempt, 1);
        let lines = history(&cluster, job.id).await;
        assert!(lines.values().all(|count| *count == 1), "{lines:?}");
        assert_eq!(cluster.detail(job.id).await.attempts.len(), 1);
    }

    // Both loops find the worker silent, and both may judge its attempt.
    let job = cluster
        .submit("[jobs.lost]\nkind = \"command\"\nargv = [\"true\"]\n")
        .await[0]
        .clone();
    worker.take_and_start().await;
    worker.fall_silent();
    let mut other = cluster.worker("other").await;
    let key = other.take_and_start().await;
    assert_eq!((key.0, key.1), (job.id, 2));
    other.finish(key, None).await;
    cluster.wait_for(job.id, JobState::Succeeded).await;
    let attempts = cluster.detail(job.id).await.attempts;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert_eq!(attempts[0].state(), AttemptState::Failed);
    let failure = attempts[0].failure.as_ref().map(|failure| failure.class());
    assert_eq!(failure, Some(FailureClass::LostWorker));
    let lines = history(&cluster, job.id).await;
    let failed = lines
        .iter()
        .filter(|(text, _)| text.contains("lost_worker"));
    assert_eq!(failed.map(|(_, count)| *count).collect::<Vec<_>>(), [1]);
}

/// The verdict waits for the worker's row, which somebody else has locked, and in that time the worker comes back.
#[tokio::test]
async fn a_worker_that_comes_back_while_it_is_judged_is_not_lost() {
    let cluster = Cluster::start().await;
    let worker = cluster.worker("w").await;
    let database = &cluster.database;
    let mut tx = database.db.write("a test's own").await.unwrap();
    tx.execute_raw("SELECT FROM workers FOR UPDATE")
        .await
        .unwrap();
    let waiting = async |count| {
        let query = "SELECT count(*) FROM pg_stat_activity \
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waits = async {
            while database.number(query).await < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, waits).await.unwrap();
    };
    // Its session would store a heartbeat, and then the leases loop judges it.
    waiting(1).await;
    worker.fall_silent();
    tokio::time::sleep(LEASE).await;
    waiting(2).await;
    let back = async { worker.reconnect(&cluster.running.address).await.unwrap() };
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(tx);
    };
    let (_back, ()) = tokio::join!(back, release);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let lost = "SELECT count(*) FROM audit WHERE kind = 'worker_lost'";
    assert_eq!(database.number(lost).await, 0);
}

/// A time of day that stands still, so that nothing but a round changes anything.
#[derive(Debug)]
struct Stopped(DateTime<Utc>);

impl Clock for Stopped {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// All rows of all tables, as Postgres writes them.
async fn rows(database: &TestDatabase) -> BTreeMap<String, Vec<String>> {
    let tables = "SELECT table_name::text FROM information_schema.tables
                  WHERE table_schema = 'public' AND table_type = 'BASE TABLE'";
    let mut all = BTreeMap::new();
    for table in database.words(tables).await {
        let query = format!("SELECT t::text FROM {table} t ORDER BY 1");
        all.insert(table, database.words(&query).await);
    }
    all
}

fn stopped_at(seconds: i64) -> Env {
    let time = DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
    Env {
        clock: Arc::new(Stopped(time)),
        ..Env::system()
    }
}

/// A cluster in the midst of its work. An hour later only its tables are left, and what would put them right does
/// nothing by itself.
async fn an_hour_after_a_busy_day(cluster: &mut Cluster) {
    let address = cluster.running.address.clone();
    let mut projects = ProjectsClient::new(channel(&address).await);
    let kept = v1::SetProjectRequest {
        name: "default".into(),
        keep_days: Some(30),
        keep_log_days: Some(3),
        ..v1::SetProjectRequest::default()
    };
    projects.set_project(kept).await.unwrap();
    let job = |name: &str, keys: &str| {
        format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\n{keys}\n")
    };
    let mut worker = cluster.worker("w1").await;
    // Two pipelines that are over: one has had its time, of the other the logs have.
    for (n, days) in [(0, 40), (1, 10)] {
        let id = cluster.submit(&job("old", "")).await[0].id;
        let contents: &'static [u8] = if n == 0 { b"first" } else { b"second" };
        let output = cluster.output("out", contents).await;
        let key = worker.take_and_start().await;
        worker.log(key, &["a line"]).await;
        worker.finish(key, Some(output)).await;
        cluster.wait_for(id, JobState::Succeeded).await;
        let older = format!(
            "UPDATE jobs SET finished_at = finished_at - interval '{days} days' WHERE id = {id}"
        );
        cluster.database.execute(&older).await;
    }
    // One that runs, one that waits for it, an array of which one element runs, one that never fits.
    let line = job("first", "") + &job("second", "needs = [\"first\"]");
    cluster.submit(&line).await;
    worker.take_and_start().await;
    cluster.submit(&job("many", "array = 4")).await;
    worker.take_and_start().await;
    cluster.submit(&job("wide", "ranks = 2")).await;
    // What runs on the host is to leave it within a minute.
    let drain = v1::DrainWorkerRequest {
        name: "w1".into(),
        deadline: Some(timestamp(stopped_at(60).clock.now())),
        ..v1::DrainWorkerRequest::default()
    };
    let mut workers = WorkersClient::new(channel(&address).await);
    workers.drain_worker(drain).await.unwrap();
    cluster.kill().await;
    cluster.start_idle_in(stopped_at(3_600)).await;
}

#[tokio::test]
async fn a_second_round_of_any_loop_changes_nothing() {
    let mut cluster = Cluster::start_in(TestDatabase::create().await, stopped_at(0)).await;
    an_hour_after_a_busy_day(&mut cluster).await;
    let mut did = Vec::new();
    // Twice through all of them: what one leaves behind is for the others.
    for of in Loop::ALL.into_iter().chain(Loop::ALL) {
        let before = rows(&cluster.database).await;
        background::one_round(cluster.app(), of).await.unwrap();
        let once = rows(&cluster.database).await;
        background::one_round(cluster.app(), of).await.unwrap();
        let twice = rows(&cluster.database).await;
        for (table, rows) in &once {
            assert_eq!(&twice[table], rows, "{of:?} changed {table} again");
        }
        if once != before {
            did.push(of);
        }
    }
    // None of it proves anything where there is nothing to do.
    for of in [Loop::Drains, Loop::Leases, Loop::Retention] {
        assert!(did.contains(&of), "{of:?} did nothing: {did:?}");
    }
}
