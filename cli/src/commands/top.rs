//! `marquee top`.

use std::io::IsTerminal as _;

use crate::error::{CliError, Result};
use crate::output::Format;
use crate::session::Session;
use crate::top;

/// Watch the cluster on a full screen: hosts and GPUs, the queue and its reasons, jobs and their curves
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee top
  marquee top --once                  one picture, for a pipe or a mail
  marquee top --once --output json    the same for programs

Keys: 1 to 4 and Tab for the pages, arrows and Enter to look closer, l for a job's log, c to cancel
it (asks first), / to search, ? for all keys, q to leave.")]
pub(super) struct Args {
    /// Print one picture and leave; needs no terminal
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    if args.once {
        return once(&remote, session).await;
    }
    if session.output.format != Format::Table {
        let text = "--output is for --once: a full screen is for people alone";
        return Err(CliError::Usage(text.to_owned()));
    }
    if !session.output.is_terminal() || !std::io::stdin().is_terminal() {
        let text = "this is no terminal; \"marquee top --once\" prints one picture";
        return Err(CliError::Usage(text.to_owned()));
    }
    if std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        let text = "TERM says that this terminal has no full screen; \"marquee top --once\" prints one picture";
        return Err(CliError::Usage(text.to_owned()));
    }
    // Quietly: whatever was said on stderr would be written over the picture.
    top::run(&remote.quietly()).await
}

async fn once(remote: &crate::client::Remote, session: &Session) -> Result<()> {
    let text = match session.output.format {
        Format::Table => top::picture(remote, session.output.width()).await?,
        Format::Json => {
            let json = format!("{:#}\n", top::figures(remote).await?);
            marquee_view::harmless_json(&json).into_owned()
        }
        Format::Quiet => {
            let figures = top::figures(remote).await?;
            let running = figures["running"].as_array().cloned().unwrap_or_default();
            running
                .iter()
                .map(|job| format!("{}\n", job["id"]))
                .collect()
        }
    };
    session.output.text(&text)?;
    Ok(())
}
