//! `marquee completions`.

use clap_complete::Shell;

use crate::error::Result;
use crate::session::Session;

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

/// `command` is the whole command line.
pub(super) fn run(args: &Args, mut command: clap::Command, session: &Session) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "marquee", &mut script);
    session.output.text(&String::from_utf8_lossy(&script))?;
    Ok(())
}
