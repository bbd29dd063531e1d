//! All ranks this worker holds, and what the coordinator says about them.
//!
//! Invariant: every order is idempotent and on disk before it is followed. Not here: the
//! connection ([`crate::session`]) and a rank's own life ([`crate::rank::task`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_domain::RankKey;
use marquee_domain::rate::RateShare;
use marquee_proto::v1;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::blocking::blocking;
use crate::durable;
use crate::fault::at;
use crate::files;
use crate::process::launcher::Status;
use crate::rank::held::{HeldRank, Host};
use crate::rank::life::Closed;
use crate::rank::prepare::end;
use crate::rank::store::failure;
use crate::rank::task::RankTask;
use crate::rank::temporary;
use crate::rank::{Assignment, StartOrder, StopCause, StopOrder};
use crate::transfer::{NoRoom, TransferError};

/// How long a rendezvous store outlives its rank, so that slower ranks can say goodbye to it.
const STORE_LINGER: Duration = Duration::from_secs(5);

/// Every rank that this worker holds.
#[derive(Debug)]
pub struct Supervisor {
    host: Arc<Host>,
    state: Mutex<State>,
    /// Rung when a rank's task has ended, or a rank is held no longer.
    closed: Notify,
    /// Where work goes on that an order began.
    runtime: Handle,
    /// Cancelled when stores shall linger no longer.
    no_linger: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    ranks: BTreeMap<RankKey, RankEntry>,
    /// Work on ranks that are held no longer: ending their stores, removing their folders.
    retiring: JoinSet<()>,
    /// No new ranks: the daemon is being stopped, and each is told so.
    leaving: Option<StopOrder>,
}

#[derive(Debug)]
struct RankEntry {
    rank: Arc<HeldRank>,
    /// Its task has ended; only acknowledgements are missing.
    is_closed: bool,
}

impl Supervisor {
    /// Takes over what an earlier daemon held.
    pub fn recover(host: Arc<Host>) -> io::Result<Arc<Self>> {
        let attempts = host.attempts();
        files::make_folder(&attempts)?;
        durable::sweep(&attempts)?;
        let supervisor = Arc::new(Self {
            host,
            state: Mutex::default(),
            closed: Notify::new(),
            runtime: Handle::current(),
            no_linger: CancellationToken::new(),
        });
        let found = fs::read_dir(&attempts).map_err(|e| at(&attempts, e))?;
        let found = found.map(|entry| Ok(entry.map_err(|e| at(&attempts, e))?.path()));
        let mut found = found.collect::<io::Result<Vec<_>>>()?;
        // The same order each time, whatever the file system says.
        found.sort();
        let mut ranks = Vec::new();
        for path in found {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let Ok(key) = name.parse::<RankKey>() else {
                continue;
            };
            match HeldRank::recover(&supervisor.host, key) {
                Ok(Some(rank)) => {
                    info!(rank = %key, state = rank.state().as_str(), "taking over a rank");
                    ranks.push(rank);
                }
                // Never accepted: nothing was started.
                Ok(None) => durable::remove_or_leave(&path),
                Err(fault) => {
                    error!(rank = %key, %fault, ?path, "the rank's folder cannot be read; it stays as it is, look into it and remove it");
                    tokio::spawn(end_what_runs_in(Arc::clone(&supervisor.host), path));
                }
            }
        }
        // Where children may run is known before any other is started.
        for rank in &ranks {
            if !rank.state().has_ended() && rank.dir.has_launched()? {
                let occupied = &supervisor.host.occupied;
                occupied.take_over(rank.key, &rank.assignment.devices);
            }
        }
        // Only now, when all devices that may be in use are known to be: the first task could otherwise start a child
        // on one.
        for rank in ranks {
            supervisor.hold(rank);
        }
        // After the ranks, which have pinned their inputs by now.
        supervisor.host.cache.sweep();
        Ok(supervisor)
    }

