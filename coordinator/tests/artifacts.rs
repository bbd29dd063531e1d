//! Artifacts and blobs over the wire, from a running coordinator.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::path::Path;

use crate::program::{Coordinator, database_url};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::limits::CHUNK_BYTES;
use marquee_domain::resources::{DeviceKind, Resources};
use marquee_domain::spec::{CommandSettings, JobSpec, Work};
use marquee_proto::error::PublicError;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::get_artifact_request::Which;
use marquee_proto::v1::upload_blob_request::Part;
use marquee_proto::v1::{
    DownloadBlobRequest, FindMissingBlobsRequest, GetArtifactRequest, ListArtifactsRequest,
    UploadBlobHeader, UploadBlobRequest,
};
use marquee_store::Db;
use marquee_store::jobs::{NewJob, insert_jobs};
use marquee_store::pipelines::{NewPipeline, insert_pipeline};
use marquee_store::transitions::{Success, mark_job_running_here, mark_jobs_succeeded};
use tonic::transport::Channel;
use tonic::{Code, Status};

fn data_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mqa").tempdir().unwrap()
}

type Client = ArtifactsClient<Channel>;

async fn upload(client: &mut Client, announced: &Digest, bytes: &[u8]) -> Result<(), Status> {
    let header = UploadBlobHeader {
        digest: announced.to_string(),
        size_bytes: bytes.len() as u64,
        ..Default::default()
    };
    let mut parts = vec![Part::Header(header)];
    parts.extend(
        bytes
            .chunks(CHUNK_BYTES)
            .map(|c| Part::Chunk(Bytes::copy_from_slice(c))),
    );
    send(client, parts).await
}

async fn send(client: &mut Client, parts: Vec<Part>) -> Result<(), Status> {
    let requests = parts
        .into_iter()
        .map(|part| UploadBlobRequest { part: Some(part) });
    client
        .upload_blob(futures::stream::iter(requests))
        .await
        .map(drop)
}

