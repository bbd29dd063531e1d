//! The workers that are connected to this process, and when each was last heard.
//!
//! Invariant: nothing here is the truth. A restart forgets it all, and the leases loop therefore
//! waits for one lease before it judges.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use marquee_domain::RankKey;
use marquee_domain::gpu::{GpuReading, GpuSample};
use marquee_domain::ids::{JobId, WorkerId};
use marquee_domain::limits::CLOCKS_APART;
use marquee_proto::v1;
use marquee_store::ranks::Assignment;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::hung::Hangs;
use super::kept::{self, KeptOutput, Outcome, Rescues};
use super::quiet::{Activity, Quiet};
use super::signs::Signs;
use super::track::Track;

/// The workers that are connected to this process.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    workers: Arc<Mutex<HashMap<WorkerId, SessionEntry>>>,
    /// Ranks that do not get on.
    pub hangs: Arc<Hangs>,
    /// Signs of life that are to be stored.
    pub signs: Arc<Signs>,
}

#[derive(Debug)]
struct SessionEntry {
    last_seen: Instant,
    /// Which daemon has the seat.
    daemon: Daemon,
    /// Another daemon that wanted it, and when; whether the worker's session has been told.
    rival: Option<Rival>,
    /// Counts the worker's sessions: an old one cannot end a new one.
    number: u64,
    connected: bool,
    /// Its row says that it is not here: the next heartbeat brings it back.
    is_missed: bool,
    /// What its GPUs said last.
    gpus: Vec<GpuReading>,
    /// And before that.
    track: Track,
    /// Since when they have done nothing.
    quiet: Quiet,
    /// Its daemon is being stopped: it accepts nothing.
    leaving: bool,
    /// Its daemon is being replaced: until then silence is no loss.
    away_until: Option<Instant>,
    /// A rehearsal keeps it away until then.
    cut_until: Option<Instant>,
    kept: Vec<KeptOutput>,
    /// What it keeps of inputs, as it said last.
    cache: Option<v1::CacheUse>,
    /// How far its clock is ahead of ours.
    clock_ahead: Option<TimeDelta>,
    rescues: Arc<Rescues>,
    replaced: CancellationToken,
    /// What an expelled session is told as it ends.
    expelled: Option<Status>,
    nudge: Arc<Notify>,
    placed: Arc<Placed>,
    /// Ranks that a rehearsal kills.
    kills: Arc<Kills>,
    /// Held by the session at work.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// One start of a worker's daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Daemon {
    /// Drawn anew at each start.
    pub(super) instance: Uuid,
    /// Its name, and where it called from.
    pub(super) who: String,
}

#[derive(Debug)]
struct Rival {
    daemon: Daemon,
    at: Instant,
    is_told: bool,
}

/// The seat is another daemon's, which lives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id of this worker is in use by another daemon, {owner}, which is connected and keeps it; was the data \
     directory copied? Delete worker-id in the copy's, and restart the copy"
)]
pub(super) struct InUse {
    owner: String,
}

/// Longest time that a daemon may take to be replaced without its worker being held to be lost.
const AWAY_MAX: Duration = Duration::from_secs(120);
/// How long after its last try a rival is shown.
const RIVAL_SHOWN_FOR: Duration = Duration::from_secs(60);

/// A rank that was just placed on a worker. A hint: what the worker should hold is read at each heartbeat.
#[derive(Debug, Clone)]
pub struct PlacedRank {
    pub key: RankKey,
    /// Before the transaction that placed it began. Who read the rows of the worker's ranks later than that may know more
    /// of the rank than stands here.
    pub before: Instant,
    /// All that its worker has to be told, where it is in memory: of a rank alone, without inputs or a checkpoint.
    pub assignment: Option<Assignment>,
}

#[derive(Debug, Default)]
pub(super) struct Placed {
    ranks: Mutex<Vec<PlacedRank>>,
    news: Notify,
}

impl Placed {
    fn add(&self, ranks: Vec<PlacedRank>) {
        self.lock().extend(ranks);
        self.news.notify_one();
    }

