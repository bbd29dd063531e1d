//! The children of every host: a table that outlives the daemons which start them, as processes do.
//!
//! They are played between the simulation's steps, so that they go on while their daemon is away. What is written
//! here is what was so, whatever the daemons believed: the history is held against it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use marquee_domain::RankKey;
use marquee_domain::child::env;
use marquee_worker::process::launcher::{
    Child, Exit, Launch, Launcher, News, Status, events_path, stderr_path, stdout_path,
};
use tokio::sync::watch;

use crate::script::{End, Script};
use crate::timeline::Timeline;

/// Signal numbers as Linux has them.
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
/// Status of a child that made its user's mistake known.
const STATUS_BAD: i32 = 3;
/// Status of one that left because it was told to, and of one whose peers were gone.
const STATUS_TOLD: i32 = 143;
const STATUS_ALONE: i32 = 1;
/// How long the end of a killed process takes.
const DEATH_US: u64 = 3_000;

/// What became of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Left(i32),
    /// A signal killed it.
    Killed(i32),
    /// Its host went down.
    PowerLost,
}

/// A child that was, as it was.
#[derive(Debug, Clone)]
pub struct Life {
    pub key: RankKey,
    pub host: String,
    pub world_size: u32,
    pub began_ms: u64,
    pub ended: Option<(u64, Ended)>,
    /// What it wrote to stdout.
    pub said: Vec<String>,
}

/// All children of a world. A cheap handle.
#[derive(Debug, Clone)]
pub struct Processes(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    timeline: Timeline,
    /// By host and folder: those that run, and those that ended.
    actors: BTreeMap<(String, PathBuf), Actor>,
    past: Vec<Life>,
    /// What must never happen, seen here.
    wrong: Vec<String>,
    pids: u32,
}

#[derive(Debug)]
struct Actor {
    life: Life,
    pid: u32,
    script: Script,
    output_dir: PathBuf,
    status: watch::Sender<Status>,
    output: watch::Sender<u64>,
    /// Since when all of its gang were there.
    met_us: Option<u64>,
    peer_died_us: Option<u64>,
    told_us: Option<u64>,
    dies_us: Option<u64>,
    /// Its keeper is gone: nobody will tell how it ends.
    is_unkept: bool,
}

impl Processes {
    /// No children yet.
    #[must_use]
    pub fn new(timeline: Timeline) -> Self {
        Self(Arc::new(Mutex::new(Table {
            timeline,
            actors: BTreeMap::new(),
            past: Vec::new(),
            wrong: Vec::new(),
            pids: 100,
        })))
    }

    /// Plays everybody up to now.
    pub fn play(&self) {
        self.table().play();
    }

    /// A host goes down, with all that runs on it.
    pub fn power_off(&self, host: &str) {
        let mut table = self.table();
        let keys: Vec<_> = table.actors.keys().cloned().collect();
        for key in keys.iter().filter(|(on, _)| on == host) {
            table.end(key, Ended::PowerLost);
        }
        // Out of the table as well: the daemon that comes up with the host must find no child to
        // adopt.
        let mine = std::mem::take(&mut table.actors);
        for (key, actor) in mine {
            if key.0 == host {
                table.past.push(actor.life);
            } else {
                table.actors.insert(key, actor);
            }
        }
    }

    /// Kills the keeper of one child that runs, if any does. The child goes on.
    pub fn kill_keeper(&self, draw: &mut crate::draw::Draw) -> Option<RankKey> {
        let mut table = self.table();
        let alive: Vec<_> = table.alive().map(|(key, _)| key.clone()).collect();
        if alive.is_empty() {
            return None;
        }
        let actor = table.actors.get_mut(&alive[draw.index(alive.len())])?;
        actor.is_unkept = true;
        // All that a daemon sees of it: an end, and no status of that end.
        actor.status.send_replace(Status::Gone(None));
        Some(actor.life.key)
    }

