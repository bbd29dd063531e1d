//! Fetch jobs from the local server: bound by the server or the rate that was set, in bounded memory.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::figure::{Figure, Goal, Sheet};
use super::Bench;
use super::job::{Catalogue, fetch_of, peak_mb, run as run_job, start};

const CONNECTIONS: usize = 16;
/// Films for which the server paints posters of full size, and small ones.
const FILMS: &str = "1500";
const SMALL_FILMS: &str = "10000";
/// Requests a second, and films of two requests each.
const RATE: u64 = 400;
const RATE_FILMS: &str = "3000";
const MILLION: u64 = 1_000_000;
/// Films that are fetched after the list of a million was read.
const FETCHED_OF_MILLION: u64 = 2_000;
const EXPORT_MAX: Duration = Duration::from_secs(240);

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    at_a_rate(bench, sheet)?;
    let goal = Some(Goal::Ratio(0.9));
    beside_a_plain_client(
        bench,
        sheet,
        "posters of 500x750",
        &["--films", FILMS],
        goal,
    )?;
    let small = ["--films", SMALL_FILMS, "--sketches"];
    beside_a_plain_client(bench, sheet, "posters of 92x138", &small, None)?;
    a_million(bench, sheet)
}

fn at_a_rate(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    let arguments = ["--films", RATE_FILMS, "--sketches", "--log-requests"];
    let catalogue = Catalogue::start(bench, &arguments)?;
    let work = fetch_of(&catalogue, &json!({ "requests_per_second": RATE }));
    let folder = bench.folder.join("fetch");
    let spent = run_job(bench, &work, &folder, 2)?;
    let requests = catalogue.paths()?.len() as f64;
    fs::remove_dir_all(folder)?;
    sheet.add(Figure {
        name: "fetch at a set rate".to_owned(),
        value: requests / spent.wall_s,
        unit: "requests/s wall".into(),
        is_less_better: false,
        reference: Some(("the rate".to_owned(), RATE as f64)),
        goal: Some(Goal::Ratio(0.9)),
        ran: format!(
            "{RATE_FILMS} films, {requests} requests in {:.1} s, from the start of the job to its end",
            spent.wall_s
        ),
    });
    Ok(())
}

/// A core for the server and another for its client, as if they were two hosts: on the same cores the
/// server would be slower for whoever does more with what it gets. None where that cannot be.
fn cores_apart() -> Option<(usize, usize)> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let can_pin = Command::new("taskset").args(["-c", "0,1", "true"]).status();
    (cores >= 2 && can_pin.is_ok_and(|status| status.success())).then_some((0, 1))
}

/// A job as fast as it can, then the same requests from the plainest client.
fn beside_a_plain_client(
    bench: &Bench<'_>,
    sheet: &mut Sheet,
    what: &str,
    arguments: &[&str],
    goal: Option<Goal>,
) -> Result<()> {
    let arguments = [arguments, &["--log-requests"]].concat();
    let (host, bench, seats) = match cores_apart() {
        Some((server, client)) => (
            bench.on(Some(server)),
            bench.on(Some(client)),
            "the server on one core, its client on another",
        ),
        None => (
            bench.on(None),
            bench.on(None),
            "server and client on the same cores",
        ),
    };
    let catalogue = Catalogue::start(&host, &arguments)?;
    let folder = bench.folder.join("fetch");
    // The job comes first: the plain client then asks for exactly the paths that the job asked for.
    let spent = run_job(&bench, &fetch_of(&catalogue, &json!({})), &folder, 2)?;
    fs::remove_dir_all(folder)?;
    let asked = catalogue.paths()?;
    // What has no length of its own beforehand is left out for the plain client.
    let paths: Vec<String> = asked
        .iter()
        .filter(|path| !path.starts_with("/p/exports"))
        .cloned()
        .collect();
    // A server of its own, that has answered nothing yet.
    let catalogue = Catalogue::start(&host, &arguments)?;
    let load = plain_load(&bench, &catalogue, &paths)?;
    let seconds = load["seconds"].as_f64().context("no seconds")?;
    sheet.add(Figure {
        name: format!("fetch as fast as it goes, {what}"),
        value: asked.len() as f64 / spent.wall_s,
        unit: "requests/s wall".into(),
        is_less_better: false,
        reference: Some((
            "the server to a plain client".to_owned(),
            paths.len() as f64 / seconds,
        )),
        goal,
        ran: format!(
            "{} requests in {:.1} s, stored as a dataset; {CONNECTIONS} in flight, {seats}",
            asked.len(),
            spent.wall_s
        ),
    });
    Ok(())
}

fn plain_load(bench: &Bench<'_>, catalogue: &Catalogue, paths: &[String]) -> Result<Value> {
    let mut command = bench.catalogue();
    command.args(["bench", "load", &catalogue.address]);
    command.args(["--connections", &CONNECTIONS.to_string()]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut asked = child.stdin.take().context("no stdin")?;
    asked.write_all(paths.join("\n").as_bytes())?;
    drop(asked);
    let output = child.wait_with_output()?;
    serde_json::from_slice(&output.stdout).context("the plain client gave up")
}

/// Memory of a job that has read the list of a million films and fetches the first of them.
fn a_million(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    let films = MILLION.to_string();
    let catalogue = Catalogue::start(bench, &["--films", &films, "--sketches"])?;
    let folder = bench.folder.join("fetch");
    let began = Instant::now();
    let mut child = start(bench, &fetch_of(&catalogue, &json!({})), &folder, 2)?;
    let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let mut peak = f64::NAN;
    for line in lines {
        let event: Value = serde_json::from_str(&line?)?;
        // Only once the total is that of the list: before, its reading is what the job counts.
        let has_list = event["total"]
            .as_u64()
            .is_some_and(|total| total >= MILLION);
        if has_list && event["done"].as_u64() >= Some(FETCHED_OF_MILLION) {
            peak = peak_mb(&child)?;
            break;
        }
        if began.elapsed() > EXPORT_MAX {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    // Not asked to stop, for its memory is known, and a stop in order would take its time.
    child.kill()?;
    child.wait()?;
    fs::remove_dir_all(folder)?;
    sheet.add(Figure {
        name: "fetch of a million films, memory".to_owned(),
        value: peak,
        unit: "MB (VmHWM)".into(),
        is_less_better: true,
        reference: None,
        goal: Some(Goal::AtMost(200.0)),
        ran: format!(
            "export of {MILLION} lines read and {FETCHED_OF_MILLION} films fetched after {seconds:.0} s, then ended"
        ),
    });
    Ok(())
}
