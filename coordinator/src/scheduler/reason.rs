//! Why a job is not placed: as a class with its figures, which is stored, and in words for its owner,
//! which are made when somebody reads them.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;
use marquee_domain::resources::{Device, DeviceKind};
use serde::{Deserialize, Serialize};

use super::devices::Pool;
use super::limits::{Limits, Purses, QuotaHit};
use super::wanted::{Kind, Portion, Trainer, Wanted};
use super::{
    Host, Kinds, Line, Reservation, Shape, Stay, UNKNOWN_RUNS, choices, kinds, obstacles, preempt,
    reserve,
};

/// Jobs named in one reason; more make it unreadable.
const NAMED_JOBS_MAX: usize = 3;

/// What keeps jobs of a shape from being placed, in the figures of the round that left them.
///
/// It names no job and no host: those change from round to round, and are looked up by who asks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum Obstacle {
    /// No worker is online.
    NoWorker,
    /// Even if nothing ran, the hosts that are online could not take the gang.
    Impossible,
    /// Enough devices are free, and held back for a job that has waited longer.
    HeldBack { needs: u32 },
    /// Too few devices are free, or not as the gang needs them together.
    Busy { needs: u32, free: u32, total: u32 },
    /// Enough devices are free, on hosts that are to be empty before it ends.
    Window { needs: u32 },
    /// As many of its array, or of its concurrency key, run as may run at a time.
    Turn,
    /// Its project has as much as it may have.
    Quota { quota: QuotaHit },
}

impl Obstacle {
    /// The word that is stored.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::NoWorker => "no_worker",
            Self::Impossible => "impossible",
            Self::HeldBack { .. } => "held_back",
            Self::Busy { .. } => "busy",
            Self::Window { .. } => "window",
            Self::Turn => "turn",
            Self::Quota { .. } => "quota",
        }
    }

    /// One as it was stored. None: another release stored it.
    #[must_use]
    pub fn stored(value: serde_json::Value) -> Option<Self> {
        serde_json::from_value(value).ok()
    }

    /// What can be said without looking at the hosts.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::NoWorker => "no worker was online when it was last looked at".into(),
            Self::Impossible => {
                "no worker that was online could take it when it was last looked at".into()
            }
            Self::HeldBack { needs } => format!(
                "needs {}, held back for a job that has waited longer when it was last looked at",
                counted(needs, "device")
            ),
            Self::Busy { needs, free, total } => format!(
                "needs {}, {free} of {total} were free when it was last looked at",
                counted(needs, "device")
            ),
            Self::Window { needs } => format!(
                "needs {}, free only on hosts that are to be empty before it ends",
                counted(needs, "device")
            ),
            Self::Turn => "as many as may run at a time were running".into(),
            Self::Quota { quota } => format!("quota of its project: {}", quota.words()),
        }
    }
}

impl QuotaHit {
    /// What is used up, and when it frees; to be read after "quota of project vision: ".
    #[must_use]
    pub fn words(self) -> String {
        let when = |frees_at: Option<DateTime<Utc>>, otherwise: &str| match frees_at {
            Some(at) => format!("frees by {} UTC", at.format("%Y-%m-%d %H:%M")),
            None => otherwise.to_owned(),
        };
        let at_once = |used: u32, quota: u32, what: &str, frees_at| {
            let when = when(frees_at, "frees when a job of the project ends");
            format!("{used} of {quota} {what} are in use; {when}")
        };
        match self {
            Self::Gpus(of) => at_once(of.used, of.quota, "GPUs", of.frees_at),
            Self::CpuSlots(of) => at_once(of.used, of.quota, "CPU slots", of.frees_at),
            Self::GpuHours(spent) => {
                let when = when(spent.frees_at, "frees as they age");
                format!(
                    "{:.1} of {:.1} GPU-hours of its week are used; {when}",
                    spent.used_hours, spent.quota_hours
                )
            }
        }
    }
}

/// Its owner asked for it not to start before.
#[must_use]
pub fn not_before(until: DateTime<Utc>) -> String {
    format!(
        "starts after {} UTC, as its document says",
        until.format("%Y-%m-%d %H:%M:%S")
    )
}

/// A failed attempt's back-off has not ended.
#[must_use]
pub fn back_off(until: DateTime<Utc>) -> String {
    format!(
        "the next attempt starts at {} UTC, after a back-off",
        until.format("%H:%M:%S")
    )
}

