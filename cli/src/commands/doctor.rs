//! `marquee doctor`: the doctors of the programs beside us, as one answer.
//!
//! Architecture Invariant: the CLI looks at nothing itself. What a worker needs its program knows,
//! and what a coordinator needs that one.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use marquee_domain::doctor::{Report, Verdict};
use marquee_view::doctor::Reports;
use marquee_view::units;
use tokio::process::Command;

use crate::clock;
use crate::cluster::beside_us;
use crate::error::{CliError, Result};
use crate::session::Session;

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
        // Neither is there. Its error says where they were looked for.
        beside_us(PROGRAMS[0])?;
    }
    let reports = Reports(reports);
    session.output.show(&reports, clock::now())?;
    match reports.count(Verdict::Failed) {
        0 => Ok(()),
        failed => Err(CliError::JobsFailed(format!(
            "{} failed; the cure stands below each",
            units::plural(failed, "check")
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
        // Whoever waits sees what the doctor says meanwhile; the report on stdout is for us.
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
