//! A rank in the daemon's memory: its folder, its spool, its orders. What others may touch of it;
//! the work itself is in [`super::task`].

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use marquee_domain::env::Clock;
use marquee_domain::failure::Failure;
use marquee_domain::ids::WorkerId;
use marquee_domain::job::RankState;
use marquee_domain::rate::RateShare;
use marquee_domain::spec::{JobKind, JobSpec, OnDisconnect};
use marquee_domain::{BootId, FailureClass, RankKey};
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use tokio::sync::{Notify, watch};
use tracing::warn;

use super::base_env::BaseEnv;
use super::pump::Cursor;
use super::rate;
use super::spool::Spool;
use super::stalled::Stalled;
use super::{Assignment, Orders, RankDir, RankFile, StartOrder, StopOrder};
use crate::cache::{Cache, Pin};
use crate::cages::Cages;
use crate::config::Config;
use crate::coordinators::Coordinators;
use crate::durable;
use crate::env::Env;
use crate::fault::{at, is_full};
use crate::files;
use crate::gpus::Gpus;
use crate::kept::Kept;
use crate::lease::Lease;
use crate::occupied::Occupied;
use crate::transfer::Transfers;
use marquee_domain::resources::Inventory;
use std::sync::Arc;

/// What all ranks of a worker share.
#[derive(Debug)]
pub struct Host {
    pub config: Config,
    pub worker_id: WorkerId,
    pub boot: BootId,
    pub inventory: Inventory,
    pub gpus: Gpus,
    pub cache: Arc<Cache>,
    pub transfers: Transfers,
    /// Whom the session and the transfers ask.
    pub coordinators: Coordinators,
    pub kept: Kept,
    pub lease: Lease,
    /// Where children are.
    pub occupied: Occupied,
    /// Under whose accounts jobs run. None: this worker's own.
    pub cages: Option<Cages>,
    /// The daemon before this one ended in order, in another boot: what it held ended with its host's.
    pub host_was_stopped: bool,
    /// Outputs that were asked for, as they are to be answered.
    pub rescued: Mutex<Vec<v1::Rescued>>,
    pub env: Env,
    /// What children get of the daemon's environment.
    pub base_env: BaseEnv,
    /// Rung when there are reports to send or ranks have come or gone.
    pub news: Notify,
}

impl Host {
    /// Under whose accounts jobs of this kind run. None: this worker's own.
    #[must_use]
    pub fn cages_for(&self, kind: JobKind) -> Option<&Cages> {
        self.cages.as_ref().filter(|cages| cages.are_for(kind))
    }

    /// Folder of the folders of all held ranks.
    #[must_use]
    pub fn attempts(&self) -> PathBuf {
        self.config.data_dir.join("attempts")
    }
}

/// One held rank.
#[derive(Debug)]
pub struct HeldRank {
    pub key: RankKey,
    pub dir: RankDir,
    pub assignment: Assignment,
    /// What the assignment's spec says, or why it cannot be read.
    pub spec: Result<Arc<JobSpec>, String>,
    /// The boot in which it was assigned.
    pub boot: BootId,
    /// This daemon accepted it: no earlier one can have started its child.
    pub is_new: bool,
    /// Why nothing of it can be on this host's disk. It only reports that.
    pub refusal: Option<Failure>,
    spool: Mutex<Spool>,
    orders: watch::Sender<Orders>,
    /// The newest orders are not on the disk yet.
    is_note_due: AtomicBool,
    /// Keep its inputs in the cache until its work has ended.
    pins: Mutex<Vec<Pin>>,
    /// Set while it runs and does not get on.
    stalled: Mutex<Option<Stalled>>,
    /// It is one that stops when the worker's lease is over.
    pub stops_with_lease: bool,
}

