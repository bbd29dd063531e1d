//! One who asks without end is slowed and refused by himself: by his name, or by his address where he has shown none.

use marquee_domain::limits::MESSAGE_MAX_BYTES;
use marquee_proto::v1;

use super::{Person, refused};
use crate::support::{Cluster, SOON};

const TOO_MUCH: &str = "MQ0502";

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_is_his_own() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut worker = cluster.worker("w1").await;
    let mut owner = Person::owner(address).await;
    let mut ada = owner.user(address, "ada", &[("", "submitter")]).await;

    // Whoever has shown nothing: more at once than come before anybody logs in.
    let stranger = Person::stranger(address).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let mut users = stranger.users.clone();
        asking.spawn(async move { users.who_am_i(v1::WhoAmIRequest {}).await });
    }
    let mut told = 0;
    while let Some(answer) = asking.join_next().await {
        if let Err(status) = answer.unwrap() {
            let status = refused::<()>(Err(status), TOO_MUCH);
            assert!(status.message().contains("without a token"), "{status}");
            told += 1;
        }
    }
    assert!(told > 0, "nobody was refused");
    // From the same address: who shows who he is, and who works.
    let job = ada.submit("").await.unwrap();
    let key = worker.take_and_start().await;
    assert_eq!(key.0, job.id);
    worker.finish(key, None).await;
    let done = cluster.wait_for(job.id, v1::JobState::Succeeded);
    tokio::time::timeout(SOON, done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_refused_and_its_sender_goes_on() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    let mut ada = owner.user(address, "ada", &[("", "submitter")]).await;
    for _ in 0..3 {
        let request = v1::SubmitPipelineRequest {
            request_id: "x".repeat(MESSAGE_MAX_BYTES + 1),
            ..v1::SubmitPipelineRequest::default()
        };
        let answer = ada.jobs.submit_pipeline(request).await;
        let status = answer.unwrap_err();
        assert!(status.message().contains("limit"), "{status}");
        // Small messages alone: a megabyte is much there.
        let name = "x".repeat(2 << 20);
        let answer = owner.users.add_user(v1::AddUserRequest {
            name,
            ..v1::AddUserRequest::default()
        });
        assert!(answer.await.unwrap_err().message().contains("limit"));
    }
    ada.submit("").await.unwrap();
}
