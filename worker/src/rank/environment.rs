//! The environment and the spec that a child gets: the child contract of `marquee_domain::child`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use marquee_domain::Rendezvous;
use marquee_domain::child::{ChildSpec, env};
use marquee_domain::resources::{Device, Inventory, PartKind};
use marquee_domain::spec::{JobKind, JobSpec, Work};

use super::{Assignment, RankDir, temporary};

/// Where programs put temporary files.
const TMPDIR: &str = "TMPDIR";
/// Without it CUDA counts GPUs from the fastest, not in the order of their PCI addresses.
const CUDA_DEVICE_ORDER: (&str, &str) = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID");

/// Memory that a program may take of each GPU that it sees, where CUDA's MPS runs.
const MPS_MEMORY: &str = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";

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
        // Parts of a GPU count as GPUs here: each of them may have a rank of its own.
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
            Work::Command(command) => {
                let mut argv: Vec<OsString> = command.argv.iter().map(OsString::from).collect();
                // A burn-in is done by the trainer that lies beside this worker, wherever PATH leads.
                if self.spec.is_burn_in()
                    && let Some(program) = argv.first_mut()
                {
                    *program = self.bin_dir.join(&*program).into();
                }
                argv
            }
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

    /// What is added to what every child gets ([`super::base_env`]). A job's own variables come first: those of
    /// the contract cannot be overridden, but for the number of threads and the place of temporary files.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let key = self.assignment.key;
        let mut vars =
            BTreeMap::from([(env::OMP_NUM_THREADS.to_owned(), self.threads().to_string())]);
        vars.insert(
            torchrun::NCCL_ERRORS.0.to_owned(),
            torchrun::NCCL_ERRORS.1.to_owned(),
        );
        let temporary = temporary::folder(self.dir);
        vars.insert(TMPDIR.to_owned(), temporary.to_string_lossy().into_owned());
        if let Work::Command(command) = &self.spec.work {
            vars.extend(command.env.clone());
        }
        let mut set = |name: &str, value: String| vars.insert(name.to_owned(), value);
        set(env::RANK, key.rank.to_string());
        set(env::WORLD_SIZE, self.assignment.world_size.to_string());
        set(env::LOCAL_RANK, self.assignment.local_rank.to_string());
        for (name, value) in self.of_torchrun() {
            set(name, value);
        }
        set(env::MASTER_ADDR, self.rendezvous.host.clone());
        set(env::MASTER_PORT, self.rendezvous.port.to_string());
        set(env::JOB, key.job.to_string());
        set(env::ATTEMPT, key.attempt.to_string());
        set(
            env::OUTPUT,
            self.dir.output().to_string_lossy().into_owned(),
        );
        let (visible, own) = self.visible_gpus();
        set(env::CUDA_VISIBLE_DEVICES, visible);
        set(env::GPUS, own);
        set(CUDA_DEVICE_ORDER.0, CUDA_DEVICE_ORDER.1.to_owned());
        if let Some(mebibytes) = self.share_mib() {
            set(env::GPU_MEMORY_MIB, mebibytes.to_string());
            // Where the host's owner runs CUDA's MPS, the driver keeps the rank to it.
            set(MPS_MEMORY, format!("0={mebibytes}M"));
        }
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
        match self.spec.work.kind() {
            // Only our trainer keeps a pulse; of other programs nothing is known but what they write.
            JobKind::Train | JobKind::Eval => {
                let standing = self.dir.standing();
                set(env::PULSE, standing.to_string_lossy().into_owned());
            }
            JobKind::Fetch | JobKind::Preprocess | JobKind::Command => {}
        }
        for (name, folder) in &self.inputs {
            set(
                &env::input_variable(name),
                folder.to_string_lossy().into_owned(),
            );
        }
        vars
    }

    /// What torchrun sets beside the rank itself, as if each host were one of its nodes.
    fn of_torchrun(&self) -> Vec<(&'static str, String)> {
        let (assignment, group) = (&self.assignment, &self.assignment.group);
        // An older coordinator does not say: then the rank is as good as alone on its host.
        let known = group.world_size > 0;
        let local_world_size = if known { group.local_ranks.len() } else { 1 };
        let (rank, hosts) = match known {
            true => (group.rank, group.world_size),
            false => (assignment.key.rank.0, assignment.world_size),
        };
        let restarts = assignment.key.attempt.0.saturating_sub(1);
        vec![
            ("LOCAL_WORLD_SIZE", local_world_size.to_string()),
            ("GROUP_RANK", rank.to_string()),
            ("GROUP_WORLD_SIZE", hosts.to_string()),
            // torchrun gives it to what it starts its agents with; Lightning and others read it.
            ("NODE_RANK", rank.to_string()),
            ("ROLE_NAME", torchrun::ROLE.to_owned()),
            ("ROLE_RANK", assignment.key.rank.to_string()),
            ("ROLE_WORLD_SIZE", assignment.world_size.to_string()),
            (
                "TORCHELASTIC_RUN_ID",
                format!("marquee-{}", assignment.key.job),
            ),
            ("TORCHELASTIC_RESTART_COUNT", restarts.to_string()),
            (
                "TORCHELASTIC_MAX_RESTARTS",
                self.spec.max_attempts.saturating_sub(1).to_string(),
            ),
            // Rank 0 itself listens at MASTER_PORT.
            ("TORCHELASTIC_USE_AGENT_STORE", "False".to_owned()),
            (
                "TORCHELASTIC_ERROR_FILE",
                self.dir
                    .work()
                    .join("torch-error.json")
                    .display()
                    .to_string(),
            ),
        ]
    }

    /// How much memory the rank promised to use of a GPU of which it has a share.
    fn share_mib(&self) -> Option<u32> {
        let is_share = |device: &Device| match device {
            Device::Cpu { .. } => false,
            Device::Gpu { index } => self.inventory.gpus.iter().any(|gpu| {
                gpu.index == *index && gpu.part.is_some_and(|part| part.kind == PartKind::Share)
            }),
        };
        let has_share = self.assignment.devices.iter().any(is_share);
        self.spec.sharing.gpu_memory_mib.filter(|_| has_share)
    }

    /// The GPUs that the rank sees, by UUID, which no renumbering can confuse, and which of them are its own, by
    /// their places among those; empty hides all of them.
    ///
    /// A command sees those of all its gang's ranks on this host, in the order of local ranks: its script picks
    /// its own by `LOCAL_RANK`, as under torchrun. Our own programs see theirs alone.
    fn visible_gpus(&self) -> (String, String) {
        let gpus = |devices: &[Device]| -> Vec<u32> {
            let gpus = devices.iter().filter_map(|device| match device {
                Device::Cpu { .. } => None,
                Device::Gpu { index } => Some(*index),
            });
            gpus.collect()
        };
        let own = gpus(&self.assignment.devices);
        let shares = &self.assignment.group.local_ranks;
        let all = match self.spec.work.kind() {
            JobKind::Command if shares.len() > 1 => {
                shares.iter().flat_map(|one| gpus(one)).collect()
            }
            JobKind::Command
            | JobKind::Fetch
            | JobKind::Preprocess
            | JobKind::Train
            | JobKind::Eval => own.clone(),
        };
        let name = |index: &u32| {
            let known = self.inventory.gpus.iter().find(|gpu| gpu.index == *index);
            known.map_or_else(|| index.to_string(), |gpu| gpu.uuid.clone())
        };
        let place = |index: &u32| all.iter().position(|gpu| gpu == index);
        let own: Vec<String> = own
            .iter()
            .filter_map(place)
            .map(|at| at.to_string())
            .collect();
        let visible: Vec<String> = all.iter().map(name).collect();
        (visible.join(","), own.join(","))
    }
}

