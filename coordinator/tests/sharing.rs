//! Sharing the cluster, from the outside: projects with quotas, holds, turns, drains, preemption, deadlines.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use std::time::Duration;

use crate::support::worker::key_of;
use crate::support::{Cluster, channel, request};
use marquee_domain::ids::JobId;
use marquee_proto::convert::timestamp;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::v1::{AttemptState, JobState};
use tonic::transport::Channel;

/// A job of one CPU slot; `keys` stand in its table.
fn job(name: &str, keys: &str) -> String {
    format!("[jobs.{name}]\nkind = \"command\"\nargv = [\"true\"]\n{keys}\n")
}

async fn projects(cluster: &Cluster) -> ProjectsClient<Channel> {
    ProjectsClient::new(channel(&cluster.running.address).await)
}

async fn workers(cluster: &Cluster) -> WorkersClient<Channel> {
    WorkersClient::new(channel(&cluster.running.address).await)
}

async fn set(cluster: &Cluster, name: &str, quotas: v1::Quotas) -> v1::Project {
    let request = v1::SetProjectRequest {
        name: name.into(),
        quotas: Some(quotas),
        ..v1::SetProjectRequest::default()
    };
    let mut client = projects(cluster).await;
    let project = client.set_project(request).await.unwrap().into_inner();
    // The next plan reads it; submissions are judged by what is in memory.
    let app = cluster.app();
    let known = || {
        let open = app.index.open();
        let account = open.accounts.get(name);
        account.is_some_and(|account| {
            account.quotas.cpu_slots == project.quotas.as_ref().unwrap().cpu_slots
        })
    };
    let since = tokio::time::Instant::now();
    while !known() {
        assert!(since.elapsed() < support::SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    project
}

async fn reason_of(cluster: &Cluster, id: i64, part: &str) -> String {
    let found = cluster
        .wait_until(id, part, |job| job.reason.contains(part))
        .await;
    found.reason
}

fn code(status: &tonic::Status) -> String {
    PublicError::from(status).code.unwrap_or_default()
}

#[tokio::test]
async fn a_project_keeps_to_its_quota_and_another_one_takes_what_is_left() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let quotas = v1::Quotas {
        cpu_slots: Some(1),
        ..v1::Quotas::default()
    };
    set(&cluster, "vision", quotas).await;
    let first = cluster.submit(&job("a", "project = \"vision\"")).await[0].id;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, first);
    let second = cluster.submit(&job("b", "project = \"vision\"")).await[0].id;
    let reason = reason_of(&cluster, second, "quota").await;
    assert_eq!(
        reason,
        "quota of project vision: 1 of 1 CPU slots are in use; frees when a job of the project ends"
    );
    // The slot that it may not have is the next one's, who came later.
    let other = cluster.submit(&job("c", "")).await[0].id;
    let third = worker.take_and_start().await;
    assert_eq!(third.0, other);
    let listed = projects(&cluster)
        .await
        .list_projects(v1::ListProjectsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .projects;
    let names: Vec<&str> = listed.iter().map(|project| project.name.as_str()).collect();
    assert_eq!(names, ["default", "vision"]);
    assert_eq!((listed[1].cpu_slots_used, listed[1].queued_jobs), (1, 1));
    // A quota is no reason to stop what runs, and what frees is taken up again.
    worker.finish(key, None).await;
    assert_eq!(worker.take_and_start().await.0, second);
    // Where its jobs were charged, and who set what.
    let jobs = v1::ListJobsRequest {
        project: "vision".into(),
        ..v1::ListJobsRequest::default()
    };
    let jobs = cluster
        .jobs()
        .await
        .list_jobs(jobs)
        .await
        .unwrap()
        .into_inner()
        .jobs;
    let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(ids, [second, first]);
    let named = v1::ListProjectsRequest {
        name: "vision".into(),
    };
    let vision = projects(&cluster)
        .await
        .list_projects(named)
        .await
        .unwrap()
        .into_inner();
    let change = &vision.projects[0].changes[0];
    assert_eq!(
        change.text,
        "made with weight 1, cpu_slots 1, reset rolling"
    );
    assert!(
        change.caller.starts_with("local via rpc"),
        "{}",
        change.caller
    );
}

#[tokio::test]
async fn what_could_never_start_or_names_nobody_is_refused_by_field() {
    let cluster = Cluster::start().await;
    let quotas = v1::Quotas {
        cpu_slots: Some(2),
        queued: Some(3),
        ..v1::Quotas::default()
    };
    set(&cluster, "vision", quotas).await;
    let refused = async |id: &str, keys: &str| {
        let mut client = cluster.jobs().await;
        let status = client
            .submit_pipeline(request(id, &job("a", keys)))
            .await
            .unwrap_err();
        let public = PublicError::from(&status);
        let fields: Vec<String> = public.fields.iter().map(ToString::to_string).collect();
        (public.code.unwrap(), fields.join("\n"), public.message)
    };
    let (code, fields, _) = refused("r1", "project = \"visoin\"").await;
    assert_eq!(code, "MQ0101");
    assert_eq!(
        fields,
        "jobs.a.project: there is no project \"visoin\"; did you mean \"vision\"?"
    );
    let (code, fields, _) = refused("r2", "project = \"vision\"\nranks = 3").await;
    assert_eq!(code, "MQ0101");
    assert!(
        fields.contains("project vision may have 2 CPU slots at once"),
        "{fields}"
    );
    // A whole array is one decision, and one that is refused leaves nothing behind.
    let (code, _, message) = refused("r3", "project = \"vision\"\narray = 4").await;
    assert_eq!(code, "MQ0332");
    assert!(
        message.contains("may have 3 jobs queued, has 0"),
        "{message}"
    );
    let fits = request("r3", &job("a", "project = \"vision\"\narray = 3"));
    let again = cluster.jobs().await.submit_pipeline(fits).await;
    assert!(again.is_ok(), "{again:?}");
    let (code, _, message) = refused("r4", "project = \"vision\"").await;
    assert_eq!(code, "MQ0332");
    assert!(
        message.contains("has 3, and this submission has 1 more"),
        "{message}"
    );
    for (name, quotas, weight) in [
        ("Vision", v1::Quotas::default(), None),
        (
            "vision",
            v1::Quotas {
                reset: "someday".into(),
                ..v1::Quotas::default()
            },
            None,
        ),
        (
            "vision",
            v1::Quotas {
                gpu_hours_week: Some(f64::NAN),
                ..v1::Quotas::default()
            },
            None,
        ),
        ("vision", v1::Quotas::default(), Some(-1.0)),
        ("vision", v1::Quotas::default(), Some(f64::INFINITY)),
    ] {
        let request = v1::SetProjectRequest {
            name: name.into(),
            weight,
            quotas: Some(quotas),
            lift: Vec::new(),
            ..Default::default()
        };
        let status = projects(&cluster)
            .await
            .set_project(request)
            .await
            .unwrap_err();
        assert_eq!(self::code(&status), "MQ0102", "{status:?}");
    }
    let nobody = v1::ListProjectsRequest {
        name: "nobody".into(),
    };
    let status = projects(&cluster)
        .await
        .list_projects(nobody)
        .await
        .unwrap_err();
    assert_eq!(self::code(&status), "MQ0331");
}

#[tokio::test]
async fn a_held_job_is_not_placed_until_it_is_released_also_after_a_restart() {
    let mut cluster = Cluster::start().await;
    let held = cluster.submit(&job("a", "")).await[0].id;
    let array = cluster.submit(&job("b", "array = 3")).await[0].id;
    let hold = |id| v1::HoldJobRequest { id };
    let mut client = cluster.jobs().await;
    let job_held = client.hold_job(hold(held)).await.unwrap().into_inner();
    assert!(
        job_held.reason.starts_with("held since"),
        "{}",
        job_held.reason
    );
    assert!(job_held.held_by.starts_with("local via rpc"));
    client.hold_job(hold(array)).await.unwrap();
    cluster.kill().await;
    cluster.start_again().await;
    let mut worker = cluster.worker("w1").await;
    let free = cluster.submit(&job("c", "")).await[0].id;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, free, "what is held was submitted before");
    let mut client = cluster.jobs().await;
    // What runs cannot be held.
    let status = client.hold_job(hold(free)).await.unwrap_err();
    assert_eq!(code(&status), "MQ0330");
    client.release_job(hold(array)).await.unwrap();
    let element = worker.take_and_start().await;
    let of = cluster.job(element.0).await.element.unwrap();
    assert_eq!((of.array_job_id, of.index), (array, 0));
    // Held again, the element that runs goes on and no further one starts.
    client.hold_job(hold(array)).await.unwrap();
    worker.finish(key, None).await;
    cluster.wait_for(free, JobState::Succeeded).await;
    client.release_job(hold(held)).await.unwrap();
    let next = worker.take_and_start().await;
    assert_eq!(next.0, held);
    let events = cluster.detail(held).await.events;
    let told = |text: &str| {
        events
            .iter()
            .any(|event| event.text.starts_with(text) && !event.caller.is_empty())
    };
    assert!(told("held:") && told("released:"), "{events:?}");
}

