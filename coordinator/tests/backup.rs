//! A backup of a cluster at work, restored into an empty place and judged by the history checker.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use marquee_domain::artifact::Digest;
use marquee_proto::v1;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::verify_audit_response::Body as Answer;

use crate::program::{Coordinator, command, has_succeeded};
use crate::support::worker::FakeWorker;
use crate::support::{SOON, manifest, request};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

/// Runs a command of the program on a data folder.
fn run(data_dir: &Path, words: &[&str], folder: &Path) -> Output {
    let mut command: Command = command(data_dir, "127.0.0.1:0");
    command.args(words).arg(folder).output().unwrap()
}

#[track_caller]
fn succeeds(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refuses(output: Output) -> String {
    assert!(!output.status.success(), "it did not refuse");
    String::from_utf8(output.stderr).unwrap()
}

/// A job that commits one file, which lies where an upload would have put it.
async fn commits(coordinator: &Coordinator, data_dir: &Path, worker: &mut FakeWorker, text: &[u8]) {
    let digest = Digest::of(text);
    let folder = data_dir.join("blobs").join(&digest.as_str()[..2]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(digest.as_str()), text).unwrap();
    let mut jobs = JobsClient::new(coordinator.channel().await);
    let submitted = jobs.submit_pipeline(request(digest.as_str(), ONE)).await;
    let job = submitted.unwrap().into_inner().jobs.remove(0);
    let key = worker.take_and_start().await;
    worker.finish(key, Some(manifest("data.txt", text))).await;
    has_succeeded(&mut jobs, job.id).await;
}

async fn verify(coordinator: &Coordinator) -> (Vec<v1::AuditFinding>, v1::AuditSummary) {
    let mut client = AuditClient::new(coordinator.channel().await);
    let request = v1::VerifyAuditRequest::default();
    let mut answers = client.verify(request).await.unwrap().into_inner();
    let mut findings = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.body.unwrap() {
            Answer::Progress(_) => {}
            Answer::Finding(finding) => findings.push(finding),
            Answer::Summary(summary) => return (findings, summary),
        }
    }
    panic!("a check ends with its summary");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_backed_up_at_work_is_restored_whole_and_keeps_every_rule() {
    let scratch = tempfile::Builder::new().prefix("mqb").tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let (data, backup, new) = (at("data"), at("backup"), at("new"));
    assert!(
        refuses(run(&data, &["backup"], &backup)).contains("there are no jobs in data_dir"),
        "a folder that was mistyped is not made"
    );
    let coordinator = Coordinator::start(&data);
    let address = format!("http://{}", coordinator.address);
    let mut worker = FakeWorker::connect(&address, "w1").await;
    commits(&coordinator, &data, &mut worker, b"first").await;
    let said = succeeds(run(&data, &["backup"], &backup));
    assert!(
        said.contains("1 files of 5 bytes, 1 of which were copied now"),
        "{said}"
    );

    // What is new is added, and what an earlier one left goes.
    commits(&coordinator, &data, &mut worker, b"second").await;
    let said = succeeds(run(&data, &["backup"], &backup));
    assert!(
        said.contains("2 files of 11 bytes, 1 of which were copied now"),
        "{said}"
    );
    let names = fs::read_dir(&backup).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    let dumps = names.filter(|name| name.starts_with("database-")).count();
    assert_eq!(dumps, 1);

    // Damage is found before anything is written.
    let digest = Digest::of(b"second");
    let file = backup.join("artifacts").join(&digest.as_str()[..2]);
    let file = file.join(digest.as_str());
    fs::write(&file, b"secoNd").unwrap();
    for words in [&["restore", "--check"][..], &["restore"]] {
        let said = refuses(run(&new, words, &backup));
        assert!(
            said.contains(digest.as_str()) && said.contains("is damaged"),
            "{said}"
        );
        assert!(!new.exists(), "nothing was made");
    }
    fs::write(&file, b"second").unwrap();
    succeeds(run(&new, &["restore", "--check"], &backup));

    let said = succeeds(run(&new, &["restore"], &backup));
    assert!(said.contains("2 files, all as the manifest says"), "{said}");
    let said = refuses(run(&new, &["restore"], &backup));
    assert!(said.contains("the database has tables already"), "{said}");
    let said = refuses(run(&data, &["restore"], &backup));
    assert!(said.contains("is in use by another coordinator"), "{said}");

    let restored = Coordinator::start(&new);
    let (findings, summary) = verify(&restored).await;
    assert_eq!(findings, []);
    assert_eq!(
        (summary.jobs, summary.commits, summary.artifacts),
        (2, 2, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_coordinator_lost_is_told_and_the_rest_is_backed_up() {
    let scratch = tempfile::Builder::new().prefix("mqb").tempdir().unwrap();
    let (data, backup) = (scratch.path().join("data"), scratch.path().join("backup"));
    let mut coordinator = Coordinator::start(&data);
    let address = format!("http://{}", coordinator.address);
    let mut worker = FakeWorker::connect(&address, "w1").await;
    commits(&coordinator, &data, &mut worker, b"kept").await;
    commits(&coordinator, &data, &mut worker, b"lost").await;
    let digest = Digest::of(b"lost");
    let file = data.join("blobs").join(&digest.as_str()[..2]);
    fs::remove_file(file.join(digest.as_str())).unwrap();
    // Without a coordinator, too: then the backup starts the Postgres, and stops it.
    coordinator.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(coordinator.wait(SOON).success());
    let said = refuses(run(&data, &["backup"], &backup));
    assert!(
        said.contains("the backup stands, but 1 files") && said.contains(digest.short()),
        "{said}"
    );
    assert_eq!(crate::program::postgres_of(&data), []);
    let checked = succeeds(run(&data, &["restore", "--check"], &backup));
    assert!(
        checked.contains("1 files, all as the manifest says"),
        "{checked}"
    );
}