    /// Waits for placements, and gives them.
    pub(super) async fn next(&self) -> Vec<PlacedRank> {
        // What is placed before anybody waits leaves a permit here: none is missed.
        self.news.notified().await;
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PlacedRank>> {
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ranks of a worker that a rehearsal kills.
#[derive(Debug, Default)]
pub(super) struct Kills {
    keys: Mutex<Vec<RankKey>>,
    news: Notify,
}

impl Kills {
    fn add(&self, key: RankKey) {
        self.lock().push(key);
        self.news.notify_one();
    }

    /// Waits for some, and gives them.
    pub(super) async fn next(&self) -> Vec<RankKey> {
        self.news.notified().await;
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<RankKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in the registry.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) worker: WorkerId,
    number: u64,
    /// Cancelled when a newer session of the same worker came.
    pub(super) replaced: CancellationToken,
    /// Somebody changed what the worker should hold.
    pub(super) nudge: Arc<Notify>,
    pub(super) placed: Arc<Placed>,
    pub(super) kills: Arc<Kills>,
    pub(super) rescues: Arc<Rescues>,
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Rival {
    fn words(&self) -> String {
        format!(
            "another daemon came with this worker's id and was refused: {}; was the data directory copied? Delete \
             worker-id in the copy's",
            self.daemon.who
        )
    }
}

impl Sessions {
    /// Takes a seat for a new session of `worker`, and tells an older one of the same daemon to leave. Another
    /// daemon is refused for as long as the one that has the seat is connected and was heard within `lease`: an id
    /// never changes hands while its owner lives.
    pub(super) fn admit(
        &self,
        worker: WorkerId,
        daemon: Daemon,
        lease: Duration,
    ) -> Result<Seat, InUse> {
        let mut workers = self.lock();
        let entry = workers.entry(worker).or_insert_with(|| SessionEntry {
            last_seen: Instant::now(),
            daemon: daemon.clone(),
            rival: None,
            number: 0,
            connected: false,
            is_missed: false,
            gpus: Vec::new(),
            track: Track::default(),
            quiet: Quiet::default(),
            leaving: false,
            away_until: None,
            cut_until: None,
            kept: Vec::new(),
            cache: None,
            clock_ahead: None,
            rescues: Arc::default(),
            replaced: CancellationToken::new(),
            expelled: None,
            nudge: Arc::new(Notify::new()),
            placed: Arc::default(),
            kills: Arc::default(),
            turn: Arc::new(tokio::sync::Mutex::new(())),
        });
        let owner = &entry.daemon;
        let lives = entry.connected && entry.last_seen.elapsed() < lease;
        if lives && owner.instance != daemon.instance {
            // It calls from another port each time.
            let is_it = |rival: &Rival| rival.daemon.instance == daemon.instance;
            // Its tries are counted as one: a daemon that calls every few seconds must not fill the log.
            let known = entry.rival.as_ref().is_some_and(is_it);
            if !known {
                tracing::warn!(
                    %worker, owner = owner.who, refused = daemon.who,
                    "two daemons have one worker id: the second was refused; was a data directory copied?"
                );
                entry.nudge.notify_one();
            }
            let error = InUse {
                owner: owner.who.clone(),
            };
            entry.rival = Some(Rival {
                daemon,
                at: Instant::now(),
                is_told: known && entry.rival.as_ref().is_some_and(|rival| rival.is_told),
            });
            return Err(error);
        }
        entry.daemon = daemon;
        // The older session of the same daemon leaves. This one waits for its turn until that has stored what
        // it is at.
        entry.replaced.cancel();
        entry.expelled = None;
        entry.replaced = CancellationToken::new();
        entry.number += 1;
        entry.away_until = None;
        entry.last_seen = Instant::now();
        Ok(Seat {
            worker,
            number: entry.number,
            replaced: entry.replaced.clone(),
            nudge: entry.nudge.clone(),
            placed: entry.placed.clone(),
            kills: entry.kills.clone(),
            rescues: entry.rescues.clone(),
            turn: entry.turn.clone(),
        })
    }

    /// Ends a worker's session, if it has one, with this word. Nothing is placed on the worker from now on.
    pub(crate) fn expel(&self, worker: WorkerId, why: Status) {
        if let Some(entry) = self.lock().get_mut(&worker) {
            entry.expelled = Some(why);
            entry.connected = false;
            entry.replaced.cancel();
        }
    }

    /// The same of all workers that are connected.
    pub(crate) fn expel_all(&self, why: &Status) {
        for entry in self.lock().values_mut().filter(|entry| entry.connected) {
            entry.expelled = Some(why.clone());
            entry.connected = false;
            entry.replaced.cancel();
        }
    }

    /// What a session that was expelled is told; None: a newer one has taken its seat.
    pub(super) fn expelled(&self, seat: &Seat) -> Option<Status> {
        let mut why = None;
        self.update(seat, |entry| why.clone_from(&entry.expelled));
        why
    }

    /// What a session has to tell its worker of a rival, once.
    pub(super) fn rival_to_tell(&self, seat: &Seat) -> Option<String> {
        let mut news = None;
        self.update(seat, |entry| {
            if let Some(rival) = entry.rival.as_mut().filter(|rival| !rival.is_told) {
                rival.is_told = true;
                news = Some(rival.words());
            }
        });
        news
    }

    /// Who else came with a worker's id of late.
    #[must_use]
    pub fn rival(&self, worker: WorkerId) -> Option<String> {
        let workers = self.lock();
        let rival = workers.get(&worker)?.rival.as_ref()?;
        (rival.at.elapsed() < RIVAL_SHOWN_FOR).then(|| rival.words())
    }

    /// The session has its turn: work may be placed on its worker.
    pub(super) fn begin(&self, seat: &Seat) {
        self.update(seat, |entry| entry.connected = true);
    }

    /// The session has ended. That is no verdict: the worker may come back within its lease.
    pub(super) fn leave(&self, seat: &Seat) {
        self.update(seat, |entry| {
            entry.connected = false;
            // Whoever asks for one of its outputs now is told that the worker is away, and does not wait for
            // it.
            entry.kept.clear();
            entry.rescues.give_up();
        });
    }

    /// Whether the worker's daemon is being stopped. Whether that is news.
    pub(super) fn set_leaving(&self, seat: &Seat, leaving: bool) -> bool {
        let mut is_news = false;
        self.update(seat, |entry| {
            is_news = entry.leaving != leaving;
            entry.leaving = leaving;
        });
        is_news
    }

    /// The worker's daemon is about to be replaced, and its ranks go on meanwhile.
    pub(super) fn set_away(&self, seat: &Seat, away: Duration) {
        let until = Instant::now() + away.min(AWAY_MAX);
        self.update(seat, |entry| {
            entry.away_until = (!away.is_zero()).then_some(until);
        });
    }

    /// Whether the worker's daemon went in order, to be replaced, and has not come back.
    #[must_use]
    pub fn went_to_be_replaced(&self, worker: WorkerId) -> bool {
        let workers = self.lock();
        workers
            .get(&worker)
            .is_some_and(|entry| !entry.connected && entry.away_until.is_some())
    }

    /// The outputs that the worker keeps.
    pub(super) fn set_kept(&self, seat: &Seat, kept: Vec<KeptOutput>) {
        self.update(seat, |entry| entry.kept = kept);
    }

    /// The newest output of a job that a connected worker keeps.
    #[must_use]
    pub fn kept_of(&self, job: JobId) -> Option<(WorkerId, KeptOutput)> {
        let workers = self.lock();
        let connected = workers.iter().filter(|(_, entry)| entry.connected);
        let kept = connected
            .filter_map(|(worker, entry)| Some((*worker, kept::newest(&entry.kept, job)?.clone())));
        kept.max_by_key(|(_, kept)| kept.key)
    }

    /// Asks a worker to store an output that it keeps. None where it is not connected.
    pub(crate) fn rescue(
        &self,
        worker: WorkerId,
        key: RankKey,
    ) -> Option<oneshot::Receiver<Outcome>> {
        let workers = self.lock();
        let entry = workers.get(&worker).filter(|entry| entry.connected)?;
        Some(entry.rescues.ask(key))
    }

    /// A message came.
    pub(super) fn seen(&self, seat: &Seat) {
        self.update(seat, |entry| entry.last_seen = Instant::now());
    }

    /// What the worker keeps of inputs. An older one does not say.
    pub(super) fn set_cache(&self, seat: &Seat, cache: Option<v1::CacheUse>) {
        self.update(seat, |entry| entry.cache = cache);
    }

    /// What a worker keeps of inputs, as it said last.
    #[must_use]
    pub fn cache(&self, worker: WorkerId) -> Option<v1::CacheUse> {
        self.lock().get(&worker)?.cache
    }

    /// Its clock is so far ahead of ours. Whether that has become too far since it was heard last.
    pub(super) fn set_clock(&self, seat: &Seat, ahead: TimeDelta) -> bool {
        let is_far = |ahead: TimeDelta| ahead.abs().to_std().is_ok_and(|far| far > CLOCKS_APART);
        // Said when it becomes too far, and not with every heartbeat.
        let mut is_news = false;
        self.update(seat, |entry| {
            is_news = is_far(ahead) && !entry.clock_ahead.is_some_and(is_far);
            entry.clock_ahead = Some(ahead);
        });
        is_news
    }

    /// How far a worker's clock is ahead of ours, as it said last; below zero: behind.
    #[must_use]
    pub fn clock_ahead(&self, worker: WorkerId) -> Option<TimeDelta> {
        self.lock().get(&worker)?.clock_ahead
    }

    /// Its GPUs spoke. Whether a fault came or went.
    pub(super) fn set_gpus(&self, seat: &Seat, gpus: Vec<GpuReading>) -> bool {
        let mut is_news = false;
        self.update(seat, |entry| {
            // Only whether a GPU is ill decides about placements. Its other readings change every few
            // seconds.
            let faults = |gpus: &[GpuReading]| -> Vec<(u32, bool)> {
                gpus.iter()
                    .map(|gpu| (gpu.index, gpu.fault.is_empty()))
                    .collect()
            };
            is_news = faults(&entry.gpus) != faults(&gpus);
            entry.track.add(&gpus);
            entry.quiet.add(&gpus, Instant::now());
            entry.gpus = gpus;
        });
        is_news
    }

    /// What the GPUs of a worker said last, by index; empty where it never spoke of any.
    #[must_use]
    pub fn gpus(&self, worker: WorkerId) -> Vec<GpuReading> {
        self.lock()
            .get(&worker)
            .map(|entry| entry.gpus.clone())
            .unwrap_or_default()
    }

    /// What a GPU of a worker does, as far as its readings tell.
    #[must_use]
    pub fn activity(&self, worker: WorkerId, gpu: u32) -> Activity {
        self.lock().get(&worker).map_or(Activity::Unknown, |entry| {
            entry.quiet.of(gpu, Instant::now())
        })
    }

    /// What they said over the last hour, by index.
    #[must_use]
    pub fn gpu_past(&self, worker: WorkerId) -> BTreeMap<u32, Vec<GpuSample>> {
        self.lock()
            .get(&worker)
            .map(|entry| entry.track.all())
            .unwrap_or_default()
    }

    fn update(&self, seat: &Seat, change: impl FnOnce(&mut SessionEntry)) {
        let mut workers = self.lock();
        if let Some(entry) = workers.get_mut(&seat.worker)
            && entry.number == seat.number
        {
            change(entry);
        }
    }

    /// When a worker was last heard by this process. Of one that said for how long it would be away, when that is
    /// over.
    #[must_use]
    pub fn last_seen(&self, worker: WorkerId) -> Option<Instant> {
        let workers = self.lock();
        let entry = workers.get(&worker)?;
        Some(
            entry
                .away_until
                .map_or(entry.last_seen, |until| until.max(entry.last_seen)),
        )
    }

    /// The worker's row says that it is not here, whether it has a session or not.
    pub(crate) fn miss(&self, worker: WorkerId) {
        if let Some(entry) = self.lock().get_mut(&worker) {
            entry.is_missed = true;
        }
    }

    /// Whether the worker's row may say that it is not here. Asked by who puts that right next.
    pub(super) fn take_missed(&self, seat: &Seat) -> bool {
        let mut is_missed = false;
        self.update(seat, |entry| {
            is_missed = std::mem::take(&mut entry.is_missed);
        });
        is_missed
    }

    /// Whether a worker has a session with this process.
    #[must_use]
    pub fn is_connected(&self, worker: WorkerId) -> bool {
        self.lock()
            .get(&worker)
            .is_some_and(|entry| entry.connected)
    }

    /// Whether a worker takes new ranks: it is connected, and its daemon is not being stopped.
    #[must_use]
    pub fn takes_ranks(&self, worker: WorkerId) -> bool {
        self.lock()
            .get(&worker)
            .is_some_and(|entry| entry.connected && !entry.leaving)
    }

    /// Whether the daemon of a connected worker is being stopped.
    #[must_use]
    pub fn is_leaving(&self, worker: WorkerId) -> bool {
        self.lock()
            .get(&worker)
            .is_some_and(|entry| entry.connected && entry.leaving)
    }

    /// Lets the sessions of these workers look at once at what their workers should hold.
    pub fn nudge(&self, workers: &[WorkerId]) {
        let entries = self.lock();
        for worker in workers {
            if let Some(entry) = entries.get(worker) {
                // Where the session is at something else the word waits for it.
                entry.nudge.notify_one();
            }
        }
    }

    /// Lets the session of a worker give it these ranks at once.
    pub fn placed(&self, worker: WorkerId, ranks: Vec<PlacedRank>) {
        if let Some(entry) = self.lock().get(&worker) {
            entry.placed.add(ranks);
        }
    }

    /// Lets the session of a connected worker kill a rank. Whether there is one.
    pub(crate) fn kill(&self, worker: WorkerId, key: RankKey) -> bool {
        let workers = self.lock();
        let entry = workers.get(&worker).filter(|entry| entry.connected);
        entry.is_some_and(|entry| {
            entry.kills.add(key);
            true
        })
    }

    /// Ends the session of a connected worker, and lets none begin for so long. Whether there was one. Forgotten
    /// with this process: a cut never outlives whoever made it.
    pub(crate) fn cut_off(&self, worker: WorkerId, time: Duration) -> bool {
        let mut workers = self.lock();
        let Some(entry) = workers.get_mut(&worker).filter(|entry| entry.connected) else {
            return false;
        };
        entry.cut_until = Some(Instant::now() + time);
        entry.replaced.cancel();
        true
    }

    /// For how long yet a worker is cut off on purpose; None: it is not.
    pub(super) fn is_cut_off_for(&self, worker: WorkerId) -> Option<Duration> {
        let until = self.lock().get(&worker)?.cut_until?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkerId, SessionEntry>> {
        // Every change above is one assignment: a panic elsewhere leaves nothing half done.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
