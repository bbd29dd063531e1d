//! Which certificates are believed, and what happens to those of the coordinator while it runs.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::program::{Coordinator, command, eventually, refused};
use marquee_proto::error::ErrorCode;
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::jobs_client::JobsClient;
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use uuid::Uuid;

use super::head::{Head, SOON, hello, init, key, run, told};

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
            .get_authority(v1::GetAuthorityRequest::default())
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

    // The coordinator does not start with a key that others can read.
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
