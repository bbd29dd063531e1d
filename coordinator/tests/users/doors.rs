//! Who is let in, by what, and for how long.

use marquee_domain::users::{TOKEN_BYTES, TOKEN_PREFIX};
use marquee_proto::v1;
use tonic::Code;

use super::{Asks, NOT_LOGGED_IN, Person, ROLE_TOO_LOW, refused};
use crate::support::{Cluster, SOON, channel};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_user_ends_what_was_open_to_whoever_may_connect() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    let mut stranger = Person::stranger(address).await;
    stranger.submit("").await.expect("there are no users");
    let who = stranger
        .users
        .who_am_i(v1::WhoAmIRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        who.is_admin && !who.has_users && who.means == "open",
        "{who:?}"
    );

    let mut add = v1::AddUserRequest {
        name: "ada".into(),
        grants: vec![v1::Grant {
            project: String::new(),
            role: "admin".into(),
        }],
        dry_run: true,
    };
    let would = owner
        .users
        .add_user(add.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(would.warnings[0].contains("first user"), "{would:?}");
    assert!(!stranger.listed().await.is_empty(), "nothing was done");
    add.dry_run = false;
    owner.users.add_user(add.clone()).await.unwrap();
    refused(owner.users.add_user(add).await, "MQ0374");

    let list = stranger
        .jobs
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    let status = refused(list, NOT_LOGGED_IN);
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("marquee login"), "{status}");
    let who = stranger
        .users
        .who_am_i(v1::WhoAmIRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        !who.is_admin && who.has_users && who.means.is_empty(),
        "{who:?}"
    );
    // The coordinator's own account on its own host stays in, by whatever name.
    owner.submit("").await.unwrap();

    let token = owner.token("ada").await;
    let mut ada = Person::with(address, &token).await;
    let job = ada.submit("priority = 5").await.unwrap();
    let who = ada
        .users
        .who_am_i(v1::WhoAmIRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((who.name.as_str(), who.means.as_str()), ("ada", "token"));
    assert!(who.is_admin && who.expires_at.is_some());
    // The history says who, and by which token; not the token.
    let id = &token[TOKEN_PREFIX.len()..][..12];
    let caller = &cluster.detail(job.id).await.events[0].caller;
    assert!(
        caller.starts_with(&format!("ada via token {id} from 127.0.0.1")),
        "{caller}"
    );

    // The last one gone, it is as it was before.
    let remove = v1::RemoveUserRequest {
        name: "ada".into(),
        dry_run: false,
    };
    let gone = owner.users.remove_user(remove).await.unwrap().into_inner();
    assert_eq!(gone.tokens_ended, 1);
    assert!(gone.warnings[0].contains("last user"), "{gone:?}");
    assert!(!stranger.listed().await.is_empty());
    assert!(
        !ada.listed().await.is_empty(),
        "a token that is left over does no harm"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_ends_its_streams_and_nobody_elses() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    let mut bob = owner.user(address, "bob", &[("", "viewer")]).await;
    let mut eve = owner.user(address, "eve", &[("", "viewer")]).await;
    let watch = || v1::WatchOverviewRequest {};
    let mut of_bob = bob
        .cluster
        .watch_overview(watch())
        .await
        .unwrap()
        .into_inner();
    let mut of_eve = eve
        .cluster
        .watch_overview(watch())
        .await
        .unwrap()
        .into_inner();
    of_bob.message().await.unwrap().unwrap();
    of_eve.message().await.unwrap().unwrap();

    let tokens = owner
        .users
        .list_tokens(v1::ListTokensRequest { user: "bob".into() })
        .await;
    let id = tokens.unwrap().into_inner().tokens.remove(0).id;
    // It is nobody's but his own and an administrator's.
    let revoke = |dry_run| v1::RevokeTokenRequest {
        id: id.clone(),
        dry_run,
    };
    refused(eve.users.revoke_token(revoke(false)).await, "MQ0373");
    let would = bob
        .users
        .revoke_token(revoke(true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(would.state, "revoked");
    bob.listed().await;
    bob.users.revoke_token(revoke(false)).await.unwrap();
    let ended = tokio::time::timeout(SOON, async {
        loop {
            match of_bob.message().await {
                Ok(Some(_)) => {}
                ended => return ended,
            }
        }
    });
    let status = ended.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let list = bob.jobs.list_jobs(v1::ListJobsRequest::default()).await;
    let status = refused(list, NOT_LOGGED_IN);
    assert!(status.message().contains("was revoked"), "{status}");

    // A role that is taken away acts on what is open too.
    let none = v1::SetRoleRequest {
        name: "eve".into(),
        grants: vec![v1::Grant::default()],
        dry_run: false,
    };
    owner.users.set_role(none).await.unwrap();
    let ended = tokio::time::timeout(SOON, async {
        while let Ok(Some(_)) = of_eve.message().await {}
    });
    ended.await.unwrap();
    let list = eve.jobs.list_jobs(v1::ListJobsRequest::default()).await;
    refused(list, ROLE_TOO_LOW);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_none_are_refused_in_words_and_survive_no_restart_by_mistake() {
    let mut cluster = Cluster::start().await;
    let address = cluster.running.address.clone();
    let mut owner = Person::owner(&address).await;
    owner.add("ada", &[("", "admin")]).await;
    let good = owner.token("ada").await;
    let late = owner.token("ada").await;
    let cut = &good[..TOKEN_BYTES - 1];
    let forged = format!("{}{}", &good[..TOKEN_BYTES - 8], "00000000");
    let large = format!("{TOKEN_PREFIX}{}", "a".repeat(4_000));
    for (token, says) in [
        (cut, "copied whole"),
        (&forged, "not valid here"),
        (&large, "copied whole"),
        ("hunter2", "begins with"),
    ] {
        let mut person = Person::with(&address, token).await;
        let list = person.jobs.list_jobs(v1::ListJobsRequest::default()).await;
        let status = refused(list, NOT_LOGGED_IN);
        assert!(status.message().contains(says), "{status}");
        assert!(!status.message().contains("hunter2") && !status.message().contains(&good[20..50]));
    }
    // Its owner's account does not help a token that is none: who shows one means it.
    let asks = Asks {
        token: Some(forged),
        is_proxied: false,
    };
    let mut person = Person::of(&channel(&address).await, asks);
    let list = person.jobs.list_jobs(v1::ListJobsRequest::default()).await;
    refused(list, NOT_LOGGED_IN);

    let id = &late[TOKEN_PREFIX.len()..][..12];
    let past =
        format!("UPDATE user_tokens SET expires_at = now() - interval '1 h' WHERE id = '{id}'");
    cluster.database.execute(&past).await;
    cluster.kill().await;
    cluster.start_again().await;
    let address = &cluster.running.address;
    let mut person = Person::with(address, &late).await;
    let list = person.jobs.list_jobs(v1::ListJobsRequest::default()).await;
    let status = refused(list, NOT_LOGGED_IN);
    assert!(status.message().contains("expired on"), "{status}");
    Person::with(address, &good).await.listed().await;
    let mut stranger = Person::stranger(address).await;
    let list = stranger
        .jobs
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    refused(list, NOT_LOGGED_IN);
    // What is stored is no token, and nothing that one could be made of.
    let stored = cluster
        .database
        .words("SELECT t::text FROM user_tokens t")
        .await;
    assert!(!stored.concat().contains(&good[20..50]), "{stored:?}");
}
