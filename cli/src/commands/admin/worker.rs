//! `marquee admin worker`: which workers joined the cluster, and which of them are trusted still.

use clap::Subcommand;
use marquee_proto::v1;
use marquee_view::trust::{JoinTokens, Members, NewJoinToken};
use serde_json::json;

use super::{Would, confirm, must_be_shown};
use crate::clock;
use crate::commands::drain::{When, parse_when};
use crate::error::{CliError, Result};
use crate::requests::trust;
use crate::say::say;
use crate::session::Session;

/// Let workers join, under which names, and shut them out
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker list
  marquee admin worker join-token > token
  marquee admin worker revoke gpu-01 --reason \"stolen\"

A worker joins by a token: \"marquee-worker join HOST:PORT --token-file token\" on its host.")]
pub(in crate::commands) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    JoinToken(JoinToken),
    JoinTokens(ListTokens),
    RevokeToken(RevokeToken),
    Rename(Rename),
    Revoke(Revoke),
    Forget(Forget),
}

/// List the workers that joined, and until when each is certified
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker list
  marquee admin worker list --output json | jq '.[] | select(.revoked_at == null)'")]
struct List {}

/// Make a token by which a worker joins; it is shown this once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker join-token > token
  marquee admin worker join-token --name gpu-01 > token     a host that was set up anew, in its old place
  marquee admin worker join-token --uses 20 --ttl 15m > token")]
struct JoinToken {
    /// The only worker that may use it; one of this name that is known already is replaced
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    name: String,
    /// How long it is good: 1m to 30d
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = parse_ttl)]
    ttl: u32,
    /// How many workers may join by it, 1 to 1000
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    uses: u32,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// List the join tokens of the last 30 days, and what became of them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker join-tokens")]
struct ListTokens {}

/// End a join token; workers that joined by it stay
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker revoke-token 3f2a91c0
  marquee admin worker revoke-token 3f2a91c0 --yes")]
