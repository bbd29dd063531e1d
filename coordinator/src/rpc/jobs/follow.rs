//! What the streams of this service share: waiting for news, and sending at the reader's pace.

use std::collections::BTreeSet;
use std::time::Duration;

use marquee_domain::ids::JobId;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;

use crate::app::App;

/// Messages of one stream that wait for their reader; then the stream waits for it.
pub(super) const BUFFERED_MAX: usize = 64;
/// Shortest time between two looks at Postgres, however much happens.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// Longest time between two looks: the hints may be missed, this is the truth.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// How long a stream goes on trying while Postgres is away.
const OUTAGE_MAX: Duration = Duration::from_secs(120);

/// Waits between looks.
#[derive(Debug)]
pub(super) struct News {
    app: App,
    changes: broadcast::Receiver<JobId>,
    last_look: Instant,
    away_since: Option<Instant>,
}

/// The stream's end: its reader went away, or the coordinator stops.
#[derive(Debug)]
pub(super) struct Over;

impl News {
    pub(super) fn new(app: &App) -> Self {
        let changes = app.changes.subscribe();
        Self {
            app: app.clone(),
            changes,
            last_look: Instant::now(),
            away_since: None,
        }
    }

    /// Waits until it is worth looking again at `jobs`: one of them changed, or time went by.
    pub(super) async fn next<T>(
        &mut self,
        jobs: &BTreeSet<JobId>,
        reader: &mpsc::Sender<T>,
    ) -> Result<(), Over> {
        let not_before = self.last_look + LOOK_AT_MOST_EVERY;
        let at_latest = self.last_look + LOOK_AT_LEAST_EVERY;
        let shutdown = self.app.shutdown.clone();
        let changes = &mut self.changes;
        let wait = async {
            sleep_until(not_before).await;
            let changed = async {
                loop {
                    match changes.recv().await {
                        Ok(job) if !jobs.contains(&job) => {}
                        // One of ours, or too many to know.
                        Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            // Nothing heard is no error: then it is time to look.
            let _ = timeout_at(at_latest, changed).await;
        };
        tokio::select! {
            () = wait => {}
            () = reader.closed() => return Err(Over),
            () = shutdown.cancelled() => return Err(Over),
        }
        self.last_look = Instant::now();
        Ok(())
    }

    /// What a look brought: something; nothing, because Postgres is away; or an error that ends
    /// the stream.
    pub(super) fn seen<T>(
        &mut self,
        look: Result<T, crate::lifecycle::LifecycleError>,
    ) -> Result<Option<T>, Status> {
        match look {
            Ok(seen) => {
                self.away_since = None;
                Ok(Some(seen))
            }
            Err(error) => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                if error.may_pass() && since.elapsed() < OUTAGE_MAX {
                    return Ok(None);
                }
                Err(error.into())
            }
        }
    }
}
