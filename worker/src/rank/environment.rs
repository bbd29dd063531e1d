//! The environment and the spec that a child gets: the child contract of `marquee_domain::child`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use marquee_domain::Rendezvous;
use marquee_domain::child::{ChildSpec, env};
use marquee_domain::resources::{Device, Inventory};
use marquee_domain::spec::{JobKind, JobSpec, Work};

use super::{Assignment, RankDir};

/// Without it CUDA counts GPUs from the fastest, not in the order of their PCI addresses.
const CUDA_DEVICE_ORDER: (&str, &str) = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID");

/// All that decides about a child's start.
#[derive(Debug)]
pub struct ChildPlan<'a> {
    pub assignment: &'a Assignment,
    pub spec: &'a JobSpec,
    pub inventory: &'a Inventory,
    pub dir: &'a RankDir,
    pub bin_dir: &'a Path,
    pub inputs: BTreeMap<String, PathBuf>,
    pub resume: Option<PathBuf>,
    pub rendezvous: Rendezvous,
    pub standby: Option<Rendezvous>,
}

impl ChildPlan<'_> {
    /// Threads that the rank may keep busy: those of its slots, or of a GPU its share of the host.
    #[must_use]
    pub fn threads(&self) -> u32 {
        let gpus = u32::try_from(self.inventory.gpus.len()).unwrap_or(1).max(1);
        let of_gpu = self.inventory.cpu_threads / gpus;
        let threads = self.assignment.devices.iter().map(|device| match device {
            Device::Cpu { .. } => self.inventory.threads_per_slot,
            Device::Gpu { .. } => of_gpu,
        });
        threads.sum::<u32>().max(1)
    }

    /// The program and its arguments.
    #[must_use]
    pub fn argv(&self) -> Vec<OsString> {
        let ours = |program: &str| {
            vec![
                self.bin_dir.join(program).into(),
                "run".into(),
                self.dir.spec().into(),
            ]
        };
        match &self.spec.work {
            Work::Fetch(_) | Work::Preprocess(_) => ours("marquee-prep"),
            Work::Train(_) | Work::Eval(_) => ours("marquee-trainer"),
            Work::Command(command) => command.argv.iter().map(OsString::from).collect(),
        }
    }

    /// What a child of ours reads; a command job's program gets none.
    #[must_use]
    pub fn child_spec(&self) -> Option<ChildSpec> {
        match self.spec.work.kind() {
            JobKind::Command => None,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => {
                Some(ChildSpec {
                    job: self.assignment.key.job,
                    job_name: self.spec.name.clone(),
                    pipeline: self.assignment.pipeline,
                    attempt: self.assignment.key.attempt,
                    work: self.spec.work.clone(),
                    element: self.spec.element,
                    inputs: self.inputs.clone(),
                    output: self.dir.output(),
                    checkpoints: self.dir.checkpoints(),
                    resume: self.resume.clone(),
                    scratch: (self.spec.work.kind() == JobKind::Fetch)
                        .then(|| self.dir.scratch(self.assignment.key)),
                    rate: self.shares_rates().then(|| self.dir.rate()),
                    devices: self.assignment.devices.clone(),
                    threads: self.threads(),
                })
            }
        }
    }

    /// Whether the child asks hosts at the shares that the coordinator gives.
    fn shares_rates(&self) -> bool {
        self.assignment.shares_rates && self.spec.work.kind() == JobKind::Fetch
    }

    /// What is added to the daemon's own environment. A job's own variables come first: those of
    /// the contract cannot be overridden, but for the number of threads.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let key = self.assignment.key;
        let mut vars =
            BTreeMap::from([(env::OMP_NUM_THREADS.to_owned(), self.threads().to_string())]);
        if let Work::Command(command) = &self.spec.work {
            vars.extend(command.env.clone());
        }
        let mut set = |name: &str, value: String| vars.insert(name.to_owned(), value);
        set(env::RANK, key.rank.to_string());
        set(env::WORLD_SIZE, self.assignment.world_size.to_string());
        set(env::LOCAL_RANK, self.assignment.local_rank.to_string());
        set(env::MASTER_ADDR, self.rendezvous.host.clone());
        set(env::MASTER_PORT, self.rendezvous.port.to_string());
        set(env::JOB, key.job.to_string());
        set(env::ATTEMPT, key.attempt.to_string());
        set(
            env::OUTPUT,
            self.dir.output().to_string_lossy().into_owned(),
        );
        set(env::CUDA_VISIBLE_DEVICES, self.visible_gpus());
        set(CUDA_DEVICE_ORDER.0, CUDA_DEVICE_ORDER.1.to_owned());
        if let Some(element) = self.spec.element {
            set(env::ARRAY_INDEX, element.index.to_string());
            set(env::ARRAY_SIZE, element.size.to_string());
        }
        if let Some(least) = self.spec.resources.min_ranks {
            set(env::MIN_RANKS, least.to_string());
            let lost = self.dir.lost_ranks();
            set(env::LOST_RANKS_FILE, lost.to_string_lossy().into_owned());
        }
        if let Some(standby) = &self.standby {
            set(
                env::STANDBY_STORE,
                format!("{}:{}", standby.host, standby.port),
            );
        }
        for (name, folder) in &self.inputs {
            set(&input_variable(name), folder.to_string_lossy().into_owned());
        }
        vars
    }

    /// The rank's GPUs by UUID, which no renumbering can confuse; empty hides all of them.
    fn visible_gpus(&self) -> String {
        let gpus = self
            .assignment
            .devices
            .iter()
            .filter_map(|device| match device {
                Device::Cpu { .. } => None,
                Device::Gpu { index } => Some(*index),
            });
        let names = gpus.map(|index| {
            let known = self.inventory.gpus.iter().find(|gpu| gpu.index == index);
            known.map_or_else(|| index.to_string(), |gpu| gpu.uuid.clone())
        });
        names.collect::<Vec<_>>().join(",")
    }
}

