//! Certificates, as the program and its clients use them.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::path::Path;

use crate::program::{Coordinator, command, refused};
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::ListArtifactsRequest;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::coordinator_message::Body as Answer;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::worker_message::Body;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

/// An authority with a certificate for the coordinator and some for clients, as PEM files.
struct Authority {
    ca: String,
    client: Identity,
    /// Of two hosts.
    hosts: [Identity; 2],
}

impl Authority {
    fn make(folder: &Path) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &ca).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let (cert, key) = issue("localhost");
        std::fs::write(folder.join("cert.pem"), cert).unwrap();
        std::fs::write(folder.join("key.pem"), key).unwrap();
        std::fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(
            folder.join("other.key"),
            KeyPair::generate().unwrap().serialize_pem(),
        )
        .unwrap();
        let client = |name: &str| {
            let (cert, key) = issue(name);
            Identity::from_pem(cert, key)
        };
        Self {
            ca: ca.pem(),
            client: client("client"),
            hosts: [client("gpu-01.example.org"), client("gpu-02.example.org")],
        }
    }

    /// What a client needs to trust the coordinator.
    fn trust(&self) -> ClientTlsConfig {
        let ca = Certificate::from_pem(&self.ca);
        ClientTlsConfig::new()
            .ca_certificate(ca)
            .domain_name("localhost")
    }
}

async fn ask(address: &str, tls: ClientTlsConfig) -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = Channel::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    let mut client = ArtifactsClient::new(endpoint.connect().await?);
    client
        .list_artifacts(ListArtifactsRequest::default())
        .await?;
    Ok(())
}

fn settings(folder: &Path, text: &str) -> std::path::PathBuf {
    let file = folder.join("coordinator.toml");
    std::fs::write(&file, text.replace("FOLDER", &folder.display().to_string())).unwrap();
    file
}

