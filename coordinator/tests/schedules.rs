//! Schedules, from the outside: due times are submitted once, whatever happens to the coordinator.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_coordinator::lifecycle;
use marquee_domain::schedule::{Outcome, Progress};
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::document::Format;
use marquee_proto::v1::schedules_client::SchedulesClient;
use marquee_store::schedules::{Which, list_runs, list_schedules, mark_progress};
use tonic::transport::Channel;

use crate::support::{Cluster, SOON, channel};

async fn client(cluster: &Cluster) -> SchedulesClient<Channel> {
    SchedulesClient::new(channel(&cluster.running.address).await)
}

fn add(name: &str) -> v1::AddScheduleRequest {
    let text = "name = \"night\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n";
    v1::AddScheduleRequest {
        name: name.into(),
        cron: "30 2 * * *".into(),
        time_zone: "Europe/Berlin".into(),
        document: Some(v1::Document {
            format: Some(Format::Toml(text.into())),
        }),
        ..v1::AddScheduleRequest::default()
    }
}

/// Puts the next due time back to `ago` ago, as if that time had come since.
async fn due_ago(cluster: &Cluster, ago: TimeDelta) -> DateTime<Utc> {
    let app = cluster.app();
    // To the minute, as patterns have it.
    let due = DateTime::from_timestamp((app.clock.now() - ago).timestamp() / 60 * 60, 0).unwrap();
    let mut tx = app.db.write("test").await.unwrap();
    let stored = list_schedules(&mut tx, Which::All).await.unwrap();
    let before: &Progress = &stored[0].progress;
    let then = (Some(due), before.waiting_due);
    mark_progress(&mut tx, stored[0].id, before, then)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    due
}

/// Outcomes and pipelines of the runs, newest first.
async fn runs(cluster: &Cluster) -> Vec<(Outcome, i64, String)> {
    let mut conn = cluster.app().db.read().await.unwrap();
    let stored = list_schedules(&mut conn, Which::All).await.unwrap();
    let runs = list_runs(&mut conn, stored[0].id, 100).await.unwrap();
    let pipeline = |run: &marquee_store::schedules::Run| run.pipeline.map_or(0, |id| id.0);
    runs.iter()
        .map(|run| (run.outcome, pipeline(run), run.text.clone()))
        .collect()
}

async fn pipelines(cluster: &Cluster) -> usize {
    let listed = cluster
        .jobs()
        .await
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    listed.unwrap().into_inner().jobs.len()
}

fn code(status: &tonic::Status) -> String {
    PublicError::from(status).code.unwrap_or_default()
}

#[tokio::test]
async fn a_due_time_is_submitted_once_however_many_look_and_over_a_crash() {
    let mut cluster = Cluster::start().await;
    let set = client(&cluster).await.add_schedule(add("nightly")).await;
    let set = set.unwrap().into_inner();
    assert!(set.next_due.is_some() && set.runs.is_empty());
    // The loop and others at once: as after a take-over that one of them does not know of.
    due_ago(&cluster, TimeDelta::zero()).await;
    let app = cluster.app().clone();
    let (a, b, c) = tokio::join!(
        lifecycle::run_due(&app),
        lifecycle::run_due(&app),
        lifecycle::run_due(&app)
    );
    a.unwrap();
    b.unwrap();
    c.unwrap();
    let first = runs(&cluster).await;
    assert_eq!(first.len(), 1);
    assert_eq!(
        (first[0].0, pipelines(&cluster).await),
        (Outcome::Submitted, 1)
    );
    let listed = cluster
        .jobs()
        .await
        .list_jobs(v1::ListJobsRequest::default())
        .await;
    let job = listed.unwrap().into_inner().jobs.remove(0);
    assert_eq!(job.pipeline_id, first[0].1);
    let history = cluster.detail(job.id).await.events;
    assert_eq!(history[0].caller, "schedule nightly");

    // The very due time comes by again, with another process: it is known what became of it.
    due_ago(&cluster, TimeDelta::zero()).await;
    cluster.kill().await;
    cluster.start_again().await;
    lifecycle::run_due(cluster.app()).await.unwrap();
    let same_minute = runs(&cluster).await.len() == 1;
    assert_eq!(pipelines(&cluster).await, if same_minute { 1 } else { 2 });
}

