//! Users from the outside: who is let in, who may do what in which project, and what becomes of tokens.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use marquee_domain::users::{TOKEN_BYTES, TOKEN_PREFIX};
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::users_client::UsersClient;
use marquee_proto::v1::workers_client::WorkersClient;
use nix::unistd::{Uid, geteuid, setfsuid};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::program::Coordinator;
use crate::support::{Cluster, SOON, channel, request};

/// Who asks. By default the coordinator's own account, which these tests run as.
#[derive(Debug, Clone, Default)]
struct Asks {
    token: Option<String>,
    /// A proxy on this host asks for somebody else.
    is_proxied: bool,
}

impl Interceptor for Asks {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut();
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}").parse();
            headers.insert("authorization", value.map_err(|_| Status::internal("odd"))?);
        }
        if self.is_proxied {
            headers.insert("x-forwarded-for", "10.0.0.9".parse().unwrap());
        }
        Ok(request)
    }
}

type Wire = InterceptedService<Channel, Asks>;

/// Somebody, with a client of each service.
struct Person {
    jobs: JobsClient<Wire>,
    artifacts: ArtifactsClient<Wire>,
    audit: AuditClient<Wire>,
    cluster: ClusterClient<Wire>,
    projects: ProjectsClient<Wire>,
    users: UsersClient<Wire>,
    workers: WorkersClient<Wire>,
}

impl Person {
    fn of(channel: &Channel, asks: Asks) -> Self {
        let wire = || InterceptedService::new(channel.clone(), asks.clone());
        Self {
            jobs: JobsClient::new(wire()),
            artifacts: ArtifactsClient::new(wire()),
            audit: AuditClient::new(wire()),
            cluster: ClusterClient::new(wire()),
            projects: ProjectsClient::new(wire()),
            users: UsersClient::new(wire()),
            workers: WorkersClient::new(wire()),
        }
    }

    async fn owner(address: &str) -> Self {
        Self::of(&channel(address).await, Asks::default())
    }

    async fn stranger(address: &str) -> Self {
        let asks = Asks {
            is_proxied: true,
            ..Asks::default()
        };
        Self::of(&channel(address).await, asks)
    }

    async fn with(address: &str, token: &str) -> Self {
        let asks = Asks {
            token: Some(token.to_owned()),
            is_proxied: true,
        };
        Self::of(&channel(address).await, asks)
    }

    async fn add(&mut self, name: &str, grants: &[(&str, &str)]) {
        let grants = grants.iter().map(|(project, role)| v1::Grant {
            project: (*project).to_owned(),
            role: (*role).to_owned(),
        });
        let request = v1::AddUserRequest {
            name: name.to_owned(),
            grants: grants.collect(),
            dry_run: false,
        };
        self.users.add_user(request).await.unwrap();
    }

    async fn token(&mut self, user: &str) -> String {
        let request = v1::CreateTokenRequest {
            user: user.to_owned(),
            ..v1::CreateTokenRequest::default()
        };
        let made = self.users.create_token(request).await.unwrap();
        made.into_inner().secret
    }

    /// A new user, and a client with a token of his.
    async fn user(&mut self, address: &str, name: &str, grants: &[(&str, &str)]) -> Self {
        self.add(name, grants).await;
        let token = self.token(name).await;
        Self::with(address, &token).await
    }

    async fn project(&mut self, name: &str) {
        let request = v1::SetProjectRequest {
            name: name.to_owned(),
            ..v1::SetProjectRequest::default()
        };
        self.projects.set_project(request).await.unwrap();
    }

    async fn submit(&mut self, keys: &str) -> Result<v1::Job, Status> {
        let body = format!("[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n{keys}\n");
        let request = request(&format!("request-{}", uuid::Uuid::new_v4()), &body);
        let answer = self.jobs.submit_pipeline(request).await?;
        Ok(answer.into_inner().jobs.remove(0))
    }

