//! Sharing, as sentences: projects, quotas, turns, hosts that are wanted or avoided, time limits, preemption.

use std::collections::HashMap;

use super::*;

pub(super) fn placed(plan: &Outcome) -> Vec<i64> {
    plan.placements
        .iter()
        .map(|placement| placement.job.0)
        .collect()
}

fn share(used: f64, weight: f64) -> ProjectShare {
    ProjectShare {
        used,
        weight,
        ..ProjectShare::default()
    }
}

fn at_once(used: u32, quota: u32) -> Option<AtOnce> {
    Some(AtOnce {
        used,
        quota,
        frees_at: None,
    })
}

fn of_projects(projects: Vec<ProjectShare>) -> Limits {
    Limits {
        projects,
        ..Limits::default()
    }
}

#[test]
fn the_project_that_used_least_for_its_weight_goes_first_and_priority_before_both() {
    let hosts = [host("a").gpus(1)];
    let pending = [job(1, GPU, 1).of(0), job(2, GPU, 1).of(1)];
    let limits = of_projects(vec![share(100.0, 1.0), share(150.0, 2.0)]);
    assert_eq!(placed(&place_within(&pending, &hosts, &limits, at(0))), [2]);
    let urgent = [pending[0].priority(1), pending[1]];
    assert_eq!(placed(&place_within(&urgent, &hosts, &limits, at(0))), [1]);
    // As they are with one project: by number.
    let limits = of_projects(vec![share(5.0, 1.0)]);
    let one = [job(2, GPU, 1), job(1, GPU, 1)];
    assert_eq!(placed(&place_within(&one, &hosts, &limits, at(0))), [1]);
}

#[test]
fn one_project_that_floods_the_queue_does_not_get_the_cluster() {
    let hosts = [host("a").gpus(8)];
    let mut pending: Vec<Pending> = (1..=1_000).map(|id| job(id, GPU, 1).of(0)).collect();
    pending.extend((1_001..=1_004).map(|id| job(id, GPU, 1).of(1)));
    let limits = of_projects(vec![share(0.0, 1.0), share(0.0, 1.0)]);
    let plan = place_within(&pending, &hosts, &limits, at(0));
    let late = plan
        .placements
        .iter()
        .filter(|placement| placement.job.0 > 1_000);
    assert_eq!(
        late.count(),
        4,
        "half of an empty cluster within the first round"
    );
    // Three times the weight gets three quarters.
    let mut pending: Vec<Pending> = (1..=1_000).map(|id| job(id, GPU, 1).of(0)).collect();
    pending.extend((1_001..=2_000).map(|id| job(id, GPU, 1).of(1)));
    let limits = of_projects(vec![share(0.0, 1.0), share(0.0, 3.0)]);
    let plan = place_within(&pending, &hosts, &limits, at(0));
    let late = plan
        .placements
        .iter()
        .filter(|placement| placement.job.0 > 1_000);
    assert_eq!(late.count(), 6);
}

#[test]
fn a_quota_holds_with_its_figures_and_leaves_devices_to_others() {
    let hosts = [host("a").gpus(8)];
    let vision = ProjectShare {
        gpus: at_once(2, 4),
        ..share(0.0, 1.0)
    };
    let limits = of_projects(vec![vision, share(9e9, 1.0)]);
    let pending = [
        job(1, GPU, 2).of(0),
        job(2, GPU, 1).of(0).queued(-3_600),
        job(3, GPU, 6).of(1),
    ];
    let plan = place_within(&pending, &hosts, &limits, at(0));
    // Nothing is held back for a job that waits for its quota, however long it does.
    assert_eq!(placed(&plan), [1, 3]);
    assert_eq!(
        plan.waiting[0].reason,
        "quota of its project: 4 of 4 GPUs are in use; frees when a job of the project ends"
    );
    let spent = ProjectShare {
        spent: Some(Spent {
            used_hours: 41.25,
            quota_hours: 41.0,
            frees_at: Some(at(3_600)),
        }),
        ..share(0.0, 1.0)
    };
    let limits = of_projects(vec![spent]);
    let hosts = [host("a").gpus(2).cpus(1)];
    let pending = [job(1, GPU, 1), job(2, ANY, 1)];
    let plan = place_within(&pending, &hosts, &limits, at(0));
    // Hours of GPUs are used up: who may take a CPU slot does.
    assert_eq!(lines(&plan, &hosts)[0], "2.0 -> a.0 cpu0");
    assert!(
        plan.waiting[0].reason.starts_with(
            "quota of its project: 41.2 of 41.0 GPU-hours of its week are used; frees by 2026-09-21"
        ),
        "{}",
        plan.waiting[0].reason
    );
}