/// An hourly pattern that was due last so many minutes ago.
fn due_minutes_ago(now: DateTime<Utc>, minutes: i64) -> String {
    (now - TimeDelta::minutes(minutes))
        .format("%M * * * *")
        .to_string()
}

/// Waits until a run is as `wanted` says: the loop and this test may share the work.
async fn run_of(cluster: &Cluster, wanted: impl Fn(&(Outcome, i64, String)) -> bool) -> String {
    let since = tokio::time::Instant::now();
    loop {
        lifecycle::run_due(cluster.app()).await.unwrap();
        let runs = runs(cluster).await;
        if let Some(run) = runs.iter().find(|run| wanted(run)) {
            return run.2.clone();
        }
        assert!(since.elapsed() < SOON, "{runs:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_was_missed_is_said_and_an_overlap_is_left_out() {
    let cluster = Cluster::start().await;
    let mut client = client(&cluster).await;
    let now = cluster.app().clock.now();
    let none = v1::AddScheduleRequest {
        cron: due_minutes_ago(now, 30),
        missed: "none".into(),
        ..add("often")
    };
    client.add_schedule(none.clone()).await.unwrap();
    let taken = client.add_schedule(none.clone()).await.unwrap_err();
    assert_eq!(code(&taken), "MQ0381");
    due_ago(&cluster, TimeDelta::minutes(180)).await;
    let said = run_of(&cluster, |run| run.0 == Outcome::Missed).await;
    assert!(
        said.starts_with("4 due times, ") && said.ends_with(": no coordinator led"),
        "{said}"
    );
    assert_eq!(pipelines(&cluster).await, 0);

    // With the other policy one run stands for all; while it is open, nothing more is submitted.
    let one = v1::AddScheduleRequest {
        cron: due_minutes_ago(now, 40),
        missed: "one".into(),
        replace: true,
        ..none
    };
    client.add_schedule(one).await.unwrap();
    due_ago(&cluster, TimeDelta::minutes(150)).await;
    let said = run_of(&cluster, |run| run.0 == Outcome::Submitted).await;
    assert!(said.starts_with("caught up for 3 due times, "), "{said}");
    due_ago(&cluster, TimeDelta::zero()).await;
    let said = run_of(&cluster, |run| run.0 == Outcome::Skipped).await;
    assert_eq!(said, "the run before it had not ended");
    assert_eq!(pipelines(&cluster).await, 1);
    let listed = client
        .list_schedules(v1::ListSchedulesRequest {})
        .await
        .unwrap();
    let listed = listed.into_inner().schedules.remove(0);
    assert_eq!((listed.missed.as_str(), listed.runs.len()), ("one", 3));
}

/// The due time that waits.
async fn waiting(cluster: &Cluster) -> Option<DateTime<Utc>> {
    let mut conn = cluster.app().db.read().await.unwrap();
    let stored = list_schedules(&mut conn, Which::All).await.unwrap();
    stored[0].progress.waiting_due
}

#[tokio::test]
async fn of_due_times_that_come_while_a_run_is_open_one_waits_also_over_a_crash() {
    let mut cluster = Cluster::start().await;
    let queued = v1::AddScheduleRequest {
        // Once a year: every due time of this test is its own.
        cron: "0 0 1 1 *".into(),
        overlap: "queue".into(),
        ..add("yearly")
    };
    let set = client(&cluster).await.add_schedule(queued).await;
    assert_eq!(set.unwrap().into_inner().overlap, "queue");
    due_ago(&cluster, TimeDelta::minutes(30)).await;
    run_of(&cluster, |run| run.0 == Outcome::Submitted).await;

    let waits = due_ago(&cluster, TimeDelta::minutes(20)).await;
    let since = tokio::time::Instant::now();
    while waiting(&cluster).await != Some(waits) {
        assert!(since.elapsed() < SOON, "{:?}", runs(&cluster).await);
        lifecycle::run_due(cluster.app()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.kill().await;
    cluster.start_again().await;
    // Another one comes, with another coordinator: it is left out, and the first one waits still.
    due_ago(&cluster, TimeDelta::minutes(10)).await;
    let said = run_of(&cluster, |run| run.0 == Outcome::Skipped).await;
    assert_eq!(said, "one due time waits already for the run before it");
    assert_eq!(waiting(&cluster).await, Some(waits));
    assert_eq!(pipelines(&cluster).await, 1);

    let mut jobs = cluster.jobs().await;
    let listed = jobs.list_jobs(v1::ListJobsRequest::default()).await;
    let job_id = listed.unwrap().into_inner().jobs[0].id;
    let cancel = v1::CancelJobRequest { id: job_id };
    jobs.cancel_job(cancel).await.unwrap();
    let after = "waited for the end of the run before it";
    run_of(&cluster, |run| {
        run.0 == Outcome::Submitted && run.2 == after
    })
    .await;
    assert_eq!(waiting(&cluster).await, None);
    let (a, b) = tokio::join!(
        lifecycle::run_due(cluster.app()),
        lifecycle::run_due(cluster.app())
    );
    a.unwrap();
    b.unwrap();
    assert_eq!(
        (runs(&cluster).await.len(), pipelines(&cluster).await),
        (3, 2)
    );
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_a_pause_lets_times_pass() {
    let cluster = Cluster::start().await;
    let mut client = client(&cluster).await;
    let document = |text: &str| {
        Some(v1::Document {
            format: Some(Format::Toml(text.into())),
        })
    };
    for (request, said) in [
        (
            v1::AddScheduleRequest {
                cron: "61 * * * *".into(),
                ..add("a")
            },
            "is no pattern",
        ),
        (
            v1::AddScheduleRequest {
                cron: "0 0 30 2 *".into(),
                ..add("a")
            },
            "not due within nine years",
        ),
        (
            v1::AddScheduleRequest {
                time_zone: "Mars/Base".into(),
                ..add("a")
            },
            "is no time zone",
        ),
        (
            v1::AddScheduleRequest {
                overlap: "maybe".into(),
                ..add("a")
            },
            "give skip or queue",
        ),
        (
            v1::AddScheduleRequest {
                name: "A b".into(),
                ..add("a")
            },
            "name",
        ),
        (
            v1::AddScheduleRequest {
                document: document("= broken"),
                ..add("a")
            },
            "the document has 1 error",
        ),
        (
            v1::AddScheduleRequest {
                document: document(
                    "name = \"n\"\nproject = \"nobody\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]",
                ),
                ..add("a")
            },
            "the document has 1 error",
        ),
    ] {
        let refused = client.add_schedule(request).await.unwrap_err();
        assert!(refused.message().contains(said), "{refused}");
    }
    client.add_schedule(add("nightly")).await.unwrap();
    let pause = |resume| v1::PauseScheduleRequest {
        name: "nightly".into(),
        resume,
    };
    let paused = client
        .pause_schedule(pause(false))
        .await
        .unwrap()
        .into_inner();
    assert!(!paused.paused_by.is_empty() && paused.next_due.is_none());
    lifecycle::run_due(cluster.app()).await.unwrap();
    let resumed = client
        .pause_schedule(pause(true))
        .await
        .unwrap()
        .into_inner();
    assert!(resumed.paused_by.is_empty() && resumed.next_due.is_some());
    assert_eq!(pipelines(&cluster).await, 0);
    let remove = v1::RemoveScheduleRequest {
        name: "nightly".into(),
    };
    client.remove_schedule(remove.clone()).await.unwrap();
    let gone = client.remove_schedule(remove).await.unwrap_err();
    assert_eq!(code(&gone), "MQ0380");
}
