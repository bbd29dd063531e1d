//! What breaks, and how it comes back.

use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::dice::Dice;
use super::relay::Link;
use super::site::Site;

/// What a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    CoordinatorKilled,
    CoordinatorPaused,
    DaemonKilled,
    DaemonPaused,
    HostLost,
    RankKilled,
    RankPaused,
    PostgresKilled,
    PostgresRestarted,
    PostgresPaused,
    BackendKilled,
    BackendEnded,
    LinkCut,
    LinkSilent,
    LinkDeaf,
    LinkSlow,
    ClientCut,
}

impl Kind {
    pub const ALL: [Self; 17] = [
        Self::CoordinatorKilled,
        Self::CoordinatorPaused,
        Self::DaemonKilled,
        Self::DaemonPaused,
        Self::HostLost,
        Self::RankKilled,
        Self::RankPaused,
        Self::PostgresKilled,
        Self::PostgresRestarted,
        Self::PostgresPaused,
        Self::BackendKilled,
        Self::BackendEnded,
        Self::LinkCut,
        Self::LinkSilent,
        Self::LinkDeaf,
        Self::LinkSlow,
        Self::ClientCut,
    ];

    /// Whether it is done to the database's server or to a process of it.
    #[must_use]
    pub fn is_of_postgres(self) -> bool {
        matches!(
            self,
            Self::PostgresKilled
                | Self::PostgresRestarted
                | Self::PostgresPaused
                | Self::BackendKilled
                | Self::BackendEnded
        )
    }

    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::CoordinatorKilled => "coordinator: kill -9",
            Self::CoordinatorPaused => "coordinator: stopped, let go",
            Self::DaemonKilled => "worker daemon: kill -9",
            Self::DaemonPaused => "worker daemon: stopped, let go",
            Self::HostLost => "host: daemon and jobs kill -9",
            Self::RankKilled => "rank: kill -9",
            Self::RankPaused => "rank: stopped, let go",
            Self::PostgresKilled => "postgres: kill -9 of all of it",
            Self::PostgresRestarted => "postgres: away, started again",
            Self::PostgresPaused => "postgres: stopped, let go",
            Self::BackendKilled => "postgres backend: kill -9",
            Self::BackendEnded => "postgres backend: terminated",
            Self::LinkCut => "link of a worker: cut",
            Self::LinkSilent => "link of a worker: silent",
            Self::LinkDeaf => "link of a worker: one way",
            Self::LinkSlow => "link of a worker: slow",
            Self::ClientCut => "link of clients: cut",
        }
    }
}

/// A fault that was done.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    pub at: DateTime<Utc>,
    /// Which coordinator or worker, by place.
    pub target: usize,
    /// Its name, for the log.
    pub name: String,
    /// How long it lasts before it is mended.
    pub lasts: Duration,
    paused: Vec<Pid>,
}

