//! Who may ask a coordinator without certificates: accounts of the host, told apart by the kernel.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::path::Path;

use crate::program::{Coordinator, command};
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::jobs_client::JobsClient;
use nix::unistd::{Uid, User, geteuid, setfsuid};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const PIPELINE: &str = "name = \"p\"\n[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

fn submission() -> v1::SubmitPipelineRequest {
    let format = v1::document::Format::Toml(PIPELINE.into());
    v1::SubmitPipelineRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        document: Some(v1::Document {
            format: Some(format),
        }),
        ..v1::SubmitPipelineRequest::default()
    }
}

/// What a client of an account gets: the answer to a submission, and whether the health check is answered.
fn ask_as(uid: Uid, address: &str) -> (Result<v1::SubmitResponse, Status>, bool) {
    let address = format!("http://{address}");
    let asked = std::thread::spawn(move || {
        // Of this thread alone: the kernel notes it in each socket that is made here.
        setfsuid(uid);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let channel = Channel::from_shared(address).unwrap();
            let channel = channel.connect().await.unwrap();
            let mut health = HealthClient::new(channel.clone());
            let service = String::new();
            let healthy = health.check(HealthCheckRequest { service }).await.is_ok();
            let answer = JobsClient::new(channel).submit_pipeline(submission()).await;
            (answer.map(tonic::Response::into_inner), healthy)
        })
    });
    asked.join().unwrap()
}

fn start(data: &Path, settings: &str) -> Coordinator {
    let file = data.join("coordinator.toml");
    std::fs::write(&file, settings).unwrap();
    let mut command = command(data, "127.0.0.1:0");
    command.arg("--config").arg(file);
    Coordinator::start_with(command)
}

#[track_caller]
fn assert_refused(answer: Result<v1::SubmitResponse, Status>, said: &[&str]) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(PublicError::from(&status).code.as_deref(), Some("MQ0340"));
    for said in said {
        assert!(status.message().contains(said), "{status}");
    }
}

#[test]
fn over_loopback_the_own_account_is_served_and_a_strangers_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path(), "");
    let (answer, _) = ask_as(geteuid(), &coordinator.address);
    let job = answer.unwrap().jobs.remove(0);
    if !geteuid().is_root() {
        eprintln!("skipped: only root can connect as somebody else");
        return;
    }
    // The history says who.
    let detail = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut jobs = JobsClient::new(coordinator.channel().await);
            let request = v1::GetJobRequest { id: job.id };
            jobs.get_job(request).await.unwrap().into_inner()
        })
    };
    let caller = &detail.events[0].caller;
    assert!(
        caller.starts_with("root via rpc from 127.0.0.1"),
        "{caller}"
    );

    let stranger = Uid::from_raw(4_000_002);
    let (answer, healthy) = ask_as(stranger, &coordinator.address);
    assert_refused(answer, &["4000002", "access.group", "\"root\""]);
    assert!(healthy, "whether it is well is no secret");
    let data = folder.path();
    for kept in ["blobs", "postgres.password"] {
        let kept = data.join(kept);
        let opened = std::thread::spawn(move || {
            setfsuid(stranger);
            std::fs::File::open(kept)
        });
        let error = opened.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
}

#[test]
fn accounts_and_a_group_of_the_settings_are_served_too_and_all_where_it_is_open() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can connect as somebody else");
        return;
    }
    let Ok(Some(nobody)) = User::from_name("nobody") else {
        eprintln!("skipped: this host has no account \"nobody\"");
        return;
    };
    let group = nix::unistd::Group::from_gid(nobody.gid).unwrap().unwrap();
    for (settings, may) in [
        (String::new(), false),
        ("[access]\naccounts = \"nobody\"".to_owned(), true),
        (format!("[access]\ngroup = {:?}", group.name), true),
        ("[access]\nloopback = \"open\"".to_owned(), true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = start(folder.path(), &settings);
        let (answer, _) = ask_as(nobody.uid, &coordinator.address);
        if may {
            assert_eq!(answer.unwrap().jobs.len(), 1, "{settings}");
        } else {
            assert_refused(answer, &["account \"nobody\""]);
        }
    }
}
