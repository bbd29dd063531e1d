//! One moment of the cluster, part by part as it comes.

use std::time::Duration;

use marquee_proto::v1::moment_part::Part;
use marquee_proto::v1::{MomentEnd, TakeMomentRequest};

use crate::client::{Remote, Repeat};
use crate::error::Result;

/// Asks for a moment and gives its parts to `take`, but for the end, which is given back. Without one it is an error,
/// whatever came before.
pub(crate) async fn moment(
    remote: &Remote,
    dry_run: bool,
    mut take: impl FnMut(Part) -> Result<()>,
) -> Result<MomentEnd> {
    let request = TakeMomentRequest { dry_run };
    let mut parts = remote
        .call(Repeat::Safe, async || {
            remote.backups().take_moment(request).await
        })
        .await?;
    loop {
        let part = parts.message().await;
        let part = part.map_err(|status| remote.error(&status, 1, Duration::ZERO))?;
        match part.map(|part| part.part) {
            Some(Some(Part::End(end))) => return Ok(end),
            Some(Some(part)) => take(part)?,
            // Of a later version: what it means cannot be told, and a restore would lack it.
            Some(None) => {
                let text = "the coordinator sent a part of the backup that this command line does not know; use the \
                            marquee of its version";
                return Err(anyhow::anyhow!(text).into());
            }
            // Half a backup must not look like a whole one.
            None => {
                let text = "the backup was cut off before its end; run this again";
                return Err(anyhow::anyhow!(text).into());
            }
        }
    }
}
