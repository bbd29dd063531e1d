//! The devices of the hosts during one round: what is free, what was taken in this round, what is
//! held back.
//!
//! Not here: the order of jobs, and words.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{JobId, WorkerId};
use marquee_domain::resources::Device;
use marquee_domain::spec::HostRules;

use super::held::HeldBack;
use super::limits::Limits;
use super::shape::{RulesId, Shape};
use super::wanted::{Kind, Member, Started, Wanted};
use super::{End, Host, PlacedRank, Stay};

/// How many ranks of a gang go to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Index into the pool's hosts.
    pub(super) host: usize,
    pub(super) ranks: u32,
}

/// The accepting hosts, by name, with their devices.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    members: Vec<Member<'a>>,
    /// Hosts from which an operator keeps new work away, by name.
    closed: Vec<&'a Host>,
    limits: &'a Limits,
    /// Whether any host is to be empty at some time: few clusters ask that of themselves.
    has_windows: bool,
    /// Whether any GPU is offered in parts.
    has_parts: bool,
    held_back: Vec<HeldBack<'a>>,
    /// Free devices of each host that would do, for each thing that was wanted so far: counted once a
    /// round, and again for a host only when devices of it are taken.
    free: RefCell<HashMap<Wanted<'a>, Rc<Vec<u32>>>>,
    /// The same of all devices that the hosts offer.
    offered: RefCell<HashMap<Wanted<'a>, Rc<Vec<u32>>>>,
}

impl<'a> Pool<'a> {
    pub(super) fn new(hosts: &'a [Host], limits: &'a Limits) -> Self {
        let mut members: Vec<Member<'_>> = hosts
            .iter()
            .filter(|host| host.accepting)
            .map(|host| {
                let mut free = host.devices.clone();
                for device in host.running.iter().flat_map(|held| &held.devices) {
                    free.remove(device);
                }
                Member {
                    host,
                    free,
                    started: Vec::new(),
                }
            })
            .collect();
        // By name, not as they came: the same cluster gives the same plan, and a person can foretell it.
        members.sort_by_key(|member| (&member.host.name, member.host.worker));
        let mut closed: Vec<&Host> = hosts.iter().filter(|host| host.closed.is_some()).collect();
        closed.sort_by_key(|host| (&host.name, host.worker));
        Self {
            has_parts: members
                .iter()
                .any(|member| member.host.gpus.values().any(|gpu| gpu.part.is_some())),
            has_windows: members.iter().any(|member| member.host.window.is_some()),
            members,
            closed,
            limits,
            held_back: Vec::new(),
            free: RefCell::default(),
            offered: RefCell::default(),
        }
    }

