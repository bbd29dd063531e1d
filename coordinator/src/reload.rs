//! Settings that are read anew at SIGHUP. Who may ask is in force at once; what the rest of this process was built from
//! is named, and waits for a restart. Certificates need no signal: `tls` looks at their files by itself.

use std::sync::Arc;

use marquee_settings::Reread;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::blocking::blocking;
use crate::config::{Config, ConfigError, LIVE};
use crate::listing::Listing;

/// Reads the settings as the start did.
pub type Read = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Reads the settings at each SIGHUP until `shutdown`. What cannot be used is said, and those before stay in force.
pub(crate) fn at_each_hangup(
    read: Read,
    shutdown: CancellationToken,
) -> anyhow::Result<mpsc::Receiver<Config>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = hangup.recv() => {}
            }
            let read = Arc::clone(&read);
            match blocking(move || read()).await {
                Ok(Ok(config)) => {
                    if sender.send(config).await.is_err() {
                        return;
                    }
                }
                Ok(Err(error)) => tracing::error!(
                    error = error.to_string(),
                    "the settings cannot be read anew; those before stay in force"
                ),
                Err(error) => tracing::error!(%error, "the settings were not read anew"),
            }
        }
    });
    Ok(receiver)
}

/// Puts into force what can be of each new reading.
pub(crate) async fn follow(access: Access, listing: Listing, mut readings: mpsc::Receiver<Config>) {
    while let Some(config) = readings.recv().await {
        take(&access, &listing, config);
    }
}

fn take(access: &Access, listing: &Listing, config: Config) {
    let mut in_force = listing.get().to_vec();
    let changed = Reread::take(&mut in_force, config.listing, &LIVE);
    access.change(config.access);
    listing.set(in_force);
    tracing::info!("the settings were read anew; {}", changed.text());
}
