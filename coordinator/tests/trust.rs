//! Workers join, are known by their certificates, and are out when they are revoked: the real program over real TLS.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Coordinator, command, database_url, eventually, refused};
use marquee_domain::join_token::{COORDINATOR_NAME, JoinToken};
use marquee_proto::error::{ErrorCode, PublicError};
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::coordinator_message::Body as Answer;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::trust_client::TrustClient;
use marquee_proto::v1::verify_audit_response::Body as Verdict;
use marquee_proto::v1::worker_message::Body;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_store::testing::number;
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Status, Streaming};
use uuid::Uuid;

/// How long anything that must happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A coordinator with an authority of its own.
struct Head {
    folder: tempfile::TempDir,
    coordinator: Coordinator,
}

impl Head {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("mqj").tempdir().unwrap();
        let said = run(init(folder.path()));
        assert!(said.contains("fingerprint"), "{said}");
        let coordinator = Coordinator::start(&folder.path().join("data"));
        Self {
            folder,
            coordinator,
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn tls(&self, file: &str) -> String {
        std::fs::read_to_string(self.data().join("tls").join(file)).unwrap()
    }

    /// Runs `marquee-coordinator token ...` on the coordinator's host.
    fn token_command(&self, words: &[&str]) -> Command {
        let mut command = command(&self.data(), &self.coordinator.address);
        command.arg("token").args(words);
        command
    }

    fn token(&self, words: &[&str]) -> JoinToken {
        let mut all = vec!["create"];
        all.extend(words);
        run(self.token_command(&all)).parse().unwrap()
    }

    /// Believes the coordinator's authority.
    fn trusting(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.tls("ca.pem")))
            .domain_name(COORDINATOR_NAME)
    }

    async fn try_channel(
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

    async fn channel(&self, shows: Option<Identity>) -> Channel {
        self.try_channel(shows).await.unwrap()
    }

    /// As whoever runs the coordinator: by the account of this host.
    async fn admin(&self) -> TrustClient<Channel> {
        TrustClient::new(self.channel(None).await)
    }

    async fn join(&self, token: &JoinToken, name: &str, key: &KeyPair) -> Result<Member, Status> {
        self.join_as(token, name, key, "").await
    }

    async fn join_as(
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

    async fn member(&self, name: &str) -> Member {
        let token = self.token(&[]);
        self.join(&token, name, &key()).await.unwrap()
    }

    async fn change(&self, statement: &str) {
        let url = database_url(&self.data());
        let one = format!("WITH x AS ({statement} RETURNING 1) SELECT count(*) FROM x");
        assert!(number(&url, &one).await > 0, "{statement}");
    }
}

/// A worker that joined.
struct Member {
    identity: Identity,
    id: String,
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn init(folder: &Path) -> Command {
    let mut command = command(&folder.join("data"), "127.0.0.1:0");
    command.arg("init");
    command
}

/// What a command that works says on stdout.
fn run(mut command: Command) -> String {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn code(status: &Status, expected: ErrorCode) {
    let code = PublicError::from(status).code;
    assert_eq!(code.as_deref(), Some(expected.as_str()), "{status}");
}

#[track_caller]
fn told<T>(refused: Result<T, Status>, expected: ErrorCode, words: &str) {
    let Err(status) = refused else {
        panic!("it was not refused ({words})")
    };
    code(&status, expected);
    assert!(status.message().contains(words), "{words:?}: {status}");
}

type Session = (
    mpsc::Sender<v1::WorkerMessage>,
    Streaming<v1::CoordinatorMessage>,
);

/// Says Hello as a worker, and gives the session where it was let in.
async fn hello(channel: Channel, id: &str, name: &str) -> Result<Session, Status> {
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
async fn end_of(session: &mut Session) -> Status {
    let ended = async {
        loop {
            if let Err(status) = session.1.message().await {
                return status;
            }
        }
    };
    tokio::time::timeout(SOON, ended).await.unwrap()
}

async fn worker_names(head: &Head) -> Vec<(String, i32)> {
    let mut client = WorkersClient::new(head.channel(None).await);
    let answer = client
        .list_workers(v1::ListWorkersRequest {})
        .await
        .unwrap();
    let workers = answer.into_inner().workers.into_iter();
    workers.map(|worker| (worker.name, worker.state)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in_whom_it_is_for_and_nobody_else() {
    let head = Head::start();
    let refused = ErrorCode::JoinRefused;

    // Used by two at the same instant: one of them wins, and may ask again where its answer was lost.
    let token = head.token(&[]);
    let (one, two) = (key(), key());
    let (first, second) = tokio::join!(
        head.join(&token, "gpu-01", &one),
        head.join(&token, "gpu-02", &two)
    );
    let (winner, name, loser) = match (first, second) {
        (Ok(_), Err(status)) => (&one, "gpu-01", status),
        (Err(status), Ok(_)) => (&two, "gpu-02", status),
        (Ok(_), Ok(_)) => panic!("both were let in"),
        (Err(one), Err(two)) => panic!("neither was let in: {one}, {two}"),
    };
    code(&loser, refused);
    assert!(loser.message().contains("was used once already"), "{loser}");
    let again = head.join(&token, name, winner).await.unwrap();
    let members = head
        .admin()
        .await
        .list_members(v1::ListMembersRequest {})
        .await;
    let members = members.unwrap().into_inner().members;
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!(
        (&members[0].name[..], &members[0].worker_id),
        (name, &again.id)
    );

    // A known name, without a token for it: nobody takes another's place.
    let other = head.token(&["--uses", "3"]);
    told(
        head.join(&other, name, &key()).await,
        refused,
        "is known here",
    );
    told(
        head.join_as(&other, "gpu-09", &key(), &again.id).await,
        refused,
        "is known here",
    );

    let named = head.token(&["--name", "gpu-07"]);
    told(
        head.join(&named, "gpu-08", &key()).await,
        refused,
        "for worker \"gpu-07\"",
    );
    let expired = head.token(&["--ttl", "1m"]);
    head.change(&format!(
        "UPDATE join_tokens SET expires_at = now() - interval '1 s' WHERE id = '{}'",
        expired.id
    ))
    .await;
    told(
        head.join(&expired, "gpu-03", &key()).await,
        refused,
        "expired on",
    );
    let revoked = head.token(&[]);
    let id = revoked.id.to_string();
    let said = run(head.token_command(&["revoke", &id[..8]]));
    assert!(said.contains(&id), "{said}");
    told(
        head.join(&revoked, "gpu-03", &key()).await,
        refused,
        "was revoked",
    );
    let role = head.token(&[]);
    head.change(&format!(
        "UPDATE join_tokens SET role = 'admin' WHERE id = '{}'",
        role.id
    ))
    .await;
    told(
        head.join(&role, "gpu-03", &key()).await,
        refused,
        "for the role \"admin\"",
    );
    // A wrong secret is an unknown token, so that nobody learns which ids there are.
    let mut guessed = head.token(&[]);
    guessed.secret[0] ^= 1;
    told(
        head.join(&guessed, "gpu-03", &key()).await,
        refused,
        "no such token",
    );
    guessed.id = Uuid::new_v4();
    told(
        head.join(&guessed, "gpu-03", &key()).await,
        refused,
        "no such token",
    );

    // What is brought along is no better than the token.
    let good = head.token(&[]);
    let request = |csr: Vec<u8>, name: &str| v1::JoinRequest {
        token_id: good.id.to_string(),
        secret: good.secret.to_vec(),
        csr,
        name: name.into(),
        worker_id: String::new(),
    };
    let csr = || {
        CertificateParams::new([])
            .unwrap()
            .serialize_request(&key())
            .unwrap()
            .der()
            .to_vec()
    };
    let mut client = head.admin().await;
    let rsa = include_bytes!("fixtures/rsa1024.csr").to_vec();
    for bad in [b"garbage".to_vec(), Vec::new(), rsa, vec![7; 20_000]] {
        told(
            client.join(request(bad, "gpu-03")).await,
            refused,
            "signing request",
        );
    }
    for bad in ["", "GPU", "a b", "../x", &"x".repeat(1_000)] {
        told(
            client.join(request(csr(), bad)).await,
            ErrorCode::InvalidRequest,
            "name",
        );
    }
    let mut huge = request(csr(), "gpu-03");
    huge.secret = vec![7; 1_000_000];
    assert!(
        client
            .join(huge)
            .await
            .unwrap_err()
            .message()
            .contains("limit")
    );
    let short = v1::JoinRequest {
        secret: vec![1],
        ..request(csr(), "gpu-03")
    };
    told(
        client.join(short).await,
        ErrorCode::InvalidRequest,
        "secret",
    );
    // None of that has used the token.
    client.join(request(csr(), "gpu-03")).await.unwrap();

    let listed = run(head.token_command(&["list"]));
    for state in ["used", "revoked", "expired", "usable"] {
        assert!(listed.contains(state), "{state}: {listed}");
    }
    let log = head.coordinator.log();
    assert!(log.contains("a worker was not let in"));
    for token in [&token, &other, &named, &good] {
        let text = token.reveal();
        let secret = marquee_domain::join_token::hex(&token.secret);
        for kept in [&log, &listed] {
            assert!(
                !kept.contains(&text) && !kept.contains(&secret),
                "a secret is in {kept}"
            );
        }
    }
    let refused = head
        .token_command(&["create", "--role", "admin"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("role"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_its_certificate_and_does_what_workers_do() {
    let head = Head::start();
    let (one, two) = (head.member("gpu-01").await, head.member("gpu-02").await);
    let first = head.channel(Some(one.identity.clone())).await;

    // Its certificate with another's id, and nobody's certificate.
    told(
        hello(first.clone(), &two.id, "gpu-02").await,
        ErrorCode::WorkerOwned,
        "another one",
    );
    let nobody = head.channel(None).await;
    told(
        hello(nobody, &two.id, "gpu-02").await,
        ErrorCode::NotIdentified,
        "marquee-worker join",
    );
    // The name is the one that it joined by, whatever it says.
    let mut session = hello(first.clone(), &one.id, "gpu-02").await.unwrap();
    assert_eq!(worker_names(&head).await[0].0, "gpu-01");

    // It may know whom to ask when this one is gone.
    let mut workers = WorkersClient::new(first.clone());
    let known = workers
        .list_coordinators(v1::ListCoordinatorsRequest {})
        .await;
    assert_eq!(known.unwrap().into_inner().coordinators.len(), 1);

    // A worker asks for nothing but its work.
    let mut jobs = JobsClient::new(first.clone());
    let submit = jobs
        .submit_pipeline(v1::SubmitPipelineRequest::default())
        .await;
    told(submit, ErrorCode::NotForWorkers, "workers may not");
    let list = jobs.list_jobs(v1::ListJobsRequest::default()).await;
    told(list, ErrorCode::NotForWorkers, "workers may not");
    let mut trust = TrustClient::new(first.clone());
    let token = trust
        .create_join_token(v1::CreateJoinTokenRequest::default())
        .await;
    told(token, ErrorCode::NotForWorkers, "workers may not");
    let revoke = v1::RevokeMemberRequest {
        name: "gpu-02".into(),
        ..Default::default()
    };
    told(
        trust.revoke_member(revoke.clone()).await,
        ErrorCode::NotForWorkers,
        "workers may not",
    );
    let mut files = ArtifactsClient::new(first.clone());
    let listing = files
        .list_artifacts(v1::ListArtifactsRequest::default())
        .await;
    told(listing, ErrorCode::NotForWorkers, "workers may not");
    let missing = || v1::FindMissingBlobsRequest {
        digests: vec!["0".repeat(64)],
    };
    assert_eq!(
        files
            .find_missing_blobs(missing())
            .await
            .unwrap()
            .into_inner()
            .digests
            .len(),
        1
    );

    // It renews its certificate by showing it; whoever has none cannot.
    let new_key = key();
    let csr = CertificateParams::new([])
        .unwrap()
        .serialize_request(&new_key)
        .unwrap();
    let renewal = v1::RenewRequest {
        csr: csr.der().to_vec(),
    };
    let renewed = trust.renew(renewal.clone()).await.unwrap().into_inner();
    let renewed = Identity::from_pem(renewed.certificate, new_key.serialize_pem());
    let renewed = head.channel(Some(renewed)).await;
    told(
        head.admin().await.renew(renewal.clone()).await,
        ErrorCode::NotIdentified,
        "shows its certificate",
    );

    // Another name: its session ends, and it comes back under it.
    let mut admin = head.admin().await;
    let rename = |name: &str, new_name: &str| v1::RenameMemberRequest {
        name: name.into(),
        new_name: new_name.into(),
    };
    told(
        admin.rename_member(rename("gpu-01", "gpu-02")).await,
        ErrorCode::WorkerNameTaken,
        "gpu-02",
    );
    told(
        admin.rename_member(rename("none", "x")).await,
        ErrorCode::WorkerNotFound,
        "joined",
    );
    admin
        .rename_member(rename("gpu-01", "big-01"))
        .await
        .unwrap();
    assert!(end_of(&mut session).await.message().contains("big-01"));
    let mut session = hello(renewed.clone(), &one.id, "gpu-01").await.unwrap();
    assert_eq!(worker_names(&head).await[0].0, "big-01");

    // One that is here is not forgotten by mistake.
    let forget = |name: &str| v1::ForgetMemberRequest { name: name.into() };
    told(
        admin.forget_member(forget("big-01")).await,
        ErrorCode::StillNeeded,
        "revoke it first",
    );

    // Revoked, it is out at once: its session ends, no call is answered, and nothing lets it in again.
    let reason = "stolen".to_owned();
    let revoke = v1::RevokeMemberRequest {
        name: "big-01".into(),
        reason,
    };
    admin.revoke_member(revoke).await.unwrap();
    let end = end_of(&mut session).await;
    code(&end, ErrorCode::WorkerRevoked);
    assert!(end.message().contains("stolen"), "{end}");
    let lost = v1::WorkerState::Lost.into();
    assert_eq!(worker_names(&head).await[0], ("big-01".to_owned(), lost));
    for channel in [&first, &renewed] {
        let mut files = ArtifactsClient::new(channel.clone());
        told(
            files.find_missing_blobs(missing()).await,
            ErrorCode::WorkerRevoked,
            "stolen",
        );
        told(
            hello(channel.clone(), &one.id, "big-01").await,
            ErrorCode::WorkerRevoked,
            "stolen",
        );
        let renew = TrustClient::new(channel.clone())
            .renew(renewal.clone())
            .await;
        told(renew, ErrorCode::WorkerRevoked, "stolen");
    }
    // It was heard a moment before. That is no hasty verdict of the cluster's: a person has shut it out.
    let mut audit = AuditClient::new(head.channel(None).await);
    let asked = audit.verify(v1::VerifyAuditRequest::default()).await;
    let mut answers = asked.unwrap().into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        let is_finding = matches!(answer.body, Some(Verdict::Finding(_)));
        assert!(!is_finding, "{answer:?}");
    }
    // The other one is not touched by any of it.
    let second = head.channel(Some(two.identity.clone())).await;
    hello(second, &two.id, "gpu-02").await.unwrap();

    // Forgotten, its name is free; a token for a name puts another host in its worker's place.
    admin.forget_member(forget("big-01")).await.unwrap();
    let mut files = ArtifactsClient::new(renewed);
    told(
        files.find_missing_blobs(missing()).await,
        ErrorCode::WorkerRevoked,
        "not known here",
    );
    head.member("big-01").await;
    // All of it stands in the audit, with who did it.
    let url = database_url(&head.data());
    for (kind, actor) in [
        ("join_token_created", "% from 127.0.0.1:%"),
        ("worker_joined", "token %"),
        ("worker_renamed", "% from 127.0.0.1:%"),
        ("worker_revoked", "% from 127.0.0.1:%"),
        ("worker_forgotten", "% from 127.0.0.1:%"),
    ] {
        let lines =
            format!("SELECT count(*) FROM audit WHERE kind = '{kind}' AND actor LIKE '{actor}'");
        assert!(number(&url, &lines).await > 0, "{kind}");
    }
    // What let a worker in does not let it in again once it is out.
    let (token, own) = (head.token(&[]), key());
    head.join(&token, "gpu-05", &own).await.unwrap();
    let name = "gpu-05".to_owned();
    let revoke = v1::RevokeMemberRequest {
        name,
        ..Default::default()
    };
    admin.revoke_member(revoke).await.unwrap();
    told(
        head.join(&token, "gpu-05", &own).await,
        ErrorCode::WorkerRevoked,
        "was revoked",
    );
    let named = head.token(&["--name", "gpu-02"]);
    let heir = head.join(&named, "gpu-02", &key()).await.unwrap();
    assert_eq!(heir.id, two.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_not_good_are_refused() {
    let head = Head::start();
    let cluster = Uuid::new_v4();
    let worker = head.member("gpu-01").await.id;
    let ours = Issuer::from_ca_cert_pem(
        &head.tls("ca.pem"),
        KeyPair::from_pem(&head.tls("ca.key")).unwrap(),
    )
    .unwrap();
    let params = || {
        let mut params = CertificateParams::new([]).unwrap();
        let uri = format!("marquee://{cluster}/worker/{worker}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    };
    let sign = |params: CertificateParams| {
        let key = key();
        let pem = params.signed_by(&key, &ours).unwrap().pem();
        Identity::from_pem(pem, key.serialize_pem())
    };
    let asks = async |shows: Identity| -> bool {
        let Ok(channel) = head.try_channel(Some(shows)).await else {
            return false;
        };
        let missing = v1::FindMissingBlobsRequest::default();
        ArtifactsClient::new(channel)
            .find_missing_blobs(missing)
            .await
            .is_ok()
    };
    assert!(asks(sign(params())).await, "a good one");
    let mut expired = params();
    expired.not_after = date_time_ymd(2020, 1, 1);
    assert!(!asks(sign(expired)).await);
    let mut early = params();
    early.not_before = date_time_ymd(2200, 1, 1);
    assert!(!asks(sign(early)).await);
    let mut server = params();
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert!(!asks(sign(server)).await);
    // A worker signs nobody: what it signs is of no authority.
    let (middle_key, leaf_key) = (key(), key());
    let middle_params = params();
    let middle = middle_params.signed_by(&middle_key, &ours).unwrap().pem();
    let middle_issuer = Issuer::new(middle_params, middle_key);
    let leaf = params().signed_by(&leaf_key, &middle_issuer).unwrap().pem();
    let chain = Identity::from_pem(format!("{leaf}{middle}"), leaf_key.serialize_pem());
    assert!(!asks(chain).await);
    let stranger = key();
    let other = params().self_signed(&stranger).unwrap().pem();
    assert!(!asks(Identity::from_pem(other, stranger.serialize_pem())).await);
    // Of this authority, for a name that no version gives.
    let mut unknown = params();
    let uri = format!("marquee://{cluster}/robot/7");
    unknown.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let channel = head.channel(Some(sign(unknown))).await;
    let answer = JobsClient::new(channel)
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    told(answer, ErrorCode::NotIdentified, "names nobody");
    // What the client hears is little; the log says why.
    let log = head.coordinator.log();
    for why in ["expired", "UnknownIssuer", "refused by TLS"] {
        assert!(
            log.to_lowercase().contains(&why.to_lowercase()),
            "{why}: {log}"
        );
    }

    // Who speaks no TLS is told so, in whatever it speaks.
    let plain = Channel::from_shared(format!("http://{}", head.coordinator.address)).unwrap();
    let answer = JobsClient::new(plain.connect_lazy())
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    let mut text = String::new();
    let status = answer.unwrap_err();
    let mut cause: Option<&dyn std::error::Error> = Some(&status);
    while let Some(error) = cause {
        text.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(text.contains("this port speaks TLS"), "{text}");
    let address = head.coordinator.address.clone();
    let page = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: head\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    assert!(page.await.unwrap().contains("this port speaks TLS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_while_streams_go_on_and_keys_are_looked_after() {
    let mut head = Head::start();
    let one = head.member("gpu-01").await;
    let channel = head.channel(Some(one.identity.clone())).await;
    let (_outbox, mut session) = hello(channel, &one.id, "gpu-01").await.unwrap();

    // Known under another name from now on, without a restart.
    let by_name = || {
        let ca = Certificate::from_pem(head.tls("ca.pem"));
        let tls = ClientTlsConfig::new()
            .ca_certificate(ca)
            .domain_name("head-9");
        let endpoint = Channel::from_shared(format!("https://{}", head.coordinator.address));
        endpoint.unwrap().tls_config(tls).unwrap()
    };
    by_name()
        .connect()
        .await
        .expect_err("nobody has given it that name");
    let mut more = init(head.folder.path());
    more.args(["--name", "head-9"]);
    run(more);
    let deadline = Instant::now() + SOON;
    while let Err(error) = by_name().connect().await {
        assert!(Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let next = tokio::time::timeout(Duration::from_millis(100), session.message()).await;
    assert!(
        next.is_err() || matches!(next, Ok(Ok(Some(_)))),
        "the stream stands: {next:?}"
    );

    // Without the authority's key everything goes on, but that nobody joins.
    let ca_key = head.data().join("tls/ca.key");
    let kept = head.folder.path().join("kept");
    std::fs::rename(&ca_key, &kept).unwrap();
    let token = head.token(&[]);
    let joined = head.join(&token, "gpu-02", &key()).await;
    told(joined, ErrorCode::NoAuthority, "cannot sign");
    assert!(
        !head
            .admin()
            .await
            .get_authority(v1::GetAuthorityRequest {})
            .await
            .unwrap()
            .into_inner()
            .can_sign
    );
    head.coordinator.signal(Signal::SIGTERM);
    head.coordinator.wait(SOON);
    head.coordinator = Coordinator::start(&head.data());
    eventually("the log says what is missing", SOON, || {
        head.coordinator.log().contains("put it back from a backup")
    });
    let channel = head.channel(Some(one.identity.clone())).await;
    hello(channel, &one.id, "gpu-01").await.unwrap();

    // A key that others can read is none to start with.
    head.coordinator.signal(Signal::SIGTERM);
    head.coordinator.wait(SOON);
    std::fs::rename(&kept, &ca_key).unwrap();
    for file in ["ca.key", "server.key"] {
        let file = head.data().join("tls").join(file);
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
        mode(0o644).unwrap();
        let said = refused(command(&head.data(), "127.0.0.1:0"));
        assert!(
            said.contains("mode 0644") && said.contains("chmod 600"),
            "{said}"
        );
        mode(0o600).unwrap();
    }
}