    async fn listed(&mut self) -> Vec<i64> {
        let request = v1::ListJobsRequest::default();
        let page = self.jobs.list_jobs(request).await.unwrap().into_inner();
        page.jobs.iter().map(|job| job.id).collect()
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, code: &str) -> Status {
    let status = answer.expect_err("it was let through");
    assert_eq!(
        PublicError::from(&status).code.as_deref(),
        Some(code),
        "{status}"
    );
    status
}

const NOT_LOGGED_IN: &str = "MQ0370";
const ROLE_TOO_LOW: &str = "MQ0371";

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
async fn a_submitter_touches_his_projects_alone_and_a_viewer_looks_at_his_alone() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    for project in ["vision", "text"] {
        owner.project(project).await;
    }
    let mut bob = owner.user(address, "bob", &[("vision", "submitter")]).await;
    let mut eve = owner.user(address, "eve", &[("text", "viewer")]).await;
    let theirs = owner.submit("project = \"text\"").await.unwrap();
    let own = bob.submit("project = \"vision\"").await.unwrap();

    // Lists have what one may look at, and nothing of the rest.
    assert_eq!(bob.listed().await, [own.id]);
    assert_eq!(eve.listed().await, [theirs.id]);
    let by_project = v1::ListJobsRequest {
        project: "text".into(),
        with_total: true,
        ..v1::ListJobsRequest::default()
    };
    let page = bob.jobs.list_jobs(by_project).await.unwrap().into_inner();
    assert_eq!((page.jobs.len(), page.total), (0, 0));
    let projects = bob
        .projects
        .list_projects(v1::ListProjectsRequest::default())
        .await;
    let projects = projects.unwrap().into_inner().projects;
    assert_eq!(
        projects.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["vision"]
    );
    let overview = bob
        .cluster
        .get_overview(v1::GetOverviewRequest {})
        .await
        .unwrap()
        .into_inner();
    let told: Vec<i64> = overview
        .queue
        .iter()
        .map(|why| why.example_job_id)
        .collect();
    assert!(!told.contains(&theirs.id), "{overview:?}");

    // What is another project's can neither be read nor changed, whatever the way.
    let (id, job_id, pipeline) = (theirs.id, theirs.id, theirs.pipeline_id);
    let of_job = |id| v1::GetJobRequest { id };
    let which = Some(v1::get_artifact_request::Which::JobId(id));
    let hold = v1::HoldJobRequest { id };
    let all: Vec<(&str, Option<Status>)> = vec![
        ("get", bob.jobs.get_job(of_job(id)).await.err()),
        (
            "explain",
            bob.jobs.explain(v1::ExplainRequest { job_id }).await.err(),
        ),
        (
            "logs",
            bob.jobs
                .logs(v1::LogsRequest {
                    job_id,
                    ..Default::default()
                })
                .await
                .err(),
        ),
        (
            "metrics",
            bob.jobs
                .metrics(v1::MetricsRequest {
                    job_id,
                    ..Default::default()
                })
                .await
                .err(),
        ),
        (
            "series",
            bob.jobs
                .series(v1::SeriesRequest {
                    job_id,
                    ..Default::default()
                })
                .await
                .err(),
        ),
        (
            "watch",
            bob.jobs
                .watch(v1::WatchRequest {
                    job_ids: vec![own.id, id],
                    ..Default::default()
                })
                .await
                .err(),
        ),
        (
            "cancel",
            bob.jobs.cancel_job(v1::CancelJobRequest { id }).await.err(),
        ),
        (
            "retry",
            bob.jobs.retry_job(v1::RetryJobRequest { id }).await.err(),
        ),
        ("hold", bob.jobs.hold_job(hold).await.err()),
        ("release", bob.jobs.release_job(hold).await.err()),
        (
            "move",
            bob.jobs.move_job(v1::MoveJobRequest { id }).await.err(),
        ),
        (
            "pipeline",
            bob.jobs
                .get_pipeline(v1::GetPipelineRequest { id: pipeline })
                .await
                .err(),
        ),
        (
            "cancel all",
            bob.jobs
                .cancel_pipeline(v1::CancelPipelineRequest { id: pipeline })
                .await
                .err(),
        ),
        (
            "remove",
            bob.jobs
                .remove_pipeline(v1::RemovePipelineRequest {
                    id: pipeline,
                    dry_run: true,
                })
                .await
                .err(),
        ),
        (
            "keep",
            bob.jobs
                .keep_pipeline(v1::KeepPipelineRequest {
                    id: pipeline,
                    lift: false,
                })
                .await
                .err(),
        ),
        (
            "rescue",
            bob.artifacts
                .rescue_output(v1::RescueOutputRequest { job_id })
                .await
                .err(),
        ),
        (
            "project",
            bob.projects
                .list_projects(v1::ListProjectsRequest {
                    name: "text".into(),
                })
                .await
                .err(),
        ),
        ("submit", bob.submit("project = \"text\"").await.err()),
        ("submit by default", bob.submit("").await.err()),
        (
            "priority",
            bob.submit("project = \"vision\"\npriority = 1").await.err(),
        ),
        (
            "viewer submits",
            eve.submit("project = \"text\"").await.err(),
        ),
        (
            "viewer cancels",
            eve.jobs.cancel_job(v1::CancelJobRequest { id }).await.err(),
        ),
    ];
    for (what, status) in all {
        let status = status.unwrap_or_else(|| panic!("{what} was let through"));
        assert_eq!(
            PublicError::from(&status).code.as_deref(),
            Some(ROLE_TOO_LOW),
            "{what}: {status}"
        );
        assert_eq!(status.code(), Code::PermissionDenied, "{what}");
    }
    let by_pipeline = v1::WatchRequest {
        pipeline_id: pipeline,
        keep_open: true,
        ..v1::WatchRequest::default()
    };
    let mut watch = bob.jobs.watch(by_pipeline).await.unwrap().into_inner();
    let silent = tokio::time::timeout(Duration::from_millis(300), watch.message()).await;
    assert!(!matches!(silent, Ok(Ok(Some(_)))), "{silent:?}");
    refused(
        bob.artifacts
            .get_artifact(v1::GetArtifactRequest { which })
            .await,
        "MQ0203",
    );

