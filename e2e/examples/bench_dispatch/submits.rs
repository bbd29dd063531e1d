//! Submissions of one job each, by many clients at once: what a script that loops over `marquee submit` asks for.

use std::time::Instant;

use anyhow::Result;
use marquee_e2e::jobs::request;
use marquee_proto::v1::jobs_client::JobsClient;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::Options;
use crate::cluster::Cluster;
use crate::figure::{Figure, Goal, quantile};
use crate::reference::Reference;

const CLIENTS: u32 = 32;
/// Submissions of each client.
const EACH: u32 = 250;
const QUICK_EACH: u32 = 60;
const RATE_MIN: f64 = 2_000.0;
const ONE: &str = "name = \"one\"\n[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

pub(crate) async fn measure(reference: &Reference, options: &Options) -> Result<()> {
    // Nothing runs: what is measured is how fast jobs are taken and kept.
    let cluster = Cluster::without_worker(&options.bin).await?;
    let each = if options.is_quick { QUICK_EACH } else { EACH };
    // Each with a connection of its own, that is there before the clock starts.
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let channel = Endpoint::from_shared(cluster.url().to_owned())?
            .connect()
            .await?;
        let mut client = JobsClient::new(channel);
        let id = format!("warm-{number}");
        client.submit_pipeline(request(&id, ONE, &[])).await?;
        clients.push((number, client));
    }
    let counts = cluster.count()?;
    let start = Instant::now();
    let mut at_work = JoinSet::new();
    for (number, mut client) in clients {
        at_work.spawn(async move {
            let mut took = Vec::new();
            for index in 0..each {
                let one = Instant::now();
                let id = format!("one-{number}-{index}");
                client.submit_pipeline(request(&id, ONE, &[])).await?;
                took.push(1e3 * one.elapsed().as_secs_f64());
            }
            Ok::<_, tonic::Status>(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = at_work.join_next().await {
        took.extend(done??);
    }
    let seconds = start.elapsed().as_secs_f64();
    let counted = counts.stop(&cluster)?;
    let all = f64::from(CLIENTS * each);
    Figure {
        name: "submissions one by one".to_owned(),
        value: all / seconds,
        unit: "submissions/s",
        is_less_better: false,
        reference: Some(("durable commits/s", reference.commits_per_s)),
        goal: Some(Goal::AtLeast(RATE_MIN)),
        ran: format!(
            "{CLIENTS} clients, {each} jobs each, with no worker; one takes {:.1} ms at the median, 95 of 100 {:.1} ms; one: {}, {:.2} writing transactions; longest in all: {}",
            quantile(&took, 0.5),
            quantile(&took, 0.95),
            counted.cpu.over(all),
            counted.writes / all,
            counted.longest,
        ),
    }
    .print();
    Ok(())
}