/// What keeps `shape` from being placed now.
pub(super) fn obstacle(pool: &Pool<'_>, shape: Shape, allowed: Kinds, stay: Stay) -> Obstacle {
    if pool.is_empty() {
        return Obstacle::NoWorker;
    }
    let needs = shape.devices();
    let Some(wanted) = possible(pool, shape, allowed) else {
        return Obstacle::Impossible;
    };
    if fits_unreserved(pool, wanted.kind, shape, stay) {
        return Obstacle::HeldBack { needs };
    }
    if fits_but_for_windows(pool, wanted.kind, shape) {
        return Obstacle::Window { needs };
    }
    let usable = usable(pool, wanted.kind, shape);
    Obstacle::Busy {
        needs,
        free: pool.free(usable),
        total: total(pool, usable),
    }
}

/// The hosts as they are, for whoever asks why jobs wait.
#[derive(Debug)]
pub struct Explainer<'a> {
    pool: Pool<'a>,
    now: DateTime<Utc>,
}

impl<'a> Explainer<'a> {
    /// Looks at `hosts` with what the newest round held back.
    #[must_use]
    pub fn new(
        hosts: &'a [Host],
        limits: &'a Limits,
        reservations: &[Reservation],
        shape_of: impl Fn(JobId) -> Option<Shape>,
        now: DateTime<Utc>,
    ) -> Self {
        let mut pool = Pool::new(hosts, limits);
        // As the round held them back: else what is kept for others would look free to whoever asks.
        for (job, claim) in &limits.claims {
            if let Some(shape) = shape_of(*job) {
                preempt::hold_claim(&mut pool, *job, shape, claim, now);
            }
        }
        for reservation in reservations {
            let Reservation {
                job, shape, kinds, ..
            } = *reservation;
            reserve(&mut pool, job, shape, kinds, now);
        }
        Self { pool, now }
    }

    /// Which quota keeps a job of a line from being placed: it rules out every kind that would do.
    #[must_use]
    pub fn quota(&self, line: Line) -> Option<QuotaHit> {
        let (allowed, hit) = self.allowed(line);
        possible(&self.pool, line.shape, allowed)
            .is_none()
            .then_some(hit)?
    }

    /// The kinds that a project may take for a job, and what rules out the best of the others.
    fn allowed(&self, line: Line) -> (Kinds, Option<QuotaHit>) {
        let purses = Purses::new(self.pool.limits());
        let mut allowed = Kinds {
            gpu: false,
            cpu: false,
        };
        let mut hit = None;
        for kind in kinds(line.shape.device) {
            match purses.allows(line.project, *kind, line.shape.devices()) {
                Ok(()) => match kind {
                    Kind::Gpu => allowed.gpu = true,
                    Kind::Cpu => allowed.cpu = true,
                },
                // The first of the kinds is the one that the job would rather have (`kinds`): its
                // quota is the one to name.
                Err(quota) => hit = hit.or(Some(quota)),
            }
        }
        (allowed, hit)
    }

    /// Why a job of this line is not placed, in words that name what is missing and what it waits
    /// for. None: it could be placed now, and the next round will.
    #[must_use]
    pub fn explain(&self, line: Line) -> Option<String> {
        let shape = line.shape;
        let (allowed, _) = self.allowed(line);
        let pool = &self.pool;
        if pool.is_empty() {
            let closed = kinds(shape.device).iter();
            let closed =
                closed.flat_map(|kind| obstacles::closed(pool, usable(pool, *kind, shape)));
            let closed: Vec<String> = closed.collect();
            return Some(if closed.is_empty() {
                "no worker is online; start one with \"marquee-worker\"".into()
            } else {
                format!("no worker takes new work: {}", obstacles::list(&closed))
            });
        }
        let stay = Stay::of(shape, self.now);
        let fits = |wanted| pool.fit_now(wanted, shape.ranks, shape.devices_per_rank, stay);
        if choices(pool, shape, allowed)
            .into_iter()
            .any(|wanted| fits(wanted).is_some())
        {
            return None;
        }
        Some(match possible(pool, shape, allowed) {
            Some(wanted) => busy(pool, wanted.kind, shape, stay),
            None => impossible(pool, shape),
        })
    }
}

/// The best choice that the hosts could give if nothing ran: the job waits for devices of that kind.
fn possible<'a>(pool: &Pool<'a>, shape: Shape, allowed: Kinds) -> Option<Wanted<'a>> {
    choices(pool, shape, allowed).into_iter().find(|wanted| {
        pool.fit_if_empty(*wanted, shape.ranks, shape.devices_per_rank)
            .is_some()
    })
}

/// Whether the gang could start now if nothing were held back.
fn fits_unreserved(pool: &Pool<'_>, kind: Kind, shape: Shape, stay: Stay) -> bool {
    of_kind(pool, kind, shape)
        .into_iter()
        .any(|wanted| pool.fit_unreserved(wanted, shape.ranks, shape.devices_per_rank, stay.last))
}

