//! What a role allows, and in which project.

use std::time::Duration;

use marquee_domain::ids::JobId;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_store::elements::find_left;
use tonic::{Code, Response, Status};

use super::{Person, ROLE_TOO_LOW, refused};
use crate::support::Cluster;

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

    // Nor does an element of theirs become a job because somebody else names it.
    let many = owner
        .submit("project = \"text\"\narray = 3000")
        .await
        .unwrap();
    for (person, found) in [(&mut bob, 0), (&mut eve, 1)] {
        let last = v1::ListJobsRequest {
            array_job_id: many.id,
            array_index: Some(2_999),
            ..v1::ListJobsRequest::default()
        };
        let page = person.jobs.list_jobs(last).await.unwrap().into_inner();
        assert_eq!(page.jobs.len(), found);
        let db = &cluster.database.db;
        let left = find_left(&mut db.read().await.unwrap(), JobId(many.id))
            .await
            .unwrap();
        assert_eq!(left.is_some(), found == 0);
    }

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
    let find = v1::FindMissingBlobsRequest::default();
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
