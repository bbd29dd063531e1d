//! `marquee admin ca`: the authority behind the cluster's certificates.

use marquee_view::trust::AuthorityOf;

use crate::clock;
use crate::error::Result;
use crate::requests::trust;
use crate::session::Session;

/// Show the authority of the cluster's certificates: fingerprint, dates, and the certificate that clients need
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee admin ca
  marquee admin ca --output json | jq -r .certificates > ca.pem")]
pub(in crate::commands) struct Args {}

pub(in crate::commands) async fn run(_: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let authority = trust::authority(&remote).await?;
    session
        .output
        .show(&AuthorityOf(&authority), clock::now())?;
    Ok(())
}
