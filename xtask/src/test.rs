//! `cargo xtask test`: set up, build the binaries that end-to-end tests start, run every test.
//!
//! Invariant: the runner's own summary is the last thing printed, but for what else failed; its exit code is ours.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::setup::Setup;
use crate::workspace::Workspace;
use crate::{process, report, sim, web};

pub fn run(workspace: &Workspace, filter: &[String]) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    web::build_if_possible(workspace);
    report::step("build: all binaries and tests", || build(workspace, &setup))?;
    // What fails here is said at once and again at the end: whoever waited for the build wants all of it.
    let mut failed = Vec::new();
    // A filter is for the tests of the crates.
    if filter.is_empty() {
        if let Err(error) = report::step(
            &format!("test: {} simulated worlds", sim::SEEDS_IN_TESTS),
            || sim::test(workspace, &setup),
        ) {
            report::note(&format!("{error:#}"));
            failed.push("the simulation");
        }
        if !report::step("test: the web page", || web::test(workspace))? {
            failed.push("the tests of the web page");
        }
    }
    let has_nextest = has_nextest(workspace);
    if has_nextest && filter.is_empty() {
        // nextest leaves examples in documentation out; they go first, so that its summary is last.
        report::step("test: examples in the documentation", || {
            let mut command = workspace.cargo("test");
            process::run(environment(workspace, &setup, &mut command).args([
                "--workspace",
                "--doc",
                "--quiet",
            ]))
        })?;
    }
    let mut runner = if has_nextest {
        let mut command = workspace.cargo("nextest");
        // All of them: who waited for a build wants every failure of it, not the first.
        command.args(["run", "--workspace", "--no-fail-fast"]);
        command
    } else {
        report::note("cargo-nextest is not installed; running cargo test");
        let mut command = workspace.cargo("test");
        command.args(["--workspace", "--no-fail-fast"]);
        if !filter.is_empty() {
            command.arg("--");
        }
        command
    };
    runner.args(filter);
    eprintln!("==> {}", process::line(&runner));
    let status = environment(workspace, &setup, &mut runner)
        .status()
        .with_context(|| format!("cannot start {}", process::line(&runner)))?;
    if !failed.is_empty() {
        report::note(&format!("failed: {}; see above", failed.join(", ")));
        return Ok(ExitCode::FAILURE);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Binaries together with tests in one build: dependencies get one set of features, so nothing is
/// compiled twice.
pub fn build(workspace: &Workspace, setup: &Setup) -> Result<()> {
    let mut command = workspace.cargo("build");
    command.args(["--workspace", "--bins", "--tests"]);
    process::run(setup.apply(&mut command))
}

fn environment<'c>(
    workspace: &Workspace,
    setup: &Setup,
    command: &'c mut Command,
) -> &'c mut Command {
    setup
        .apply(command)
        .env("MARQUEE_BIN_DIR", &workspace.bin_dir)
}

pub fn has_nextest(workspace: &Workspace) -> bool {
    let mut command = workspace.cargo("nextest");
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
