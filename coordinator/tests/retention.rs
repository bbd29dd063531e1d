//! What has ended ages out where a project says so, and nothing else does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support::worker::FakeWorker;
use crate::support::{Cluster, channel};
use marquee_coordinator::background;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::JobState;
use marquee_proto::v1::projects_client::ProjectsClient;

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

/// Runs a pipeline of one job that makes `contents`; gives the job.
async fn run(
    cluster: &Cluster,
    worker: &mut FakeWorker,
    keys: &str,
    contents: &'static [u8],
) -> v1::Job {
    let id = cluster.submit(&format!("{ONE}{keys}\n")).await[0].id;
    let output = cluster.output("out", contents).await;
    let key = worker.take_and_start().await;
    assert_eq!(key.0, id);
    worker.log(key, &["a line"]).await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(id, JobState::Succeeded).await
}

/// As if so many days had gone by since these jobs ended.
async fn age(cluster: &Cluster, jobs: &[&v1::Job], days: u32) {
    for job in jobs {
        let id = job.id;
        let older = format!(
            "UPDATE jobs SET finished_at = finished_at - interval '{days} days' WHERE id = {id}"
        );
        cluster.database.execute(&older).await;
    }
}

async fn set(cluster: &Cluster, keep_days: Option<u32>, keep_log_days: Option<u32>) {
    let mut client = ProjectsClient::new(channel(&cluster.running.address).await);
    let request = v1::SetProjectRequest {
        name: "default".into(),
        keep_days,
        keep_log_days,
        ..Default::default()
    };
    let project = client.set_project(request).await.unwrap().into_inner();
    assert_eq!(
        (project.keep_days, project.keep_log_days),
        (keep_days, keep_log_days)
    );
}

async fn keep(cluster: &Cluster, id: i64, lift: bool) -> v1::Pipeline {
    let request = v1::KeepPipelineRequest { id, lift };
    let answer = cluster.jobs().await.keep_pipeline(request).await;
    answer.unwrap().into_inner()
}

async fn collect(cluster: &Cluster, dry_run: bool) -> Vec<v1::RetiredPipeline> {
    let mut found = Vec::new();
    let mut after = 0;
    loop {
        let request = v1::CollectGarbageRequest {
            dry_run,
            after_pipeline_id: after,
        };
        let mut client = cluster.jobs().await;
        let step = client.collect_garbage(request).await.unwrap().into_inner();
        found.extend(step.pipelines);
        after = step.next_pipeline_id;
        if after == 0 {
            return found;
        }
    }
}

async fn is_there(cluster: &Cluster, job: &v1::Job) -> bool {
    let count = format!("SELECT count(*) FROM jobs WHERE id = {}", job.id);
    cluster.database.number(&count).await == 1
}

