//! Taking away what ended, and the files that nothing names any more.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

mod support;

use std::time::{Duration, SystemTime};

use marquee_coordinator::background;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::JobState;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::remove_artifact_request::Which;
use support::worker::FakeWorker;
use support::{Cluster, channel};
use tonic::{Code, Status};

const CHAIN: &str = "[jobs.make]\nkind = \"command\"\nargv = [\"true\"]\n\
    [jobs.take]\nkind = \"command\"\nargv = [\"true\"]\ninputs = { data = \"make.output\" }\n";
const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

async fn remove_pipeline(cluster: &Cluster, id: i64, dry_run: bool) -> Result<v1::Removed, Status> {
    let request = v1::RemovePipelineRequest { id, dry_run };
    let answer = cluster.jobs().await.remove_pipeline(request).await?;
    Ok(answer.into_inner())
}

async fn remove_artifact(cluster: &Cluster, digest: &str) -> Result<v1::Removed, Status> {
    let mut client = ArtifactsClient::new(channel(&cluster.running.address).await);
    let request = v1::RemoveArtifactRequest {
        which: Some(Which::Digest(digest.into())),
        dry_run: false,
    };
    Ok(client.remove_artifact(request).await?.into_inner())
}

/// Runs a job that puts these files forward.
async fn run(
    cluster: &Cluster,
    worker: &mut FakeWorker,
    files: &[(&str, &'static [u8])],
) -> v1::Job {
    let mut output = v1::Manifest::default();
    for (path, contents) in files {
        output
            .files
            .extend(cluster.output(path, contents).await.files);
    }
    let key = worker.take_and_start().await;
    worker.log(key, &["a line"]).await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(key.0, JobState::Succeeded).await
}

#[track_caller]
fn assert_needed(answer: Result<v1::Removed, Status>, said: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(PublicError::from(&status).code.as_deref(), Some("MQ0308"));
    assert!(status.message().contains(said), "{status}");
}

fn has_blob(cluster: &Cluster, contents: &[u8]) -> bool {
    cluster.blob(contents).exists()
}

#[tokio::test]
async fn a_pipeline_goes_when_all_of_it_has_ended_and_takes_only_its_own_files() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let other = cluster.submit(ONE).await[0].clone();
    run(
        &cluster,
        &mut worker,
        &[("kept", b"kept"), ("shared", b"shared")],
    )
    .await;
    let jobs = cluster.submit(CHAIN).await;
    let pipeline = jobs[0].pipeline_id;
    run(
        &cluster,
        &mut worker,
        &[("own", b"own"), ("shared", b"shared")],
    )
    .await;

    // Its second job is still to come.
    assert_needed(
        remove_pipeline(&cluster, pipeline, false).await,
        "have not ended",
    );
    let done = run(&cluster, &mut worker, &[]).await;
    assert_eq!(done.id, jobs[1].id);
    let would = remove_pipeline(&cluster, pipeline, true).await.unwrap();
    assert_eq!((would.jobs, would.artifacts, would.files), (2, 2, 2));
    assert!(has_blob(&cluster, b"own"), "a dry run removes nothing");

    // A job of another pipeline takes its artifact.
    let make = cluster.job(jobs[0].id).await;
    let user = format!(
        "{ONE}inputs = {{ data = \"artifact:{}\" }}\n",
        make.artifact_digest
    );
    let user = cluster.submit(&user).await[0].clone();
    let key = worker.take_and_start().await;
    let refused = remove_pipeline(&cluster, pipeline, false).await;
    assert_needed(refused, &format!("jobs {} of other pipelines", user.id));
    assert_needed(
        remove_artifact(&cluster, &make.artifact_digest).await,
        "take it as an input",
    );
    worker.finish(key, None).await;
    cluster.wait_for(user.id, JobState::Succeeded).await;

    let gone = remove_pipeline(&cluster, pipeline, false).await.unwrap();
    assert_eq!(
        (gone.jobs, gone.artifacts, gone.files, gone.bytes),
        (2, 2, 1, 3)
    );
    assert!(
        !has_blob(&cluster, b"own") && has_blob(&cluster, b"shared") && has_blob(&cluster, b"kept")
    );
    for table in [
        "jobs",
        "attempts",
        "attempt_ranks",
        "artifacts",
        "job_events",
        "log_lines",
    ] {
        let column = if table == "jobs" { "id" } else { "job_id" };
        let (first, last) = (jobs[0].id, jobs[1].id);
        let left =
            format!("SELECT count(*) FROM {table} WHERE {column} BETWEEN {first} AND {last}");
        assert_eq!(cluster.database.number(&left).await, 0, "{table}");
    }
    let again = remove_pipeline(&cluster, pipeline, false)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    assert_eq!(cluster.job(other.id).await.state(), JobState::Succeeded);
    cluster.submit(ONE).await;
    run(&cluster, &mut worker, &[]).await;
}

#[tokio::test]
async fn an_artifact_goes_by_itself_and_its_job_says_so() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.submit(CHAIN).await;
    let make = run(&cluster, &mut worker, &[("own", b"own")]).await;
    assert_needed(
        remove_artifact(&cluster, &make.artifact_digest).await,
        "need the job that made it",
    );
    run(&cluster, &mut worker, &[]).await;
    cluster.wait_for(jobs[1].id, JobState::Succeeded).await;
    let gone = remove_artifact(&cluster, &make.artifact_digest[..12])
        .await
        .unwrap();
    assert_eq!((gone.jobs, gone.artifacts, gone.files), (0, 1, 1));
    assert!(!has_blob(&cluster, b"own"));
    let detail = cluster.detail(make.id).await;
    let job = detail.job.unwrap();
    assert_eq!(
        (job.state(), job.artifact_digest.as_str()),
        (JobState::Succeeded, "")
    );
    let told = detail.events.last().unwrap();
    assert!(
        told.text.contains("its artifact was removed") && told.caller.contains("local"),
        "{told:?}"
    );
    let again = remove_artifact(&cluster, &make.artifact_digest)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
}

#[tokio::test]
async fn a_sweep_takes_what_has_expired_and_old_files_that_nobody_names() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let mut artifacts = Vec::new();
    for (until, contents) in [
        ("2001-01-31", b"expired" as &[u8]),
        ("2999-01-31", b"lasting"),
        ("soon", b"odd"),
    ] {
        cluster.submit(ONE).await;
        let output = cluster.output("f", contents).await;
        let key = worker.take_and_start().await;
        let summary = format!("{{\"source\":{{\"use_until\":\"{until}\"}}}}");
        worker.finish_with(key, &summary, Some(output)).await;
        artifacts.push(cluster.wait_for(key.0, JobState::Succeeded).await);
    }
    cluster.output("x", b"nobody's, old").await;
    cluster.output("x", b"nobody's, new").await;
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    for contents in [b"nobody's, old" as &[u8], b"lasting"] {
        let file = std::fs::File::open(cluster.blob(contents)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    assert_eq!(background::sweep(cluster.app()).await.unwrap(), (1, 1));
    let here = |contents: &[u8]| has_blob(&cluster, contents);
    assert!(!here(b"expired") && !here(b"nobody's, old"));
    assert!(here(b"lasting") && here(b"odd") && here(b"nobody's, new"));
    assert_eq!(cluster.job(artifacts[0].id).await.artifact_digest, "");
    assert_eq!(cluster.job(artifacts[1].id).await.artifact_digest.len(), 64);
    assert_eq!(background::sweep(cluster.app()).await.unwrap(), (0, 0));
}
