//! `cargo xtask chaos`: set up, build, and become `marquee-chaos`, which starts a cluster and breaks its parts.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::setup::Setup;
use crate::workspace::{WITH_ALL, Workspace};
use crate::{process, report};

/// Runs it; `words` are its options, which it reads itself.
pub fn run(workspace: &Workspace, words: &[String]) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    report::step("build: all binaries", || {
        let mut command = workspace.cargo("build");
        command.args(["--workspace", "--bins"]).args(WITH_ALL);
        process::run(setup.apply(&mut command))
    })?;
    let mut command = Command::new(workspace.bin_dir.join("marquee-chaos"));
    command
        .args(words)
        // The daemons of this build, whatever is installed on the machine.
        .env("MARQUEE_BIN_DIR", &workspace.bin_dir);
    setup.apply(&mut command);
    eprintln!("==> {}", process::line(&command));
    // Returns only if it could not be started.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", process::line(&command)))
}
