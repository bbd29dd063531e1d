//! What hosts have and what jobs ask for.

use serde::{Deserialize, Serialize};

/// The kind of device a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A CPU slot: a fixed share of a host's threads.
    Cpu,
    /// A GPU.
    Gpu,
    /// GPUs where the whole gang can have them, else CPU slots. Never a mixture.
    Any,
}

impl DeviceKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Gpu, Self::Any];

    /// The word used in pipeline files and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Any => "any",
        }
    }
}

/// What a job asks the scheduler for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Processes of the gang, at least 1. All start or none does.
    pub ranks: u32,
    /// With how few of them the work goes on when others are lost. None: all are needed.
    #[serde(default)]
    pub min_ranks: Option<u32>,
    pub device: DeviceKind,
    /// Devices of each rank, at least 1.
    pub devices_per_rank: u32,
}

/// One device that was given to a rank.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Device {
    /// CPU slot `index` of its host.
    Cpu { index: u32 },
    /// GPU `index` of its host, in NVML's order (that is PCI bus order).
    Gpu { index: u32 },
}

/// A GPU as its host reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuInfo {
    pub index: u32,
    pub uuid: String,
    pub name: String,
    pub memory_bytes: u64,
    /// CUDA compute capability, as major and minor.
    pub compute_capability: (u32, u32),
}

/// What a worker found on its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub hostname: String,
    /// Hardware threads this worker may use.
    pub cpu_threads: u32,
    pub memory_bytes: u64,
    /// CPU devices offered; each stands for `threads_per_slot` threads.
    pub cpu_slots: u32,
    pub threads_per_slot: u32,
    pub gpus: Vec<GpuInfo>,
    /// The address at which ranks on other hosts reach this one.
    pub address: String,
    /// What the host's trainer links, such as "libtorch-2.11.0".
    pub flavour: String,
}

impl Inventory {
    /// How many devices of `kind` this host offers; for `Any`, of the better kind it has.
    #[must_use]
    pub fn devices(&self, kind: DeviceKind) -> u32 {
        let gpus = u32::try_from(self.gpus.len()).unwrap_or(u32::MAX);
        match kind {
            DeviceKind::Cpu => self.cpu_slots,
            DeviceKind::Gpu => gpus,
            DeviceKind::Any => gpus.max(self.cpu_slots),
        }
    }
}