    pub(super) fn host(&self, index: usize) -> &'a Host {
        self.members[index].host
    }

    pub(super) fn has_parts(&self) -> bool {
        self.has_parts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Hosts from which an operator keeps new work away.
    pub(super) fn closed(&self) -> &[&'a Host] {
        &self.closed
    }

    pub(super) fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// The rules of a shape.
    pub(super) fn rules(&self, rules: RulesId) -> Option<&'a HostRules> {
        self.limits.rules.get(&rules)
    }

    /// Whether a shape is for one GPU, which may be in quarantine.
    pub(super) fn is_burn_in(&self, shape: Shape) -> bool {
        self.rules(shape.rules)
            .is_some_and(|rules| rules.gpu.is_some())
    }

    /// Which of the hosts, in the order of this pool's indices.
    pub(super) fn index_of(&self, worker: WorkerId) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.host.worker == worker)
    }

    /// Every accepting host.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &'a Host> {
        self.members.iter().map(|member| member.host)
    }

    /// The flavours of the hosts' trainers, each once, the newest library first.
    pub(super) fn flavours(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let hosts = self.members.iter().map(|member| member.host);
        let flavours: BTreeSet<&'a str> = hosts
            .map(|host| host.flavour.as_str())
            .filter(|flavour| !flavour.is_empty())
            .collect();
        flavours.into_iter().rev()
    }

    /// Every accepting host with the devices that it offers of those wanted.
    pub(super) fn offers(&self, wanted: Wanted<'a>) -> impl Iterator<Item = (&'a Host, u32)> {
        let counts = self.offered(wanted);
        let hosts = self.members.iter().enumerate();
        hosts.map(move |(index, member)| (member.host, counts[index]))
    }

    fn offered(&self, wanted: Wanted<'a>) -> Rc<Vec<u32>> {
        let mut known = self.offered.borrow_mut();
        let counts = known.entry(wanted).or_insert_with(|| {
            let count = |member: &Member<'_>| wanted.count(member.host, &member.host.devices);
            Rc::new(self.members.iter().map(count).collect())
        });
        Rc::clone(counts)
    }

    /// Free devices of each host, held back or not.
    fn free_on_each(&self, wanted: Wanted<'a>) -> Rc<Vec<u32>> {
        let mut known = self.free.borrow_mut();
        let counts = known.entry(wanted).or_insert_with(|| {
            let count = |member: &Member<'_>| wanted.count(member.host, &member.free);
            Rc::new(self.members.iter().map(count).collect())
        });
        Rc::clone(counts)
    }

    /// Devices of a host that a job holds and that would do.
    pub(super) fn held_by(&self, index: usize, wanted: Wanted<'_>, job: JobId) -> u32 {
        let host = self.members[index].host;
        let its = host.running.iter().filter(|held| held.job == job);
        wanted.count(host, its.flat_map(|held| &held.devices))
    }

    /// Whether anything that would do is free on one of these hosts, held back or not.
    pub(super) fn has_free(&self, hosts: &[usize], wanted: Wanted<'a>) -> bool {
        let free = self.free_on_each(wanted);
        hosts.iter().any(|index| free[*index] > 0)
    }

    /// Devices that are free, held back or not.
    pub(super) fn free(&self, wanted: Wanted<'a>) -> u32 {
        self.free_on_each(wanted).iter().sum()
    }

    /// The job that devices of `kind` are held back for: one for which others made room goes before one that has
    /// waited longest.
    pub(super) fn held_back_for(&self, kind: Kind) -> Option<JobId> {
        let held = self.held_back.iter();
        let of_kind = held.filter(|held| held.wanted.kind == kind);
        of_kind
            .max_by_key(|held| held.is_claim)
            .map(|held| held.job)
    }

    /// Who holds devices that would do: jobs with their host, in order of job number.
    pub(super) fn holders(&self, wanted: Wanted<'_>) -> BTreeSet<(JobId, &'a str)> {
        let mut holders = BTreeSet::new();
        for Member { host, started, .. } in &self.members {
            let name = host.name.as_str();
            let would_do = |devices: &[Device]| devices.iter().any(|d| wanted.fits(host, d));
            let running = host.running.iter().filter(|held| would_do(&held.devices));
            holders.extend(running.map(|held| (held.job, name)));
            let started = started.iter().filter(|taken| would_do(&taken.devices));
            holders.extend(started.map(|taken| (taken.job, name)));
        }
        holders
    }

    /// What is held back of a kind for the job that has waited longest.
    fn reservation(&self, kind: Kind) -> Option<&HeldBack<'a>> {
        let of_kind = |held: &&HeldBack<'_>| held.wanted.kind == kind && !held.is_claim;
        self.held_back.iter().find(of_kind)
    }

    /// Where a gang could start now, leaving alone what is held back for others, and hosts that are to be empty before
    /// it ends. One that ends at a known time may use what is held back until later.
    pub(super) fn fit_now(
        &self,
        wanted: Wanted<'a>,
        ranks: u32,
        per_rank: u32,
        stay: Stay,
    ) -> Option<Vec<Share>> {
        let free = self.free_on_each(wanted);
        let bars = |held: &&HeldBack<'_>| held.wanted.kind == wanted.kind && held.bars(stay.end);
        // Nearly always nothing is held back: then the counts are used as they are, without a copy for each job.
        let mut bars = self.held_back.iter().filter(bars).peekable();
        if bars.peek().is_none() {
            return fit(&self.unless_barred(free, stay.last), ranks, per_rank);
        }
        let mut left = free.to_vec();
        for held in bars {
            for (index, (member, free)) in self.members.iter().zip(free.iter()).enumerate() {
                let kept = free - held.leaves(index, member, wanted, *free);
                // What several hold back on one host adds up, even where they could share: too little is given out,
                // never too much.
                left[index] = left[index].saturating_sub(kept);
            }
        }
        let left = self.unless_barred(Rc::new(left), stay.last);
        fit(&left, ranks, per_rank)
    }

    /// Free devices of each host, held back or not; none of hosts that are to be empty before `last`.
    fn free_until(&self, wanted: Wanted<'a>, last: DateTime<Utc>) -> Rc<Vec<u32>> {
        self.unless_barred(self.free_on_each(wanted), last)
    }

    fn unless_barred(&self, mut devices: Rc<Vec<u32>>, last: DateTime<Utc>) -> Rc<Vec<u32>> {
        if self.has_windows {
            let each = Rc::make_mut(&mut devices).iter_mut().zip(&self.members);
            for (devices, _) in each.filter(|(_, member)| member.host.is_barred(last)) {
                *devices = 0;
            }
        }
        devices
    }

    /// Whether one of the hosts is to be empty before `last`.
    pub(super) fn are_barred(&self, shares: &[Share], last: DateTime<Utc>) -> bool {
        let mut hosts = shares.iter().map(|share| self.host(share.host));
        self.has_windows && hosts.any(|host| host.is_barred(last))
    }

    /// Where a gang that runs until `last` could start once these jobs have left, leaving alone what is held back for
    /// others.
    pub(super) fn fit_without(
        &self,
        leaving: &HashSet<JobId>,
        wanted: Wanted<'a>,
        (ranks, per_rank): (u32, u32),
        last: DateTime<Utc>,
    ) -> Option<Vec<Share>> {
        let held_back = self
            .held_back
            .iter()
            .filter(|held| held.wanted.kind == wanted.kind);
        let held_back: Vec<_> = held_back.collect();
        let free = self.free_on_each(wanted);
        let each = self.members.iter().zip(free.iter()).enumerate();
        let left = each.map(|(index, (member, free))| {
            let kept = held_back
                .iter()
                .map(|held| free - held.leaves(index, member, wanted, *free));
            let running = member.host.running.iter();
            let given = running
                .filter(|held| leaving.contains(&held.job))
                .map(|held| wanted.count(member.host, &held.devices));
            // What those that leave give is this gang's, whatever is held back of what is free.
            free.saturating_sub(kept.sum()) + given.sum::<u32>()
        });
        let left = self.unless_barred(Rc::new(left.collect()), last);
        fit(&left, ranks, per_rank)
    }

    /// When a gang could start on `shares` if nobody else took anything there: by the ends of what runs. None: of one
    /// that must end nobody knows when.
    pub(super) fn fits_at(
        &self,
        wanted: Wanted<'a>,
        shares: &[Share],
        per_rank: u32,
        now: DateTime<Utc>,
    ) -> Option<End> {
        let free = self.free_on_each(wanted);
        let mut latest = now;
        let mut is_sure = true;
        for share in shares {
            let Member { host, started, .. } = &self.members[share.host];
            let mut missing = (share.ranks * per_rank).saturating_sub(free[share.host]);
            let running = host
                .running
                .iter()
                .map(|held| (held.end(), wanted.count(host, &held.devices)));
            let started = started
                .iter()
                .map(|taken| (taken.end, wanted.count(host, &taken.devices)));
            let ends = running.chain(started).filter(|(_, devices)| *devices > 0);
            let mut ends: Vec<(End, u32)> = ends
                .filter_map(|(end, devices)| Some((end?, devices)))
                .collect();
            // Of ends at one time the sure ones first: what they alone make room for is a sure
            // promise.
            ends.sort_unstable_by_key(|(end, devices)| (end.at, !end.is_sure, *devices));
            for (end, devices) in ends {
                if missing == 0 {
                    break;
                }
                latest = latest.max(end.at);
                is_sure &= end.is_sure;
                missing = missing.saturating_sub(devices);
            }
            if missing > 0 {
                return None;
            }
        }
        Some(End {
            at: latest,
            is_sure,
        })
    }

    /// Whether a gang could start now if nothing were held back.
    pub(super) fn fit_unreserved(
        &self,
        wanted: Wanted<'a>,
        ranks: u32,
        per_rank: u32,
        last: DateTime<Utc>,
    ) -> bool {
        fit(&self.free_until(wanted, last), ranks, per_rank).is_some()
    }

    /// Whether a gang could start now if nothing were held back, and no host had to be empty later.
    pub(super) fn fit_but_for_windows(
        &self,
        wanted: Wanted<'a>,
        ranks: u32,
        per_rank: u32,
    ) -> bool {
        self.has_windows && fit(&self.free_on_each(wanted), ranks, per_rank).is_some()
    }

    /// Where a gang would start if nothing ran, without hosts that are to be empty before `last`.
    pub(super) fn fit_if_left_alone(
        &self,
        wanted: Wanted<'a>,
        ranks: u32,
        per_rank: u32,
        last: DateTime<Utc>,
    ) -> Option<Vec<Share>> {
        fit(
            &self.unless_barred(self.offered(wanted), last),
            ranks,
            per_rank,
        )
    }

    /// Where a gang would start if nothing ran.
    pub(super) fn fit_if_empty(
        &self,
        wanted: Wanted<'a>,
        ranks: u32,
        per_rank: u32,
    ) -> Option<Vec<Share>> {
        fit(&self.offered(wanted), ranks, per_rank)
    }

    /// Takes `devices` free ones on a host: first those that no reservation could use, then by
    /// index.
    pub(super) fn take(
        &mut self,
        host: usize,
        wanted: Wanted<'_>,
        devices: u32,
        (job, end): (JobId, Option<End>),
    ) -> Vec<Device> {
        let of_kind = |held: &&HeldBack<'a>| held.wanted.kind == wanted.kind;
        let held_back = self.held_back.iter().filter(of_kind);
        let reserved: Vec<Wanted<'a>> = held_back.map(|held| held.wanted).collect();
        let member = &mut self.members[host];
        let is_reserved =
            |device: &Device| reserved.iter().any(|held| held.fits(member.host, device));
        let mut fitting: Vec<&Device> = member
            .free
            .iter()
            .filter(|device| wanted.fits(member.host, device))
            .collect();
        // Stable: those alike stay in the order of their indices.
        fitting.sort_by_key(|device| is_reserved(device));
        let taken: Vec<Device> = fitting
            .into_iter()
            .take(devices as usize)
            .cloned()
            .collect();
        for device in &taken {
            member.free.remove(device);
        }
        member.started.push(Started {
            job,
            devices: taken.clone(),
            end,
        });
        for (counted, counts) in self.free.get_mut() {
            // For this host alone: a round that places thousands must not count all hosts anew for each.
            Rc::make_mut(counts)[host] = counted.count(member.host, &member.free);
        }
        taken
    }

    /// Leaves devices on each host to a job: later ones of this round may not take what it needs there. Each kind
    /// has one such reservation besides the claims; false if there was one already.
    pub(super) fn hold_back(&mut self, held: HeldBack<'a>) -> bool {
        if !held.is_claim && self.reservation(held.wanted.kind).is_some() {
            return false;
        }
        self.held_back.push(held);
        true
    }

    /// Devices by host index, from shares.
    pub(super) fn by_host(&self, shares: &[Share], per_rank: u32) -> Vec<u32> {
        let mut devices = vec![0; self.members.len()];
        for share in shares {
            devices[share.host] = share.ranks * per_rank;
        }
        devices
    }

    /// Gives every rank its devices, in the order of shares.
    pub(super) fn place(
        &mut self,
        shares: &[Share],
        wanted: Wanted<'_>,
        per_rank: u32,
        job: (JobId, Option<End>),
    ) -> Vec<PlacedRank> {
        let mut placed = Vec::new();
        let mut next_rank = 0..;
        for share in shares {
            for (local_rank, rank) in (0..).zip(next_rank.by_ref().take(share.ranks as usize)) {
                let devices = self.take(share.host, wanted, per_rank, job);
                placed.push(PlacedRank {
                    rank: marquee_domain::ids::Rank(rank),
                    worker: self.host(share.host).worker,
                    local_rank,
                    devices,
                });
            }
        }
        placed
    }
}