/// A coordinator that wants certificates of the authority.
fn start(folder: &Path) -> Coordinator {
    let text = "[tls]\ncert = \"FOLDER/cert.pem\"\nkey = \"FOLDER/key.pem\"\nclient_ca = \"FOLDER/ca.pem\"\n";
    let mut command = command(&folder.join("data"), "127.0.0.1:0");
    command.arg("--config").arg(settings(folder, text));
    Coordinator::start_with(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_authority_only_its_clients_are_let_in() {
    let folder = tempfile::Builder::new().prefix("mqt").tempdir().unwrap();
    let authority = Authority::make(folder.path());
    let coordinator = start(folder.path());

    let with_certificate = authority.trust().identity(authority.client.clone());
    ask(&coordinator.address, with_certificate).await.unwrap();
    ask(&coordinator.address, authority.trust())
        .await
        .expect_err("a client without certificate");
    let plain = Channel::from_shared(format!("http://{}", coordinator.address)).unwrap();
    let mut plain = ArtifactsClient::new(plain.connect_lazy());
    plain
        .list_artifacts(ListArtifactsRequest::default())
        .await
        .expect_err("a client without TLS");
}

async fn channel(coordinator: &Coordinator, authority: &Authority, shows: &Identity) -> Channel {
    Channel::from_shared(format!("https://{}", coordinator.address))
        .unwrap()
        .tls_config(authority.trust().identity(shows.clone()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_history_says_whose_certificate_asked() {
    let folder = tempfile::Builder::new().prefix("mqt").tempdir().unwrap();
    let authority = Authority::make(folder.path());
    let coordinator = start(folder.path());
    let mut jobs = JobsClient::new(channel(&coordinator, &authority, &authority.client).await);
    let toml = "name = \"one\"\n[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
    let format = v1::document::Format::Toml(toml.into());
    let request = v1::SubmitPipelineRequest {
        request_id: "request".into(),
        document: Some(v1::Document {
            format: Some(format),
        }),
        overrides: vec![],
        dry_run: false,
    };
    let submitted = jobs.submit_pipeline(request).await.unwrap().into_inner();
    let id = submitted.jobs[0].id;
    let mut host = JobsClient::new(channel(&coordinator, &authority, &authority.hosts[0]).await);
    host.cancel_job(v1::CancelJobRequest { id }).await.unwrap();

    let detail = host.get_job(v1::GetJobRequest { id }).await.unwrap();
    let events = detail.into_inner().events;
    let callers: Vec<&str> = events.iter().map(|event| event.caller.as_str()).collect();
    let [submitted, cancelled] = callers.as_slice() else {
        panic!("{events:?}");
    };
    assert!(
        submitted.starts_with("client via certificate from 127.0.0.1:"),
        "{submitted}"
    );
    assert!(
        cancelled.starts_with("gpu-01.example.org via certificate from 127.0.0.1:"),
        "{cancelled}"
    );
}

type Session = (
    mpsc::Sender<v1::WorkerMessage>,
    Streaming<v1::CoordinatorMessage>,
);

/// Says Hello as a worker, and gives the session where it was let in.
async fn hello(channel: Channel, id: u128, name: &str) -> Result<Session, Status> {
    let (outbox, outbound) = mpsc::channel(1);
    let hello = v1::Hello {
        worker_id: Uuid::from_u128(id).to_string(),
        name: name.into(),
        boot_id: Uuid::from_u128(7).to_string(),
        instance_id: Uuid::from_u128(8).to_string(),
        inventory: Some(v1::Inventory::default()),
        ..v1::Hello::default()
    };
    let body = Some(Body::Hello(hello));
    outbox.send(v1::WorkerMessage { body }).await.unwrap();
    let outbound = ReceiverStream::new(outbound);
    let inbound = WorkerSessionClient::new(channel).connect(outbound).await?;
    Ok((outbox, inbound.into_inner()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_belongs_to_the_certificate_that_it_first_came_with() {
    let folder = tempfile::Builder::new().prefix("mqt").tempdir().unwrap();
    let authority = Authority::make(folder.path());
    let coordinator = start(folder.path());
    let [first, second] = [
        channel(&coordinator, &authority, &authority.hosts[0]).await,
        channel(&coordinator, &authority, &authority.hosts[1]).await,
    ];
    let (outbox, mut session) = hello(first.clone(), 1, "gpu-01").await.unwrap();
    let welcome = session.message().await.unwrap().unwrap();
    assert!(matches!(welcome.body, Some(Answer::Welcome(_))));

    // Neither its id, with whatever name, nor its name is another certificate's to take.
    for (id, name, what) in [
        (1, "gpu-01", "id"),
        (1, "gpu-02", "id"),
        (2, "gpu-01", "name"),
    ] {
        let refused = hello(second.clone(), id, name).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let code = PublicError::from(&refused).code;
        assert_eq!(code.as_deref(), Some("MQ0304"));
        let expected = format!(
            "the {what} of worker \"gpu-01\" belongs to certificate \"gpu-01.example.org\", and certificate \"gpu-02.example.org\" was shown"
        );
        assert!(refused.message().contains(&expected), "{refused}");
    }
    // The owner's session is not disturbed by any of them.
    let heartbeat = v1::Heartbeat {
        sequence: 1,
        held: vec![v1::HeldRank {
            job_id: 9,
            attempt: 1,
            state: v1::RankState::Running.into(),
            ..v1::HeldRank::default()
        }],
        ..v1::Heartbeat::default()
    };
    let body = Some(Body::Heartbeat(heartbeat));
    outbox.send(v1::WorkerMessage { body }).await.unwrap();
    let answer = session.message().await.unwrap().unwrap();
    assert!(
        matches!(answer.body, Some(Answer::Stop(_))),
        "nobody gave it that rank: {answer:?}"
    );
    // What is nobody's may be taken, and the owner may come back with another name.
    hello(second.clone(), 2, "gpu-02").await.unwrap();
    hello(first.clone(), 1, "gpu-one").await.unwrap();
    let refused = hello(first, 1, "gpu-02").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[test]
fn a_key_of_another_certificate_is_refused_at_the_start() {
    let folder = tempfile::Builder::new().prefix("mqt").tempdir().unwrap();
    Authority::make(folder.path());
    let text = "[tls]\ncert = \"FOLDER/cert.pem\"\nkey = \"FOLDER/other.key\"\n";
    let mut command = command(&folder.path().join("data"), "127.0.0.1:0");
    command.arg("--config").arg(settings(folder.path(), text));
    let said = refused(command);
    assert!(
        said.contains("the certificate files of [tls] do not work together"),
        "{said}"
    );
}
