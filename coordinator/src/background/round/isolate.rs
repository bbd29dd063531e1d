//! A plan although the planner stumbles over some job: that one is found and set aside, and everybody else's are
//! planned without it.
//!
//! A panic of the planner is a fault of this version, and the same queue brings it again in every round: without
//! this, one odd job would stop all. The queue is tried in halves, first by shape, which is nearly all that the
//! planner sees of a job, then the jobs of a shape one by one.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, Utc};

use crate::index::Aside;
use crate::scheduler::{Pending, Plan, Queue, Shape};
use crate::walls::Panicked;

/// Plans made to find what the planner stumbles over; what is not cleared by then is set aside with it. The largest
/// plan takes some 50 ms, and nobody is placed meanwhile.
const PLANS_MAX: u32 = 64;

/// Plans the queue without what is set aside, and sets aside what the planner stumbles over.
pub(super) fn plan(
    queue: &Queue,
    aside: &mut Aside,
    now: DateTime<Utc>,
    planner: impl Fn(&Queue) -> Plan,
) -> Plan {
    aside.let_in(now);
    let rest = aside.without(queue);
    let queue = rest.as_ref().unwrap_or(queue);
    let why = match attempt(&planner, queue) {
        Ok(plan) => return plan,
        Err(why) => why,
    };
    tracing::error!(jobs = queue.len(), %why, "planning failed; looking for the jobs that it fails over");
    let mut search = Search {
        planner: &planner,
        plans_left: PLANS_MAX,
        cleared: Vec::new(),
        plan: Plan::default(),
        found: Vec::new(),
    };
    search.clear(&by_shape(queue));
    for (jobs, why) in std::mem::take(&mut search.found) {
        let (Some(first), Some(last)) = (jobs.first(), jobs.last()) else {
            continue;
        };
        // Where two that have nothing in common but their shape fail, all of that shape would.
        // Of one alone nobody knows whether it is its shape.
        let is_shape = jobs.len() > 1 && search.fails(first) && search.fails(last);
        if !is_shape {
            let each: Vec<Vec<Pending>> = jobs.iter().map(|job| vec![*job]).collect();
            search.clear(&each);
            for (jobs, why) in std::mem::take(&mut search.found) {
                for job in jobs {
                    tracing::error!(job = %job.job, shape = ?job.shape, why, "a job cannot be planned and is set aside");
                    aside.keep_job_out(job.job, why.clone(), now);
                }
            }
        } else {
            let (shape, job) = (first.shape, first.job);
            tracing::error!(?shape, jobs = jobs.len(), first = %job, why, "jobs of this shape cannot be planned and are set aside");
            aside.keep_shape_out(shape, why, now);
        }
    }
    search.plan
}

/// The jobs of each shape, in order of their numbers.
fn by_shape(queue: &Queue) -> Vec<Vec<Pending>> {
    let mut shapes: BTreeMap<Shape, Vec<Pending>> = BTreeMap::new();
    for job in queue.iter() {
        shapes.entry(job.shape).or_default().push(*job);
    }
    for jobs in shapes.values_mut() {
        jobs.sort_unstable_by_key(|job| job.job);
    }
    shapes.into_values().collect()
}

fn attempt(planner: &impl Fn(&Queue) -> Plan, queue: &Queue) -> Result<Plan, Panicked> {
    // The planner takes the queue by reference and keeps nothing, so that a panic leaves nothing half changed.
    catch_unwind(AssertUnwindSafe(|| planner(queue)))
        .map_err(|panic| Panicked::from_panic(panic.as_ref()))
}

/// Adds up what can be planned together.
struct Search<'a, P> {
    planner: &'a P,
    plans_left: u32,
    cleared: Vec<Pending>,
    /// Of all that is cleared.
    plan: Plan,
    /// What cannot be planned together with what is cleared, and why.
    found: Vec<(Vec<Pending>, String)>,
}

