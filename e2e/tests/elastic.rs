//! kill -9 of ranks and of a host in a gang that may go on: the job succeeds in its first attempt.

use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_domain::report::TrainSummary;
use marquee_e2e::jobs::{id_of, state};
use marquee_e2e::process::kill_hard;
use marquee_e2e::{Catalogue, TestCluster};
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::{JobDetail, JobState, ListArtifactsRequest, SubmitResponse};

const POSTERS: &str = include_str!("../../examples/posters.toml");
const DEADLINE: Duration = Duration::from_secs(400);
/// How far the final losses of a run that lost a rank and of an undisturbed one may be apart: sums
/// come in another order, and over some hundred steps that grows. Half a percent of the first loss, which
/// is about 0.5.
const LOSS_TOLERANCE: f64 = 0.0025;

/// What a run came to.
struct Ran {
    detail: JobDetail,
    /// Of the ranks that went on.
    summaries: Vec<TrainSummary>,
}

impl Ran {
    fn loss(&self) -> f64 {
        self.summaries[0].final_loss
    }
}

/// Three workers with one rank each; `disturb` is called in mid-run.
async fn train(disturb: impl AsyncFnOnce(&mut TestCluster) -> Result<()>) -> Result<Ran> {
    let mut cluster = TestCluster::start(3).await?;
    let catalogue = Catalogue::start(cluster.folder(), 300)?;
    let overrides = [
        ("jobs.fetch.source.api_url", catalogue.api_url.as_str()),
        ("jobs.train.epochs", "60"),
        ("jobs.train.batch_size", "32"),
        ("jobs.train.checkpoint_every_steps", "4"),
        ("jobs.train.ranks", "{ count = 3, min = 2 }"),
        ("jobs.train.collective_timeout_s", "20"),
    ];
    let submitted = cluster.submit("elastic", POSTERS, &overrides).await?;
    let train = id_of(&submitted, "train")?;
    cluster
        .wait_job(train, "in mid-run with a checkpoint", DEADLINE, |detail| {
            state(detail) == JobState::Running
                && detail.events.iter().any(|e| e.text.contains("checkpoint"))
        })
        .await?;
    disturb(&mut cluster).await?;
    let detail = cluster.wait_success(train, DEADLINE).await?;
    cluster.wait_pipeline(&submitted, DEADLINE).await?;
    committed_once(&cluster, &submitted).await?;
    let went_on = detail.attempts[0]
        .ranks
        .iter()
        .filter(|rank| rank.lost_at.is_none());
    let summaries = went_on
        .map(|rank| serde_json::from_str(&rank.summary_json))
        .collect::<Result<_, _>>()?;
    let explained = cluster.cli(&["explain", &train.to_string()])?;
    eprintln!("{}", String::from_utf8_lossy(&explained.stdout));
    Ok(Ran { detail, summaries })
}

async fn committed_once(cluster: &TestCluster, submitted: &SubmitResponse) -> Result<()> {
    let request = ListArtifactsRequest {
        pipeline_id: submitted.pipeline_id,
        ..Default::default()
    };
    let listed = ArtifactsClient::new(cluster.channel()?)
        .list_artifacts(request)
        .await?
        .into_inner();
    let mut jobs: Vec<i64> = listed.artifacts.iter().map(|made| made.job_id).collect();
    jobs.sort_unstable();
    let mut expected: Vec<i64> = submitted.jobs.iter().map(|job| job.id).collect();
    expected.sort_unstable();
    assert_eq!(jobs, expected);
    Ok(())
}

/// Kills the process of rank `rank` alone, wherever it runs.
fn kill_rank(cluster: &TestCluster, rank: u32) -> Result<()> {
    let spec = format!("-1-{rank}/spec.json");
    let is_rank = |command: &str| {
        let program = command.split(' ').next().unwrap_or_default();
        program.ends_with("/marquee-trainer") && command.contains(&spec)
    };
    let processes: Vec<_> = cluster
        .workers()
        .iter()
        .flat_map(marquee_e2e::Worker::children)
        .filter(|process| is_rank(&process.command))
        .collect();
    kill_hard(processes.first().context("the rank runs somewhere")?)
}

fn went_on_without(ran: &Ran, rank: u32) {
    assert_eq!(ran.detail.attempts.len(), 1, "{:#?}", ran.detail);
    let lost: Vec<u32> = ran.detail.attempts[0]
        .ranks
        .iter()
        .filter(|rank| rank.lost_at.is_some())
        .map(|rank| rank.rank)
        .collect();
    assert_eq!(lost, [rank]);
    let says = |text: &str| ran.detail.events.iter().any(|e| e.text.contains(text));
    assert!(
        says("went on with 2 of 3 ranks from step"),
        "{:#?}",
        ran.detail.events
    );
    for summary in &ran.summaries {
        assert_eq!(
            (summary.world_size, summary.regroups),
            (2, 1),
            "{summary:?}"
        );
        assert_eq!(summary.went_on[0].of, 3);
        assert!(summary.went_on[0].steps_lost <= 1, "{:?}", summary.went_on);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gang_goes_on_in_the_same_attempt_without_rank_one_and_without_rank_zero() -> Result<()> {
    let undisturbed = train(async |_| Ok(())).await?;
    let without_one = train(async |cluster| kill_rank(cluster, 1)).await?;
    let without_zero = train(async |cluster| kill_rank(cluster, 0)).await?;
    went_on_without(&without_one, 1);
    went_on_without(&without_zero, 0);
    let losses = [&undisturbed, &without_one, &without_zero].map(Ran::loss);
    eprintln!(
        "final losses: undisturbed {:.6}, without rank 1 {:.6}, without rank 0 {:.6}",
        losses[0], losses[1], losses[2]
    );
    for ran in [&without_one, &without_zero] {
        eprintln!("{}", ran.summaries[0].went_on[0].words());
        let apart = (ran.loss() - undisturbed.loss()).abs();
        assert!(apart < LOSS_TOLERANCE, "{losses:?}");
        assert_eq!(ran.summaries[0].steps, undisturbed.summaries[0].steps);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gang_goes_on_without_the_host_that_served_its_store() -> Result<()> {
    let ran = train(async |cluster| {
        let host = (0..3)
            .find(|index| {
                let children = cluster.workers()[*index].children();
                children
                    .iter()
                    .any(|p| p.command.contains("-1-0/spec.json"))
            })
            .context("a worker runs rank 0")?;
        cluster.worker(host).cut_power()
    })
    .await?;
    went_on_without(&ran, 0);
    Ok(())
}
