//! Which authorities this worker believes, as the coordinator that leads says while one of them follows another; and a
//! certificate of the one that signs now, where its own is of the one before.
//!
//! Invariant: what is believed is dropped by name alone. An answer that is behind the times, of a coordinator that has
//! just taken over, adds nothing and takes nothing away.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use marquee_proto::certificate::bundle;
use marquee_proto::v1;
use marquee_proto::v1::trust_client::TrustClient;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::blocking::blocking;
use crate::connect;
use crate::member::Folder;
use crate::rank::held::Host;
use crate::renewal;

/// How long the coordinator keeps the question until there is something to answer, and how long the answer may then take.
const WAIT: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(40);
/// Where nobody answered, or one of a version that lets no worker ask.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Least time between two questions: a coordinator that answers at once each time is not asked without end.
const PAUSE: Duration = Duration::from_millis(500);
/// Workers do not all come for a certificate in one instant.
const SPREAD: Duration = Duration::from_secs(1);

/// Asks for as long as the daemon lives.
pub(crate) async fn run(host: Arc<Host>, folder: Folder) {
    let mut known = String::new();
    loop {
        match follow(&host, &folder, &known).await {
            Ok(state) => {
                known = state;
                sleep(PAUSE).await;
            }
            Err(error) => {
                debug!(
                    error = format!("{error:#}"),
                    "which authorities are believed is not known anew"
                );
                sleep(ASK_AGAIN).await;
            }
        }
    }
}

/// Asks once, and does what follows from the answer. What to ask with next.
async fn follow(host: &Host, folder: &Folder, known: &str) -> anyhow::Result<String> {
    let answer = ask(host, folder, known).await?;
    let (to, authorities, dropped) = (folder.clone(), answer.certificates, answer.dropped);
    let told = authorities.clone();
    let news = blocking(move || to.believe(&told, &dropped)).await??;
    if let Some(believed) = news {
        host.coordinators.believe(believed);
        info!("this worker believes other authorities from now on");
    }
    if answer.can_sign && is_of_another(host, &authorities) {
        sleep(SPREAD.mul_f64(host.env.random.unit())).await;
        if let Err(error) = renewal::renew(host, folder).await {
            warn!(
                error = format!("{error:#}"),
                "this worker's certificate is of an authority that is followed by another one, and is not renewed yet"
            );
            // Asked again as if nothing were known, so that it is tried again.
            sleep(ASK_AGAIN).await;
        }
        return Ok(String::new());
    }
    Ok(answer.state)
}

async fn ask(host: &Host, folder: &Folder, known: &str) -> anyhow::Result<v1::Authority> {
    let folder = folder.clone();
    let believed = blocking(move || folder.believed()).await??;
    let request = v1::GetAuthorityRequest {
        believes: bundle::pins(&believed),
        known: known.to_owned(),
        wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(0),
    };
    let channel = host.coordinators.channel()?;
    let asking = async { TrustClient::new(channel).get_authority(request).await };
    let answer = timeout(ANSWER_MAX, asking)
        .await
        .context("no answer in time")?;
    let answer = answer.map_err(|status| anyhow::anyhow!(connect::why(&status)))?;
    Ok(answer.into_inner())
}

/// Whether this worker's certificate is of another authority than the one that signs, which stands first.
fn is_of_another(host: &Host, authorities: &str) -> bool {
    let own = host.coordinators.certificate();
    let own = own.and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok());
    let signs = bundle::read(authorities).ok();
    let signs = signs.and_then(|all| all.into_iter().next());
    // What cannot be read is no reason to come back for another one without end.
    own.zip(signs)
        .is_some_and(|(own, signs)| !signs.has_signed(&own))
}