impl HeldRank {
    /// Accepts an assignment: from here on the rank is held, whatever is killed.
    pub fn accept(host: &Host, assignment: Assignment) -> io::Result<Self> {
        let dir = RankDir::new(&host.attempts(), assignment.key);
        files::make_folder(dir.path())?;
        let mut spool = Spool::open(&dir.spool(), assignment.key)?;
        // Before it counts as held: it must be able to say how it ended, on a disk that may be full by then.
        spool.keep_room_for_the_end()?;
        let file = RankFile {
            boot: host.boot,
            orders: Orders::with(&assignment),
            assignment,
        };
        // Last, so that it makes the spool's entry durable too.
        durable::write_first(&dir.rank_file(), &serde_json::to_vec(&file)?)?;
        Ok(Self::new(host, dir, file, spool, true))
    }

    /// A rank that cannot be accepted, as on a full disk: held in memory until the coordinator knows. If the
    /// daemon is killed before, nobody holds it, which says as much.
    pub fn refuse(host: &Host, assignment: Assignment, fault: &io::Error) -> io::Result<Self> {
        let class = if is_full(fault) {
            FailureClass::DiskFull
        } else {
            FailureClass::Crash
        };
        let message = format!(
            "worker {:?} cannot take the rank: {fault}",
            host.config.name
        );
        let spool = Spool::in_memory(assignment.key)?;
        let file = RankFile {
            boot: host.boot,
            orders: Orders::with(&assignment),
            assignment,
        };
        let dir = RankDir::new(&host.attempts(), file.assignment.key);
        let mut rank = Self::new(host, dir, file, spool, true);
        rank.refusal = Some(Failure { class, message });
        Ok(rank)
    }

    /// A rank that an earlier daemon accepted; None where it had not got so far.
    pub fn recover(host: &Host, key: RankKey) -> io::Result<Option<Self>> {
        let dir = RankDir::new(&host.attempts(), key);
        let bytes = match files::read(&dir.rank_file()) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let spool = Spool::open(&dir.spool(), key)?;
        match serde_json::from_slice(&bytes) {
            Ok(file) => Ok(Some(Self::new(host, dir, file, spool, false))),
            // A power cut while it was being accepted: of a rank without a report and without a
            // launch nobody knows anything.
            Err(_) if spool.is_untouched() && !dir.has_launched()? => Ok(None),
            Err(e) => Err(at(&dir.rank_file(), e.into())),
        }
    }

    fn new(host: &Host, dir: RankDir, file: RankFile, spool: Spool, is_new: bool) -> Self {
        let pins = file
            .assignment
            .artifacts()
            .map(|manifest| host.cache.pin(manifest.digest()));
        let spec = serde_json::from_str::<JobSpec>(&file.assignment.spec_json);
        let spec = spec.map(Arc::new).map_err(|error| error.to_string());
        // One whose spec cannot be read never runs.
        let stops_with_lease = spec
            .as_ref()
            .is_ok_and(|spec| spec.watch.on_disconnect == OnDisconnect::Stop);
        Self {
            key: file.assignment.key,
            spool: Mutex::new(spool),
            orders: watch::Sender::new(file.orders),
            pins: Mutex::new(pins.collect()),
            assignment: file.assignment,
            spec,
            boot: file.boot,
            is_new,
            refusal: None,
            stalled: Mutex::default(),
            stops_with_lease,
            is_note_due: AtomicBool::new(false),
            dir,
        }
    }

    /// The rank's spool. It is locked during writes to the disk: not to be held over an await.
    pub fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the rank was told so far, and what it will be.
    #[must_use]
    pub fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// Tells the rank to start its child. The first time counts.
    pub fn order_start(&self, start: StartOrder) -> io::Result<()> {
        self.order(|orders| {
            let is_new = orders.start.is_none();
            orders.start.get_or_insert(start);
            is_new
        })
    }

