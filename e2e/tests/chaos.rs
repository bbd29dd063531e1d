//! A minute of chaos with every test run; `cargo xtask chaos` does more of it. And the take-over of a job that runs, by
//! itself.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_e2e::chaos::load::{Load, Order, Want};
use marquee_e2e::chaos::site::Site;
use marquee_e2e::chaos::{self, Options};
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::{GetJobRequest, Job, JobState};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_chaos_loses_and_doubles_nothing() -> Result<()> {
    let options = Options {
        time: Duration::from_secs(60),
        seed: 11,
        workers: 2,
        ..Options::default()
    };
    let outcome = chaos::run(&options, |line| eprintln!("{line}")).await?;
    eprintln!("{}", outcome.text());
    assert!(outcome.is_clean(), "{:#?}", outcome.problems());
    assert!(
        outcome.verified["commits"].as_u64() > Some(0),
        "nothing was done"
    );
    Ok(())
}

/// How long anything that must happen may take on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

async fn job(site: &Site, coordinator: usize, id: i64) -> Result<Job> {
    let mut jobs = JobsClient::new(site.channel(coordinator)?);
    let detail = jobs.get_job(GetJobRequest { id }).await?.into_inner();
    detail.job.context("a job has a row")
}

async fn wait_for(site: &Site, coordinator: usize, id: i64, state: JobState) -> Result<Job> {
    let since = Instant::now();
    loop {
        let last = match job(site, coordinator, id).await {
            Ok(job) if job.state() == state => return Ok(job),
            other => other,
        };
        ensure!(
            since.elapsed() < SOON,
            "job {id} is not {state:?}: {last:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The leader is killed under a real worker with a rank that runs, twice: the same child goes on, of the same attempt,
/// and what it writes at its end is committed by the third leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_of_a_real_worker_runs_on_through_two_take_overs() -> Result<()> {
    let mut site = Site::start(2, 1).await?;
    let load = Load::new(site.client_urls(), site.folder());
    let side = load.side().to_owned();
    let toml = format!(
        "name = \"takeover\"\n[jobs.waits]\nkind = \"command\"\nargv = [\"sh\", \"-c\", '''\n\
         echo begun; while ! grep -q go {side:?}; do sleep 0.1; done; echo $MARQUEE_ATTEMPT > $MARQUEE_OUTPUT/result''']\n"
    );
    let order = Order {
        kind: "waits",
        want: Want::Succeed,
        toml,
        overrides: Vec::new(),
        writes: false,
    };
    let id = load.submit("takeover", &order).await?.jobs[0];
    wait_for(&site, 0, id, JobState::Running).await?;
    // The shell, which is older than what it starts.
    let child = |site: &Site| {
        let processes = site.job_processes(0);
        processes.iter().map(|process| process.pid).min()
    };
    let since = Instant::now();
    while child(&site).is_none() {
        ensure!(since.elapsed() < SOON, "no child runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = child(&site);
    for (leader, heir) in [(0, 1), (1, 0)] {
        site.kill_coordinator(leader)?;
        let killed = Instant::now();
        // It is answered by whoever leads.
        let mut quick = order.clone();
        quick.toml =
            "name = \"quick\"\n[jobs.quick]\nkind = \"command\"\nargv = [\"true\"]\n".into();
        let next = load.submit(&format!("after {leader}"), &quick).await?.jobs[0];
        eprintln!("taken over {:?} after a kill -9", killed.elapsed());
        wait_for(&site, heir, next, JobState::Succeeded).await?;
        let now = job(&site, heir, id).await?;
        assert_eq!((now.state(), now.attempt), (JobState::Running, 1));
        assert_eq!(child(&site), before);
        site.start_coordinator(leader)?;
    }
    let mut go = std::fs::File::options().append(true).open(&side)?;
    writeln!(go, "go")?;
    let done = wait_for(&site, 0, id, JobState::Succeeded).await?;
    assert_eq!(done.attempt, 1);
    let verified = site.cli(&["audit", "verify", "--expect-quiet"])?;
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success(), "{said}");
    Ok(())
}
