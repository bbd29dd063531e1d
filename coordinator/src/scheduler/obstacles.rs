//! Devices that are there and cannot be used, in words that name host and cure.
//!
//! Invariant: as in `reason`: the same situation gives the same words.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::flavour;
use marquee_domain::resources::Device;
use marquee_domain::spec::OneGpu;

use super::devices::Pool;
use super::wanted::{Kind, Portion, Trainer, Wanted};
use super::{Gpu, Host};

/// Obstacles named in one reason; a cluster with more has a common cause.
const NAMED_MAX: usize = 3;

/// GPUs that are ill. There is no such thing as an ill CPU slot.
pub(super) fn faults(pool: &Pool<'_>, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Cpu => Vec::new(),
        Kind::Gpu => pool.hosts().flat_map(faults_of).collect(),
    }
}

fn faults_of(host: &Host) -> impl Iterator<Item = String> {
    host.gpus.iter().filter_map(|(index, gpu)| {
        let fault = gpu.closed()?;
        let (host, name) = (&host.name, &gpu.name);
        Some(format!(
            "gpu {index} of {host} ({name}) is left out: {fault}"
        ))
    })
}

/// Why the one GPU that a burn-in is for cannot be had; None: it can, unless somebody has it.
pub(super) fn one_gpu(pool: &Pool<'_>, one: &OneGpu) -> Option<String> {
    let uuid = &one.uuid;
    let Some(host) = pool.hosts().find(|host| host.worker == one.worker) else {
        return Some(format!(
            "tests GPU {uuid}, whose worker takes no work now; \"marquee workers\" says why"
        ));
    };
    let name = &host.name;
    let mut gpus = host.gpus.iter();
    let Some((index, gpu)) = gpus.find(|(_, gpu)| gpu.uuid == *uuid) else {
        return Some(format!(
            "tests GPU {uuid} of {name}, which is not there now; it is tested when it is back"
        ));
    };
    let fault = gpu.fault.as_ref()?;
    Some(format!(
        "tests gpu {index} of {name}, which is ill: {fault}"
    ))
}

/// All that keeps a job from devices of `kind` that are there.
pub(super) fn all(pool: &Pool<'_>, kind: Kind, needs_trainer: bool) -> Vec<String> {
    let mut found = Vec::new();
    if needs_trainer {
        found.extend(pool.hosts().filter_map(|host| mismatch(host, kind)));
    }
    found.extend(faults(pool, kind));
    found
}

/// Hosts that an operator closed, with devices of a kind that the job could use there.
pub(super) fn closed(pool: &Pool<'_>, wanted: Wanted<'_>) -> Vec<String> {
    let has_any = |host: &&&Host| host.devices.iter().any(|device| wanted.fits(host, device));
    let closed = pool.closed().iter().filter(has_any);
    let words = closed.map(|host| {
        let why = host.closed.as_deref().unwrap_or("takes no work");
        format!("{} {why}", host.name)
    });
    words.collect()
}

/// Hosts with such devices that are to be empty before `last`.
pub(super) fn windows(pool: &Pool<'_>, wanted: Wanted<'_>, last: DateTime<Utc>) -> Vec<String> {
    let has_any = |host: &&Host| host.devices.iter().any(|device| wanted.fits(host, device));
    let barred = pool.hosts().filter(|host| host.is_barred(last));
    let words = barred.filter(has_any).filter_map(|host| {
        let window = host.window.as_ref()?;
        Some(format!("{} {}", host.name, window.words))
    });
    words.collect()
}

/// Why a host's trainer cannot use its devices; None where it can, or there are none.
fn mismatch(host: &Host, kind: Kind) -> Option<String> {
    let any = Wanted {
        kind,
        trainer: Trainer::NotNeeded,
        portion: Portion::Any { shares: true },
        memory_mib: 0,
        rules: None,
    };
    let first = host.devices.iter().find(|device| any.fits(host, device))?;
    let name = &host.name;
    if host.flavour.is_empty() {
        return Some(format!(
            "{name} has no marquee-trainer that starts: install it with its libtorch (docs/deploy.md)"
        ));
    }
    let uncovered = |gpu: &&Gpu| !flavour::runs_on(&host.flavour, gpu.capability);
    let gpu = match first {
        Device::Cpu { .. } => None,
        Device::Gpu { .. } => host.gpus.values().find(uncovered),
    }?;
    let (major, minor) = gpu.capability;
    let why = flavour::refusal(&host.flavour, gpu.capability);
    Some(format!(
        "{name} has a {} (compute capability {major}.{minor}), but {why}",
        gpu.name
    ))
}

/// How many usable devices each flavour has: `2 with libtorch-2.11.0 and 2 with ...`.
pub(super) fn flavours(pool: &Pool<'_>, kind: Kind) -> String {
    let mut devices: BTreeMap<&str, u32> = BTreeMap::new();
    let any = Wanted {
        kind,
        trainer: Trainer::Any,
        portion: Portion::Any { shares: true },
        memory_mib: 0,
        rules: None,
    };
    for (host, count) in pool.offers(any).filter(|(_, count)| *count > 0) {
        *devices.entry(&host.flavour).or_default() += count;
    }
    let words = devices
        .into_iter()
        .rev()
        .map(|(flavour, count)| format!("{count} with {flavour}"));
    words.collect::<Vec<_>>().join(" and ")
}

/// Some obstacles, and how many more there are.
pub(super) fn list(obstacles: &[String]) -> String {
    let named = obstacles.iter().take(NAMED_MAX).cloned();
    let named = named.collect::<Vec<_>>().join("; ");
    match obstacles.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}
