//! Which pending jobs run where: a pure function. README.md beside this file states the rules.
//!
//! Invariant: no database, channel, clock or randomness; the same jobs, put in in any order, give the
//! same plan. Its cost follows from the shapes that wait, the hosts and the placements made, not from
//! the number of jobs. Not here: reading the world and writing the plan down (`background`).

mod devices;
pub mod forecast;
mod grow;
mod held;
mod limits;
mod obstacles;
mod order;
mod preempt;
mod queue;
mod reason;
mod shape;
#[cfg(test)]
mod tests;
mod wanted;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::flavour::Capability;
use marquee_domain::ids::{JobId, Rank, WorkerId};
use marquee_domain::resources::{Device, DeviceKind, PartKind};

use devices::{Pool, Share};
pub use grow::{ENDS_SOON, GROWS_AFTER, GROWS_AFTER_LOSS};
use held::HeldBack;
pub use limits::{AtOnce, Claim, Limits, Preemptible, ProjectShare, QuotaHit, Short, Spent};
use limits::{Purses, Turns};
use order::Order;
pub use preempt::{PREEMPT_AFTER, Preemption, RUNS_AT_LEAST, TIMES_A_DAY_MAX};
pub use queue::{Line, Pending, Position, Queue};
pub use reason::{Explainer, Obstacle, back_off, not_before};
pub use shape::{Group, ProjectId, RulesId, Shape};
use wanted::{Kind, Portion, Trainer, Wanted};

/// A job that has been queued for this long without fitting has devices held back for it. Most
/// small jobs end in less; a person who watches a gang wait sees it move within a minute.
pub const RESERVE_AFTER: Duration = Duration::from_secs(30);

/// A job of which nobody knows how long it takes is not placed on a host that is to be empty within this time: one that
/// was placed earlier is moved when the window begins, and most jobs are shorter.
pub const UNKNOWN_RUNS: TimeDelta = TimeDelta::hours(4);

/// One worker's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub worker: WorkerId,
    pub name: String,
    /// Whether new ranks may be placed here: its session is up and its lease runs.
    pub accepting: bool,
    /// Why an operator keeps new work away from it, to be read after its name. None: nobody does.
    pub closed: Option<String>,
    /// Every device the host offers.
    pub devices: BTreeSet<Device>,
    /// What is known of its GPUs, by index.
    pub gpus: BTreeMap<u32, Gpu>,
    /// What its trainer is built on; empty: it has none.
    pub flavour: String,
    pub labels: BTreeSet<String>,
    /// The maintenance window that is in force or comes next.
    pub window: Option<Window>,
    /// Ranks that hold devices here. A device is free when none of them has it.
    pub running: Vec<Held>,
}

/// A time at which a host is to be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// Which one it is, who set it and why, to be read after the host's name.
    pub words: String,
}

impl Host {
    /// Whether a job that runs until then would run into its maintenance window.
    fn is_barred(&self, last: DateTime<Utc>) -> bool {
        self.window
            .as_ref()
            .is_some_and(|window| window.from < last)
    }

    /// Whether it is to be empty now.
    #[must_use]
    pub fn is_in_window(&self, now: DateTime<Utc>) -> bool {
        let window = self.window.as_ref();
        window.is_some_and(|window| window.from <= now && now < window.until)
    }
}

/// A GPU of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    pub capability: Capability,
    /// Memory in MiB; 0: nobody knows.
    pub memory_mib: u32,
    /// Set where it is a part of a GPU.
    pub part: Option<PartKind>,
    /// Which it is, whatever its number; empty: nobody knows.
    pub uuid: String,
    /// Why it takes no new ranks, with the cure.
    pub fault: Option<String>,
    /// Why it takes none but its burn-in, with the way out.
    pub quarantine: Option<String>,
}

impl Gpu {
    /// Why ordinary jobs do not get it.
    #[must_use]
    pub fn closed(&self) -> Option<&str> {
        // What was decided goes before what the GPU says: it may call itself well, and stays closed.
        self.quarantine.as_deref().or(self.fault.as_deref())
    }
}

