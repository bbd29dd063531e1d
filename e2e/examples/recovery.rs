//! How long it takes until work runs again after something died: `cargo run -p marquee-e2e --example recovery`.
//!
//! Each fault is done to a real cluster on this machine, again and again, to a job of its own: a gang of two
//! programs that do nothing. The time counts from the fault to the moment at which every rank of the next
//! attempt is reported to run, as a client sees it by asking every 20 ms. One line of JSON for each kind of fault:
//! rounds, median, worst, what was promised, and attempts that were spent. Twenty rounds of each take about ten minutes on
//! a machine with nothing else to do; `-- 5` makes it five, and `-- 20 HostLost` tries one kind alone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_e2e::TestCluster;
use marquee_e2e::jobs::state;
use marquee_e2e::process::kill_hard;
use marquee_proto::v1::{CancelJobRequest, JobDetail, JobState, RankState};
use serde_json::json;

/// How often the job is looked at.
const LOOK: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(120);
/// A gang that runs until it is told to leave.
const GANG: &str = r#"
name = "recovery"

[jobs.gang]
kind = "command"
argv = ["sh", "-c", "trap 'exit 75' TERM; while :; do sleep 0.1; done"]
ranks = 2
max_attempts = 5
"#;

/// A kind of fault.
#[derive(Debug, Clone, Copy)]
enum Fault {
    RankKilled,
    HostLeaves,
    HostLost,
    CoordinatorKilled,
    DaemonKilled,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::RankKilled,
        Self::HostLeaves,
        Self::CoordinatorKilled,
        Self::DaemonKilled,
        Self::HostLost,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::RankKilled => "a rank is killed (kill -9)",
            Self::HostLeaves => "a worker is stopped in order (SIGTERM), another takes its place",
            Self::HostLost => "a host is lost (daemon and ranks kill -9), another takes its place",
            Self::CoordinatorKilled => {
                "the coordinator is killed (kill -9) and started: the same attempt goes on"
            }
            Self::DaemonKilled => {
                "a worker daemon is killed (kill -9) and started: the same attempt goes on"
            }
        }
    }

    /// Seconds that are promised.
    fn promise_s(self) -> f64 {
        match self {
            Self::RankKilled => 15.0,
            Self::HostLeaves => 2.0,
            Self::HostLost => 15.0,
            Self::CoordinatorKilled | Self::DaemonKilled => 3.0,
        }
    }
}

fn runs(detail: &JobDetail, attempt: u32) -> bool {
    let newest = detail.attempts.last();
    state(detail) == JobState::Running
        && newest.is_some_and(|newest| {
            newest.number == attempt
                && newest.ranks.len() == 2
                && newest
                    .ranks
                    .iter()
                    .all(|rank| rank.state() == RankState::Running)
        })
}

async fn until_it_runs(cluster: &TestCluster, job: i64, attempt: u32) -> Result<()> {
    let since = Instant::now();
    while since.elapsed() < DEADLINE {
        // The coordinator may be away.
        if let Ok(detail) = cluster.job(job).await
            && runs(&detail, attempt)
        {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    let last = cluster.job(job).await;
    anyhow::bail!("attempt {attempt} of job {job} did not run within {DEADLINE:?}: {last:#?}")
}

/// One round: seconds, and attempts that it cost.
async fn round(cluster: &mut TestCluster, fault: Fault, number: usize) -> Result<(f64, u32)> {
    let submitted = cluster
        .submit(&format!("{fault:?}-{number}"), GANG, &[])
        .await?;
    let job = submitted.jobs.first().context("one job")?.id;
    until_it_runs(cluster, job, 1).await?;
    let detail = cluster.job(job).await?;
    let worker = &detail.attempts[0].ranks[1].worker_name;
    let place = cluster.workers().iter().position(|one| one.name == *worker);
    let place = place.context("the rank's worker is ours")?;
    let since = Instant::now();
    let mut attempt = 2;
    match fault {
        Fault::RankKilled => {
            let children = cluster.workers()[place].children();
            let rank = children
                .iter()
                .find(|child| child.command.starts_with("sh -c trap"));
            kill_hard(rank.context("the worker runs a rank")?)?;
        }
        Fault::HostLeaves => {
            // It is gone when its daemon has said goodbye; the wait for that is part of the time.
            ensure!(
                cluster.worker(place).stop()? == 0,
                "the daemon left with an error"
            );
        }
        Fault::HostLost => cluster.worker(place).cut_power()?,
        Fault::CoordinatorKilled => {
            cluster.kill_coordinator()?;
            cluster.restart_coordinator()?;
            attempt = 1;
        }
        Fault::DaemonKilled => {
            cluster.worker(place).kill_daemon()?;
            cluster.restart_worker(place)?;
            attempt = 1;
            cluster.wait_online(3).await?;
        }
    }
    until_it_runs(cluster, job, attempt).await?;
    let seconds = since.elapsed().as_secs_f64();
    let after = cluster.job(job).await?;
    let failed = after.attempts.iter().filter(|one| one.failure.is_some());
    let spent = u32::try_from(
        failed
            .filter(|one| one.state() == marquee_proto::v1::AttemptState::Failed)
            .count(),
    )?;
    cluster
        .jobs()?
        .cancel_job(CancelJobRequest { id: job })
        .await?;
    let is_cancelled = |detail: &JobDetail| state(detail) == JobState::Cancelled;
    cluster
        .wait_job(job, "cancelled", DEADLINE, is_cancelled)
        .await?;
    if matches!(fault, Fault::HostLeaves | Fault::HostLost) {
        cluster.restart_worker(place)?;
        cluster.wait_online(3).await?;
    }
    Ok((seconds, spent))
}

#[allow(clippy::print_stdout, reason = "the figures are data")]
#[tokio::main]
async fn main() -> Result<()> {
    let rounds = match std::env::args().nth(1) {
        Some(text) => text
            .parse()
            .context("give a number of rounds, such as 20")?,
        None => 20,
    };
    let only = std::env::args().nth(2);
    let is_asked = |fault: &Fault| {
        only.as_ref()
            .is_none_or(|only| format!("{fault:?}") == *only)
    };
    let mut cluster = TestCluster::start(3).await?;
    for fault in Fault::ALL.into_iter().filter(is_asked) {
        let (mut times, mut spent) = (Vec::new(), 0);
        for number in 0..rounds {
            let (seconds, attempts) = round(&mut cluster, fault, number).await?;
            times.push(seconds);
            spent += attempts;
        }
        times.sort_by(f64::total_cmp);
        let worst = times.last().copied().unwrap_or(f64::NAN);
        let round = |seconds: f64| (seconds * 100.0).round() / 100.0;
        println!(
            "{}",
            json!({
                "fault": fault.name(),
                "rounds": times.len(),
                "median_s": round(times[times.len() / 2]),
                "worst_s": round(worst),
                "promised_s": fault.promise_s(),
                "kept": worst <= fault.promise_s(),
                "attempts_spent": spent,
            })
        );
    }
    Ok(())
}
