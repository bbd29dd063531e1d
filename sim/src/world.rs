//! One simulated cluster: its hosts, its faults, and the run from its beginning to its rest.

mod hosts;

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::anyhow;
use marquee_domain::env::play;
use marquee_store::testing::Asker;
use turmoil::Sim;

use self::hosts::{Head, WorkerHost};
use crate::clients::{Client, Ledger, wishes};
use crate::draw::Draw;
use crate::faults::{Fault, Planned, plan};
use crate::history::History;
use crate::place::Place;
use crate::processes::Processes;
use crate::timeline::Timeline;

/// One step of the simulation, and what a round trip to Postgres takes.
const TICK: Duration = Duration::from_millis(4);
/// The slowest that a message is on a link without a fault, and on one that is slow.
const LATENCY_MAX: Duration = Duration::from_millis(20);
const LATENCY_SLOW: Duration = Duration::from_millis(1_500);
/// A world that is not at rest this long after its last fault never will be.
const REST_WITHIN_MS: u64 = 120_000;
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
}

struct World<'a> {
    sim: Sim<'a>,
    place: Place,
    timeline: Timeline,
    heads: Vec<Head>,
    workers: Vec<WorkerHost>,
    processes: Processes,
    draw: Draw,
    /// For the world's own look into the database.
    outside: tokio::runtime::Runtime,
    asker: Option<Asker>,
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
    let history = History::read(&world.outside, place, &world.processes, &ledger)?;
    let relays = || world.heads.iter().map(|head| &head.relay);
    Ok(Outcome {
        timeline,
        history,
        faults,
        rest_ms,
        requests: relays().map(|relay| relay.requests).sum(),
        lock_waits: relays().map(|relay| relay.lock_waits).sum(),
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
            .enable_random_order()
            .tick_duration(TICK)
            .max_message_latency(LATENCY_MAX)
            .simulation_duration(Duration::from_secs(3_600))
            .tcp_capacity(4_096)
            .build();
        let processes = Processes::new(timeline.clone());
        let names: Vec<String> = (0..heads).map(head_name).collect();
        let heads = names
            .iter()
            .map(|name| Head::add(&mut sim, seed, place, timeline, name))
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
            outside: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            asker: None,
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
        turns.sort_by_key(|(at, is_begin, _)| (*at, *is_begin));
        let mut turns = turns.into_iter().peekable();
        let calm_ms = faults.iter().map(|fault| fault.end_ms).max().unwrap_or(0);
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
        let now_us = u64::try_from(self.sim.elapsed().as_micros())?;
        self.timeline.set_now_us(now_us);
        Ok(clients_done)
    }

    /// No job is open, nobody holds a rank, and nothing runs.
    fn is_at_rest(&mut self) -> anyhow::Result<bool> {
        // A device may be free a heartbeat after its worker has forgotten the rank.
        let open = "SELECT (SELECT count(*) FROM open_jobs) + (SELECT count(*) FROM held_ranks)";
        let asker = &mut self.asker;
        let asked = async {
            if asker.is_none() {
                *asker = Some(Asker::connect(&self.place.url()).await);
            }
            match asker {
                Some(asker) => asker.number(open).await,
                None => 0,
            }
        };
        if self.outside.block_on(asked) > 0 {
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
        let is_lasting = !matches!(
            fault,
            Fault::Commit(_)
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
            Fault::CoordinatorKilled(c) if is_begin => self.sim.crash(head_name(c)),
            Fault::CoordinatorKilled(c) => self.sim.bounce(head_name(c)),
            Fault::WorkerKilled(w) if is_begin => self.sim.crash(worker_name(w)),
            Fault::PowerLost(w) if is_begin => {
                self.sim.crash(worker_name(w));
                self.processes.power_off(&worker_name(w));
                self.workers[w].machine.boot();
            }
            Fault::WorkerKilled(w) | Fault::PowerLost(w) => self.sim.bounce(worker_name(w)),
            Fault::KeeperKilled if is_begin => {
                if let Some(key) = self.processes.kill_keeper(&mut self.draw) {
                    self.timeline.say("world", format!("it was that of {key}"));
                }
            }
            Fault::Commit(cut) if is_begin => self.some_head().relay.cuts.push_back(cut),
            Fault::PostgresAway(c) => {
                self.heads[c].relay.is_away = is_begin;
                self.heads[c].relay.cut_all()?;
            }
            Fault::PostgresSlow(c) => {
                let slowness = if is_begin {
                    self.draw.between(3, 75)
                } else {
                    0
                };
                self.heads[c].relay.slowness = slowness;
            }
            Fault::PostgresStill(c) => self.heads[c].relay.is_still = is_begin,
            Fault::BackendEnded if is_begin => self.some_head().relay.terminate_one()?,
            Fault::CoordinatorStoodStill(c) if is_begin => {
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
            Fault::KeeperKilled
            | Fault::Commit(_)
            | Fault::BackendEnded
            | Fault::CoordinatorStoodStill(_) => {}
        }
        Ok(())
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
