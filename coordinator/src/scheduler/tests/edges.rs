//! The odd and the big: jobs that ask for more than there is, hosts that say nonsense, the same twice.

use std::collections::HashMap;

use marquee_domain::spec::HostRules;
use uuid::Uuid;

use super::sharing::placed;
use super::*;

const NONE: [i64; 0] = [];

#[test]
fn a_job_that_asks_for_more_than_a_number_holds_waits_and_harms_nobody() {
    let hosts = [host("a").cpus(2).gpus(2)];
    let most = u32::MAX;
    let huge = [
        job(1, GPU, most),
        job(2, GPU, 1).each(most),
        job(3, GPU, most).each(most),
        job(4, CPU, most).each(2),
        job(5, ANY, most).trains(),
        job(6, GPU, 1).limit(most).each(most),
    ];
    for odd in huge {
        let small = job(9, GPU, 1);
        let plan = place(&[odd.priority(9), small], &hosts, at(0));
        assert_eq!(placed(&plan), [9], "{odd:?}");
        assert_eq!(plan.waiting.len(), 1);
        assert!(!plan.waiting[0].reason.is_empty());
        // However long it waits, and with others that could make room.
        let late = place(&[odd.priority(9).queued(-86_400), small], &hosts, at(0));
        assert_eq!(placed(&late), [9], "{odd:?}");
    }
}

#[test]
fn a_rank_that_asks_for_no_device_is_never_placed() {
    // No document says so; an old row might.
    let hosts = [host("a").cpus(4)];
    let plan = place(&[job(1, CPU, 1).each(0), job(2, CPU, 1)], &hosts, at(0));
    assert_eq!(placed(&plan), [2]);
}

#[test]
fn a_host_without_devices_and_one_whose_devices_are_held_twice_offer_nothing() {
    let twice = host("b")
        .cpus(1)
        .runs(7, &[cpu(0)])
        .runs(8, &[cpu(0)])
        // Held, and not offered any more: its configuration was changed.
        .runs(9, &[gpu(3)]);
    let hosts = [host("a"), twice];
    let plan = place(&[job(1, CPU, 1), job(2, GPU, 1)], &hosts, at(0));
    assert_eq!(placed(&plan), NONE);
    assert_eq!(
        plan.waiting[0].reason,
        "needs 1 cpu device, 0 of 1 are free: waits for job 7 on b, job 8 on b"
    );
}

#[test]
fn a_time_limit_beyond_the_calendar_is_no_end_at_all() {
    let last = DateTime::<Utc>::MAX_UTC - TimeDelta::days(1);
    let hosts = [host("a").gpus(1)];
    let far = job(1, GPU, 1).limit(u32::MAX);
    let queue: Queue = [far].into_iter().collect();
    let plan = plan(&queue, &hosts, &Limits::default(), last);
    assert_eq!(plan.placements.len(), 1);
}

#[test]
fn hosts_of_one_name_are_told_apart() {
    // A worker that came back with a new data folder, before its old row is seen to be lost.
    let mut twin = host("a").gpus(1);
    twin.worker = WorkerId(Uuid::from_u128(99));
    let hosts = [host("a").gpus(1), twin];
    let plan = place(&[job(1, GPU, 1), job(2, GPU, 1)], &hosts, at(0));
    let workers: BTreeSet<WorkerId> = plan
        .placements
        .iter()
        .flat_map(|placement| placement.ranks.iter().map(|rank| rank.worker))
        .collect();
    assert_eq!(workers.len(), 2);
}

#[test]
fn a_job_whose_rules_nobody_keeps_may_run_anywhere() {
    let plan = place(&[job(1, GPU, 1).rules(44)], &[host("a").gpus(1)], at(0));
    assert_eq!(placed(&plan), [1]);
}

