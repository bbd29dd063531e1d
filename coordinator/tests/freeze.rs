//! The coordinator's program, stopped for longer than a lease and let go on.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::time::Duration;

use crate::program::{Coordinator, command, eventually};
use crate::support::worker::FakeWorker;
use crate::support::{SOON, channel, request};
use marquee_proto::v1;
use marquee_proto::v1::jobs_client::JobsClient;
use nix::sys::signal::Signal;

const LEASE: Duration = Duration::from_secs(2);

async fn attempt_of(address: &str, id: i64) -> (v1::JobState, u32) {
    let mut jobs = JobsClient::new(channel(address).await);
    let detail = jobs.get_job(v1::GetJobRequest { id }).await.unwrap();
    let job = detail.into_inner().job.unwrap();
    (job.state(), job.attempt)
}

/// Workers that lived through the pause are judged by what they say after it, not by their silence before.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_longer_than_the_lease_loses_no_worker() {
    let folder = tempfile::Builder::new().prefix("mqf").tempdir().unwrap();
    let mut command = command(&folder.path().join("data"), "127.0.0.1:0");
    command
        .env(
            "MARQUEE_COORDINATOR__TIMING__LEASE_MS",
            LEASE.as_millis().to_string(),
        )
        .env("MARQUEE_COORDINATOR__TIMING__HEARTBEAT_EVERY_MS", "100");
    let coordinator = Coordinator::start_with(command);
    let address = format!("http://{}", coordinator.address);
    let mut worker = FakeWorker::connect(&address, "w").await;
    let body = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
    let mut jobs = JobsClient::new(channel(&address).await);
    let submitted = jobs.submit_pipeline(request("pause", body)).await.unwrap();
    let id = submitted.into_inner().jobs[0].id;
    worker.take_and_start().await;

    // From here on the worker says nothing until the coordinator has had time for a verdict.
    worker.fall_silent();
    coordinator.signal(Signal::SIGSTOP);
    tokio::time::sleep(LEASE * 2).await;
    coordinator.signal(Signal::SIGCONT);
    eventually("it notices that it stood still", SOON, || {
        coordinator.log().contains("this process stood still")
    });
    worker.speak_again();

    // Silence still counts: a second worker that stays away is lost, so the loop has gone round since.
    let other = FakeWorker::connect(&address, "other").await;
    other.fall_silent();
    eventually("the silent worker is lost", SOON, || {
        coordinator.log().contains("worker lost")
    });
    let log = coordinator.log();
    let lost: Vec<&str> = log.lines().filter(|l| l.contains("worker lost")).collect();
    assert!(
        lost.len() == 1 && lost[0].contains("name=\"other\""),
        "{lost:?}"
    );
    assert_eq!(attempt_of(&address, id).await, (v1::JobState::Running, 1));
}
