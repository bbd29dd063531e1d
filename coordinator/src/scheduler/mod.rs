//! Which pending jobs run where: a pure function. README.md beside this file states the rules.
//!
//! Invariant: no database, channel, clock or randomness; the same jobs, put in in any order, give the
//! same plan. Its cost follows from the shapes that wait, the hosts and the placements made, not from
//! the number of jobs. Not here: reading the world and writing the plan down (`background`).

mod devices;
mod obstacles;
mod queue;
mod reason;
mod shape;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::flavour::Capability;
use marquee_domain::ids::{JobId, Rank, WorkerId};
use marquee_domain::resources::{Device, DeviceKind};

use devices::{Kind, Pool, Trainer, Wanted};
pub use queue::{Line, Pending, Queue};
pub use reason::{Explainer, Obstacle, back_off};
pub use shape::Shape;

/// A job that has been queued for this long without fitting has devices held back for it. Most
/// small jobs end in less; a person who watches a gang wait sees it move within a minute.
pub const RESERVE_AFTER: Duration = Duration::from_secs(30);

/// One worker's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub worker: WorkerId,
    pub name: String,
    /// Whether new ranks may be placed here: its session is up and its lease runs.
    pub accepting: bool,
    /// Every device the host offers.
    pub devices: BTreeSet<Device>,
    /// What is known of its GPUs, by index.
    pub gpus: BTreeMap<u32, Gpu>,
    /// What its trainer is built on; empty: it has none.
    pub flavour: String,
    /// Ranks that hold devices here. A device is free when none of them has it.
    pub running: Vec<Held>,
}

/// A GPU of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    pub capability: Capability,
    /// Why it takes no new ranks, with the cure.
    pub fault: Option<String>,
}

/// Devices that a rank of a running attempt holds on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub job: JobId,
    pub devices: Vec<Device>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Jobs to start, in the order in which they were chosen.
    pub placements: Vec<Placement>,
    /// What keeps the jobs that were left, for each priority and shape among them.
    pub waiting: BTreeMap<Line, Obstacle>,
    /// Devices held back in this round, at most once for each kind.
    pub reservations: Vec<Reservation>,
}

/// A whole gang with a place for each rank, in rank order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub job: JobId,
    pub ranks: Vec<PlacedRank>,
}

/// A rank's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRank {
    pub rank: Rank,
    pub worker: WorkerId,
    /// Index among the attempt's ranks on the same host.
    pub local_rank: u32,
    pub devices: Vec<Device>,
}

/// A job for which devices are held back on the hosts that it would take in an empty cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    pub job: JobId,
    pub shape: Shape,
}

/// What decides a round: [`plan`], or one that a test gives.
pub type Planner = fn(&Queue, &[Host], DateTime<Utc>) -> Plan;

/// Decides which jobs of `queue` start now, and where. The caller has woken those whose back-off is
/// over ([`Queue::wake`]).
///
/// Jobs are taken in order of priority and number by merging the lines of those alike. A line is left
/// at its first job that does not fit: what is free only shrinks within a round, so none behind it
/// would fit either.
#[must_use]
pub fn plan(queue: &Queue, hosts: &[Host], now: DateTime<Utc>) -> Plan {
    let mut pool = Pool::new(hosts);
    let mut plan = Plan::default();
    let mut closed: BTreeMap<Shape, Obstacle> = BTreeMap::new();
    let mut lines: BTreeMap<_, _> = queue
        .alike()
        .iter()
        .map(|(rank, alike)| (*rank, alike.jobs.iter().copied().peekable()))
        .collect();
    let mut heads: BinaryHeap<Reverse<(Reverse<i32>, JobId, Shape)>> = lines
        .iter_mut()
        .filter_map(|((priority, shape), line)| {
            let job = line.peek()?;
            Some(Reverse((*priority, *job, *shape)))
        })
        .collect();
    while let Some(Reverse((priority, job, shape))) = heads.pop() {
        let rank = (priority, shape);
        let found = if closed.contains_key(&shape) {
            None
        } else {
            start(&mut pool, job, shape)
        };
        let Some(ranks) = found else {
            let obstacle = closed
                .entry(shape)
                .or_insert_with(|| reason::obstacle(&pool, shape));
            plan.waiting.insert(rank, *obstacle);
            // Those before this job in its line have just been placed.
            let longest = queue
                .alike()
                .get(&rank)
                .and_then(|alike| alike.longest_wait(job));
            if let Some((since, waiter)) = longest
                && has_waited_long(since, now)
            {
                let reservation = Reservation { job: waiter, shape };
                if reserve(&mut pool, reservation) {
                    plan.reservations.push(reservation);
                }
            }
            continue;
        };
        plan.placements.push(Placement { job, ranks });
        if let Some(line) = lines.get_mut(&rank) {
            line.next();
            if let Some(next) = line.peek() {
                heads.push(Reverse((priority, *next, shape)));
            }
        }
    }
    plan
}

/// The kinds that a job may have, the better first.
fn kinds(wanted: DeviceKind) -> &'static [Kind] {
    match wanted {
        DeviceKind::Cpu => &[Kind::Cpu],
        DeviceKind::Gpu => &[Kind::Gpu],
        DeviceKind::Any => &[Kind::Gpu, Kind::Cpu],
    }
}

/// Takes devices for every rank of `job`, or none at all.
fn start(pool: &mut Pool<'_>, job: JobId, shape: Shape) -> Option<Vec<PlacedRank>> {
    let (wanted, shares) = choices(pool, shape).into_iter().find_map(|wanted| {
        let shares = pool.fit_now(wanted, shape.ranks, shape.devices_per_rank)?;
        Some((wanted, shares))
    })?;

    let mut placed = Vec::new();
    let mut next_rank = 0..shape.ranks;
    for share in shares {
        for (local_rank, rank) in (0..).zip(next_rank.by_ref().take(share.ranks as usize)) {
            let devices = pool.take(share.host, wanted, shape.devices_per_rank, job);
            let worker = pool.host(share.host).worker;
            placed.push(PlacedRank {
                rank: Rank(rank),
                worker,
                local_rank,
                devices,
            });
        }
    }
    Some(placed)
}

/// What would do for a gang, the better first: each is one kind of device and, where it needs a
/// trainer, one flavour, so that neither is ever mixed.
fn choices<'a>(pool: &Pool<'a>, shape: Shape) -> Vec<Wanted<'a>> {
    let of_kind = |kind: &Kind| {
        let kind = *kind;
        let flavours: Vec<Trainer<'a>> = if shape.needs_trainer {
            pool.flavours().map(Trainer::Of).collect()
        } else {
            vec![Trainer::NotNeeded]
        };
        flavours
            .into_iter()
            .map(move |trainer| Wanted { kind, trainer })
    };
    kinds(shape.device).iter().flat_map(of_kind).collect()
}

fn has_waited_long(since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    (now - since)
        .to_std()
        .is_ok_and(|waited| waited >= RESERVE_AFTER)
}

/// Holds devices back on the hosts that the job would take in an empty cluster, unless another job
/// already has a reservation for that kind, or no empty cluster would do. True if it did.
fn reserve(pool: &mut Pool<'_>, reservation: Reservation) -> bool {
    let Reservation { job, shape } = reservation;
    let found = choices(pool, shape).into_iter().find_map(|wanted| {
        let shares = pool.fit_if_empty(wanted, shape.ranks, shape.devices_per_rank)?;
        Some((wanted, shares))
    });
    found.is_some_and(|(wanted, shares)| {
        pool.hold_back(wanted, job, &shares, shape.devices_per_rank)
    })
}
