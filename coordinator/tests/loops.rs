//! Every background loop twice, over the same tables and sessions: a round that somebody else has done already
//! changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Cluster, LEASE, SOON};
use marquee_coordinator::background;
use marquee_proto::v1::{AttemptState, FailureClass, JobState};
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