async fn download(client: &mut Client, digest: &Digest, offset: u64) -> Result<Vec<u8>, Status> {
    let request = DownloadBlobRequest {
        digest: digest.to_string(),
        offset,
        size_bytes: None,
        job_id: 0,
    };
    let mut chunks = client.download_blob(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?.chunk;
        assert!(chunk.len() <= CHUNK_BYTES);
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn missing(client: &mut Client, digests: &[&Digest]) -> Vec<String> {
    let digests = digests.iter().map(ToString::to_string).collect();
    let answer = client
        .find_missing_blobs(FindMissingBlobsRequest {
            digests,
            ..Default::default()
        })
        .await
        .unwrap();
    answer.into_inner().digests
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, public: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert_eq!(
        PublicError::from(&status).code.as_deref(),
        Some(public),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_up_and_comes_down_and_nothing_else_gets_in() {
    let folder = data_dir();
    let coordinator = Coordinator::start(folder.path());
    let mut client = Client::new(coordinator.channel().await);
    let bytes: Vec<u8> = (0..=252).cycle().take(3 * CHUNK_BYTES + 5).collect();
    let digest = Digest::of(&bytes);
    let other = Digest::of(b"other");

    assert_eq!(missing(&mut client, &[&digest, &other]).await.len(), 2);
    upload(&mut client, &digest, &bytes).await.unwrap();
    upload(&mut client, &digest, &bytes).await.unwrap();
    assert_eq!(
        missing(&mut client, &[&digest, &other]).await,
        [other.to_string()]
    );
    assert_eq!(download(&mut client, &digest, 0).await.unwrap(), bytes);
    assert_eq!(
        download(&mut client, &digest, 300_000).await.unwrap(),
        bytes[300_000..]
    );

    assert_refused(
        upload(&mut client, &other, b"othxr").await,
        Code::DataLoss,
        "MQ0401",
    );
    let header = UploadBlobHeader {
        digest: other.to_string(),
        size_bytes: 5,
        ..Default::default()
    };
    let short = vec![
        Part::Header(header.clone()),
        Part::Chunk(Bytes::from_static(b"oth")),
    ];
    assert_refused(send(&mut client, short).await, Code::DataLoss, "MQ0401");
    let headless = vec![Part::Chunk(Bytes::from_static(b"other"))];
    assert_refused(
        send(&mut client, headless).await,
        Code::InvalidArgument,
        "MQ0102",
    );
    let large = vec![
        Part::Header(UploadBlobHeader {
            size_bytes: 1 << 20,
            ..header
        }),
        Part::Chunk(vec![0; CHUNK_BYTES + 1].into()),
    ];
    assert_refused(
        send(&mut client, large).await,
        Code::InvalidArgument,
        "MQ0102",
    );
    let no_room = UploadBlobHeader {
        digest: other.to_string(),
        size_bytes: 1 << 60,
        ..Default::default()
    };
    assert_refused(
        send(&mut client, vec![Part::Header(no_room)]).await,
        Code::ResourceExhausted,
        "MQ0502",
    );
    assert_eq!(
        missing(&mut client, &[&other]).await.len(),
        1,
        "none of these got in"
    );
    assert_refused(
        download(&mut client, &other, 0).await,
        Code::NotFound,
        "MQ0204",
    );
    let behind = download(&mut client, &digest, bytes.len() as u64 + 1).await;
    assert_refused(behind, Code::InvalidArgument, "MQ0102");
    let left = std::fs::read_dir(folder.path().join("blobs/tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "refused uploads leave no files");
}

/// Stores a job and an artifact as the end of its first attempt would.
struct Commits {
    db: Db,
    pipeline: PipelineId,
    at: DateTime<Utc>,
    position: u32,
}

impl Commits {
    async fn open(data_dir: &Path) -> Self {
        let db = Db::connect(&database_url(data_dir), uuid::Uuid::nil())
            .await
            .unwrap()
            .without_election();
        let at = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let new = NewPipeline {
            name: &"posters".parse().unwrap(),
            request_id: "request-1",
            document_digest: &Digest::of(b""),
            created_at: at,
        };
        let mut tx = db.write("test").await.unwrap();
        let pipeline = insert_pipeline(&mut tx, &new).await.unwrap();
        tx.commit().await.unwrap();
        Self {
            pipeline: pipeline.unwrap(),
            db,
            at,
            position: 0,
        }
    }

    async fn commit(&mut self, content: &str) -> (JobId, Digest) {
        self.position += 1;
        self.at += TimeDelta::microseconds(1);
        let spec = JobSpec {
            name: format!("job-{}", self.position).parse().unwrap(),
            work: Work::Command(CommandSettings {
                argv: vec!["true".into()],
                env: [].into(),
                env_from_worker: Vec::new(),
            }),
            needs: vec![],
            needs_on: Default::default(),
            inputs: [].into(),
            resources: Resources {
                ranks: 1,
                min_ranks: None,
                device: DeviceKind::Cpu,
                devices_per_rank: 1,
            },
            priority: 0,
            max_attempts: 1,
            timeout_s: None,
            array: None,
            may_fail: 0,
            reuse: true,
            element: None,
            values: Default::default(),
            watch: Default::default(),
            sharing: Default::default(),
        };
        let file = FileEntry {
            path: "out.txt".into(),
            size_bytes: content.len() as u64,
            digest: Digest::of(content.as_bytes()),
        };
        let manifest = Manifest::new(vec![file]).unwrap();
        let mut tx = self.db.write("test").await.unwrap();
        let new = NewJob {
            spec: &spec,
            needs: vec![],
        };
        let job = insert_jobs(&mut tx, self.pipeline, &[new], u32::MAX, "", self.at)
            .await
            .unwrap()[0];
        let number = mark_job_running_here(&mut tx, job, 0, self.at)
            .await
            .unwrap();
        let success = Success {
            at: (job, number),
            name: "output",
            manifest: &manifest,
            code: "",
            text: "committed by the test",
        };
        mark_jobs_succeeded(&mut tx, &[success], self.at)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        (job, manifest.digest())
    }
}

async fn get(client: &mut Client, digest: &str) -> Result<i64, Status> {
    let which = Some(Which::Digest(digest.into()));
    client
        .get_artifact(GetArtifactRequest { which })
        .await
        .map(|a| a.into_inner().job_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_listed_in_pages_and_found_by_job_and_by_the_start_of_their_digest() {
    let folder = data_dir();
    let coordinator = Coordinator::start(folder.path());
    let mut client = Client::new(coordinator.channel().await);
    let mut commits = Commits::open(folder.path()).await;
    let mut all = Vec::new();
    for index in 0..5 {
        all.push(commits.commit(&format!("result {index}")).await);
    }
    // Two jobs may well make the same result.
    let (same_job, same_digest) = commits.commit("result 0").await;
    assert_eq!(same_digest, all[0].1);
    all.push((same_job, same_digest.clone()));

    let mut listed = Vec::new();
    let mut page = ListArtifactsRequest {
        page_size: 4,
        ..Default::default()
    };
    loop {
        let answer = client
            .list_artifacts(page.clone())
            .await
            .unwrap()
            .into_inner();
        listed.extend(answer.artifacts.iter().map(|a| JobId(a.job_id)));
        assert!(
            answer
                .artifacts
                .iter()
                .all(|a| a.manifest.is_none() && a.file_count == 1)
        );
        if answer.next_page_token.is_empty() {
            break;
        }
        page.page_token = answer.next_page_token;
    }
    let newest_first: Vec<JobId> = all.iter().rev().map(|(job, _)| *job).collect();
    assert_eq!(listed, newest_first);
    let of_job = ListArtifactsRequest {
        job_id: all[2].0.0,
        ..Default::default()
    };
    let of_job = client.list_artifacts(of_job).await.unwrap().into_inner();
    assert_eq!(of_job.artifacts.len(), 1);

    let by_job = GetArtifactRequest {
        which: Some(Which::JobId(all[1].0.0)),
    };
    let by_job = client.get_artifact(by_job).await.unwrap().into_inner();
    assert_eq!(by_job.digest, all[1].1.as_str());
    assert_eq!(by_job.job_name, "job-2");
    let manifest = Manifest::try_from(by_job.manifest.unwrap()).unwrap();
    assert_eq!(
        manifest.digest(),
        all[1].1,
        "the manifest is the artifact's"
    );

    assert_eq!(
        get(&mut client, all[3].1.short()).await.unwrap(),
        all[3].0.0
    );
    assert_eq!(
        get(&mut client, same_digest.as_str()).await.unwrap(),
        same_job.0,
        "the newest"
    );
    assert_refused(
        get(&mut client, &all[3].1.as_str()[..11]).await,
        Code::InvalidArgument,
        "MQ0102",
    );
    assert_refused(
        get(&mut client, &"0".repeat(64)).await,
        Code::NotFound,
        "MQ0203",
    );
    let none = GetArtifactRequest {
        which: Some(Which::JobId(999_999)),
    };
    assert_refused(client.get_artifact(none).await, Code::NotFound, "MQ0203");
    let bad_token = ListArtifactsRequest {
        page_token: "next".into(),
        ..Default::default()
    };
    assert_refused(
        client.list_artifacts(bad_token).await,
        Code::InvalidArgument,
        "MQ0102",
    );
}