/// Whether the gang could start now if no host had to be empty before it ends.
fn fits_but_for_windows(pool: &Pool<'_>, kind: Kind, shape: Shape) -> bool {
    let (ranks, per_rank) = (shape.ranks, shape.devices_per_rank);
    of_kind(pool, kind, shape)
        .into_iter()
        .any(|wanted| pool.fit_but_for_windows(wanted, ranks, per_rank))
}

fn of_kind<'a>(pool: &Pool<'a>, kind: Kind, shape: Shape) -> Vec<Wanted<'a>> {
    let mut choices = choices(pool, shape, Kinds::ALL);
    choices.retain(|wanted| wanted.kind == kind);
    choices
}

/// Devices that the hosts offer.
fn total<'a>(pool: &Pool<'a>, wanted: Wanted<'a>) -> u32 {
    pool.offers(wanted).map(|(_, devices)| devices).sum()
}

/// Devices of a kind that the job could use, of whatever flavour.
fn usable<'a>(pool: &Pool<'a>, kind: Kind, shape: Shape) -> Wanted<'a> {
    let trainer = if shape.needs_trainer {
        Trainer::Any
    } else {
        Trainer::NotNeeded
    };
    let shares = shape.gpu_memory_mib.is_some() || pool.is_burn_in(shape);
    Wanted {
        kind,
        trainer,
        portion: if shape.is_single() {
            Portion::Any { shares }
        } else {
            Portion::Whole
        },
        memory_mib: shape.gpu_memory_mib.unwrap_or_default(),
        rules: pool.rules(shape.rules),
    }
}

/// The gang would fit if nothing ran, so it waits for others, or for a host that is to be empty first.
fn busy(pool: &Pool<'_>, kind: Kind, shape: Shape, stay: Stay) -> String {
    let needs = needs(shape, kind);
    if fits_unreserved(pool, kind, shape, stay) {
        let holder = pool.held_back_for(kind);
        let holder = holder.map_or_else(|| "another job".into(), |job| format!("job {job}"));
        let verb = if shape.devices() == 1 { "is" } else { "are" };
        return format!("{needs}, which {verb} held back for {holder}: that one has waited longer");
    }
    let windows = obstacles::windows(pool, usable(pool, kind, shape), stay.last);
    if fits_but_for_windows(pool, kind, shape) {
        let text = format!(
            "{needs}; enough are free, but not for as long as it may run{}",
            how_long(shape)
        );
        return with(text, &windows);
    }
    let usable = usable(pool, kind, shape);
    let free = pool.free(usable);
    let mut text = format!("{needs}, {free} of {} are free", total(pool, usable));
    // `usable` takes devices of every flavour, and one gang cannot mix them.
    if pool.fit_unreserved(usable, shape.ranks, shape.devices_per_rank, stay.last) {
        text += " but not of one flavour of libtorch";
    } else if free >= shape.devices() {
        let per_rank = shape.devices_per_rank;
        text += &format!(" but not {per_rank} together on one host for each rank");
    }
    text += &waits_for(pool, usable);
    // A burn-in waits for who is on its GPU, and for nothing else.
    let mut others = if pool.is_burn_in(shape) {
        Vec::new()
    } else {
        obstacles::faults(pool, kind)
    };
    others.extend(obstacles::closed(pool, usable));
    others.extend(windows);
    with(text, &others)
}

/// How long a job is taken to run where a host is to be empty later.
fn how_long(shape: Shape) -> String {
    match (shape.limit_s, shape.expected_s) {
        (Some(seconds), _) => format!(" (its timeout is {seconds} s)"),
        (None, Some(seconds)) => format!(" (nearly all like it took up to {seconds} s)"),
        (None, None) => format!(
            " (nobody knows; {} h are kept free then, and a timeout would tell)",
            UNKNOWN_RUNS.num_hours()
        ),
    }
}

/// A reason with what else stands in the way.
fn with(text: String, obstacles: &[String]) -> String {
    if obstacles.is_empty() {
        return text;
    }
    format!("{text}; {}", obstacles::list(obstacles))
}

