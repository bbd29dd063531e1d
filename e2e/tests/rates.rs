//! One rate for a host over the whole cluster, as the host itself counts it: two pipelines, one of
//! them an array, whose ranks and coordinator are killed on the way.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_e2e::jobs::{id_of, state};
use marquee_e2e::process::kill_hard;
use marquee_e2e::{Catalogue, TestCluster};
use marquee_proto::v1::{JobDetail, JobState};

const DEADLINE: Duration = Duration::from_secs(240);
/// Requests a second that both pipelines name.
const LIMIT: u64 = 40;
/// Ranks that ask at once; each may have a request at both ends of a second.
const RANKS: u64 = 3;
/// Requests that a busy machine may hold up and let go together. Without one limit for all, two
/// pipelines come to twice the limit.
const HELD_UP: u64 = LIMIT / 4;

fn pipeline(array: &str) -> String {
    format!(
        "name = \"rates\"\n[jobs.fetch]\nkind = \"fetch\"\n{array}\n[jobs.fetch.source]\ntype = \"tmdb\"\n\
         api_url = \"http://127.0.0.1/3\"\nrequests_per_second = {LIMIT}\nconcurrency = 8\n"
    )
}

/// The server's own count: requests, those of its busiest second, and milliseconds.
fn counted(api_url: &str) -> Result<(u64, u64, u64)> {
    let address = api_url.trim_start_matches("http://").trim_end_matches("/3");
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET /requests HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split("\r\n\r\n").nth(1).context("no body")?;
    let count: serde_json::Value = serde_json::from_str(body)?;
    let field = |name: &str| {
        count[name]
            .as_u64()
            .with_context(|| format!("no {name}: {body}"))
    };
    Ok((
        field("requests")?,
        field("busiest_second")?,
        field("milliseconds")?,
    ))
}

fn has_done(detail: &JobDetail, films: u64) -> bool {
    let progress = detail.job.as_ref().and_then(|job| job.progress.as_ref());
    state(detail) == JobState::Succeeded || progress.is_some_and(|progress| progress.done >= films)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pipelines_together_keep_to_the_rate_of_their_host_whatever_is_killed() -> Result<()> {
    let mut cluster = TestCluster::start(3).await?;
    let catalogue = Catalogue::start_sketches(cluster.folder(), 400)?;
    let api = ("jobs.fetch.source.api_url", catalogue.api_url.as_str());
    let array = cluster
        .submit("array", &pipeline("array = 2"), &[api])
        .await?;
    let few = [api, ("jobs.fetch.source.limit", "150")];
    let single = cluster.submit("single", &pipeline(""), &few).await?;
    let (array_id, single_id) = (id_of(&array, "fetch")?, id_of(&single, "fetch")?);

    let done = |films| move |detail: &JobDetail| has_done(detail, films);
    cluster
        .wait_job(array_id, "begun", DEADLINE, done(30))
        .await?;
    cluster
        .wait_job(single_id, "begun", DEADLINE, done(15))
        .await?;
    let child = cluster.workers()[0]
        .children()
        .into_iter()
        .find(|process| process.command.contains("marquee-prep run"))
        .context("worker-1 runs a child")?;
    kill_hard(&child)?;
    cluster
        .wait_job(array_id, "half-way", DEADLINE, done(120))
        .await?;
    cluster.kill_coordinator()?;
    cluster.restart_coordinator()?;
    cluster.worker(1).kill_daemon()?;
    cluster.restart_worker(1)?;
    cluster.wait_success(array_id, DEADLINE).await?;
    cluster.wait_success(single_id, DEADLINE).await?;

    let (requests, busiest, milliseconds) = counted(&catalogue.api_url)?;
    let allowed = LIMIT * milliseconds / 1_000 + RANKS;
    println!(
        "{requests} requests in {milliseconds} ms, {:.1}/s of {LIMIT}/s, {busiest} in the busiest second",
        requests as f64 * 1e3 / milliseconds as f64
    );
    assert!(requests > 1_000, "each film takes two requests");
    assert!(
        requests <= allowed,
        "{requests} requests, {allowed} allowed"
    );
    assert!(
        busiest <= LIMIT + RANKS + HELD_UP,
        "{busiest} in one second"
    );
    Ok(())
}