    /// Holds a rank and sets its task to work. The caller runs inside the runtime.
    fn hold(self: &Arc<Self>, rank: HeldRank) {
        let rank = Arc::new(rank);
        let key = rank.key;
        let entry = RankEntry {
            rank: Arc::clone(&rank),
            is_closed: false,
        };
        self.state().ranks.insert(key, entry);
        let supervisor = Arc::clone(self);
        let task = RankTask {
            host: Arc::clone(&self.host),
            rank,
        };
        tokio::spawn(async move {
            match task.run().await {
                Closed::Forget => supervisor.retire(key),
                Closed::Reported => {
                    if let Some(entry) = supervisor.state().ranks.get_mut(&key) {
                        entry.is_closed = true;
                    }
                    supervisor.forget_if_told(key);
                }
            }
            supervisor.closed.notify_waiters();
            supervisor.host.news.notify_one();
        });
    }

    /// Accepts an assignment. One that is held already is left as it is.
    pub fn assign(self: &Arc<Self>, message: v1::Assign) -> io::Result<()> {
        let assignment = Assignment::from_wire(message);
        let key = assignment.key;
        {
            let state = self.state();
            let is_held = state.ranks.contains_key(&key);
            #[cfg(feature = "planted")]
            let is_held = is_held && !marquee_domain::planted::is("assignment-taken-twice");
            if is_held {
                return Ok(());
            }
            if state.leaving.is_some() {
                info!(rank = %key, "not accepted: this worker is being stopped");
                return Ok(());
            }
        }
        info!(rank = %key, world_size = assignment.world_size, "assigned");
        // A rank that cannot be taken is held all the same, as failed: said nothing of, it would be given out again
        // and again.
        let rank = HeldRank::accept(&self.host, assignment.clone()).or_else(|fault| {
            error!(rank = %key, %fault, "the rank cannot be taken; it is reported as failed");
            HeldRank::refuse(&self.host, assignment, &fault)
        })?;
        self.hold(rank);
        self.host.news.notify_one();
        // One that was being accepted while all were stopped.
        let closing = self.state().leaving.clone();
        if let (Some(stop), Some(rank)) = (closing, self.find(key)) {
            rank.order_stop(stop);
        }
        Ok(())
    }

    /// Lets a prepared rank start its child.
    pub fn start(&self, message: v1::Start) -> io::Result<()> {
        let key = RankKey::new(message.job_id, message.attempt, message.rank);
        let Some(rank) = self.find(key) else {
            warn!(rank = %key, "told to start a rank that is not held");
            return Ok(());
        };
        let rendezvous = message.rendezvous.map(TryInto::try_into).transpose();
        let standby = message.standby.map(TryInto::try_into).transpose();
        rank.order_start(StartOrder {
            rendezvous: rendezvous.map_err(io::Error::other)?,
            standby: standby.map_err(io::Error::other)?,
        })
    }

    /// Tells a rank's child which ranks its attempt goes on without. It is told anew with each
    /// heartbeat; one that is not held is no concern.
    pub fn ranks_lost(&self, message: &v1::RanksLost) -> io::Result<()> {
        let key = RankKey::new(message.job_id, message.attempt, message.rank);
        let Some(rank) = self.find(key) else {
            return Ok(());
        };
        let path = rank.dir.lost_ranks();
        let known = files::read_json::<Vec<u32>>(&path).ok().flatten();
        // Told with each heartbeat: written each time, the child would read the same file anew every few seconds.
        if known.as_ref() == Some(&message.lost) {
            return Ok(());
        }
        info!(rank = %key, lost = ?message.lost, "other ranks were lost");
        durable::replace_json_for_child(&path, &message.lost)
    }

    /// Stops a rank, or forgets it. One that is not held is no concern.
    pub fn stop(self: &Arc<Self>, message: v1::Stop) {
        let key = RankKey::new(message.job_id, message.attempt, message.rank);
        let Some(rank) = self.find(key) else {
            return;
        };
        let cause = if message.forget {
            StopCause::Forget
        } else {
            StopCause::Coordinator
        };
        rank.order_stop(StopOrder {
            grace_ms: message.grace_ms,
            reason: message.reason,
            cause,
        });
        self.forget_if_told(key);
    }

