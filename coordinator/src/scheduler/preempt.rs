//! Which running jobs make room for one of a higher priority.
//!
//! Invariant: a set of victims is asked only where the gang then fits on the devices that are free or become free
//! by it, and none of the set could be spared. What was freed is kept for the gang by a [`Claim`] until it starts:
//! else a peer would take the first devices while the last victim still writes its checkpoint, and the victims
//! would have left for nothing.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::{JobId, WorkerId};

use super::devices::{Pool, Share};
use super::held::HeldBack;
use super::limits::{Claim, Preemptible};
use super::shape::Shape;
use super::wanted::{Trainer, Wanted};
use super::{Host, Kinds, Stay, choices};

/// A job waits for this long before others make room for it: what ends by itself meanwhile loses nothing.
pub const PREEMPT_AFTER: Duration = Duration::from_secs(10);
/// A job that was placed less than this ago is left alone: it has hardly begun, and would never get anywhere.
pub const RUNS_AT_LEAST: Duration = Duration::from_secs(300);
/// How often a day a job makes room.
pub const TIMES_A_DAY_MAX: u32 = 4;
/// Whoever makes room has left by then: the job that starts after it must not run into a maintenance window.
pub(super) const LEAVE_WITHIN: TimeDelta = TimeDelta::minutes(15);
/// Running jobs that are looked at for one that waits, the cheapest first.
const LOOKED_AT_MAX: usize = 200;

/// Running jobs that make room for one that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    pub for_job: JobId,
    /// In the order of their numbers.
    pub victims: Vec<JobId>,
}

/// The cheapest set of running jobs whose devices, with those that are free, let a gang start, and what is then
/// kept for it.
pub(super) fn preempt(
    pool: &Pool<'_>,
    shape: Shape,
    allowed: Kinds,
    priority: i32,
    now: DateTime<Utc>,
) -> Option<(Vec<JobId>, Claim)> {
    let candidates = candidates(pool, priority, now);
    let last = Stay::of(shape, now).last + LEAVE_WITHIN;
    if candidates.is_empty() {
        return None;
    }
    choices(pool, shape, allowed)
        .into_iter()
        .find_map(|wanted| {
            let fit = |victims: &HashSet<JobId>| {
                pool.fit_without(victims, wanted, (shape.ranks, shape.devices_per_rank), last)
            };
            let mut victims = HashSet::new();
            let mut taken = Vec::new();
            for candidate in &candidates {
                // Its end would free nothing for this gang: its work would be lost for nobody.
                if !holds_any(pool, wanted, candidate.job) {
                    continue;
                }
                victims.insert(candidate.job);
                taken.push(candidate.job);
                if fit(&victims).is_some() {
                    break;
                }
            }
            fit(&victims)?;
            // The dearest first: whoever can be spared is.
            for job in taken.iter().rev() {
                victims.remove(job);
                if fit(&victims).is_none() {
                    victims.insert(*job);
                }
            }
            let shares = fit(&victims).filter(|_| !victims.is_empty())?;
            let mut victims: Vec<JobId> = victims.into_iter().collect();
            victims.sort_unstable();
            Some((victims, claim(pool, wanted, &shares, shape)))
        })
}

/// Who may be asked, the cheapest first: of the lowest priority, then who loses least.
fn candidates(pool: &Pool<'_>, priority: i32, now: DateTime<Utc>) -> Vec<Preemptible> {
    let runs_at_least = TimeDelta::from_std(RUNS_AT_LEAST).unwrap_or(TimeDelta::MAX);
    let may = |job: &&Preemptible| {
        job.priority < priority
            && job.times_today < TIMES_A_DAY_MAX
            // Counted from its newest start, so that a job which was just stopped and placed again has its time, too.
            && now - job.started_at >= runs_at_least
            && !pool.limits().leaving.contains(&job.job)
    };
    let held = devices_by_job(pool);
    let mut candidates: Vec<Preemptible> = pool
        .limits()
        .preemptible
        .iter()
        .filter(may)
        .copied()
        .collect();
    // In seconds of devices: ten GPUs lose in a minute what one loses in ten.
    let loss = |job: &Preemptible| {
        let devices = held.get(&job.job).copied().unwrap_or_default();
        (now - job.saved_at)
            .num_seconds()
            .max(0)
            .saturating_mul(i64::from(devices))
    };
    candidates.sort_by_key(|job| (job.priority, loss(job), job.job));
    // The dearest are left out, not the cheapest: who is not looked at keeps running, which is the safe side.
    candidates.truncate(LOOKED_AT_MAX);
    candidates
}

fn devices_by_job(pool: &Pool<'_>) -> BTreeMap<JobId, u32> {
    let mut devices: BTreeMap<JobId, u32> = BTreeMap::new();
    for held in pool.hosts().flat_map(|host| &host.running) {
        let count = u32::try_from(held.devices.len()).unwrap_or(u32::MAX);
        *devices.entry(held.job).or_default() += count;
    }
    devices
}

/// Whether a job's end would free anything that the gang could use.
fn holds_any(pool: &Pool<'_>, wanted: Wanted<'_>, job: JobId) -> bool {
    let on = |host: &Host| {
        let held = host.running.iter().filter(|held| held.job == job);
        held.flat_map(|held| &held.devices)
            .any(|device| wanted.fits(host, device))
    };
    pool.hosts().any(on)
}

/// What shares of a gang hold on their hosts.
pub(super) fn claim(pool: &Pool<'_>, wanted: Wanted<'_>, shares: &[Share], shape: Shape) -> Claim {
    let devices: BTreeMap<WorkerId, u32> = shares
        .iter()
        .map(|share| {
            let worker = pool.host(share.host).worker;
            (worker, share.ranks * shape.devices_per_rank)
        })
        .collect();
    Claim {
        kind: wanted.kind,
        flavour: match wanted.trainer {
            Trainer::Of(flavour) => Some(flavour.to_owned()),
            Trainer::NotNeeded | Trainer::Any => None,
        },
        portion: wanted.portion,
        devices,
        is_growth: false,
    }
}

/// Holds back the devices that other jobs left for this one; for a gang that grows, those that it does not hold yet.
/// False where the hosts of the claim cannot give them any more: the claim is then void, and the job waits like any
/// other.
pub(super) fn hold_claim(
    pool: &mut Pool<'_>,
    job: JobId,
    shape: Shape,
    claim: &Claim,
    now: DateTime<Utc>,
) -> bool {
    let last = Stay::of(shape, now).last;
    let of_claim = |wanted: &Wanted<'_>| {
        let flavour = match wanted.trainer {
            Trainer::Of(flavour) => Some(flavour),
            Trainer::NotNeeded | Trainer::Any => None,
        };
        wanted.kind == claim.kind
            && wanted.portion == claim.portion
            && flavour == claim.flavour.as_deref()
    };
    // All kinds are looked at: the caller has asked whether the quota allows this one now.
    let Some(wanted) = choices(pool, shape, Kinds::ALL).into_iter().find(of_claim) else {
        return false;
    };
    let offered: Vec<u32> = pool.offers(wanted).map(|(_, devices)| devices).collect();
    let mut devices = vec![0; offered.len()];
    for (worker, needed) in &claim.devices {
        match pool.index_of(*worker) {
            Some(index) if offered[index] >= *needed && !pool.host(index).is_barred(last) => {
                // What it has still nobody else can take.
                devices[index] = needed.saturating_sub(pool.held_by(index, wanted, job));
            }
            Some(_) | None => return false,
        }
    }
    pool.hold_back(HeldBack {
        wanted,
        job,
        devices,
        until: None,
        is_late: false,
        is_claim: true,
    })
}
