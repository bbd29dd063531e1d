//! `marquee completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Session};
use crate::error::Result;

/// Write a script that completes commands and options in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee completions bash > ~/.local/share/bash-completion/completions/marquee
  marquee completions zsh > ~/.zfunc/_marquee
  marquee completions fish > ~/.config/fish/completions/marquee.fish")]
pub(super) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "marquee", &mut script);
    session.output.text(&String::from_utf8_lossy(&script))?;
    Ok(())
}
