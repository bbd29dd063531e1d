//! Which pending jobs run where: a pure function. README.md beside this file states the rules.
//!
//! Invariant: no database, channel, clock or randomness; the same input in any order gives the
//! same plan. Not here: reading the world and writing the plan down (`background`).

mod cluster;
mod obstacles;
mod reason;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::flavour::Capability;
use marquee_domain::ids::{JobId, JobName, Rank, WorkerId};
use marquee_domain::resources::{Device, DeviceKind, Resources};

use cluster::{Cluster, Kind, Trainer, Wanted};

/// A job that has been queued for this long without fitting has devices held back for it. Most
/// small jobs end in less; a person who watches a gang wait sees it move within a minute.
pub const RESERVE_AFTER: Duration = Duration::from_secs(30);

/// A job that may run: all it needs has succeeded, and no cancel was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub job: JobId,
    pub name: JobName,
    pub resources: Resources,
    /// Whether its ranks run `marquee-trainer`: then they need hosts that have one, all of one
    /// flavour, with kernels for their GPUs.
    pub needs_trainer: bool,
    pub priority: i32,
    /// When it was queued: a job that waits for long has devices held back for it.
    pub queued_at: DateTime<Utc>,
    /// End of the back-off after a failed attempt.
    pub not_before: Option<DateTime<Utc>>,
}

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
    /// Every other pending job, with the reason in words.
    pub waiting: Vec<Waiting>,
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

/// A job that is not placed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub job: JobId,
    /// For users; names what is missing and what it waits for.
    pub reason: String,
}

/// Decides which of `pending` start now, and where.
#[must_use]
pub fn place(pending: &[Pending], hosts: &[Host], now: DateTime<Utc>) -> Plan {
    let mut order: Vec<&Pending> = pending.iter().collect();
    order.sort_by_key(|job| (Reverse(job.priority), job.job));

    let mut cluster = Cluster::new(hosts);
    let mut plan = Plan::default();
    for job in order {
        if let Some(until) = job.not_before.filter(|until| *until > now) {
            plan.waiting.push(Waiting {
                job: job.job,
                reason: reason::back_off(until),
            });
            continue;
        }
        if let Some(ranks) = start(&mut cluster, job) {
            plan.placements.push(Placement {
                job: job.job,
                ranks,
            });
            continue;
        }
        plan.waiting.push(Waiting {
            job: job.job,
            reason: reason::explain(&cluster, job),
        });
        if has_waited_long(job, now) {
            reserve(&mut cluster, job);
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
fn start(cluster: &mut Cluster<'_>, job: &Pending) -> Option<Vec<PlacedRank>> {
    let Resources {
        ranks,
        devices_per_rank,
        ..
    } = job.resources;
    let (wanted, shares) = choices(cluster, job).into_iter().find_map(|wanted| {
        let shares = cluster.fit_now(wanted, ranks, devices_per_rank)?;
        Some((wanted, shares))
    })?;

    let mut placed = Vec::new();
    let mut next_rank = 0..ranks;
    for share in shares {
        for (local_rank, rank) in (0..).zip(next_rank.by_ref().take(share.ranks as usize)) {
            let devices = cluster.take(share.host, wanted, devices_per_rank, job.job);
            let worker = cluster.host(share.host).worker;
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
fn choices<'a>(cluster: &Cluster<'a>, job: &Pending) -> Vec<Wanted<'a>> {
    let of_kind = |kind: &Kind| {
        let kind = *kind;
        let flavours: Vec<Trainer<'a>> = if job.needs_trainer {
            cluster.flavours().map(Trainer::Of).collect()
        } else {
            vec![Trainer::NotNeeded]
        };
        flavours
            .into_iter()
            .map(move |trainer| Wanted { kind, trainer })
    };
    kinds(job.resources.device)
        .iter()
        .flat_map(of_kind)
        .collect()
}

fn has_waited_long(job: &Pending, now: DateTime<Utc>) -> bool {
    (now - job.queued_at)
        .to_std()
        .is_ok_and(|waited| waited >= RESERVE_AFTER)
}

/// Holds devices back for `job` on the hosts that it would take in an empty cluster, unless
/// another job already has a reservation for that kind, or no empty cluster would do.
fn reserve(cluster: &mut Cluster<'_>, job: &Pending) {
    let Resources {
        ranks,
        devices_per_rank,
        ..
    } = job.resources;
    let found = choices(cluster, job).into_iter().find_map(|wanted| {
        let shares = cluster.fit_if_empty(wanted, ranks, devices_per_rank)?;
        Some((wanted, shares))
    });
    if let Some((wanted, shares)) = found {
        cluster.hold_back(wanted, job.job, &shares, devices_per_rank);
    }
}
