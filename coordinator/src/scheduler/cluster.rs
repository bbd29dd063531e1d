//! The devices of the cluster during one round: what is free, what was taken in this round, what
//! is held back.
//!
//! Not here: the order of jobs, and words.

use std::cmp::Reverse;
use std::collections::BTreeSet;

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
    held_back: Vec<HeldBack>,
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
struct HeldBack {
    kind: Kind,
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

    /// Every accepting host with the devices of `kind` that it offers.
    pub(super) fn offers(&self, kind: Kind) -> impl Iterator<Item = (&'a Host, u32)> {
        self.members
            .iter()
            .map(move |member| (member.host, count(&member.host.devices, kind)))
    }

    /// Devices of `kind` that are free, held back or not.
    pub(super) fn free(&self, kind: Kind) -> u32 {
        self.members
            .iter()
            .map(|member| count(&member.free, kind))
            .sum()
    }

    /// The job that devices of `kind` are held back for.
    pub(super) fn held_back_for(&self, kind: Kind) -> Option<JobId> {
        self.held_back
            .iter()
            .find(|held| held.kind == kind)
            .map(|held| held.job)
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

    /// Where a gang could start now, leaving alone what is held back for others.
    pub(super) fn fit_now(&self, kind: Kind, ranks: u32, per_rank: u32) -> Option<Vec<Share>> {
        let available = |index: usize, member: &Member<'_>| {
            count(&member.free, kind).saturating_sub(self.held_back_on(index, kind))
        };
        self.fit(available, ranks, per_rank)
    }

    /// Where a gang could start now if nothing were held back.
    pub(super) fn fit_unreserved(&self, kind: Kind, ranks: u32, per_rank: u32) -> bool {
        self.fit(|_, member| count(&member.free, kind), ranks, per_rank)
            .is_some()
    }

    /// Where a gang would start if nothing ran.
    pub(super) fn fit_if_empty(&self, kind: Kind, ranks: u32, per_rank: u32) -> Option<Vec<Share>> {
        self.fit(
            |_, member| count(&member.host.devices, kind),
            ranks,
            per_rank,
        )
    }

    fn held_back_on(&self, index: usize, kind: Kind) -> u32 {
        let of_kind = self.held_back.iter().filter(|held| held.kind == kind);
        let here = of_kind
            .flat_map(|held| &held.devices)
            .filter(|(host, _)| *host == index);
        here.map(|(_, devices)| devices).sum()
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

    /// Takes the first `devices` free ones of `kind` on a host.
    pub(super) fn take(
        &mut self,
        host: usize,
        kind: Kind,
        devices: u32,
        job: JobId,
    ) -> Vec<Device> {
        let member = &mut self.members[host];
        let of_kind = member.free.iter().filter(|device| Kind::of(device) == kind);
        let taken: Vec<Device> = of_kind.take(devices as usize).cloned().collect();
        for device in &taken {
            member.free.remove(device);
        }
        member.started.push((job, kind));
        taken
    }

    /// Leaves `shares` to `job`: later jobs of this round may not take what it needs there. Each
    /// kind has one reservation; further ones are ignored.
    pub(super) fn hold_back(&mut self, kind: Kind, job: JobId, shares: &[Share], per_rank: u32) {
        if self.held_back_for(kind).is_none() {
            let devices = shares
                .iter()
                .map(|share| (share.host, share.ranks * per_rank))
                .collect();
            self.held_back.push(HeldBack { kind, job, devices });
        }
    }
}

fn count(devices: &BTreeSet<Device>, kind: Kind) -> u32 {
    let count = devices
        .iter()
        .filter(|device| Kind::of(device) == kind)
        .count();
    u32::try_from(count).unwrap_or(u32::MAX)
}