/// Devices that a rank of a running attempt holds on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub job: JobId,
    pub devices: Vec<Device>,
    /// When it has ended, by its time limit or by how long its like took. None: nobody knows.
    pub ends_at: Option<DateTime<Utc>>,
    /// The end follows from earlier runs of its step alone: it may come later.
    pub is_measured: bool,
}

/// When a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    at: DateTime<Utc>,
    /// By its time limit: it is stopped then.
    is_sure: bool,
}

impl Held {
    fn end(&self) -> Option<End> {
        Some(End {
            at: self.ends_at?,
            is_sure: !self.is_measured,
        })
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Jobs to start, in the order in which they were chosen.
    pub placements: Vec<Placement>,
    /// What keeps the jobs that were left, for each priority and shape among them.
    pub waiting: BTreeMap<Line, Obstacle>,
    /// Devices held back in this round, at most once for each kind.
    pub reservations: Vec<Reservation>,
    /// Running jobs that are to make room.
    pub preemptions: Vec<Preemption>,
    /// Running gangs that are to stop at a checkpoint, to start again with all their ranks.
    pub growths: Vec<JobId>,
    /// What is kept for jobs for which others made room, and for gangs that grow, those of this round included.
    pub claims: BTreeMap<JobId, Claim>,
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
    /// When it can start, where the ends of what runs tell.
    pub until: Option<DateTime<Utc>>,
    /// At the latest: all these ends are time limits.
    pub is_sure: bool,
    /// What its project may take.
    kinds: Kinds,
}

/// What decides a round: [`plan`], or one that a test gives.
pub type Planner = fn(&Queue, &[Host], &Limits, DateTime<Utc>) -> Plan;

/// Decides which jobs of `queue` start now, and where. The caller has woken those whose time has come
/// ([`Queue::wake`]).
///
/// Jobs are taken in order of priority, of what their projects used for their weight, and of submission, by merging
/// the lines of those alike. A line is left at its first job that does not fit: what is free, and what a project
/// may still take, only shrinks within a round, so none behind it would fit either.
#[must_use]
pub fn plan(queue: &Queue, hosts: &[Host], limits: &Limits, now: DateTime<Utc>) -> Plan {
    let mut round = Round {
        pool: Pool::new(hosts, limits),
        purses: Purses::new(limits),
        turns: Turns::new(limits),
        closed: BTreeMap::new(),
        plan: Plan::default(),
        now,
    };
    round.keep_for_growth(queue);
    let grown: BTreeSet<JobId> = round.plan.placements.iter().map(|of| of.job).collect();
    let mut order = Order::new(queue);
    while let Some((line, position)) = order.head(&round.purses) {
        let job = position.job;
        if grown.contains(&job) {
            order.placed(&round.purses);
            continue;
        }
        match round.start(line, job) {
            Ok(ranks) => {
                round.plan.placements.push(Placement { job, ranks });
                order.placed(&round.purses);
            }
            Err(left) => {
                round.plan.waiting.insert(line, left.obstacle);
                // Those before this job in its line have just been placed.
                let longest = queue
                    .alike()
                    .get(&line)
                    .and_then(|alike| alike.longest_wait(position));
                if let (Some(longest), Some(head)) = (longest, queue.get(job)) {
                    round.keep_for(queue, head, left, longest);
                }
                order.leave(&round.purses);
            }
        }
    }
    // After everybody else: a gang that could grow runs already, and takes only what is left.
    round.grow();
    round.plan
}

/// One round, as far as it is.
#[derive(Debug)]
struct Round<'a> {
    pool: Pool<'a>,
    purses: Purses,
    turns: Turns,
    /// What kept a shape from being placed on the kinds that its project may have.
    closed: BTreeMap<(Shape, Kinds), Obstacle>,
    plan: Plan,
    now: DateTime<Utc>,
}

/// The kinds of devices that a job may take: those of its shape that no quota of its project rules out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kinds {
    gpu: bool,
    cpu: bool,
}

