//! Where jobs run: hosts that are wanted by label or avoided, jobs that are moved, and when one that waits will start.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use crate::support::Cluster;
use crate::support::worker::FakeWorker;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::{AttemptState, JobState};

/// A job of one CPU slot; `keys` stand in its table.
fn job(name: &str, keys: &str) -> String {
    format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\n{keys}\n")
}

async fn move_job(cluster: &Cluster, id: i64) -> Result<v1::Job, tonic::Status> {
    let request = v1::MoveJobRequest { id };
    Ok(cluster.jobs().await.move_job(request).await?.into_inner())
}

#[tokio::test]
async fn a_host_is_wanted_by_its_workers_labels_and_avoided_by_them() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut slow = FakeWorker::connect_with_labels(address, "slow", &["switch=b"]).await;
    let wants = "hosts = { labels = [\"switch=a\"] }";
    let first = cluster.submit(&job("a", wants)).await[0].id;
    let waits = cluster
        .wait_until(first, "waits for a label", |job| {
            job.reason.contains("label")
        })
        .await;
    assert!(waits.reason.contains("switch=a"), "{}", waits.reason);
    // It comes with the label, and what was submitted for others goes to the other one.
    let mut fast = FakeWorker::connect_with_labels(address, "fast", &["switch=a", "disk"]).await;
    let key = fast.take_and_start().await;
    assert_eq!(key.0, first);
    let avoids = "hosts = { avoid = [\"disk\"] }";
    let second = cluster.submit(&job("b", avoids)).await[0].id;
    assert_eq!(slow.take_and_start().await.0, second);
    let listed = cluster.workers().await;
    let labels = listed
        .iter()
        .find(|worker| worker.name == "fast")
        .and_then(|worker| worker.inventory.as_ref())
        .map(|inventory| inventory.labels.clone());
    assert_eq!(labels.unwrap(), ["disk", "switch=a"]);
}

#[tokio::test]
async fn a_moved_job_goes_on_at_another_host_at_no_cost() {
    let cluster = Cluster::start().await;
    let mut first = cluster.worker("w1").await;
    let id = cluster.submit(&job("a", "max_attempts = 1")).await[0].id;
    let key = first.take_and_start().await;
    let mut second = cluster.worker("w2").await;
    let asked = move_job(&cluster, id).await.unwrap();
    assert!(
        asked
            .makes_room
            .ends_with("asked to move it to another host"),
        "{asked:?}"
    );
    // Asking twice is asking once.
    move_job(&cluster, id).await.unwrap();
    first.stop(key).await;
    let again = second.take_and_start().await;
    assert_eq!((again.0, again.1), (id, 2));
    let attempt = &cluster.detail(id).await.attempts[0];
    assert_eq!(attempt.state(), AttemptState::Interrupted);
    second.finish(again, None).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(done.max_attempts, 1);
    let refused = move_job(&cluster, id).await.unwrap_err();
    assert_eq!(PublicError::from(&refused).code.as_deref(), Some("MQ0365"));
}

#[tokio::test]
async fn a_waiting_job_is_told_when_it_starts_and_afterwards_how_wrong_that_was() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    // Two slots, both at work: one by a time limit, of the other nobody knows.
    let limited = cluster.submit(&job("limited", "timeout = \"1h\"")).await[0].id;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, limited);
    let endless = cluster.submit(&job("endless", "")).await[0].id;
    let other = worker.take_and_start().await;
    assert_eq!(other.0, endless);
    let waits = cluster.submit(&job("waits", "")).await[0].id;
    let both = cluster.submit(&job("both", "ranks = 2")).await[0].id;
    cluster
        .wait_until(both, "in the queue", |job| !job.reason.is_empty())
        .await;
    // It is told once the scheduler has it.
    let since = tokio::time::Instant::now();
    let expected = loop {
        let detail = cluster.detail(waits).await;
        if let Some(expected) = detail.expected {
            break expected;
        }
        assert!(since.elapsed() < crate::support::SOON, "{detail:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let now = cluster.app().clock.now();
    let at = marquee_proto::convert::datetime(&expected.expected_at.unwrap()).unwrap();
    let left = (at - now).num_seconds();
    assert!((3_500..=3_600).contains(&left), "in {left} s");
    assert_eq!(
        expected.basis,
        "the time limits of 1 running job and nothing of 1 running job, which may run for ever"
    );
    let why = cluster.detail(both).await.no_forecast;
    assert!(
        why.contains(&format!("nobody can tell when job {endless}")),
        "{why}"
    );
    let kept = cluster.detail(waits).await.first_said.unwrap();
    assert_eq!(kept.expected_at, expected.expected_at);
    // It starts far earlier than was said, and says so.
    worker.finish(other, None).await;
    assert_eq!(worker.take_and_start().await.0, waits);
    let request = v1::ExplainRequest { job_id: waits };
    let answer = cluster.jobs().await.explain(request).await.unwrap();
    let why = answer.into_inner().why.join("\n");
    assert!(why.contains("earlier than was expected"), "{why}");
}
