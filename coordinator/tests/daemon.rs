//! The coordinator's program and its private Postgres, started, stopped and killed.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::program::{Coordinator, command, database_url, eventually, postgres_of, refused};
use marquee_proto::v1;
use marquee_proto::v1::ListArtifactsRequest;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_store::testing::number;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Architecture promise 4.
const RESTART_WITHIN: Duration = Duration::from_secs(3);

fn data_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mqc").tempdir().unwrap()
}

/// The process that all others of the cluster come from.
fn postmaster(data_dir: &Path) -> Pid {
    let text = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
}

async fn list_artifacts(coordinator: &Coordinator) -> Result<(), tonic::Status> {
    let mut client = ArtifactsClient::new(coordinator.channel().await);
    client
        .list_artifacts(ListArtifactsRequest::default())
        .await
        .map(drop)
}

#[test]
fn beyond_loopback_it_refuses_to_start_without_tls() {
    let folder = data_dir();
    let said = refused(command(&folder.path().join("never"), "0.0.0.0:0"));
    assert!(
        said.contains("key \"listen\"") && said.contains("set tls.cert and tls.key"),
        "{said}"
    );
    assert!(!folder.path().join("never").exists(), "nothing was made");
}

#[test]
fn wrong_settings_have_an_exit_status_of_their_own() {
    let folder = data_dir();
    let mut command = command(folder.path(), "no address");
    // systemd's unit names it: to start again would not help.
    assert_eq!(command.output().unwrap().status.code(), Some(78));
}

#[test]
fn a_missing_certificate_file_is_named() {
    let folder = data_dir();
    let mut command = command(folder.path(), "0.0.0.0:0");
    command.env("MARQUEE_COORDINATOR__TLS__CERT", "/nowhere/cert.pem");
    command.env("MARQUEE_COORDINATOR__TLS__KEY", "/nowhere/key.pem");
    command.env("MARQUEE_COORDINATOR__TLS__CLIENT_CA", "/nowhere/ca.pem");
    let said = refused(command);
    assert!(
        said.contains("/nowhere/cert.pem") && said.contains("tls.cert"),
        "{said}"
    );
}