/// Does it. None: there is nobody to do it to at this moment.
pub fn strike(site: &mut Site, kind: Kind, dice: &mut Dice) -> Result<Option<Fault>> {
    let worker = dice.below(site.workers.len());
    let coordinator = dice.below(site.coordinators.len());
    let mut fault = Fault {
        kind,
        at: super::now(),
        target: worker,
        name: site.workers[worker].name.clone(),
        lasts: Duration::ZERO,
        paused: Vec::new(),
    };
    match kind {
        Kind::CoordinatorKilled => {
            (fault.target, fault.name) = (coordinator, site.coordinators[coordinator].name.clone());
            site.kill_coordinator(coordinator)?;
            fault.lasts = dice.millis(0, 1_000);
        }
        Kind::CoordinatorPaused => {
            (fault.target, fault.name) = (coordinator, site.coordinators[coordinator].name.clone());
            site.signal_coordinator(coordinator, Signal::SIGSTOP)?;
            fault.lasts = dice.millis(500, 14_000);
        }
        Kind::DaemonKilled => {
            site.kill_worker(worker)?;
            fault.lasts = dice.millis(0, 12_000);
        }
        Kind::DaemonPaused => {
            site.signal_worker(worker, Signal::SIGSTOP)?;
            fault.lasts = dice.millis(500, 14_000);
        }
        Kind::HostLost => {
            site.cut_power(worker)?;
            fault.lasts = dice.millis(0, 14_000);
        }
        Kind::RankKilled | Kind::RankPaused => {
            let processes = site.job_processes(worker);
            if processes.is_empty() {
                return Ok(None);
            }
            let process = dice.pick(&processes);
            let (signal, pid) = match kind == Kind::RankKilled {
                true => (Signal::SIGKILL, Pid::from_raw(process.pid)),
                false => (Signal::SIGSTOP, Pid::from_raw(process.pid)),
            };
            if kill(pid, signal).is_err() {
                return Ok(None);
            }
            if signal == Signal::SIGSTOP {
                fault.paused.push(pid);
                fault.lasts = dice.millis(500, 5_000);
            }
        }
        Kind::PostgresKilled => {
            fault.name = "postgres".into();
            site.postgres.kill()?;
            fault.lasts = dice.millis(0, 1_000);
        }
        Kind::PostgresRestarted => {
            fault.name = "postgres".into();
            site.postgres.stop()?;
            fault.lasts = dice.millis(0, 15_000);
        }
        Kind::PostgresPaused => {
            fault.name = "postgres".into();
            site.postgres.pause(Signal::SIGSTOP)?;
            fault.lasts = dice.millis(500, 12_000);
        }
        Kind::BackendKilled | Kind::BackendEnded => {
            let serving = site.postgres.serving()?;
            if serving.is_empty() {
                return Ok(None);
            }
            let signal = match kind == Kind::BackendKilled {
                true => Signal::SIGKILL,
                false => Signal::SIGTERM,
            };
            fault.name = "postgres".into();
            if kill(*dice.pick(&serving), signal).is_err() {
                return Ok(None);
            }
        }
        Kind::LinkCut | Kind::LinkSilent | Kind::LinkDeaf | Kind::LinkSlow => {
            let delay = dice.millis(20, 400);
            let links = [
                (Kind::LinkCut, Link::Cut),
                (Kind::LinkSilent, Link::Silent),
                (Kind::LinkDeaf, Link::Deaf),
            ];
            let link = links.iter().find(|(of, _)| *of == kind);
            let link = link.map_or(Link::Slow(delay), |(_, link)| *link);
            site.workers[worker]
                .links
                .iter()
                .for_each(|relay| relay.set(link));
            fault.lasts = dice.millis(500, 16_000);
        }
        Kind::ClientCut => {
            fault.name = "clients".into();
            site.client_links
                .iter()
                .for_each(|relay| relay.set(Link::Cut));
            fault.lasts = dice.millis(500, 5_000);
        }
    }
    Ok(Some(fault))
}

/// Ends it: starts what was killed, lets go what was stopped, mends the link.
pub fn mend(site: &mut Site, fault: &Fault) -> Result<()> {
    match fault.kind {
        Kind::CoordinatorKilled => site.start_coordinator(fault.target)?,
        Kind::CoordinatorPaused => site.signal_coordinator(fault.target, Signal::SIGCONT)?,
        Kind::DaemonKilled | Kind::HostLost => site.start_worker(fault.target)?,
        Kind::DaemonPaused => site.signal_worker(fault.target, Signal::SIGCONT)?,
        Kind::RankPaused => {
            for pid in &fault.paused {
                // It may have been killed meanwhile.
                let _ = kill(*pid, Signal::SIGCONT);
            }
        }
        Kind::PostgresKilled | Kind::PostgresRestarted => site.postgres.start()?,
        Kind::PostgresPaused => site.postgres.pause(Signal::SIGCONT)?,
        Kind::LinkCut | Kind::LinkSilent | Kind::LinkDeaf | Kind::LinkSlow => {
            site.workers[fault.target]
                .links
                .iter()
                .for_each(|relay| relay.set(Link::Up));
        }
        Kind::ClientCut => site
            .client_links
            .iter()
            .for_each(|relay| relay.set(Link::Up)),
        Kind::RankKilled | Kind::BackendKilled | Kind::BackendEnded => {}
    }
    Ok(())
}

/// Faults of one kind, for the table.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub count: usize,
    /// From the mending until all was well, each.
    pub recoveries: Vec<Duration>,
}

impl Tally {
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let mut sorted = self.recoveries.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        self.recoveries.iter().max().copied()
    }
}

/// For how long faults are done, counted from now.
#[derive(Debug, Clone, Copy)]
pub struct Until(Instant);

impl Until {
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    #[must_use]
    pub fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
}
