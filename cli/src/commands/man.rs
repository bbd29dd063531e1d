//! `marquee man`: for those who make packages.

use std::path::PathBuf;

use crate::error::Result;

/// Write the manual pages, one for each command, into a folder
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder; it must be there
    folder: PathBuf,
}

/// `command` is the whole command line.
pub(super) fn run(args: &Args, command: clap::Command) -> Result<()> {
    clap_mangen::generate_to(command, &args.folder)?;
    Ok(())
}
