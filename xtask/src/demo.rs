//! `cargo xtask demo`: say what will happen, set up, build, and become `marquee demo`.
//!
//! What the demo does and how it cleans up is the CLI's: once the binaries are there this process is
//! replaced by it, so that a Ctrl-C or a kill reaches the CLI and nobody else, and its exit code is ours.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::setup::{self, Setup};
use crate::workspace::Workspace;
use crate::{process, report};

/// The options of `demo`, handed on to `marquee demo`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub keep: bool,
    pub json: bool,
    pub films: Option<u32>,
    pub data_dir: Option<String>,
    /// Words for the CLI that mean nothing to this crate.
    pub more: Vec<String>,
}

/// The packages whose binaries the demo runs.
const PACKAGES: [&str; 5] = [
    "marquee-coordinator",
    "marquee-worker",
    "marquee-datasets",
    "marquee-trainer",
    "marquee-cli",
];

pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let start = Instant::now();
    print_plan(workspace, options);
    let setup = Setup::ensure()?;
    report::step("build: coordinator, worker, prep, trainer, CLI", || {
        build(workspace, &setup)
    })?;
    let mut command = demo_command(workspace, &setup, options);
    eprintln!(
        "==> {} (ready after {})",
        process::line(&command),
        report::duration(start.elapsed())
    );
    // Returns only if it could not be started.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", process::line(&command)))
}

fn print_plan(workspace: &Workspace, options: &Options) {
    eprintln!(
        "Marquee's demo: from posters behind an API to a trained, evaluated model, all on this machine."
    );
    eprintln!("It will");
    for sentence in setup::plan() {
        eprintln!("  - {sentence}");
    }
    eprintln!(
        "  - build five binaries into {} (the first time about ten minutes on 2 cores, later seconds)",
        workspace.bin_dir.display()
    );
    let films = options
        .films
        .map_or("3,000".to_owned(), |films| films.to_string());
    eprintln!(
        "  - run them: a private Postgres, a coordinator, two workers and a film API with {films} generated posters"
    );
    eprintln!(
        "    (under 4 minutes on 2 cores with 3,000 films); nothing listens outside this machine"
    );
    if options.keep {
        eprintln!("  - leave it all running at the end (--keep)");
    }
}

/// Without `--workspace`, so that a demo does not wait for crates only tests need.
fn build(workspace: &Workspace, setup: &Setup) -> Result<()> {
    let mut command = workspace.cargo("build");
    command.arg("--bins");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    process::run(setup.apply(&mut command))
}

fn demo_command(workspace: &Workspace, setup: &Setup, options: &Options) -> Command {
    let mut command = Command::new(workspace.bin_dir.join("marquee"));
    command.arg("demo");
    if options.keep {
        command.arg("--keep");
    }
    if options.json {
        command.arg("--json");
    }
    if let Some(films) = options.films {
        command.arg("--films").arg(films.to_string());
    }
    if let Some(folder) = &options.data_dir {
        command.arg("--data-dir").arg(folder);
    }
    command.args(&options.more);
    setup.apply(&mut command);
    command
}