    /// Every child that ever ran.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        let table = self.table();
        let now = table.actors.values().map(|actor| actor.life.clone());
        table.past.iter().cloned().chain(now).collect()
    }

    /// What must never happen and did.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.table().wrong.clone()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn alive(&self) -> impl Iterator<Item = (&(String, PathBuf), &Actor)> {
        let is_alive = |(_, actor): &(_, &Actor)| actor.life.ended.is_none();
        self.actors.iter().filter(is_alive)
    }

    fn play(&mut self) {
        let now = self.timeline.now_us();
        let alive: Vec<_> = self.alive().map(|(key, _)| key.clone()).collect();
        for key in alive {
            if let Some(end) = self.turn(&key, now) {
                self.end(&key, end);
            }
        }
    }

    /// What one child does now. Some: it ends.
    fn turn(&mut self, key: &(String, PathBuf), now: u64) -> Option<Ended> {
        let (met, peer_died) = self.gang(key);
        let actor = self.actors.get_mut(key)?;
        let due = |since: Option<u64>, after_ms: Option<u64>| {
            since
                .zip(after_ms)
                .is_some_and(|(since, after)| since + after * 1_000 <= now)
        };
        // First of all: a child that is being killed does nothing more, whatever its script says.
        if actor.dies_us.is_some_and(|at| at <= now) {
            return Some(Ended::Killed(SIGKILL));
        }
        if due(actor.told_us, actor.script.leaves_ms) {
            return Some(Ended::Left(STATUS_TOLD));
        }
        // Before it is asked whether all are there: a gang that has lost one will never be whole,
        // and would wait for ever.
        if peer_died {
            actor.peer_died_us.get_or_insert(now);
            return due(actor.peer_died_us, actor.script.notices_ms)
                .then_some(Ended::Left(STATUS_ALONE));
        }
        if !met {
            return None;
        }
        let since = now - *actor.met_us.get_or_insert(now);
        let (work_us, lines) = (actor.script.work_ms * 1_000, actor.script.lines);
        // Its first line says that it began; the script does not count that.
        let said = actor.life.said.len() as u64 - 1;
        // Spread evenly over its work.
        if said < lines && since * (lines + 1) >= work_us * (said + 1) {
            let line = format!("line {said} of {}", actor.life.key);
            self.write(key, &line);
            return None;
        }
        let attempt = u64::from(actor.life.key.attempt.0);
        // By the attempt's number: each attempt is a new process, which knows of no crash before
        // it.
        if attempt <= actor.script.crashes && since >= work_us / 2 {
            return Some(Ended::Killed(SIGSEGV));
        }
        if since < work_us || said < lines {
            return None;
        }
        if actor.script.end == End::Badly {
            return Some(Ended::Left(STATUS_BAD));
        }
        let result = actor.output_dir.join("result");
        // The first rank's alone, and with its name in it: `check::results` tells by it which
        // attempt a stored result is of.
        let is_first = actor.life.key.rank.0 == 0;
        let text = format!("{}\n", actor.life.key);
        if is_first && std::fs::write(result, text).is_err() {
            self.wrong.push(format!(
                "{}: its output folder is gone while it runs",
                key.1.display()
            ));
        }
        Some(Ended::Left(0))
    }

    /// Whether all of a child's gang are there, and whether one of them has died.
    fn gang(&self, key: &(String, PathBuf)) -> (bool, bool) {
        let Some(me) = self.actors.get(key) else {
            return (false, false);
        };
        let of_gang = |life: &&Life| {
            life.key.job == me.life.key.job && life.key.attempt == me.life.key.attempt
        };
        let present = self.actors.values().map(|actor| &actor.life);
        // With those of hosts that lost power, which are in no table any more: they are dead peers
        // as well.
        let gang = present.chain(&self.past).filter(of_gang);
        let (mut count, mut has_died) = (0, false);
        for life in gang {
            count += 1;
            // Whoever left in order was done: the others go on without it.
            has_died |= !matches!(life.ended, None | Some((_, Ended::Left(0))));
        }
        (count >= me.life.world_size, has_died)
    }

    fn write(&mut self, key: &(String, PathBuf), line: &str) {
        let Some(actor) = self.actors.get_mut(key) else {
            return;
        };
        let file = File::options().append(true).open(stdout_path(&key.1));
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        match written {
            Ok(()) => {
                actor.life.said.push(line.to_owned());
                actor.output.send_modify(|count| *count += 1);
            }
            Err(_) => {
                let what = format!("{}: its folder is gone while it runs", actor.life.key);
                self.wrong.push(what);
                // Counted as said all the same: else it would be tried again in every step, and the
                // one fault told each time.
                actor.life.said.push(line.to_owned());
            }
        }
    }

    fn end(&mut self, key: &(String, PathBuf), how: Ended) {
        let now_ms = self.timeline.now_ms();
        let Some(actor) = self.actors.get_mut(key) else {
            return;
        };
        if actor.life.ended.is_some() {
            return;
        }
        self.timeline
            .say(&key.0, format!("- child {} ends: {how:?}", actor.life.key));
        actor.life.ended = Some((now_ms, how.clone()));
        let exit = match how {
            Ended::Left(status) => Exit::Code(status),
            Ended::Killed(number) => Exit::Signal { number, oom: false },
            // The daemon that would be told went down with it.
            Ended::PowerLost => return,
        };
        if !actor.is_unkept {
            actor.status.send_replace(Status::Gone(Some(exit)));
        }
    }

    // A kill is the keeper's to do; a whole session can be killed without it.
    fn kill(&mut self, key: &(String, PathBuf), keeper_may_be_gone: bool) {
        let now = self.timeline.now_us();
        if let Some(actor) = self.actors.get_mut(key)
            && (keeper_may_be_gone || !actor.is_unkept)
        {
            actor.dies_us.get_or_insert(now + DEATH_US);
        }
    }
}