#[test]
fn rules_that_leave_no_host_are_said_in_the_words_of_the_rules() {
    let words = |values: &[&str]| values.iter().map(|word| (*word).to_owned()).collect();
    let rules = |labels: &[&str], avoid: &[&str]| Limits {
        rules: HashMap::from([(
            RulesId(1),
            HostRules {
                gpu: None,
                labels: words(labels),
                avoid: words(avoid),
            },
        )]),
        ..Limits::default()
    };
    let hosts = [host("a").gpus(1).label("ib"), host("b").gpus(1)];
    let one = [job(1, GPU, 1).rules(1)];
    let cases: &[(Limits, &str)] = &[
        (
            rules(&["nvme"], &[]),
            "no worker that is online and has the labels nvme has gpu devices",
        ),
        (
            rules(&["ib", "nvme"], &[]),
            "no worker that is online and has the labels ib, nvme has gpu devices",
        ),
        (
            rules(&[], &["a", "b"]),
            "no worker that is online and is none of a, b has gpu devices",
        ),
        (
            rules(&["ib"], &["a"]),
            "no worker that is online and has the labels ib and is none of a has gpu devices",
        ),
    ];
    for (limits, words) in cases {
        let plan = place_within(&one, &hosts, limits, at(0));
        assert_eq!(
            plan.waiting[0].reason,
            format!("{words}; \"marquee workers\" shows the hosts' labels")
        );
    }
    // Where no host has such a device at all, its rules are not what is in the way.
    let cpus = [host("a").cpus(1)];
    let plan = place_within(&one, &cpus, &rules(&["nvme"], &[]), at(0));
    assert!(
        plan.waiting[0]
            .reason
            .starts_with("no worker that is online has a GPU")
    );
}

#[test]
fn more_obstacles_than_a_reader_takes_in_are_counted() {
    let mut ill = host("a").gpus(5);
    for index in 0..5 {
        ill = ill.ill(index);
    }
    let reason = &place(&[job(1, GPU, 1)], &[ill], at(0)).waiting[0].reason;
    assert_eq!(reason.matches("is left out").count(), 3);
    assert!(reason.ends_with("; and 2 more"), "{reason}");
    let closed: Vec<Host> = ["a", "b", "c", "d"]
        .map(|name| host(name).gpus(1).closed("is drained"))
        .into();
    assert_eq!(
        place(&[job(1, GPU, 1)], &closed, at(0)).waiting[0].reason,
        "no worker takes new work: a is drained; b is drained; c is drained; and 1 more"
    );
}

#[test]
fn a_claim_whose_hosts_are_gone_ill_drained_or_too_small_is_void() {
    let urgent = job(1, GPU, 2).priority(5).queued(-60);
    let full = [host("a").gpus(2).runs(11, &[gpu(0)]).runs(12, &[gpu(1)])];
    let gives_way = |job| Preemptible {
        job: JobId(job),
        priority: 0,
        saved_at: at(0),
        started_at: at(-1_000),
        times_today: 0,
    };
    let mut limits = Limits {
        preemptible: vec![gives_way(11), gives_way(12)],
        ..Limits::default()
    };
    let queue: Queue = [urgent].into_iter().collect();
    limits.claims = plan(&queue, &full, &limits, at(0)).claims;
    assert_eq!(limits.claims.len(), 1);
    limits.preemptible.clear();
    let half = |host: Host| [host.runs(12, &[gpu(1)])];
    let kept = plan(&queue, &half(host("a").gpus(2)), &limits, at(5));
    assert_eq!(kept.claims, limits.claims);
    let void = [
        half(host("b").gpus(2)),
        half(host("a").gpus(2).ill(0)),
        half(host("a").gpus(2).closed("is drained")),
        half(host("a").gpus(1)),
        half(host("a").gpus(2).empty(600, 700)),
    ];
    for hosts in void {
        let plan = plan(&queue, &hosts, &limits, at(5));
        assert_eq!(plan.claims, BTreeMap::new(), "{hosts:?}");
    }
}