impl Kinds {
    /// Whatever the shape says.
    const ALL: Self = Self {
        gpu: true,
        cpu: true,
    };

    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Gpu => self.gpu,
            Kind::Cpu => self.cpu,
        }
    }
}

/// Why a job was left, and which kinds it may take all the same.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Left {
    obstacle: Obstacle,
    allowed: Kinds,
}

impl Round<'_> {
    /// Takes devices for every rank of `job`, or none at all.
    fn start(&mut self, line: Line, job: JobId) -> Result<Vec<PlacedRank>, Left> {
        let Line {
            project,
            group,
            shape,
            ..
        } = line;
        let devices = shape.devices();
        // Quotas are asked for each kind by itself: a job that takes any device and whose project has no GPU left to
        // take still runs on CPUs.
        let mut allowed = Kinds {
            gpu: false,
            cpu: false,
        };
        let mut hit = None;
        // A burn-in uses what nobody else may: no project's quota keeps a GPU in quarantine.
        let is_burn_in = self.pool.is_burn_in(shape);
        if is_burn_in {
            allowed = Kinds::ALL;
        }
        for kind in kinds(shape.device).iter().filter(|_| !is_burn_in) {
            match (self.purses.allows(project, *kind, devices), kind) {
                (Ok(()), Kind::Gpu) => allowed.gpu = true,
                (Ok(()), Kind::Cpu) => allowed.cpu = true,
                // The first one is kept: it is about the better kind.
                (Err(quota), _) => hit = hit.or(Some(quota)),
            }
        }
        let left = |obstacle| Left { obstacle, allowed };
        // Before what is closed: a turn is the group's own, and says nothing about others of the same shape.
        if !self.turns.allows(group) {
            return Err(left(Obstacle::Turn));
        }
        // Tried in vain in this round, by whichever project and priority: since then devices were only taken. So a
        // shape costs one search a round, however many lines wait with it.
        if let Some(obstacle) = self.closed.get(&(shape, allowed)) {
            return Err(left(*obstacle));
        }
        let stay = Stay::of(shape, self.now);
        let per_rank = shape.devices_per_rank;
        let choices = choices(&self.pool, shape, allowed);
        // The first choice that fits, not the one that fits best: GPUs before CPUs, whatever that leaves over.
        let found = choices.iter().find_map(|wanted| {
            let shares = self.pool.fit_now(*wanted, shape.ranks, per_rank, stay)?;
            Some((*wanted, shares))
        });
        let Some((wanted, shares)) = found else {
            let is_possible = choices.iter().any(|wanted| {
                let shares = self.pool.fit_if_empty(*wanted, shape.ranks, per_rank);
                shares.is_some()
            });
            if let Some(quota) = hit
                && !is_possible
            {
                // Only what its quota rules out would do. Another project may have it: nothing is closed.
                return Err(left(Obstacle::Quota { quota }));
            }
            let obstacle = reason::obstacle(&self.pool, shape, allowed, stay);
            self.closed.insert((shape, allowed), obstacle);
            return Err(left(obstacle));
        };
        // Charged at once, so that the next job of this round is judged with what this one takes.
        self.turns.take(group);
        if !is_burn_in {
            self.purses.charge(project, wanted.kind, devices);
        }
        Ok(self.pool.place(&shares, wanted, per_rank, (job, stay.end)))
    }

    /// Gangs that stopped to grow start before all others, and what those that are leaving take is kept for them.
    fn keep_for_growth(&mut self, queue: &Queue) {
        let limits = self.pool.limits();
        let growing = limits.claims.iter().filter(|(_, claim)| claim.is_growth());
        for (job, claim) in growing {
            let shape = if let Some(pending) = queue.get(*job) {
                if let Ok(ranks) = self.start(pending.line(), *job) {
                    self.plan.placements.push(Placement { job: *job, ranks });
                    continue;
                }
                pending.shape
            } else if let Some(shape) = limits.growing.get(job) {
                *shape
            } else {
                continue;
            };
            if preempt::hold_claim(&mut self.pool, *job, shape, claim, self.now) {
                self.plan.claims.insert(*job, claim.clone());
            }
        }
    }

    /// Asks one gang that lost ranks to take new ones, where nothing else is kept for anybody: the next one is looked at
    /// when it is known what this one took.
    fn grow(&mut self) {
        let limits = self.pool.limits();
        if !limits.claims.is_empty() || !self.plan.claims.is_empty() {
            return;
        }
        let mut short: Vec<&Short> = limits.short.iter().collect();
        short.sort_by_key(|short| (Reverse(short.priority), short.job));
        let found = short.into_iter().find_map(|short| {
            let claim = grow::grow(&self.pool, &self.purses, &self.plan, short, self.now)?;
            Some((short.job, claim))
        });
        if let Some((job, claim)) = found {
            self.plan.growths.push(job);
            self.plan.claims.insert(job, claim);
        }
    }

    /// Sees to it that jobs which devices keep waiting get their turn: what others left for one stays its own,
    /// others are asked to make room for the first of the line, or devices are held back for the one that has
    /// waited longest.
    fn keep_for(
        &mut self,
        queue: &Queue,
        head: &Pending,
        Left { obstacle, allowed }: Left,
        (since, waiter): (DateTime<Utc>, JobId),
    ) {
        match obstacle {
            // Whatever came free, these would not start.
            Obstacle::Turn | Obstacle::Quota { .. } | Obstacle::NoWorker | Obstacle::Impossible => {
                return;
            }
            Obstacle::HeldBack { .. } | Obstacle::Busy { .. } | Obstacle::Window { .. } => {}
        }
        let line = head.line();
        let shape = line.shape;
        // Nobody else gets its GPU; held back for it would be the one reservation of its kind.
        if self.pool.is_burn_in(shape) {
            return;
        }
        let of_line = |(job, _): &(&JobId, &Claim)| {
            queue.get(**job).is_some_and(|other| other.line() == line)
        };
        let claims = &self.pool.limits().claims;
        // A claim goes to the job that it was made for, even where others of its line came to stand before it: whoever
        // made room did so for that one.
        if claims
            .iter()
            .any(|claim| of_line(&claim) && self.plan.claims.contains_key(claim.0))
        {
            return;
        }
        if let Some((job, claim)) = claims.iter().find(of_line)
            && allowed.has(claim.kind)
            && preempt::hold_claim(&mut self.pool, *job, shape, claim, self.now)
        {
            self.plan.claims.insert(*job, claim.clone());
            return;
        }
        let waited = |since: DateTime<Utc>| (self.now - since).to_std().unwrap_or_default();
        // One at a time: the next one is looked at when it is known what this one's victims left.
        if claims.is_empty()
            && self.plan.preemptions.is_empty()
            && waited(head.queued_at) >= PREEMPT_AFTER
            && let Some((victims, claim)) =
                preempt::preempt(&self.pool, shape, allowed, line.priority, self.now)
            // Held in this very round: a later job would otherwise start on what is free of it already.
            && preempt::hold_claim(&mut self.pool, head.job, shape, &claim, self.now)
        {
            self.plan.preemptions.push(Preemption {
                for_job: head.job,
                victims,
            });
            self.plan.claims.insert(head.job, claim);
            return;
        }
        if waited(since) >= RESERVE_AFTER
            && let Some(reservation) = reserve(&mut self.pool, waiter, shape, allowed, self.now)
        {
            self.plan.reservations.push(reservation);
        }
    }
}

