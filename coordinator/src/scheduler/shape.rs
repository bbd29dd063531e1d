//! What decides where a job fits. Jobs alike in it are tried once a round, however many they are.

use marquee_domain::ids::JobId;
use marquee_domain::resources::{DeviceKind, Resources};
use marquee_domain::spec::{JobKind, JobSpec};

/// A set of host rules, numbered by whoever keeps them ([`super::Limits::rules`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RulesId(pub u32);

impl RulesId {
    /// Any host will do.
    pub const NONE: Self = Self(0);
}

/// A project, numbered by whoever keeps them ([`super::Limits::projects`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProjectId(pub u32);

/// Jobs of which only some may run at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Group {
    #[default]
    None,
    /// The elements of an array.
    Array(JobId),
    /// Jobs of one concurrency key, numbered by whoever keeps them.
    Key(u32),
}

/// What a job asks of the hosts. An array's elements all have one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    /// Processes of the gang; all start or none does.
    pub ranks: u32,
    pub device: DeviceKind,
    /// Devices of each rank, all on one host.
    pub devices_per_rank: u32,
    /// Whether its ranks run `marquee-trainer`: then they need hosts that have one, all of one
    /// flavour, with kernels for their GPUs.
    pub needs_trainer: bool,
    /// What each of its GPUs must have, in MiB. None: it does not say, and gets no share of one.
    pub gpu_memory_mib: Option<u32>,
    /// On which hosts it may run.
    pub rules: RulesId,
    /// Seconds after which it has ended, whatever becomes of it. None: nobody knows.
    pub limit_s: Option<u32>,
    /// Of a job without such a limit: seconds that nearly all runs of its step took. Nothing stops it then.
    pub expected_s: Option<u32>,
}

impl Shape {
    /// The shape of a job whose like took so many seconds, as far as anybody knows.
    #[must_use]
    pub fn of(spec: &JobSpec, rules: RulesId, expected_s: Option<u32>) -> Self {
        let Resources {
            ranks,
            // With how many a gang goes on is another matter: it starts with all of its ranks.
            min_ranks: _,
            device,
            devices_per_rank,
        } = spec.resources;
        let needs_trainer = match spec.work.kind() {
            JobKind::Train | JobKind::Eval => true,
            JobKind::Command if spec.is_burn_in() => true,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Command => false,
        };
        Self {
            ranks,
            device,
            devices_per_rank,
            needs_trainer,
            gpu_memory_mib: spec.sharing.gpu_memory_mib,
            rules,
            limit_s: spec.timeout_s,
            // Where there is a time limit nobody has to guess.
            expected_s: expected_s.filter(|_| spec.timeout_s.is_none()),
        }
    }

    /// Whether one device is all that it asks for. Only then a part of a GPU will do: parts of one GPU cannot
    /// exchange gradients, and a program sees one MIG instance at most.
    #[must_use]
    pub fn is_single(self) -> bool {
        self.devices() == 1
    }

    /// Devices of the whole gang.
    #[must_use]
    pub fn devices(self) -> u32 {
        self.ranks.saturating_mul(self.devices_per_rank)
    }
}