/// A host's room for ranks of a gang.
struct Room {
    host: usize,
    devices: u32,
    ranks: u32,
}

/// Shares a gang out over the fewest hosts; `available` has each host's usable devices.
fn fit(available: &[u32], ranks: u32, per_rank: u32) -> Option<Vec<Share>> {
    let rooms = available.iter().enumerate().filter_map(|(host, devices)| {
        let ranks = devices.checked_div(per_rank).filter(|ranks| *ranks > 0)?;
        Some(Room {
            host,
            devices: *devices,
            ranks,
        })
    });
    // Most jobs are of one rank or fit on one host: that needs no list.
    let whole = rooms
        .clone()
        .filter(|room| room.ranks >= ranks)
        // The fullest host that takes the whole gang: large gaps are left for those who need them.
        .min_by_key(|room| (room.devices, room.host));
    if let Some(room) = whole {
        let host = room.host;
        return Some(vec![Share { host, ranks }]);
    }
    let mut rooms: Vec<Room> = rooms.collect();
    let all: u64 = rooms.iter().map(|room| u64::from(room.ranks)).sum();
    if all < u64::from(ranks) {
        return None;
    }
    // Most room first; the sort is stable, so ties stay in the order of names.
    rooms.sort_by_key(|room| Reverse(room.ranks));
    let mut shares = Vec::new();
    let mut left = ranks;
    while left > 0 {
        // Where one host takes all that is left, the one that it fills best takes it.
        let best = (0..rooms.len())
            .filter(|at| rooms[*at].ranks >= left)
            .min_by_key(|at| (rooms[*at].devices, rooms[*at].host));
        let room = rooms.remove(best.unwrap_or(0));
        let taken = room.ranks.min(left);
        shares.push(Share {
            host: room.host,
            ranks: taken,
        });
        left -= taken;
    }
    Some(shares)
}
