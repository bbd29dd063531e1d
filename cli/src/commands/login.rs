//! `marquee login`, `logout` and `whoami`: the token by which a user shows who he is.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use marquee_view::users::{Who, roles};

use crate::bearer::Bearer;
use crate::client::Remote;
use crate::context::{self, Place};
use crate::error::{CliError, Result};
use crate::say::say;
use crate::session::Session;
use crate::tokens::{self, Kept, may_carry};
use crate::{clock, requests};

/// Keep a token for this coordinator, so that every command shows it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee login                            asks for the token, and does not show it
  marquee login --token-file ./token
  ssh head marquee admin token create ada | marquee login --token-file -

An administrator makes the token (\"marquee admin token create NAME\"). It is kept beside the context file, for you
alone, and sent to the coordinator that it was given for, over TLS or within this host. Programs are given it by
MARQUEE_TOKEN or MARQUEE_TOKEN_FILE instead. It is never an argument: every account of a host sees those.")]
pub(super) struct LoginArgs {
    /// A file with the token, or - for stdin
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Forget the token that was kept for this coordinator
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee logout

The token itself stays valid until it ends; \"marquee admin token revoke ID\" ends it.")]
pub(super) struct LogoutArgs {}

/// Say who you are to this coordinator, and what you may do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee whoami
  marquee whoami --output json | jq -r .expires_at")]
pub(super) struct WhoamiArgs {}

pub(super) async fn login(args: LoginArgs, session: &Session) -> Result<()> {
    // Without what the environment or an earlier login gives: the new token is what is tried.
    let place = session.bare_place()?;
    if !may_carry(&place.addr) {
        return Err(CliError::Usage(format!(
            "a token is sent over TLS or within this host alone, and {} is neither; write https://, and [tls] in the \
             context file",
            place.addr
        )));
    }
    let token = match &args.token_file {
        Some(file) => tokens::read_file(file)?,
        None if std::io::stdin().is_terminal() => ask()?,
        None => tokens::read_file(Path::new("-"))?,
    };
    let remote = Remote::new(Place {
        token: Some(token.clone()),
        ..place.clone()
    })?;
    // Shown before it is kept: one that is refused is of no use later either.
    let who = requests::users::who_am_i(&remote).await?;
    if !who.has_users {
        return Err(CliError::Usage(format!(
            "{} has no users, so that nobody needs a token there; \"marquee admin user add NAME --role admin\" makes the \
             first",
            place.addr
        )));
    }
    kept()?.keep(&place, &token)?;
    session.output.show(&Who(&who), clock::now())?;
    say!(
        "logged in at {} as {} ({})",
        place.addr,
        who.name,
        roles(&who.grants)
    );
    Ok(())
}

/// Asks at the terminal, which does not show what is typed.
fn ask() -> Result<Bearer> {
    say!("token:");
    let typed = console::Term::stderr().read_secure_line()?;
    Bearer::of(&typed, "that was typed")
}

fn kept() -> Result<Kept> {
    let context = context::default_path().ok_or_else(|| {
        CliError::Usage("there is no folder to keep a token in; set HOME or MARQUEE_CONTEXT".into())
    })?;
    Kept::load(&context)
}

pub(super) fn logout(_: LogoutArgs, session: &Session) -> Result<()> {
    let place = session.bare_place()?;
    match kept()?.forget(&place)? {
        true => say!("the token for {} is forgotten here", place.addr),
        false => say!("no token was kept for {}", place.addr),
    }
    Ok(())
}

pub(super) async fn whoami(_: WhoamiArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let who = requests::users::who_am_i(&remote).await?;
    session.output.show(&Who(&who), clock::now())?;
    Ok(())
}
