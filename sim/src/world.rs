//! One simulated cluster: its hosts, its faults, and the run from its beginning to its rest.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::anyhow;
use marquee_coordinator::config::{Config, DatabaseUrl};
use marquee_coordinator::env::Env as CoordinatorEnv;
use marquee_coordinator::{Settings, run_in};
use marquee_domain::env::play;
use marquee_domain::limits::LEASE;
use marquee_store::testing;
use marquee_worker::config::Config as WorkerConfig;
use marquee_worker::env::Env as WorkerEnv;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::clients::{Client, Ledger, wishes};
use crate::draw::Draw;
use crate::faults::{Fault, Planned, plan};
use crate::history::History;
use crate::machine::HostMachine;
use crate::processes::{HostLauncher, Processes};
use crate::relay::Relay;
use crate::surroundings::{HostClock, HostRandom, Network, PORT, coordinator_env};
use crate::timeline::Timeline;

/// One step of the simulation, and what a round trip to Postgres takes.
const TICK: Duration = Duration::from_millis(2);
/// The slowest that a message is on a link without a fault, and on one that is slow.
const LATENCY_MAX: Duration = Duration::from_millis(20);
const LATENCY_SLOW: Duration = Duration::from_millis(1_500);
/// Devices of each worker.
const SLOTS: u32 = 2;
/// How long a stopped child may take to leave. Shorter than in production, so that a world comes to rest sooner.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// A world that is not at rest this long after its last fault never will be.
const REST_WITHIN_MS: u64 = 120_000;
/// How often it is looked whether it is at rest.
const LOOK_EVERY_MS: u64 = 1_000;
/// How soon a daemon that ended is started again, as by systemd.
const RESTART_AFTER: Duration = Duration::from_secs(1);

const COORDINATOR: &str = "coordinator";
const CLIENTS: [&str; 2] = ["anna", "ben"];

/// Where a world is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Empty, and gone afterwards.
    pub folder: PathBuf,
    /// The folder of the server's socket.
    pub postgres: PathBuf,
    /// A migrated and empty database of that server.
    pub database: String,
}

impl Place {
    /// The database, without a relay.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.postgres, &self.database)
    }
}

fn url(socket: &Path, database: &str) -> String {
    format!(
        "postgres://marquee@localhost/{database}?host={}&sslmode=disable",
        socket.display()
    )
}

/// How a world went.
#[derive(Debug)]
pub struct Outcome {
    pub timeline: Timeline,
    pub history: History,
    pub faults: Vec<Planned>,
    /// Milliseconds until all was at rest. None: it never was.
    pub rest_ms: Option<u64>,
    pub requests: u64,
    pub lock_waits: u64,
}

struct World<'a> {
    sim: Sim<'a>,
    place: Place,
    timeline: Timeline,
    relay: Relay,
    processes: Processes,
    machines: Vec<Arc<HostMachine>>,
    clock: Arc<HostClock>,
    clocks: Vec<Arc<HostClock>>,
    /// How long the coordinator stands still next.
    stillness: Arc<Mutex<Option<Duration>>>,
    draw: Draw,
    /// For the world's own look into the database.
    outside: tokio::runtime::Runtime,
}

/// Plays the world of a seed. Once in a process: what the libraries count goes on over a process.
///
/// # Errors
/// When the simulation itself breaks: its folder, its Postgres, a daemon that panics.
pub fn run(seed: u64, place: &Place) -> anyhow::Result<Outcome> {
    play();
    let timeline = Timeline::new(&place.folder);
    timeline.listen()?;
    let workers = usize::try_from(Draw::of(seed, "size").between(2, 3))?;
    let faults = plan(&mut Draw::of(seed, "faults"), workers);
    let ledger = Ledger::default();
    let mut world = World::new(seed, workers, place, &timeline)?;
    world.add_clients(seed, &ledger);
    let rest_ms = world.run(&faults)?;
    let history = History::read(&world.outside, place, &world.processes, &ledger)?;
    let (requests, lock_waits) = (world.relay.requests, world.relay.lock_waits);
    Ok(Outcome {
        timeline,
        history,
        faults,
        rest_ms,
        requests,
        lock_waits,
    })
}

