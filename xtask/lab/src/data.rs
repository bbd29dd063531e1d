//! `cargo xtask fuzz` and `cargo xtask data-check`: the long proofs of what reads from strangers.
//!
//! Not here: what is proved and how; that is `marquee-catalogue fuzz` and the tests of `datasets`, which
//! these run at full size.

use std::process::ExitCode;

use anyhow::Result;

use marquee_xtask::setup::{Setup, python};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

const REQUIREMENTS: &str = include_str!("../../python/data.txt");
/// Films of the storm, and of the set with planted faults.
const STORM_FILMS: &str = "20000";
const QUALITY_FILMS: &str = "4000";

/// The options of `fuzz`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FuzzOptions {
    pub target: String,
    pub minutes: Option<String>,
    pub seed: Option<String>,
}

/// Builds `marquee-catalogue` and lets it fuzz one of the readers of `marquee-prep`.
pub(crate) fn fuzz(workspace: &Workspace, options: &FuzzOptions) -> Result<ExitCode> {
    report::step("build: marquee-catalogue", || {
        let mut command = workspace.cargo("build");
        process::run(command.args(["--package", "marquee-catalogue", "--bins"]))
    })?;
    let mut command = std::process::Command::new(workspace.bin_dir.join("marquee-catalogue"));
    command.args(["fuzz", &options.target]);
    for (name, value) in [("--minutes", &options.minutes), ("--seed", &options.seed)] {
        if let Some(value) = value {
            command.args([name, value]);
        }
    }
    command
        .arg("--findings")
        .arg(workspace.bin_dir.join("fuzz-findings"));
    process::run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the tests of the data path at full size, with a Python that has pyarrow.
pub(crate) fn check(workspace: &Workspace) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    let interpreter = python::ensure("data", REQUIREMENTS)?;
    let mut command = workspace.cargo("test");
    command.args([
        "--package",
        "marquee-datasets",
        "--test",
        "integration",
        "--",
    ]);
    // They print what they compared, which at this size is the proof.
    command.args(["--nocapture", "fetch_complete::", "quality::", "sources::"]);
    command
        .env("MARQUEE_STORM_FILMS", STORM_FILMS)
        .env("MARQUEE_QUALITY_FILMS", QUALITY_FILMS)
        .env("MARQUEE_TEST_PYTHON", interpreter);
    process::run(setup.apply(&mut command))?;
    Ok(ExitCode::SUCCESS)
}