#[test]
fn postgres_programs_that_are_not_there_are_named_by_their_key() {
    let folder = data_dir();
    let mut command = command(folder.path(), "127.0.0.1:0");
    command.env("MARQUEE_COORDINATOR__POSTGRES_BIN", "/nowhere/bin");
    let said = refused(command);
    assert!(
        said.contains("postgres_bin names \"/nowhere/bin\""),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_and_leaves_nothing_behind_when_told_to_stop() {
    let folder = data_dir();
    let mut coordinator = Coordinator::start(folder.path());
    assert!(!postgres_of(folder.path()).is_empty());

    let mut health = HealthClient::new(coordinator.channel().await);
    for service in [
        "",
        "marquee.v1.Jobs",
        "marquee.v1.Artifacts",
        "marquee.v1.WorkerSession",
    ] {
        let answer = health
            .check(HealthCheckRequest {
                service: service.into(),
            })
            .await
            .unwrap();
        assert_eq!(
            answer.into_inner().status(),
            ServingStatus::Serving,
            "{service}"
        );
    }
    list_artifacts(&coordinator).await.unwrap();

    // An open stream does not keep it.
    let watch = health
        .watch(HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap();
    coordinator.signal(Signal::SIGTERM);
    assert!(coordinator.wait(Duration::from_secs(20)).success());
    drop(watch);
    assert_eq!(postgres_of(folder.path()), []);
    assert!(!folder.path().join("postgres/postmaster.pid").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_hangup_it_reads_its_settings_anew_and_wrong_ones_change_nothing() {
    let folder = data_dir();
    let file = folder.path().join("coordinator.toml");
    std::fs::write(&file, "").unwrap();
    let mut command = command(folder.path(), "127.0.0.1:0");
    command.arg("--config").arg(&file);
    let mut coordinator = Coordinator::start_with(command);
    let settings = async |coordinator: &Coordinator| {
        let mut cluster = ClusterClient::new(coordinator.channel().await);
        let answer = cluster.list_settings(v1::ListSettingsRequest {}).await;
        let settings = answer.unwrap().into_inner().settings.into_iter();
        let values = settings.map(|setting| (setting.key, setting.value));
        values.collect::<std::collections::HashMap<_, _>>()
    };
    let says = |coordinator: &Coordinator, words: &str| {
        eventually(words, Duration::from_secs(20), || {
            coordinator.log().contains(words)
        });
    };
    let before = settings(&coordinator).await;

    let changed = "[access]\naccounts = \"alice\"\n[timing]\nlease_ms = 20000\n";
    std::fs::write(&file, changed).unwrap();
    coordinator.signal(Signal::SIGHUP);
    says(
        &coordinator,
        "in force now: access.accounts; these wait for a restart: timing.lease_ms",
    );
    let after = settings(&coordinator).await;
    assert_eq!(after["access.accounts"], "alice");
    // What is listed is what is in force.
    assert_eq!(after["timing.lease_ms"], before["timing.lease_ms"]);

    std::fs::write(&file, "[access]\nacounts = \"bob\"\n").unwrap();
    coordinator.signal(Signal::SIGHUP);
    says(&coordinator, "did you mean \\\"access.accounts\\\"?");
    assert_eq!(settings(&coordinator).await["access.accounts"], "alice");
    assert!(coordinator.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_it_takes_its_postgres_along_and_is_back_within_three_seconds() {
    let folder = data_dir();
    let mut coordinator = Coordinator::start(folder.path());
    let address = coordinator.address.clone();
    let mut fastest = Duration::MAX;
    for round in 0..3 {
        coordinator.signal(Signal::SIGKILL);
        coordinator.wait(Duration::from_secs(1));
        if round == 2 {
            eventually("its postgres is gone", Duration::from_secs(30), || {
                postgres_of(folder.path()).is_empty()
            });
        }
        // In the first rounds the old server may still be on its way out.
        let started = Instant::now();
        coordinator = Coordinator::start_with(command(folder.path(), &address));
        list_artifacts(&coordinator).await.unwrap();
        fastest = fastest.min(started.elapsed());
    }
    // A machine that is busy with other tests may be slow once, not three times.
    assert!(fastest < RESTART_WITHIN, "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_is_started_again() {
    let folder = data_dir();
    let coordinator = Coordinator::start(folder.path());
    let first = postmaster(folder.path());
    kill(first, Signal::SIGKILL).unwrap();
    eventually("another server runs", Duration::from_secs(20), || {
        std::fs::exists(folder.path().join("postgres/postmaster.pid")).unwrap()
            && postmaster(folder.path()) != first
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(status) = list_artifacts(&coordinator).await {
        assert_eq!(
            status.code(),
            tonic::Code::Unavailable,
            "clients may try again: {status}"
        );
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Its lease may have run out meanwhile: nobody took over, and it is renewed.
    let url = database_url(folder.path());
    let leads = "SELECT count(*) FROM leader WHERE epoch = 1 AND expires_at > clock_timestamp()";
    while number(&url, leads).await == 0 {
        assert!(Instant::now() < deadline, "nobody leads");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// As on a disk that hangs, or in a suspended machine. Nobody else has taken over: there is nothing to do but wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stands_still_is_waited_for() {
    let folder = data_dir();
    let mut coordinator = Coordinator::start(folder.path());
    for _ in 0..2 {
        let all = postgres_of(folder.path());
        for process in &all {
            kill(*process, Signal::SIGSTOP).unwrap();
        }
        // Until it has noticed, and has tried for a while to renew its lease.
        tokio::time::sleep(Duration::from_secs(16)).await;
        for process in &all {
            // One that ended meanwhile needs none.
            let _ = kill(*process, Signal::SIGCONT);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(status) = list_artifacts(&coordinator).await {
            assert!(coordinator.is_running(), "{}", coordinator.log());
            assert!(Instant::now() < deadline, "{status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    eventually("it leads on", Duration::from_secs(60), || {
        coordinator.log().contains("this coordinator leads on")
    });
    let log = coordinator.log();
    assert!(!log.contains("another coordinator"), "{log}");
    assert!(log.contains("Postgres does not answer"), "{log}");
    list_artifacts(&coordinator).await.unwrap();
}

/// Killed three times while it is at the same thing, as one that dies of it: the next one only answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_in_a_safe_mode_that_serves_reads() {
    let folder = data_dir();
    let submission = || {
        let toml = "name = \"one\"\n[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
        v1::SubmitPipelineRequest {
            request_id: "request".into(),
            document: Some(v1::Document {
                format: Some(v1::document::Format::Toml(toml.into())),
            }),
            overrides: vec![],
            dry_run: false,
        }
    };
    for _ in 0..3 {
        let mut coordinator = Coordinator::start(folder.path());
        assert!(!coordinator.log().contains("safe mode"));
        let mut jobs = JobsClient::new(coordinator.channel().await);
        // It hangs in the middle of a submission: its Postgres stands still.
        let all = postgres_of(folder.path());
        for process in &all {
            kill(*process, Signal::SIGSTOP).unwrap();
        }
        let request = tokio::spawn(async move { jobs.submit_pipeline(submission()).await });
        let trail = folder.path().join("trail");
        eventually("it is at the submission", Duration::from_secs(20), || {
            let trail = std::fs::read(&trail).unwrap();
            String::from_utf8_lossy(&trail).contains("submission")
        });
        coordinator.signal(Signal::SIGKILL);
        coordinator.wait(Duration::from_secs(20));
        for process in &all {
            let _ = kill(*process, Signal::SIGCONT);
        }
        assert!(request.await.unwrap().is_err());
    }
    let mut coordinator = Coordinator::start(folder.path());
    eventually("it says so", Duration::from_secs(20), || {
        let log = coordinator.log();
        log.contains("safe mode") && log.contains("submission \"request\"")
    });
    list_artifacts(&coordinator).await.unwrap();
    let mut jobs = JobsClient::new(coordinator.channel().await);
    let listed = jobs.list_jobs(v1::ListJobsRequest::default()).await;
    listed.unwrap();
    let refused = jobs.submit_pipeline(submission()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert!(
        refused.message().contains("submission \"request\""),
        "{refused}"
    );
    // Ended in order, the next one tries again.
    coordinator.signal(Signal::SIGTERM);
    assert!(coordinator.wait(Duration::from_secs(20)).success());
    let coordinator = Coordinator::start(folder.path());
    let mut jobs = JobsClient::new(coordinator.channel().await);
    jobs.submit_pipeline(submission()).await.unwrap();
}

/// Postgres believes in a connection that does not answer: the lease is renewed over another one, before it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_connection_hangs_is_renewed_over_another_one() {
    let folder = data_dir();
    let coordinator = Coordinator::start(folder.path());
    let url = database_url(folder.path());
    let renews =
        "SELECT max(pid)::bigint FROM pg_stat_activity WHERE application_name = 'marquee leader'";
    let old = number(&url, renews).await;
    let process = Pid::from_raw(i32::try_from(old).unwrap());
    kill(process, Signal::SIGSTOP).unwrap();
    let leads_on = || coordinator.log().contains("this coordinator leads on");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !leads_on() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whatever came of it: a process that is stopped cannot be ended with its server.
    kill(process, Signal::SIGCONT).unwrap();
    assert!(leads_on(), "{}", coordinator.log());
    list_artifacts(&coordinator).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_has_one_coordinator_and_a_database_one_that_leads() {
    let folder = data_dir();
    let coordinator = Coordinator::start(folder.path());

    let said = refused(command(folder.path(), "127.0.0.1:0"));
    assert!(said.contains("is in use by another coordinator"), "{said}");

    // Another folder, but the first one's database.
    let url = database_url(folder.path());
    let password = std::fs::read_to_string(folder.path().join("postgres.password")).unwrap();
    let other = data_dir();
    let mut command = command(other.path(), "127.0.0.1:0");
    command.env("MARQUEE_COORDINATOR__DATABASE_URL", &url);
    let second = Coordinator::start_with(command);
    let mut jobs = JobsClient::new(second.channel().await);
    let cancel = v1::CancelJobRequest { id: 1 };
    let refused = jobs.cancel_job(cancel).await.unwrap_err();
    assert!(
        refused.message().contains(&coordinator.address),
        "{refused}"
    );
    assert!(
        !second.log().contains(password.trim()) && !refused.message().contains(password.trim()),
        "the password is never shown"
    );
    drop(second);

    // Its Postgres goes with the first.
    drop(coordinator);
    let mut again = Coordinator::start(folder.path());
    again.signal(Signal::SIGINT);
    assert!(again.wait(Duration::from_secs(20)).success());
}
