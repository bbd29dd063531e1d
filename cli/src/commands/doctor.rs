//! `marquee doctor`: the doctors of the programs beside us, as one answer.
//!
//! Architecture Invariant: the CLI looks at nothing itself. What a worker needs its program knows,
//! and what a coordinator needs that one.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Utc};
use marquee_domain::doctor::{Check, Report, Verdict};
use serde_json::{Value, json};
use tokio::process::Command;

use super::Session;
use crate::clock;
use crate::cluster::beside_us;
use crate::error::{CliError, Result};
use crate::output::table::{Entry, left, toned};
use crate::output::{Page, Show, Tone, words};

/// Each check has a limit of its own; all of them together stay below this.
const DOCTOR_MAX: Duration = Duration::from_secs(300);
/// Whose doctors there are.
const PROGRAMS: [&str; 2] = ["marquee-worker", "marquee-coordinator"];

/// Look at this host: what Marquee needs, what is wrong, and the cure
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at programs, driver, GPUs, NCCL, device nodes, limits, shared memory, disks, clock,
certificates, Postgres and the coordinator, and changes nothing. Exit code 1 if work will fail.

Examples:
  marquee doctor
  marquee doctor --output json | jq '.[].checks[] | select(.verdict == \"failed\")'
  sudo -u marquee-worker marquee doctor    (as the service sees the host)")]
pub(super) struct Args {
    /// Settings file of the worker [default: /etc/marquee/worker.toml]
    #[arg(long, value_name = "FILE")]
    worker_config: Option<PathBuf>,
    /// Settings file of the coordinator [default: /etc/marquee/coordinator.toml]
    #[arg(long, value_name = "FILE")]
    coordinator_config: Option<PathBuf>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let configs = [args.worker_config, args.coordinator_config];
    let mut reports = Vec::new();
    for (program, config) in PROGRAMS.into_iter().zip(configs) {
        // A training host has no coordinator, and the other way round.
        if let Ok(path) = beside_us(program) {
            reports.push(ask(program, path, config).await?);
        }
    }
    if reports.is_empty() {
        beside_us(PROGRAMS[0])?;
    }
    let reports = Reports(reports);
    session.output.show(&reports, clock::now())?;
    match reports.count(Verdict::Failed) {
        0 => Ok(()),
        failed => Err(CliError::JobsFailed(format!(
            "{} failed; the cure stands below each",
            words::plural(failed, "check")
        ))),
    }
}

async fn ask(program: &str, path: PathBuf, config: Option<PathBuf>) -> Result<Report> {
    let mut command = Command::new(path);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let asked = command
        .args(["doctor", "--json"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DOCTOR_MAX, asked)
        .await
        .map_err(|_| anyhow!("{program} doctor did not end in {} s", DOCTOR_MAX.as_secs()))?
        .with_context(|| format!("cannot start {program}"))?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "{program} doctor gave no report ({}); install all programs of one build into one folder",
            output.status
        )
    })?;
    Ok(report)
}

struct Reports(Vec<Report>);

impl Reports {
    fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().map(|report| report.count(verdict)).sum()
    }
}

impl Show for Reports {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        for report in &self.0 {
            page.heading(&format!("{} {}", report.program, report.version));
            let heads = [left("VERDICT"), left("CHECK"), left("FOUND")];
            page.table(&heads, report.checks.iter().flat_map(rows).collect());
        }
        page.gap();
        page.line(format!(
            "{} ok, {} skipped, {} to look at, {} failed",
            self.count(Verdict::Ok),
            self.count(Verdict::Skipped),
            self.count(Verdict::Warning),
            self.count(Verdict::Failed),
        ));
    }

    fn json(&self) -> Value {
        self.0.iter().map(|report| json!(report)).collect()
    }

    /// What needs somebody.
    fn ids(&self) -> Vec<String> {
        let checks = self.0.iter().flat_map(|report| &report.checks);
        let wanting = checks.filter(|check| check.cure.is_some());
        wanting.map(|check| check.name.clone()).collect()
    }
}

/// A check, and its cure below it.
fn rows(check: &Check) -> Vec<Vec<Entry>> {
    let tone = match check.verdict {
        Verdict::Ok => Tone::Good,
        Verdict::Skipped => Tone::Faint,
        Verdict::Warning => Tone::Warn,
        Verdict::Failed => Tone::Bad,
    };
    let first = vec![
        toned(check.verdict.as_str(), tone),
        check.name.as_str().into(),
        check.found.as_str().into(),
    ];
    let cure = check.cure.as_ref().map(|cure| {
        vec![
            "".into(),
            "".into(),
            toned(format!("-> {cure}"), Tone::Strong),
        ]
    });
    std::iter::once(first).chain(cure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_on_a_narrow_terminal_keeps_its_columns() {
        let report = Report {
            program: "marquee-worker".into(),
            version: "0.1.0".into(),
            checks: vec![
                Check::ok("marquee-prep", "marquee-prep 0.1.0"),
                Check::failed(
                    "gpu 0",
                    "Tesla K80, 11.2 GiB, compute capability 3.7, but its trainer is libtorch 2.11.0, which needs 7.5",
                    "install the kepler flavour (docs/deploy.md)",
                ),
                Check::skipped("nccl", "no GPU: ranks speak over Gloo"),
            ],
        };
        let reports = Reports(vec![report]);
        let mut page = Page::new(false, Some(80));
        reports.page(&mut page, DateTime::from_timestamp(0, 0).unwrap());
        insta::assert_snapshot!(page.finish());
        assert_eq!(reports.ids(), ["gpu 0"]);
        assert_eq!(reports.json()[0]["checks"][1]["verdict"], "failed");
    }
}
