//! Many jobs that say something all the time: what their logs and metrics cost, and what they do to who waits for a job.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_proto::v1::JobState;

use crate::Options;
use crate::cluster::Cluster;
use crate::crowd::{CHAT, CHAT_EVERY, CHAT_LINES, Crowd};
use crate::figure::{Figure, Goal, quantile};
use crate::simulated::{SLOTS, WORKERS, array};

const JOBS: u32 = 200;
/// A core that they may cost, in CPU milliseconds a second.
const CPU_MAX_MS: f64 = 1_000.0;
/// How much longer a job may take beside them.
const SLOWER_MAX: f64 = 2.0;
/// Of the lines that are said, what must be stored while it is measured: all but those on their way.
const STORED_MIN: f64 = 0.9;
const BEGIN_WITHIN: Duration = Duration::from_secs(30);
const ASKED: u32 = 100;
const QUICK_ASKED: u32 = 30;

pub(crate) async fn measure(options: &Options) -> Result<()> {
    let asked = if options.is_quick { QUICK_ASKED } else { ASKED };
    let cluster = Cluster::without_worker(&options.bin).await?;
    let crowd = Crowd::gather(&cluster, WORKERS, SLOTS).await?;
    array(&cluster, "warm-up", 200).await?;
    let quiet = latencies(&cluster, "quiet", asked).await?;
    let document = format!(
        "name = \"chatty\"\n[jobs.work]\nkind = \"command\"\nargv = [\"{CHAT}\"]\narray = {JOBS}\n"
    );
    cluster.submit("chatty", &document).await?;
    let start = Instant::now();
    while talking(&cluster)? < JOBS {
        ensure!(start.elapsed() < BEGIN_WITHIN, "not all of them talk");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let counts = cluster.count()?;
    let (before, start) = (lines(&cluster)?, Instant::now());
    tokio::time::sleep(options.window / 3).await;
    let seconds = start.elapsed().as_secs_f64();
    let lines_per_s = (lines(&cluster)? - before) / seconds;
    let counted = counts.stop(&cluster)?;
    let said = f64::from(JOBS * CHAT_LINES) / CHAT_EVERY.as_secs_f64();
    ensure!(
        lines_per_s >= STORED_MIN * said,
        "{lines_per_s:.0} lines/s were stored of {said:.0}"
    );
    Figure {
        name: format!("logs and metrics of {JOBS} chatty jobs"),
        value: counted.cpu.total() / counted.seconds,
        unit: "CPU ms a second",
        is_less_better: true,
        reference: None,
        goal: Some(Goal::AtMost(CPU_MAX_MS)),
        ran: format!(
            "{lines_per_s:.0} lines/s stored of {said:.0} said, and {JOBS} metrics/s, on {WORKERS} workers; a second: {}, {:.1} writing transactions, {:.0} KiB of log; longest in all: {}",
            counted.cpu.over(counted.seconds),
            counted.writes / counted.seconds,
            counted.wal_bytes / 1024.0 / counted.seconds,
            counted.longest,
        ),
    }
    .print();
    let beside = latencies(&cluster, "beside", asked).await?;
    Figure {
        name: "a job beside chatty ones".to_owned(),
        value: quantile(&beside, 0.5) / quantile(&quiet, 0.5),
        unit: "of its time without them",
        is_less_better: true,
        reference: None,
        goal: Some(Goal::AtMost(SLOWER_MAX)),
        ran: format!(
            "{asked} jobs that start nothing, from the submission to the client's hearing of the end: median {:.1} ms beside {:.1} ms, 95 of 100 within {:.1} ms beside {:.1} ms",
            quantile(&beside, 0.5),
            quantile(&quiet, 0.5),
            quantile(&beside, 0.95),
            quantile(&quiet, 0.95),
        ),
    }
    .print();
    crowd.leave().await
}

/// Milliseconds of single jobs.
async fn latencies(cluster: &Cluster, name: &str, asked: u32) -> Result<Vec<f64>> {
    let document = "name = \"one\"\n[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
    let mut each = Vec::new();
    for index in 0..asked {
        let start = Instant::now();
        let submitted = cluster.submit(&format!("{name}-{index}"), document).await?;
        let job = submitted.jobs.first().context("no job")?.id;
        let state = cluster.follow(job).await?.state();
        each.push(1e3 * start.elapsed().as_secs_f64());
        ensure!(state == JobState::Succeeded, "job {job} is {state:?}");
    }
    Ok(each)
}

fn talking(cluster: &Cluster) -> Result<u32> {
    let count = cluster.psql("select count(distinct job_id) from log_lines")?;
    count.parse().context("a count")
}

fn lines(cluster: &Cluster) -> Result<f64> {
    let count = cluster.psql("select count(*) from log_lines")?;
    count.parse().context("a count")
}
