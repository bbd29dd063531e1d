//! `marquee coordinators`.

use marquee_view::coordinators::Coordinators;

use crate::error::Result;
use crate::session::Session;
use crate::{clock, requests};

/// List the coordinators that live: which one leads, since which epoch, and which stand by
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee coordinators
  marquee coordinators --addr head-1:7700,head-2:7700
  marquee coordinators --output json | jq -r .leader")]
pub(super) struct Args {}

pub(super) async fn run(_: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let answer = requests::workers::coordinators(&remote).await?;
    session.output.show(&Coordinators(&answer), clock::now())?;
    Ok(())
}
