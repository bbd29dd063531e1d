//! What decides where a job fits. Jobs alike in it are tried once a round, however many they are.

use marquee_domain::resources::{DeviceKind, Resources};
use marquee_domain::spec::{JobKind, JobSpec};

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
}

impl Shape {
    /// The shape of a job.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        let Resources {
            ranks,
            min_ranks: _,
            device,
            devices_per_rank,
        } = spec.resources;
        let needs_trainer = match spec.work.kind() {
            JobKind::Train | JobKind::Eval => true,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Command => false,
        };
        Self {
            ranks,
            device,
            devices_per_rank,
            needs_trainer,
        }
    }

    /// Devices of the whole gang.
    #[must_use]
    pub fn devices(self) -> u32 {
        self.ranks.saturating_mul(self.devices_per_rank)
    }
}
