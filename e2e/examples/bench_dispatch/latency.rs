//! Single jobs, one after the other: from the submission to the client's hearing of the end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, Utc};
use marquee_proto::v1::{JobState, LogsRequest};

use crate::Options;
use crate::cluster::Cluster;
use crate::figure::{Figure, Goal, quantile, skip};
use crate::reference::Reference;

const ONE: &str = "name = \"one\"\n[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
/// What it prints is the time at which it runs, in nanoseconds since 1970; then it ends.
const CLOCK: &str =
    "name = \"clock\"\n[jobs.clock]\nkind = \"command\"\nargv = [\"date\", \"+%s%N\"]\n";
const STARTS_P50_MAX_MS: f64 = 8.0;
const STARTS_P99_MAX_MS: f64 = 25.0;
const ENDS_P50_MAX_MS: f64 = 10.0;
const STATEMENTS_MAX: f64 = 15.0;
const P50_MAX_MS: f64 = 40.0;
const WARM_UP: u32 = 5;
const CLI_RUNS: u32 = 20;
const IDLE_FOR: Duration = Duration::from_secs(5);

pub(crate) async fn measure(
    cluster: &Cluster,
    reference: &Reference,
    options: &Options,
) -> Result<()> {
    for index in 0..WARM_UP {
        one(cluster, &format!("warm-{index}")).await?;
    }
    // What the cluster asks of Postgres with nothing to do, so that it is not laid at a job's door.
    let idle = cluster.count()?;
    tokio::time::sleep(IDLE_FOR).await;
    let idle = idle.stop(cluster)?;

    let counts = cluster.count()?;
    let mut each = Vec::new();
    for index in 0..options.jobs {
        each.push(one(cluster, &format!("one-{index}")).await?);
    }
    let counted = counts.stop(cluster)?;
    let jobs = f64::from(options.jobs);

    let ran = format!("{} jobs of one true, one after the other", options.jobs);
    Figure {
        name: "one true, submit to its end".to_owned(),
        value: quantile(&each, 0.5),
        unit: "ms wall, median",
        is_less_better: true,
        reference: Some(("call + commit + process", reference.least_ms())),
        goal: Some(Goal::AtMost(P50_MAX_MS)),
        ran: format!(
            "{ran}, as a gRPC client sees it; 95 of 100 within {:.0} ms, all within {:.0} ms",
            quantile(&each, 0.95),
            quantile(&each, 1.0)
        ),
    }
    .print();
    match (counted.statements, idle.statements) {
        (Some(statements), Some(at_rest)) => {
            let at_rest = at_rest / idle.seconds;
            Figure {
                name: "one true, statements".to_owned(),
                value: (statements - at_rest * counted.seconds) / jobs,
                unit: "statements/job",
                is_less_better: true,
                reference: None,
                goal: Some(Goal::AtMost(STATEMENTS_MAX)),
                ran: format!(
                    "{ran}; {:.1} with those that run without a job, {at_rest:.1} a second; most often: {}",
                    statements / jobs,
                    counted.most
                ),
            }
            .print();
        }
        _ => skip(
            "one true, statements",
            "this Postgres has no pg_stat_statements; it comes with postgresql-contrib",
        ),
    }
    let plain = |name: &str, value, unit| {
        Figure {
            name: name.to_owned(),
            value,
            unit,
            is_less_better: true,
            reference: None,
            goal: None,
            ran: ran.clone(),
        }
        .print();
    };
    let beyond = |all: f64, at_rest: f64| (all - at_rest / idle.seconds * counted.seconds) / jobs;
    plain(
        "one true, writing transactions",
        beyond(counted.writes, idle.writes),
        "transactions/job",
    );
    plain(
        "one true, write-ahead log",
        beyond(counted.wal_bytes, idle.wal_bytes) / 1024.0,
        "KiB/job",
    );
    plain(
        "one true, all daemons and Postgres",
        beyond(counted.cpu.total(), idle.cpu.total()),
        "CPU ms/job",
    );
    starts_and_ends(cluster, options).await?;
    by_cli(cluster)
}