#[tokio::test]
async fn turns_and_times_keep_jobs_waiting_with_a_reason() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let key = "concurrency_key = \"nightly\"";
    let first = cluster.submit(&job("a", key)).await[0].id;
    let running = worker.take_and_start().await;
    assert_eq!(running.0, first);
    let second = cluster.submit(&job("b", key)).await[0].id;
    let reason = reason_of(&cluster, second, "concurrency").await;
    assert_eq!(
        reason,
        format!("one job of concurrency key \"nightly\" runs at a time: waits for job {first}")
    );
    let later = cluster
        .submit(&job("c", "start_after = 2100-01-01T00:00:00Z"))
        .await[0]
        .id;
    let reason = reason_of(&cluster, later, "starts after").await;
    assert_eq!(
        reason,
        "starts after 2100-01-01 00:00:00 UTC, as its document says"
    );
    // One whose deadline has passed fails without an attempt, and what needs it is told.
    let late = cluster
        .submit(&format!(
            "{}{}",
            job("d", "deadline = 2020-01-01T00:00:00Z"),
            job("e", "needs = [\"d\"]")
        ))
        .await;
    let failed = cluster.wait_for(late[0].id, JobState::Failed).await;
    assert_eq!(failed.failure.unwrap().class(), v1::FailureClass::Timeout);
    cluster.wait_for(late[1].id, JobState::Cancelled).await;
    worker.finish(running, None).await;
    assert_eq!(worker.take_and_start().await.0, second);
}

