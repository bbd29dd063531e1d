//! Settings that are read anew at SIGHUP: what an orderly stop does, and certificates. What the rest of the daemon was
//! built from is named, and waits for a restart, which with `on_stop = "keep"` interrupts nothing.

use std::sync::Arc;

use marquee_settings::{Reread, Setting};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use crate::blocking::blocking;
use crate::config::{Config, ConfigError, OnStop};
use crate::rank::held::Host;

/// Keys that are in force as soon as they are read anew. The files of `[tls]` are, under the same names, too.
const LIVE: [&str; 5] = [
    "on_stop",
    "finish_within_s",
    "tls.ca",
    "tls.cert",
    "tls.key",
];

/// Reads the settings as the start did, with the place where each was written.
pub type Read = Arc<dyn Fn() -> Result<(Config, Vec<Setting>), ConfigError> + Send + Sync>;

/// What an orderly stop does to ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) on_stop: OnStop,
    pub(crate) finish_within_s: u32,
}

impl Ending {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            on_stop: config.on_stop,
            finish_within_s: config.finish_within_s,
        }
    }
}

/// The settings as they were read, and each further reading.
#[derive(Debug)]
pub(crate) struct Readings {
    pub(crate) in_force: Vec<Setting>,
    pub(crate) receiver: mpsc::Receiver<(Config, Vec<Setting>)>,
}

impl Readings {
    /// None will follow.
    pub(crate) fn none() -> Self {
        Self {
            in_force: Vec::new(),
            receiver: mpsc::channel(1).1,
        }
    }

    /// Reads the settings at each SIGHUP. What cannot be used is said, and those before stay in force.
    pub(crate) fn at_each_hangup(read: Read) -> anyhow::Result<Self> {
        let in_force = read()?.1;
        let mut hangup = signal(SignalKind::hangup())?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let read = Arc::clone(&read);
                match blocking(move || read()).await {
                    Ok(Ok(reading)) => {
                        if sender.send(reading).await.is_err() {
                            return;
                        }
                    }
                    Ok(Err(wrong)) => error!(
                        error = %wrong,
                        "the settings cannot be read anew; those before stay in force"
                    ),
                    Err(failed) => error!(error = %failed, "the settings were not read anew"),
                }
            }
        });
        Ok(Self { in_force, receiver })
    }

    /// Puts into force what can be of each new reading.
    pub(crate) async fn follow(mut self, host: Arc<Host>, ending: watch::Sender<Ending>) {
        while let Some((config, now)) = self.receiver.recv().await {
            let changed = Reread::take(&mut self.in_force, now, &LIVE);
            // Nobody waits for it: the stop that comes one day looks at the value that is there
            // then.
            ending.send_replace(Ending::of(&config));
            let certificates = if host.coordinators.take_certificates(config.tls) {
                "; certificates are others from now on"
            } else {
                ""
            };
            info!(
                "the settings were read anew; {}{certificates}",
                changed.text()
            );
        }
    }
}
