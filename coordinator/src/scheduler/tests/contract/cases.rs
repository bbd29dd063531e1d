//! Clusters and queues that are drawn, and how one that breaks a property is made small.

use std::collections::HashMap;

use super::*;

/// Cases that each property is tried on.
pub(super) const CASES: u64 = 800;

/// What a case is made of: the plan's whole input.
#[derive(Debug, Clone)]
pub(in super::super) struct Case {
    pub(in super::super) hosts: Vec<Host>,
    pub(in super::super) pending: Vec<Pending>,
    pub(in super::super) limits: Limits,
}

impl Case {
    pub(in super::super) fn plan(&self) -> Plan {
        let mut queue: Queue = self.pending.iter().copied().collect();
        queue.wake(at(0));
        plan(&queue, &self.hosts, &self.limits, at(0))
    }

    pub(super) fn pending(&self, job: JobId) -> &Pending {
        self.pending
            .iter()
            .find(|pending| pending.job == job)
            .unwrap()
    }

    /// The hosts with what a plan gave away.
    pub(in super::super) fn after(&self, plan: &Plan) -> Vec<Host> {
        let mut hosts = self.hosts.clone();
        for placement in &plan.placements {
            for rank in &placement.ranks {
                let host = hosts
                    .iter_mut()
                    .find(|host| host.worker == rank.worker)
                    .unwrap();
                host.running.push(Held {
                    job: placement.job,
                    devices: rank.devices.clone(),
                    ends_at: None,
                    is_measured: false,
                });
            }
        }
        hosts
    }

    /// Devices of each kind that a plan gives to a project.
    pub(super) fn given(&self, plan: &Plan, project: ProjectId) -> (u32, u32) {
        let mut given = (0, 0);
        for placement in &plan.placements {
            if self.pending(placement.job).project != project {
                continue;
            }
            for device in placement.ranks.iter().flat_map(|rank| &rank.devices) {
                match device {
                    Device::Gpu { .. } => given.0 += 1,
                    Device::Cpu { .. } => given.1 += 1,
                }
            }
        }
        given
    }
}

impl Draw {
    fn number(&mut self, end: u32) -> i64 {
        i64::from(self.below(end))
    }

    pub(in super::super) fn case(&mut self) -> Case {
        let hosts = (0..self.below(6))
            .map(|index| self.host_of_case(index))
            .collect();
        let pending = (1..=self.number(14))
            .map(|id| self.job_of_case(id))
            .collect();
        Case {
            hosts,
            pending,
            limits: self.limits_of_case(),
        }
    }

    fn host_of_case(&mut self, index: u32) -> Host {
        let mut host = host(&format!("h{index}"))
            .cpus(self.below(4))
            .gpus(self.below(5));
        if self.below(8) == 0 {
            host = host.flavour(KEPLER);
        }
        if self.below(2) == 0 {
            host = host.label("fast");
        }
        for (place, device) in (0..).zip(host.devices.clone()) {
            if self.below(2) == 0 {
                host = host.runs(1_000 + i64::from(index) * 100 + place, &[device]);
                match self.below(4) {
                    0 => host = host.until(1 + self.number(200)),
                    1 => host = host.until(1 + self.number(200)).measured(),
                    _ => {}
                }
            }
        }
        match self.below(8) {
            0 => host = host.empty(self.number(300), 1_000),
            1 => host = host.empty(-1, 1 + self.number(100)),
            2 => host = host.empty(5 * 3_600, 6 * 3_600),
            _ => {}
        }
        if self.below(8) == 0 {
            host.lost()
        } else {
            host
        }
    }

