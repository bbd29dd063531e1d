//! Why a job is not placed, in words for its owner.
//!
//! Invariant: the same situation gives the same words, so that a stored reason changes only when
//! the situation does: no durations that tick, no random picks.

use chrono::{DateTime, Utc};
use marquee_domain::resources::{DeviceKind, Resources};

use super::cluster::{Cluster, Kind, Trainer, Wanted};
use super::{Pending, choices, obstacles};

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
        ..
    } = job.resources;
    // Of what would do, the first that the cluster could ever give explains best.
    let possible = choices(cluster, job).into_iter().find(|wanted| {
        cluster
            .fit_if_empty(*wanted, ranks, devices_per_rank)
            .is_some()
    });
    match possible {
        Some(wanted) => busy(cluster, wanted.kind, job),
        None => impossible(cluster, job),
    }
}

/// Devices of a kind that the job could use, of whatever flavour.
fn usable<'a>(kind: Kind, job: &Pending) -> Wanted<'a> {
    let trainer = if job.needs_trainer {
        Trainer::Any
    } else {
        Trainer::NotNeeded
    };
    Wanted { kind, trainer }
}

/// The gang fits an empty cluster, so it waits for others.
fn busy(cluster: &Cluster<'_>, kind: Kind, job: &Pending) -> String {
    let Resources {
        ranks,
        devices_per_rank,
        ..
    } = job.resources;
    let needs = needs(&job.resources, kind.as_str());
    let of_kind = |wanted: &Wanted<'_>| wanted.kind == kind;
    let fits = |wanted: Wanted<'_>| cluster.fit_unreserved(wanted, ranks, devices_per_rank);
    let mut choices = choices(cluster, job).into_iter().filter(of_kind);
    if choices.any(fits) {
        let holder = cluster.held_back_for(kind);
        let holder = holder.map_or_else(|| "another job".into(), |job| format!("job {job}"));
        return format!("{needs}, which are held back for {holder}: that one has waited longer");
    }
    let usable = usable(kind, job);
    let free = cluster.free(usable);
    let total: u32 = cluster.offers(usable).map(|(_, devices)| devices).sum();
    let mut text = format!("{needs}, {free} of {total} are free");
    if fits(usable) {
        text += " but not of one flavour of libtorch";
    } else if free >= ranks.saturating_mul(devices_per_rank) {
        text += &format!(" but not {devices_per_rank} together on one host for each rank");
    }
    text += &waits_for(cluster, kind);
    with(text, &obstacles::faults(cluster, kind))
}

/// A reason with what else stands in the way.
fn with(text: String, obstacles: &[String]) -> String {
    if obstacles.is_empty() {
        return text;
    }
    format!("{text}; {}", obstacles::list(obstacles))
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

/// Not even an empty cluster would do: a host must come or be cured, or the job must change.
fn impossible(cluster: &Cluster<'_>, job: &Pending) -> String {
    let total = |kind, job: &Pending| -> u32 {
        let offers = cluster.offers(usable(kind, job));
        offers.map(|(_, devices)| devices).sum()
    };
    let kind = match job.resources.device {
        DeviceKind::Cpu => Kind::Cpu,
        DeviceKind::Gpu => Kind::Gpu,
        // Say why of the kind that there is more of.
        DeviceKind::Any if total(Kind::Gpu, job) > total(Kind::Cpu, job) => Kind::Gpu,
        DeviceKind::Any => Kind::Cpu,
    };
    let obstacles = obstacles::all(cluster, kind, job);
    let total = total(kind, job);
    if total == 0 {
        return none_at_all(kind, &obstacles);
    }
    let wanted = &job.resources;
    let per_rank = wanted.devices_per_rank;
    // Ties go to the first name.
    let largest = cluster
        .offers(usable(kind, job))
        .min_by_key(|(_, devices)| std::cmp::Reverse(*devices));
    if let Some((host, devices)) = largest.filter(|(_, devices)| *devices < per_rank) {
        let (kind, name) = (kind.as_str(), &host.name);
        let text = format!(
            "each rank needs {per_rank} {kind} devices on one host, and the largest that is online, {name}, has {devices}"
        );
        return with(text, &obstacles);
    }
    let needs = needs(wanted, kind.as_str());
    if wanted.ranks.saturating_mul(per_rank) > total {
        let text = format!(
            "{needs}, the workers that are online have {total}; bring more workers or ask for fewer ranks"
        );
        return with(text, &obstacles);
    }
    if cluster
        .fit_if_empty(usable(kind, job), wanted.ranks, per_rank)
        .is_some()
    {
        let flavours = obstacles::flavours(cluster, kind);
        return format!(
            "{needs} with one flavour of libtorch, and the workers that are online have {flavours}: ask for fewer ranks, or install one flavour on all (docs/deploy.md)"
        );
    }
    let text = format!(
        "{needs}, {per_rank} on one host for each rank; the workers that are online have {total}, but not so together"
    );
    with(text, &obstacles)
}

fn none_at_all(kind: Kind, obstacles: &[String]) -> String {
    if !obstacles.is_empty() {
        return obstacles::list(obstacles);
    }
    match kind {
        Kind::Gpu => {
            "no worker that is online has a GPU; bring one with a GPU, or set device = \"any\" in the job's resources"
                .into()
        }
        Kind::Cpu => {
            "no worker that is online offers a cpu device; give one cpu slots in its config".into()
        }
    }
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