    /// Lets go of a rank that has ended and that nobody wants to hear of. Looked at after either
    /// became true, so that it does not matter which came last.
    fn forget_if_told(self: &Arc<Self>, key: RankKey) {
        let is_due = self.state().ranks.get(&key).is_some_and(|entry| {
            let orders = entry.rank.orders();
            let stop = &orders.borrow().stop;
            entry.is_closed
                && stop
                    .as_ref()
                    .is_some_and(|stop| stop.cause == StopCause::Forget)
        });
        if is_due {
            self.retire(key);
        }
    }

    /// Passes shares of hosts' rates on, good until `until_ms` of the machine's clock since its boot.
    pub fn share_rates(&self, shares: Vec<v1::RateShare>, until_ms: u64) -> io::Result<()> {
        for share in shares {
            let key = RankKey::new(share.job_id, share.attempt, share.rank);
            if let Some(rank) = self.find(key) {
                rank.share_rate(&RateShare {
                    number: share.number,
                    per_second: share.per_second,
                    in_flight: share.in_flight,
                    hosts: share.hosts,
                    until_ms,
                })?;
            }
        }
        Ok(())
    }

    /// Notes what the coordinator has stored. A rank whose last report it has is held no longer.
    pub fn ack(self: &Arc<Self>, key: RankKey, sequence: u64) {
        let Some(rank) = self.find(key) else {
            return;
        };
        let is_done = {
            let mut spool = rank.spool();
            spool.ack(sequence);
            spool.state().has_ended() && spool.acked() == spool.last_sequence()
        };
        if is_done {
            self.retire(key);
        }
    }

    /// Stores an output that was kept, and answers when that is done or given up.
    pub fn rescue(&self, message: &v1::Rescue) -> io::Result<()> {
        let key = RankKey::new(message.job_id, message.attempt, message.rank);
        if message.committed {
            info!(rank = %key, "the kept output is stored");
            return self.host.kept.drop_output(key);
        }
        let host = Arc::clone(&self.host);
        let runtime = self.runtime.clone();
        // By itself: gigabytes may go up, and orders behind this one are not to wait for it.
        runtime.spawn(async move {
            let stored = match host.kept.find(key) {
                Some(folder) => host.transfers.upload(&folder, NoRoom::Fail).await,
                None => {
                    let path = host.config.data_dir.join("kept").join(key.to_string());
                    let source = io::ErrorKind::NotFound.into();
                    Err(TransferError::Disk { path, source })
                }
            };
            let (output, failed) = match &stored {
                Ok(manifest) => (Some(v1::Manifest::from(manifest)), None),
                Err(error) => (None, Some(failure(error).into())),
            };
            let answer = v1::Rescued {
                job_id: key.job.0,
                attempt: key.attempt.0,
                rank: key.rank.0,
                output,
                failure: failed,
            };
            let rescued = host.rescued.lock();
            rescued.unwrap_or_else(PoisonError::into_inner).push(answer);
            host.news.notify_one();
        });
        Ok(())
    }

