//! Moments of a cluster at work for `marquee admin backup`: what comes of one, who is told no, and what is left of one that
//! was not taken to its end. Into a folder and back: `backup.rs` here, and the command line's own tests.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use marquee_coordinator::env::Env;
use marquee_domain::artifact::Digest;
use marquee_proto::error::{ErrorCode, PublicError};
use marquee_proto::v1;
use marquee_proto::v1::JobState;
use marquee_proto::v1::backups_client::BackupsClient;
use marquee_proto::v1::moment_part::Part;
use marquee_store::testing::TestDatabase;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::support::{Cluster, Ground, SOON, channel};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
/// The kinds of lines that a backup leaves.
const LINES: &str = "SELECT count(*) FROM audit WHERE kind = 'backed_up' AND actor <> ''";

async fn take(cluster: &Cluster, dry_run: bool) -> Result<Streaming<v1::MomentPart>, Status> {
    let mut client = BackupsClient::new(channel(&cluster.running.address).await);
    let request = v1::TakeMomentRequest { dry_run };
    Ok(client.take_moment(request).await?.into_inner())
}

#[derive(Debug, Default)]
struct Got {
    head: v1::MomentHead,
    files: Vec<v1::MomentFile>,
    dump: Vec<u8>,
    end: Option<v1::MomentEnd>,
}

/// All of a stream, and how it ended.
async fn all(mut parts: Streaming<v1::MomentPart>) -> (Got, Result<(), Status>) {
    let mut got = Got::default();
    let read = async {
        loop {
            match parts.message().await {
                Ok(Some(part)) => match part.part.unwrap() {
                    Part::Head(head) => got.head = head,
                    Part::Files(part) => got.files.extend(part.files),
                    Part::Dump(bytes) => got.dump.extend_from_slice(&bytes),
                    Part::End(end) => got.end = Some(end),
                },
                Ok(None) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
    };
    let ended = timeout(SOON, read).await.expect("a stream ends");
    (got, ended)
}

fn code(status: &Status) -> Option<String> {
    PublicError::from(status).code
}

/// A job that commits a file.
async fn commits(cluster: &Cluster, contents: &'static [u8]) {
    let mut worker = cluster.worker("w1").await;
    let job = cluster.submit(ONE).await.remove(0);
    let key = worker.take_and_start().await;
    let output = cluster.output("data.txt", contents).await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(job.id, JobState::Succeeded).await;
}

/// A cluster whose Postgres' programs are these scripts' folder, with a `pg_dump` that says it is of `version`.
async fn with_pg_dump(folder: &Path, version: &str, dumps: &str) -> Cluster {
    let script = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("postgres", "echo 'postgres (PostgreSQL) 99.1'");
    script("initdb", "exit 1");
    script("pg_restore", "exit 1");
    let says = format!("echo 'pg_dump (PostgreSQL) {version}'");
    script(
        "pg_dump",
        &format!("case \"$*\" in *--version*) {says};; *) {dumps};; esac"),
    );
    let ground = Ground {
        postgres_bin: Some(folder.to_owned()),
        ..Ground::default()
    };
    Cluster::start_with(TestDatabase::create().await, Env::system(), ground).await
}

#[tokio::test]
async fn a_moment_has_files_and_a_dump_and_is_written_down_and_a_trial_is_neither() {
    let cluster = Cluster::start().await;
    commits(&cluster, b"films").await;
    let digest = Digest::of(b"films").to_string();

    let (tried, ended) = all(take(&cluster, true).await.unwrap()).await;
    ended.unwrap();
    assert_eq!(tried.head.cluster_id, cluster.app().cluster.to_string());
    assert!(tried.head.database_bytes > 1_000_000);
    assert_eq!((tried.files.len(), tried.dump.len()), (1, 0));
    assert_eq!(
        (tried.files[0].digest.as_str(), tried.files[0].size_bytes),
        (digest.as_str(), 5)
    );
    assert_eq!(tried.end.unwrap().dump_sha256, "");
    assert_eq!(cluster.database.number(LINES).await, 0);

    let (got, ended) = all(take(&cluster, false).await.unwrap()).await;
    ended.unwrap();
    assert_eq!(got.files.len(), 1);
    assert!(got.dump.starts_with(b"PGDMP"), "a dump in the custom form");
    let end = got.end.unwrap();
    assert_eq!(end.dump_bytes, got.dump.len() as u64);
    assert_eq!(end.dump_sha256, Digest::of(&got.dump).to_string());
    assert_eq!(cluster.database.number(LINES).await, 1);
    // Nothing is left of it: neither a transaction that keeps old rows, nor the right to take the next one.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND state LIKE 'idle in transaction%' AND now() - xact_start > interval '5 s'";
    assert_eq!(cluster.database.number(open).await, 0);
    let (_, ended) = all(take(&cluster, false).await.unwrap()).await;
    ended.unwrap();
}

#[tokio::test]
async fn one_is_taken_at_a_time_and_a_reader_who_leaves_ends_his() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    // Never ends by itself.
    let dumps = format!("echo $$ > {}; exec cat /dev/zero", pid.display());
    let cluster = with_pg_dump(folder.path(), "99.1", &dumps).await;
    let mut first = take(&cluster, false).await.unwrap();
    // Until the dump comes.
    loop {
        let part = first.message().await.unwrap().unwrap().part.unwrap();
        if matches!(part, Part::Dump(_)) {
            break;
        }
    }
    let refused = take(&cluster, false).await.unwrap_err();
    assert_eq!(code(&refused).as_deref(), Some("MQ0502"));
    assert!(
        refused.message().contains("is taking a backup since"),
        "{refused}"
    );
    assert!(
        take(&cluster, true).await.is_err(),
        "a trial keeps old rows, too"
    );

    drop(first);
    let process: i32 = std::fs::read_to_string(&pid)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let is_gone = async {
        let process = nix::unistd::Pid::from_raw(process);
        while nix::sys::signal::kill(process, None).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, is_gone).await.expect("its pg_dump is ended");
    let next = async {
        while take(&cluster, true).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, next).await.expect("the next one may begin");
}

#[tokio::test]
async fn a_dump_that_fails_has_no_end_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    // More than a pipe holds on both: neither may hold up the other.
    let dumps =
        "head -c 300000 /dev/zero; echo the disk is full >&2; head -c 300000 /dev/zero >&2; exit 3";
    let cluster = with_pg_dump(folder.path(), "99.1", dumps).await;
    let (got, ended) = all(take(&cluster, false).await.unwrap()).await;
    assert!(got.end.is_none());
    let status = ended.unwrap_err();
    assert_eq!(code(&status).as_deref(), Some("MQ0399"));
    assert!(status.message().contains("the disk is full"), "{status}");
    // The next one may begin.
    let (_, ended) = all(take(&cluster, true).await.unwrap()).await;
    ended.unwrap();
}