impl<'a> World<'a> {
    fn new(seed: u64, workers: usize, place: &Place, timeline: &Timeline) -> anyhow::Result<Self> {
        let relay = Relay::new(
            &place.folder.join("pg"),
            &place.postgres,
            Draw::of(seed, "relay"),
            timeline.clone(),
        )?;
        let processes = Processes::new(timeline.clone());
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .enable_tokio_io()
            .enable_random_order()
            .tick_duration(TICK)
            .max_message_latency(LATENCY_MAX)
            .simulation_duration(Duration::from_secs(3_600))
            .tcp_capacity(4_096)
            .build();
        let stillness = Arc::default();
        let clock = Arc::new(HostClock::new(timeline.clone()));
        add_coordinator(&mut sim, seed, place, timeline, &clock, &stillness);
        let (mut machines, mut clocks) = (Vec::new(), Vec::new());
        for index in 0..workers {
            let clock = Arc::new(HostClock::new(timeline.clone()));
            let machine = HostMachine::new(Draw::of(seed, &format!("boots of {index}")), SLOTS);
            let machine = Arc::new(machine);
            add_worker(
                &mut sim, seed, place, timeline, index, &clock, &machine, &processes,
            );
            machines.push(machine);
            clocks.push(clock);
        }
        Ok(Self {
            sim,
            place: place.clone(),
            timeline: timeline.clone(),
            relay,
            processes,
            machines,
            clock,
            clocks,
            stillness,
            draw: Draw::of(seed, "world"),
            outside: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        })
    }

    fn add_clients(&mut self, seed: u64, ledger: &Ledger) {
        let all = wishes(&mut Draw::of(seed, "wishes"));
        for (index, name) in CLIENTS.into_iter().enumerate() {
            // What is about one pipeline is one client's.
            let mine = all
                .iter()
                .filter(|(_, wish)| wish.owner(CLIENTS.len()) == index);
            let client = Client {
                name: name.to_owned(),
                ledger: ledger.clone(),
                timeline: self.timeline.clone(),
            };
            self.sim.client(name, client.live(mine.cloned().collect()));
        }
    }

    /// Steps until all is at rest, or clearly never will be.
    fn run(&mut self, faults: &[Planned]) -> anyhow::Result<Option<u64>> {
        let mut turns: Vec<(u64, bool, Fault)> = Vec::new();
        for planned in faults {
            turns.push((planned.begin_ms, true, planned.fault));
            turns.push((planned.end_ms, false, planned.fault));
        }
        turns.sort_by_key(|(at, is_begin, _)| (*at, *is_begin));
        let mut turns = turns.into_iter().peekable();
        let calm_ms = faults.iter().map(|fault| fault.end_ms).max().unwrap_or(0);
        let mut look_ms = calm_ms;
        loop {
            let now_ms = self.timeline.now_ms();
            while let Some((_, is_begin, fault)) = turns.next_if(|(at, ..)| *at <= now_ms) {
                self.turn(fault, is_begin)?;
            }
            self.processes.play();
            let clients_done = self.sim.step().map_err(|error| anyhow!("{error}"))?;
            self.relay.settle()?;
            let now_us = u64::try_from(self.sim.elapsed().as_micros())?;
            self.timeline.set_now_us(now_us);
            if now_ms >= look_ms {
                look_ms = now_ms + LOOK_EVERY_MS;
                if clients_done && self.is_at_rest()? {
                    self.timeline.say("world", "all is at rest");
                    return Ok(Some(now_ms));
                }
                if now_ms > calm_ms + REST_WITHIN_MS {
                    self.timeline.say("world", "not at rest, and never will be");
                    return Ok(None);
                }
            }
        }
    }