    // Nothing of it was done, and what is one's own can be steered.
    assert_eq!(cluster.detail(id).await.job.unwrap().held_by, "");
    let own = bob
        .jobs
        .hold_job(v1::HoldJobRequest { id: own.id })
        .await
        .unwrap()
        .into_inner();
    assert!(own.held_by.starts_with("bob via token "), "{}", own.held_by);
    eve.jobs.get_job(of_job(id)).await.unwrap();
    bob.submit("project = \"vision\"\npriority = -1")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_clusters_takes_an_administrator_of_everything() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    owner.project("vision").await;
    let grants = [("", "submitter"), ("vision", "admin")];
    let mut bob = owner.user(address, "bob", &grants).await;
    let set = |weight, keep_days| v1::SetProjectRequest {
        name: "vision".into(),
        weight,
        keep_days,
        ..v1::SetProjectRequest::default()
    };
    let drain = v1::DrainWorkerRequest {
        name: "gpu-1".into(),
        ..v1::DrainWorkerRequest::default()
    };
    let add = v1::AddUserRequest {
        name: "mallory".into(),
        ..v1::AddUserRequest::default()
    };
    let role = v1::SetRoleRequest {
        name: "bob".into(),
        grants: vec![v1::Grant {
            project: String::new(),
            role: "admin".into(),
        }],
        dry_run: false,
    };
    let token = v1::CreateTokenRequest {
        user: "bob".into(),
        ..v1::CreateTokenRequest::default()
    };
    let gc = v1::CollectGarbageRequest::default();
    refused(
        bob.projects.set_project(set(Some(9.0), None)).await,
        ROLE_TOO_LOW,
    );
    refused(
        bob.projects.set_project(set(Some(9.0), Some(9))).await,
        ROLE_TOO_LOW,
    );
    refused(bob.workers.drain_worker(drain).await, ROLE_TOO_LOW);
    refused(bob.users.add_user(add).await, ROLE_TOO_LOW);
    refused(bob.users.set_role(role).await, ROLE_TOO_LOW);
    refused(bob.users.create_token(token).await, ROLE_TOO_LOW);
    refused(
        bob.users.list_users(v1::ListUsersRequest {}).await,
        ROLE_TOO_LOW,
    );
    refused(bob.jobs.collect_garbage(gc).await, ROLE_TOO_LOW);
    refused(
        bob.cluster.list_settings(v1::ListSettingsRequest {}).await,
        ROLE_TOO_LOW,
    );
    let list = bob.audit.list(v1::ListAuditRequest::default()).await;
    refused(list, ROLE_TOO_LOW);
    let find = v1::FindMissingBlobsRequest { digests: vec![] };
    refused(bob.artifacts.find_missing_blobs(find).await, ROLE_TOO_LOW);