/// `MARQUEE_INPUT_<NAME>`, with "_" for what no variable's name may hold.
fn input_variable(input: &str) -> String {
    let clean = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    env::INPUT_PREFIX
        .chars()
        .chain(input.chars().map(clean))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::RankKey;
    use marquee_domain::resources::{DeviceKind, GpuInfo, Resources};
    use marquee_domain::spec::CommandSettings;

    fn gpu(index: u32) -> GpuInfo {
        let (uuid, name) = (format!("GPU-{index}"), "H100".to_owned());
        GpuInfo {
            index,
            uuid,
            name,
            memory_bytes: 1,
            compute_capability: (9, 0),
        }
    }

    fn variables(devices: Vec<Device>, env: &[(&str, &str)]) -> BTreeMap<String, String> {
        let settings = CommandSettings {
            argv: vec!["true".into()],
            env: env
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        };
        let spec = JobSpec {
            name: "hello".parse().unwrap(),
            work: Work::Command(settings),
            needs: Vec::new(),
            inputs: BTreeMap::new(),
            resources: Resources {
                ranks: 2,
                min_ranks: Some(1),
                device: DeviceKind::Any,
                devices_per_rank: 1,
            },
            priority: 0,
            max_attempts: 3,
            timeout_s: None,
            array: None,
            reuse: true,
            element: None,
        };
        let inventory = Inventory {
            hostname: "h".into(),
            cpu_threads: 32,
            memory_bytes: 1,
            cpu_slots: 4,
            threads_per_slot: 8,
            gpus: vec![gpu(0), gpu(1)],
            address: "10.0.0.1".into(),
            flavour: String::new(),
        };
        let assignment = Assignment {
            key: RankKey::new(17, 2, 1),
            world_size: 2,
            local_rank: 0,
            spec_json: String::new(),
            inputs: BTreeMap::new(),
            devices,
            hosts_rendezvous: false,
            resume: None,
            problem: None,
            shares_rates: false,
            start: false,
            pipeline: None,
        };
        let plan = ChildPlan {
            assignment: &assignment,
            spec: &spec,
            inventory: &inventory,
            dir: &RankDir::new(Path::new("/d"), assignment.key),
            bin_dir: Path::new("/bin"),
            inputs: BTreeMap::from([("train-data".into(), "/cache/x".into())]),
            resume: None,
            rendezvous: Rendezvous {
                host: "10.0.0.9".into(),
                port: 4000,
            },
            standby: Some(Rendezvous {
                host: "10.0.0.8".into(),
                port: 4001,
            }),
        };
        plan.variables()
    }

    #[test]
    fn a_child_gets_what_torchrun_would_give_it() {
        let vars = variables(
            vec![Device::Cpu { index: 0 }, Device::Cpu { index: 1 }],
            &[],
        );
        for (name, value) in [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_RANK", "0"),
            ("MASTER_ADDR", "10.0.0.9"),
            ("MASTER_PORT", "4000"),
            ("MARQUEE_JOB", "17"),
            ("MARQUEE_ATTEMPT", "2"),
            ("MARQUEE_OUTPUT", "/d/17-2-1/output"),
            ("MARQUEE_INPUT_TRAIN_DATA", "/cache/x"),
            ("OMP_NUM_THREADS", "16"),
            ("CUDA_VISIBLE_DEVICES", ""),
            ("MARQUEE_MIN_RANKS", "1"),
            ("MARQUEE_STANDBY_STORE", "10.0.0.8:4001"),
            ("MARQUEE_LOST_RANKS_FILE", "/d/17-2-1/lost-ranks.json"),
        ] {
            assert_eq!(vars.get(name).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn gpus_are_named_by_uuid_and_share_the_threads() {
        let vars = variables(vec![Device::Gpu { index: 1 }], &[]);
        assert_eq!(vars["CUDA_VISIBLE_DEVICES"], "GPU-1");
        assert_eq!(vars["OMP_NUM_THREADS"], "16");
    }

    #[test]
    fn a_job_may_set_its_threads_but_not_its_rank() {
        let vars = variables(
            vec![Device::Cpu { index: 0 }],
            &[("RANK", "7"), ("OMP_NUM_THREADS", "1"), ("X", "y")],
        );
        assert_eq!(
            (
                vars["RANK"].as_str(),
                vars["OMP_NUM_THREADS"].as_str(),
                vars["X"].as_str()
            ),
            ("1", "1", "y")
        );
    }
}
