//! Jobs that come, end, age and go: whether the hot path is as quick behind millions of them as it was at first.
//!
//! The jobs are elements of arrays on workers that start nothing. What has ended is made to look older than its project
//! keeps it, and is removed as `marquee gc` does, while the next ones run: a week passes in as long as that takes.

use std::time::Instant;

use anyhow::{Result, ensure};
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::{CollectGarbageRequest, SetProjectRequest};

use crate::Options;
use crate::cluster::Cluster;
use crate::crowd::Crowd;
use crate::figure::{Figure, Goal};
use crate::simulated::{SLOTS, WORKERS, array};

/// Elements of an array: what is removed at once.
const ELEMENTS: u32 = 50_000;
/// Elements of which the rate is taken, before and behind the others.
const MEASURED: u32 = 20_000;
/// The rate behind them, of that before.
const RATE_MIN: f64 = 0.8;
const KEEP_DAYS: u32 = 1;

pub(crate) async fn measure(options: &Options, jobs: u32) -> Result<()> {
    let cluster = Cluster::without_worker(&options.bin).await?;
    let crowd = Crowd::gather(&cluster, WORKERS, SLOTS).await?;
    array(&cluster, "warm-up", 200).await?;
    let request = SetProjectRequest {
        name: "default".to_owned(),
        keep_days: Some(KEEP_DAYS),
        ..SetProjectRequest::default()
    };
    ProjectsClient::new(cluster.channel())
        .set_project(request)
        .await?;
    let first = rate(&cluster, "first").await?;
    let (mut ended, mut round, mut removed) = (0, 0_u32, 0);
    let mut steps = Vec::new();
    let start = Instant::now();
    let mut next_step = 100_000;
    while ended < jobs {
        round += 1;
        let one = Instant::now();
        let name = format!("churn-{round}");
        let (ran, went) = tokio::join!(array(&cluster, &name, ELEMENTS), collect(&cluster));
        ran?;
        removed += went?;
        ended += ELEMENTS;
        if ended >= next_step {
            let a_second = f64::from(ELEMENTS) / one.elapsed().as_secs_f64();
            steps.push(format!("{a_second:.0}/s at {ended}"));
            next_step = next_step.saturating_mul(10);
        }
        age(&cluster)?;
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    removed += collect(&cluster).await?;
    ensure!(removed >= round, "{removed} arrays were removed of {round}");
    let last = rate(&cluster, "last").await?;
    let size = cluster.psql("select pg_size_pretty(pg_database_size(current_database()))")?;
    Figure {
        name: format!("no-op jobs behind {ended} that came and went"),
        value: last / first,
        unit: "of the rate of a new database",
        is_less_better: false,
        reference: None,
        goal: Some(Goal::AtLeast(RATE_MIN)),
        ran: format!(
            "{last:.0} jobs/s beside {first:.0}; {minutes:.1} minutes of arrays of {ELEMENTS}, each removed while the next runs; with that going on: {}; {removed} pipelines removed; the database takes {size}",
            steps.join(", "),
        ),
    }
    .print();
    crowd.leave().await
}

/// Jobs a second while nothing else goes on.
async fn rate(cluster: &Cluster, name: &str) -> Result<f64> {
    let start = Instant::now();
    array(cluster, name, MEASURED).await?;
    Ok(f64::from(MEASURED) / start.elapsed().as_secs_f64())
}

/// Two days pass for all that has ended; elements have no age of their own.
fn age(cluster: &Cluster) -> Result<()> {
    let days = KEEP_DAYS + 1;
    cluster.psql(&format!(
        "update jobs set finished_at = finished_at - interval '{days} days' \
         where array_job_id is null and finished_at > now() - interval '1 day'"
    ))?;
    Ok(())
}

/// Removes what has had its time. How many pipelines went.
async fn collect(cluster: &Cluster) -> Result<u32> {
    let mut after_pipeline_id = 0;
    let mut went = 0;
    loop {
        let request = CollectGarbageRequest {
            dry_run: false,
            after_pipeline_id,
        };
        let step = cluster.jobs().collect_garbage(request).await?.into_inner();
        went += u32::try_from(step.pipelines.len()).unwrap_or(u32::MAX);
        if step.next_pipeline_id == 0 {
            return Ok(went);
        }
        after_pipeline_id = step.next_pipeline_id;
    }
}
