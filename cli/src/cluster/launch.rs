//! The hidden command between us and a daemon: it asks the kernel for SIGTERM when we die, and
//! becomes the daemon. Asked for here and not by the daemons, because they do not want it when
//! systemd starts them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::anyhow;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::error::Result;

/// The command's name; not for people.
pub(crate) const COMMAND: &str = "launch-child";

/// Become another program that ends with its parent
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Process id of the parent
    #[arg(long)]
    parent: i32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

/// Returns only if the program cannot be started.
pub(crate) fn run(args: &Args) -> Result<()> {
    set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from)?;
    // The parent may have died before the kernel was asked: then nobody would tell us.
    if getppid().as_raw() != args.parent {
        return Err(anyhow!("the process {} that wanted this child is gone", args.parent).into());
    }
    let [program, words @ ..] = args.argv.as_slice() else {
        return Err(anyhow!("no program to become").into());
    };
    let error = Command::new(program).args(words).exec();
    Err(anyhow::Error::new(error)
        .context(format!("cannot start {}", program.display()))
        .into())
}