#[tokio::test]
async fn an_older_pg_dump_and_none_are_told_before_anything_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = with_pg_dump(folder.path(), "9.6.1", "exit 0").await;
    for dry_run in [true, false] {
        let (got, ended) = all(take(&cluster, dry_run).await.unwrap()).await;
        let status = ended.unwrap_err();
        assert_eq!(code(&status).as_deref(), Some("MQ0399"));
        assert!(status.message().contains("is of Postgres 9"), "{status}");
        assert!(got.head.cluster_id.is_empty() && got.files.is_empty());
    }
    std::fs::remove_file(folder.path().join("pg_dump")).unwrap();
    let (_, ended) = all(take(&cluster, false).await.unwrap()).await;
    let status = ended.unwrap_err();
    assert_eq!(code(&status).as_deref(), Some("MQ0399"));
    assert!(
        status.message().contains("postgresql-client-99"),
        "{status}"
    );
    assert_eq!(cluster.database.number(LINES).await, 0);
}

#[tokio::test]
async fn a_coordinator_that_stops_or_leads_no_more_ends_a_dump_without_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = with_pg_dump(folder.path(), "99.1", "exec cat /dev/zero").await;
    let mut parts = take(&cluster, false).await.unwrap();
    parts.message().await.unwrap();
    cluster.app().shutdown.cancel();
    let (got, ended) = all(parts).await;
    assert!(got.end.is_none());
    // As another coordinator's address would be tried after.
    assert_eq!(ended.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(ErrorCode::CannotDump.as_str(), "MQ0399");
}
