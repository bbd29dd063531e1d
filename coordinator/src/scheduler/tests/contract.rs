//! The planner's contract, property by property, by the letters of the README: on clusters and queues that are
//! drawn, the same on every machine, and made small where one breaks it.

use super::*;
use crate::draw::Draw;
use cases::{Case, holds};

/// Says what is wrong unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

mod cases;
mod promises;

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

/// E and H: a job that is left waiting for devices does not fit into what the plan leaves free, apart from what is held
/// back for others.
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

/// P: no job is placed where it would run into a maintenance window. How long it runs is told by its time limit, or by
/// how long such jobs took; where neither is known, a fixed time before the window is kept free. Nor are others asked
/// to leave such a place for it.
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
