//! `marquee admin`: what whoever runs the cluster sets and looks at. One file a group, below `admin/`.

mod ca;
mod settings;
mod token;
mod user;
mod worker;

use std::io::{BufRead as _, IsTerminal as _};

use clap::Subcommand;

use super::{audit, coordinators};
use crate::error::{CliError, Result};
use crate::output::Format;
use crate::say::say;
use crate::session::Session;

/// Run the cluster: users, tokens, workers, certificates, the audit, settings, coordinators
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin user add ada --role admin
  marquee admin token create ada
  marquee admin worker list
  marquee admin status
  marquee admin audit log --who ada --newest --limit 20
  marquee admin settings

On the coordinator's own host, under the account that it runs as or root, all of it works without a token.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    User(user::Args),
    Token(token::Args),
    Worker(worker::Args),
    Ca(ca::Args),
    Settings(settings::Args),
    Audit(audit::Args),
    Status(coordinators::Args),
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::User(args) => user::run(args, session).await,
        Command::Token(args) => token::run(args, session).await,
        Command::Worker(args) => worker::run(args, session).await,
        Command::Ca(args) => ca::run(args, session).await,
        Command::Settings(args) => settings::run(args, session).await,
        Command::Audit(args) => audit::run(args, session).await,
        Command::Status(args) => coordinators::run(args, session).await,
    }
}

/// What is shown this once is shown at all: of a new token, ids alone would be its id.
fn must_be_shown(session: &Session) -> Result<()> {
    if session.output.format != Format::Quiet {
        return Ok(());
    }
    Err(CliError::Usage(
        "--output quiet would show the new token's id and never the token: nothing was made; leave it out, or write \
         --output json"
            .to_owned(),
    ))
}

/// Says what comes of it and asks at a terminal; elsewhere nobody can answer. `otherwise` is said where nobody agrees.
fn confirm(lines: &[String], otherwise: &str) -> Result<()> {
    for line in lines {
        say!("{line}");
    }
    if !std::io::stdin().is_terminal() {
        let text = format!("{otherwise}: nobody can be asked here; --yes does it without asking");
        return Err(CliError::Usage(text));
    }
    say!("go on? type yes");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(CliError::Usage(otherwise.to_owned()))
}
