//! What holds of any plan: cases drawn by a small generator of our own, the same on every run and machine.

use super::*;
use crate::draw::Draw;

impl Draw {
    fn hosts(&mut self) -> Vec<Host> {
        let mut next_job = 1000;
        (0..self.below(6))
            .map(|index| {
                let mut host = host(&format!("h{index}")).cpus(self.below(5));
                for _ in 0..self.below(5) {
                    let index = u32::try_from(host.gpus.len()).unwrap();
                    host = match self.below(3) {
                        0 => host.gpu("Tesla K80", (3, 7)),
                        _ => host.gpu("H100", (9, 0)),
                    };
                    if self.below(8) == 0 {
                        host = host.ill(index);
                    }
                }
                host = match self.below(4) {
                    0 => host.flavour(KEPLER),
                    1 if self.below(3) == 0 => host.flavour(""),
                    _ => host,
                };
                for device in host.devices.clone() {
                    if self.below(3) == 0 {
                        next_job += 1;
                        host = host.runs(next_job, &[device]);
                    }
                }
                if self.below(6) == 0 {
                    host.lost()
                } else {
                    host
                }
            })
            .collect()
    }

    fn pending(&mut self) -> Vec<Pending> {
        (0..self.below(12))
            .map(|index| {
                let kind = DeviceKind::ALL[self.below(3) as usize];
                let mut job = job(i64::from(index) + 1, kind, 1 + self.below(6))
                    .each(1 + self.below(3))
                    .priority(i32::try_from(self.below(3)).unwrap())
                    .queued(-i64::from(self.below(60)));
                job.shape.needs_trainer = self.below(2) == 0;
                if self.below(8) == 0 {
                    job.not_before = Some(at(i64::from(self.below(3)) - 1));
                }
                job
            })
            .collect()
    }
}

/// What must hold of any plan.
fn assert_sound(pending: &[Pending], hosts: &[Host], plan: &Outcome) {
    let mut taken: BTreeSet<(WorkerId, &Device)> = BTreeSet::new();
    for host in hosts {
        for device in host.running.iter().flat_map(|held| &held.devices) {
            taken.insert((host.worker, device));
        }
    }
    let mut seen = BTreeSet::new();
    for placement in &plan.placements {
        let job = pending.iter().find(|job| job.job == placement.job).unwrap();
        assert!(
            seen.insert(job.job),
            "job {} stands in the plan twice",
            job.job
        );
        assert!(
            job.not_before.is_none_or(|until| until <= at(0)),
            "placed in its back-off"
        );
        let ranks: Vec<u32> = placement.ranks.iter().map(|rank| rank.rank.0).collect();
        let gang: Vec<u32> = (0..job.shape.ranks).collect();
        assert_eq!(ranks, gang, "the gang is whole");

        let (mut kinds, mut flavours) = (BTreeSet::new(), BTreeSet::new());
        let mut local: BTreeMap<WorkerId, u32> = BTreeMap::new();
        for rank in &placement.ranks {
            let host = hosts
                .iter()
                .find(|host| host.worker == rank.worker)
                .unwrap();
            assert!(host.accepting, "placed on a lost host");
            flavours.insert(host.flavour.as_str());
            assert_eq!(rank.devices.len(), job.shape.devices_per_rank as usize);
            let next = local.entry(rank.worker).or_default();
            assert_eq!(rank.local_rank, *next, "local ranks count up on each host");
            *next += 1;
            for device in &rank.devices {
                assert!(host.devices.contains(device), "the host has the device");
                assert!(
                    taken.insert((rank.worker, device)),
                    "{device:?} was given twice"
                );
                kinds.insert(matches!(device, Device::Gpu { .. }));
                let Device::Gpu { index } = device else {
                    continue;
                };
                let gpu = &host.gpus[index];
                assert_eq!(gpu.fault, None, "placed on an ill GPU");
                assert!(
                    !job.shape.needs_trainer || flavour::runs_on(&host.flavour, gpu.capability),
                    "the trainer has no kernels for its GPU"
                );
            }
        }
        assert_eq!(kinds.len(), 1, "kinds are not mixed");
        assert!(
            !job.shape.needs_trainer || (flavours.len() == 1 && !flavours.contains("")),
            "one flavour of trainer: {flavours:?}"
        );
        let is_gpu = kinds.contains(&true);
        assert!(
            job.shape.device != if is_gpu { CPU } else { GPU },
            "the kind asked for"
        );
    }
    for waiting in &plan.waiting {
        assert!(
            seen.insert(waiting.job),
            "job {} stands in the plan twice",
            waiting.job
        );
        assert!(!waiting.reason.is_empty());
    }
    assert_eq!(
        seen.len(),
        pending.len(),
        "every job is placed or has a reason"
    );
}

#[test]
fn any_plan_is_sound_and_independent_of_the_order_of_its_input() {
    let mut draw = Draw(1);
    let (mut placed, mut left) = (0, 0);
    for _ in 0..3_000 {
        let (mut pending, mut hosts) = (draw.pending(), draw.hosts());
        let plan = place(&pending, &hosts, at(0));
        assert_sound(&pending, &hosts, &plan);
        placed += plan.placements.len();
        left += plan.waiting.len();
        draw.shuffle(&mut pending);
        draw.shuffle(&mut hosts);
        assert_eq!(place(&pending, &hosts, at(0)), plan);
    }
    // The generator reaches both outcomes often, or the test above proves little.
    assert!(
        placed > 2_000 && left > 2_000,
        "{placed} placed, {left} left"
    );
}

