//! What ranks hold, by worker and by job, and who is charged for it.

use std::collections::BTreeSet;

use marquee_domain::ids::{JobId, WorkerId};
use marquee_domain::resources::Device;
use marquee_store::open::HeldRank;
use marquee_store::ranks::RankKey;

use super::Open;
use crate::scheduler::ProjectId;

/// What a rank holds, and who is charged for it.
#[derive(Debug)]
pub(super) struct Holding {
    devices: Vec<Device>,
    project: ProjectId,
}

impl Open {
    /// Whether any of these jobs, or an element of them, runs or holds devices.
    #[must_use]
    pub fn holds_any(&self, jobs: &BTreeSet<JobId>) -> bool {
        jobs.iter().any(|job| {
            self.held_by.contains_key(job)
                || self.elements.get(job).is_some_and(|of| {
                    of.all
                        .iter()
                        .any(|element| self.held_by.contains_key(element))
                })
        })
    }

    /// How many jobs hold devices.
    #[must_use]
    pub fn at_work(&self) -> usize {
        self.held_by.len()
    }

    /// What ranks hold on a worker.
    pub fn held_on(&self, worker: WorkerId) -> impl Iterator<Item = (&RankKey, &Vec<Device>)> {
        let held = self.held.get(&worker).into_iter().flatten();
        held.map(|(key, holding)| (key, &holding.devices))
    }

    /// The workers on which something of a job is.
    pub fn workers_of(&self, job: JobId) -> impl Iterator<Item = WorkerId> {
        let held = self.held_by.get(&job).into_iter().flatten();
        held.map(|(worker, _)| *worker)
    }

    /// The GPUs that ranks of a job hold, by worker and index.
    #[must_use]
    pub fn gpus_of(&self, job: JobId) -> Vec<(WorkerId, u32)> {
        let held = self.held_by.get(&job).into_iter().flatten();
        let devices = held.filter_map(|(worker, key)| {
            let holding = self.held.get(worker)?.get(key)?;
            Some(holding.devices.iter().map(move |device| (*worker, device)))
        });
        let gpu = |(worker, device): (WorkerId, &Device)| match device {
            Device::Gpu { index } => Some((worker, *index)),
            Device::Cpu { .. } => None,
        };
        devices.flatten().filter_map(gpu).collect()
    }

    /// How many running jobs are said to idle, and how many GPUs they hold.
    #[must_use]
    pub fn idle(&self) -> (u32, u32) {
        let idles = |job: &&JobId| {
            let known = self.jobs.get(job);
            known.is_some_and(|known| known.idle_since.is_some())
        };
        let jobs = self.running.iter().filter(idles);
        jobs.fold((0, 0), |(jobs, gpus), job| {
            let held = u32::try_from(self.gpus_of(*job).len()).unwrap_or(u32::MAX);
            (jobs + 1, gpus + held)
        })
    }

    /// The jobs that run on a worker and were not asked to leave.
    #[must_use]
    pub fn staying_on(&self, worker: WorkerId) -> Vec<JobId> {
        let jobs: BTreeSet<JobId> = self.held_on(worker).map(|(key, _)| key.job).collect();
        let stays = |job: &JobId| {
            let known = self.jobs.get(job);
            known.is_some_and(|known| known.is_running && !known.is_leaving)
        };
        jobs.into_iter().filter(stays).collect()
    }

    pub(super) fn hold(&mut self, rank: HeldRank) {
        self.held_by
            .entry(rank.key.job)
            .or_default()
            .insert((rank.worker, rank.key));
        let project = self.accounts.id(&rank.project);
        self.accounts.hold(project, &rank.devices);
        let holding = Holding {
            devices: rank.devices,
            project,
        };
        let before = self
            .held
            .entry(rank.worker)
            .or_default()
            .insert(rank.key, holding);
        // The same rank read twice is charged once.
        if let Some(before) = before {
            self.accounts.let_go(before.project, &before.devices);
        }
    }

    /// Forgets what ranks of `jobs`, and of elements of those that are arrays, held, and takes in what they
    /// hold now.
    pub fn replace_held(&mut self, jobs: &BTreeSet<JobId>, held: Vec<HeldRank>) {
        // Elements were read with their arrays: whose row is gone is named by itself when it ends.
        let mut named: BTreeSet<JobId> = held.iter().map(|rank| rank.key.job).collect();
        named.extend(jobs);
        for job in &named {
            for (worker, key) in self.held_by.remove(job).into_iter().flatten() {
                if let Some(on_worker) = self.held.get_mut(&worker) {
                    if let Some(free) = on_worker.remove(&key) {
                        self.accounts.let_go(free.project, &free.devices);
                    }
                    if on_worker.is_empty() {
                        self.held.remove(&worker);
                    }
                }
            }
        }
        for rank in held {
            self.hold(rank);
        }
        for job in named {
            if !self.held_by.contains_key(&job) && !self.running.contains(&job) {
                self.turns.free(job);
            }
        }
    }
}