    /// No job is open, nobody holds a rank, and nothing runs.
    fn is_at_rest(&self) -> anyhow::Result<bool> {
        let url = self.place.url();
        let open = testing::number(&url, "SELECT count(*) FROM open_jobs");
        if self.outside.block_on(open) > 0 {
            return Ok(false);
        }
        for index in 0..self.machines.len() {
            let held = worker_folder(&self.place, index).join("attempts");
            let is_empty = std::fs::read_dir(&held)?.next().is_none();
            if !is_empty {
                return Ok(false);
            }
        }
        Ok(self
            .processes
            .lives()
            .iter()
            .all(|life| life.ended.is_some()))
    }

    /// Begins a fault, or puts it right.
    fn turn(&mut self, fault: Fault, is_begin: bool) -> anyhow::Result<()> {
        let word = if is_begin { "begins" } else { "is over" };
        let is_lasting = !matches!(
            fault,
            Fault::Commit(_)
                | Fault::BackendEnded
                | Fault::KeeperKilled
                | Fault::CoordinatorStoodStill
        );
        if is_begin || is_lasting {
            self.timeline.say("world", format!("* {fault} {word}"));
        }
        let sim = &mut self.sim;
        match (fault, is_begin) {
            (Fault::Partition(w), true) => sim.partition(worker_name(w), COORDINATOR),
            (Fault::Partition(w), false) => sim.repair(worker_name(w), COORDINATOR),
            (Fault::Deaf(w), true) => sim.partition_oneway(worker_name(w), COORDINATOR),
            (Fault::Deaf(w), false) => sim.repair_oneway(worker_name(w), COORDINATOR),
            (Fault::Mute(w), true) => sim.partition_oneway(COORDINATOR, worker_name(w)),
            (Fault::Mute(w), false) => sim.repair_oneway(COORDINATOR, worker_name(w)),
            (Fault::Hold(w), true) => sim.hold(worker_name(w), COORDINATOR),
            (Fault::Hold(w), false) => sim.release(worker_name(w), COORDINATOR),
            (Fault::Slow(w), is_begin) => {
                let latency = if is_begin { LATENCY_SLOW } else { LATENCY_MAX };
                sim.set_link_max_message_latency(worker_name(w), COORDINATOR, latency);
            }
            (Fault::NoClients, is_begin) => {
                for client in CLIENTS {
                    if is_begin {
                        sim.partition(client, COORDINATOR);
                    } else {
                        sim.repair(client, COORDINATOR);
                    }
                }
            }
            (Fault::CoordinatorKilled, true) => sim.crash(COORDINATOR),
            (Fault::CoordinatorKilled, false) => sim.bounce(COORDINATOR),
            (Fault::WorkerKilled(w), true) => sim.crash(worker_name(w)),
            (Fault::WorkerKilled(w), false) => sim.bounce(worker_name(w)),
            (Fault::PowerLost(w), true) => {
                sim.crash(worker_name(w));
                self.processes.power_off(&worker_name(w));
                self.machines[w].boot();
            }
            (Fault::PowerLost(w), false) => sim.bounce(worker_name(w)),
            (Fault::KeeperKilled, true) => {
                if let Some(key) = self.processes.kill_keeper(&mut self.draw) {
                    self.timeline.say("world", format!("it was that of {key}"));
                }
            }
            (Fault::Commit(cut), true) => self.relay.cuts.push_back(cut),
            (Fault::PostgresAway, is_begin) => {
                self.relay.is_away = is_begin;
                self.relay.cut_all()?;
            }
            (Fault::PostgresSlow, true) => self.relay.slowness = self.draw.between(5, 150),
            (Fault::PostgresSlow, false) => self.relay.slowness = 0,
            (Fault::BackendEnded, true) => self.relay.terminate_one()?,
            (Fault::CoordinatorStoodStill, true) => {
                let time = Duration::from_millis(self.draw.between(3_000, 25_000));
                let mut still = self
                    .stillness
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *still = Some(time);
            }
            (Fault::CoordinatorClock(ms), true) => self.clock.set_skew(ms),
            (Fault::CoordinatorClock(_), false) => self.clock.set_skew(0),
            (Fault::WorkerClock(w, ms), true) => self.clocks[w].set_skew(ms),
            (Fault::WorkerClock(w, _), false) => self.clocks[w].set_skew(0),
            (
                Fault::KeeperKilled
                | Fault::Commit(_)
                | Fault::BackendEnded
                | Fault::CoordinatorStoodStill,
                false,
            ) => {}
        }
        Ok(())
    }
}

