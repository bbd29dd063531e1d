//! One authority follows another while workers stay connected: the real program over real TLS.

use std::path::Path;

use marquee_proto::certificate::bundle;
use marquee_proto::v1::RotationStep::{Abandon, Begin, Finish, Switch};
use marquee_store::testing::TestDatabase;

use super::head::SOON;
use super::*;
use crate::program::Coordinator;
use crate::program::command;
use crate::program::eventually;
use marquee_domain::join_token::COORDINATOR_NAME;
use marquee_domain::join_token::JoinToken;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;
use tonic::Status;
use tonic::transport::Certificate;
use tonic::transport::Channel;
use tonic::transport::ClientTlsConfig;

async fn take(
    client: &mut TrustClient<Channel>,
    step: v1::RotationStep,
    force: bool,
) -> Result<v1::Rotation, Status> {
    let request = v1::RotateAuthorityRequest {
        step: step.into(),
        force,
        dry_run: false,
    };
    Ok(client.rotate_authority(request).await?.into_inner())
}

/// What a worker that believes the authorities of `bundle` hears, when it is something else than `known`.
async fn ask(channel: &Channel, believed: &str, known: &str) -> Result<v1::Authority, Status> {
    let request = v1::GetAuthorityRequest {
        believes: bundle::pins(&bundle::read(believed).unwrap()),
        known: known.into(),
        wait_ms: 20_000,
    };
    let mut client = TrustClient::new(channel.clone());
    let answer = tokio::time::timeout(SOON, client.get_authority(request));
    let answer = answer.await.unwrap()?;
    Ok(answer.into_inner())
}

/// A new certificate for a worker that shows its old one.
async fn renew(channel: &Channel) -> Identity {
    let own = key();
    let csr = CertificateParams::new([]).unwrap();
    let csr = csr.serialize_request(&own).unwrap().der().to_vec();
    let mut client = TrustClient::new(channel.clone());
    let answer = client.renew(v1::RenewRequest { csr }).await.unwrap();
    Identity::from_pem(answer.into_inner().certificate, own.serialize_pem())
}