    fn job_of_case(&mut self, id: i64) -> Pending {
        let kind = DeviceKind::ALL[self.below(3) as usize];
        let mut job = job(id, kind, 1 + self.below(4))
            .each(1 + self.below(2))
            .priority(i32::try_from(self.below(3)).unwrap())
            .of(self.below(3))
            .queued(-self.number(60));
        if self.below(2) == 0 {
            job = job.trains();
        }
        job = match self.below(4) {
            1 => job.group(Group::Key(1)),
            2 => job.group(Group::Array(JobId(77))),
            _ => job,
        };
        if self.below(4) == 0 {
            job = job.rules(1);
        }
        match self.below(4) {
            0 => job,
            3 => job.expected(60 * (1 + self.below(3))),
            minutes => job.limit(minutes * 60),
        }
    }

    fn quota_of_case(&mut self) -> Option<AtOnce> {
        (self.below(2) == 0).then(|| AtOnce {
            used: self.below(4),
            quota: self.below(6),
            frees_at: None,
        })
    }

    fn limits_of_case(&mut self) -> Limits {
        let project = |draw: &mut Self| ProjectShare {
            used: f64::from(draw.below(1_000_000)),
            weight: f64::from(1 + draw.below(1_000)) / 100.0,
            gpus: draw.quota_of_case(),
            cpu_slots: draw.quota_of_case(),
            spent: (draw.below(5) == 0).then_some(Spent {
                used_hours: 2.0,
                quota_hours: 2.0,
                frees_at: None,
            }),
        };
        let gives_way = |draw: &mut Self| {
            let ran = draw.number(900);
            Preemptible {
                job: JobId(1_000 + draw.number(6) * 100 + draw.number(6)),
                priority: i32::try_from(draw.below(2)).unwrap(),
                saved_at: at(-ran / 2),
                started_at: at(-ran),
                times_today: draw.below(TIMES_A_DAY_MAX + 1),
            }
        };
        let rules = marquee_domain::spec::HostRules {
            gpu: None,
            labels: BTreeSet::from(["fast".to_owned()]),
            avoid: BTreeSet::from(["h1".to_owned()]),
        };
        let mut preemptible: Vec<Preemptible> =
            (0..self.below(12)).map(|_| gives_way(self)).collect();
        preemptible.sort_by_key(|job| job.job);
        preemptible.dedup_by_key(|job| job.job);
        Limits {
            projects: (0..self.below(3)).map(|_| project(self)).collect(),
            groups: HashMap::from([(Group::Key(1), 1), (Group::Array(JobId(77)), self.below(3))]),
            rules: HashMap::from([(RulesId(1), rules)]),
            preemptible,
            ..Limits::default()
        }
    }
}

pub(super) type Check = fn(&Case) -> Result<(), String>;

/// Tries a property on every case, and tells the smallest one that breaks it.
#[track_caller]
pub(super) fn holds(check: Check) {
    for seed in 0..CASES {
        let case = Draw(seed).case();
        if let Err(why) = check(&case) {
            let small = smaller(case, check);
            let still = check(&small);
            panic!("seed {seed}: {why}\nas small as it gets: {still:?}\n{small:#?}");
        }
    }
}

/// Leaves out whatever can be left out while the property is still broken.
fn smaller(mut case: Case, check: Check) -> Case {
    loop {
        let mut less: Vec<Case> = Vec::new();
        for at in 0..case.pending.len() {
            let mut without = case.clone();
            without.pending.remove(at);
            less.push(without);
        }
        for at in 0..case.hosts.len() {
            let mut without = case.clone();
            without.hosts.remove(at);
            less.push(without);
            for held in 0..case.hosts[at].running.len() {
                let mut without = case.clone();
                without.hosts[at].running.remove(held);
                less.push(without);
            }
        }
        if !case.limits.projects.is_empty() {
            let mut without = case.clone();
            without.limits.projects.clear();
            less.push(without);
        }
        if !case.limits.preemptible.is_empty() {
            let mut without = case.clone();
            without.limits.preemptible.clear();
            less.push(without);
        }
        match less.into_iter().find(|less| check(less).is_err()) {
            Some(less) => case = less,
            None => return case,
        }
    }
}
