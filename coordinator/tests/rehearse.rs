//! Faults on purpose: each does what it says, is in the audit, and none does harm that stays.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::{Cluster, channel};
use marquee_proto::error::{ErrorCode, PublicError};
use marquee_proto::v1;
use marquee_proto::v1::chaos_client::ChaosClient;
use marquee_proto::v1::rehearse_request::Fault;
use marquee_proto::v1::{JobState, WorkerState};
use tonic::Status;

const TWICE: &str = "[jobs.twice]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 2\n";

async fn rehearse(
    cluster: &Cluster,
    fault: Fault,
    dry_run: bool,
) -> Result<v1::RehearseResponse, Status> {
    let mut client = ChaosClient::new(channel(&cluster.running.address).await);
    let request = v1::RehearseRequest {
        fault: Some(fault),
        dry_run,
    };
    client
        .rehearse(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn refusal(cluster: &Cluster, fault: Fault) -> String {
    let status = rehearse(cluster, fault, false).await.unwrap_err();
    let error = PublicError::from(&status);
    assert_eq!(error.code, Some(ErrorCode::CannotRehearse.as_str().into()));
    error.message
}

fn kill(job_id: i64, rank: u32) -> Fault {
    Fault::KillRank(v1::KillRank { job_id, rank })
}

fn cut(name: &str, for_ms: u32) -> Fault {
    let name = name.to_owned();
    Fault::CutWorker(v1::CutWorker { name, for_ms })
}

async fn rehearsed(cluster: &Cluster) -> Vec<String> {
    let query = "SELECT concat_ws(' ', job_id, attempt, rank, detail->>'fault', detail->>'seconds') FROM audit
                 WHERE kind = 'rehearsed' AND actor <> '' ORDER BY id";
    cluster.database.words(query).await
}

#[tokio::test]
async fn a_rank_is_killed_on_purpose_once_it_runs_and_never_at_the_last_attempt() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(TWICE).await[0].id;
    assert!(refusal(&cluster, kill(id, 0)).await.contains("is queued"));
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    let running = |job: &v1::Job| job.state() == JobState::Running;
    cluster.wait_until(id, "known to run", running).await;
    worker.log(key, &["it runs"]).await;
    while worker.ack(key).await < 3 {}
    assert!(
        refusal(&cluster, kill(id, 7))
            .await
            .contains("rank 7 is none")
    );

    let said = rehearse(&cluster, kill(id, 0), true).await.unwrap();
    assert!(said.done.contains("on w1) is killed"), "{said:?}");
    assert_eq!((said.attempt, rehearsed(&cluster).await.len()), (1, 0));
    rehearse(&cluster, kill(id, 0), false).await.unwrap();
    let stop = worker.stop(key).await;
    assert!(stop.forget && stop.grace_ms == 0 && stop.reason.contains("on purpose"));

    let next = worker.take_and_start().await;
    assert_eq!((next.0, next.1), (id, 2));
    worker.log(next, &["again"]).await;
    while worker.ack(next).await < 3 {}
    let why = refusal(&cluster, kill(id, 0)).await;
    assert!(why.contains("at attempt 2, its last"), "{why}");
    worker.finish(next, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    assert!(
        refusal(&cluster, kill(id, 0))
            .await
            .contains("is succeeded")
    );
    assert_eq!(rehearsed(&cluster).await, [format!("{id} 1 0 kill_rank")]);
    let events = cluster.detail(id).await.events;
    let told = events.iter().any(|event| event.text.contains("on purpose"));
    assert!(told, "{events:#?}");
}

#[tokio::test]
async fn a_worker_that_is_cut_off_is_refused_until_the_cut_is_over_and_lost_with_its_lease() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let id = cluster.submit(TWICE).await[0].id;
    let key = worker.take_and_start().await;
    let why = rehearse(&cluster, cut("nobody", 1_000), false)
        .await
        .unwrap_err();
    assert_eq!(PublicError::from(&why).code, Some("MQ0333".into()));
    for wrong in [0, 999, 120_001] {
        let why = rehearse(&cluster, cut("w1", wrong), true)
            .await
            .unwrap_err();
        assert!(why.message().contains("for_ms"), "{why}");
    }
    // Longer than the lease of these tests, 1.5 s.
    rehearse(&cluster, cut("w1", 3_000), false).await.unwrap();
    let end = worker.ended().await;
    assert!(end.message().contains("cut off on purpose"), "{end}");
    let refused = worker
        .reconnect(&cluster.running.address)
        .await
        .err()
        .unwrap();
    assert!(
        refused.message().contains("cut off on purpose"),
        "{refused}"
    );
    assert!(
        refusal(&cluster, cut("w1", 1_000))
            .await
            .contains("not connected")
    );
    let state = async || cluster.workers().await[0].state();
    while state().await != WorkerState::Lost {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    worker.forget(key);
    let mut again = loop {
        match worker.reconnect(&cluster.running.address).await {
            Ok(again) => break again,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    // Nothing is left of what was lost with it, and it has the next attempt.
    let next = again.take_and_start().await;
    assert_eq!((next.0, next.1), (id, 2));
    let why = refusal(&cluster, cut("w1", 3_000)).await;
    assert!(why.contains("at their last attempt"), "{why}");
    again.finish(next, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    assert_eq!(rehearsed(&cluster).await, ["cut_worker 3.0"]);
}

#[tokio::test]
async fn nobody_hands_over_where_nobody_stands_by() {
    let cluster = Cluster::start().await;
    let why = refusal(&cluster, Fault::StepDown(v1::StepDown {})).await;
    assert!(why.contains("no other coordinator stands by"), "{why}");
    let none = v1::RehearseRequest::default();
    let mut client = ChaosClient::new(channel(&cluster.running.address).await);
    let why = client.rehearse(none).await.unwrap_err();
    assert!(why.message().contains("fault"), "{why}");
}
