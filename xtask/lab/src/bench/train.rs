//! `cargo xtask bench train`: our training beside PyTorch's, in one run.
//!
//! Invariants: both sides have the same model, weights, batch, precision, layout and number of
//! threads, and their losses are compared, so that the same work is known to have been done; they
//! take turns, so that what else the machine does befalls all alike. Ours is the dev profile's
//! trainer, as tests have it: release could only be faster.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::Options;
use super::figure::Sheet;
use marquee_xtask::setup::{Setup, python};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

pub(super) mod children;
mod files;
mod orchestrator;
pub(super) mod peers;
mod ranks;
mod steps;

/// What can be asked for alone: one model's steps, or another piece. With some of them named, "compiled"
/// brings `torch.compile` in, which takes minutes to warm up.
pub(super) const PARTS: &[&str] = &[
    "simple-cnn",
    "resnet18",
    "vgg16",
    "inception_v3",
    "compiled",
    "files",
    "ranks",
    "orchestrator",
];

const REQUIREMENTS: &str = include_str!("../../../python/zoo.txt");

/// What all pieces share.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    workspace: &'a Workspace,
    setup: Setup,
    pub(super) trainer: PathBuf,
    prep: PathBuf,
    python: PathBuf,
    /// What is worked on; weights and batches are kept for the next time.
    pub(super) folder: PathBuf,
    is_quick: bool,
    /// Whether `torch.compile` takes part.
    with_compiled: bool,
}

impl<'a> Bench<'a> {
    /// Builds the programs and makes the other side's environment.
    pub(super) fn prepare(workspace: &'a Workspace, options: &Options) -> Result<Self> {
        let setup = Setup::ensure()?;
        report::step("build: all binaries", || {
            let mut command = workspace.cargo("build");
            process::run(setup.apply(command.args(["--workspace", "--bins"])))
        })?;
        // Kept below the target folder: batches and weights take long to make, and "cargo clean"
        // takes them away.
        let target = workspace.bin_dir.parent().context("a target folder")?;
        let folder = target.join("bench-train");
        fs::create_dir_all(&folder)?;
        Ok(Self {
            workspace,
            setup,
            trainer: workspace.bin_dir.join("marquee-trainer"),
            prep: workspace.bin_dir.join("marquee-prep"),
            python: python::ensure("zoo", REQUIREMENTS)?,
            folder,
            is_quick: options.quick,
            with_compiled: options.wants("compiled"),
        })
    }

    /// Our side of a step, with one thread: `marquee-trainer bench-step`.
    pub(super) fn step(&self, model: &str) -> Command {
        self.step_with(model, 1)
    }

    /// The same with more threads.
    pub(super) fn step_with(&self, model: &str, threads: u32) -> Command {
        let threads = threads.to_string();
        let mut command = Command::new(&self.trainer);
        command
            .args(["bench-step", model, "--serve", "--threads", &threads])
            .env("OMP_NUM_THREADS", &threads)
            .env("MARQUEE_LOG", "warn");
        command
    }

    /// The other side: a task of `train_peer.py`.
    fn peer(&self, task: &str) -> Command {
        let mut command = Command::new(&self.python);
        command
            .arg(self.workspace.root.join("xtask/python/train_peer.py"))
            .arg(task);
        command
    }

    /// Rounds that count: the fewer, the noisier.
    pub(super) fn rounds(&self, usual: usize) -> usize {
        if self.is_quick { 2 } else { usual }
    }
}

/// Measures one part of the group.
type Piece = fn(&Bench<'_>, &mut Sheet) -> Result<()>;

pub(super) fn run(workspace: &Workspace, options: &Options, sheet: &mut Sheet) -> Result<()> {
    let bench = Bench::prepare(workspace, options)?;
    for case in steps::CASES {
        if options.wants(case.model) {
            report::step(&format!("measure: steps of {}", case.model), || {
                steps::run(&bench, case, sheet)
            })?;
        }
    }
    let pieces: [(&str, Piece); 3] = [
        ("files", files::run),
        ("ranks", ranks::run),
        ("orchestrator", orchestrator::run),
    ];
    for (name, piece) in pieces {
        if options.wants(name) {
            report::step(&format!("measure: {name}"), || piece(&bench, sheet))?;
        }
    }
    Ok(())
}
