//! `marquee admin token`: what users show who they are by.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use marquee_proto::v1;
use marquee_view::users::{Tokens, token_json};
use marquee_view::{Page, View, units};
use serde_json::{Value, json};

use super::{Would, confirm, must_be_shown};
use crate::bearer::Bearer;
use crate::commands::drain::{When, parse_when};
use crate::error::Result;
use crate::say::say;
use crate::session::Session;
use crate::tokens::NewFile;
use crate::{clock, requests};

/// Make, list and revoke tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin token create ada > token          the token alone on stdout, once
  marquee admin token create ci --ttl 30d --note \"nightly runs\" --out ci.token
  marquee admin token list
  marquee admin token revoke 4f0c2a91b6d3")]
pub(in crate::commands) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a token for a user; it is shown this once and kept nowhere
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin token create ada
  marquee admin token create ci --ttl 30d --note \"nightly runs\" --out ci.token")]
struct Create {
    /// The user
    #[arg(value_name = "USER")]
    user: String,
    /// How long it lives: a span (12h, 30d) or a time; at most 366d
    #[arg(long, value_name = "SPAN|TIME", default_value = "90d", value_parser = parse_when)]
    ttl: When,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Write it into this new file, for you alone, in place of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// List tokens, without what is secret of them; without the rights of an administrator one's own
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin token list
  marquee admin token list ada --output json")]
struct List {
    /// Only of this user
    #[arg(value_name = "USER")]
    user: Option<String>,
}

/// End a token, and the browsers that are logged in by it, at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin token revoke 4f0c2a91b6d3
  marquee admin token revoke 4f0c2a91b6d3 --yes")]
struct Revoke {
    /// Its id: the twelve digits behind mqu_
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: String,
    /// Only say what would end
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// A whole token is refused here: the history of the shell has it by now.
fn parse_id(text: &str) -> Result<String, String> {
    let is_id = text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| text.to_owned()).ok_or_else(|| {
        "write the twelve digits behind mqu_ alone, and never a whole token".to_owned()
    })
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    match args.command {
        Command::Create(args) => create(args, session).await,
        Command::List(args) => {
            let user = args.user.unwrap_or_default();
            let tokens = requests::users::tokens(&session.remote()?, &user).await?;
            session.output.show(&Tokens(&tokens), clock::now())?;
            Ok(())
        }
        Command::Revoke(args) => revoke(args, session).await,
    }
}

async fn create(args: Create, session: &Session) -> Result<()> {
    let now = clock::now();
    // A span and no time is sent: the coordinator's clock decides what is over, and this one may be
    // wrong.
    let ttl = args.ttl.from(now) - now;
    let request = v1::CreateTokenRequest {
        user: args.user.clone(),
        // What is over, or no time at all, the coordinator refuses by name.
        ttl_seconds: u64::try_from(ttl.max(TimeDelta::seconds(1)).num_seconds()).unwrap_or(1),
        note: args.note,
    };
    if args.dry_run {
        let until = units::rfc3339(now + ttl);
        if session.output.is_for_people() {
            say!("would be made: a token of {}, until {until}", request.user);
        }
        let would = json!({
            "dry_run": true,
            "user": request.user,
            "note": request.note,
            "expires_at": until,
        });
        return Ok(session.output.show(&Would(would), now)?);
    }
    let place = match &args.out {
        // Before the token is made. One that could not be written down would be valid for months
        // and known to nobody.
        Some(out) => Some(NewFile::create(out)?),
        None => {
            must_be_shown(session)?;
            None
        }
    };
    let made = requests::users::create_token(&session.remote()?, &request).await?;
    let token = made.token.unwrap_or_default();
    let secret = Bearer::of(&made.secret, "that was made")?;
    let ends = units::time(token.expires_at.as_ref()).map(units::rfc3339);
    let ends = ends.unwrap_or_default();
    let view = Made {
        token: &token,
        secret: args.out.is_none().then_some(&secret),
    };
    if let Some(place) = place {
        let out = place.write(&secret).map_err(|error| {
            error.context(format!(
                "token {} of {} was made, and is kept nowhere; \"marquee admin token revoke {}\" ends it",
                token.id, token.user, token.id
            ))
        })?;
        say!(
            "token {} of {} is in {}, until {ends}",
            token.id,
            token.user,
            out.display()
        );
    } else {
        say!(
            "token {} of {}, until {ends}; it is shown this once: \"marquee login\" keeps it",
            token.id,
            token.user
        );
    }
    session.output.show(&view, now)?;
    Ok(())
}

/// A token that was made: its secret, where it went into no file.
struct Made<'a> {
    token: &'a v1::Token,
    secret: Option<&'a Bearer>,
}

impl View for Made<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        if let Some(secret) = self.secret {
            page.line(secret.reveal());
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let mut json = token_json(self.token);
        if let (Some(fields), Some(secret)) = (json.as_object_mut(), self.secret) {
            fields.insert("secret".to_owned(), secret.reveal().into());
        }
        json
    }

    fn ids(&self) -> Vec<String> {
        vec![self.token.id.clone()]
    }
}

async fn revoke(args: Revoke, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    // Looked up first, also where it will be asked: the question names what would end.
    let token = if args.dry_run || !args.yes {
        let would = requests::users::revoke_token(&remote, &args.id, true).await?;
        if args.dry_run {
            would
        } else {
            let line = format!(
                "token {} of {} would end{}",
                would.id,
                would.user,
                match would.browsers {
                    0 => String::new(),
                    count => format!(", with {count} browser(s)"),
                }
            );
            confirm(&[line], "nothing was revoked")?;
            requests::users::revoke_token(&remote, &args.id, false).await?
        }
    } else {
        requests::users::revoke_token(&remote, &args.id, false).await?
    };
    session.output.show(&Tokens(&[token]), clock::now())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_token_is_no_id_and_is_not_repeated() {
        assert_eq!(parse_id("4f0c2a91b6d3").unwrap(), "4f0c2a91b6d3");
        let whole = format!("mqu_4f0c2a91b6d3_{}", "ab".repeat(32));
        let error = parse_id(&whole).unwrap_err();
        assert!(!error.contains("abab"), "{error}");
    }

    #[test]
    fn a_secret_is_shown_once_and_where_it_went_into_a_file_nowhere() {
        let secret = Bearer::of(&format!("mqu_4f0c2a91b6d3_{}", "ab".repeat(32)), "x").unwrap();
        let token = v1::Token {
            id: "4f0c2a91b6d3".into(),
            user: "ada".into(),
            ..v1::Token::default()
        };
        let now = clock::now();
        let text =
            |view: &Made<'_>| crate::output::terminal::draw(&Page::of(view, now), false, None);
        let shown = Made {
            token: &token,
            secret: Some(&secret),
        };
        assert_eq!(text(&shown), format!("{}\n", secret.reveal()));
        assert_eq!(shown.json(now)["secret"], secret.reveal());
        let filed = Made {
            token: &token,
            secret: None,
        };
        assert_eq!(text(&filed), "");
        for view in [&shown, &filed] {
            assert_eq!(view.ids(), ["4f0c2a91b6d3"]);
        }
        assert!(!filed.json(now).to_string().contains("abab"));
    }

    #[test]
    fn an_id_is_twelve_digits_and_no_more() {
        for wrong in [
            "",
            "4f0c2a91b6d",
            "4f0c2a91b6d34",
            "4f0c2a91b6dg",
            "mqu_4f0c2a91",
            "４f0c2a91b",
        ] {
            assert!(parse_id(wrong).is_err(), "{wrong:?}");
        }
    }
}
