//! Workers that are stopped in order: their jobs pay nothing, and nothing new comes to them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use crate::support::Cluster;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::worker_message::Body;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use marquee_proto::v1::{AttemptState, FailureClass, JobState};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use uuid::Uuid;

const ONCE: &str = "[jobs.once]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n";
const GANG: &str =
    "[jobs.gang]\nkind = \"command\"\nargv = [\"true\"]\nranks = 4\nmax_attempts = 1\n";

#[tokio::test]
async fn stops_of_workers_cost_nothing_however_often_and_nothing_is_placed_on_one_that_leaves() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(ONCE).await[0].id;
    for round in 1..=3 {
        let mut worker = cluster.worker("w1").await;
        let key = worker.take_and_start().await;
        assert_eq!(key.1, round);
        worker.leave();
        cluster
            .wait_until(id, "known to run", |job| job.state() == JobState::Running)
            .await;
        until_leaving(&cluster).await;
        worker.stop_unasked(key).await;
        let back = cluster.wait_for(id, JobState::Queued).await;
        assert_eq!((back.attempt, back.max_attempts), (round, 1));
        // Rounds of the scheduler pass over it for as long as it is here.
        let queued = cluster.submit(ONCE).await[0].id;
        cluster.app().wake.notify_one();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        for job in [id, queued] {
            assert_eq!(cluster.job(job).await.state(), JobState::Queued);
        }
        let request = v1::CancelJobRequest { id: queued };
        cluster.jobs().await.cancel_job(request).await.unwrap();
        worker.goodbye().await;
    }
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    let attempts = cluster.detail(id).await.attempts;
    let states: Vec<_> = attempts.iter().map(v1::Attempt::state).collect();
    let interrupted = AttemptState::Interrupted;
    assert_eq!(
        states,
        [
            interrupted,
            interrupted,
            interrupted,
            AttemptState::Succeeded
        ]
    );
}

async fn until_leaving(cluster: &Cluster) {
    let client = || async {
        let channel = support::channel(&cluster.running.address).await;
        v1::workers_client::WorkersClient::new(channel)
    };
    let listed = client().await.list_workers(v1::ListWorkersRequest {}).await;
    let workers = listed.unwrap().into_inner().workers;
    // Those of earlier rounds have left under the same name.
    let online = |worker: &&v1::Worker| worker.state() == v1::WorkerState::Online;
    let worker = workers.iter().find(online).unwrap().id.parse().unwrap();
    let since = tokio::time::Instant::now();
    while cluster.app().sessions.takes_ranks(worker) {
        assert!(since.elapsed() < support::SOON);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_gang_whose_ranks_die_with_the_one_that_is_stopped_pays_nothing() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(GANG).await[0].id;
    let mut first = cluster.worker("w1").await;
    let mut second = cluster.worker("w2").await;
    let mut keys = Vec::new();
    for worker in [&mut first, &mut second] {
        for _ in 0..2 {
            let assign = worker.take().await;
            // What each needs to know of its place, as under torchrun.
            assert_eq!(assign.local_ranks.len(), 2);
            let devices = &assign.local_ranks[assign.local_rank as usize].devices;
            assert_eq!(*devices, assign.devices);
            assert_eq!(assign.group_world_size, 2);
            assert_eq!(assign.group_rank, assign.rank / 2);
            worker.prepare(&assign).await;
            keys.push(support::worker::key_of(&assign));
        }
    }
    for key in &keys[..2] {
        first.started(*key).await;
    }
    for key in &keys[2..] {
        second.started(*key).await;
    }
    second.leave();
    until_second_leaves(&cluster).await;
    // Their peers close their connections long before they are gone themselves.
    for key in &keys[..2] {
        first
            .fail(*key, FailureClass::UserError, "python exited with status 1")
            .await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(cluster.job(id).await.state(), JobState::Running);
    for key in &keys[2..] {
        second.stop_unasked(*key).await;
    }
    let back = cluster.wait_for(id, JobState::Queued).await;
    assert_eq!(back.attempt, 1);
    let attempt = cluster.detail(id).await.attempts.pop().unwrap();
    assert_eq!(attempt.state(), AttemptState::Interrupted);
}

async fn until_second_leaves(cluster: &Cluster) {
    let channel = support::channel(&cluster.running.address).await;
    let mut client = v1::workers_client::WorkersClient::new(channel);
    let listed = client.list_workers(v1::ListWorkersRequest {}).await;
    let worker = listed.unwrap().into_inner().workers[1].id.parse().unwrap();
    let since = tokio::time::Instant::now();
    while !cluster.app().sessions.is_leaving(worker) {
        assert!(since.elapsed() < support::SOON);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn hello(cluster: &Cluster, cluster_id: &str) -> Result<v1::CoordinatorMessage, Status> {
    let (outbox, outbound) = mpsc::channel(1);
    let hello = v1::Hello {
        worker_id: Uuid::from_u128(1).to_string(),
        name: "w1".into(),
        boot_id: Uuid::from_u128(7).to_string(),
        instance_id: Uuid::from_u128(8).to_string(),
        inventory: Some(v1::Inventory::default()),
        cluster_id: cluster_id.into(),
        ..v1::Hello::default()
    };
    let body = Some(Body::Hello(hello));
    outbox.send(v1::WorkerMessage { body }).await.unwrap();
    let channel = support::channel(&cluster.running.address).await;
    let outbound = ReceiverStream::new(outbound);
    let session = WorkerSessionClient::new(channel).connect(outbound).await?;
    Ok(session.into_inner().message().await?.unwrap())
}

#[tokio::test]
async fn a_worker_of_another_cluster_is_refused_and_one_that_has_none_learns_it() {
    let mut cluster = Cluster::start().await;
    let welcomed = |message: v1::CoordinatorMessage| match message.body {
        Some(v1::coordinator_message::Body::Welcome(welcome)) => welcome.cluster_id,
        other => panic!("no welcome: {other:?}"),
    };
    let own = welcomed(hello(&cluster, "").await.unwrap());
    assert_eq!(own, cluster.app().cluster.to_string());
    let other = Uuid::from_u128(99).to_string();
    let refused = hello(&cluster, &other).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(PublicError::from(&refused).code.as_deref(), Some("MQ0305"));
    // It is the same one when it starts again.
    cluster.kill().await;
    cluster.start_again().await;
    assert_eq!(welcomed(hello(&cluster, &own).await.unwrap()), own);
}
