//! Gangs that lost ranks take new ones: examples, and what must hold on drawn clusters.

use super::*;
use crate::draw::Draw;

fn short(job_id: i64, ranks: u32) -> Short {
    Short {
        job: JobId(job_id),
        shape: job(job_id, GPU, ranks).shape,
        priority: 0,
        project: ProjectId(0),
        unproven: BTreeSet::new(),
    }
}

/// Two of the three ranks of job 9 are left.
fn hosts() -> [Host; 2] {
    [
        host("a").gpus(2).runs(9, &[gpu(0)]).runs(9, &[gpu(1)]),
        host("b").gpus(1),
    ]
}

fn limits() -> Limits {
    Limits {
        short: vec![short(9, 3)],
        ..Limits::default()
    }
}

fn grown(pending: &[Pending], hosts: &[Host], limits: &Limits) -> Vec<i64> {
    let queue: Queue = pending.iter().copied().collect();
    let plan = plan(&queue, hosts, limits, at(0));
    assert_eq!(plan.claims.len(), plan.growths.len());
    plan.growths.iter().map(|job| job.0).collect()
}

#[test]
fn a_gang_grows_when_all_of_it_fits_on_what_is_free_and_its_own() {
    assert_eq!(grown(&[], &hosts(), &limits()), [9]);
    // One more is missing, or held by somebody.
    let full = [hosts()[0].clone(), host("b").gpus(1).runs(5, &[gpu(0)])];
    assert!(grown(&[], &full, &limits()).is_empty());
    let wide = Limits {
        short: vec![short(9, 4)],
        ..Limits::default()
    };
    assert!(grown(&[], &hosts(), &wide).is_empty());
    // Something of a lost rank may be left on a host that takes work; one that is gone does not matter.
    let unproven = |name: &str| Limits {
        short: vec![Short {
            unproven: BTreeSet::from([host(name).worker]),
            ..short(9, 3)
        }],
        ..Limits::default()
    };
    assert!(grown(&[], &hosts(), &unproven("b")).is_empty());
    assert_eq!(grown(&[], &hosts(), &unproven("c")), [9]);
}

#[test]
fn nobody_who_goes_before_it_or_is_its_equal_loses_a_device_by_it() {
    // Job 1 starts on what is free; job 2 waits for two GPUs of one host, and may have any.
    assert!(grown(&[job(1, GPU, 1)], &hosts(), &limits()).is_empty());
    let waits = job(2, GPU, 1).each(2);
    assert!(grown(&[waits], &hosts(), &limits()).is_empty());
    assert!(grown(&[waits.priority(1)], &hosts(), &limits()).is_empty());
    assert_eq!(grown(&[waits.priority(-1)], &hosts(), &limits()), [9]);
    // It waits for something else.
    assert_eq!(grown(&[job(2, CPU, 1)], &hosts(), &limits()), [9]);
    let two = Limits {
        short: vec![
            short(9, 3),
            Short {
                priority: 1,
                ..short(7, 2)
            },
        ],
        ..Limits::default()
    };
    let both = [
        hosts()[0].clone(),
        host("b").gpus(1),
        host("c").gpus(1).runs(7, &[gpu(0)]),
    ];
    assert_eq!(
        grown(&[], &both, &two),
        [7],
        "one at a time, the higher first"
    );
}

#[test]
fn a_quota_keeps_a_gang_as_small_as_it_is() {
    let quota = |quota| Limits {
        projects: vec![ProjectShare {
            gpus: Some(AtOnce {
                used: 2,
                quota,
                frees_at: None,
            }),
            ..ProjectShare::default()
        }],
        ..limits()
    };
    assert!(grown(&[], &hosts(), &quota(2)).is_empty());
    assert_eq!(grown(&[], &hosts(), &quota(3)), [9]);
}

