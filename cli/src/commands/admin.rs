//! `marquee admin`: what whoever runs the cluster sets and looks at. One file a group, below `admin/`.

mod backup;
mod ca;
mod settings;
mod token;
mod user;
mod worker;

use std::io::{BufRead as _, IsTerminal as _};

use chrono::{DateTime, Utc};
use clap::Subcommand;
use marquee_view::{Page, View};
use serde_json::Value;

use super::{audit, coordinators, project};
use crate::error::{CliError, Result};
use crate::output::Format;
use crate::say::say;
use crate::session::Session;

/// Run the cluster: users, tokens, projects, workers, certificates, the audit, settings, coordinators, backups
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin user add ada --role admin
  marquee admin token create ada
  marquee admin worker list
  marquee admin status
  marquee admin audit log --who ada --newest --limit 20
  marquee admin settings
  marquee admin backup ~/backups/vision

On the coordinator's own host, under the account that it runs as or root, all of it works without a token.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    User(user::Args),
    Token(token::Args),
    Project(project::Args),
    Worker(worker::Args),
    Ca(ca::Args),
    Settings(settings::Args),
    Audit(audit::Args),
    Status(coordinators::Args),
    Backup(backup::Args),
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::User(args) => user::run(args, session).await,
        Command::Token(args) => token::run(args, session).await,
        Command::Project(args) => project::run(args, session).await,
        Command::Worker(args) => worker::run(args, session).await,
        Command::Ca(args) => ca::run(args, session).await,
        Command::Settings(args) => settings::run(args, session).await,
        Command::Audit(args) => audit::run(args, session).await,
        Command::Status(args) => coordinators::run(args, session).await,
        Command::Backup(args) => backup::run(args, session).await,
    }
}

/// What would be made, for programs: stdout has one document whatever is tried. People are told on stderr, so that what they
/// pipe on stays empty.
struct Would(Value);

impl View for Would {
    fn page(&self, _page: &mut Page, _now: DateTime<Utc>) {}

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.clone()
    }

    fn ids(&self) -> Vec<String> {
        Vec::new()
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
pub(super) fn confirm(lines: &[String], otherwise: &str) -> Result<()> {
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
    // The whole word: a key that was pressed too early must not lock anybody out.
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(CliError::Usage(otherwise.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Command as Clap;

    use super::*;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        _args: Args,
    }

    /// Those that change nothing.
    const READS: [&str; 10] = [
        "user list",
        "token list",
        "project list",
        "worker list",
        "worker join-tokens",
        "ca rotate status",
        "settings",
        "audit verify",
        "audit log",
        "status",
    ];
    /// Those after which something is not there any more that was: they ask, or are told not to.
    const DESTROYS: [&str; 8] = [
        "user remove",
        "token revoke",
        "worker revoke-token",
        "worker revoke",
        "worker forget",
        "ca rotate switch",
        "ca rotate finish",
        "ca rotate abandon",
    ];

    /// Every command that does something itself, with its words.
    fn leaves(command: &Clap, words: &str, all: &mut Vec<(String, Clap)>) {
        for below in command.get_subcommands() {
            let words = format!("{words} {}", below.get_name());
            if below.has_subcommands() {
                leaves(below, &words, all);
            } else {
                all.push((words.trim().to_owned(), below.clone()));
            }
        }
    }

    #[test]
    fn whatever_changes_can_be_tried_and_whatever_destroys_asks() {
        let mut all = Vec::new();
        leaves(&<Alone as clap::CommandFactory>::command(), "", &mut all);
        let has = |command: &Clap, option: &str| {
            command
                .get_arguments()
                .any(|one| one.get_long() == Some(option))
        };
        for (words, command) in &all {
            let reads = READS.contains(&words.as_str());
            assert_eq!(has(command, "dry-run"), !reads, "{words}: --dry-run");
            if DESTROYS.contains(&words.as_str()) {
                assert!(has(command, "yes"), "{words}: --yes");
            }
        }
        for named in READS.iter().chain(&DESTROYS) {
            assert!(all.iter().any(|(words, _)| words == named), "{named}");
        }
    }
}
