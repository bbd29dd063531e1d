//! What is promised beyond one round: a reserved start (F), what more devices do (I), and whose turn it is after a
//! loss (N).

use super::cases::CASES;
use super::*;

impl Case {
    /// Ends what has ended by then.
    fn let_go(&mut self, second: DateTime<Utc>) {
        for host in &mut self.hosts {
            host.running
                .retain(|held| held.ends_at.is_none_or(|end| end > second));
        }
    }

    /// Writes a plan down as the round after it would.
    fn take(&mut self, plan: &Plan, now: DateTime<Utc>) {
        for placement in &plan.placements {
            let shape = self.pending(placement.job).shape;
            let limit = shape.limit_s.or(shape.expected_s);
            let ends_at = limit.map(|limit| now + TimeDelta::seconds(limit.into()));
            for rank in &placement.ranks {
                let is_its = |host: &&mut Host| host.worker == rank.worker;
                let host = self.hosts.iter_mut().find(is_its).unwrap();
                host.running.push(Held {
                    job: placement.job,
                    devices: rank.devices.clone(),
                    ends_at,
                    is_measured: shape.limit_s.is_none(),
                });
            }
            self.pending.retain(|job| job.job != placement.job);
        }
    }

    fn plan_at(&self, now: DateTime<Utc>) -> Plan {
        let mut queue: Queue = self.pending.iter().copied().collect();
        queue.wake(now);
        plan(&queue, &self.hosts, &self.limits, now)
    }
}

/// F: a reserved job starts at the promised time at the latest, played forward from end to end of what runs, while
/// jobs behind it fill the gap.
#[test]
fn f_a_promised_start_is_kept_while_others_fill_the_gap() {
    let mut promises = 0;
    holds_of(
        |case| {
            let mut case = case.clone();
            // Whoever goes before it may rightly take its devices, and a quota may rightly keep it.
            case.limits.preemptible.clear();
            case.limits.groups.clear();
            case.limits.projects.clear();
            case.pending
                .iter_mut()
                .for_each(|job| job.project = ProjectId(0));
            let mut now = at(0);
            let first = case.plan();
            let Some((job, until)) = first
                .reservations
                .iter()
                .find_map(|held| Some((held.job, held.until?)))
            else {
                return Ok(0);
            };
            case.take(&first, now);
            let priority = case.pending(job).priority;
            case.pending
                .retain(|other| other.job == job || other.priority < priority);
            loop {
                let ends = case.hosts.iter().flat_map(|host| &host.running);
                let next = ends
                    .filter_map(|held| held.ends_at)
                    .filter(|end| *end > now)
                    .min();
                let Some(next) = next.filter(|next| *next <= until) else {
                    return Err(format!(
                        "job {job} was promised {until}, and does not start"
                    ));
                };
                now = next;
                case.let_go(now);
                let plan = case.plan_at(now);
                if plan.placements.iter().any(|placement| placement.job == job) {
                    return Ok(1);
                }
                case.take(&plan, now);
            }
        },
        &mut promises,
    );
    assert!(promises > 20, "the draws are worth something: {promises}");
}

/// As [`holds`], for a check that also counts what it was tried on.
#[track_caller]
fn holds_of(check: impl Fn(&Case) -> Result<u32, String> + Copy, count: &mut u32) {
    for seed in 0..CASES {
        let case = Draw(seed).case();
        match check(&case) {
            Ok(tried) => *count += tried,
            Err(why) => panic!("seed {seed}: {why}\n{case:#?}"),
        }
    }
}

/// I: among jobs of one device each, of one kind, a further device takes no start away. (Of gangs it may: the fewest
/// hosts win, and these may be others then.)
#[test]
fn i_a_further_device_takes_no_start_away() {
    holds(|case| {
        let mut case = case.clone();
        case.limits.preemptible.clear();
        for job in &mut case.pending {
            job.shape = Shape {
                ranks: 1,
                devices_per_rank: 1,
                device: DeviceKind::Gpu,
                needs_trainer: false,
                gpu_memory_mib: None,
                rules: RulesId::NONE,
                limit_s: job.shape.limit_s,
                expected_s: None,
            };
        }
        let started = |case: &Case| -> BTreeSet<JobId> {
            let plan = case.plan();
            plan.placements
                .iter()
                .map(|placement| placement.job)
                .collect()
        };
        let before = started(&case);
        case.hosts.push(host("more").gpus(1));
        let after = started(&case);
        ensure!(
            before.is_subset(&after),
            "{before:?} started, and with one more {after:?}"
        );
        Ok(())
    });
}

/// N: a gang that lost ranks is queued again with its number and the time that it has waited: no newcomer of its line
/// starts before it, and what is held back for its line is held back for it.
#[test]
fn n_a_gang_that_comes_back_goes_before_the_newcomers_of_its_line() {
    let mut came_back = 0;
    holds_of(
        |case| {
            let mut case = case.clone();
            let Some(like) = case.pending.first().copied() else {
                return Ok(0);
            };
            let back = Pending {
                job: JobId(0),
                queued_at: at(-3_600),
                ..like
            };
            case.pending.push(back);
            case.pending.extend((100..104).map(|id| Pending {
                job: JobId(id),
                queued_at: at(0),
                ..like
            }));
            let plan = case.plan();
            let is_placed =
                |job: JobId| plan.placements.iter().any(|placement| placement.job == job);
            let newcomer = case
                .pending
                .iter()
                .find(|job| job.job != back.job && job.line() == back.line() && is_placed(job.job));
            if let Some(newcomer) = newcomer {
                ensure!(
                    is_placed(back.job),
                    "job {} started before it",
                    newcomer.job
                );
            }
            if is_placed(back.job) {
                return Ok(0);
            }
            let held = plan.reservations.iter().map(|held| held.job);
            for job in held.filter(|job| case.pending(*job).line() == back.line()) {
                ensure!(job == back.job, "devices are held back for job {job}");
            }
            Ok(1)
        },
        &mut came_back,
    );
    assert!(came_back > 20, "the draws are worth something: {came_back}");
}
