//! A coordinator with an authority of its own, and who joins it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::program::{Coordinator, command, database_url};
use marquee_domain::join_token::{COORDINATOR_NAME, JoinToken};
use marquee_proto::error::{ErrorCode, PublicError};
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as Answer;
use marquee_proto::v1::trust_client::TrustClient;
use marquee_proto::v1::worker_message::Body;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_store::testing::number;
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Status, Streaming};
use uuid::Uuid;

/// How long anything that must happen may take on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// A coordinator with an authority of its own.
pub(super) struct Head {
    pub(super) folder: tempfile::TempDir,
    pub(super) coordinator: Coordinator,
}

impl Head {
    pub(super) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("mqj").tempdir().unwrap();
        let said = run(init(folder.path()));
        assert!(said.contains("fingerprint"), "{said}");
        let coordinator = Coordinator::start(&folder.path().join("data"));
        Self {
            folder,
            coordinator,
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn tls(&self, file: &str) -> String {
        std::fs::read_to_string(self.data().join("tls").join(file)).unwrap()
    }

    /// Runs `marquee-coordinator token ...` on the coordinator's host.
    pub(super) fn token_command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.data(), &self.coordinator.address);
        command.arg("token").args(words);
        command
    }

    pub(super) fn token(&self, words: &[&str]) -> JoinToken {
        let mut all = vec!["create"];
        all.extend(words);
        run(self.token_command(&all)).parse().unwrap()
    }

    /// Believes the coordinator's authority.
    pub(super) fn trusting(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.tls("ca.pem")))
            .domain_name(COORDINATOR_NAME)
    }

    pub(super) async fn try_channel(
        &self,
        shows: Option<Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = self.trusting();
        if let Some(identity) = shows {
            tls = tls.identity(identity);
        }
        let endpoint = Channel::from_shared(format!("https://{}", self.coordinator.address));
        endpoint.unwrap().tls_config(tls).unwrap().connect().await
    }

    pub(super) async fn channel(&self, shows: Option<Identity>) -> Channel {
        self.try_channel(shows).await.unwrap()
    }

    /// As whoever runs the coordinator: by the account of this host.
    pub(super) async fn admin(&self) -> TrustClient<Channel> {
        TrustClient::new(self.channel(None).await)
    }

    pub(super) async fn join(
        &self,
        token: &JoinToken,
        name: &str,
        key: &KeyPair,
    ) -> Result<Member, Status> {
        self.join_as(token, name, key, "").await
    }

    pub(super) async fn join_as(
        &self,
        token: &JoinToken,
        name: &str,
        key: &KeyPair,
        worker: &str,
    ) -> Result<Member, Status> {
        let csr = CertificateParams::new([])
            .unwrap()
            .serialize_request(key)
            .unwrap();
        let request = v1::JoinRequest {
            token_id: token.id.to_string(),
            secret: token.secret.to_vec(),
            csr: csr.der().to_vec(),
            name: name.to_owned(),
            worker_id: worker.to_owned(),
        };
        let answer = self.admin().await.join(request).await?.into_inner();
        Ok(Member {
            identity: Identity::from_pem(&answer.certificate, key.serialize_pem()),
            id: answer.worker_id,
        })
    }

    pub(super) async fn member(&self, name: &str) -> Member {
        let token = self.token(&[]);
        self.join(&token, name, &key()).await.unwrap()
    }

    pub(super) async fn change(&self, statement: &str) {
        let url = database_url(&self.data());
        let one = format!("WITH x AS ({statement} RETURNING 1) SELECT count(*) FROM x");
        assert!(number(&url, &one).await > 0, "{statement}");
    }
}

/// A worker that joined.
pub(super) struct Member {
    pub(super) identity: Identity,
    pub(super) id: String,
}

pub(super) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

pub(super) fn init(folder: &Path) -> Command {
    let mut command = command(&folder.join("data"), "127.0.0.1:0");
    command.arg("init");
    command
}

/// What a command that works says on stdout.
pub(super) fn run(mut command: Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub(super) fn code(status: &Status, expected: ErrorCode) {
    let code = PublicError::from(status).code;
    assert_eq!(code.as_deref(), Some(expected.as_str()), "{status}");
}

#[track_caller]
pub(super) fn told<T>(refused: Result<T, Status>, expected: ErrorCode, words: &str) {
    let Err(status) = refused else {
        panic!("it was not refused ({words})")
    };
    code(&status, expected);
    assert!(status.message().contains(words), "{words:?}: {status}");
}

pub(super) type Session = (
    mpsc::Sender<v1::WorkerMessage>,
    Streaming<v1::CoordinatorMessage>,
);

/// Says Hello as a worker, and gives the session where it was let in.
pub(super) async fn hello(channel: Channel, id: &str, name: &str) -> Result<Session, Status> {
    let (outbox, outbound) = mpsc::channel(1);
    let hello = v1::Hello {
        worker_id: id.into(),
        name: name.into(),
        boot_id: Uuid::from_u128(7).to_string(),
        instance_id: Uuid::new_v4().to_string(),
        inventory: Some(v1::Inventory::default()),
        ..v1::Hello::default()
    };
    let body = Some(Body::Hello(hello));
    outbox.send(v1::WorkerMessage { body }).await.unwrap();
    let outbound = ReceiverStream::new(outbound);
    let inbound = WorkerSessionClient::new(channel).connect(outbound).await?;
    let mut inbound = inbound.into_inner();
    let first = inbound.message().await?.unwrap();
    assert!(matches!(first.body, Some(Answer::Welcome(_))));
    Ok((outbox, inbound))
}

/// How a session ends that the coordinator ends.
pub(super) async fn end_of(session: &mut Session) -> Status {
    let ended = async {
        loop {
            if let Err(status) = session.1.message().await {
                return status;
            }
        }
    };
    tokio::time::timeout(SOON, ended).await.unwrap()
}

pub(super) async fn worker_names(head: &Head) -> Vec<(String, i32)> {
    let mut client = WorkersClient::new(head.channel(None).await);
    let answer = client
        .list_workers(v1::ListWorkersRequest {})
        .await
        .unwrap();
    let workers = answer.into_inner().workers.into_iter();
    workers.map(|worker| (worker.name, worker.state)).collect()
}
