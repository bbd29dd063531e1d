//! What the coordinator and its Postgres can do when nothing is ever started: real streams and real rows, of workers that
//! only talk ([`crowd`](crate::crowd)).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_proto::v1;

use crate::Options;
use crate::cluster::Cluster;
use crate::crowd::Crowd;
use crate::figure::{Figure, Goal, skip};
use crate::reference::{self, Reference};

/// Jobs that do nothing a second.
const RATE_MIN: f64 = 10_000.0;
/// Of that, what is left where a durable commit takes so long.
const SLOW_COMMITS_MIN: f64 = 0.5;
const SLOW_COMMIT_US: u32 = 4_000;
/// Workers, devices of each, and elements, of the rate.
pub(crate) const WORKERS: u32 = 16;
pub(crate) const SLOTS: u32 = 64;
const ELEMENTS: u32 = 20_000;
const QUICK_ELEMENTS: u32 = 5_000;
/// Workers that only say that they live, in steps.
const CROWDS: [u32; 3] = [100, 1_000, 10_000];
const QUICK_CROWDS: [u32; 2] = [100, 1_000];
/// A core that heartbeats of the largest crowd may cost, in CPU milliseconds a second.
const CROWD_MAX_MS: f64 = 500.0;
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const ONLINE_WITHIN: Duration = Duration::from_secs(180);

pub(crate) async fn measure(options: &Options) -> Result<()> {
    rate(options).await?;
    let crowds: &[u32] = if options.is_quick {
        &QUICK_CROWDS
    } else {
        &CROWDS
    };
    for size in crowds {
        crowd(*size, options).await?;
    }
    Ok(())
}

async fn rate(options: &Options) -> Result<()> {
    let cluster = Cluster::without_worker(&options.bin).await?;
    let reference = Reference::measure(&cluster).await?;
    let crowd = Crowd::gather(&cluster, WORKERS, SLOTS).await?;
    array(&cluster, "warm-up", 200).await?;
    let elements = if options.is_quick {
        QUICK_ELEMENTS
    } else {
        ELEMENTS
    };
    let name = "no-op jobs on simulated workers";
    let Some((rate, ran)) = ended(&cluster, "measured", elements).await? else {
        skip(
            name,
            &format!("{elements} did not end within {ENDS_WITHIN:?}"),
        );
        return Ok(());
    };
    Figure {
        name: name.to_owned(),
        value: rate,
        unit: "jobs/s",
        is_less_better: false,
        reference: Some(("durable commits/s", reference.commits_per_s)),
        goal: Some(Goal::AtLeast(RATE_MIN)),
        ran: format!(
            "an array of {elements} from its submission to its end, on {WORKERS} workers of {SLOTS} devices that start nothing; {ran}"
        ),
    }
    .print();
    slow_commits(&cluster, rate, elements).await?;
    crowd.leave().await
}

/// The same where each durable commit takes as long as on a slow disk.
async fn slow_commits(cluster: &Cluster, rate: f64, elements: u32) -> Result<()> {
    for statement in [
        "alter system set commit_siblings = 0".to_owned(),
        format!("alter system set commit_delay = {SLOW_COMMIT_US}"),
        "select pg_reload_conf()".to_owned(),
    ] {
        cluster.psql(&statement)?;
    }
    // Connections hear of it with their next statement.
    array(cluster, "warm-up-slow", 200).await?;
    let commits_per_s = reference::commits(cluster)?;
    let name = format!(
        "no-op jobs where a commit takes {} ms",
        SLOW_COMMIT_US / 1_000
    );
    let Some((slow, ran)) = ended(cluster, "measured-slow", elements).await? else {
        skip(
            &name,
            &format!("{elements} did not end within {ENDS_WITHIN:?}"),
        );
        return Ok(());
    };
    Figure {
        name,
        value: slow / rate,
        unit: "of the rate without",
        is_less_better: false,
        reference: None,
        goal: Some(Goal::AtLeast(SLOW_COMMITS_MIN)),
        ran: format!(
            "{slow:.0} jobs/s beside {rate:.0}; one client makes {commits_per_s:.0} durable commits a second there (commit_delay); {ran}"
        ),
    }
    .print();
    Ok(())
}