#[test]
fn nothing_is_held_back_or_freed_of_a_kind_that_the_quota_rules_out() {
    // GPUs are free and its quota says no; the one CPU slot is busy, and everything else may have the GPUs.
    let vision = ProjectShare {
        gpus: at_once(1, 1),
        ..share(0.0, 1.0)
    };
    let limits = Limits {
        preemptible: vec![gives_way(9, 0, 1_000, 0)],
        ..of_projects(vec![vision, share(9e9, 1.0)])
    };
    let hosts = [host("a").gpus(2).cpus(1).runs(9, &[cpu(0)])];
    let pending = [job(1, ANY, 1).of(0).queued(-3_600), job(2, GPU, 2).of(1)];
    let plan = place_within(&pending, &hosts, &limits, at(0));
    assert_eq!(placed(&plan), [2]);
    assert_eq!(
        plan.waiting[0].reason,
        "needs 1 cpu device, 0 of 1 are free: waits for job 9 on a"
    );
    // Without any CPU slot it is the quota that keeps it.
    let hosts = [host("a").gpus(2)];
    let plan = place_within(&pending[..1], &hosts, &limits, at(0));
    assert!(
        plan.waiting[0].reason.starts_with("quota of its project"),
        "{:?}",
        plan.waiting
    );
}

#[test]
fn of_a_concurrency_key_one_runs_at_a_time() {
    let hosts = [host("a").gpus(4)];
    let key = Group::Key(1);
    let pending = [
        job(1, GPU, 1).group(key),
        job(2, GPU, 1).group(key),
        job(3, GPU, 1),
    ];
    let mut limits = Limits {
        groups: HashMap::from([(key, 1)]),
        ..Limits::default()
    };
    assert_eq!(
        placed(&place_within(&pending, &hosts, &limits, at(0))),
        [1, 3]
    );
    limits.groups.insert(key, 0);
    let plan = place_within(&pending, &hosts, &limits, at(0));
    assert_eq!(placed(&plan), [3]);
    assert_eq!(plan.waiting.len(), 2);
}

#[test]
fn hosts_are_wanted_by_label_and_avoided_by_name() {
    let hosts = [host("a").gpus(2), host("b").gpus(2).label("fast")];
    let rules = |labels: &[&str], avoid: &[&str]| {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rules = marquee_domain::spec::HostRules {
            gpu: None,
            labels: set(labels),
            avoid: set(avoid),
        };
        Limits {
            rules: HashMap::from([(RulesId(1), rules)]),
            ..Limits::default()
        }
    };
    let pending = [job(1, GPU, 1).rules(1)];
    let on = |limits: &Limits| lines(&place_within(&pending, &hosts, limits, at(0)), &hosts);
    assert_eq!(on(&rules(&["fast"], &[])), ["1.0 -> b.0 gpu0"]);
    assert_eq!(on(&rules(&[], &["fast"])), ["1.0 -> a.0 gpu0"]);
    assert_eq!(on(&rules(&[], &["b"])), ["1.0 -> a.0 gpu0"]);
    assert_eq!(
        place_within(&pending, &hosts, &rules(&["fast"], &["b"]), at(0)).waiting[0].reason,
        "no worker that is online and has the labels fast and is none of b has gpu devices; \
         \"marquee workers\" shows the hosts' labels"
    );
}

