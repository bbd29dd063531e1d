//! Examples that read as sentences, and properties over generated clusters.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use marquee_domain::flavour;
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn host(name: &str) -> Host {
    let id = name
        .bytes()
        .fold(0_u128, |id, byte| (id << 8) | u128::from(byte));
    let worker = WorkerId(Uuid::from_u128(id));
    let devices = BTreeSet::new();
    Host {
        worker,
        name: name.into(),
        accepting: true,
        devices,
        gpus: BTreeMap::new(),
        flavour: "libtorch-2.11.0".into(),
        running: Vec::new(),
    }
}

impl Host {
    fn cpus(mut self, count: u32) -> Self {
        self.devices
            .extend((0..count).map(|index| Device::Cpu { index }));
        self
    }

    fn gpus(self, count: u32) -> Self {
        (0..count).fold(self, |host, _| host.gpu("H100", (9, 0)))
    }

    fn gpu(mut self, name: &str, capability: Capability) -> Self {
        let index = u32::try_from(self.gpus.len()).unwrap();
        let gpu = Gpu {
            name: name.into(),
            capability,
            fault: None,
        };
        self.gpus.insert(index, gpu);
        self.devices.insert(Device::Gpu { index });
        self
    }

    fn k80(self) -> Self {
        self.gpu("Tesla K80", (3, 7)).gpu("Tesla K80", (3, 7))
    }

    fn ill(mut self, index: u32) -> Self {
        let fault = "does not answer NVML: reset it";
        self.gpus.get_mut(&index).unwrap().fault = Some(fault.into());
        self
    }

    fn flavour(mut self, flavour: &str) -> Self {
        self.flavour = flavour.into();
        self
    }

    fn runs(mut self, job: i64, devices: &[Device]) -> Self {
        self.running.push(Held {
            job: JobId(job),
            devices: devices.to_vec(),
        });
        self
    }

    fn lost(mut self) -> Self {
        self.accepting = false;
        self
    }
}

fn job(id: i64, device: DeviceKind, ranks: u32) -> Pending {
    Pending {
        job: JobId(id),
        name: format!("job-{id}").parse().unwrap(),
        resources: Resources {
            ranks,
            min_ranks: None,
            device,
            devices_per_rank: 1,
        },
        needs_trainer: false,
        priority: 0,
        queued_at: at(0),
        not_before: None,
    }
}

impl Pending {
    fn each(mut self, devices: u32) -> Self {
        self.resources.devices_per_rank = devices;
        self
    }

    fn trains(mut self) -> Self {
        self.needs_trainer = true;
        self
    }

    fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    fn queued(mut self, seconds: i64) -> Self {
        self.queued_at = at(seconds);
        self
    }
}

const GPU: DeviceKind = DeviceKind::Gpu;
const CPU: DeviceKind = DeviceKind::Cpu;
const ANY: DeviceKind = DeviceKind::Any;

fn gpu(index: u32) -> Device {
    Device::Gpu { index }
}

fn cpu(index: u32) -> Device {
    Device::Cpu { index }
}

/// The plan as lines: one for each rank, one for each job that waits.
fn lines(plan: &Plan, hosts: &[Host]) -> Vec<String> {
    let mut lines = Vec::new();
    for Placement { job, ranks } in &plan.placements {
        for PlacedRank {
            rank,
            worker,
            local_rank,
            devices,
        } in ranks
        {
            let host = hosts.iter().find(|host| host.worker == *worker).unwrap();
            let devices: Vec<String> = devices
                .iter()
                .map(|device| match device {
                    Device::Cpu { index } => format!("cpu{index}"),
                    Device::Gpu { index } => format!("gpu{index}"),
                })
                .collect();
            let (name, devices) = (&host.name, devices.join("+"));
            lines.push(format!("{job}.{rank} -> {name}.{local_rank} {devices}"));
        }
    }
    for Waiting { job, reason } in &plan.waiting {
        lines.push(format!("{job}: {reason}"));
    }
    lines
}

#[track_caller]
fn check(pending: &[Pending], hosts: &[Host], expected: &[&str]) {
    assert_eq!(lines(&place(pending, hosts, at(1)), hosts), expected);
}