/// Values of torchrun's own.
mod torchrun {
    /// The name of a role that nobody named.
    pub(super) const ROLE: &str = "default";
    /// A rank whose peer is gone ends instead of waiting for ever. A job may set it otherwise.
    pub(super) const NCCL_ERRORS: (&str, &str) = ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1");
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::RankKey;
    use marquee_domain::resources::{DeviceKind, GpuInfo, Resources};
    use marquee_domain::spec::{CommandSettings, EvalSettings};

    use super::super::Group;

    fn gpu(index: u32) -> GpuInfo {
        let (uuid, name) = (format!("GPU-{index}"), "H100".to_owned());
        GpuInfo {
            index,
            uuid,
            name,
            memory_bytes: 1,
            compute_capability: (9, 0),
            part: None,
        }
    }

    fn variables(devices: Vec<Device>, env: &[(&str, &str)]) -> BTreeMap<String, String> {
        let settings = CommandSettings {
            argv: vec!["true".into()],
            env: env
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            env_from_worker: Vec::new(),
        };
        variables_of(Work::Command(settings), devices, Group::default(), 0)
    }

    fn variables_of(
        work: Work,
        devices: Vec<Device>,
        group: Group,
        local_rank: u32,
    ) -> BTreeMap<String, String> {
        variables_with(work, devices, group, local_rank, (None, None))
    }

