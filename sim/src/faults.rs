//! What goes wrong, and when: drawn from the seed before the world begins.

use std::fmt;

use crate::draw::Draw;
use crate::relay::Cut;

/// Faults begin and end within this time; then the cluster must come to rest.
const FROM_MS: u64 = 1_000;
const UNTIL_MS: u64 = 26_000;

/// Something that goes wrong. Those with a duration are put right again at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing gets through between the coordinators and this worker.
    Partition(usize),
    /// Nothing gets from this worker to the coordinators.
    Deaf(usize),
    /// Nothing gets from the coordinators to this worker.
    Mute(usize),
    /// What is sent between them is kept, and comes all at once at the end.
    Hold(usize),
    /// The link to this worker is slow.
    Slow(usize),
    /// Nothing gets through between the coordinators and their clients.
    NoClients,
    /// This coordinator is killed, and started again at the end.
    CoordinatorKilled(usize),
    /// This worker's daemon is killed, and started again at the end. Its children go on.
    WorkerKilled(usize),
    /// This worker's host loses power, and has it again at the end.
    PowerLost(usize),
    /// The keeper of a child somewhere is killed.
    KeeperKilled,
    /// The next COMMIT fails.
    Commit(Cut),
    /// The next COMMIT of a transaction that has ended jobs fails.
    CommitOfEnd(Cut),
    /// Whoever next stores that jobs have ended is killed as soon as that is stored, and started again later.
    KilledAtEnd,
    /// Postgres is away, for this coordinator.
    PostgresAway(usize),
    /// Postgres answers late, to this coordinator.
    PostgresSlow(usize),
    /// Postgres stands still, for this coordinator: nothing is answered, nothing breaks, and then all goes on.
    PostgresStill(usize),
    /// The same for whoever leads, from the moment at which it begins a transaction: another one takes over, and then that
    /// transaction goes on.
    LeaderStill,
    /// One process of Postgres is ended.
    BackendEnded,
    /// This coordinator's process is stopped for a while, and does not know it.
    CoordinatorStoodStill(usize),
    /// The time of day jumps, here or there, and jumps back at the end.
    CoordinatorClock(usize, i64),
    WorkerClock(usize, i64),
    /// Every host's time of day is set on by so many milliseconds, and stays so: minutes that nobody lived through, in
    /// which jobs have run for long enough to make room for others.
    ClocksSetOn(i64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worker = |index: &usize| format!("worker-{index}");
        let head = |index: &usize| format!("head-{index}");
        let word = |cut: &Cut| match cut {
            Cut::Before => "does not arrive",
            Cut::After => "is not answered",
            Cut::Killed => "kills whoever asks for it",
        };
        match self {
            Self::Partition(w) => write!(f, "partition from {}", worker(w)),
            Self::Deaf(w) => write!(f, "nothing arrives from {}", worker(w)),
            Self::Mute(w) => write!(f, "nothing arrives at {}", worker(w)),
            Self::Hold(w) => write!(f, "messages to and from {} are held", worker(w)),
            Self::Slow(w) => write!(f, "slow link to {}", worker(w)),
            Self::NoClients => write!(f, "partition from the clients"),
            Self::CoordinatorKilled(c) => write!(f, "{} is killed", head(c)),
            Self::WorkerKilled(w) => write!(f, "the daemon of {} is killed", worker(w)),
            Self::PowerLost(w) => write!(f, "{} loses power", worker(w)),
            Self::KeeperKilled => write!(f, "a keeper is killed"),
            Self::Commit(cut) => write!(f, "the next COMMIT {}", word(cut)),
            Self::CommitOfEnd(cut) => write!(f, "the next COMMIT of an end {}", word(cut)),
            Self::KilledAtEnd => write!(f, "the next COMMIT of an end {}", word(&Cut::Killed)),
            Self::PostgresAway(c) => write!(f, "Postgres is away for {}", head(c)),
            Self::PostgresSlow(c) => write!(f, "Postgres is slow for {}", head(c)),
            Self::PostgresStill(c) => write!(f, "Postgres stands still for {}", head(c)),
            Self::LeaderStill => write!(f, "Postgres stands still for the one that leads"),
            Self::BackendEnded => write!(f, "a process of Postgres is ended"),
            Self::CoordinatorStoodStill(c) => write!(f, "{} stands still", head(c)),
            Self::CoordinatorClock(c, ms) => write!(f, "the clock of {} jumps by {ms} ms", head(c)),
            Self::WorkerClock(w, ms) => write!(f, "the clock of {} jumps by {ms} ms", worker(w)),
            Self::ClocksSetOn(ms) => write!(f, "every clock is set on by {ms} ms"),
        }
    }
}

