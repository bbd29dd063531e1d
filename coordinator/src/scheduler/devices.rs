//! The devices of the hosts during one round: what is free, what was taken in this round, what is
//! held back.
//!
//! Not here: the order of jobs, and words.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use marquee_domain::flavour;
use marquee_domain::ids::JobId;
use marquee_domain::resources::Device;

use super::Host;

/// A kind that a device has (a job may also ask for "any").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Cpu,
    Gpu,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }

    fn of(device: &Device) -> Self {
        match device {
            Device::Cpu { .. } => Self::Cpu,
            Device::Gpu { .. } => Self::Gpu,
        }
    }
}

/// What a gang needs of the hosts' trainers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Trainer<'a> {
    NotNeeded,
    /// For counting: any flavour that has kernels for the device.
    Any,
    /// This flavour, with kernels for the device.
    Of(&'a str),
}

/// What a rank asks of each of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wanted<'a> {
    pub(super) kind: Kind,
    pub(super) trainer: Trainer<'a>,
}

impl Wanted<'_> {
    /// Whether a device of a host would do, were it free.
    pub(super) fn fits(self, host: &Host, device: &Device) -> bool {
        if Kind::of(device) != self.kind {
            return false;
        }
        let has_trainer = match self.trainer {
            Trainer::NotNeeded => true,
            Trainer::Any => !host.flavour.is_empty(),
            Trainer::Of(flavour) => host.flavour == flavour,
        };
        has_trainer
            && match device {
                Device::Cpu { .. } => true,
                Device::Gpu { index } => host.gpus.get(index).is_none_or(|gpu| {
                    let has_kernels = self.trainer == Trainer::NotNeeded
                        || flavour::runs_on(&host.flavour, gpu.capability);
                    gpu.fault.is_none() && has_kernels
                }),
            }
    }

    fn count<'d>(self, host: &Host, devices: impl IntoIterator<Item = &'d Device>) -> u32 {
        let fitting = devices.into_iter().filter(|device| self.fits(host, device));
        u32::try_from(fitting.count()).unwrap_or(u32::MAX)
    }
}

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
    held_back: Vec<HeldBack<'a>>,
    /// Free devices of each host that would do, for each thing that was wanted so far: counted once a
    /// round, and again for a host only when devices of it are taken.
    free: RefCell<HashMap<Wanted<'a>, Rc<Vec<u32>>>>,
    /// The same of all devices that the hosts offer.
    offered: RefCell<HashMap<Wanted<'a>, Rc<Vec<u32>>>>,
}

#[derive(Debug)]
struct Member<'a> {
    host: &'a Host,
    free: BTreeSet<Device>,
    /// Jobs that were given devices here in this round.
    started: Vec<(JobId, Vec<Device>)>,
}

/// One kind's reservation.
#[derive(Debug)]
struct HeldBack<'a> {
    wanted: Wanted<'a>,
    job: JobId,
    /// Devices by host index; 0 where none are held back.
    devices: Vec<u32>,
}

impl<'a> Pool<'a> {
    pub(super) fn new(hosts: &'a [Host]) -> Self {
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
        members.sort_by_key(|member| (&member.host.name, member.host.worker));
        Self {
            members,
            held_back: Vec::new(),
            free: RefCell::default(),
            offered: RefCell::default(),
        }
    }

    pub(super) fn host(&self, index: usize) -> &'a Host {
        self.members[index].host
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
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

    /// Devices that are free, held back or not.
    pub(super) fn free(&self, wanted: Wanted<'a>) -> u32 {
        self.free_on_each(wanted).iter().sum()
    }

    /// The job that devices of `kind` are held back for.
    pub(super) fn held_back_for(&self, kind: Kind) -> Option<JobId> {
        self.reservation(kind).map(|held| held.job)
    }

    /// Who holds devices that would do: jobs with their host, in order of job number.
    pub(super) fn holders(&self, wanted: Wanted<'_>) -> BTreeSet<(JobId, &'a str)> {
        let mut holders = BTreeSet::new();
        for Member { host, started, .. } in &self.members {
            let name = host.name.as_str();
            let would_do = |devices: &[Device]| devices.iter().any(|d| wanted.fits(host, d));
            let running = host.running.iter().filter(|held| would_do(&held.devices));
            holders.extend(running.map(|held| (held.job, name)));
            let started = started.iter().filter(|(_, taken)| would_do(taken));
            holders.extend(started.map(|(job, _)| (*job, name)));
        }
        holders
    }

    fn reservation(&self, kind: Kind) -> Option<&HeldBack<'a>> {
        self.held_back.iter().find(|held| held.wanted.kind == kind)
    }

    /// Where a gang could start now, leaving alone what is held back for others.
    pub(super) fn fit_now(
        &self,
        wanted: Wanted<'a>,
        ranks: u32,
        per_rank: u32,
    ) -> Option<Vec<Share>> {
        let free = self.free_on_each(wanted);
        match self.reservation(wanted.kind) {
            None => fit(&free, ranks, per_rank),
            Some(held) => {
                let members = self.members.iter().zip(free.iter()).enumerate();
                let left: Vec<u32> = members
                    .map(|(index, (member, free))| held.leaves(index, member, wanted, *free))
                    .collect();
                fit(&left, ranks, per_rank)
            }
        }
    }

    /// Whether a gang could start now if nothing were held back.
    pub(super) fn fit_unreserved(&self, wanted: Wanted<'a>, ranks: u32, per_rank: u32) -> bool {
        fit(&self.free_on_each(wanted), ranks, per_rank).is_some()
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
        job: JobId,
    ) -> Vec<Device> {
        let reserved = self.reservation(wanted.kind).map(|held| held.wanted);
        let member = &mut self.members[host];
        let is_reserved =
            |device: &Device| reserved.is_some_and(|reserved| reserved.fits(member.host, device));
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
        member.started.push((job, taken.clone()));
        for (counted, counts) in self.free.get_mut() {
            Rc::make_mut(counts)[host] = counted.count(member.host, &member.free);
        }
        taken
    }

    /// Leaves `shares` to `job`: later jobs of this round may not take what it needs there. Each
    /// kind has one reservation; false if there was one already.
    pub(super) fn hold_back(
        &mut self,
        wanted: Wanted<'a>,
        job: JobId,
        shares: &[Share],
        per_rank: u32,
    ) -> bool {
        if self.reservation(wanted.kind).is_some() {
            return false;
        }
        let mut devices = vec![0; self.members.len()];
        for share in shares {
            devices[share.host] = share.ranks * per_rank;
        }
        self.held_back.push(HeldBack {
            wanted,
            job,
            devices,
        });
        true
    }
}

impl HeldBack<'_> {
    /// Of a host's `free` devices those that may be taken. Where some are held back, as many as the
    /// gang needs stay free of those that it could use; the others are anybody's.
    fn leaves(&self, index: usize, member: &Member<'_>, wanted: Wanted<'_>, free: u32) -> u32 {
        let held_back = self.devices[index];
        if held_back == 0 {
            return free;
        }
        let theirs = self.wanted.count(member.host, &member.free);
        let theirs_too = member
            .free
            .iter()
            .filter(|device| wanted.fits(member.host, device));
        let shared = self.wanted.count(member.host, theirs_too);
        (free - shared) + shared.min(theirs.saturating_sub(held_back))
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