    /// Whether the daemon is being stopped: no new rank is accepted.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.state().leaving.is_some()
    }

    /// Whether a rank is held that stops when the lease is over.
    #[must_use]
    pub fn stops_with_lease(&self) -> bool {
        self.state()
            .ranks
            .values()
            .any(|entry| entry.rank.stops_with_lease)
    }

    /// Takes no more ranks for the daemon's own end, and stops those that have not begun. Those that run go on.
    pub fn begin_nothing_more(&self, reason: &str) {
        let stop = StopOrder {
            grace_ms: 0,
            reason: reason.to_owned(),
            cause: StopCause::Shutdown,
        };
        self.state().leaving = Some(stop.clone());
        self.host.news.notify_one();
        for rank in self.ranks() {
            // One that was told to start is about to run.
            let has_begun = rank.orders().borrow().start.is_some();
            if !has_begun {
                rank.order_stop(stop.clone());
            }
        }
    }

    /// Stops all ranks for the daemon's own end, and takes no more.
    pub fn stop_all(&self, grace: Duration, reason: &str) {
        let stop = StopOrder {
            grace_ms: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
            reason: reason.to_owned(),
            cause: StopCause::Shutdown,
        };
        // Before they are told: an assignment that comes meanwhile is refused, or stopped where it is
        // accepted.
        self.state().leaving = Some(stop.clone());
        self.host.news.notify_one();
        for rank in self.ranks() {
            rank.order_stop(stop.clone());
        }
    }

    /// Waits until every rank's work has ended.
    pub async fn all_closed(&self) {
        loop {
            // Made before the look: an end in between is not missed.
            let closed = self.closed.notified();
            if self.state().ranks.values().all(|entry| entry.is_closed) {
                return;
            }
            closed.await;
        }
    }

    /// Waits until nothing is held any more.
    pub async fn all_gone(&self) {
        loop {
            let closed = self.closed.notified();
            if self.state().ranks.is_empty() {
                return;
            }
            closed.await;
        }
    }

    /// Every held rank.
    #[must_use]
    pub fn ranks(&self) -> Vec<Arc<HeldRank>> {
        self.state()
            .ranks
            .values()
            .map(|entry| Arc::clone(&entry.rank))
            .collect()
    }

    /// Every held rank of which something may be left on this host.
    #[must_use]
    pub fn unclosed(&self) -> Vec<Arc<HeldRank>> {
        let state = self.state();
        let unclosed = state.ranks.values().filter(|entry| !entry.is_closed);
        unclosed.map(|entry| Arc::clone(&entry.rank)).collect()
    }

    fn find(&self, key: RankKey) -> Option<Arc<HeldRank>> {
        self.state()
            .ranks
            .get(&key)
            .map(|entry| Arc::clone(&entry.rank))
    }

    /// Leaves nothing running behind: ends every store that still lingers.
    pub async fn finish(&self) {
        self.no_linger.cancel();
        for rank in self.ranks() {
            RankTask {
                host: Arc::clone(&self.host),
                rank,
            }
            .stop_store()
            .await;
        }
        let mut retiring = std::mem::take(&mut self.state().retiring);
        while retiring.join_next().await.is_some() {}
    }

    /// Holds a rank no longer: its folder goes, and with it the store that its peers may still use
    /// for a moment.
    fn retire(self: &Arc<Self>, key: RankKey) {
        let mut state = self.state();
        let Some(entry) = state.ranks.remove(&key) else {
            return;
        };
        let task = RankTask {
            host: Arc::clone(&self.host),
            rank: entry.rank,
        };
        let no_linger = self.no_linger.clone();
        // What is done is taken out: the set would grow with each rank of the daemon's life.
        while state.retiring.try_join_next().is_some() {}
        state.retiring.spawn(async move {
            if task.rank.dir.store().exists() {
                tokio::select! {
                    () = tokio::time::sleep(STORE_LINGER) => {}
                    () = no_linger.cancelled() => {}
                }
            }
            task.stop_store().await;
            task.tidy_up().await;
            let folder = task.rank.dir.path().to_owned();
            let rank = Arc::clone(&task.rank);
            let removed = blocking(move || {
                temporary::remove(&rank.dir);
                durable::remove_or_leave(&folder);
            })
            .await;
            if let Err(error) = removed {
                warn!(rank = %key, %error, "removing the rank's folder failed");
            }
        });
        drop(state);
        self.closed.notify_waiters();
        self.host.news.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the child of a rank that cannot be taken over: nobody holds it any more, and its device counts as
/// free. Only where its keeper lives, so that no process of another boot is taken for it.
async fn end_what_runs_in(host: Arc<Host>, dir: PathBuf) {
    match host.env.launcher.adopt(&dir) {
        Ok(Some(mut child)) => {
            if matches!(child.status(), Ok(Status::Starting | Status::Running)) {
                warn!(?dir, "a child of a rank that cannot be read is ended");
                end(child).await;
            }
        }
        Ok(None) => {}
        Err(error) => warn!(?dir, %error, "what runs there cannot be found"),
    }
}
