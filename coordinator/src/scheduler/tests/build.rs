//! Hosts, jobs and plans as sentences: `host("a").gpus(2)`, `job(1, GPU, 2).each(2)`.

use uuid::Uuid;

use super::*;

pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

pub(super) fn host(name: &str) -> Host {
    let id = name
        .bytes()
        .fold(0_u128, |id, byte| (id << 8) | u128::from(byte));
    let worker = WorkerId(Uuid::from_u128(id));
    let devices = BTreeSet::new();
    Host {
        worker,
        name: name.into(),
        accepting: true,
        closed: None,
        devices,
        gpus: BTreeMap::new(),
        flavour: "libtorch-2.11.0".into(),
        labels: BTreeSet::new(),
        window: None,
        running: Vec::new(),
    }
}

impl Host {
    pub(super) fn cpus(mut self, count: u32) -> Self {
        self.devices
            .extend((0..count).map(|index| Device::Cpu { index }));
        self
    }

    pub(super) fn gpus(self, count: u32) -> Self {
        (0..count).fold(self, |host, _| host.gpu("H100", (9, 0)))
    }

    pub(super) fn gpu(mut self, name: &str, capability: Capability) -> Self {
        let index = u32::try_from(self.gpus.len()).unwrap();
        let gpu = Gpu {
            name: name.into(),
            capability,
            memory_mib: 81_920,
            part: None,
            uuid: format!("GPU-{index}"),
            fault: None,
            quarantine: None,
        };
        self.gpus.insert(index, gpu);
        self.devices.insert(Device::Gpu { index });
        self
    }

    pub(super) fn k80(self) -> Self {
        self.gpu("Tesla K80", (3, 7)).gpu("Tesla K80", (3, 7))
    }

    /// Its newest GPU is a part of one, of so much memory.
    pub(super) fn part(mut self, kind: PartKind, memory_mib: u32) -> Self {
        self = self.gpus(1);
        let gpu = self.gpus.values_mut().last().unwrap();
        (gpu.part, gpu.memory_mib) = (Some(kind), memory_mib);
        self
    }

    pub(super) fn ill(mut self, index: u32) -> Self {
        let fault = "does not answer NVML: reset it";
        self.gpus.get_mut(&index).unwrap().fault = Some(fault.into());
        self
    }

    pub(super) fn quarantined(mut self, index: u32) -> Self {
        let gpu = self.gpus.get_mut(&index).unwrap();
        gpu.quarantine = Some("in quarantine since yesterday".into());
        self
    }

    pub(super) fn flavour(mut self, flavour: &str) -> Self {
        self.flavour = flavour.into();
        self
    }

    pub(super) fn runs(mut self, job: i64, devices: &[Device]) -> Self {
        self.running.push(Held {
            job: JobId(job),
            devices: devices.to_vec(),
            ends_at: None,
            is_measured: false,
        });
        self
    }

    /// What runs here last ends at this second.
    pub(super) fn until(mut self, second: i64) -> Self {
        self.running.last_mut().unwrap().ends_at = Some(at(second));
        self
    }

    /// That is only what earlier runs took.
    pub(super) fn measured(mut self) -> Self {
        self.running.last_mut().unwrap().is_measured = true;
        self
    }

    pub(super) fn label(mut self, label: &str) -> Self {
        self.labels.insert(label.into());
        self
    }

    /// It is to be empty between these seconds.
    pub(super) fn empty(mut self, from: i64, until: i64) -> Self {
        let (from, until) = (at(from), at(until));
        let words = format!("has maintenance window 1 from {}", from.format("%H:%M"));
        self.window = Some(Window { from, until, words });
        self
    }

    pub(super) fn closed(mut self, why: &str) -> Self {
        self.accepting = false;
        self.closed = Some(why.into());
        self
    }

    pub(super) fn lost(mut self) -> Self {
        self.accepting = false;
        self
    }
}

pub(super) fn job(id: i64, device: DeviceKind, ranks: u32) -> Pending {
    Pending {
        job: JobId(id),
        array: None,
        shape: Shape {
            ranks,
            device,
            devices_per_rank: 1,
            needs_trainer: false,
            gpu_memory_mib: None,
            rules: RulesId::NONE,
            limit_s: None,
            expected_s: None,
        },
        priority: 0,
        project: ProjectId(0),
        group: Group::None,
        queued_at: at(0),
        not_before: None,
    }
}

