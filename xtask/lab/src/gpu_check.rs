//! `cargo xtask gpu-check`: one archive that shows, on a machine with a GPU and PyTorch but without
//! Rust, what the trainer does there: against PyTorch in the same run, as one table.
//!
//! Invariants: the archive holds all it needs but torch, and is small enough to send; what of it can
//! run without a GPU has run here before it is written.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use marquee_xtask::setup::{Setup, python};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{nccl_shim, process, report};

/// The same virtual environment as the zoo's: torch 2.11 with its CUDA half.
const REQUIREMENTS: &str = include_str!("../../python/zoo.txt");
const FOLDER: &str = "marquee-gpu-check";
const SCRIPT: &str = "xtask/python/gpu_check.py";
const TRAINER: &str = "marquee-trainer";
/// What the archive may weigh, so that it can be sent.
const BYTES_MAX: u64 = 64_000_000;
const README: &str = "\
Marquee on a GPU: python3 gpu_check.py

Needs Linux on x86-64 with glibc 2.36 or newer, an NVIDIA driver, and torch 2.11 (pip install
torch==2.11.0). Takes about five minutes and prints one table; exit code 0 if every line holds.

  python3 gpu_check.py --json            one JSON object a line, too
  python3 gpu_check.py --only nccl       one part: nccl, parity, speed, stall
  python3 gpu_check.py --device cpu --tiny   tries the script itself, without a GPU
";

/// The options of `gpu-check`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the archive goes. None: `target/marquee-gpu-check.tar.gz`.
    pub to: Option<PathBuf>,
    /// Take the development build: quick to make, for trying the script.
    pub debug: bool,
    /// Also run it here, on the GPU.
    pub run: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    let interpreter = python::ensure("zoo", REQUIREMENTS)?;
    let trainer = build(workspace, &setup, options.debug)?;
    let target = workspace
        .bin_dir
        .parent()
        .context("the target folder has a parent")?;
    let folder = target.join(FOLDER);
    report::step("bundle: files", || {
        fill(workspace, &interpreter, &trainer, &folder)
    })?;
    report::step("bundle: its script on this machine's CPU, small", || {
        // It runs on a machine that we may not see: a mistake in the script could only be mended by
        // sending all of it again.
        try_out(&interpreter, &folder, &["--device", "cpu", "--tiny"])
    })?;
    if options.run {
        report::step("bundle: its script on this machine's GPU", || {
            try_out(&interpreter, &folder, &[])
        })?;
    }
    let archive = match &options.to {
        Some(to) => std::path::absolute(to)?,
        None => target.join(format!("{FOLDER}.tar.gz")),
    };
    report::step("bundle: archive", || pack(&folder, &archive))?;
    writeln!(std::io::stdout(), "{}", archive.display())?;
    Ok(ExitCode::SUCCESS)
}

fn build(workspace: &Workspace, setup: &Setup, debug: bool) -> Result<PathBuf> {
    report::step("build: the trainer", || {
        let mut command = workspace.cargo("build");
        command.args(["--workspace", "--bin", TRAINER]);
        if !debug {
            command.arg("--release");
        }
        process::run(setup.apply(&mut command))
    })?;
    let profile = if debug { "debug" } else { "release" };
    let folder = workspace.bin_dir.with_file_name(profile);
    Ok(folder.join(TRAINER))
}

/// Puts everything into `folder`, which is made anew.
fn fill(workspace: &Workspace, interpreter: &Path, trainer: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let (bin, inputs) = (folder.join("bin"), folder.join("inputs"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&inputs)?;
    let stripped = bin.join(TRAINER);
    process::read(
        Command::new("strip")
            .arg("--strip-all")
            .arg("-o")
            .arg(&stripped)
            .arg(trainer),
    )
    .context("strip is of the package binutils")?;
    fs::set_permissions(&stripped, fs::Permissions::from_mode(0o755))?;
    fs::copy(nccl_shim::build(workspace)?, bin.join(nccl_shim::FILE))?;
    let script = folder.join("gpu_check.py");
    fs::copy(workspace.root.join(SCRIPT), &script)?;
    fs::write(folder.join("README"), README)?;
    // What PyTorch on a CPU makes of the same 50 steps.
    process::read(
        Command::new(interpreter)
            .arg(&script)
            .arg("--pin")
            .arg(inputs.join("pinned.json")),
    )?;
    Ok(())
}

/// Runs the script with libtorch where PyTorch has it, as on another machine; its table goes to stderr.
fn try_out(interpreter: &Path, folder: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new(interpreter);
    command
        .arg(folder.join("gpu_check.py"))
        .args(args)
        // The script has to find libtorch in Python's torch, as it must on the other machine.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null());
    process::run(&mut command)
}

fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let parent = folder.parent().context("the folder has a parent")?;
    process::read(
        Command::new("tar")
            .args(["--create", "--gzip", "--owner=0", "--group=0", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(parent)
            .arg(FOLDER),
    )?;
    let bytes = fs::metadata(archive)?.len();
    if bytes > BYTES_MAX {
        bail!(
            "{} has {}, more than the {} that are to be sent at most",
            archive.display(),
            report::megabytes(bytes),
            report::megabytes(BYTES_MAX)
        );
    }
    report::note(&format!(
        "{}: {}",
        archive.display(),
        report::megabytes(bytes)
    ));
    Ok(())
}
