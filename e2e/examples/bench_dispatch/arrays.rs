//! Arrays of `true`, each on a fresh cluster: elements a second by how many are queued.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use marquee_proto::v1::{CancelPipelineRequest, Job, JobState};

use crate::Options;
use crate::cluster::{Cluster, SLOTS};
use crate::figure::{Figure, Goal, skip};
use crate::reference::Reference;

/// Ten times what an array of 300 gave before the queue was rebuilt (12 a second).
const RATE_MIN: f64 = 120.0;
/// Elements a second with many queued, as a share of that with `FEW`.
const SLOPE_MIN: f64 = 0.9;
const FEW: u32 = 300;
const CANCEL_MAX: Duration = Duration::from_secs(60);
const SUBMIT_MAX: Duration = Duration::from_secs(120);

pub(crate) async fn measure(reference: &Reference, options: &Options) -> Result<()> {
    let mut few = None;
    for &size in &options.sizes {
        let rate = of_size(size, reference, options).await?;
        if size == FEW {
            few = rate;
        }
        if let (Some(few), Some(rate), true) = (few, rate, size > FEW) {
            Figure {
                name: format!("slope, {size} queued"),
                value: rate / few,
                unit: "of the rate with 300",
                is_less_better: false,
                reference: None,
                goal: (size >= 10_000).then_some(Goal::AtLeast(SLOPE_MIN)),
                ran: format!("{rate:.1} elements/s beside {few:.1}"),
            }
            .print();
        }
    }
    Ok(())
}

/// Elements a second; None where the coordinator refuses so large an array.
async fn of_size(size: u32, reference: &Reference, options: &Options) -> Result<Option<f64>> {
    let name = format!("array of {size} true");
    let cluster = Cluster::start(&options.bin).await?;
    run(&cluster, "warm-up", 4).await?;
    let counts = cluster.count()?;
    let start = Instant::now();
    let document = document("measured", size);
    let submitted = cluster.submit("measured", &document);
    let submitted = match tokio::time::timeout(SUBMIT_MAX, submitted).await {
        Ok(Ok(submitted)) => submitted,
        Ok(Err(error)) => {
            skip(&name, &format!("refused: {error}"));
            return Ok(None);
        }
        Err(_) => {
            skip(&name, &format!("not taken within {SUBMIT_MAX:?}"));
            return Ok(None);
        }
    };
    let submit_s = start.elapsed().as_secs_f64();
    let job = submitted.jobs.first().context("no job")?.id;
    let start = Instant::now();
    // The end is heard of at once; a count that is asked for would come late by half its period.
    let ended = tokio::time::timeout(options.window, cluster.follow(job)).await;
    let (done, seconds) = match ended {
        Ok(last) => {
            let seconds = start.elapsed().as_secs_f64();
            (finished(&last?)?, seconds)
        }
        Err(_) => {
            let done = finished(&cluster.job(job).await?)?;
            (done, start.elapsed().as_secs_f64())
        }
    };
    let counted = counts.stop(&cluster)?;
    let rest = if done < size {
        let took = cancel(&cluster, submitted.pipeline_id, job).await?;
        format!("; the other {} cancelled in {took}", size - done)
    } else {
        String::new()
    };
    let rate = f64::from(done) / seconds;
    let each = |all: f64| all / f64::from(done.max(1));
    let statements = counted
        .statements
        .map_or("not counted".to_owned(), |all| format!("{:.1}", each(all)));
    Figure {
        name,
        value: rate,
        unit: "elements/s",
        is_less_better: false,
        reference: Some(("bare true/s", reference.spawns_per_s)),
        goal: (size == FEW).then_some(Goal::AtLeast(RATE_MIN)),
        ran: format!(
            "{done} ended in {seconds:.1} s on {SLOTS} devices, after {submit_s:.2} s to submit; an element: \
             {statements} statements, {:.1} writing transactions, {:.1} KiB of log, {}, {:.0} rows read by \
             whole tables; most often: \
             {}; longest in all: {}{rest}",
            each(counted.writes),
            each(counted.wal_bytes) / 1024.0,
            counted.cpu.over(f64::from(done.max(1))),
            each(counted.scanned),
            counted.most,
            counted.longest
        ),
    }
    .print();
    Ok(Some(rate))
}

/// Runs an array to its end.
async fn run(cluster: &Cluster, name: &str, size: u32) -> Result<()> {
    let submitted = cluster.submit(name, &document(name, size)).await?;
    let job = submitted.jobs.first().context("no job")?.id;
    let job = cluster.follow(job).await?;
    ensure!(
        job.state() == JobState::Succeeded,
        "array {name} did not succeed: {job:?}"
    );
    Ok(())
}

fn document(name: &str, size: u32) -> String {
    format!(
        "name = \"{name}\"\n[jobs.work]\nkind = \"command\"\nargv = [\"true\"]\narray = {size}\n"
    )
}

/// How many elements have succeeded. One that failed makes the figure worthless.
fn finished(array: &Job) -> Result<u32> {
    let counts = array.elements.as_ref().context("no counts of elements")?;
    ensure!(counts.failed == 0, "{} elements failed", counts.failed);
    Ok(counts.succeeded)
}

async fn cancel(cluster: &Cluster, pipeline: i64, job: i64) -> Result<String> {
    let start = Instant::now();
    let all = async {
        let request = CancelPipelineRequest { id: pipeline };
        cluster.jobs().cancel_pipeline(request).await?;
        cluster.follow(job).await
    };
    Ok(match tokio::time::timeout(CANCEL_MAX, all).await {
        Ok(job) => {
            job?;
            format!("{:.1} s", start.elapsed().as_secs_f64())
        }
        Err(_) => format!("more than {CANCEL_MAX:?}"),
    })
}