impl Pending {
    pub(super) fn each(mut self, devices: u32) -> Self {
        self.shape.devices_per_rank = devices;
        self
    }

    pub(super) fn trains(mut self) -> Self {
        self.shape.needs_trainer = true;
        self
    }

    pub(super) fn of(mut self, project: u32) -> Self {
        self.project = ProjectId(project);
        self
    }

    pub(super) fn group(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    pub(super) fn rules(mut self, rules: u32) -> Self {
        self.shape.rules = RulesId(rules);
        self
    }

    pub(super) fn limit(mut self, seconds: u32) -> Self {
        self.shape.limit_s = Some(seconds);
        self
    }

    pub(super) fn expected(mut self, seconds: u32) -> Self {
        self.shape.expected_s = Some(seconds);
        self
    }

    pub(super) fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    pub(super) fn queued(mut self, seconds: i64) -> Self {
        self.queued_at = at(seconds);
        self
    }
}

/// A plan, and for each job that was left what its owner would read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) placements: Vec<Placement>,
    pub(super) waiting: Vec<Waiting>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) job: JobId,
    pub(super) reason: String,
}

pub(super) fn place(pending: &[Pending], hosts: &[Host], now: DateTime<Utc>) -> Outcome {
    place_within(pending, hosts, &Limits::default(), now)
}

pub(super) fn place_within(
    pending: &[Pending],
    hosts: &[Host],
    limits: &Limits,
    now: DateTime<Utc>,
) -> Outcome {
    let mut queue: Queue = pending.iter().copied().collect();
    queue.wake(now);
    let plan = plan(&queue, hosts, limits, now);
    let shape_of = |job: JobId| Some(queue.get(job)?.shape);
    let shapes: BTreeMap<JobId, Shape> = plan
        .claims
        .keys()
        .filter_map(|job| Some((*job, shape_of(*job)?)))
        .collect();
    let mut after = hosts.to_vec();
    for placement in &plan.placements {
        queue.remove(placement.job);
        for rank in &placement.ranks {
            let host = after.iter_mut().find(|host| host.worker == rank.worker);
            host.unwrap().running.push(Held {
                job: placement.job,
                devices: rank.devices.clone(),
                ends_at: None,
                is_measured: false,
            });
        }
    }
    let after_limits = Limits {
        claims: plan.claims.clone(),
        ..limits.clone()
    };
    let shape_of = |job: JobId| shapes.get(&job).copied();
    let explainer = Explainer::new(&after, &after_limits, &plan.reservations, shape_of, now);
    let mut left: Vec<&Pending> = queue.iter().collect();
    left.sort_by_key(|job| (Reverse(job.priority), job.job));
    let waiting = left.into_iter().map(|pending| Waiting {
        job: pending.job,
        reason: match pending.not_before {
            Some(until) => back_off(until),
            None => {
                let obstacle = plan
                    .waiting
                    .get(&pending.line())
                    .expect("its class is known too");
                match obstacle {
                    Obstacle::Turn | Obstacle::Quota { .. } => obstacle.words(),
                    Obstacle::NoWorker
                    | Obstacle::Impossible
                    | Obstacle::HeldBack { .. }
                    | Obstacle::Busy { .. }
                    | Obstacle::Window { .. } => explainer.explain(pending.line()).unwrap(),
                }
            }
        },
    });
    Outcome {
        waiting: waiting.collect(),
        placements: plan.placements,
    }
}

pub(super) const GPU: DeviceKind = DeviceKind::Gpu;
pub(super) const CPU: DeviceKind = DeviceKind::Cpu;
pub(super) const ANY: DeviceKind = DeviceKind::Any;

pub(super) fn gpu(index: u32) -> Device {
    Device::Gpu { index }
}

pub(super) fn cpu(index: u32) -> Device {
    Device::Cpu { index }
}

/// The plan as lines: one for each rank, one for each job that waits.
pub(super) fn lines(plan: &Outcome, hosts: &[Host]) -> Vec<String> {
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
pub(super) fn check(pending: &[Pending], hosts: &[Host], expected: &[&str]) {
    assert_eq!(lines(&place(pending, hosts, at(1)), hosts), expected);
}

pub(super) const KEPLER: &str = "libtorch-2.0.1-kepler";
