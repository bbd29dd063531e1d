//! Learns of coordinators that came after this worker joined: it joined by one, which may be gone for good when another
//! one leads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use marquee_proto::v1;
use marquee_proto::v1::workers_client::WorkersClient;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::blocking::blocking;
use crate::connect;
use crate::member::Folder;
use crate::rank::held::Host;

/// How often they are asked for: a second coordinator is set up by somebody who stays for longer.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Where nobody answered: the one that leads has to be found first.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long the answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Asks for as long as the daemon lives.
pub(crate) async fn run(host: Arc<Host>, folder: Folder) {
    loop {
        let wait = match ask(&host).await {
            Ok(urls) => {
                if let Some(known) = host.coordinators.learn(urls) {
                    remember(&folder, known).await;
                }
                ASK_EVERY
            }
            Err(error) => {
                debug!(
                    error = format!("{error:#}"),
                    "the coordinators are not known anew"
                );
                ASK_AGAIN
            }
        };
        sleep(wait).await;
    }
}

async fn ask(host: &Host) -> anyhow::Result<Vec<String>> {
    let channel = host.coordinators.channel()?;
    let asking = async {
        let request = v1::ListCoordinatorsRequest {};
        WorkersClient::new(channel).list_coordinators(request).await
    };
    let answer = timeout(ANSWER_MAX, asking)
        .await
        .context("no answer in time")?;
    let answer = answer.map_err(|status| anyhow::anyhow!(connect::why(&status)))?;
    // Only what a cluster says of itself is learned here: none is forgotten, since one that is away
    // may lead again.
    let living = answer.into_inner().coordinators.into_iter();
    Ok(living.map(|coordinator| coordinator.address).collect())
}

async fn remember(folder: &Folder, known: Vec<String>) {
    info!(coordinators = %known.join(", "), "this worker knows more coordinators");
    let folder = folder.clone();
    match blocking(move || folder.store_coordinators(known)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the next daemon will not know them at its start"),
        Err(error) => warn!(%error, "the next daemon will not know them at its start"),
    }
}