    /// The same with what the job says that it uses of its GPU, and with GPU 0 being a part.
    fn variables_with(
        work: Work,
        devices: Vec<Device>,
        group: Group,
        local_rank: u32,
        (gpu_memory_mib, part): (Option<u32>, Option<marquee_domain::resources::GpuPart>),
    ) -> BTreeMap<String, String> {
        let spec = JobSpec {
            name: "hello".parse().unwrap(),
            work,
            needs: Vec::new(),
            needs_on: Default::default(),
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
            may_fail: 0,
            reuse: true,
            element: None,
            values: Default::default(),
            watch: Default::default(),
            sharing: marquee_domain::spec::Sharing {
                gpu_memory_mib,
                ..Default::default()
            },
        };
        let inventory = Inventory {
            hostname: "h".into(),
            cpu_threads: 32,
            memory_bytes: 1,
            cpu_slots: 4,
            threads_per_slot: 8,
            gpus: vec![GpuInfo { part, ..gpu(0) }, gpu(1)],
            address: "10.0.0.1".into(),
            flavour: String::new(),
            labels: Default::default(),
        };
        let assignment = Assignment {
            key: RankKey::new(17, 2, 1),
            world_size: 2,
            local_rank,
            spec_json: String::new(),
            inputs: BTreeMap::new(),
            devices,
            hosts_rendezvous: false,
            resume: None,
            problem: None,
            shares_rates: false,
            start: false,
            group,
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
    fn who_has_a_share_is_told_what_it_may_use_of_it() {
        let of = |memory, part| {
            let devices = vec![Device::Gpu { index: 0 }];
            let vars = variables_with(command(), devices, Group::default(), 0, (memory, part));
            let told = vars.get("MARQUEE_GPU_MEMORY_MIB").cloned();
            (told, vars.get(MPS_MEMORY).cloned())
        };
        let part = |kind| Some(marquee_domain::resources::GpuPart { of: 3, kind });
        let told = (Some("8192".into()), Some("0=8192M".into()));
        assert_eq!(of(Some(8_192), part(PartKind::Share)), told);
        assert_eq!(of(Some(8_192), part(PartKind::Mig)), (None, None));
        assert_eq!(of(Some(8_192), None), (None, None));
        assert_eq!(of(None, part(PartKind::Share)), (None, None));
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

    fn gang(devices: [&[Device]; 2]) -> Group {
        Group {
            local_ranks: devices.map(<[Device]>::to_vec).to_vec(),
            rank: 1,
            world_size: 3,
        }
    }

    fn command() -> Work {
        Work::Command(CommandSettings {
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            env_from_worker: Vec::new(),
        })
    }

    #[test]
    fn a_rank_knows_its_place_as_under_torchrun() {
        let cpu = |index| [Device::Cpu { index }];
        let (zero, one) = (cpu(0), cpu(1));
        let vars = variables_of(command(), one.to_vec(), gang([&zero, &one]), 1);
        for (name, value) in [
            ("RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("GROUP_RANK", "1"),
            ("GROUP_WORLD_SIZE", "3"),
            ("NODE_RANK", "1"),
            ("ROLE_NAME", "default"),
            ("ROLE_RANK", "1"),
            ("ROLE_WORLD_SIZE", "2"),
            ("TORCHELASTIC_RUN_ID", "marquee-17"),
            ("TORCHELASTIC_RESTART_COUNT", "1"),
            ("TORCHELASTIC_MAX_RESTARTS", "2"),
            ("TORCHELASTIC_USE_AGENT_STORE", "False"),
            ("TORCHELASTIC_ERROR_FILE", "/d/17-2-1/work/torch-error.json"),
            ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        ] {
            assert_eq!(vars.get(name).map(String::as_str), Some(value), "{name}");
        }
        // An older coordinator says nothing but the rank itself.
        let vars = variables_of(command(), zero.to_vec(), Group::default(), 0);
        let of = |name: &str| vars[name].clone();
        assert_eq!(
            [
                of("LOCAL_WORLD_SIZE"),
                of("GROUP_RANK"),
                of("GROUP_WORLD_SIZE")
            ],
            ["1", "1", "2"]
        );
    }

    #[test]
    fn a_commands_ranks_see_all_gpus_of_their_gang_and_ours_their_own() {
        let gpu = |index| Device::Gpu { index };
        let group = || gang([&[gpu(1)], &[gpu(0)]]);
        let vars = variables_of(command(), vec![gpu(0)], group(), 1);
        assert_eq!(vars["CUDA_VISIBLE_DEVICES"], "GPU-1,GPU-0");
        assert_eq!(vars["MARQUEE_GPUS"], "1", "its own, as LOCAL_RANK says");
        let eval = Work::Eval(EvalSettings {
            batch_size: 1,
            thresholds: BTreeMap::new(),
            bootstrap_resamples: 0,
            gallery: 0,
            seed: 0,
            allow_overlap: false,
        });
        let vars = variables_of(eval, vec![gpu(0)], group(), 1);
        assert_eq!(
            (
                vars["CUDA_VISIBLE_DEVICES"].as_str(),
                vars["MARQUEE_GPUS"].as_str()
            ),
            ("GPU-0", "0")
        );
        let two = gang([&[gpu(0), gpu(1)], &[]]);
        let vars = variables_of(command(), vec![gpu(0), gpu(1)], two, 0);
        assert_eq!(vars["MARQUEE_GPUS"], "0,1");
    }
}