#[test]
fn a_drained_host_takes_nothing_and_is_named() {
    let hosts = [
        host("a").gpus(1).closed("is drained since noon"),
        host("b").gpus(1).runs(9, &[gpu(0)]),
    ];
    let pending = [job(1, GPU, 1)];
    assert_eq!(
        place(&pending, &hosts, at(0)).waiting[0].reason,
        "needs 1 gpu device, 0 of 1 are free: waits for job 9 on b; a is drained since noon"
    );
    assert_eq!(
        place(&pending, &hosts[..1], at(0)).waiting[0].reason,
        "no worker takes new work: a is drained since noon"
    );
}

#[test]
fn who_ends_before_the_reserved_gang_can_start_may_use_what_is_held_back() {
    // The gang can start at second 100, when job 9 has ended at the latest.
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)]).until(100)];
    let gang = job(1, GPU, 2).queued(-60);
    let within = |limit: Option<u32>| {
        let mut short = job(2, GPU, 1);
        short.shape.limit_s = limit;
        placed(&place(&[gang, short], &hosts, at(0)))
    };
    assert_eq!(within(Some(100)), [2]);
    assert_eq!(within(Some(101)), [] as [i64; 0]);
    assert_eq!(within(None), [] as [i64; 0]);
    // Nobody knows when job 9 ends: what is held back is held back from all.
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)])];
    let plan = place(&[gang, job(2, GPU, 1).limit(1)], &hosts, at(0));
    assert_eq!(placed(&plan), [] as [i64; 0]);
}

/// The gang is promised second 50, by what runs before took; that takes four times as long. A stream of jobs that all
/// take longer than theirs did fills the gap until the promise is broken, and does not put the start off for ever.
#[test]
fn jobs_that_take_longer_than_expected_do_not_starve_a_reserved_gang() {
    let gang = job(1, GPU, 4).queued(-31);
    let mut pending = vec![gang];
    // What each job holds, when it began, how long its like took, and when it ends in truth.
    let mut running = vec![(900, vec![gpu(0), gpu(1)], 0, 50, 200)];
    let (mut filled, mut limits) = (Vec::new(), Limits::default());
    for second in 0..400 {
        running.retain(|(.., ends)| *ends > second);
        let mut a = host("a").gpus(4);
        for (id, devices, began, expected, _) in &running {
            let end = if began + expected > second {
                began + expected
            } else {
                second + ((second - began) / 2).max(1)
            };
            a = a.runs(*id, devices).until(end).measured();
        }
        pending.push(job(1_000 + second, GPU, 1).expected(10).queued(second));
        let queue: Queue = pending.iter().copied().collect();
        let plan = plan(&queue, &[a], &limits, at(second));
        let held = plan.reservations.iter();
        for held in held.filter(|held| held.job == gang.job) {
            assert!(!held.is_sure);
            limits
                .promised
                .entry(held.job)
                .or_insert(held.until.unwrap());
        }
        for placement in plan.placements {
            if placement.job == gang.job {
                assert_eq!(limits.promised[&gang.job], at(50));
                assert_eq!(second, 200, "with the end of what was before it");
                assert!(
                    filled.len() >= 2 && filled.iter().all(|s| *s <= 50),
                    "{filled:?}"
                );
                return;
            }
            filled.push(second);
            pending.retain(|job| job.job != placement.job);
            for rank in placement.ranks {
                running.push((placement.job.0, rank.devices, second, 10, second + 40));
            }
        }
    }
    panic!("the gang never started: {filled:?}");
}

