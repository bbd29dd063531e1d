//! Taking away what ended, and the files that nothing names any more.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use crate::support;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::support::worker::FakeWorker;
use crate::support::{Cluster, channel};
use marquee_coordinator::{background, lifecycle};
use marquee_domain::artifact::Digest;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::JobState;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::remove_artifact_request::Which;
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

/// Between the look at an output's files and its commit, and between the question who names a file and its removal,
/// nothing may come: here everything does, on purpose.
#[tokio::test]
async fn a_file_that_is_committed_while_it_is_removed_stays() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let app = cluster.app();
    let output = cluster.output("f", b"shared").await;
    let digest = Digest::of(b"shared");
    cluster.submit(ONE).await;
    let key = worker.take_and_start().await;
    // A removal has asked who names the file, and nobody does ...
    let condemned = app.blobs.condemn(std::slice::from_ref(&digest)).await;
    let mut conn = app.db.read().await.unwrap();
    let asked = std::slice::from_ref(&digest);
    let unnamed = marquee_store::removal::list_unnamed(&mut conn, asked);
    let unnamed = unnamed.await.unwrap();
    drop(conn);
    assert_eq!(unnamed, std::slice::from_ref(&digest));
    // ... an output of that file is reported, looked at and committed, and only then it goes on.
    worker.finish(key, Some(output.clone())).await;
    let first = cluster.wait_for(key.0, JobState::Succeeded).await;
    let going = condemned.take_out(unnamed).await.unwrap();
    assert!(going.digests().is_empty());
    drop(going);
    assert!(has_blob(&cluster, b"shared"));

    // Its artifact goes after a worker was told that it need not send the file.
    cluster.submit(ONE).await;
    let key = worker.take_and_start().await;
    let mut client = ArtifactsClient::new(channel(&cluster.running.address).await);
    let digests = vec![digest.to_string()];
    let asked = v1::FindMissingBlobsRequest {
        digests,
        ..Default::default()
    };
    let missing = client.find_missing_blobs(asked).await.unwrap();
    assert!(missing.into_inner().digests.is_empty());
    let gone = remove_artifact(&cluster, &first.artifact_digest).await;
    let gone = gone.unwrap();
    assert_eq!((gone.artifacts, gone.files), (1, 0));
    worker.finish(key, Some(output)).await;
    let second = cluster.wait_for(key.0, JobState::Succeeded).await;
    assert_eq!((second.attempt, second.artifact_digest.len()), (1, 64));
    assert!(has_blob(&cluster, b"shared"));
    // Named, nobody waits for it any more.
    let gone = remove_artifact(&cluster, &second.artifact_digest).await;
    assert_eq!(gone.unwrap().files, 1);
    assert!(!has_blob(&cluster, b"shared"));
}

/// A removal asks for names while it leads, and is stopped; another coordinator takes over and commits an output of
/// the file; then it goes on.
#[tokio::test]
async fn a_coordinator_that_leads_no_more_removes_no_file() {
    let cluster = Cluster::start().await;
    let app = cluster.app();
    cluster.output("f", b"needed").await;
    let digest = Digest::of(b"needed");
    // It has led as the first; somebody else leads as the second.
    app.db.lead(Some(1));
    let take = "UPDATE leader SET epoch = 2";
    let mut tx = app.db.autocommit().await.unwrap();
    tx.execute_raw(take).await.unwrap();
    drop(tx);
    let refused = lifecycle::collect(app, std::slice::from_ref(&digest)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(has_blob(&cluster, b"needed"), "it is back in its place");
}

/// Files that many outputs share, in outputs that are committed and removed at the same time.
#[tokio::test]
async fn outputs_that_share_files_are_committed_whole_while_others_are_removed() {
    const JOBS: usize = 24;
    const POOL: [&[u8]; 4] = [b"one", b"two", b"three", b"four"];
    let cluster = Cluster::start().await;
    let committed: Mutex<Vec<String>> = Mutex::default();
    for _ in 0..JOBS {
        cluster.submit(ONE).await;
    }
    let mut worker = cluster.worker("w").await;
    let commit = async {
        let mut client = ArtifactsClient::new(channel(&cluster.running.address).await);
        for turn in 0..JOBS {
            let key = worker.take_and_start().await;
            let files = [POOL[turn % 4], POOL[(turn / 4 + 1) % 4]];
            let digests = files.map(|file| Digest::of(file).to_string()).to_vec();
            let asked = v1::FindMissingBlobsRequest {
                digests,
                ..Default::default()
            };
            let missing = client.find_missing_blobs(asked).await.unwrap();
            let missing = missing.into_inner().digests;
            let mut output = v1::Manifest::default();
            for (path, file) in ["a", "b"].into_iter().zip(files) {
                let entry = support::manifest(path, file);
                if missing.contains(&entry.files[0].digest) {
                    cluster.output(path, file).await;
                }
                output.files.extend(entry.files);
            }
            worker.finish(key, Some(output)).await;
            let done = cluster.wait_for(key.0, JobState::Succeeded).await;
            assert_eq!(done.attempt, 1, "{done:?}");
            committed.lock().unwrap().push(done.artifact_digest);
        }
    };
    let remove = async {
        let (mut left, mut removed) = (JOBS - 4, 0);
        while left > 0 {
            let next = committed.lock().unwrap().pop();
            let Some(digest) = next else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            };
            left -= 1;
            // Another job's artifact of the same files may have gone with an earlier one.
            removed += usize::from(remove_artifact(&cluster, &digest).await.is_ok());
        }
        removed
    };
    let ((), removed) = tokio::join!(commit, remove);
    assert!(removed > JOBS / 4, "{removed}");
    let mut client = ArtifactsClient::new(channel(&cluster.running.address).await);
    let all = client.list_artifacts(v1::ListArtifactsRequest::default());
    for artifact in all.await.unwrap().into_inner().artifacts {
        let which = Some(v1::get_artifact_request::Which::JobId(artifact.job_id));
        let found = client.get_artifact(v1::GetArtifactRequest { which }).await;
        assert_eq!(found.unwrap().into_inner().damaged, "");
    }
}