impl<P: Fn(&Queue) -> Plan> Search<'_, P> {
    fn clear(&mut self, groups: &[Vec<Pending>]) {
        if groups.is_empty() {
            return;
        }
        if self.plans_left == 0 {
            let why = "it was not reached in the search for the jobs that planning fails over";
            let unknown = groups.iter().map(|jobs| (jobs.clone(), why.to_owned()));
            self.found.extend(unknown);
            return;
        }
        self.plans_left -= 1;
        let queue = self.cleared.iter().chain(groups.iter().flatten());
        match (attempt(self.planner, &queue.copied().collect()), groups) {
            (Ok(plan), _) => {
                self.plan = plan;
                self.cleared.extend(groups.iter().flatten());
            }
            (Err(why), [one]) => self.found.push((one.clone(), why.to_string())),
            (Err(_), many) => {
                let (front, back) = many.split_at(many.len() / 2);
                self.clear(front);
                self.clear(back);
            }
        }
    }

    /// Whether planning fails over this job alone.
    fn fails(&self, job: &Pending) -> bool {
        let queue = self.cleared.iter().chain([job]);
        attempt(self.planner, &queue.copied().collect()).is_err()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::{BTreeMap, BTreeSet};

    use marquee_domain::ids::{JobId, WorkerId};
    use marquee_domain::resources::{Device, DeviceKind};

    use super::*;
    use crate::scheduler::{self, Group, Host, Limits, ProjectId, RulesId};

    fn job(id: i64, devices_per_rank: u32) -> Pending {
        Pending {
            job: JobId(id),
            array: None,
            shape: Shape {
                ranks: 1,
                device: DeviceKind::Cpu,
                devices_per_rank,
                needs_trainer: false,
                gpu_memory_mib: None,
                rules: RulesId::NONE,
                limit_s: None,
                expected_s: None,
            },
            priority: 0,
            project: ProjectId::default(),
            group: Group::None,
            queued_at: DateTime::UNIX_EPOCH,
            not_before: None,
        }
    }

    fn host(slots: u32) -> Host {
        Host {
            worker: WorkerId(uuid::Uuid::from_u128(1)),
            name: "w".into(),
            accepting: true,
            closed: None,
            devices: (0..slots).map(|index| Device::Cpu { index }).collect(),
            gpus: BTreeMap::new(),
            flavour: String::new(),
            labels: BTreeSet::new(),
            window: None,
            running: Vec::new(),
        }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    /// Plans with the real planner, which panics where `stumbles` says so. Returns the jobs that were placed and
    /// how many plans were made.
    fn planned(
        jobs: &[Pending],
        aside: &mut Aside,
        stumbles: impl Fn(&Queue) -> bool,
    ) -> (BTreeSet<i64>, u32) {
        let queue: Queue = jobs.iter().copied().collect();
        let plans = Cell::new(0);
        let plan = plan(&queue, aside, now(), |queue| {
            plans.set(plans.get() + 1);
            assert!(!stumbles(queue), "nobody thought of that");
            scheduler::plan(queue, &[host(10_000)], &Limits::default(), now())
        });
        let placed = plan.placements.iter().map(|placement| placement.job.0);
        (placed.collect(), plans.get())
    }

    fn has(queue: &Queue, is: impl Fn(&Pending) -> bool) -> bool {
        queue.iter().any(is)
    }

    #[test]
    fn a_shape_that_nobody_thought_of_is_set_aside_and_all_others_are_planned() {
        let jobs: Vec<Pending> = (1..=60)
            .map(|id| job(id, u32::try_from(id % 6 + 1).unwrap()))
            .collect();
        let mut aside = Aside::default();
        let odd = |queue: &Queue| has(queue, |job| job.shape.devices_per_rank == 4);
        let (placed, plans) = planned(&jobs, &mut aside, odd);
        assert_eq!(placed, (1..=60).filter(|id| id % 6 != 3).collect());
        assert!(plans < 12, "{plans}");
        assert!(
            aside
                .why(JobId(3), job(3, 4).shape)
                .unwrap()
                .contains("nobody thought of that")
        );
        // Known from now on: one plan a round, and a new job of that shape waits too.
        let more: Vec<Pending> = jobs
            .iter()
            .copied()
            .chain([job(61, 4), job(62, 1)])
            .collect();
        let (again, plans) = planned(&more, &mut aside, odd);
        assert_eq!((again.len(), plans), (51, 1));
        assert!(again.contains(&62));
    }

    #[test]
    fn one_job_of_many_alike_is_set_aside_by_itself() {
        let jobs: Vec<Pending> = (1..=1_000).map(|id| job(id, 1)).collect();
        let mut aside = Aside::default();
        let (placed, plans) = planned(&jobs, &mut aside, |queue| {
            has(queue, |job| [17, 500].contains(&job.job.0))
        });
        assert_eq!(placed.len(), 998);
        assert!(!placed.contains(&17) && !placed.contains(&500));
        assert!(aside.why(JobId(17), jobs[0].shape).is_some());
        assert!(aside.why(JobId(18), jobs[0].shape).is_none());
        assert!(plans <= PLANS_MAX + 3, "{plans}");
    }

    #[test]
    fn jobs_that_cannot_be_planned_together_are_not_both_set_aside() {
        let jobs = [job(1, 1), job(2, 2), job(3, 3)];
        let mut aside = Aside::default();
        let (placed, _) = planned(&jobs, &mut aside, |queue| {
            has(queue, |job| job.job.0 == 1) && has(queue, |job| job.job.0 == 3)
        });
        assert_eq!(placed.len(), 2, "{placed:?}");
        assert!(placed.contains(&2));
    }

    #[test]
    fn the_search_ends_whatever_the_planner_does() {
        let jobs: Vec<Pending> = (1..=3_000)
            .map(|id| job(id, u32::try_from(id % 300 + 1).unwrap()))
            .collect();
        let mut aside = Aside::default();
        let (placed, plans) = planned(&jobs, &mut aside, |queue| !queue.is_empty());
        assert!(placed.is_empty());
        assert!(plans <= PLANS_MAX + 1 + 2 * 300, "{plans}");
        // Every second one: what is placed is right, however little it is.
        let mut aside = Aside::default();
        let (placed, _) = planned(&jobs, &mut aside, |queue| {
            has(queue, |job| job.job.0 % 2 == 0)
        });
        assert!(placed.iter().all(|id| id % 2 == 1));
    }

    #[test]
    fn what_is_set_aside_is_tried_again_later() {
        let jobs = [job(1, 1), job(2, 2)];
        let mut aside = Aside::default();
        let (placed, _) = planned(&jobs, &mut aside, |queue| has(queue, |job| job.job.0 == 2));
        assert_eq!(placed.len(), 1);
        aside.let_in(now() + chrono::TimeDelta::minutes(4));
        assert_eq!(planned(&jobs, &mut aside, |_| false).0.len(), 1);
        aside.let_in(now() + chrono::TimeDelta::minutes(5));
        assert_eq!(planned(&jobs, &mut aside, |_| false).0.len(), 2);
    }
}