#[tokio::test]
async fn a_running_job_is_stopped_at_its_deadline() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let deadline = cluster.app().clock.now() + chrono::TimeDelta::seconds(4);
    let id = cluster
        .submit(&job(
            "a",
            &format!("deadline = {:?}", deadline.to_rfc3339()),
        ))
        .await[0]
        .id;
    let key = worker.take_and_start().await;
    let failed = cluster.wait_for(id, JobState::Failed).await;
    assert_eq!(failed.failure.unwrap().class(), v1::FailureClass::Timeout);
    worker.stop(key).await;
}

#[tokio::test]
async fn a_drained_worker_is_emptied_at_its_deadline_at_no_cost_and_takes_work_again() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let once = cluster.submit(&job("a", "max_attempts = 1")).await[0].id;
    let key = worker.take_and_start().await;
    let mut client = workers(&cluster).await;
    let drain = v1::DrainWorkerRequest {
        name: "w1".into(),
        deadline: None,
        reason: "new power supply".into(),
    };
    let drained = client
        .drain_worker(drain.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(
        drained.closed.starts_with("is drained since")
            && drained.closed.ends_with(": new power supply"),
        "{}",
        drained.closed
    );
    let waits = cluster.submit(&job("b", "")).await[0].id;
    let reason = reason_of(&cluster, waits, "is drained").await;
    assert!(
        reason.starts_with("no worker takes new work: w1 is drained since"),
        "{reason}"
    );
    // With a deadline that has passed, what runs is moved: asked to stop, and queued again as if nothing was.
    let with_deadline = v1::DrainWorkerRequest {
        deadline: Some(timestamp(cluster.app().clock.now())),
        ..drain
    };
    client.drain_worker(with_deadline).await.unwrap();
    let stop = worker.stop(key).await;
    assert!(
        stop.reason.contains("worker w1 is drained"),
        "{}",
        stop.reason
    );
    assert!(!stop.forget, "its last reports are welcome");
    let back = cluster.wait_for(once, JobState::Queued).await;
    assert_eq!((back.attempt, back.max_attempts), (1, 1));
    let attempt = &cluster.detail(once).await.attempts[0];
    assert_eq!(attempt.state(), AttemptState::Interrupted);

    let resume = v1::ResumeWorkerRequest { name: "w1".into() };
    let open = client.resume_worker(resume).await.unwrap().into_inner();
    assert_eq!(open.closed, "");
    let again = worker.take().await;
    assert_eq!((again.job_id, again.attempt), (once, 2), "at its old place");
    worker.prepare(&again).await;
    worker.started(key_of(&again)).await;
    worker.finish(key_of(&again), None).await;
    cluster.wait_for(once, JobState::Succeeded).await;

    let unknown = v1::ResumeWorkerRequest { name: "w9".into() };
    let status = client.resume_worker(unknown).await.unwrap_err();
    assert_eq!(code(&status), "MQ0333");
}