#[test]
fn victims_are_found_among_more_than_are_looked_at_and_the_dearest_are_spared() {
    // 300 jobs of one device each on hosts of ten; what each would lose grows with its number.
    let mut hosts: Vec<Host> = (0..30)
        .map(|n| host(&format!("h{n:02}")).gpus(10))
        .collect();
    let mut preemptible = Vec::new();
    for job in 0..300_i64 {
        let index = u32::try_from(job % 10).unwrap();
        let on = usize::try_from(job / 10).unwrap();
        hosts[on] = hosts[on].clone().runs(1_000 + job, &[gpu(index)]);
        preemptible.push(Preemptible {
            job: JobId(1_000 + job),
            priority: 0,
            saved_at: at(-job),
            started_at: at(-10_000),
            times_today: 0,
        });
    }
    let limits = Limits {
        preemptible,
        ..Limits::default()
    };
    let asked = |ranks: u32| {
        let queue: Queue = [job(1, GPU, ranks).priority(5).queued(-60)]
            .into_iter()
            .collect();
        let plan = plan(&queue, &hosts, &limits, at(0));
        let victims = plan.preemptions.first().map(|found| found.victims.clone());
        victims.map(|victims| victims.iter().map(|job| job.0).collect::<Vec<_>>())
    };
    assert_eq!(asked(1), Some(vec![1_000]));
    assert_eq!(asked(20), Some((1_000..1_020).collect()));
    // More than are looked at: nobody leaves in vain.
    assert_eq!(asked(250), None);
}

#[test]
fn stored_obstacles_are_read_back_and_each_has_its_class_and_words() {
    let all = [
        (
            Obstacle::NoWorker,
            "no_worker",
            "no worker was online when it was last looked at",
        ),
        (
            Obstacle::Impossible,
            "impossible",
            "no worker that was online could take it when it was last looked at",
        ),
        (
            Obstacle::HeldBack { needs: 2 },
            "held_back",
            "needs 2 devices, held back for a job that has waited longer when it was last looked at",
        ),
        (
            Obstacle::Busy {
                needs: 3,
                free: 1,
                total: 8,
            },
            "busy",
            "needs 3 devices, 1 of 8 were free when it was last looked at",
        ),
        (
            Obstacle::Busy {
                needs: 1,
                free: 0,
                total: 8,
            },
            "busy",
            "needs 1 device, 0 of 8 were free when it was last looked at",
        ),
        (
            Obstacle::Window { needs: 4 },
            "window",
            "needs 4 devices, free only on hosts that are to be empty before it ends",
        ),
        (
            Obstacle::Turn,
            "turn",
            "as many as may run at a time were running",
        ),
    ];
    for (obstacle, class, words) in all {
        assert_eq!(
            (obstacle.class(), obstacle.words().as_str()),
            (class, words)
        );
        let stored = serde_json::to_value(obstacle).unwrap();
        assert_eq!(
            stored["class"], class,
            "what is stored is found by its class"
        );
        assert_eq!(
            serde_json::from_value::<Obstacle>(stored).unwrap(),
            obstacle
        );
    }
    // As the first release stored it, and as a later one may.
    let old =
        serde_json::json!({ "class": "busy", "needs": 1, "free": 0, "total": 2, "more": "later" });
    assert!(serde_json::from_value::<Obstacle>(old).is_ok());
    let newer = serde_json::json!({ "class": "not_known_yet" });
    assert!(serde_json::from_value::<Obstacle>(newer).is_err());
}

#[test]
fn times_that_keep_a_job_are_said_to_the_second() {
    let until = DateTime::from_timestamp(1_800_000_061, 0).unwrap();
    assert_eq!(
        not_before(until),
        "starts after 2027-01-15 08:01:01 UTC, as its document says"
    );
    assert_eq!(
        back_off(until),
        "the next attempt starts at 08:01:01 UTC, after a back-off"
    );
}

#[test]
fn a_forecast_of_nothing_and_of_what_never_ends_is_none() {
    use super::super::forecast::{start_of, starts};
    let nobody = |_: JobId| None;
    let none = starts(
        Queue::default(),
        Vec::new(),
        Limits::default(),
        at(0),
        nobody,
    );
    assert!(none.is_empty());
    let queue: Queue = [job(1, GPU, 1), job(2, GPU, 9)].into_iter().collect();
    let hosts = vec![host("a").gpus(1).runs(9, &[gpu(0)])];
    let of = |job: i64, hosts: &[Host]| {
        let (queue, hosts) = (queue.clone(), hosts.to_vec());
        start_of(JobId(job), queue, hosts, Limits::default(), at(0), nobody)
    };
    assert_eq!(of(1, &hosts), None, "nobody knows when job 9 ends");
    assert_eq!(of(2, &hosts), None, "no host has nine");
    assert_eq!(of(3, &hosts), None, "there is no such job");
    assert_eq!(of(1, &[host("a").gpus(1)]), Some(at(0)));
    let ends = [host("a").gpus(1).runs(9, &[gpu(0)]).until(30)];
    assert_eq!(of(1, &ends), Some(at(30)));
    // One that should have ended already holds its devices until it has.
    let late = [host("a").gpus(1).runs(9, &[gpu(0)]).until(-30)];
    assert_eq!(of(1, &late), None);
}

