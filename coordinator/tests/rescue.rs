//! Outputs that could not be stored when their job ended, and become its artifact afterwards.

use crate::support;
use crate::support::Cluster;
use crate::support::worker::{FakeWorker, Key};
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::{FailureClass, JobState};
use tonic::Status;
use tonic::transport::Channel;

const TWO: &str = "[jobs.make]\nkind = \"command\"\nargv = [\"true\"]\nmax_attempts = 1\n\
                   [jobs.use]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [\"make\"]\n";

async fn client(cluster: &Cluster) -> ArtifactsClient<Channel> {
    ArtifactsClient::new(support::channel(&cluster.running.address).await)
}

/// Runs a job whose output its worker cannot store.
async fn fail_to_store(cluster: &Cluster, worker: &mut FakeWorker, job: i64) -> Key {
    let key = worker.take_and_start().await;
    assert_eq!(key.0, job);
    worker
        .fail(key, FailureClass::UserError, "\"x\" is a link to \"/etc\"")
        .await;
    cluster.wait_for(job, JobState::Failed).await;
    worker.keep_output(key, "/data/kept/x/output");
    let since = tokio::time::Instant::now();
    while cluster
        .app()
        .sessions
        .kept_of(marquee_domain::JobId(job))
        .is_none()
    {
        assert!(since.elapsed() < support::SOON);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    key
}

fn code(refused: &Status) -> Option<String> {
    PublicError::from(refused).code
}

#[tokio::test]
async fn a_kept_output_becomes_the_artifact_and_what_waited_for_it_runs() {
    let cluster = Cluster::start().await;
    let jobs = cluster.submit(TWO).await;
    let [make, using] = [jobs[0].id, jobs[1].id];
    let mut worker = cluster.worker("w1").await;
    let key = fail_to_store(&cluster, &mut worker, make).await;
    cluster.wait_for(using, JobState::Cancelled).await;

    // Not yet: it says why, and nothing has changed.
    let mut asking = client(&cluster).await;
    let request = v1::RescueOutputRequest { job_id: make };
    let asked = tokio::spawn(async move { asking.rescue_output(request).await });
    let order = worker.asked_to_rescue().await;
    assert_eq!(
        (order.job_id, order.attempt, order.committed),
        (make, 1, false)
    );
    let failure = v1::Failure {
        class: FailureClass::UserError.into(),
        message: "the output cannot be stored: \"x\" is a link".into(),
    };
    worker.rescued(key, Err(failure)).await;
    let refused = asked.await.unwrap().unwrap_err();
    assert_eq!(code(&refused).as_deref(), Some("MQ0306"));
    for said in ["is a link", "/data/kept/x/output", "run this again"] {
        assert!(refused.message().contains(said), "{refused}");
    }
    assert_eq!(cluster.job(make).await.state(), JobState::Failed);

    // Its files must be here, whatever the worker says.
    let mut asking = client(&cluster).await;
    let asked = tokio::spawn(async move { asking.rescue_output(request).await });
    worker.asked_to_rescue().await;
    worker
        .rescued(key, Ok(support::manifest("never", b"uploaded")))
        .await;
    let refused = asked.await.unwrap().unwrap_err();
    assert!(refused.message().contains("was not uploaded"), "{refused}");

    let output = cluster.output("weights", b"w").await;
    let mut asking = client(&cluster).await;
    let asked = tokio::spawn(async move { asking.rescue_output(request).await });
    worker.asked_to_rescue().await;
    worker.rescued(key, Ok(output.clone())).await;
    let artifact = asked.await.unwrap().unwrap().into_inner();
    assert_eq!((artifact.job_id, artifact.attempt), (make, 2));
    assert_eq!(artifact.manifest, Some(output));
    assert!(worker.asked_to_rescue().await.committed);
    let done = cluster.wait_for(make, JobState::Succeeded).await;
    assert_eq!(done.artifact_digest, artifact.digest);
    let events = cluster.detail(make).await.events;
    assert!(
        events
            .iter()
            .any(|e| e.text.contains("rescued from worker \"w1\"")),
        "{events:?}"
    );
    // Asked again, since the answer was lost, it is there.
    let again = client(&cluster).await.rescue_output(request).await.unwrap();
    assert_eq!(again.into_inner().digest, artifact.digest);

    // And its dependent runs.
    let key = worker.take_and_start().await;
    assert_eq!(key.0, using);
    worker.finish(key, None).await;
    cluster.wait_for(using, JobState::Succeeded).await;
}

#[tokio::test]
async fn without_a_kept_output_nothing_is_rescued() {
    let cluster = Cluster::start().await;
    let id = cluster.submit(TWO).await[0].id;
    let request = v1::RescueOutputRequest { job_id: id };
    let none = client(&cluster)
        .await
        .rescue_output(request)
        .await
        .unwrap_err();
    assert_eq!(code(&none).as_deref(), Some("MQ0306"));
    let unknown = v1::RescueOutputRequest { job_id: 777 };
    let unknown = client(&cluster)
        .await
        .rescue_output(unknown)
        .await
        .unwrap_err();
    assert_eq!(code(&unknown).as_deref(), Some("MQ0201"));

    // A worker that goes away while it is at it is no answer either.
    let mut worker = cluster.worker("w1").await;
    fail_to_store(&cluster, &mut worker, id).await;
    let mut asking = client(&cluster).await;
    let asked = tokio::spawn(async move { asking.rescue_output(request).await });
    worker.asked_to_rescue().await;
    worker.goodbye().await;
    let gone = asked.await.unwrap().unwrap_err();
    assert_eq!(code(&gone).as_deref(), Some("MQ0501"));
    assert_eq!(cluster.job(id).await.state(), JobState::Failed);
}
