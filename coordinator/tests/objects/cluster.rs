//! The program on a bucket: moved there from a folder, killed in the middle of an upload, backed up and restored.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use marquee_domain::artifact::Digest;
use marquee_domain::limits::CHUNK_BYTES;
use marquee_objects::Store;
use marquee_objects::testing::{SECRET, Server, place};
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::upload_blob_request::Part;
use nix::sys::signal::Signal;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::bytes;
use crate::program::{Coordinator, command, has_succeeded, refused};
use crate::support::worker::FakeWorker;
use crate::support::{SOON, manifest, request};

const PART: u64 = marquee_coordinator::blobs::LEAST_PART_BYTES;
const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

/// The program with a bucket in its settings.
fn with_bucket(data: &Path, server: &Server, prefix: &str, credentials: &Path) -> Command {
    let mut command = command(data, "127.0.0.1:0");
    for (key, value) in [
        ("BUCKET", "films"),
        ("ENDPOINT", &format!("http://{}", server.address)),
        ("PREFIX", prefix),
        ("CREDENTIALS", credentials.to_str().unwrap()),
    ] {
        command.env(format!("MARQUEE_COORDINATOR__S3__{key}"), value);
    }
    command
}

/// What a command said, of which nothing may be a secret.
#[track_caller]
fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    let said = format!("{out}{err}");
    assert!(!said.contains(SECRET), "{said}");
    said
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// Sends some of a file; without `end` the stream stays open until it is dropped.
async fn upload(channel: &Channel, all: &[u8], from: u64, to: u64) -> Result<(), tonic::Status> {
    let header = Part::Header(v1::UploadBlobHeader {
        digest: Digest::of(all).to_string(),
        size_bytes: all.len() as u64,
        offset: from,
    });
    let some = all[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()].to_vec();
    let chunks: Vec<Bytes> = some
        .chunks(CHUNK_BYTES)
        .map(Bytes::copy_from_slice)
        .collect();
    let parts = std::iter::once(header).chain(chunks.into_iter().map(Part::Chunk));
    let parts = parts.map(|part| v1::UploadBlobRequest { part: Some(part) });
    let stream = futures::stream::iter(parts.collect::<Vec<_>>());
    let is_whole = to == all.len() as u64;
    let mut client = ArtifactsClient::new(channel.clone());
    if is_whole {
        return client.upload_blob(stream).await.map(|_| ());
    }
    use futures::StreamExt as _;
    let stream = stream.chain(futures::stream::pending());
    client.upload_blob(stream).await.map(|_| ())
}

async fn begun(channel: &Channel, digest: &Digest) -> Option<u64> {
    let asked = v1::FindMissingBlobsRequest {
        digests: vec![digest.to_string()],
        with_begun: true,
    };
    let mut client = ArtifactsClient::new(channel.clone());
    let answer = client.find_missing_blobs(asked).await.unwrap().into_inner();
    assert_eq!(answer.digests, [digest.to_string()]);
    answer.begun.first().map(|begun| begun.received_bytes)
}

async fn download(channel: &Channel, digest: &Digest) -> Vec<u8> {
    let asked = v1::DownloadBlobRequest {
        digest: digest.to_string(),
        ..v1::DownloadBlobRequest::default()
    };
    let mut client = ArtifactsClient::new(channel.clone());
    let mut chunks = client.download_blob(asked).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        all.extend_from_slice(&chunk.chunk);
    }
    all
}

