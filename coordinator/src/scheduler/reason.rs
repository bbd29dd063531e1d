//! Why a job is not placed, in words for its owner.
//!
//! Invariant: the same situation gives the same words, so that a stored reason changes only when
//! the situation does: no durations that tick, no random picks.

use chrono::{DateTime, Utc};
use marquee_domain::resources::{DeviceKind, Resources};

use super::cluster::{Cluster, Kind};
use super::{Pending, kinds};

/// Jobs named in one reason; more make it unreadable.
const NAMED_JOBS_MAX: usize = 3;

/// A failed attempt's back-off has not ended.
pub(super) fn back_off(until: DateTime<Utc>) -> String {
    format!(
        "the next attempt starts at {} UTC, after a back-off",
        until.format("%H:%M:%S")
    )
}

/// Why `job` did not fit.
pub(super) fn explain(cluster: &Cluster<'_>, job: &Pending) -> String {
    if cluster.is_empty() {
        return "no worker is online; start one with \"marquee-worker\"".into();
    }
    let Resources {
        ranks,
        devices_per_rank,
        device,
    } = job.resources;
    // Of the kinds that would do, the first that the cluster could ever give explains best.
    let possible = kinds(device).iter().find(|kind| {
        cluster
            .fit_if_empty(**kind, ranks, devices_per_rank)
            .is_some()
    });
    match possible {
        Some(kind) => busy(cluster, *kind, &job.resources),
        None => impossible(cluster, &job.resources),
    }
}

/// The gang fits an empty cluster, so it waits for others.
fn busy(cluster: &Cluster<'_>, kind: Kind, wanted: &Resources) -> String {
    let needs = needs(wanted, kind.as_str());
    if cluster.fit_unreserved(kind, wanted.ranks, wanted.devices_per_rank) {
        let holder = cluster.held_back_for(kind);
        let holder = holder.map_or_else(|| "another job".into(), |job| format!("job {job}"));
        return format!("{needs}, which are held back for {holder}: that one has waited longer");
    }
    let free = cluster.free(kind);
    let total: u32 = cluster.offers(kind).map(|(_, devices)| devices).sum();
    let mut text = format!("{needs}, {free} of {total} are free");
    if free >= wanted.ranks.saturating_mul(wanted.devices_per_rank) {
        text += &format!(
            " but not {} together on one host for each rank",
            wanted.devices_per_rank
        );
    }
    text + &waits_for(cluster, kind)
}

fn waits_for(cluster: &Cluster<'_>, kind: Kind) -> String {
    let holders = cluster.holders(kind);
    if holders.is_empty() {
        return String::new();
    }
    let named: Vec<String> = holders
        .iter()
        .take(NAMED_JOBS_MAX)
        .map(|(job, host)| format!("job {job} on {host}"))
        .collect();
    let more = match holders.len().saturating_sub(NAMED_JOBS_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(": waits for {}{more}", named.join(", "))
}

/// Not even an empty cluster would do: a host must come, or the job must change.
fn impossible(cluster: &Cluster<'_>, wanted: &Resources) -> String {
    let kind = match wanted.device {
        DeviceKind::Cpu => Kind::Cpu,
        DeviceKind::Gpu => Kind::Gpu,
        // Say why of the kind that there is more of.
        DeviceKind::Any => {
            let total = |kind| {
                cluster
                    .offers(kind)
                    .map(|(_, devices)| devices)
                    .sum::<u32>()
            };
            if total(Kind::Gpu) > total(Kind::Cpu) {
                Kind::Gpu
            } else {
                Kind::Cpu
            }
        }
    };
    let total: u32 = cluster.offers(kind).map(|(_, devices)| devices).sum();
    if total == 0 {
        return match kind {
            Kind::Gpu => {
                "no worker that is online has a GPU; bring one with a GPU, or set device = \"any\" in the job's resources"
                    .into()
            }
            Kind::Cpu => {
                "no worker that is online offers a cpu device; give one cpu slots in its config"
                    .into()
            }
        };
    }
    let per_rank = wanted.devices_per_rank;
    // Ties go to the first name.
    let largest = cluster
        .offers(kind)
        .min_by_key(|(_, devices)| std::cmp::Reverse(*devices));
    if let Some((host, devices)) = largest.filter(|(_, devices)| *devices < per_rank) {
        let (kind, name) = (kind.as_str(), &host.name);
        return format!(
            "each rank needs {per_rank} {kind} devices on one host, and the largest that is online, {name}, has {devices}"
        );
    }
    let needs = needs(wanted, kind.as_str());
    if wanted.ranks.saturating_mul(per_rank) > total {
        return format!(
            "{needs}, the workers that are online have {total}; bring more workers or ask for fewer ranks"
        );
    }
    format!(
        "{needs}, {per_rank} on one host for each rank; the workers that are online have {total}, but not so together"
    )
}

fn needs(wanted: &Resources, kind: &str) -> String {
    let Resources {
        ranks,
        devices_per_rank,
        ..
    } = wanted;
    let total = ranks.saturating_mul(*devices_per_rank);
    let plural = if total == 1 { "" } else { "s" };
    format!("needs {total} {kind} device{plural}")
}