#[test]
fn a_gang_prefers_the_one_host_that_it_fills_best() {
    let hosts = [host("a").gpus(4), host("b").gpus(2), host("c").gpus(3)];
    check(
        &[job(1, GPU, 2)],
        &hosts,
        &["1.0 -> b.0 gpu0", "1.1 -> b.1 gpu1"],
    );
}

#[test]
fn a_gang_that_no_host_holds_takes_the_fewest_hosts() {
    let hosts = [
        host("a").cpus(1),
        host("b").cpus(2),
        host("c").cpus(1),
        host("d").cpus(2),
    ];
    check(
        &[job(1, CPU, 5)],
        &hosts,
        &[
            "1.0 -> b.0 cpu0",
            "1.1 -> b.1 cpu1",
            "1.2 -> d.0 cpu0",
            "1.3 -> d.1 cpu1",
            "1.4 -> a.0 cpu0",
        ],
    );
}

#[test]
fn a_rank_has_all_its_devices_on_one_host() {
    let hosts = [host("a").gpus(3), host("b").gpus(3)];
    check(
        &[job(1, GPU, 2).each(2)],
        &hosts,
        &["1.0 -> a.0 gpu0+gpu1", "1.1 -> b.0 gpu0+gpu1"],
    );
    check(
        &[job(1, GPU, 3).each(2)],
        &hosts,
        &[
            "1: needs 6 gpu devices, 2 on one host for each rank; the workers that are online have 6, but not so together",
        ],
    );
}

#[test]
fn any_takes_gpus_for_the_whole_gang_or_cpus_for_the_whole_gang() {
    let hosts = [host("a").gpus(1).cpus(2), host("b").cpus(1)];
    check(&[job(1, ANY, 1)], &hosts, &["1.0 -> a.0 gpu0"]);
    check(
        &[job(1, ANY, 2)],
        &hosts,
        &["1.0 -> a.0 cpu0", "1.1 -> a.1 cpu1"],
    );
}

#[test]
fn priority_goes_before_submission_order() {
    let hosts = [host("a").cpus(1)];
    check(
        &[job(1, CPU, 1), job(2, CPU, 1).priority(5)],
        &hosts,
        &[
            "2.0 -> a.0 cpu0",
            "1: needs 1 cpu device, 0 of 1 are free: waits for job 2 on a",
        ],
    );
}

#[test]
fn a_job_that_fits_does_not_wait_behind_one_that_does_not() {
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)]), host("b").gpus(1)];
    check(
        &[job(1, GPU, 3), job(2, GPU, 1)],
        &hosts,
        &[
            "2.0 -> a.0 gpu1",
            "1: needs 3 gpu devices, 2 of 3 are free: waits for job 9 on a",
        ],
    );
}

#[test]
fn devices_are_held_back_for_a_gang_that_has_waited_for_long() {
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)])];
    let pending = [
        job(1, GPU, 2),
        job(2, GPU, 1).queued(30),
        job(3, GPU, 1).priority(1),
    ];
    let plan = place(&pending[..2], &hosts, at(30));
    assert_eq!(
        lines(&plan, &hosts),
        [
            "1: needs 2 gpu devices, 1 of 2 are free: waits for job 9 on a",
            "2: needs 1 gpu device, which are held back for job 1: that one has waited longer",
        ]
    );
    // A job of higher priority comes earlier in the order.
    let plan = place(&pending, &hosts, at(30));
    assert_eq!(plan.placements[0].job, JobId(3));
}

#[test]
fn a_back_off_is_waited_out() {
    let mut waiting = job(1, CPU, 1);
    waiting.not_before = Some(at(5));
    let hosts = [host("a").cpus(1)];
    let plan = place(std::slice::from_ref(&waiting), &hosts, at(4));
    assert_eq!(
        plan.waiting[0].reason,
        "the next attempt starts at 14:13:25 UTC, after a back-off"
    );
    assert_eq!(place(&[waiting], &hosts, at(5)).placements.len(), 1);
}