/// Who is stopped in time is let in although a promise was broken, and who only may end in time is not.
#[test]
fn a_broken_promise_lets_in_only_those_that_have_a_time_limit() {
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)]).until(100).measured()];
    let gang = job(1, GPU, 2).queued(-60);
    let within = |short: Pending, promised: i64| {
        let limits = Limits {
            promised: BTreeMap::from([(gang.job, at(promised))]),
            ..Limits::default()
        };
        placed(&place_within(&[gang, short], &hosts, &limits, at(0)))
    };
    let (expected, limited) = (job(2, GPU, 1).expected(100), job(2, GPU, 1).limit(100));
    assert_eq!(within(expected, 100), [2]);
    assert_eq!(within(limited, 100), [2]);
    assert_eq!(within(job(2, GPU, 1).expected(101), 100), [] as [i64; 0]);
    assert_eq!(within(expected, -1), [] as [i64; 0]);
    assert_eq!(within(limited, -1), [2]);
}

/// Played second by second: a stream of short jobs with limits uses what is held back, and the gang starts when it was
/// promised.
#[test]
fn a_promised_start_is_kept_while_short_jobs_fill_the_gap() {
    let mut hosts = vec![host("a").gpus(4).runs(900, &[gpu(0), gpu(1)]).until(200)];
    let gang = job(1, GPU, 4).queued(-31);
    let mut pending = vec![gang];
    let (mut next, mut filled, mut promised) = (1_000, 0, None);
    for second in 0..400 {
        for host in &mut hosts {
            host.running
                .retain(|held| held.ends_at.is_none_or(|end| end > at(second)));
        }
        pending.push(job(next, GPU, 1).limit(30).queued(second));
        next += 1;
        let queue: Queue = pending.iter().copied().collect();
        let plan = plan(&queue, &hosts, &Limits::default(), at(second));
        if let Some(reservation) = plan.reservations.first() {
            promised = promised.or(reservation.until);
            assert!(reservation.until <= promised, "it moves no further away");
        }
        for placement in plan.placements {
            if placement.job == gang.job {
                assert_eq!(promised, Some(at(200)));
                assert!(at(second) <= at(200), "second {second}");
                assert!(filled >= 10, "{filled} short jobs ran meanwhile");
                return;
            }
            filled += 1;
            pending.retain(|job| job.job != placement.job);
            for rank in placement.ranks {
                hosts[0].running.push(Held {
                    job: placement.job,
                    devices: rank.devices,
                    ends_at: Some(at(second + 30)),
                    is_measured: false,
                });
            }
        }
    }
    panic!("the gang never started");
}

fn gives_way(job: i64, priority: i32, ran: i64, saved: i64) -> Preemptible {
    Preemptible {
        job: JobId(job),
        priority,
        saved_at: at(-saved),
        started_at: at(-ran),
        times_today: 0,
    }
}

fn victims(pending: &[Pending], hosts: &[Host], limits: &Limits) -> Vec<Vec<i64>> {
    let queue: Queue = pending.iter().copied().collect();
    let plan = plan(&queue, hosts, limits, at(0));
    let of = |preemption: &Preemption| preemption.victims.iter().map(|job| job.0).collect();
    plan.preemptions.iter().map(of).collect()
}

fn preemptible(jobs: Vec<Preemptible>) -> Limits {
    Limits {
        preemptible: jobs,
        ..Limits::default()
    }
}

