//! One simulated cluster: its hosts, its faults, and the run from its beginning to its rest.

mod hosts;

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::anyhow;
use marquee_domain::env::play;
use turmoil::Sim;

use self::hosts::{Head, WorkerHost};
use crate::clients::{Client, Ledger, wishes};
use crate::draw::Draw;
use crate::faults::{Fault, Planned, plan};
use crate::history::History;
use crate::place::Place;
use crate::processes::Processes;
use crate::relay::{Ambush, Backends, Cut};
use crate::timeline::Timeline;

/// One step of the simulation, and what a round trip to Postgres takes.
const TICK: Duration = Duration::from_millis(4);
/// The slowest that a message is on a link without a fault, and on one that is slow.
const LATENCY_MAX: Duration = Duration::from_millis(20);
const LATENCY_SLOW: Duration = Duration::from_millis(1_500);
/// A world that is not at rest this long after its last fault never will be.
const REST_WITHIN_MS: u64 = 120_000;
/// How long Postgres is slow after it stood still for the one that leads.
const SLOW_AFTER_MS: u64 = 1_500;
/// How long a coordinator is down that was killed at a COMMIT, at most.
const DOWN_MS_MAX: u64 = 4_000;
/// How often it is looked whether it is at rest.
const LOOK_EVERY_MS: u64 = 1_000;
/// Worlds in a hundred in which a second coordinator stands by.
const WITH_STANDBY: u64 = 60;

const CLIENTS: [&str; 2] = ["anna", "ben"];

fn head_name(index: usize) -> String {
    format!("head-{index}")
}

fn worker_name(index: usize) -> String {
    format!("worker-{index}")
}

fn worker_folder(place: &Place, index: usize) -> PathBuf {
    place.folder.join(worker_name(index))
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
    /// Connections to Postgres, and processes of it that served them.
    pub connections: (u64, u64),
}

struct World<'a> {
    sim: Sim<'a>,
    place: Place,
    timeline: Timeline,
    heads: Vec<Head>,
    workers: Vec<WorkerHost>,
    processes: Processes,
    draw: Draw,
    backends: Backends,
    /// For whom Postgres stands still because it leads.
    still_leader: Option<usize>,
}

/// Plays the world of a seed. Once in a process: what the libraries count goes on over a process.
///
/// # Errors
/// When the simulation itself breaks: its folder, its Postgres, a daemon that panics.
pub fn run(seed: u64, place: &Place) -> anyhow::Result<Outcome> {
    play();
    let timeline = Timeline::new(&place.folder);
    timeline.listen()?;
    let mut size = Draw::of(seed, "size");
    let workers = usize::try_from(size.between(2, 3))?;
    let heads = if size.chance(WITH_STANDBY) { 2 } else { 1 };
    let faults = plan(&mut Draw::of(seed, "faults"), heads, workers);
    let ledger = Ledger::default();
    let mut world = World::new(seed, heads, workers, place, &timeline)?;
    world.add_clients(seed, &ledger);
    let rest_ms = world.run(&faults)?;
    let history = History::read(place, &world.backends, &world.processes, &ledger)?;
    let relays = || world.heads.iter().map(|head| &head.relay);
    Ok(Outcome {
        timeline,
        history,
        faults,
        rest_ms,
        requests: relays().map(|relay| relay.requests).sum(),
        lock_waits: relays().map(|relay| relay.lock_waits).sum(),
        connections: world.backends.count(),
    })
}