#[test]
fn no_job_that_fits_is_left_while_nothing_is_held_back() {
    let mut draw = Draw(2);
    for _ in 0..3_000 {
        let hosts = draw.hosts();
        let mut pending = draw.pending();
        pending.iter_mut().for_each(|job| job.queued_at = at(0));
        let plan = place(&pending, &hosts, at(0));
        // What is left does not fit into what the plan leaves free, not even alone.
        let mut after = hosts.clone();
        for placement in &plan.placements {
            for rank in &placement.ranks {
                let host = after
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
        for waiting in &plan.waiting {
            let job = pending.iter().find(|job| job.job == waiting.job).unwrap();
            let alone = place(std::slice::from_ref(job), &after, at(0));
            assert_eq!(
                alone.placements,
                [],
                "job {} would fit: {}",
                job.job,
                waiting.reason
            );
        }
    }
}

/// Plays rounds of one second on a cluster that small jobs keep full: each runs for 1 to 10 s, and
/// more of them come than the cluster can ever take. Gives the second at which a gang of `ranks`,
/// submitted at second 0 behind the first small jobs, starts.
fn second_of_start(mut hosts: Vec<Host>, ranks: u32, seed: u64) -> Option<i64> {
    const GANG: JobId = JobId(100);
    let mut draw = Draw(seed);
    let mut ends: BTreeMap<JobId, i64> = BTreeMap::new();
    let mut pending: Vec<Pending> = (0..20).map(|id| job(id, GPU, 1)).collect();
    pending.push(job(GANG.0, GPU, ranks));
    for second in 0..300 {
        for host in &mut hosts {
            host.running
                .retain(|held| ends.get(&held.job).is_none_or(|end| *end > second));
        }
        let first_new = 1_000 + second * 6;
        pending.extend((first_new..first_new + 6).map(|id| job(id, GPU, 1).queued(second)));
        for placement in place(&pending, &hosts, at(second)).placements {
            if placement.job == GANG {
                return Some(second);
            }
            pending.retain(|job| job.job != placement.job);
            ends.insert(placement.job, second + 1 + i64::from(draw.below(10)));
            for rank in placement.ranks {
                let host = hosts
                    .iter_mut()
                    .find(|host| host.worker == rank.worker)
                    .unwrap();
                host.running.push(Held {
                    job: placement.job,
                    devices: rank.devices,
                    ends_at: None,
                    is_measured: false,
                });
            }
        }
    }
    None
}

#[test]
fn a_large_gang_is_not_starved_by_a_stream_of_small_jobs() {
    let hosts = || vec![host("a").gpus(2), host("b").gpus(3), host("c").gpus(2)];
    // Small jobs that run when the reservation begins end within 10 s.
    let latest = i64::try_from(RESERVE_AFTER.as_secs()).unwrap() + 10;
    let mut starved_without = false;
    for seed in 0..40 {
        for ranks in 2..=7 {
            let second = second_of_start(hosts(), ranks, seed);
            assert!(
                second.is_some_and(|s| s <= latest),
                "{ranks} ranks, seed {seed}: {second:?}"
            );
            starved_without |= second >= Some(latest - 10);
        }
    }
    assert!(
        starved_without,
        "some gang needed its reservation, or this test proves nothing"
    );
}

#[test]
fn each_of_several_large_gangs_gets_its_turn() {
    let mut hosts = vec![host("a").gpus(4)];
    let mut pending: Vec<Pending> = (1..=3).map(|id| job(id, GPU, 4)).collect();
    let mut started = Vec::new();
    for second in 0..200 {
        // A gang runs for 5 rounds, a small job for 2.
        if second % 5 == 0 {
            hosts[0].running.retain(|held| held.job.0 >= 1_000);
        }
        if second % 2 == 0 {
            hosts[0].running.retain(|held| held.job.0 < 1_000);
        }
        pending.push(job(1_000 + second, GPU, 1).queued(second));
        for placement in place(&pending, &hosts, at(second)).placements {
            pending.retain(|job| job.job != placement.job);
            if placement.job.0 < 1_000 {
                started.push(placement.job.0);
            }
            for rank in placement.ranks {
                hosts[0].running.push(Held {
                    job: placement.job,
                    devices: rank.devices,
                    ends_at: None,
                    is_measured: false,
                });
            }
        }
    }
    assert_eq!(started, [1, 2, 3]);
}

#[test]
fn a_reservation_waits_for_its_time() {
    // One second before RESERVE_AFTER small jobs still pass the gang, at it they do not.
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)])];
    let pending = [job(1, GPU, 2), job(2, GPU, 1)];
    let reserve_after = TimeDelta::from_std(RESERVE_AFTER).unwrap();
    let before = place(&pending, &hosts, at(-1) + reserve_after);
    assert_eq!(before.placements.len(), 1);
    let after = place(&pending, &hosts, at(0) + reserve_after);
    assert_eq!(after.placements, []);
}