fn worker_name(index: usize) -> String {
    format!("worker-{index}")
}

pub(crate) fn worker_folder(place: &Place, index: usize) -> PathBuf {
    place.folder.join(worker_name(index))
}

/// The coordinator's folder.
pub(crate) fn coordinator_folder(place: &Place) -> PathBuf {
    place.folder.join(COORDINATOR)
}

fn add_coordinator(
    sim: &mut Sim<'_>,
    seed: u64,
    place: &Place,
    timeline: &Timeline,
    clock: &Arc<HostClock>,
    stillness: &Arc<Mutex<Option<Duration>>>,
) {
    let config = Config {
        listen: std::net::SocketAddr::from(([127, 0, 0, 1], PORT)),
        data_dir: coordinator_folder(place),
        database_url: Some(DatabaseUrl(url(&place.folder.join("pg"), &place.database))),
        postgres_bin: None,
        tls: None,
        settings: Settings {
            stop_grace: STOP_GRACE,
            lease: LEASE,
            ..Settings::default()
        },
    };
    let random = Arc::new(HostRandom::new(Draw::of(seed, COORDINATOR)));
    let env: CoordinatorEnv = coordinator_env(clock.clone(), random);
    let (timeline, clock, stillness) = (timeline.clone(), clock.clone(), stillness.clone());
    sim.host(COORDINATOR, move || {
        let (config, env, timeline) = (config.clone(), env.clone(), timeline.clone());
        tokio::spawn(stand_still(clock.clone(), stillness.clone()));
        async move {
            loop {
                let life = run_in(config.clone(), env.clone(), CancellationToken::new());
                let end = OfItsRuntime::new(life).await.map_err(|e| e.to_string());
                timeline.say(COORDINATOR, format!("ended: {end:?}"));
                tokio::time::sleep(RESTART_AFTER).await;
            }
        }
    });
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

#[allow(
    clippy::too_many_arguments,
    reason = "all that makes a worker, in one place"
)]
fn add_worker(
    sim: &mut Sim<'_>,
    seed: u64,
    place: &Place,
    timeline: &Timeline,
    index: usize,
    clock: &Arc<HostClock>,
    machine: &Arc<HostMachine>,
    processes: &Processes,
) {
    let name = worker_name(index);
    let config = WorkerConfig {
        coordinator: format!("http://{COORDINATOR}:{PORT}"),
        name: name.clone(),
        data_dir: worker_folder(place, index),
        bin_dir: PathBuf::from("/played"),
        cpu_slots: SLOTS,
        ..WorkerConfig::default_settings()
    };
    let env = WorkerEnv {
        clock: clock.clone(),
        random: Arc::new(HostRandom::new(Draw::of(seed, &name))),
        net: Arc::new(Network),
        machine: machine.clone(),
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
                let life = tokio::spawn(marquee_worker::serve(config.clone(), env.clone(), stop));
                let end = life.await?.map_err(|e| e.to_string());
                timeline.say(&name, format!("ended: {end:?}"));
                tokio::time::sleep(RESTART_AFTER).await;
            }
        }
    });
}