/// The kinds that a job may have, the better first.
fn kinds(wanted: DeviceKind) -> &'static [Kind] {
    match wanted {
        DeviceKind::Cpu => &[Kind::Cpu],
        DeviceKind::Gpu => &[Kind::Gpu],
        DeviceKind::Any => &[Kind::Gpu, Kind::Cpu],
    }
}

/// Until when a job runs that is placed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stay {
    /// By its time limit, or else by how long its like took. None: nobody knows.
    end: Option<End>,
    /// The same with a guess where nobody knows: hosts that are to be empty before are left alone.
    last: DateTime<Utc>,
}

impl Stay {
    fn of(shape: Shape, now: DateTime<Utc>) -> Self {
        let end = shape.limit_s.or(shape.expected_s).and_then(|seconds| {
            Some(End {
                at: now.checked_add_signed(TimeDelta::seconds(i64::from(seconds)))?,
                is_sure: shape.limit_s.is_some(),
            })
        });
        let last = end.map_or_else(|| now + UNKNOWN_RUNS, |end| end.at);
        Self { end, last }
    }
}

/// What would do for a gang, the better first: each is one kind of device and, where it needs a
/// trainer, one flavour, so that neither is ever mixed.
fn choices<'a>(pool: &Pool<'a>, shape: Shape, allowed: Kinds) -> Vec<Wanted<'a>> {
    let rules = pool.rules(shape.rules);
    let of_kind = |kind: &Kind| {
        let kind = *kind;
        let flavours: Vec<Trainer<'a>> = if shape.needs_trainer {
            pool.flavours().map(Trainer::Of).collect()
        } else {
            vec![Trainer::NotNeeded]
        };
        // Parts first: whole GPUs are left to who needs them.
        let part = Portion::Part {
            shares: shape.gpu_memory_mib.is_some(),
        };
        let portions = match kind {
            Kind::Gpu if pool.has_parts() && shape.is_single() => vec![part, Portion::Whole],
            Kind::Gpu | Kind::Cpu => vec![Portion::Whole],
        };
        let each = portions.into_iter().flat_map(move |portion| {
            flavours.clone().into_iter().map(move |trainer| Wanted {
                kind,
                trainer,
                portion,
                memory_mib: shape.gpu_memory_mib.unwrap_or_default(),
                rules,
            })
        });
        each.collect::<Vec<_>>()
    };
    let kinds = kinds(shape.device).iter();
    let kinds = kinds.filter(|kind| allowed.has(**kind));
    let mut choices: Vec<Wanted<'a>> = kinds.flat_map(of_kind).collect();
    if pool.is_burn_in(shape) {
        // Its GPU is named, whatever part of one it is.
        for wanted in &mut choices {
            wanted.portion = Portion::Any { shares: true };
        }
    }
    choices
}