#[test]
fn what_the_cluster_cannot_give_is_named() {
    let cases: &[(&[Host], Pending, &str)] = &[
        (
            &[],
            job(1, CPU, 1),
            "1: no worker is online; start one with \"marquee-worker\"",
        ),
        (
            &[host("a").cpus(1).lost()],
            job(1, CPU, 1),
            "1: no worker is online; start one with \"marquee-worker\"",
        ),
        (
            &[host("a").cpus(4)],
            job(1, GPU, 1),
            "1: no worker that is online has a GPU; bring one with a GPU, or set device = \"any\" in the job's resources",
        ),
        (
            &[host("a").gpus(2), host("b").gpus(1)],
            job(1, GPU, 1).each(4),
            "1: each rank needs 4 gpu devices on one host, and the largest that is online, a, has 2",
        ),
        (
            &[host("a").gpus(2), host("b").gpus(1)],
            job(1, GPU, 4),
            "1: needs 4 gpu devices, the workers that are online have 3; bring more workers or ask for fewer ranks",
        ),
        (
            &[
                host("a").gpus(2).runs(8, &[gpu(0)]),
                host("b").gpus(2).runs(9, &[gpu(1)]),
            ],
            job(1, GPU, 1).each(2),
            "1: needs 2 gpu devices, 2 of 4 are free but not 2 together on one host for each rank: waits for job 8 on a, job 9 on b",
        ),
        (
            &[host("a")
                .cpus(4)
                .runs(4, &[cpu(0)])
                .runs(5, &[cpu(1)])
                .runs(6, &[cpu(2)])
                .runs(7, &[cpu(3)])],
            job(1, CPU, 1),
            "1: needs 1 cpu device, 0 of 4 are free: waits for job 4 on a, job 5 on a, job 6 on a and 1 more",
        ),
    ];
    for (hosts, pending, expected) in cases {
        check(std::slice::from_ref(pending), hosts, &[expected]);
    }
}

const KEPLER: &str = "libtorch-2.0.1-kepler";

#[test]
fn a_train_job_goes_where_its_trainer_has_kernels_for_the_gpu() {
    let hosts = [
        host("a").k80(),
        host("b").k80().flavour(KEPLER),
        host("c").gpus(1),
    ];
    check(
        &[job(1, GPU, 1).trains(), job(2, GPU, 2).trains()],
        &hosts,
        &["1.0 -> c.0 gpu0", "2.0 -> b.0 gpu0", "2.1 -> b.1 gpu1"],
    );
    // A program of the user's own brings its own kernels.
    check(
        &[job(1, GPU, 2)],
        &hosts,
        &["1.0 -> a.0 gpu0", "1.1 -> a.1 gpu1"],
    );
}

#[test]
fn on_a_host_of_mixed_gpus_the_trainers_gpus_are_taken() {
    let mixed = [host("a").k80().gpu("H100", (9, 0)).gpu("H100", (9, 0))];
    check(
        &[job(1, GPU, 2).trains()],
        &mixed,
        &["1.0 -> a.0 gpu2", "1.1 -> a.1 gpu3"],
    );
}

#[test]
fn a_refusal_names_host_and_cure() {
    let cases: &[(&[Host], Pending, &str)] = &[
        (
            &[host("gpu-03").k80()],
            job(1, GPU, 1).trains(),
            "1: gpu-03 has a Tesla K80 (compute capability 3.7), but its trainer is libtorch 2.11.0, which needs 7.5: install the kepler flavour (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(1).flavour("")],
            job(1, GPU, 1).trains(),
            "1: a has no marquee-trainer that starts: install it with its libtorch (docs/deploy.md)",
        ),
        (
            &[host("a").cpus(2).flavour("")],
            job(1, ANY, 1).trains(),
            "1: a has no marquee-trainer that starts: install it with its libtorch (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(2), host("b").k80()],
            job(1, GPU, 3).trains(),
            "1: needs 3 gpu devices, the workers that are online have 2; bring more workers or ask for fewer ranks; b has a Tesla K80 (compute capability 3.7), but its trainer is libtorch 2.11.0, which needs 7.5: install the kepler flavour (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(2), host("b").k80().flavour(KEPLER)],
            job(1, GPU, 4).trains(),
            "1: needs 4 gpu devices with one flavour of libtorch, and the workers that are online have 2 with libtorch-2.11.0 and 2 with libtorch-2.0.1-kepler: ask for fewer ranks, or install one flavour on all (docs/deploy.md)",
        ),
        (
            &[host("a").gpus(1).runs(9, &[gpu(0)]), host("b").cpus(1)],
            job(1, GPU, 1).trains(),
            "1: needs 1 gpu device, 0 of 1 are free: waits for job 9 on a",
        ),
        (
            &[
                host("a").gpus(2).runs(9, &[gpu(0)]),
                host("b").k80().flavour(KEPLER).runs(8, &[gpu(0)]),
            ],
            job(1, GPU, 2).trains(),
            "1: needs 2 gpu devices, 2 of 4 are free but not of one flavour of libtorch: waits for job 8 on b, job 9 on a",
        ),
    ];
    for (hosts, pending, expected) in cases {
        check(std::slice::from_ref(pending), hosts, &[expected]);
    }
}