#[test]
fn the_cheapest_set_whose_devices_are_enough_makes_room() {
    let hosts = [
        host("a").gpus(2).runs(11, &[gpu(0)]).runs(12, &[gpu(1)]),
        host("b").gpus(2).runs(13, &[gpu(0)]).runs(14, &[gpu(1)]),
    ];
    let urgent = |ranks, each| [job(1, GPU, ranks).each(each).priority(5).queued(-60)];
    let all = preemptible(vec![
        gives_way(11, 0, 1_000, 600),
        gives_way(12, 0, 1_000, 900),
        gives_way(13, 0, 1_000, 10),
        gives_way(14, 0, 1_000, 800),
    ]);
    // One device: whoever saved last loses least.
    assert_eq!(victims(&urgent(1, 1), &hosts, &all), [[13]]);
    // Two on one host: 13 is of no use without 14, and 11 with 12 lose more.
    assert_eq!(victims(&urgent(1, 2), &hosts, &all), [[13, 14]]);
    assert_eq!(victims(&urgent(2, 1), &hosts, &all), [[11, 13]]);
    // A lower priority goes before a smaller loss.
    let mut lower = all.clone();
    lower.preemptible[1].priority = -1;
    assert_eq!(victims(&urgent(1, 1), &hosts, &lower), [[12]]);
}

#[test]
fn nobody_makes_room_in_vain_or_too_soon_or_too_often() {
    let hosts = [host("a").gpus(2).runs(11, &[gpu(0)]).runs(12, &[gpu(1)])];
    let none: [Vec<i64>; 0] = [];
    let urgent = job(1, GPU, 2).priority(5).queued(-60);
    // Job 12 does not give way, so 11 alone would leave for nothing.
    let one = preemptible(vec![gives_way(11, 0, 1_000, 0)]);
    assert_eq!(victims(&[urgent], &hosts, &one), none);
    let both = |change: fn(&mut Preemptible)| {
        let mut jobs = vec![gives_way(11, 0, 1_000, 0), gives_way(12, 0, 1_000, 0)];
        change(&mut jobs[0]);
        preemptible(jobs)
    };
    assert_eq!(victims(&[urgent], &hosts, &both(|_| {})), [[11, 12]]);
    let refused: [fn(&mut Preemptible); 3] = [
        |job| job.started_at = at(-299),
        |job| job.times_today = TIMES_A_DAY_MAX,
        |job| job.priority = 5,
    ];
    for change in refused {
        assert_eq!(victims(&[urgent], &hosts, &both(change)), none);
    }
    // It has just come: what ends by itself meanwhile loses nothing.
    assert_eq!(victims(&[urgent.queued(-9)], &hosts, &both(|_| {})), none);
    let mut leaving = both(|_| {});
    leaving.leaving.insert(JobId(11));
    assert_eq!(victims(&[urgent], &hosts, &leaving), none);
}

#[test]
fn what_was_freed_is_kept_until_its_job_starts() {
    let full = [host("a").gpus(2).runs(11, &[gpu(0)]).runs(12, &[gpu(1)])];
    let urgent = job(1, GPU, 2).priority(5).queued(-60);
    let crowd: Vec<Pending> = (2..50).map(|id| job(id, GPU, 1).limit(1)).collect();
    let pending: Vec<Pending> = crowd.iter().copied().chain([urgent]).collect();
    let mut limits = preemptible(vec![gives_way(11, 0, 1_000, 0), gives_way(12, 0, 1_000, 0)]);
    let queue: Queue = pending.iter().copied().collect();
    let first = plan(&queue, &full, &limits, at(0));
    assert_eq!(first.preemptions.len(), 1);
    // One of two has left: nobody takes its device, and nobody else is asked.
    limits.claims = first.claims;
    limits.leaving.insert(JobId(12));
    let half = [host("a").gpus(2).runs(12, &[gpu(1)])];
    let second = plan(&queue, &half, &limits, at(5));
    assert!(second.placements.is_empty() && second.preemptions.is_empty());
    limits.claims = second.claims;
    let third = plan(&queue, &[host("a").gpus(2)], &limits, at(9));
    assert_eq!(third.placements[0].job, JobId(1));
    assert!(third.claims.is_empty());
    // Its host is gone: the claim is void, and the others go on.
    let gone = plan(&queue, &[host("b").gpus(1)], &limits, at(9));
    assert!(gone.claims.is_empty());
    assert_eq!(gone.placements.len(), 1);
}