struct RevokeToken {
    /// Its id, or the first 8 characters of it
    #[arg(value_name = "ID")]
    id: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Give a worker another name; what it runs goes on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker rename gpu-1 gpu-01")]
struct Rename {
    #[arg(value_name = "WORKER")]
    worker: String,
    #[arg(value_name = "NEW-NAME")]
    new_name: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Shut a worker out: its session ends at once, and what it runs is placed elsewhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker revoke gpu-01 --reason \"stolen\"
  marquee admin worker revoke gpu-01 --dry-run

To let it in again: a token for its name (join-token --name), and \"marquee-worker join\" on its host.")]
struct Revoke {
    #[arg(value_name = "WORKER")]
    worker: String,
    /// Why, for whoever looks
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Remove a worker that is revoked or gone: its certificate is refused, and its name is free
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin worker forget gpu-01
  marquee admin worker forget gpu-01 --yes")]
struct Forget {
    #[arg(value_name = "WORKER")]
    worker: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// A span in seconds. Its bounds are the coordinator's to say.
fn parse_ttl(text: &str) -> Result<u32, String> {
    let wrong = || "write a span: 15m, 1h, 7d".to_owned();
    let When::In(span) = parse_when(text)? else {
        return Err(wrong());
    };
    u32::try_from(span.num_seconds()).map_err(|_| wrong())
}

pub(in crate::commands) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let show = |member: v1::Member| session.output.show(&Members(&[member]), clock::now());
    match args.command {
        Command::List(List {}) => {
            let members = trust::members(&remote).await?;
            session.output.show(&Members(&members), clock::now())?;
            if members.is_empty() && session.output.is_for_people() {
                say!(
                    "no worker has joined; \"marquee admin worker join-token\" makes a token for one"
                );
            }
        }
        Command::JoinToken(JoinToken {
            name,
            ttl,
            uses,
            dry_run,
        }) => {
            if dry_run {
                // Said from here: nothing is asked, and the coordinator may still refuse the time
                // or the name.
                let whom = match name.as_str() {
                    "" => format!("{uses} new worker(s)"),
                    name => format!("worker {name}"),
                };
                if session.output.is_for_people() {
                    say!("would be made: a join token for {whom}, good for {ttl} s");
                }
                let would = json!({
                    "dry_run": true,
                    "name": (!name.is_empty()).then_some(&name),
                    "uses": uses,
                    "ttl_s": ttl,
                });
                return Ok(session.output.show(&Would(would), clock::now())?);
            }
            // Before it is made: its text is in this answer alone, and where that is not shown
            // nobody has it.
            must_be_shown(session)?;
            let request = v1::CreateJoinTokenRequest {
                role: "worker".into(),
                name,
                ttl_s: ttl,
                uses,
            };
            let v1::CreateJoinTokenResponse { token, text } =
                trust::create_token(&remote, request).await?;
            let token = &token.unwrap_or_default();
            let view = NewJoinToken { token, text: &text };
            session.output.show(&view, clock::now())?;
            if session.output.is_for_people() {
                say!("its id is {}; it is not shown again", token.id);
            }
        }
        Command::JoinTokens(ListTokens {}) => {
            let tokens = trust::tokens(&remote).await?;
            session.output.show(&JoinTokens(&tokens), clock::now())?;
        }
        Command::RevokeToken(RevokeToken { id, dry_run, yes }) => {
            if dry_run || !yes {
                let token = find_token(trust::tokens(&remote).await?, &id)?;
                let text = format!("join token {} ends: nobody joins by it any more", token.id);
                if dry_run {
                    say!("would be done: {text}");
                    session.output.show(&JoinTokens(&[token]), clock::now())?;
                    return Ok(());
                }
                confirm(&[text], "nothing was done")?;
            }
            let token = trust::revoke_token(&remote, &id).await?;
            session.output.show(&JoinTokens(&[token]), clock::now())?;
        }
        Command::Rename(rename) => {
            let Rename {
                worker, new_name, ..
            } = rename;
            if rename.dry_run {
                // The coordinator has no dry run of this. What can be said from here is whether
                // there is such a worker.
                let member = find(trust::members(&remote).await?, &worker)?;
                say!("worker {worker} would be called {new_name}");
                show(member)?;
            } else {
                show(trust::rename(&remote, &worker, &new_name).await?)?;
            }
        }
        Command::Revoke(revoke) => {
            if revoke.dry_run || !revoke.yes {
                let member = find(trust::members(&remote).await?, &revoke.worker)?;
                let text = format!(
                    "worker {} is shut out, and what it runs is placed elsewhere",
                    revoke.worker
                );
                if revoke.dry_run {
                    say!("would be done: {text}");
                    return Ok(show(member)?);
                }
                confirm(&[text], "nothing was done")?;
            }
            show(trust::revoke(&remote, &revoke.worker, &revoke.reason).await?)?;
        }
        Command::Forget(forget) => {
            if forget.dry_run || !forget.yes {
                let member = find(trust::members(&remote).await?, &forget.worker)?;
                let text = format!("worker {} is removed, and its name is free", forget.worker);
                if forget.dry_run {
                    say!("would be done: {text}");
                    return Ok(show(member)?);
                }
                confirm(&[text], "nothing was done")?;
            }
            show(trust::forget(&remote, &forget.worker).await?)?;
        }
    }
    Ok(())
}

/// The token of which an id was given, or the beginning of one.
fn find_token(tokens: Vec<v1::JoinToken>, id: &str) -> Result<v1::JoinToken> {
    let mut found = tokens
        .into_iter()
        .filter(|token| token.id.starts_with(&id.to_ascii_lowercase()));
    match (found.next(), found.next()) {
        (Some(token), None) => Ok(token),
        (None, _) | (Some(_), Some(_)) => Err(CliError::Usage(
            "that begins the id of no join token, or of several; \"marquee admin worker join-tokens\" lists them"
                .to_owned(),
        )),
    }
}

fn find(members: Vec<v1::Member>, name: &str) -> Result<v1::Member> {
    let mut members = members.into_iter();
    let found = members.find(|member| member.name == name);
    found.ok_or_else(|| {
        CliError::Usage(format!(
            "no worker {name:?} has joined; \"marquee admin worker list\" shows those that did"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_time_is_a_span() {
        assert_eq!(parse_ttl("15m"), Ok(900));
        assert_eq!(parse_ttl("7d"), Ok(604_800));
        for wrong in ["", "soon", "2027-03-01T06:00:00Z"] {
            assert!(parse_ttl(wrong).is_err(), "{wrong}");
        }
    }
}
