//! Renews this worker's certificate when two thirds of its time are over, by showing it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::backoff::Backoff;
use marquee_proto::v1::trust_client::TrustClient;
use marquee_proto::{certificate, v1};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::blocking::blocking;
use crate::connect;
use crate::member::{self, Folder};
use crate::rank::held::Host;

/// When it is renewed, as a part of its time: in the middle, and how far from there, so that a hundred workers that
/// joined together do not come together.
const DUE_AT: f64 = 2.0 / 3.0;
const SPREAD: f64 = 0.05;
/// How often the time is looked at: a clock that is set, or a host that slept, is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// How long the coordinator may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Least time between two certificates: where the clocks of this host and of the coordinator are far apart, each new one
/// may look as if most of its time were over.
const PAUSE: Duration = Duration::from_secs(10);
/// First and longest wait after a try in vain: there are ten days left.
const RETRY: Backoff = Backoff::new(Duration::from_secs(15), Duration::from_secs(3_600));

/// Keeps the certificate good for as long as the daemon lives.
pub(crate) async fn run(host: Arc<Host>, folder: Folder) {
    // Drawn once: each look would otherwise be another throw of the dice.
    let part = DUE_AT + SPREAD * (2.0 * host.env.random.unit() - 1.0);
    let mut backoff = RETRY;
    loop {
        let now = host.env.clock.now();
        let due = host
            .coordinators
            .certificate()
            .and_then(|pem| due(&pem, part));
        let Some(due) = due else {
            warn!("this worker's certificate cannot be read, and is not renewed; join again");
            return;
        };
        if now < due {
            let left = (due - now).to_std().unwrap_or_default();
            sleep(left.min(LOOK_EVERY)).await;
            continue;
        }
        // One that expired cannot be shown; the session says so, and what to do.
        match renew(&host, &folder).await {
            Ok(()) => {
                backoff.reset();
                sleep(PAUSE).await;
            }
            Err(error) => {
                let wait = backoff.next_spread(host.env.random.unit());
                warn!(
                    error = format!("{error:#}"),
                    ?wait,
                    "this worker's certificate is not renewed yet"
                );
                sleep(wait).await;
            }
        }
    }
}

/// When a certificate is to be renewed.
fn due(pem: &str, part: f64) -> Option<DateTime<Utc>> {
    let own = certificate::read(pem).ok()?.into_iter().next()?;
    let life = own.not_after - own.not_before;
    let until_then = TimeDelta::from_std(life.to_std().ok()?.mul_f64(part)).ok()?;
    Some(own.not_before + until_then)
}

/// Gets another certificate, and shows it from now on.
pub(crate) async fn renew(host: &Host, folder: &Folder) -> anyhow::Result<()> {
    let key = member::new_key()?;
    let csr = member::request(&key)?;
    let channel = host.coordinators.channel()?;
    let asking = async {
        TrustClient::new(channel)
            .renew(v1::RenewRequest { csr })
            .await
    };
    let answer = timeout(ANSWER_MAX, asking)
        .await
        .context("the coordinator did not answer in time")?;
    let answer = answer
        .map_err(|status| anyhow::anyhow!("the coordinator refused: {}", connect::why(&status)))?
        .into_inner();
    let own = certificate::read(&answer.certificate);
    let own = own.map_err(|why| anyhow::anyhow!("what the coordinator gave {why}"))?;
    let own = own.first().context("the coordinator gave no certificate")?;
    let ends = own.not_after;
    let folder = folder.clone();
    let tls = blocking(move || {
        folder.store_identity(&answer.certificate, &key, &answer.authority)?;
        anyhow::Ok(folder.tls()?)
    })
    .await??;
    host.coordinators.renewed(tls);
    info!(good_until = %ends, "this worker's certificate was renewed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_two_thirds_of_its_time() {
        let key = member::new_key().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let pem = params.self_signed(&key).unwrap().pem();
        let due = due(&pem, DUE_AT).unwrap();
        assert_eq!(due.format("%Y-%m-%d %H:%M").to_string(), "2026-01-21 00:00");
        assert!(super::due("", DUE_AT).is_none());
    }
}
