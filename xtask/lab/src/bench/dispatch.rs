//! `cargo xtask bench dispatch`: what it costs to run jobs that do nothing, and to decide where they run.
//!
//! Two programs measure: an example of `e2e`, which speaks to a cluster of its own, and one of `coordinator`
//! for the scheduler alone. Each prints figures as lines of JSON, which are judged and shown here.

use std::process::Command;

use anyhow::Result;

use super::Options;
use super::figure::Sheet;
use super::program::measure;
use marquee_xtask::setup::Setup;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

pub(super) const PARTS: &[&str] = &["jobs", "simulated", "stored", "planner"];

pub(super) fn run(workspace: &Workspace, options: &Options, sheet: &mut Sheet) -> Result<()> {
    let setup = Setup::ensure()?;
    report::step("build: all binaries and the two that measure", || {
        let mut command = workspace.cargo("build");
        command.args(["--workspace", "--bins", "--examples"]);
        process::run(setup.apply(&mut command))
    })?;
    let own_bin = &workspace.bin_dir;
    let bin = options.bin_dir.as_ref().unwrap_or(own_bin);
    // The programs that measure are always this checkout's, also where another build's daemons are
    // measured.
    let example = |name: &str| own_bin.join("examples").join(name);
    if options.wants("jobs") {
        report::step(&format!("measure: jobs, with {}", bin.display()), || {
            let mut command = Command::new(example("bench_dispatch"));
            command.arg("--bin-dir").arg(bin);
            measure(setup.apply(&mut command), options, sheet)
        })?;
    }
    if options.wants("simulated") {
        report::step(
            &format!("measure: simulated workers, with {}", bin.display()),
            || {
                let mut command = Command::new(example("bench_dispatch"));
                command.arg("--bin-dir").arg(bin).arg("--simulated");
                measure(setup.apply(&mut command), options, sheet)
            },
        )?;
    }
    if options.wants("stored") {
        report::step(
            &format!("measure: a million jobs stored, with {}", bin.display()),
            || {
                let mut command = Command::new(example("bench_dispatch"));
                command.arg("--bin-dir").arg(bin).arg("--stored");
                measure(setup.apply(&mut command), options, sheet)
            },
        )?;
    }
    if options.wants("planner") {
        report::step("measure: planner, as it is in this checkout", || {
            measure(&mut Command::new(example("bench_planner")), options, sheet)
        })?;
    }
    Ok(())
}