#[tokio::test]
async fn what_has_had_its_time_goes_and_what_is_kept_stays_with_all_that_it_came_from() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let old = run(&cluster, &mut worker, "", b"old").await;
    let source = run(&cluster, &mut worker, "", b"source").await;
    let input = format!(
        "inputs = {{ data = \"artifact:{}\" }}",
        source.artifact_digest
    );
    let taker = run(&cluster, &mut worker, &input, b"best").await;
    let young = run(&cluster, &mut worker, "", b"young").await;
    age(&cluster, &[&old, &source, &taker], 40).await;
    // Nobody said for how long: all of it is kept.
    assert_eq!(background::retire(cluster.app()).await.unwrap(), (0, 0));
    assert_eq!(collect(&cluster, true).await, []);

    set(&cluster, Some(30), None).await;
    let kept = keep(&cluster, taker.pipeline_id, false).await;
    assert!(!kept.kept_by.is_empty() && kept.kept_at.is_some());
    let would = collect(&cluster, true).await;
    let stays: Vec<(i64, &str)> = would
        .iter()
        .map(|one| (one.id, one.stays.as_str()))
        .collect();
    let by = format!("kept by {}", kept.kept_by);
    let taken = format!(
        "job {} of p{} took an artifact of it",
        taker.id, taker.pipeline_id
    );
    assert_eq!(
        stays,
        [
            (old.pipeline_id, ""),
            (source.pipeline_id, taken.as_str()),
            (taker.pipeline_id, by.as_str()),
        ]
    );
    let removed = would[0].removed.unwrap();
    assert_eq!((removed.jobs, removed.artifacts, removed.bytes), (1, 1, 3));
    assert!(is_there(&cluster, &old).await, "a dry run removes nothing");
    let refused = v1::RemovePipelineRequest {
        id: taker.pipeline_id,
        dry_run: false,
    };
    let refused = cluster
        .jobs()
        .await
        .remove_pipeline(refused)
        .await
        .unwrap_err();
    assert_eq!(PublicError::from(&refused).code.as_deref(), Some("MQ0308"));

    assert_eq!(background::retire(cluster.app()).await.unwrap(), (1, 0));
    assert!(!is_there(&cluster, &old).await && !cluster.blob(b"old").exists());
    for job in [&source, &taker, &young] {
        assert!(is_there(&cluster, job).await, "{job:?}");
    }
    assert!(cluster.blob(b"source").exists() && cluster.blob(b"young").exists());
    // Nothing that was kept is needed any more: both go at once.
    keep(&cluster, taker.pipeline_id, true).await;
    let gone = collect(&cluster, false).await;
    assert!(gone.iter().all(|one| one.stays.is_empty()), "{gone:?}");
    assert!(!is_there(&cluster, &source).await && !is_there(&cluster, &taker).await);
    assert!(is_there(&cluster, &young).await);
    // The history says that they went, and by nobody's fault.
    let (sender, _progress) = tokio::sync::mpsc::channel(1);
    let wanted = marquee_coordinator::audit::Wanted::default();
    let verified = marquee_coordinator::audit::verify(cluster.app(), wanted, &sender)
        .await
        .unwrap();
    assert_eq!(verified.report.findings, []);
}

#[tokio::test]
async fn logs_go_before_their_jobs_and_what_is_open_or_was_retried_is_left_alone() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w1").await;
    let old = run(&cluster, &mut worker, "", b"old").await;
    let kept = run(&cluster, &mut worker, "", b"kept").await;
    let young = run(&cluster, &mut worker, "", b"young").await;
    let open = cluster.submit(ONE).await[0].clone();
    let key = worker.take_and_start().await;
    worker.log(key, &["at work"]).await;
    age(&cluster, &[&old, &kept], 10).await;
    keep(&cluster, kept.pipeline_id, false).await;
    set(&cluster, Some(3_650), Some(7)).await;
    assert_eq!(background::retire(cluster.app()).await.unwrap(), (0, 1));
    let lines = async |job: &v1::Job| {
        let request = v1::LogsRequest {
            job_id: job.id,
            ..Default::default()
        };
        cluster.logs(request).await.len()
    };
    assert_eq!(lines(&old).await, 0);
    assert_eq!((lines(&kept).await, lines(&young).await), (1, 1));
    let told = cluster.detail(old.id).await.events;
    assert_eq!(
        told.last().unwrap().text,
        "its logs and metrics were removed: its project keeps them for 7 days"
    );
    assert_eq!(
        cluster.detail(old.id).await.job.unwrap().artifact_digest,
        old.artifact_digest
    );
    worker.finish(key, None).await;
    cluster.wait_for(open.id, JobState::Succeeded).await;
    assert_eq!(lines(&open).await, 1);
    // Once is enough.
    assert_eq!(background::retire(cluster.app()).await.unwrap(), (0, 0));
}

#[tokio::test]
async fn days_that_cannot_be_meant_are_refused_and_who_set_them_is_told() {
    let cluster = Cluster::start().await;
    let mut client = ProjectsClient::new(channel(&cluster.running.address).await);
    let request = |keep_days| v1::SetProjectRequest {
        name: "default".into(),
        keep_days: Some(keep_days),
        ..Default::default()
    };
    let refused = client.set_project(request(0)).await.unwrap_err();
    assert!(refused.message().contains("keep_days: 0"), "{refused}");
    let project = client.set_project(request(90)).await.unwrap().into_inner();
    assert_eq!(project.changes[0].text, "keep_days none -> 90");
    let lift = v1::SetProjectRequest {
        name: "default".into(),
        lift: vec!["keep_days".into()],
        ..Default::default()
    };
    let project = client.set_project(lift).await.unwrap().into_inner();
    assert_eq!(project.keep_days, None);
}
