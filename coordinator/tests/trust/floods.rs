//! A worker that asks without end is refused by its own count; another one, beside it, does not notice.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use super::head::SOON;
use super::*;

/// Requests that one worker may have open at once.
const OPEN_MAX: usize = 1_000;
/// Requests on one connection, of which the coordinator takes 256.
const ON_ONE: usize = 210;

async fn asks(channel: &Channel) -> Result<v1::Authority, Status> {
    let mut client = TrustClient::new(channel.clone());
    let asked = client.get_authority(v1::GetAuthorityRequest::default());
    let answer = tokio::time::timeout(SOON, asked).await.unwrap()?;
    Ok(answer.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_worker_is_its_own() {
    let head = Head::start();
    let flood = head.member("gpu-01").await;
    let calm = head.member("gpu-02").await;
    let calm_channel = head.channel(Some(calm.identity.clone())).await;
    let mut session = hello(calm_channel.clone(), &calm.id, "gpu-02")
        .await
        .unwrap();
    // Uploads that never begin: open for as long as nobody ends them.
    let mut open = JoinSet::new();
    let mut channels = Vec::new();
    for _ in 0..=OPEN_MAX / ON_ONE {
        let channel = head.channel(Some(flood.identity.clone())).await;
        for _ in 0..ON_ONE {
            let mut client = ArtifactsClient::new(channel.clone());
            open.spawn(async move {
                let never = futures::stream::pending::<v1::UploadBlobRequest>();
                client.upload_blob(never).await
            });
        }
        channels.push(channel);
    }
    let first = tokio::time::timeout(SOON, open.join_next()).await.unwrap();
    let who = format!("worker {}", flood.id);
    told(first.unwrap().unwrap(), ErrorCode::LimitReached, &who);
    // On each of its connections, and on one that it makes now.
    channels.push(head.channel(Some(flood.identity.clone())).await);
    for channel in [&channels[0], channels.last().unwrap()] {
        told(
            asks(channel).await,
            ErrorCode::LimitReached,
            "requests open",
        );
    }
    // The other one asks, also on a connection that it makes now.
    asks(&calm_channel).await.unwrap();
    let again = head.channel(Some(calm.identity.clone())).await;
    asks(&again).await.unwrap();
    // Its session stands.
    let quiet = tokio::time::timeout(Duration::from_millis(50), session.1.message()).await;
    assert!(
        quiet.is_err() || matches!(quiet, Ok(Ok(Some(_)))),
        "{quiet:?}"
    );
    // Whoever runs the cluster goes on, too.
    assert!(!worker_names(&head).await.is_empty());
    // It ends its requests, and is served as before.
    open.shutdown().await;
    let deadline = Instant::now() + SOON;
    while let Err(status) = asks(&channels[0]).await {
        code(&status, ErrorCode::LimitReached);
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