/// Holds devices back on the hosts that the job would take in an empty cluster, unless another job
/// already has a reservation for that kind, or no empty cluster would do.
fn reserve(
    pool: &mut Pool<'_>,
    job: JobId,
    shape: Shape,
    kinds: Kinds,
    now: DateTime<Utc>,
) -> Option<Reservation> {
    let per_rank = shape.devices_per_rank;
    let stay = Stay::of(shape, now);
    let mut last = stay.last;
    let (wanted, shares, until) = loop {
        let (wanted, shares): (_, Vec<Share>) =
            choices(pool, shape, kinds).into_iter().find_map(|wanted| {
                let shares = pool.fit_if_left_alone(wanted, shape.ranks, per_rank, last)?;
                Some((wanted, shares))
            })?;
        // Whoever ends before that may use what is held back: it costs the waiting job nothing.
        let until = pool.fits_at(wanted, &shares, per_rank, now);
        // It starts later, and must not run into a window then either: those hosts are left out, one more each time.
        let later = until.map_or(last, |until| stay.last + (until.at - now));
        if !pool.are_barred(&shares, later) {
            break (wanted, shares, until);
        }
        last = last.max(later);
    };
    let devices = pool.by_host(&shares, per_rank);
    let promised = pool.limits().promised.get(&job);
    let held = HeldBack {
        wanted,
        job,
        devices,
        until: until.map(|until| until.at),
        is_late: promised.is_some_and(|promised| *promised < now),
        is_claim: false,
    };
    // One a kind: with more, devices would stand idle for jobs that cannot start for long.
    pool.hold_back(held).then_some(Reservation {
        job,
        shape,
        until: until.map(|until| until.at),
        is_sure: until.is_some_and(|until| until.is_sure),
        kinds,
    })
}
