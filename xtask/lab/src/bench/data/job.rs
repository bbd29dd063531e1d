//! Jobs of `marquee-prep` and the server that they fetch from, run as a worker runs them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::Bench;

/// What a job cost that ran to its end.
#[derive(Debug)]
pub(super) struct Spent {
    pub(super) wall_s: f64,
    /// Of the job and all processes that it started.
    pub(super) cpu_s: f64,
    pub(super) summary: Value,
}

/// A server of generated films, until it is dropped.
pub(super) struct Catalogue {
    child: Child,
    /// Reads what it prints, for it stops when nobody does.
    paths: Option<JoinHandle<Vec<String>>>,
    /// `127.0.0.1:PORT`.
    pub(super) address: String,
}

impl Catalogue {
    pub(super) fn start(bench: &Bench<'_>, arguments: &[&str]) -> Result<Self> {
        let mut command = bench.catalogue();
        command.arg("serve").args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let listening: Value = serde_json::from_str(&line).context("the server does not listen")?;
        let url = listening["api_url"].as_str().unwrap_or_default();
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches("/3")
            .to_owned();
        // Read all the time: a full pipe would stop the server in the middle of the measurement.
        let paths = thread::spawn(move || lines.lines().map_while(Result::ok).collect());
        Ok(Self {
            child,
            paths: Some(paths),
            address,
        })
    }

    /// Ends it; the paths that were asked for, if it was started with `--log-requests`.
    pub(super) fn paths(mut self) -> Result<Vec<String>> {
        self.child.kill()?;
        let paths = self.paths.take().context("its paths were taken")?;
        paths.join().map_err(|_| anyhow!("its reader gave up"))
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The settings of a fetch from `catalogue`, but for what `more` says.
pub(super) fn fetch_of(catalogue: &Catalogue, more: &Value) -> Value {
    let mut source = json!({
        "type": "tmdb", "api_url": format!("http://{}/3", catalogue.address), "poster_size": "w500",
        "requests_per_second": 100_000, "concurrency": 16, "request_timeout_s": 30,
        "request_attempts": 3,
    });
    if let (Some(source), Some(more)) = (source.as_object_mut(), more.as_object()) {
        source.extend(more.clone());
    }
    json!({ "kind": "fetch", "settings": { "source": source } })
}

/// Starts the job `work` with its folders below `folder`, where `output` must not be.
pub(super) fn start(bench: &Bench<'_>, work: &Value, folder: &Path, threads: u32) -> Result<Child> {
    let output = folder.join("output");
    // Of an earlier round: a job begins with an empty output.
    if output.exists() {
        fs::remove_dir_all(&output)?;
    }
    for name in ["output", "checkpoints"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let spec = json!({
        "job": 1, "job_name": "bench", "attempt": 1, "work": work,
        "inputs": { "dataset": bench.folder.join("dataset/output") },
        "output": output, "checkpoints": folder.join("checkpoints"), "resume": null,
        "devices": [{ "kind": "cpu", "index": 0 }], "threads": threads,
    });
    let file = folder.join("spec.json");
    fs::write(&file, serde_json::to_vec(&spec)?)?;
    let mut command = bench.prep();
    command.arg("run").arg(file).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

/// Runs a job to its end.
pub(super) fn run(bench: &Bench<'_>, work: &Value, folder: &Path, threads: u32) -> Result<Spent> {
    let (cpu_before, began) = (children_cpu_s()?, Instant::now());
    let child = start(bench, work, folder, threads)?;
    let output = child.wait_with_output()?;
    let wall_s = began.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let event: Value = serde_json::from_str(last).unwrap_or_default();
    if !output.status.success() || event["event"] != "finished" {
        bail!("the job ended with {}: {last}", output.status);
    }
    Ok(Spent {
        wall_s,
        cpu_s: children_cpu_s()? - cpu_before,
        summary: event["summary"].clone(),
    })
}

/// CPU time, user and system, of all processes that ended below this one so far.
fn children_cpu_s() -> Result<f64> {
    // `USER_HZ`, the unit of /proc on every architecture that is built for here.
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name in brackets may hold anything; what follows it is numbers.
    let numbers = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| -> Result<f64> {
        let number = numbers.split_whitespace().nth(field - 3);
        Ok(number.context("/proc/self/stat is short")?.parse()?)
    };
    Ok((ticks(16)? + ticks(17)?) / TICKS_PER_S)
}

/// The most memory that a running process has had, in MB.
pub(super) fn peak_mb(child: &Child) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("no VmHWM")?
        .parse()?;
    Ok(kib * 1_024.0 / 1e6)
}