/// R: a gang that is asked to grow starts whole as soon as it has left, whatever came meanwhile, and nobody of its
/// priority or above waits for anything that is free where it grows.
#[test]
fn r_whoever_stops_to_grow_starts_whole() {
    let mut grew = 0;
    for seed in 0..800 {
        let mut case = Draw(seed).case();
        // Devices alone are looked at here: quotas have a test of their own.
        case.limits.projects.clear();
        let accepting = case.hosts.iter().filter(|host| host.accepting);
        let running = accepting.flat_map(|host| &host.running);
        case.limits.short = (0..)
            .zip(running)
            .map(|(n, held)| {
                let kind = match held.devices[0] {
                    Device::Gpu { .. } => GPU,
                    Device::Cpu { .. } => CPU,
                };
                Short {
                    priority: n % 3,
                    shape: job(held.job.0, kind, 2 + u32::from(n % 2 == 0)).shape,
                    ..short(held.job.0, 2)
                }
            })
            .collect();
        let first = case.plan();
        let Some(grows) = first.growths.first().copied() else {
            continue;
        };
        grew += 1;
        assert!(
            first.growths.len() == 1 && first.preemptions.is_empty(),
            "seed {seed}"
        );
        let gang = case.limits.short.iter().find(|short| short.job == grows);
        let gang = gang.unwrap().clone();
        let claim = first.claims[&grows].clone();
        for (line, obstacle) in &first.waiting {
            let waits = !matches!(obstacle, Obstacle::Turn | Obstacle::Impossible);
            if line.priority < gang.priority || !waits {
                continue;
            }
            // A job like it, but small, would start there.
            let mut small = *case.pending.iter().find(|job| job.line() == *line).unwrap();
            small.shape.ranks = 1;
            small.shape.devices_per_rank = 1;
            (small.shape.limit_s, small.group) = (Some(1), Group::None);
            let held = |host: &Host| {
                let its = host.running.iter().filter(|held| held.job == grows);
                its.map(|held| held.devices.len()).sum::<usize>()
            };
            let mut alone = case.clone();
            alone.hosts = case.after(&first);
            alone.hosts.retain(|host| {
                let kept = claim.devices.get(&host.worker);
                kept.is_some_and(|kept| *kept as usize > held(host))
            });
            alone.hosts.iter_mut().for_each(|host| host.window = None);
            alone.limits.short.clear();
            alone.pending = vec![small];
            let placed = alone.plan().placements;
            let took = placed.iter().flat_map(|placement| &placement.ranks);
            let kind = |device: &Device| matches!(device, Device::Gpu { .. });
            let is_gpu = gang.shape.device == GPU;
            assert!(
                took.flat_map(|rank| &rank.devices)
                    .all(|device| kind(device) != is_gpu),
                "seed {seed}: {line:?} waits for what job {grows} takes"
            );
        }

        // While it leaves a crowd comes.
        let crowd =
            (500..530).map(|id| job(id, if id % 2 == 0 { GPU } else { CPU }, 1).priority(9));
        let mut second = case.clone();
        second.hosts = case.after(&first);
        let started: BTreeSet<JobId> = first.placements.iter().map(|of| of.job).collect();
        second.pending.retain(|job| !started.contains(&job.job));
        second.pending.extend(crowd);
        second.limits.short.clear();
        second.limits.preemptible.clear();
        second.limits.claims = first.claims.clone();
        second.limits.growing = BTreeMap::from([(grows, gang.shape)]);
        let meanwhile = second.plan();
        assert_eq!(meanwhile.claims, first.claims, "seed {seed}");

        let mut third = second.clone();
        third.hosts = second.after(&meanwhile);
        for host in &mut third.hosts {
            host.running.retain(|held| held.job != grows);
        }
        let started: BTreeSet<JobId> = meanwhile.placements.iter().map(|of| of.job).collect();
        third.pending.retain(|job| !started.contains(&job.job));
        let mut back = job(grows.0, gang.shape.device, gang.shape.ranks).priority(gang.priority);
        back.shape = gang.shape;
        third.pending.push(back);
        third.limits.growing.clear();
        third.limits.claims = meanwhile.claims.clone();
        let last = third.plan();
        let placed = last.placements.iter().find(|of| of.job == grows);
        let ranks = placed.map_or(0, |placed| placed.ranks.len());
        assert_eq!(
            ranks, gang.shape.ranks as usize,
            "seed {seed}: {claim:?}\n{third:#?}"
        );
        assert!(last.claims.is_empty(), "seed {seed}");
    }
    assert!(grew > 50, "the draws are worth something: {grew}");
}