    // An administrator of a project: how long it keeps things, and what goes first in it.
    bob.projects.set_project(set(None, Some(9))).await.unwrap();
    bob.submit("project = \"vision\"\npriority = 7")
        .await
        .unwrap();
    refused(
        bob.submit("priority = 7").await.map(Response::new),
        ROLE_TOO_LOW,
    );
    // Every user sees his own tokens.
    owner.token("bob").await;
    let own = bob
        .users
        .list_tokens(v1::ListTokensRequest::default())
        .await
        .unwrap();
    assert_eq!(own.into_inner().tokens.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_fetched_by_whom_its_job_may_be_looked_at() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    for project in ["vision", "text"] {
        owner.project(project).await;
    }
    let mut worker = cluster.worker("w").await;
    let mut commit = async |project: &str, contents: &'static [u8]| {
        let job = owner
            .submit(&format!("project = \"{project}\""))
            .await
            .unwrap();
        let output = cluster.output("file", contents).await;
        let key = worker.take_and_start().await;
        worker.finish(key, Some(output)).await;
        cluster.wait_for(job.id, v1::JobState::Succeeded).await
    };
    let own = commit("vision", b"ours").await;
    let theirs = commit("text", b"theirs").await;
    let mut bob = owner.user(address, "bob", &[("vision", "submitter")]).await;
    let digest = |contents: &[u8]| marquee_domain::artifact::Digest::of(contents).to_string();
    let mut fetch = async |contents: &[u8], job_id| {
        let request = v1::DownloadBlobRequest {
            digest: digest(contents),
            job_id,
            ..v1::DownloadBlobRequest::default()
        };
        bob.artifacts.download_blob(request).await
    };
    fetch(b"ours", own.id).await.unwrap();
    refused(
        fetch(b"ours", 0).await.map(|_| Response::new(())),
        ROLE_TOO_LOW,
    );
    refused(
        fetch(b"theirs", theirs.id).await.map(|_| Response::new(())),
        ROLE_TOO_LOW,
    );
    refused(
        fetch(b"theirs", own.id).await.map(|_| Response::new(())),
        "MQ0204",
    );
    let list = bob
        .artifacts
        .list_artifacts(v1::ListArtifactsRequest::default())
        .await;
    let listed = list.unwrap().into_inner().artifacts;
    assert_eq!(
        listed.iter().map(|one| one.job_id).collect::<Vec<_>>(),
        [own.id]
    );

    // By its digest another project's artifact is none, to look at and to compute with.
    let by_digest = |digest: &str| v1::GetArtifactRequest {
        which: Some(v1::get_artifact_request::Which::Digest(digest.to_owned())),
    };
    let get = bob
        .artifacts
        .get_artifact(by_digest(&theirs.artifact_digest))
        .await;
    refused(get, "MQ0203");
    let input = format!(
        "project = \"vision\"\ninputs = {{ data = \"artifact:{}\" }}",
        theirs.artifact_digest
    );
    let status = bob.submit(&input).await.unwrap_err();
    let fields = PublicError::from(&status).fields;
    assert!(
        fields[0].message.contains("there is no artifact"),
        "{status} {fields:?}"
    );
    let remove = v1::RemoveArtifactRequest {
        which: Some(v1::remove_artifact_request::Which::JobId(theirs.id)),
        dry_run: true,
    };
    refused(bob.artifacts.remove_artifact(remove).await, ROLE_TOO_LOW);
    // Nor is it told what runs for others, and where.
    let detail = bob
        .jobs
        .get_job(v1::GetJobRequest { id: own.id })
        .await
        .unwrap();
    assert_eq!(detail.into_inner().job.unwrap().id, own.id);
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
    command.env("MARQUEE_LOG", "debug");
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
