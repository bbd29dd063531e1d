//! What the streams of this service share: waiting for news, and sending at the reader's pace.

use std::collections::BTreeSet;
use std::time::Duration;

use marquee_domain::ids::JobId;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use crate::app::{App, Change};

/// Messages of one stream that wait for their reader; then the stream waits for it.
pub(in crate::rpc) const BUFFERED_MAX: usize = 64;
/// Shortest time between two looks at Postgres, however much happens; where a job has ended, which somebody
/// may wait for, and otherwise.
const LOOK_AT_END_AFTER: Duration = Duration::from_millis(5);
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// A stream waits for this many times as long as its looks take: a large array costs each of its watchers
/// more, and they must not cost everybody else.
const PAUSE_PER_LOOK: u32 = 10;
/// Longest time between two looks: the hints may be missed, this is the truth.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// How long a stream goes on trying while Postgres is away.
const OUTAGE_MAX: Duration = Duration::from_secs(120);

/// Waits between looks.
#[derive(Debug)]
pub(in crate::rpc) struct News {
    app: App,
    changes: broadcast::Receiver<Change>,
    last_look: Instant,
    /// How long it took.
    look_took: Duration,
    away_since: Option<Instant>,
}

/// The stream's end before there was nothing more to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rpc) enum Over {
    ReaderGone,
    Stopping,
}

impl Over {
    /// Says to a reader who is there that more was to come: without a word it would look like all there is.
    pub(in crate::rpc) async fn tell<T>(self, reader: &mpsc::Sender<Result<T, Status>>) {
        if self == Self::Stopping {
            let status = Status::unavailable("the coordinator is stopping");
            let _ = reader.send(Err(status)).await;
        }
    }
}

impl News {
    pub(in crate::rpc) fn new(app: &App) -> Self {
        let changes = app.changes.subscribe();
        Self {
            app: app.clone(),
            changes,
            last_look: Instant::now(),
            look_took: Duration::ZERO,
            away_since: None,
        }
    }

    /// Waits until it is worth looking again at `jobs`: one of them changed, or time went by.
    pub(in crate::rpc) async fn next<T>(
        &mut self,
        jobs: &BTreeSet<JobId>,
        reader: &mpsc::Sender<T>,
    ) -> Result<(), Over> {
        let spared = self.look_took * PAUSE_PER_LOOK;
        let soonest = self.last_look + LOOK_AT_END_AFTER.max(spared);
        let usual = self.last_look + LOOK_AT_MOST_EVERY.max(spared);
        let at_latest = usual.max(self.last_look + LOOK_AT_LEAST_EVERY);
        let shutdown = self.app.shutdown.clone();
        let changes = &mut self.changes;
        let wait = async {
            // When to look, by what was heard so far.
            let mut look_at = at_latest;
            loop {
                match timeout_at(look_at, changes.recv()).await {
                    // Nothing more heard is no error: then it is time to look.
                    Err(_) => return,
                    Ok(Ok(change)) if !jobs.contains(&change.job) => {}
                    Ok(Ok(Change { ended: true, .. })) => look_at = look_at.min(soonest),
                    // One of ours, or too many to know.
                    Ok(Ok(_) | Err(broadcast::error::RecvError::Lagged(_))) => {
                        look_at = look_at.min(usual);
                    }
                    Ok(Err(broadcast::error::RecvError::Closed)) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = wait => {}
            () = reader.closed() => return Err(Over::ReaderGone),
            () = shutdown.cancelled() => return Err(Over::Stopping),
        }
        self.last_look = Instant::now();
        Ok(())
    }

    /// What a look brought: something; nothing, because Postgres is away; or an error that ends
    /// the stream.
    pub(in crate::rpc) fn seen<T>(
        &mut self,
        look: Result<T, crate::lifecycle::LifecycleError>,
    ) -> Result<Option<T>, Status> {
        self.look_took = self.last_look.elapsed();
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