/// A connection that believes these authorities, once the coordinator shows a certificate of one of them.
async fn connected(address: &str, believed: &str, shows: &Identity) -> Channel {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(believed))
        .domain_name(COORDINATOR_NAME)
        .identity(shows.clone());
    let endpoint = Channel::from_shared(format!("https://{address}"));
    let endpoint = endpoint.unwrap().tls_config(tls).unwrap();
    let deadline = Instant::now() + SOON;
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_waits_for_whoever_it_would_shut_out() {
    let head = Head::start();
    let first = head.tls("ca.pem");
    let one = head.member("gpu-01").await;
    let token = head.token(&[]);
    let worker = head.channel(Some(one.identity.clone())).await;
    let (_outbox, mut session) = hello(worker.clone(), &one.id, "gpu-01").await.unwrap();
    let mut admin = head.admin().await;
    let refused = ErrorCode::RotationNotReady;

    // Not a worker's to do, and nothing to go on with.
    let mut as_worker = TrustClient::new(worker.clone());
    told(
        take(&mut as_worker, Begin, false).await,
        ErrorCode::NotForWorkers,
        "workers may not",
    );
    for step in [Switch, Finish, Abandon] {
        told(take(&mut admin, step, true).await, refused, "no rotation");
    }

    // A worker waits for news, and hears of the next authority while it waits.
    let known = ask(&worker, &first, "").await.unwrap();
    assert_eq!(known.certificates, first);
    let waiting = tokio::spawn({
        let (worker, first, state) = (worker.clone(), first.clone(), known.state.clone());
        async move { ask(&worker, &first, &state).await.unwrap() }
    });
    let tried = v1::RotateAuthorityRequest {
        step: Begin.into(),
        force: false,
        dry_run: true,
    };
    let tried = admin.rotate_authority(tried).await.unwrap().into_inner();
    assert_eq!(tried.phase, "", "a try does nothing");
    let begun = take(&mut admin, Begin, false).await.unwrap();
    assert_eq!(begun.phase, "begun");
    let news = waiting.await.unwrap();
    let both = news.certificates.clone();
    assert_eq!(
        bundle::pins(&bundle::read(&both).unwrap()),
        [begun.before.clone(), begun.next.clone()]
    );
    assert_eq!(news.pin, begun.before, "the one before signs");
    told(take(&mut admin, Begin, false).await, refused, "has begun");
    told(take(&mut admin, Finish, true).await, refused, "switch");

    // It has heard, and has not said that it believes.
    let status = take(&mut admin, Switch, false).await.unwrap_err();
    code(&status, refused);
    assert!(
        status.message().contains("worker gpu-01 does not believe"),
        "{status}"
    );
    ask(&worker, &both, "").await.unwrap();
    let switched = take(&mut admin, Switch, false).await.unwrap();
    assert_eq!(switched.phase, "switched");
    told(take(&mut admin, Abandon, true).await, refused, "finish");
    // What a token pins is shown no more.
    told(
        head.join(&token, "gpu-02", &key()).await,
        ErrorCode::JoinRefused,
        "revoked",
    );
    // The session goes on, and the old certificate is good still.
    let status = take(&mut admin, Finish, false).await.unwrap_err();
    assert!(
        status.message().contains("worker gpu-01 still shows"),
        "{status}"
    );
    let own = renew(&worker).await;
    let renewed = connected(&head.coordinator.address, &both, &own).await;
    // Whoever believes the next one alone finds it shown.
    let next = bundle::read(&both).unwrap().remove(1).pem;
    let alone = connected(&head.coordinator.address, &next, &own).await;
    ask(&alone, &both, "").await.unwrap();
    let finished = take(&mut admin, Finish, false).await.unwrap();
    assert_eq!(finished.phase, "finished");
    assert_eq!(head.tls("ca.pem"), next);

    // Nothing was cut off but what shows the old one; and that on connections that stand, too.
    let after = ask(&renewed, &both, "").await.unwrap();
    assert_eq!(after.dropped, [begun.before]);
    told(
        ask(&worker, &both, "").await,
        ErrorCode::NotIdentified,
        "believes no more",
    );
    let quiet = tokio::time::timeout(Duration::from_millis(100), session.message()).await;
    assert!(
        quiet.is_err() || matches!(quiet, Ok(Ok(Some(_)))),
        "the session stands: {quiet:?}"
    );
    assert!(!head.data().join("tls/next.key").exists());
    // TLS reads its files anew within seconds, and lets no new connection in by it.
    let deadline = Instant::now() + SOON;
    loop {
        let shows = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&next))
            .domain_name(COORDINATOR_NAME)
            .identity(one.identity.clone());
        let endpoint = Channel::from_shared(format!("https://{}", head.coordinator.address));
        let endpoint = endpoint.unwrap().tls_config(shows).unwrap();
        // The client may hear of it late, with its first request, or in the words of the coordinator's own guard.
        let refused = match endpoint.connect().await {
            Ok(channel) => ask(&channel, &both, "").await.unwrap_err().to_string(),
            Err(error) => format!("{error:?}"),
        };
        if !refused.contains("believes no more") {
            break;
        }
        assert!(Instant::now() < deadline, "{refused}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A token of now lets in by the new authority, and everything stands in the audit.
    let token = head.token(&[]);
    head.join(&token, "gpu-02", &key()).await.unwrap();
    let url = database_url(&head.data());
    for kind in ["begun", "switched", "finished"] {
        let lines = format!(
            "SELECT count(*) FROM audit WHERE kind = 'authority_{kind}' AND actor LIKE '% from 127.0.0.1:%'"
        );
        assert_eq!(number(&url, &lines).await, 1, "{kind}");
    }
    let log = head.coordinator.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forced_shuts_out_and_what_is_abandoned_leaves_nothing() {
    let head = Head::start();
    let first = head.tls("ca.pem");
    let one = head.member("gpu-01").await;
    let worker = head.channel(Some(one.identity.clone())).await;
    let mut session = hello(worker.clone(), &one.id, "gpu-01").await.unwrap();
    let mut admin = head.admin().await;

    take(&mut admin, Begin, false).await.unwrap();
    let given_up = take(&mut admin, Abandon, false).await.unwrap();
    assert_eq!(given_up.phase, "abandoned");
    assert_eq!(head.tls("ca.pem"), first);
    assert!(!head.data().join("tls/next.key").exists());

    // Without its key no word makes it sign.
    take(&mut admin, Begin, false).await.unwrap();
    let next_key = head.data().join("tls/next.key");
    let kept = head.folder.path().join("kept.key");
    std::fs::rename(&next_key, &kept).unwrap();
    told(
        take(&mut admin, Switch, true).await,
        ErrorCode::RotationNotReady,
        "is not on the host",
    );
    std::fs::rename(&kept, &next_key).unwrap();
    take(&mut admin, Switch, true).await.unwrap();
    take(&mut admin, Finish, true).await.unwrap();
    let end = end_of(&mut session).await;
    code(&end, ErrorCode::NotIdentified);
    assert!(end.message().contains("marquee-worker join"), "{end}");
    told(
        hello(worker, &one.id, "gpu-01").await,
        ErrorCode::NotIdentified,
        "believes no more",
    );
    // New connections are shown the new certificate within a moment.
    let shown = head.tls("server.pem");
    assert_eq!(bundle::read(&shown).unwrap()[1].pem, head.tls("ca.pem"));
    let deadline = Instant::now() + SOON;
    while head.try_channel(None).await.is_err() {
        assert!(Instant::now() < deadline, "it shows the old one still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // In again as everybody who was shut out: by a token for its name.
    let token = head.token(&["--name", "gpu-01"]);
    let again = head.join(&token, "gpu-01", &key()).await.unwrap();
    assert_eq!(again.id, one.id);
    let worker = head.channel(Some(again.identity.clone())).await;
    hello(worker, &again.id, "gpu-01").await.unwrap();
}

/// A coordinator of its own host, on a Postgres that it shares.
fn beside(folder: &Path, name: &str, database: &TestDatabase) -> Command {
    let mut command = command(&folder.join(name), "127.0.0.1:0");
    command
        .env("MARQUEE_COORDINATOR__DATABASE_URL", &database.url)
        .env(
            "MARQUEE_COORDINATOR__ARTIFACTS_DIR",
            folder.join("artifacts"),
        )
        .env("MARQUEE_COORDINATOR__TIMING__HEARTBEAT_EVERY_MS", "200");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_comes_along_and_leads_on_with_the_next_authority() {
    let folder = tempfile::Builder::new().prefix("mqj").tempdir().unwrap();
    let database = TestDatabase::create().await;
    let start = |name: &str| {
        let mut init = beside(folder.path(), name, &database);
        init.arg("init");
        run(init);
        Coordinator::start_with(beside(folder.path(), name, &database))
    };
    let tls = |name: &str, file: &str| folder.path().join(name).join("tls").join(file);
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let first = start("one");
    // As the documentation says: the authority is copied before `init`.
    std::fs::create_dir_all(folder.path().join("two/tls")).unwrap();
    for file in ["ca.pem", "ca.key"] {
        std::fs::copy(tls("one", file), tls("two", file)).unwrap();
    }
    let second = start("two");

    let believed = read(tls("one", "ca.pem"));
    let connect = |address: &str, believed: &str| {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(believed))
            .domain_name(COORDINATOR_NAME);
        let endpoint = Channel::from_shared(format!("https://{address}")).unwrap();
        endpoint.tls_config(tls).unwrap().connect_lazy()
    };
    let mut admin = TrustClient::new(connect(&first.address, &believed));
    take(&mut admin, Begin, false).await.unwrap();
    // It follows by itself, and the one that leads sees that it does.
    let deadline = Instant::now() + SOON;
    loop {
        let status = admin.get_rotation(v1::GetRotationRequest {}).await.unwrap();
        let status = status.into_inner();
        let [other] = &status.coordinators[..] else {
            panic!("{status:?}");
        };
        assert!(!other.shows_next);
        if other.believes_next {
            assert!(status.hindrances.is_empty(), "{status:?}");
            break;
        }
        assert!(status.hindrances.iter().any(|one| one.can_be_forced));
        assert!(Instant::now() < deadline, "{status:?}\n{}", second.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(read(tls("two", "ca.pem")), read(tls("one", "ca.pem")));
    take(&mut admin, Switch, false).await.unwrap();
    let both = read(tls("one", "ca.pem"));
    // It cannot sign with a key that it does not have, and says so.
    eventually("the one that stands by says what it lacks", SOON, || {
        second.log().contains("copy ca.key there")
    });
    let mut admin = TrustClient::new(connect(&first.address, &both));
    let status = take(&mut admin, Finish, false).await.unwrap_err();
    assert!(status.message().contains("copy tls/ca.key"), "{status}");
    std::fs::copy(tls("one", "ca.key"), tls("two", "ca.key")).unwrap();
    let deadline = Instant::now() + SOON;
    while let Err(status) = take(&mut admin, Finish, false).await {
        code(&status, ErrorCode::RotationNotReady);
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let next = read(tls("one", "ca.pem"));
    assert_eq!(bundle::read(&next).unwrap().len(), 1);
    // The other one leads, and lets in by the new authority alone.
    drop(first);
    let mut admin = TrustClient::new(connect(&second.address, &next));
    let deadline = Instant::now() + SOON;
    let token = loop {
        let request = v1::CreateJoinTokenRequest::default();
        match admin.create_join_token(request).await {
            Ok(token) => break token.into_inner().text,
            Err(status) => assert!(Instant::now() < deadline, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let token: JoinToken = token.parse().unwrap();
    let csr = CertificateParams::new([]).unwrap();
    let joined = v1::JoinRequest {
        token_id: token.id.to_string(),
        secret: token.secret.to_vec(),
        csr: csr.serialize_request(&key()).unwrap().der().to_vec(),
        name: "gpu-01".into(),
        worker_id: String::new(),
    };
    let joined = admin.join(joined).await.unwrap().into_inner();
    assert_eq!(joined.authority, next);
}
