//! The devices of the cluster during one round: what is free, what was taken in this round, what
//! is held back.
//!
//! Not here: the order of jobs, and words.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use marquee_domain::flavour;
use marquee_domain::ids::JobId;
use marquee_domain::resources::Device;

use super::Host;

/// A kind that a device has (a job may also ask for "any").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trainer<'a> {
    NotNeeded,
    /// For counting: any flavour that has kernels for the device.
    Any,
    /// This flavour, with kernels for the device.
    Of(&'a str),
}

/// What a rank asks of each of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Index into the cluster's hosts.
    pub(super) host: usize,
    pub(super) ranks: u32,
}

/// The accepting hosts, by name.
#[derive(Debug)]
pub(super) struct Cluster<'a> {
    members: Vec<Member<'a>>,
    held_back: Vec<HeldBack<'a>>,
}

#[derive(Debug)]
struct Member<'a> {
    host: &'a Host,
    free: BTreeSet<Device>,
    /// Jobs that were given devices here in this round.
    started: Vec<(JobId, Kind)>,
}

/// One kind's reservation.
#[derive(Debug)]
struct HeldBack<'a> {
    wanted: Wanted<'a>,
    job: JobId,
    /// Devices by host index.
    devices: Vec<(usize, u32)>,
}

impl<'a> Cluster<'a> {
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
        self.members
            .iter()
            .map(move |member| (member.host, wanted.count(member.host, &member.host.devices)))
    }

    /// Devices that are free, held back or not.
    pub(super) fn free(&self, wanted: Wanted<'_>) -> u32 {
        self.members
            .iter()
            .map(|member| wanted.count(member.host, &member.free))
            .sum()
    }

    /// The job that devices of `kind` are held back for.
    pub(super) fn held_back_for(&self, kind: Kind) -> Option<JobId> {
        self.reservation(kind).map(|held| held.job)
    }

    /// Who holds devices of `kind`: jobs with their host, in order of job number.
    pub(super) fn holders(&self, kind: Kind) -> BTreeSet<(JobId, &'a str)> {
        let mut holders = BTreeSet::new();
        for Member { host, started, .. } in &self.members {
            let name = host.name.as_str();
            let has_kind = |devices: &[Device]| devices.iter().any(|d| Kind::of(d) == kind);
            let running = host.running.iter().filter(|held| has_kind(&held.devices));
            holders.extend(running.map(|held| (held.job, name)));
            let started = started.iter().filter(|(_, taken)| *taken == kind);
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
        wanted: Wanted<'_>,
        ranks: u32,
        per_rank: u32,
    ) -> Option<Vec<Share>> {
        self.fit(
            |index, member| self.available(index, member, wanted),
            ranks,
            per_rank,
        )
    }

    /// Where a gang could start now if nothing were held back.
    pub(super) fn fit_unreserved(&self, wanted: Wanted<'_>, ranks: u32, per_rank: u32) -> bool {
        let free = |_, member: &Member<'_>| wanted.count(member.host, &member.free);
        self.fit(free, ranks, per_rank).is_some()
    }

    /// Where a gang would start if nothing ran.
    pub(super) fn fit_if_empty(
        &self,
        wanted: Wanted<'_>,
        ranks: u32,
        per_rank: u32,
    ) -> Option<Vec<Share>> {
        let all = |_, member: &Member<'_>| wanted.count(member.host, &member.host.devices);
        self.fit(all, ranks, per_rank)
    }

    /// Free devices of a host that may be taken. Where some are held back for a gang, as many as it
    /// needs stay free of those that it could use; the others are anybody's.
    fn available(&self, index: usize, member: &Member<'_>, wanted: Wanted<'_>) -> u32 {
        let all = wanted.count(member.host, &member.free);
        let Some(held) = self.reservation(wanted.kind) else {
            return all;
        };
        let here = held.devices.iter().filter(|(host, _)| *host == index);
        let held_back: u32 = here.map(|(_, devices)| devices).sum();
        let theirs = held.wanted.count(member.host, &member.free);
        let theirs_too = member
            .free
            .iter()
            .filter(|device| wanted.fits(member.host, device));
        let shared = held.wanted.count(member.host, theirs_too);
        (all - shared) + shared.min(theirs.saturating_sub(held_back))
    }

    /// Shares a gang out over the fewest hosts. `available` counts a host's usable devices.
    fn fit(
        &self,
        available: impl Fn(usize, &Member<'_>) -> u32,
        ranks: u32,
        per_rank: u32,
    ) -> Option<Vec<Share>> {
        /// A host's room for ranks of the gang.
        struct Room {
            host: usize,
            devices: u32,
            ranks: u32,
        }
        let mut rooms: Vec<Room> = self
            .members
            .iter()
            .enumerate()
            .map(|(host, member)| {
                let devices = available(host, member);
                Room {
                    host,
                    devices,
                    ranks: devices.checked_div(per_rank).unwrap_or(0),
                }
            })
            .filter(|room| room.ranks > 0)
            .collect();
        // Most room first; the sort is stable, so ties stay in the order of names.
        rooms.sort_by_key(|room| Reverse(room.ranks));

        let mut shares = Vec::new();
        let mut left = ranks;
        while left > 0 {
            // Where one host takes all that is left, the one that it fills best takes it.
            let best = (0..rooms.len())
                .filter(|at| rooms[*at].ranks >= left)
                .min_by_key(|at| (rooms[*at].devices, rooms[*at].host));
            let at = match best {
                Some(at) => at,
                None if rooms.is_empty() => return None,
                None => 0,
            };
            let room = rooms.remove(at);
            let taken = room.ranks.min(left);
            shares.push(Share {
                host: room.host,
                ranks: taken,
            });
            left -= taken;
        }
        Some(shares)
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
        member.started.push((job, wanted.kind));
        taken
    }

    /// Leaves `shares` to `job`: later jobs of this round may not take what it needs there. Each
    /// kind has one reservation; further ones are ignored.
    pub(super) fn hold_back(
        &mut self,
        wanted: Wanted<'a>,
        job: JobId,
        shares: &[Share],
        per_rank: u32,
    ) {
        if self.reservation(wanted.kind).is_none() {
            let devices = shares
                .iter()
                .map(|share| (share.host, share.ranks * per_rank))
                .collect();
            self.held_back.push(HeldBack {
                wanted,
                job,
                devices,
            });
        }
    }
}