/// Rules of a burn-in of GPU `index` of a host.
fn burn_in(of: &Host, index: u32) -> Limits {
    let one = marquee_domain::spec::OneGpu {
        worker: of.worker,
        uuid: format!("GPU-{index}"),
    };
    let rules = HostRules {
        gpu: Some(one),
        ..HostRules::default()
    };
    Limits {
        rules: HashMap::from([(RulesId(1), rules)]),
        ..Limits::default()
    }
}

#[test]
fn a_gpu_in_quarantine_goes_to_its_burn_in_and_to_nobody_else() {
    let hosts = [host("a").gpus(3).quarantined(1), host("b").gpus(3)];
    let limits = burn_in(&hosts[0], 1);
    // Submitted last, behind more jobs than there are GPUs.
    let mut pending: Vec<Pending> = (1..=9).map(|id| job(id, GPU, 1)).collect();
    pending.push(job(10, GPU, 1).trains().rules(1));
    let plan = place_within(&pending, &hosts, &limits, at(0));
    let placed = lines(&plan, &hosts);
    let starts: Vec<&String> = placed.iter().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(starts.len(), 6, "{placed:?}");
    assert_eq!(
        starts
            .iter()
            .filter(|line| line.contains("a.0 gpu1"))
            .count(),
        1
    );
    assert_eq!(starts[5], "10.0 -> a.0 gpu1");
    assert!(
        plan.waiting[0]
            .reason
            .contains("gpu 1 of a (H100) is left out: in quarantine")
    );

    // Parts of a GPU as well, and over quotas of any kind.
    let parts = [host("a").part(PartKind::Share, 20_480).quarantined(0)];
    let broke = ProjectShare {
        gpus: Some(AtOnce {
            used: 1,
            quota: 0,
            frees_at: None,
        }),
        ..ProjectShare::default()
    };
    let limits = Limits {
        projects: vec![broke],
        ..burn_in(&parts[0], 0)
    };
    let pending = [job(1, GPU, 1), job(2, GPU, 1).trains().rules(1)];
    let plan = place_within(&pending, &parts, &limits, at(0));
    assert_eq!(plan.placements.len(), 1);
    assert_eq!(lines(&plan, &parts)[0], "2.0 -> a.0 gpu0");
}

#[test]
fn a_burn_in_waits_for_its_gpu_without_holding_anything_back() {
    let burn = job(1, GPU, 1).trains().rules(1);
    let reason = |hosts: &[Host]| {
        let limits = burn_in(&host("a"), 1);
        place_within(&[burn], hosts, &limits, at(0)).waiting[0]
            .reason
            .clone()
    };
    let ill = host("a").gpus(2).quarantined(1).ill(1);
    assert_eq!(
        reason(&[ill]),
        "tests gpu 1 of a, which is ill: does not answer NVML: reset it"
    );
    assert!(reason(&[host("a").gpus(1)]).contains("which is not there now"));
    assert!(reason(&[host("b").gpus(2)]).contains("whose worker takes no work now"));
    // Somebody is on it still. It has waited for long, and the gang behind it has its reservation all the same.
    let hosts = [host("a")
        .gpus(3)
        .quarantined(1)
        .runs(9, &[gpu(1)])
        .runs(8, &[gpu(0)])];
    let pending = [
        burn.queued(-600),
        job(2, GPU, 2).queued(-300),
        job(3, GPU, 1),
    ];
    let plan = place_within(&pending, &hosts, &burn_in(&hosts[0], 1), at(0));
    assert_eq!(
        lines(&plan, &hosts),
        [
            "1: needs 1 gpu device, 0 of 1 are free: waits for job 9 on a",
            "2: needs 2 gpu devices, 1 of 2 are free: waits for job 8 on a; gpu 1 of a (H100) is left out: in \
             quarantine since yesterday",
            "3: needs 1 gpu device, which is held back for job 2: that one has waited longer",
        ]
    );
}
