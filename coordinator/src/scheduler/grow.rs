//! Which running gangs that lost ranks take new ones: they are asked to stop at a checkpoint, and start again with all of
//! them.
//!
//! Invariant: nobody is asked unless the whole gang then fits on what is free and what it holds itself, within its
//! project's quotas, on devices for which nobody waits who goes before it or is its equal. All of that is kept for it
//! until it starts ([`Claim`]), and it then starts before the others of its round: it gave up devices that it had.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::resources::DeviceKind;

use super::devices::Pool;
use super::limits::{Claim, Purses, Short};
use super::preempt::{LEAVE_WITHIN, claim};
use super::queue::Line;
use super::wanted::{Kind, Wanted};
use super::{Kinds, Obstacle, Plan, Stay, choices, kinds};

/// A gang runs for this long before it is asked: so it is asked no more often, and has done more than it costs to
/// begin again.
pub const GROWS_AFTER: TimeDelta = TimeDelta::minutes(10);
/// So long after its last loss: a host that comes and goes would have it begin again each time.
pub const GROWS_AFTER_LOSS: TimeDelta = TimeDelta::minutes(5);
/// One that ends sooner than this, by its time limit or as its like did, is left alone.
pub const ENDS_SOON: TimeDelta = TimeDelta::minutes(10);

/// What is kept for a gang that is asked to grow; None: it is not.
pub(super) fn grow(
    pool: &Pool<'_>,
    purses: &Purses,
    plan: &Plan,
    short: &Short,
    now: DateTime<Utc>,
) -> Option<Claim> {
    let Short { job, shape, .. } = *short;
    // What it lost and what it has cannot be told apart there.
    if pool
        .hosts()
        .any(|host| short.unproven.contains(&host.worker))
    {
        return None;
    }
    let own = HashSet::from([job]);
    let held = |kind| {
        let all = pool.hosts().flat_map(|host| &host.running);
        let its = all.filter(|held| held.job == job);
        let devices = its.flat_map(|held| &held.devices);
        u32::try_from(devices.filter(|device| Kind::of(device) == kind).count()).unwrap_or(u32::MAX)
    };
    let (gpus, cpus) = (held(Kind::Gpu), held(Kind::Cpu));
    // Of the kind that it has: it would otherwise leave GPUs for CPU slots, or wait for them.
    let allowed = Kinds {
        gpu: gpus > 0,
        cpu: cpus > 0,
    };
    let more = |kind| {
        let held = if kind == Kind::Gpu { gpus } else { cpus };
        shape.devices().saturating_sub(held)
    };
    let last = Stay::of(shape, now).last + LEAVE_WITHIN;
    choices(pool, shape, allowed)
        .into_iter()
        .find_map(|wanted| {
            purses
                // For what it takes in addition: what it has is charged already.
                .allows(short.project, wanted.kind, more(wanted.kind))
                .ok()?;
            let gang = (shape.ranks, shape.devices_per_rank);
            let shares = pool.fit_without(&own, wanted, gang, last)?;
            let claim = claim(pool, wanted, &shares, shape).of_growth();
            // Its restart costs work that was done: it is worth that only where nobody who waits
            // could use what it takes.
            let is_free = plan
                .waiting
                .iter()
                .filter(|(line, obstacle)| {
                    line.priority >= short.priority && waits_for_devices(**obstacle)
                })
                .all(|(line, _)| !could_use(pool, *line, &claim, wanted, job));
            is_free.then_some(claim)
        })
}

fn waits_for_devices(obstacle: Obstacle) -> bool {
    match obstacle {
        Obstacle::HeldBack { .. } | Obstacle::Busy { .. } | Obstacle::Window { .. } => true,
        Obstacle::Turn | Obstacle::Quota { .. } | Obstacle::NoWorker | Obstacle::Impossible => {
            false
        }
    }
}

/// Whether jobs of a line could use something that is free where the gang would take more than it has.
fn could_use(pool: &Pool<'_>, line: Line, claim: &Claim, wanted: Wanted<'_>, job: JobId) -> bool {
    let hosts: Vec<usize> = claim
        .devices
        .iter()
        .filter_map(|(worker, devices)| {
            let index = pool.index_of(*worker)?;
            (*devices > pool.held_by(index, wanted, job)).then_some(index)
        })
        .collect();
    let same_kind = |kind: DeviceKind| kinds(kind).contains(&wanted.kind);
    same_kind(line.shape.device)
        && choices(pool, line.shape, Kinds::ALL)
            .into_iter()
            .filter(|theirs| theirs.kind == wanted.kind)
            .any(|theirs| pool.has_free(&hosts, theirs))
}
