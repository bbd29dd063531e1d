//! What is written down of users, and what never is.

use marquee_domain::users::{TOKEN_BYTES, TOKEN_PREFIX};
use marquee_proto::v1;
use nix::unistd::{Uid, geteuid, setfsuid};
use tonic::{Code, Status};

use super::{Asks, Person};
use crate::program::Coordinator;
use crate::support::{Cluster, channel};

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_with_who_from_where_before_and_after() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    let mut ada = owner.user(address, "ada", &[("", "admin")]).await;
    let role = v1::SetRoleRequest {
        name: "ada".into(),
        grants: vec![v1::Grant {
            project: "default".into(),
            role: "viewer".into(),
        }],
        dry_run: false,
    };
    ada.add("bob", &[]).await;
    ada.users
        .set_role(v1::SetRoleRequest {
            name: "bob".into(),
            ..role
        })
        .await
        .unwrap();
    let token = ada.token("bob").await;
    let id = token[TOKEN_PREFIX.len()..][..12].to_owned();
    ada.users
        .revoke_token(v1::RevokeTokenRequest { id, dry_run: false })
        .await
        .unwrap();
    let weight = v1::SetProjectRequest {
        name: "default".into(),
        weight: Some(3.0),
        ..v1::SetProjectRequest::default()
    };
    ada.projects.set_project(weight).await.unwrap();
    let bob = v1::RemoveUserRequest {
        name: "bob".into(),
        dry_run: false,
    };
    ada.users.remove_user(bob).await.unwrap();

    let list = ada.audit.list(v1::ListAuditRequest {
        actor: "ada via".into(),
        ..Default::default()
    });
    let mut list = list.await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(line) = list.message().await.unwrap() {
        assert!(line.actor.contains(" from 127.0.0.1:"), "{line:?}");
        lines.push((line.kind, line.detail_json));
    }
    let kinds: Vec<&str> = lines.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "user_added",
            "user_changed",
            "token_created",
            "token_revoked",
            "project_set",
            "user_removed"
        ]
    );
    let json = |n: usize| serde_json::from_str::<serde_json::Value>(&lines[n].1).unwrap();
    assert_eq!(json(1)["before"], serde_json::json!({}));
    assert_eq!(json(1)["after"], serde_json::json!({ "default": "viewer" }));
    assert_eq!(
        (&json(4)["before"]["weight"], &json(4)["after"]["weight"]),
        (&1.into(), &3.into())
    );
    let all = format!("{lines:?}");
    assert!(
        !all.contains(&token[20..50]) && !all.contains("secret"),
        "{all}"
    );
}

/// What another account of this host gets, with a token and without.
fn listed_as(uid: Uid, address: &str, token: Option<&str>) -> Result<(), Status> {
    let (address, token) = (address.to_owned(), token.map(str::to_owned));
    let asked = std::thread::spawn(move || {
        // Of this thread alone: the kernel notes it in each socket that is made here.
        setfsuid(uid);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let asks = Asks {
                token,
                is_proxied: false,
            };
            let mut person = Person::of(&channel(&address).await, asks);
            let list = person.jobs.list_jobs(v1::ListJobsRequest::default()).await;
            list.map(drop)
        })
    });
    asked.join().unwrap()
}

#[test]
fn a_token_lets_another_account_of_the_host_in_and_stands_in_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = crate::program::command(folder.path(), "127.0.0.1:0");
    // Everything of ours: all that dependencies say would fill the pipe before anybody reads it.
    command.env(
        "MARQUEE_LOG",
        "info,marquee_coordinator=debug,marquee_store=debug",
    );
    let coordinator = Coordinator::start_with(command);
    let address = format!("http://{}", coordinator.address);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (token, forged) = runtime.block_on(async {
        let mut owner = Person::owner(&address).await;
        owner.add("ada", &[("", "viewer")]).await;
        let token = owner.token("ada").await;
        Person::with(&address, &token).await.listed().await;
        let forged = format!("{}{}", &token[..TOKEN_BYTES - 8], "11111111");
        let mut other = Person::with(&address, &forged).await;
        other
            .jobs
            .list_jobs(v1::ListJobsRequest::default())
            .await
            .unwrap_err();
        (token, forged)
    });
    if geteuid().is_root() {
        let stranger = Uid::from_raw(4_000_003);
        let without = listed_as(stranger, &address, None).unwrap_err();
        assert_eq!(without.code(), Code::Unauthenticated, "{without}");
        listed_as(stranger, &address, Some(&token)).unwrap();
        listed_as(stranger, &address, Some(&forged)).unwrap_err();
    } else {
        eprintln!("skipped: only root can connect as somebody else");
    }
    let log = coordinator.log();
    assert!(
        log.contains("token created") && log.contains("a token was refused"),
        "{log}"
    );
    for secret in [&token[20..], &forged[20..], &token[20..50]] {
        assert!(!log.contains(secret), "a secret stands in the log");
    }
}
