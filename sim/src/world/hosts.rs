//! The daemons' hosts: what each daemon is started with, and again after its end, as by systemd.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use marquee_coordinator::access::Rule;
use marquee_coordinator::config::{Config, DatabaseUrl};
use marquee_coordinator::{Settings, run_in};
use marquee_domain::limits::LEASE;
use marquee_worker::config::Config as WorkerConfig;
use marquee_worker::env::Env as WorkerEnv;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use super::{TICK, worker_folder, worker_name};
use crate::draw::Draw;
use crate::machine::HostMachine;
use crate::place::{Place, artifacts_folder, url};
use crate::processes::{HostLauncher, Processes};
use crate::relay::{Backends, Relay};
use crate::surroundings::{HostClock, HostRandom, Network, PORT, coordinator_env};
use crate::timeline::Timeline;

/// Devices of each worker.
const SLOTS: u32 = 2;
/// How long a stopped child may take to leave. Shorter than in production, so that a world comes to rest sooner.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// How long a coordinator leads without renewing it, as in production.
const LEADER_LEASE: Duration = Duration::from_secs(3);
/// How soon a daemon that ended is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// A coordinator's host, and its way to Postgres.
pub(super) struct Head {
    pub(super) clock: Arc<HostClock>,
    /// How long it stands still next.
    pub(super) stillness: Arc<Mutex<Option<Duration>>>,
    pub(super) relay: Relay,
    /// When it is started again that was killed at a COMMIT.
    pub(super) back_at_ms: Option<u64>,
    /// When Postgres is quick for it again.
    pub(super) quick_at_ms: Option<u64>,
}

/// A worker's host.
pub(super) struct WorkerHost {
    pub(super) clock: Arc<HostClock>,
    pub(super) machine: Arc<HostMachine>,
}

impl Head {
    /// Adds a coordinator to the simulation.
    pub(super) fn add(
        sim: &mut Sim<'_>,
        seed: u64,
        place: &Place,
        backends: &Backends,
        timeline: &Timeline,
        name: &str,
    ) -> anyhow::Result<Self> {
        let relays = place.folder.join(format!("postgres-of-{name}"));
        let draw = Draw::of(seed, &format!("relay of {name}"));
        let head = Self {
            clock: Arc::new(HostClock::new(timeline.clone())),
            stillness: Arc::default(),
            relay: Relay::new(&relays, backends.clone(), draw, timeline.clone())?,
            back_at_ms: None,
            quick_at_ms: None,
        };
        let config = Config {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], PORT)),
            address: Some(format!("{name}:{PORT}")),
            data_dir: place.folder.join(name),
            // One folder for all coordinators: whoever takes over finds what the one before has
            // stored.
            artifacts_dir: artifacts_folder(place),
            object_store: None,
            leader_lease: LEADER_LEASE,
            database_url: Some(DatabaseUrl(url(&relays, &place.database))),
            postgres_bin: None,
            secrets_key: None,
            tls: None,
            access: Rule::Everybody,
            settings: Settings {
                // So few that arrays of a world are not whole from the outset.
                elements_ahead: 2,
                stop_grace: STOP_GRACE,
                lease: LEASE,
                ..Settings::default()
            },
            listing: Vec::new(),
        };
        let random = Arc::new(HostRandom::new(Draw::of(seed, name)));
        let env = coordinator_env(head.clock.clone(), random);
        let (timeline, host) = (timeline.clone(), name.to_owned());
        let (clock, stillness) = (head.clock.clone(), head.stillness.clone());
        sim.host(name, move || {
            let (config, env, timeline) = (config.clone(), env.clone(), timeline.clone());
            let host = host.clone();
            // In the runtime of this host, since it moves the time of the runtime that it runs in.
            tokio::spawn(stand_still(clock.clone(), stillness.clone()));
            async move {
                loop {
                    let life = run_in(config.clone(), env.clone(), CancellationToken::new());
                    let end = OfItsRuntime::new(life).await.map_err(|e| format!("{e:#}"));
                    timeline.say(&host, format!("ended: {end:?}"));
                    tokio::time::sleep(RESTART_AFTER).await;
                }
            }
        });
        Ok(head)
    }
}

impl WorkerHost {
    /// Adds a worker that knows all coordinators.
    pub(super) fn add(
        sim: &mut Sim<'_>,
        seed: u64,
        place: &Place,
        index: usize,
        heads: &[String],
        processes: &Processes,
        timeline: &Timeline,
    ) -> Self {
        let name = worker_name(index);
        let machine = HostMachine::new(Draw::of(seed, &format!("boots of {name}")), SLOTS);
        let worker = Self {
            clock: Arc::new(HostClock::new(timeline.clone())),
            machine: Arc::new(machine),
        };
        let urls = heads.iter().map(|head| format!("http://{head}:{PORT}"));
        let urls: Vec<String> = urls.collect();
        let config = WorkerConfig {
            coordinator: urls[0].clone(),
            coordinators: urls,
            name: name.clone(),
            data_dir: worker_folder(place, index),
            bin_dir: PathBuf::from("/played"),
            cpu_slots: SLOTS,
            ..WorkerConfig::default_settings()
        };
        let env = WorkerEnv {
            clock: worker.clock.clone(),
            random: Arc::new(HostRandom::new(Draw::of(seed, &name))),
            net: Arc::new(Network),
            machine: worker.machine.clone(),
            launcher: Arc::new(HostLauncher {
                processes: processes.clone(),
                host: name.clone(),
            }),
        };
        let timeline = timeline.clone();
        sim.host(name.clone(), move || {
            let (config, env, timeline) = (config.clone(), env.clone(), timeline.clone());
            let name = name.clone();
            async move {
                loop {
                    let (_told, stop) = tokio::sync::mpsc::channel(1);
                    let life = marquee_worker::serve(config.clone(), env.clone(), stop);
                    let end = tokio::spawn(life).await?.map_err(|e| format!("{e:#}"));
                    timeline.say(&name, format!("ended: {end:?}"));
                    tokio::time::sleep(RESTART_AFTER).await;
                }
            }
        });
        worker
    }
}

/// A future that is dropped where it ran: connections that it holds are given back by tasks. turmoil drops a host's
/// first future when its runtime is gone already.
struct OfItsRuntime<F> {
    future: Option<Pin<Box<F>>>,
    runtime: tokio::runtime::Handle,
}

impl<F: Future> OfItsRuntime<F> {
    fn new(future: F) -> Self {
        Self {
            future: Some(Box::pin(future)),
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

impl<F: Future> Future for OfItsRuntime<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match &mut self.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for OfItsRuntime<F> {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.future = None;
    }
}

/// Lets the host's clock jump when it is told to, as it does for a process that was stopped: it finds that much
/// time gone, and all that was due in it due at once.
async fn stand_still(clock: Arc<HostClock>, stillness: Arc<Mutex<Option<Duration>>>) {
    loop {
        let next = stillness
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(time) = next {
            clock.miss(time);
            tokio::time::advance(time).await;
        }
        tokio::time::sleep(TICK).await;
    }
}