#[test]
fn an_ill_gpu_is_left_out_and_named_until_it_is_well() {
    let hosts = [host("a").gpus(2).ill(0)];
    check(&[job(1, GPU, 1)], &hosts, &["1.0 -> a.0 gpu1"]);
    let fault = "gpu 0 of a (H100) is left out: does not answer NVML: reset it";
    check(
        &[job(1, GPU, 2)],
        &hosts,
        &[&format!(
            "1: needs 2 gpu devices, the workers that are online have 1; bring more workers or ask for fewer ranks; {fault}"
        )],
    );
    let all_ill = [host("a").gpus(1).ill(0)];
    check(&[job(1, GPU, 1)], &all_ill, &[&format!("1: {fault}")]);
    let busy = [host("a").gpus(2).ill(0).runs(9, &[gpu(1)])];
    check(
        &[job(1, GPU, 1)],
        &busy,
        &[&format!(
            "1: needs 1 gpu device, 0 of 1 are free: waits for job 9 on a; {fault}"
        )],
    );
    let well = [host("a").gpus(2)];
    assert_eq!(place(&[job(1, GPU, 2)], &well, at(1)).placements.len(), 1);
}

#[test]
fn a_reservation_holds_back_only_what_its_gang_can_use() {
    // The gang waits for both H100; the K80s beside them are anybody's, the free H100 is not.
    let hosts = [host("a")
        .gpu("H100", (9, 0))
        .gpu("H100", (9, 0))
        .k80()
        .runs(9, &[gpu(1)])];
    let pending = [
        job(1, GPU, 2).trains(),
        job(2, GPU, 1).queued(1),
        job(3, GPU, 1).queued(1),
        job(4, GPU, 1).queued(1),
    ];
    let plan = place(&pending, &hosts, at(30));
    assert_eq!(
        lines(&plan, &hosts),
        [
            "2.0 -> a.0 gpu2",
            "3.0 -> a.0 gpu3",
            "1: needs 2 gpu devices, 1 of 2 are free: waits for job 9 on a",
            "4: needs 1 gpu device, which are held back for job 1: that one has waited longer",
        ]
    );
}

// Properties. A small generator of our own: the cases are the same on every run and machine.

/// SplitMix64 (Steele, Lea, Flood 2014): enough for drawing test cases.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end)).unwrap()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(u32::try_from(end + 1).unwrap()) as usize);
        }
    }

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
                job.needs_trainer = self.below(2) == 0;
                if self.below(8) == 0 {
                    job.not_before = Some(at(i64::from(self.below(3)) - 1));
                }
                job
            })
            .collect()
    }
}

/// What must hold of any plan.
fn assert_sound(pending: &[Pending], hosts: &[Host], plan: &Plan) {
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
        let gang: Vec<u32> = (0..job.resources.ranks).collect();
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
            assert_eq!(rank.devices.len(), job.resources.devices_per_rank as usize);
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
                    !job.needs_trainer || flavour::runs_on(&host.flavour, gpu.capability),
                    "the trainer has no kernels for its GPU"
                );
            }
        }
        assert_eq!(kinds.len(), 1, "kinds are not mixed");
        assert!(
            !job.needs_trainer || (flavours.len() == 1 && !flavours.contains("")),
            "one flavour of trainer: {flavours:?}"
        );
        let is_gpu = kinds.contains(&true);
        assert!(
            job.resources.device != if is_gpu { CPU } else { GPU },
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