#[tokio::test]
async fn a_quarantine_holds_over_a_restart_of_worker_and_coordinator() {
    let mut cluster = Cluster::start().await;
    let worker = cluster.worker("w1").await;
    let quarantine = |lift| v1::QuarantineWorkerRequest {
        name: "w1".into(),
        gpu: None,
        reason: "fan is loud".into(),
        lift,
    };
    workers(&cluster)
        .await
        .quarantine_worker(quarantine(false))
        .await
        .unwrap();
    cluster.kill().await;
    cluster.start_again().await;
    let mut worker = worker.reconnect(&cluster.running.address).await.unwrap();
    let id = cluster.submit(&job("a", "")).await[0].id;
    let reason = reason_of(&cluster, id, "quarantine").await;
    assert!(
        reason.contains("w1 is in quarantine since") && reason.contains("fan is loud"),
        "{reason}"
    );
    workers(&cluster)
        .await
        .quarantine_worker(quarantine(true))
        .await
        .unwrap();
    assert_eq!(worker.take_and_start().await.0, id);
}

#[tokio::test]
async fn a_preemptible_job_makes_room_and_comes_back_at_no_cost() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let gang = "ranks = 2\npreemptible = true\nmax_attempts = 1";
    let low = cluster.submit(&job("low", gang)).await[0].id;
    let (first, second) = (worker.take().await, worker.take().await);
    worker.prepare(&first).await;
    worker.prepare(&second).await;
    let keys = [key_of(&first), key_of(&second)];
    for key in keys {
        worker.started(key).await;
    }
    let urgent = cluster.submit(&job("urgent", "priority = 5")).await[0].id;
    // It has run for an hour, and the other one has waited for a minute.
    for (id, column, ago) in [
        (low, "started_at", "1 hour"),
        (urgent, "queued_at", "1 minute"),
    ] {
        let sql =
            format!("UPDATE open_jobs SET {column} = now() - interval '{ago}' WHERE job_id = {id}");
        cluster.database.execute(&sql).await;
        cluster.app().index.touch([JobId(id)]);
    }
    cluster.app().wake.notify_one();
    for key in keys {
        let stop = worker.stop(key).await;
        assert!(
            stop.reason
                .contains(&format!("job {urgent}, of a higher priority")),
            "{}",
            stop.reason
        );
    }
    let assign = worker.take().await;
    assert_eq!(assign.job_id, urgent);
    let back = cluster.wait_for(low, JobState::Queued).await;
    assert_eq!(back.attempt, 1);
    let attempt = &cluster.detail(low).await.attempts[0];
    assert_eq!(attempt.state(), AttemptState::Interrupted);
    worker.prepare(&assign).await;
    worker.started(key_of(&assign)).await;
    worker.finish(key_of(&assign), None).await;
    cluster.wait_for(urgent, JobState::Succeeded).await;
    assert_eq!(worker.take().await.job_id, low);
}
