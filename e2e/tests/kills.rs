//! kill -9 of each part in mid-run: the pipeline still ends well, and nothing is committed twice.

use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_domain::report::TrainSummary;
use marquee_e2e::jobs::{id_of, state};
use marquee_e2e::process::kill_hard;
use marquee_e2e::{Catalogue, TestCluster};
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::{
    CancelJobRequest, FailureClass, JobDetail, JobState, ListArtifactsRequest, SubmitResponse,
};

const POSTERS: &str = include_str!("../../examples/posters.toml");
const DEADLINE: Duration = Duration::from_secs(300);

/// A pipeline whose train job runs long enough to be killed in the middle, with checkpoints.
async fn training(cluster: &TestCluster) -> Result<(Catalogue, SubmitResponse, i64)> {
    let catalogue = Catalogue::start(cluster.folder(), 300)?;
    let overrides = [
        ("jobs.fetch.source.api_url", catalogue.api_url.as_str()),
        ("jobs.train.epochs", "40"),
        ("jobs.train.checkpoint_every_steps", "4"),
        ("jobs.train.batch_size", "32"),
    ];
    let submitted = cluster.submit("kills", POSTERS, &overrides).await?;
    let train = id_of(&submitted, "train")?;
    Ok((catalogue, submitted, train))
}

/// Waits until the attempt trains and at least one checkpoint of it is stored.
async fn in_mid_run(cluster: &TestCluster, train: i64) -> Result<JobDetail> {
    let has_checkpoint = |detail: &JobDetail| {
        state(detail) == JobState::Running
            && detail.events.iter().any(|e| e.text.contains("checkpoint"))
    };
    cluster
        .wait_job(
            train,
            "in mid-run with a checkpoint",
            DEADLINE,
            has_checkpoint,
        )
        .await
}

async fn each_job_committed_once(cluster: &TestCluster, submitted: &SubmitResponse) -> Result<()> {
    let request = ListArtifactsRequest {
        pipeline_id: submitted.pipeline_id,
        ..Default::default()
    };
    let listed = ArtifactsClient::new(cluster.channel()?)
        .list_artifacts(request)
        .await?
        .into_inner();
    let mut jobs: Vec<i64> = listed
        .artifacts
        .iter()
        .map(|artifact| artifact.job_id)
        .collect();
    jobs.sort_unstable();
    let mut expected: Vec<i64> = submitted.jobs.iter().map(|job| job.id).collect();
    expected.sort_unstable();
    assert_eq!(jobs, expected);
    Ok(())
}

fn attempts(detail: &JobDetail) -> usize {
    detail.attempts.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_coordinator_kills_nothing() -> Result<()> {
    let mut cluster = TestCluster::start(2).await?;
    let (_catalogue, submitted, train) = training(&cluster).await?;
    in_mid_run(&cluster, train).await?;

    cluster.kill_coordinator()?;
    cluster.restart_coordinator()?;

    let done = cluster.wait_pipeline(&submitted, DEADLINE).await?;
    for detail in &done {
        assert_eq!(
            attempts(detail),
            1,
            "a coordinator's restart costs no attempt: {detail:#?}"
        );
    }
    each_job_committed_once(&cluster, &submitted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_daemon_adopts_its_children_again() -> Result<()> {
    let mut cluster = TestCluster::start(2).await?;
    let (_catalogue, submitted, train) = training(&cluster).await?;
    in_mid_run(&cluster, train).await?;

    cluster.worker(0).kill_daemon()?;
    cluster.restart_worker(0)?;

    let done = cluster.wait_pipeline(&submitted, DEADLINE).await?;
    for detail in &done {
        assert_eq!(
            attempts(detail),
            1,
            "a daemon's restart costs no attempt: {detail:#?}"
        );
    }
    each_job_committed_once(&cluster, &submitted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_host_is_replaced_and_training_resumes_from_its_checkpoint() -> Result<()> {
    let mut cluster = TestCluster::start(2).await?;
    let (_catalogue, submitted, train) = training(&cluster).await?;
    in_mid_run(&cluster, train).await?;

    cluster.worker(1).cut_power()?;
    cluster.add_worker("worker-3")?;

    let done = cluster.wait_success(train, DEADLINE).await?;
    assert!(attempts(&done) >= 2);
    let last = done.attempts.last().context("there is an attempt")?;
    assert!(
        last.resumed_from_step.is_some_and(|step| step > 0),
        "{last:#?}"
    );
    let summary: TrainSummary = serde_json::from_str(&last.ranks[0].summary_json)?;
    assert_eq!(Some(summary.resumed_from_step), last.resumed_from_step);
    cluster.wait_pipeline(&submitted, DEADLINE).await?;
    each_job_committed_once(&cluster, &submitted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_rank_fails_its_attempt_with_the_cause_and_the_retry_resumes() -> Result<()> {
    let cluster = TestCluster::start(2).await?;
    let (_catalogue, submitted, train) = training(&cluster).await?;
    in_mid_run(&cluster, train).await?;

    let is_rank = |command: &str| {
        // The process that watches a rank names it among its arguments; the rank itself comes first.
        let program = command.split(' ').next().unwrap_or_default();
        program.ends_with("/marquee-trainer") && command.contains(" run ")
    };
    let children = cluster.workers()[1].children();
    let rank = children
        .iter()
        .find(|p| is_rank(&p.command))
        .context("worker-2 runs a rank")?;
    kill_hard(rank)?;

    let done = cluster.wait_success(train, DEADLINE).await?;
    let failure = done.attempts[0]
        .failure
        .clone()
        .context("the first attempt failed")?;
    assert_eq!(
        failure.class(),
        FailureClass::Crash,
        "the killed rank names the cause: {failure:?}"
    );
    assert!(failure.message.contains("signal 9"), "{failure:?}");
    assert!(
        done.attempts[1]
            .resumed_from_step
            .is_some_and(|step| step > 0),
        "{:#?}",
        done.attempts[1]
    );
    cluster.wait_pipeline(&submitted, DEADLINE).await?;
    each_job_committed_once(&cluster, &submitted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_leaves_no_process_and_its_dependents_never_run() -> Result<()> {
    let cluster = TestCluster::start(2).await?;
    let (_catalogue, submitted, train) = training(&cluster).await?;
    in_mid_run(&cluster, train).await?;

    cluster
        .jobs()?
        .cancel_job(CancelJobRequest { id: train })
        .await?;
    let is_cancelled = |detail: &JobDetail| state(detail) == JobState::Cancelled;
    cluster
        .wait_job(train, "cancelled", Duration::from_secs(60), is_cancelled)
        .await?;

    for worker in cluster.workers() {
        let left: Vec<_> = worker
            .children()
            .into_iter()
            .filter(|p| p.command.contains("marquee-trainer"))
            .collect();
        assert_eq!(left, [], "nothing of the job is left on {}", worker.name);
    }
    let eval = id_of(&submitted, "eval")?;
    let eval = cluster
        .wait_job(eval, "cancelled too", Duration::from_secs(30), is_cancelled)
        .await?;
    assert_eq!(attempts(&eval), 0);
    Ok(())
}
