//! `cargo xtask bench dispatch`: what it costs to run jobs that do nothing, and to decide where they run.
//!
//! Two programs measure: an example of `e2e`, which speaks to a cluster of its own, and one of `coordinator`
//! for the scheduler alone. Each prints figures as lines of JSON, which are judged and shown here.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::Options;
use super::figure::Sheet;
use super::program::measure;
use marquee_xtask::setup::Setup;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

pub(super) const PARTS: &[&str] = &["jobs", "simulated", "stored", "churn", "planner"];

/// What is measured and what measures.
const PACKAGES: [&str; 4] = [
    "marquee-coordinator",
    "marquee-worker",
    "marquee-cli",
    "marquee-e2e",
];
/// Jobs that come and go: as many as a busy cluster has in a week, which takes an hour and more, where they are asked for
/// by name; else a look.
const CHURN: &str = "10000000";
const QUICK_CHURN: &str = "500000";

pub(super) fn run(workspace: &Workspace, options: &Options, sheet: &mut Sheet) -> Result<()> {
    let setup = Setup::ensure()?;
    // As they are deployed.
    report::step(
        "build: daemons and what measures them, release profile",
        || {
            let mut command = workspace.cargo("build");
            command.args(["--release", "--bins", "--examples"]);
            for package in PACKAGES {
                command.args(["--package", package]);
            }
            process::run(setup.apply(&mut command))
        },
    )?;
    let target = workspace.bin_dir.parent().context("a target folder")?;
    let own_bin = target.join("release");
    let bin = options.bin_dir.as_ref().unwrap_or(&own_bin);
    // The programs that measure are always this checkout's, also where another build's daemons are
    // measured.
    let example = |name: &str| own_bin.join("examples").join(name);
    let churn = if options.quick || options.parts.is_empty() {
        QUICK_CHURN
    } else {
        CHURN
    };
    let parts: [(&str, &str, &[&str]); 4] = [
        ("jobs", "jobs", &[]),
        ("simulated", "simulated workers", &["--simulated"]),
        ("stored", "a million jobs stored", &["--stored"]),
        ("churn", "jobs that come and go", &["--churn", churn]),
    ];
    for (part, what, words) in parts {
        if !options.wants(part) {
            continue;
        }
        report::step(&format!("measure: {what}, with {}", bin.display()), || {
            let mut command = Command::new(example("bench_dispatch"));
            command.arg("--bin-dir").arg(bin).args(words);
            measure(setup.apply(&mut command), options, sheet)
        })?;
    }
    if options.wants("planner") {
        report::step("measure: planner, as it is in this checkout", || {
            measure(&mut Command::new(example("bench_planner")), options, sheet)
        })?;
    }
    Ok(())
}