/// Jobs a second of an array, and what they cost; None where they do not end in time.
async fn ended(cluster: &Cluster, name: &str, elements: u32) -> Result<Option<(f64, String)>> {
    let counts = cluster.count()?;
    let start = Instant::now();
    let ran = tokio::time::timeout(ENDS_WITHIN, array(cluster, name, elements)).await;
    let Ok(ran) = ran else { return Ok(None) };
    ran?;
    let rate = f64::from(elements) / start.elapsed().as_secs_f64();
    let counted = counts.stop(cluster)?;
    let each = |all: f64| all / f64::from(elements);
    let ran = format!(
        "a job: {}, {:.2} writing transactions, {:.1} KiB of log, {}; most often: {}; longest in all: {}",
        counted
            .statements
            .map_or("statements not counted".to_owned(), |all| format!(
                "{:.2} statements",
                each(all)
            )),
        each(counted.writes),
        each(counted.wal_bytes) / 1024.0,
        counted.cpu.over(f64::from(elements)),
        counted.most,
        counted.longest,
    );
    Ok(Some((rate, ran)))
}

/// What it costs to hear that many workers live.
async fn crowd(size: u32, options: &Options) -> Result<()> {
    let cluster = Cluster::without_worker(&options.bin).await?;
    let start = Instant::now();
    let name = format!("{size} workers that are idle");
    let gathered = tokio::time::timeout(ONLINE_WITHIN, Crowd::gather(&cluster, size, 1)).await;
    let crowd = match gathered {
        Ok(crowd) => crowd?,
        Err(_) => {
            skip(
                &name,
                &format!("not all were there within {ONLINE_WITHIN:?}"),
            );
            return Ok(());
        }
    };
    let joined = start.elapsed().as_secs_f64();
    // What their coming set in motion is over.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let counts = cluster.count()?;
    let (before, lost) = (crowd.beats(), crowd.lost());
    tokio::time::sleep(options.window / 3).await;
    let beats = crowd.beats() - before;
    let counted = counts.stop(&cluster)?;
    ensure!(crowd.lost() == lost, "sessions of idle workers ended");
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let a_second = beats as f64 / counted.seconds;
    Figure {
        name,
        value: counted.cpu.total() / counted.seconds,
        unit: "CPU ms a second",
        is_less_better: true,
        reference: None,
        goal: (size == CROWDS[CROWDS.len() - 1]).then_some(Goal::AtMost(CROWD_MAX_MS)),
        ran: format!(
            "{a_second:.0} heartbeats/s; all were there after {joined:.1} s; a second: {}, {}, {:.1} writing transactions; the coordinator holds {:.0} MiB; most often: {}",
            counted.cpu.over(counted.seconds),
            counted
                .statements
                .map_or("statements not counted".to_owned(), |all| format!(
                    "{:.0} statements",
                    all / counted.seconds
                )),
            counted.writes / counted.seconds,
            cluster.coordinator_mib(),
            counted.most,
        ),
    }
    .print();
    crowd.leave().await
}

pub(crate) async fn array(cluster: &Cluster, name: &str, size: u32) -> Result<()> {
    let document = format!(
        "name = \"{name}\"\n[jobs.work]\nkind = \"command\"\nargv = [\"true\"]\narray = {size}\n"
    );
    let submitted = cluster.submit(name, &document).await?;
    let job = submitted.jobs.first().context("no job")?.id;
    let job = cluster.follow(job).await?;
    ensure!(
        job.state() == v1::JobState::Succeeded,
        "array {name} did not succeed: {job:?}"
    );
    Ok(())
}
