//! A full disk under the coordinator's own Postgres and its artifacts: it says so, loses nothing that it acknowledged, and
//! goes on by itself when there is room again.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use marquee_domain::artifact::Digest;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::upload_blob_request::Part;
use tonic::Status;

use crate::program::{Coordinator, command};
use crate::support::request;

/// Room for Postgres, and for the 256 MiB that uploads leave free.
const DISK: &str = "384m";
/// How long a Postgres that died may take to be back on a busy machine.
const SOON: Duration = Duration::from_secs(60);
const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

/// A coordinator whose data folder is a small disk. None where this host lets nobody mount one.
fn start(data_dir: &Path) -> Option<Coordinator> {
    let probe = "mount -t tmpfs -o size=1m none /mnt";
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "sh", "-c", probe])
        .stderr(Stdio::null());
    if !unshare.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no disk of its own can be mounted on this host");
        return None;
    }
    std::fs::create_dir_all(data_dir).unwrap();
    let inner = command(data_dir, "127.0.0.1:0");
    let script = format!(
        "mount -t tmpfs -o size={DISK},mode=0700 none '{}' && exec \"$@\"",
        data_dir.display()
    );
    let mut outer = Command::new("unshare");
    outer
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    Some(Coordinator::start_with(outer))
}

async fn submit(coordinator: &Coordinator, id: &str) -> Result<i64, Status> {
    let mut jobs = JobsClient::new(coordinator.channel().await);
    let answer = jobs.submit_pipeline(request(id, ONE)).await?;
    Ok(answer.into_inner().pipeline_id)
}

async fn upload(coordinator: &Coordinator, bytes: &'static [u8]) -> Result<(), Status> {
    let header = v1::UploadBlobHeader {
        digest: Digest::of(bytes).to_string(),
        size_bytes: bytes.len() as u64,
        ..Default::default()
    };
    let parts = [Part::Header(header), Part::Chunk(Bytes::from_static(bytes))];
    let parts = parts.map(|part| v1::UploadBlobRequest { part: Some(part) });
    let mut artifacts = ArtifactsClient::new(coordinator.channel().await);
    let parts = futures::stream::iter(parts);
    artifacts.upload_blob(parts).await.map(drop)
}

/// Takes what is left of the disk, to the last byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let zeros = vec![0; size];
        while file.write_all(&zeros).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_loses_nothing_and_needs_no_restart() {
    let folder = tempfile::Builder::new().prefix("mqf").tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let Some(mut coordinator) = start(&data_dir) else {
        return;
    };
    let filler: PathBuf = coordinator.seen(&data_dir.join("filler"));
    let mut acknowledged = vec![submit(&coordinator, "before").await.unwrap()];
    upload(&coordinator, b"before").await.unwrap();

    fill(&filler);
    let refused = upload(&coordinator, b"during").await.unwrap_err();
    let refused = PublicError::from(&refused);
    assert_eq!(refused.code.as_deref(), Some("MQ0502"), "{refused:?}");
    assert!(refused.message.contains("must stay free"), "{refused:?}");
    // Postgres goes on as long as its files have holes; then it says so, or dies of it and is started again and again.
    let since = Instant::now();
    let mut number = 0;
    let said = loop {
        number += 1;
        match submit(&coordinator, &format!("during {number}")).await {
            Ok(id) => acknowledged.push(id),
            Err(status) => break PublicError::from(&status),
        }
        assert!(since.elapsed() < SOON, "{number} submissions fit");
    };
    assert_eq!(said.code.as_deref(), Some("MQ0501"), "{said:?}");
    eprintln!("after {number} submissions: {}", said.message);
    assert!(coordinator.is_running());

    std::fs::remove_file(&filler).unwrap();
    let since = Instant::now();
    let after = loop {
        match submit(&coordinator, "after").await {
            Ok(id) => break id,
            Err(status) => assert!(since.elapsed() < SOON, "{status}\n{}", coordinator.log()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    acknowledged.push(after);
    upload(&coordinator, b"during").await.unwrap();
    let mut jobs = JobsClient::new(coordinator.channel().await);
    for id in acknowledged {
        let pipeline = jobs.get_pipeline(v1::GetPipelineRequest { id }).await;
        assert_eq!(pipeline.unwrap().into_inner().jobs.len(), 1, "p{id}");
    }
    assert!(coordinator.is_running());
}