/// How long until an acknowledged job runs, and until the client hears that it does not any more: by the clock that the
/// job itself reads, for all of them are on one machine.
async fn starts_and_ends(cluster: &Cluster, options: &Options) -> Result<()> {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for index in 0..options.jobs {
        let submitted = cluster.submit(&format!("clock-{index}"), CLOCK).await?;
        let acknowledged = now();
        let job = submitted.jobs.first().context("no job")?.id;
        let state = cluster.follow(job).await?.state();
        let heard = now();
        ensure!(state == JobState::Succeeded, "job {job} is {state:?}");
        let ran = time_in_log(cluster, job).await?;
        starts.push(ms_between(acknowledged, ran));
        ends.push(ms_between(ran, heard));
    }
    let ran = format!(
        "{} jobs that print the time, one after the other, with nothing else to do",
        options.jobs
    );
    let print = |name: &str, of: &[f64], part, goal| {
        Figure {
            name: format!("{name}, {:.0} of 100", 100.0 * part),
            value: quantile(of, part),
            unit: "ms wall",
            is_less_better: true,
            reference: None,
            goal: Some(Goal::AtMost(goal)),
            ran: format!("{ran}; all within {:.0} ms", quantile(of, 1.0)),
        }
        .print();
    };
    let starts_name = "acknowledged until the job runs";
    print(starts_name, &starts, 0.5, STARTS_P50_MAX_MS);
    print(starts_name, &starts, 0.99, STARTS_P99_MAX_MS);
    print(
        "the job's end until the client hears of it",
        &ends,
        0.5,
        ENDS_P50_MAX_MS,
    );
    Ok(())
}

/// The time that a job printed.
async fn time_in_log(cluster: &Cluster, job_id: i64) -> Result<DateTime<Utc>> {
    let request = LogsRequest {
        job_id,
        ..LogsRequest::default()
    };
    let mut lines = cluster.jobs().logs(request).await?.into_inner();
    let line = lines.message().await?.context("the job printed nothing")?;
    Ok(DateTime::from_timestamp_nanos(line.text.trim().parse()?))
}

fn ms_between(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    1e3 * (to - from).as_seconds_f64()
}

#[allow(clippy::disallowed_methods, reason = "the client's own clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Milliseconds of one job.
async fn one(cluster: &Cluster, id: &str) -> Result<f64> {
    let start = Instant::now();
    let submitted = cluster.submit(id, ONE).await?;
    let job = submitted.jobs.first().context("no job")?.id;
    let job = cluster.follow(job).await?;
    let ms = 1e3 * start.elapsed().as_secs_f64();
    ensure!(
        job.state() == JobState::Succeeded,
        "job {} did not succeed: {job:?}",
        job.id
    );
    Ok(ms)
}

fn by_cli(cluster: &Cluster) -> Result<()> {
    let file = cluster.folder().join("one.toml");
    std::fs::write(&file, ONE)?;
    let median = |make: &dyn Fn() -> Command| -> Result<f64> {
        let mut each = Vec::new();
        for _ in 0..CLI_RUNS {
            let mut command = make();
            let start = Instant::now();
            let status = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            each.push(1e3 * start.elapsed().as_secs_f64());
            ensure!(status.success(), "{command:?} failed");
        }
        Ok(quantile(&each, 0.5))
    };
    let submit = median(&|| {
        let mut command = cluster.cli();
        command.args(["submit", "--wait"]).arg(&file);
        command
    })?;
    let start_up = median(&|| {
        let mut command = cluster.cli();
        command.arg("--version");
        command
    })?;
    Figure {
        name: "one true, marquee submit --wait".to_owned(),
        value: submit,
        unit: "ms wall, median",
        is_less_better: true,
        reference: Some(("marquee --version", start_up)),
        goal: None,
        ran: format!("{CLI_RUNS} runs of each"),
    }
    .print();
    Ok(())
}