impl Fault {
    /// The worker that it may keep silent.
    #[must_use]
    pub fn silences(&self) -> Option<usize> {
        match self {
            Self::Partition(w)
            | Self::Deaf(w)
            | Self::Mute(w)
            | Self::Hold(w)
            | Self::Slow(w)
            | Self::WorkerKilled(w)
            | Self::PowerLost(w) => Some(*w),
            Self::NoClients
            | Self::CoordinatorKilled(_)
            | Self::KeeperKilled
            | Self::Commit(_)
            | Self::PostgresAway(_)
            | Self::PostgresSlow(_)
            | Self::PostgresStill(_)
            | Self::CommitOfEnd(_)
            | Self::KilledAtEnd
            | Self::LeaderStill
            | Self::BackendEnded
            | Self::CoordinatorStoodStill(_)
            | Self::CoordinatorClock(..)
            | Self::WorkerClock(..)
            | Self::ClocksSetOn(_) => None,
        }
    }
}

/// One fault with its time.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    pub fault: Fault,
    pub begin_ms: u64,
    pub end_ms: u64,
}

/// The faults of a world with so many coordinators and workers. Two that would undo each other do not overlap.
#[must_use]
pub fn plan(draw: &mut Draw, coordinators: usize, workers: usize) -> Vec<Planned> {
    let mut plan: Vec<Planned> = Vec::new();
    let mut at = FROM_MS;
    while at < UNTIL_MS {
        let fault = one(draw, coordinators, workers);
        // Long enough for another one to take over, where it is about that.
        let (shortest, longest) = if matches!(fault, Fault::LeaderStill) {
            (4_500, 9_000)
        } else if matches!(fault, Fault::CoordinatorKilled(_)) {
            (50, 4_000)
        } else {
            (50, 13_000)
        };
        let end_ms = (at + draw.between(shortest, longest)).min(UNTIL_MS);
        let planned = Planned {
            fault,
            begin_ms: at,
            end_ms,
        };
        if plan.iter().all(|other| goes_with(other, &planned)) {
            plan.push(planned);
        }
        at += draw.between(300, 3_500);
    }
    plan
}

fn one(draw: &mut Draw, coordinators: usize, workers: usize) -> Fault {
    let (head, worker) = (draw.index(coordinators), draw.index(workers));
    let jump = |draw: &mut Draw| i64::try_from(draw.between(0, 30_000)).unwrap_or(0) - 15_000;
    // Weighted by what has found most.
    let cut = |draw: &mut Draw| {
        if draw.chance(65) {
            Cut::After
        } else {
            Cut::Before
        }
    };
    match draw.between(0, 120) {
        0..=10 => Fault::Hold(worker),
        11..=13 => Fault::PostgresStill(head),
        14..=20 => Fault::Deaf(worker),
        21..=27 => Fault::Mute(worker),
        28..=33 => Fault::Partition(worker),
        34..=45 => Fault::CoordinatorKilled(head),
        46..=57 => Fault::Commit(cut(draw)),
        58..=67 => Fault::WorkerKilled(worker),
        68..=72 => Fault::CoordinatorClock(head, jump(draw)),
        73..=76 => Fault::WorkerClock(worker, jump(draw)),
        77..=83 => Fault::CoordinatorStoodStill(head),
        84..=86 => Fault::Slow(worker),
        87..=89 => Fault::PostgresAway(head),
        90..=91 => Fault::PostgresSlow(head),
        92..=94 => Fault::BackendEnded,
        95..=96 => Fault::PowerLost(worker),
        97..=98 => Fault::KeeperKilled,
        99..=103 => Fault::LeaderStill,
        104..=108 => Fault::CommitOfEnd(cut(draw)),
        109..=116 => Fault::KilledAtEnd,
        117..=119 => {
            Fault::ClocksSetOn(i64::try_from(draw.between(60_000, 1_200_000)).unwrap_or(0))
        }
        _ => Fault::NoClients,
    }
}

/// turmoil knows one state of a link, and a daemon is up or not.
fn goes_with(a: &Planned, b: &Planned) -> bool {
    let apart = a.end_ms + 100 < b.begin_ms || b.end_ms + 100 < a.begin_ms;
    let same_kind = std::mem::discriminant(&a.fault) == std::mem::discriminant(&b.fault);
    let same_link = a.fault.silences().is_some() && a.fault.silences() == b.fault.silences();
    apart || !(same_kind || same_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_comes_and_all_is_over_in_the_end() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let plan = plan(&mut Draw::of(seed, "faults"), 2, 3);
            assert!(
                plan.iter()
                    .all(|p| p.begin_ms < p.end_ms && p.end_ms <= UNTIL_MS)
            );
            let words = plan.iter().map(|p| format!("{:?}", p.fault));
            seen.extend(words.map(|word| word.split('(').next().unwrap().to_owned()));
        }
        assert_eq!(seen.len(), 22, "{seen:?}");
    }
}