impl World<'_> {
    fn new(
        seed: u64,
        heads: usize,
        workers: usize,
        place: &Place,
        timeline: &Timeline,
    ) -> anyhow::Result<Self> {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .enable_tokio_io()
            // Else the host that was added first would be first in every step, and some races never
            // come.
            .enable_random_order()
            .tick_duration(TICK)
            .max_message_latency(LATENCY_MAX)
            // Beyond any world's end: `REST_WITHIN_MS` ends those that find no rest, with words for
            // it.
            .simulation_duration(Duration::from_secs(3_600))
            .tcp_capacity(4_096)
            .build();
        let processes = Processes::new(timeline.clone());
        let names: Vec<String> = (0..heads).map(head_name).collect();
        let backends = Backends::new(&place.postgres, &place.database)?;
        let heads = names
            .iter()
            .map(|name| Head::add(&mut sim, seed, place, &backends, timeline, name))
            .collect::<anyhow::Result<_>>()?;
        let add =
            |index| WorkerHost::add(&mut sim, seed, place, index, &names, &processes, timeline);
        let workers = (0..workers).map(add).collect();
        Ok(Self {
            sim,
            place: place.clone(),
            timeline: timeline.clone(),
            heads,
            workers,
            processes,
            draw: Draw::of(seed, "world"),
            backends,
            still_leader: None,
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
                coordinators: (0..self.heads.len()).map(head_name).collect(),
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
        // What ends comes before what begins in the same millisecond: one link has one state.
        turns.sort_by_key(|(at, is_begin, _)| (*at, *is_begin));
        let mut turns = turns.into_iter().peekable();
        let calm_ms = faults.iter().map(|fault| fault.end_ms).max().unwrap_or(0);
        // Faults that are still to come would end any rest.
        let mut look_ms = calm_ms;
        loop {
            let now_ms = self.timeline.now_ms();
            while let Some((_, is_begin, fault)) = turns.next_if(|(at, ..)| *at <= now_ms) {
                self.turn(fault, is_begin)?;
            }
            let clients_done = self.step()?;
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

    /// One step of everything. Whether all clients have their answers.
    fn step(&mut self) -> anyhow::Result<bool> {
        self.processes.play();
        let clients_done = self.sim.step().map_err(|error| anyhow!("{error}"))?;
        for head in &mut self.heads {
            head.relay.settle()?;
        }
        // What one waits for may be another's.
        for head in &mut self.heads {
            head.relay.listen_again()?;
        }
        self.tend_heads();
        let now_us = u64::try_from(self.sim.elapsed().as_micros())?;
        self.timeline.set_now_us(now_us);
        Ok(clients_done)
    }

    /// Kills those whose COMMIT is their last, and starts them anew when it is time; so with what else has its time.
    fn tend_heads(&mut self) {
        let now_ms = self.timeline.now_ms();
        for (index, head) in self.heads.iter_mut().enumerate() {
            let name = head_name(index);
            if head.quick_at_ms.is_some_and(|at| at <= now_ms) {
                (head.relay.slowness, head.quick_at_ms) = (0, None);
            }
            if std::mem::take(&mut head.relay.kills) {
                self.sim.crash(name.as_str());
                head.back_at_ms = Some(now_ms + self.draw.between(50, DOWN_MS_MAX));
            } else if head.back_at_ms.is_some_and(|at| at <= now_ms) {
                head.back_at_ms = None;
                // Another fault may have brought it back.
                if !self.sim.is_host_running(name.as_str()) {
                    self.timeline
                        .say("world", format!("* {name} is started again"));
                    self.sim.bounce(name.as_str());
                }
            }
        }
    }

    /// The coordinator that leads, as the database says.
    fn leader(&self) -> anyhow::Result<Option<usize>> {
        let address = self.backends.ask("SELECT address FROM leader")?;
        let address = address.first().map_or("", String::as_str);
        let leads = |index: &usize| address.contains(&head_name(*index));
        Ok((0..self.heads.len()).find(leads))
    }

    /// No job is open, nobody holds a rank, and nothing runs.
    fn is_at_rest(&mut self) -> anyhow::Result<bool> {
        // A device may be free a heartbeat after its worker has forgotten the rank.
        // An array that has failed is open no more, and yet its elements go on, those that are to come too.
        let open = "SELECT (SELECT count(*) FROM open_jobs) + (SELECT count(*) FROM held_ranks)
                         + (SELECT count(*) FROM arrays WHERE to_come > 0)";
        if self.backends.ask(open)? != ["0"] {
            return Ok(false);
        }
        for index in 0..self.workers.len() {
            let held = worker_folder(&self.place, index).join("attempts");
            if std::fs::read_dir(&held)?.next().is_some() {
                return Ok(false);
            }
        }
        let lives = self.processes.lives();
        Ok(lives.iter().all(|life| life.ended.is_some()))
    }

    /// Begins a fault, or puts it right.
    fn turn(&mut self, fault: Fault, is_begin: bool) -> anyhow::Result<()> {
        let word = if is_begin { "begins" } else { "is over" };
        // The others are over as they happen, and have no end to tell of.
        let is_lasting = !matches!(
            fault,
            Fault::Commit(_)
                | Fault::CommitOfEnd(_)
                | Fault::KilledAtEnd
                | Fault::ClocksSetOn(_)
                | Fault::BackendEnded
                | Fault::KeeperKilled
                | Fault::CoordinatorStoodStill(_)
        );
        if is_begin || is_lasting {
            self.timeline.say("world", format!("* {fault} {word}"));
        }
        match fault {
            Fault::Partition(_)
            | Fault::Deaf(_)
            | Fault::Mute(_)
            | Fault::Hold(_)
            | Fault::Slow(_)
            | Fault::NoClients => self.turn_links(fault, is_begin),
            Fault::CoordinatorKilled(c) if is_begin => {
                // It may be down already, killed at a COMMIT (`tend_heads`).
                if self.sim.is_host_running(head_name(c)) {
                    self.sim.crash(head_name(c));
                }
            }
            Fault::CoordinatorKilled(c) => {
                if !self.sim.is_host_running(head_name(c)) {
                    self.sim.bounce(head_name(c));
                }
            }
            Fault::WorkerKilled(w) if is_begin => self.sim.crash(worker_name(w)),
            Fault::PowerLost(w) if is_begin => {
                self.sim.crash(worker_name(w));
                self.processes.power_off(&worker_name(w));
                // A new boot id: by it the daemon knows that no child of before can be alive.
                self.workers[w].machine.boot();
            }
            Fault::WorkerKilled(w) | Fault::PowerLost(w) => self.sim.bounce(worker_name(w)),
            Fault::KeeperKilled if is_begin => {
                if let Some(key) = self.processes.kill_keeper(&mut self.draw) {
                    self.timeline.say("world", format!("it was that of {key}"));
                }
            }
            Fault::Commit(cut) => self.turn_ambush(cut, false, is_begin),
            Fault::CommitOfEnd(cut) => self.turn_ambush(cut, true, is_begin),
            Fault::KilledAtEnd => self.turn_ambush(Cut::Killed, true, is_begin),
            Fault::LeaderStill if is_begin => {
                // Kept for the end of the fault, when another one leads.
                self.still_leader = self.leader()?;
                if let Some(leader) = self.still_leader {
                    self.heads[leader].relay.is_still_at_begin = true;
                }
            }
            Fault::LeaderStill => {
                if let Some(leader) = self.still_leader.take() {
                    // Who hears first that another one leads is anybody's guess then.
                    let slowness = self.draw.between(0, 75);
                    let quick_at_ms = self.timeline.now_ms() + SLOW_AFTER_MS;
                    let head = &mut self.heads[leader];
                    (head.relay.is_still, head.relay.is_still_at_begin) = (false, false);
                    (head.relay.slowness, head.quick_at_ms) = (slowness, Some(quick_at_ms));
                }
            }
            Fault::PostgresAway(c) => {
                self.heads[c].relay.is_away = is_begin;
                self.heads[c].relay.cut_all()?;
            }
            Fault::PostgresSlow(c) => {
                let slowness = if is_begin {
                    // Steps: from 12 to 300 ms for each answer.
                    self.draw.between(3, 75)
                } else {
                    0
                };
                self.heads[c].relay.slowness = slowness;
            }
            Fault::PostgresStill(c) => self.heads[c].relay.is_still = is_begin,
            Fault::BackendEnded if is_begin => self.some_head().relay.terminate_one()?,
            Fault::CoordinatorStoodStill(c) if is_begin => {
                // From a leader's lease to more than twice a worker's, so that either runs out in
                // some worlds.
                let time = Duration::from_millis(self.draw.between(3_000, 25_000));
                let stillness = &self.heads[c].stillness;
                *stillness.lock().unwrap_or_else(PoisonError::into_inner) = Some(time);
            }
            Fault::CoordinatorClock(c, ms) => {
                self.heads[c].clock.set_skew(if is_begin { ms } else { 0 });
            }
            Fault::WorkerClock(w, ms) => {
                self.workers[w]
                    .clock
                    .set_skew(if is_begin { ms } else { 0 });
            }
            Fault::ClocksSetOn(ms) if is_begin => {
                let heads = self.heads.iter().map(|head| &head.clock);
                let workers = self.workers.iter().map(|worker| &worker.clock);
                heads.chain(workers).for_each(|clock| clock.set_on(ms));
            }
            Fault::KeeperKilled
            | Fault::ClocksSetOn(_)
            | Fault::BackendEnded
            | Fault::CoordinatorStoodStill(_) => {}
        }
        Ok(())
    }

    fn turn_ambush(&self, cut: Cut, of_an_end: bool, is_begin: bool) {
        let ambush = Ambush { cut, of_an_end };
        if is_begin {
            self.backends.lay(ambush);
        } else {
            // None may come after the end of its fault: from the last of these ends on a world has
            // to find its rest.
            self.backends.lift(ambush);
        }
    }

    fn some_head(&mut self) -> &mut Head {
        let index = self.draw.index(self.heads.len());
        &mut self.heads[index]
    }

    /// The same of what happens to links, those to every coordinator alike.
    fn turn_links(&mut self, fault: Fault, is_begin: bool) {
        for head in (0..self.heads.len()).map(head_name) {
            let (sim, head) = (&self.sim, head.as_str());
            let worker = fault.silences().map(worker_name).unwrap_or_default();
            let worker = worker.as_str();
            match (fault, is_begin) {
                (Fault::Partition(_), true) => sim.partition(worker, head),
                (Fault::Partition(_), false) => sim.repair(worker, head),
                (Fault::Deaf(_), true) => sim.partition_oneway(worker, head),
                (Fault::Deaf(_), false) => sim.repair_oneway(worker, head),
                (Fault::Mute(_), true) => sim.partition_oneway(head, worker),
                (Fault::Mute(_), false) => sim.repair_oneway(head, worker),
                (Fault::Hold(_), true) => sim.hold(worker, head),
                (Fault::Hold(_), false) => sim.release(worker, head),
                (Fault::Slow(_), true) => {
                    sim.set_link_max_message_latency(worker, head, LATENCY_SLOW);
                }
                (Fault::Slow(_), false) => {
                    sim.set_link_max_message_latency(worker, head, LATENCY_MAX);
                }
                // From the clients.
                (_, true) => CLIENTS
                    .iter()
                    .for_each(|client| sim.partition(*client, head)),
                (_, false) => CLIENTS.iter().for_each(|client| sim.repair(*client, head)),
            }
        }
    }
}
