//! The planner's contract, property by property, by the letters of the README: on clusters and queues that are
//! drawn, the same on every machine, and made small where one breaks it.

use std::collections::HashMap;

use super::*;
use crate::draw::Draw;

/// Says what is wrong unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

mod promises;

/// Cases that each property is tried on.
const CASES: u64 = 800;

/// What a case is made of: the plan's whole input.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) hosts: Vec<Host>,
    pub(super) pending: Vec<Pending>,
    pub(super) limits: Limits,
}

impl Case {
    pub(super) fn plan(&self) -> Plan {
        let mut queue: Queue = self.pending.iter().copied().collect();
        queue.wake(at(0));
        plan(&queue, &self.hosts, &self.limits, at(0))
    }

    fn pending(&self, job: JobId) -> &Pending {
        self.pending
            .iter()
            .find(|pending| pending.job == job)
            .unwrap()
    }

    /// The hosts with what a plan gave away.
    pub(super) fn after(&self, plan: &Plan) -> Vec<Host> {
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
    fn given(&self, plan: &Plan, project: ProjectId) -> (u32, u32) {
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

    pub(super) fn case(&mut self) -> Case {
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

type Check = fn(&Case) -> Result<(), String>;

/// Tries a property on every case, and tells the smallest one that breaks it.
#[track_caller]
fn holds(check: Check) {
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

/// A: no device twice, and none that somebody holds. D: what runs keeps what it has.
#[test]
fn a_no_device_is_given_twice() {
    holds(|case| {
        let mut taken = BTreeSet::new();
        for host in &case.hosts {
            for device in host.running.iter().flat_map(|held| &held.devices) {
                taken.insert((host.worker, device.clone()));
            }
        }
        for placement in &case.plan().placements {
            for rank in &placement.ranks {
                for device in &rank.devices {
                    ensure!(
                        taken.insert((rank.worker, device.clone())),
                        "{device:?} twice"
                    );
                }
            }
        }
        Ok(())
    });
}

/// B: a gang whole, once, on hosts that its rules allow.
#[test]
fn b_a_gang_is_placed_whole_or_not_at_all() {
    holds(|case| {
        let mut seen = BTreeSet::new();
        for placement in &case.plan().placements {
            let job = case.pending(placement.job);
            ensure!(seen.insert(placement.job), "job {} twice", placement.job);
            let ranks: Vec<u32> = placement.ranks.iter().map(|rank| rank.rank.0).collect();
            ensure!(
                ranks == (0..job.shape.ranks).collect::<Vec<_>>(),
                "job {}: {ranks:?}",
                job.job
            );
            for rank in &placement.ranks {
                let devices = rank.devices.len();
                ensure!(
                    devices == job.shape.devices_per_rank as usize,
                    "{devices} devices"
                );
                let host = case
                    .hosts
                    .iter()
                    .find(|host| host.worker == rank.worker)
                    .unwrap();
                ensure!(host.accepting, "placed on {}", host.name);
                if job.shape.rules != RulesId::NONE {
                    let allowed =
                        case.limits.rules[&job.shape.rules].allow(&host.name, &host.labels);
                    ensure!(allowed, "placed on {}", host.name);
                }
            }
        }
        Ok(())
    });
}

/// C: the same plan for any order of jobs and hosts. D: and for the same input again.
#[test]
fn c_the_order_of_the_input_does_not_matter() {
    holds(|case| {
        let turn = case.pending.len() * 3 + case.hosts.len();
        let plan = case.plan();
        ensure!(case.plan() == plan, "another plan for the same input");
        let mut turned = case.clone();
        turned.pending.reverse();
        turned.hosts.reverse();
        let (jobs, hosts) = (turned.pending.len().max(1), turned.hosts.len().max(1));
        turned.pending.rotate_left(turn % jobs);
        turned.hosts.rotate_left(turn % hosts);
        ensure!(turned.plan() == plan, "{:?} and {plan:?}", turned.plan());
        Ok(())
    });
}

/// E and H: whoever is left for want of devices does not fit into what the plan leaves free, what is held back
/// for others apart.
#[test]
fn e_h_nothing_that_fits_is_left() {
    holds(|case| {
        // Nobody has waited for so long that anything is held back for him, or taken for him from others.
        let mut fresh = case.clone();
        fresh
            .pending
            .iter_mut()
            .for_each(|job| job.queued_at = at(0));
        let plan = fresh.plan();
        ensure!(
            plan.reservations.is_empty() && plan.claims.is_empty(),
            "held back"
        );
        let hosts = fresh.after(&plan);
        let placed: BTreeSet<JobId> = plan
            .placements
            .iter()
            .map(|placement| placement.job)
            .collect();
        for job in fresh
            .pending
            .iter()
            .filter(|job| !placed.contains(&job.job))
        {
            let obstacle = plan.waiting[&job.line()];
            if matches!(obstacle, Obstacle::Turn | Obstacle::Quota { .. }) {
                continue;
            }
            // Its project may have lost one of two kinds to its quota: then the other one alone is tried.
            let (gpus, cpus) = fresh.given(&plan, job.project);
            let mut limits = fresh.limits.clone();
            if let Some(share) = limits.projects.get_mut(job.project.0 as usize) {
                share.gpus.iter_mut().for_each(|quota| quota.used += gpus);
                share
                    .cpu_slots
                    .iter_mut()
                    .for_each(|quota| quota.used += cpus);
            }
            limits.groups.clear();
            let alone = Case {
                hosts: hosts.clone(),
                pending: vec![*job],
                limits,
            };
            ensure!(
                alone.plan().placements.is_empty(),
                "job {} would fit: {:?}",
                job.job,
                obstacle
            );
        }
        Ok(())
    });
}

/// J: every job that is left has one obstacle, and every job is placed or left.
#[test]
fn j_whoever_is_left_has_a_reason() {
    holds(|case| {
        let plan = case.plan();
        let placed: BTreeSet<JobId> = plan
            .placements
            .iter()
            .map(|placement| placement.job)
            .collect();
        for job in case.pending.iter().filter(|job| !placed.contains(&job.job)) {
            ensure!(plan.waiting.contains_key(&job.line()), "job {}", job.job);
        }
        Ok(())
    });
}

/// L: a preemption lets its job start on what is free and what the victims leave, spares whoever it can, and
/// asks only those that are of a lower priority, have run for a while and have not made room too often.
#[test]
fn l_a_preemption_lets_its_job_start_and_asks_nobody_in_vain() {
    holds(|case| {
        let plan = case.plan();
        for Preemption { for_job, victims } in &plan.preemptions {
            let job = case.pending(*for_job);
            ensure!(!victims.is_empty(), "nobody");
            for victim in victims {
                let victim = case
                    .limits
                    .preemptible
                    .iter()
                    .find(|other| other.job == *victim)
                    .unwrap();
                ensure!(victim.priority < job.priority, "{victim:?}");
                let ran = (at(0) - victim.started_at).to_std().unwrap();
                ensure!(ran >= RUNS_AT_LEAST, "{victim:?}");
                ensure!(victim.times_today < TIMES_A_DAY_MAX, "{victim:?}");
            }
            // The next rounds, with the claim kept: without all victims it does not start, then it does, first or
            // last, although the whole queue is there again.
            let starts_without = |left: &[JobId]| {
                let mut hosts = case.after(&plan);
                for host in &mut hosts {
                    host.running.retain(|held| !left.contains(&held.job));
                }
                let mut limits = case.limits.clone();
                limits.claims = plan.claims.clone();
                for (index, share) in (0..).zip(&mut limits.projects) {
                    let (gpus, cpus) = case.given(&plan, ProjectId(index));
                    share.gpus.iter_mut().for_each(|quota| quota.used += gpus);
                    share
                        .cpu_slots
                        .iter_mut()
                        .for_each(|quota| quota.used += cpus);
                }
                let placed: BTreeSet<JobId> = plan
                    .placements
                    .iter()
                    .map(|placement| placement.job)
                    .collect();
                // Jobs of a higher priority, and those before it in its own, may rightly take what came free.
                let rest = case.pending.iter().filter(|other| {
                    !placed.contains(&other.job)
                        && (other.job == *for_job || other.priority < job.priority)
                });
                let next = Case {
                    hosts,
                    pending: rest.copied().collect(),
                    limits,
                };
                next.plan()
                    .placements
                    .iter()
                    .any(|placement| placement.job == *for_job)
            };
            ensure!(
                starts_without(victims),
                "job {for_job} does not start without {victims:?}"
            );
            // What was held back for one before it is free again in these rounds.
            if !plan.reservations.is_empty() {
                continue;
            }
            for spared in victims {
                let others: Vec<JobId> = victims
                    .iter()
                    .filter(|victim| *victim != spared)
                    .copied()
                    .collect();
                ensure!(!starts_without(&others), "{spared} was asked in vain");
            }
        }
        Ok(())
    });
}

/// M: no plan gives a project more than its quotas, counted within the round, nor a group more than its turns.
#[test]
fn m_quotas_hold_within_a_round() {
    holds(|case| {
        let plan = case.plan();
        for (index, share) in case.limits.projects.iter().enumerate() {
            let project = ProjectId(u32::try_from(index).unwrap());
            let (gpus, cpus) = case.given(&plan, project);
            let within = |quota: Option<AtOnce>, more: u32| {
                more == 0 || quota.is_none_or(|quota| quota.used + more <= quota.quota)
            };
            ensure!(
                within(share.gpus, gpus) && within(share.cpu_slots, cpus),
                "{gpus}, {cpus}"
            );
            ensure!(
                share.spent.is_none() || gpus == 0,
                "{gpus} GPUs of a spent week"
            );
        }
        for (group, left) in &case.limits.groups {
            let placed = plan
                .placements
                .iter()
                .filter(|placement| case.pending(placement.job).group == *group);
            ensure!(placed.count() <= *left as usize, "{group:?}");
        }
        Ok(())
    });
}

/// P: no job is placed where it would run into a maintenance window, by its time limit, by how long its like took, or
/// within the time that is kept free of those of which nobody knows. What others are asked to leave is no such place.
#[test]
fn p_no_job_runs_into_a_maintenance_window() {
    holds(|case| {
        let plan = case.plan();
        let last = |job: &Pending| {
            let seconds = job.shape.limit_s.or(job.shape.expected_s);
            at(0) + seconds.map_or(UNKNOWN_RUNS, |seconds| TimeDelta::seconds(seconds.into()))
        };
        let is_barred = |worker: WorkerId, job: JobId| {
            let host = case
                .hosts
                .iter()
                .find(|host| host.worker == worker)
                .unwrap();
            let window = host.window.as_ref();
            window.is_some_and(|window| window.from < last(case.pending(job)))
        };
        for placement in &plan.placements {
            for rank in &placement.ranks {
                ensure!(
                    !is_barred(rank.worker, placement.job),
                    "job {}",
                    placement.job
                );
            }
        }
        for (job, claim) in &plan.claims {
            for worker in claim.devices.keys() {
                ensure!(!is_barred(*worker, *job), "claimed for job {job}");
            }
        }
        Ok(())
    });
}

/// G: nobody starves. Once no more jobs come, every job that a quota or an empty cluster allows starts, whatever
/// the shares: played forward, each job running for a second.
#[test]
fn g_every_job_starts_once_no_more_come() {
    holds(|case| {
        let mut case = case.clone();
        for host in &mut case.hosts {
            host.running.clear();
        }
        case.limits.preemptible.clear();
        for share in &mut case.limits.projects {
            share.spent = None;
            for quota in share.gpus.iter_mut().chain(&mut share.cpu_slots) {
                quota.used = 0;
            }
        }
        case.limits
            .groups
            .values_mut()
            .for_each(|left| *left = (*left).max(1));
        let total = case.pending.len();
        for _ in 0..=total {
            let plan = case.plan();
            if plan.placements.is_empty() {
                break;
            }
            let started: BTreeSet<JobId> = plan
                .placements
                .iter()
                .map(|placement| placement.job)
                .collect();
            case.pending.retain(|job| !started.contains(&job.job));
        }
        // Who is left would not start in an empty cluster either.
        for job in &case.pending {
            let alone = Case {
                pending: vec![*job],
                ..case.clone()
            };
            ensure!(
                alone.plan().placements.is_empty(),
                "job {} starves",
                job.job
            );
        }
        Ok(())
    });
}

/// O: the cost follows from lines, hosts and placements, not from how many jobs wait. Counted, not timed: each try of a
/// job is one look at the hosts.
#[test]
fn o_jobs_alike_cost_one_try_however_many_wait() {
    let tries = |count: i64| {
        let pending: Vec<Pending> = (1..=count)
            .map(|id| job(id, GPU, 2).of(u32::try_from(id % 3).unwrap()))
            .collect();
        let queue: Queue = pending.into_iter().collect();
        let hosts = [host("a").gpus(4), host("b").gpus(1)];
        let limits = Limits::default();
        let mut order = order::Order::new(&queue);
        let mut purses = limits::Purses::new(&limits);
        let mut tries = 0;
        let mut free = 5;
        while let Some((line, _)) = order.head(&purses) {
            tries += 1;
            if free >= 4 {
                free -= 2;
                purses.charge(line.project, wanted::Kind::Gpu, 2);
                order.placed(&purses);
            } else {
                order.leave(&purses);
            }
        }
        let plan = plan(&queue, &hosts, &limits, at(0));
        assert_eq!(plan.waiting.len(), 3, "one obstacle a line");
        tries
    };
    assert_eq!(tries(30), tries(30_000));
}

/// D: a job that was placed is not placed again, and nothing of a plan names a running job unless preemption was asked
/// for.
#[test]
fn d_without_preemptible_jobs_nothing_that_runs_is_touched() {
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0), gpu(1)])];
    let pending: Queue = [job(1, GPU, 2).priority(9).queued(-3_600)]
        .into_iter()
        .collect();
    let plan = plan(&pending, &hosts, &Limits::default(), at(0));
    assert!(plan.preemptions.is_empty() && plan.placements.is_empty());
    assert_eq!(plan.reservations.len(), 1);
}
