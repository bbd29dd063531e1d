//! Workers join, are known by their certificates, and are out when they are revoked: the real program over real TLS.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use crate::program::database_url;
use marquee_proto::error::ErrorCode;
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::trust_client::TrustClient;
use marquee_proto::v1::verify_audit_response::Body as Verdict;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_store::testing::number;
use rcgen::CertificateParams;
use tonic::transport::Identity;
use uuid::Uuid;

mod certificates;
mod floods;
mod head;
mod held;
mod rotation;
mod steps;

use head::{Head, code, end_of, hello, key, run, told, worker_names};

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
        ..Default::default()
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