/// Starts children on one host.
#[derive(Debug)]
pub(crate) struct HostLauncher {
    pub(crate) processes: Processes,
    pub(crate) host: String,
}

impl Launcher for HostLauncher {
    fn start(&self, launch: &Launch<'_>) -> io::Result<Box<dyn Child>> {
        File::create(stdout_path(launch.dir))?;
        File::create(stderr_path(launch.dir))?;
        if launch.events {
            File::create(events_path(launch.dir))?;
        }
        let variable = |name: &str| {
            let value = launch.env.get(std::ffi::OsStr::new(name));
            value.map(|value| value.to_string_lossy().into_owned())
        };
        let number = |name: &str| variable(name).and_then(|value| value.parse::<u32>().ok());
        let dir_name = launch.dir.file_name().unwrap_or_default().to_string_lossy();
        let key: RankKey = dir_name
            .parse()
            .map_err(|_| io::Error::other("not the folder of a rank"))?;
        let place = (self.host.clone(), launch.dir.to_owned());
        let mut table = self.processes.table();
        table.pids += 1;
        let actor = Actor {
            life: Life {
                key,
                host: self.host.clone(),
                world_size: number(env::WORLD_SIZE).unwrap_or(1),
                began_ms: table.timeline.now_ms(),
                ended: None,
                said: Vec::new(),
            },
            pid: table.pids,
            script: Script::read(&launch.argv),
            output_dir: variable(env::OUTPUT).unwrap_or_default().into(),
            status: watch::Sender::new(Status::Running),
            output: watch::Sender::new(0),
            met_us: None,
            peer_died_us: None,
            told_us: None,
            dies_us: None,
            is_unkept: false,
        };
        table
            .timeline
            .say(&self.host, format!("- child {key} begins"));
        if let Some(before) = table.actors.remove(&place) {
            if before.life.ended.is_none() {
                table
                    .wrong
                    .push(format!("{key}: started a second time while it runs"));
            }
            table.past.push(before.life);
        }
        table.actors.insert(place.clone(), actor);
        table.write(&place, &format!("begin {key}"));
        drop(table);
        Ok(Box::new(Handle::new(self.processes.clone(), place)))
    }

    fn adopt(&self, dir: &Path) -> io::Result<Option<Box<dyn Child>>> {
        let place = (self.host.clone(), dir.to_owned());
        let is_there = self.processes.table().actors.contains_key(&place);
        Ok(
            is_there
                .then(|| Box::new(Handle::new(self.processes.clone(), place)) as Box<dyn Child>),
        )
    }
}

/// A daemon's hold on a child.
#[derive(Debug)]
struct Handle {
    processes: Processes,
    place: (String, PathBuf),
    pid: u32,
    status: watch::Receiver<Status>,
    output: watch::Receiver<u64>,
}

impl Handle {
    fn new(processes: Processes, place: (String, PathBuf)) -> Self {
        let table = processes.table();
        let actor = &table.actors[&place];
        let (pid, status) = (actor.pid, actor.status.subscribe());
        let output = actor.output.subscribe();
        drop(table);
        Self {
            processes,
            place,
            pid,
            status,
            output,
        }
    }

    fn is_alive(&self) -> bool {
        let table = self.processes.table();
        let actor = table.actors.get(&self.place);
        // A later child in the same folder has another number.
        actor.is_some_and(|actor| actor.pid == self.pid && actor.life.ended.is_none())
    }
}

impl Child for Handle {
    fn status(&mut self) -> io::Result<Status> {
        Ok(self.status.borrow_and_update().clone())
    }

    fn pid(&self) -> Option<u32> {
        Some(self.pid)
    }

    fn news(&mut self) -> BoxFuture<'_, News> {
        async {
            tokio::select! {
                // In this order, which must be the same in each run of a seed.
                biased;
                Ok(()) = self.status.changed() => News::State,
                Ok(()) = self.output.changed() => News::Output,
                else => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn look_every(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn terminate(&self) {
        let mut table = self.processes.table();
        let now = table.timeline.now_us();
        if let Some(actor) = table.actors.get_mut(&self.place)
            && !actor.is_unkept
        {
            actor.told_us.get_or_insert(now);
        }
    }

    fn kill(&self) {
        self.processes.table().kill(&self.place, false);
    }

    fn kill_session(&self) {
        self.processes.table().kill(&self.place, true);
    }

    fn is_buried(&mut self) -> bool {
        !self.is_alive()
    }

    fn survivors(&self) -> Vec<i32> {
        let pid = i32::try_from(self.pid).unwrap_or(i32::MAX);
        if self.is_alive() {
            vec![pid]
        } else {
            Vec::new()
        }
    }
}
