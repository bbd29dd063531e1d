//! `marquee admin settings`.

use marquee_view::users::Settings;

use crate::error::Result;
use crate::session::Session;
use crate::{clock, requests};

/// List the settings of the coordinator that answers, and where each was written; what may hold a password is not shown
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin settings
  marquee admin settings --output json | jq -r '.[] | select(.origin != \"default\") | .key'")]
pub(in crate::commands) struct Args {}

pub(super) async fn run(_: Args, session: &Session) -> Result<()> {
    let settings = requests::users::settings(&session.remote()?).await?;
    session.output.show(&Settings(&settings), clock::now())?;
    Ok(())
}