/// A job that commits one file.
async fn commits(coordinator: &Coordinator, text: &[u8]) -> i64 {
    let channel = coordinator.channel().await;
    upload(&channel, text, 0, text.len() as u64).await.unwrap();
    let name = Digest::of(text).to_string();
    let address = format!("http://{}", coordinator.address);
    let mut worker = FakeWorker::connect(&address, &name[..12]).await;
    let mut jobs = JobsClient::new(channel);
    let submitted = jobs.submit_pipeline(request(&name, ONE)).await.unwrap();
    let job = submitted.into_inner().jobs.remove(0).id;
    let key = worker.take_and_start().await;
    worker.finish(key, Some(manifest("data.txt", text))).await;
    has_succeeded(&mut jobs, job).await;
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_to_a_bucket_and_survives_a_kill_there() {
    let test = "a_cluster_moves_to_a_bucket_and_survives_a_kill_there";
    let Some(server) = Server::start(test).await else {
        return;
    };
    server.make_bucket("films").await.unwrap();
    let scratch = tempfile::Builder::new().prefix("mqo").tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let data = at("data");
    let mut raw = place(&server.address, "films", scratch.path());
    raw.prefix = "one".into();
    let credentials = raw.credentials.clone();
    let on_bucket = |words: &[&str]| {
        let mut command = with_bucket(&data, &server, "one", &credentials);
        command.args(words);
        command
    };
    let mut coordinator = Coordinator::start(&data);
    let first = commits(&coordinator, b"first").await;
    coordinator.signal(Signal::SIGTERM);
    assert!(coordinator.wait(SOON).success());

    // Not before the files of before are there.
    let why = refused(on_bucket(&[]));
    assert!(why.contains("copy-artifacts"), "{why}");
    let text = succeeds(on_bucket(&["copy-artifacts"]));
    assert!(
        text.contains("copied 1 files of 5 bytes, 0 were there"),
        "{text}"
    );
    let text = succeeds(on_bucket(&["copy-artifacts"]));
    assert!(
        text.contains("copied 0 files of 0 bytes, 1 were there"),
        "{text}"
    );
    let text = succeeds(on_bucket(&["config", "check"]));
    assert!(text.contains("written, read, listed and deleted"), "{text}");
    let text = succeeds(on_bucket(&["config", "show", "--origin"]));
    assert!(text.contains("s3.bucket = \"films\""), "{text}");

    let mut coordinator = Coordinator::start_with(on_bucket(&[]));
    let channel = coordinator.channel().await;
    assert_eq!(download(&channel, &Digest::of(b"first")).await, b"first");
    // While it is at work more may come to the folder, so that nothing counts as copied.
    let output = on_bucket(&["copy-artifacts"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("once more"));

    // Killed in the middle of an upload, it goes on behind what arrived.
    let large = bytes(2 * PART + 1_000);
    let digest = Digest::of(&large);
    let (to, all) = (channel.clone(), large.clone());
    let sending = tokio::spawn(async move { upload(&to, &all, 0, PART + 70_000).await });
    let arrived = async {
        while begun(&channel, &digest).await != Some(PART) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, arrived).await.unwrap();
    coordinator.signal(Signal::SIGKILL);
    coordinator.wait(SOON);
    assert!(sending.await.unwrap().is_err());
    let log = coordinator.log();
    assert!(!log.contains(SECRET), "{log}");
    let coordinator = Coordinator::start_with(on_bucket(&[]));
    let channel = coordinator.channel().await;
    assert_eq!(begun(&channel, &digest).await, Some(PART));
    upload(&channel, &large, PART, large.len() as u64)
        .await
        .unwrap();
    assert!(download(&channel, &digest).await == large, "byte by byte");

    // What a new worker's job leaves is committed from there, and removed from there.
    let second = commits(&coordinator, b"second").await;
    let mut client = ArtifactsClient::new(channel);
    let asked = v1::RemoveArtifactRequest {
        which: Some(v1::remove_artifact_request::Which::JobId(second)),
        dry_run: false,
    };
    let removed = client.remove_artifact(asked).await.unwrap().into_inner();
    assert_eq!((removed.files, removed.bytes), (1, 6));
    let names = async |prefix: &str| {
        let mut place = raw.clone();
        place.prefix = prefix.into();
        let listed = Store::open(&place).unwrap().list("blobs");
        let mut keys: Vec<String> = listed.map_ok(|one| one.key).try_collect().await.unwrap();
        keys.sort();
        keys
    };
    let keys = names("one").await;
    assert!(
        !keys
            .iter()
            .any(|key| key.contains(Digest::of(b"second").as_str()))
    );

    // Backed up out of the bucket, and restored into another one's place.
    let backup = at("backup");
    let text = succeeds(on_bucket(&["backup", backup.to_str().unwrap()]));
    assert!(
        text.contains("1 files of 5 bytes, 1 of which were copied now"),
        "{text}"
    );
    let new = at("new");
    let mut restore = with_bucket(&new, &server, "two", &credentials);
    restore.arg("restore").arg(&backup);
    let text = succeeds(restore);
    assert!(text.contains("it is restored"), "{text}");
    assert_eq!(names("two").await.len(), 1);

    // A bucket that is not there is told before anything is started.
    let mut nowhere = on_bucket(&["config", "check"]);
    nowhere.env("MARQUEE_COORDINATOR__S3__BUCKET", "nowhere");
    let output = nowhere.output().unwrap();
    assert!(!output.status.success() && said(&output).contains("correct s3.bucket"));
    let mut nowhere = on_bucket(&["config", "check", "--settings-only"]);
    nowhere.env("MARQUEE_COORDINATOR__S3__BUCKET", "nowhere");
    succeeds(nowhere);
    assert!(first < second);
    let log = coordinator.log();
    assert!(!log.contains(SECRET), "{log}");
}
