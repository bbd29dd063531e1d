//! `cargo xtask trainer --flavour kepler`: the trainer for GPUs that the current libtorch has left
//! behind, from the same sources with a second lockfile (`trainer/flavours/kepler`).
//!
//! Invariants: the flavour is built below the target folder's `kepler/`, so that no build of one
//! flavour makes the other compile anything again; its lockfile is never changed by a build.

mod compare;
mod kernels;
mod runtime;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use marquee_xtask::flavour::MANIFEST;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report, setup, test};

/// What to do once the flavour is built.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub test: bool,
    pub compare: bool,
    pub kernels: bool,
    /// Bring the lockfile in line with the workspace's, and do nothing else.
    pub lock: bool,
    /// Where an installable tree goes.
    pub to: Option<PathBuf>,
    /// Words for the test runner.
    pub filter: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if options.lock {
        return lock(workspace);
    }
    let flavour = Flavour {
        workspace,
        libtorch: setup::kepler_libtorch()?,
    };
    report::step("build: the trainer for Kepler GPUs", || {
        process::run(&mut flavour.cargo(&["build", "--bins"]))
    })?;
    let version = process::read(Command::new(flavour.bin("debug")).arg("--version"))?;
    report::note(&format!(
        "{}: {}",
        flavour.bin("debug").display(),
        version.trim()
    ));
    if options.test {
        report::step("test: the trainer for Kepler GPUs", || {
            flavour.test(&options.filter)
        })?;
    }
    let mut passed = true;
    if options.compare {
        passed &= compare::run(workspace, &flavour.bin("debug"))?;
    }
    if options.kernels {
        passed &= runtime::print_kernels(&setup::kepler_runtime()?)?;
    }
    if let Some(folder) = &options.to {
        report::step(
            "build: the trainer for Kepler GPUs, in release mode",
            || process::run(&mut flavour.cargo(&["build", "--bins", "--release"])),
        )?;
        runtime::install(&flavour.bin("release"), &setup::kepler_runtime()?, folder)?;
    }
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The second build.
struct Flavour<'a> {
    workspace: &'a Workspace,
    libtorch: PathBuf,
}

impl Flavour<'_> {
    fn target_dir(&self) -> PathBuf {
        let target = self.workspace.bin_dir.parent();
        target.unwrap_or(&self.workspace.bin_dir).join("kepler")
    }

    fn bin(&self, profile: &str) -> PathBuf {
        self.target_dir().join(profile).join("marquee-trainer")
    }

    fn cargo(&self, words: &[&str]) -> Command {
        let (subcommand, rest) = words.split_first().unwrap_or((&"build", &[]));
        let mut command = self.workspace.cargo(subcommand);
        command
            .args(rest)
            // Locked: a lockfile that no longer fits is an error, and no reason to choose versions
            // anew.
            .args(["--locked", "--manifest-path", MANIFEST])
            .env("CARGO_TARGET_DIR", self.target_dir())
            .env("LIBTORCH", &self.libtorch)
            // The wheel's strings are those of before GCC 5; torch-sys' default is the other kind.
            .env("LIBTORCH_CXX11_ABI", "0")
            // tch 0.13 is made for 2.0.0. What differs in 2.0.1 are bugs.
            .env("LIBTORCH_BYPASS_VERSION_CHECK", "1");
        command
    }

    fn test(&self, filter: &[String]) -> Result<()> {
        if test::has_nextest(self.workspace) {
            let mut command = self.cargo(&["nextest", "run"]);
            return process::run(command.arg("--no-fail-fast").args(filter));
        }
        let mut command = self.cargo(&["test"]);
        command.arg("--no-fail-fast");
        if !filter.is_empty() {
            command.arg("--").args(filter);
        }
        process::run(&mut command)
    }
}

/// Writes the flavour's lockfile anew: the workspace's versions, where both need a package, so that
/// the flavours differ in tch and what it pulls in alone.
fn lock(workspace: &Workspace) -> Result<ExitCode> {
    let lockfile = workspace.root.join(MANIFEST).with_file_name("Cargo.lock");
    // The workspace's as a start: cargo keeps what both need and adds only what is missing.
    std::fs::copy(workspace.root.join("Cargo.lock"), &lockfile)
        .with_context(|| format!("cannot write {}", lockfile.display()))?;
    process::run(
        workspace
            .cargo("update")
            .args(["--workspace", "--manifest-path", MANIFEST]),
    )?;
    Ok(ExitCode::SUCCESS)
}