    /// Tells the rank to stop, at once: no disk, however full, keeps an order from being followed. A later
    /// order can only be stricter.
    pub fn order_stop(&self, stop: StopOrder) {
        let mut orders = self.orders.borrow().clone();
        let is_new = match &mut orders.stop {
            None => {
                orders.stop = Some(stop);
                true
            }
            Some(before) => {
                let grace_ms = before.grace_ms.min(stop.grace_ms);
                let cause = before.cause.stricter(stop.cause);
                let is_new = (grace_ms, cause) != (before.grace_ms, before.cause);
                (before.grace_ms, before.cause) = (grace_ms, cause);
                is_new
            }
        };
        if is_new {
            self.orders.send_replace(orders.clone());
        } else if !self.is_note_due.load(Ordering::Relaxed) {
            return;
        }
        // Without the note the next daemon hears of it from the coordinator, which repeats it.
        let noted = self.note(&orders);
        self.is_note_due.store(noted.is_err(), Ordering::Relaxed);
        // It may be gone already, with its folder.
        if let Err(error) = noted
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(rank = %self.key, %error, "an order to stop is followed, but cannot be noted");
        }
    }

    /// Writes an order down before anyone follows it.
    fn order(&self, change: impl FnOnce(&mut Orders) -> bool) -> io::Result<()> {
        let mut orders = self.orders.borrow().clone();
        if !change(&mut orders) {
            return Ok(());
        }
        self.note(&orders)?;
        self.orders.send_replace(orders);
        Ok(())
    }

    fn note(&self, orders: &Orders) -> io::Result<()> {
        if self.refusal.is_some() {
            return Ok(());
        }
        let file = RankFile {
            boot: self.boot,
            assignment: self.assignment.clone(),
            orders: orders.clone(),
        };
        durable::write_json(&self.dir.rank_file(), &file)
    }

    /// Adds reports, and changes the cursor in the same write.
    pub fn report(
        &self,
        host: &Host,
        bodies: Vec<Body>,
        change: impl FnOnce(&mut Cursor),
    ) -> io::Result<()> {
        let mut spool = self.spool();
        let mut cursor = spool.cursor().clone();
        change(&mut cursor);
        spool.append(host.env.clock.now(), bodies, cursor)?;
        drop(spool);
        host.news.notify_one();
        Ok(())
    }

    /// Adds metrics of the worker's own beside the child's, at the step that the child has reached.
    /// A rank that does not run any more has had its last report.
    pub fn report_while_running(
        &self,
        host: &Host,
        values: BTreeMap<String, f64>,
    ) -> io::Result<()> {
        // Held from the look to the write: behind a last report nothing may come.
        let mut spool = self.spool();
        if spool.state() != RankState::Running {
            return Ok(());
        }
        let cursor = spool.cursor().clone();
        let metrics = v1::RankMetrics {
            step: cursor.step,
            values: values.into_iter().collect(),
        };
        spool.append(host.env.clock.now(), vec![Body::Metrics(metrics)], cursor)?;
        drop(spool);
        host.news.notify_one();
        Ok(())
    }

    /// Needs its inputs no longer. To be called before its last report: what the coordinator
    /// assigns next may want the room.
    pub fn release_inputs(&self) {
        self.pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The rank's state.
    #[must_use]
    pub fn state(&self) -> RankState {
        self.spool().state()
    }

    /// Notes that it does not get on, or does again.
    pub(super) fn set_stalled(&self, stalled: Option<Stalled>) {
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = stalled;
    }

    /// Where it stands, while it runs and does not get on.
    #[must_use]
    pub fn stalled(&self) -> Option<Stalled> {
        let stalled = self.stalled.lock();
        stalled.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives its child another share of hosts' rates. A rank without a child needs none.
    pub fn share_rate(&self, share: &RateShare) -> io::Result<()> {
        if self.state() == RankState::Running {
            rate::give(&self.dir.rate(), share)?;
        }
        Ok(())
    }

    /// The rank as heartbeats list it.
    #[must_use]
    pub fn to_wire(&self, clock: &dyn Clock) -> v1::HeldRank {
        let spool = self.spool();
        v1::HeldRank {
            job_id: self.key.job.0,
            attempt: self.key.attempt.0,
            rank: self.key.rank.0,
            state: v1::RankState::from(spool.state()).into(),
            last_sequence: spool.last_sequence(),
            // Only a job that shares rates writes that file: elsewhere nobody vouches for what lies there.
            rate: (spool.state() == RankState::Running && self.assignment.shares_rates)
                .then(|| rate::of(&self.dir.rate(), rate::now_ms(clock)))
                .flatten(),
            stall: self
                .stalled()
                .filter(|_| spool.state() == RankState::Running)
                .map(|stalled| stalled.to_wire()),
        }
    }
}