fn waits_for(pool: &Pool<'_>, usable: Wanted<'_>) -> String {
    let holders = pool.holders(usable);
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

/// Even if nothing ran the gang would not fit: a host must come or be cured, or the job must change.
fn impossible(pool: &Pool<'_>, shape: Shape) -> String {
    let one = pool.rules(shape.rules).and_then(|rules| rules.gpu.as_ref());
    if let Some(text) = one.and_then(|one| obstacles::one_gpu(pool, one)) {
        return text;
    }
    let offered = |kind| total(pool, usable(pool, kind, shape));
    let kind = match shape.device {
        DeviceKind::Cpu => Kind::Cpu,
        DeviceKind::Gpu => Kind::Gpu,
        // Say why of the kind that there is more of.
        DeviceKind::Any if offered(Kind::Gpu) > offered(Kind::Cpu) => Kind::Gpu,
        DeviceKind::Any => Kind::Cpu,
    };
    let mut obstacles = obstacles::all(pool, kind, shape.needs_trainer);
    obstacles.extend(obstacles::closed(pool, usable(pool, kind, shape)));
    let total = offered(kind);
    if total == 0 {
        if let Some(text) = no_host_allowed(pool, kind, shape) {
            return text;
        }
        if let Some(text) = too_small(pool, kind, shape) {
            return text;
        }
        return none_at_all(kind, &obstacles);
    }
    let per_rank = shape.devices_per_rank;
    // Ties go to the first name.
    let largest = pool
        .offers(usable(pool, kind, shape))
        .min_by_key(|(_, devices)| std::cmp::Reverse(*devices));
    if let Some((host, devices)) = largest.filter(|(_, devices)| *devices < per_rank) {
        let (kind, name) = (kind.as_str(), &host.name);
        let text = format!(
            "each rank needs {per_rank} {kind} devices on one host, and the largest that is online, {name}, has {devices}"
        );
        return with(text, &obstacles);
    }
    let needs = needs(shape, kind);
    if shape.devices() > total {
        let text = format!(
            "{needs}, the workers that are online have {total}; bring more workers or ask for fewer ranks"
        );
        return with(text, &obstacles);
    }
    if pool
        .fit_if_empty(usable(pool, kind, shape), shape.ranks, per_rank)
        .is_some()
    {
        let flavours = obstacles::flavours(pool, kind);
        return format!(
            "{needs} with one flavour of libtorch, and the workers that are online have {flavours}: ask for fewer ranks, or install one flavour on all (docs/deploy.md)"
        );
    }
    let text = format!(
        "{needs}, {per_rank} on one host for each rank; the workers that are online have {total}, but not so together"
    );
    with(text, &obstacles)
}

/// There are devices, and none on a host that the job wants.
fn no_host_allowed(pool: &Pool<'_>, kind: Kind, shape: Shape) -> Option<String> {
    let rules = pool.rules(shape.rules)?;
    let anywhere = Shape {
        rules: super::RulesId::NONE,
        ..shape
    };
    // With no device anywhere its rules are not what keeps it.
    if total(pool, usable(pool, kind, anywhere)) == 0 {
        return None;
    }
    let list = |words: &std::collections::BTreeSet<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.join(", ")
    };
    let mut wants = Vec::new();
    if !rules.labels.is_empty() {
        wants.push(format!("has the labels {}", list(&rules.labels)));
    }
    if !rules.avoid.is_empty() {
        wants.push(format!("is none of {}", list(&rules.avoid)));
    }
    Some(format!(
        "no worker that is online and {} has {} devices; \"marquee workers\" shows the hosts' labels",
        wants.join(" and "),
        kind.as_str()
    ))
}

/// There are GPUs that would do, but for their memory or for being parts of one.
fn too_small(pool: &Pool<'_>, kind: Kind, shape: Shape) -> Option<String> {
    let of_any_size = Wanted {
        portion: Portion::Any { shares: true },
        memory_mib: 0,
        ..usable(pool, kind, shape)
    };
    if kind == Kind::Cpu || total(pool, of_any_size) == 0 {
        return None;
    }
    let gpus = pool.hosts().flat_map(|host| {
        let gpus = host.gpus.iter();
        let fits =
            gpus.filter(move |(index, _)| of_any_size.fits(host, &Device::Gpu { index: **index }));
        fits.map(move |(index, gpu)| (gpu.memory_mib, host, index, gpu))
    });
    // Ties go to the first host and index.
    let largest = gpus.max_by_key(|(memory, host, index, _)| {
        (
            *memory,
            std::cmp::Reverse(&host.name),
            std::cmp::Reverse(**index),
        )
    });
    let (memory, host, index, gpu) = largest?;
    match shape.gpu_memory_mib.filter(|needed| *needed > memory) {
        Some(needed) => Some(format!(
            "needs GPUs of {needed} MiB (gpu_memory), and the largest that is online, gpu {index} of {} ({}), has {memory} \
             MiB",
            host.name, gpu.name
        )),
        None => Some(
            "the GPUs that are online and large enough are offered in parts: one goes to a job of one rank and one \
             device, a share only to one that says how much memory it uses (gpu_memory)"
                .into(),
        ),
    }
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

fn needs(shape: Shape, kind: Kind) -> String {
    let what = format!("{} device", kind.as_str());
    format!("needs {}", counted(shape.devices(), &what))
}

/// "1 device", "2 devices".
fn counted(number: u32, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
