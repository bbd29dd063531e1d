//! What hosts have and what jobs ask for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::limits::{
    HOST_DEVICES_MAX, HOST_GPUS_MAX, HOST_MEMORY_MAX_BYTES, HOST_TEXT_MAX_BYTES, HOST_THREADS_MAX,
    LABEL_MAX_BYTES, LABELS_MAX,
};

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
    /// Set where the device is a part of a GPU; `memory_bytes` is the part's then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<GpuPart>,
}

/// Which part of a GPU a device is. Parts have indices of their own, beyond those of the host's GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuPart {
    /// The GPU, by its index in NVML's order. It is not offered as a whole.
    pub of: u32,
    pub kind: PartKind,
}

/// How a GPU is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// A MIG instance: its memory and its multiprocessors are its own.
    Mig,
    /// A share that the host's owner allows: who has it promises to use no more than its memory, and computes beside the
    /// others.
    Share,
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
    /// Words that its owner gave the host, such as "switch=a": jobs ask for them or avoid them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
}

/// Whether a text can be a label of a host: what fits into a list of several, in a file and on a command line.
///
/// # Errors
/// What a label must be.
pub fn check_label(label: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-=/:".contains(c);
    if !label.is_empty() && label.len() <= LABEL_MAX_BYTES && label.chars().all(fine) {
        return Ok(());
    }
    Err(format!(
        "{label:?} is no label; use 1 to {LABEL_MAX_BYTES} letters, digits and . _ - = / :, such as \"switch=a\""
    ))
}

/// A field of an inventory that no host has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct OutOfBounds {
    /// Such as "inventory.cpu_slots".
    pub field: &'static str,
    /// What is wrong, and the bounds.
    pub problem: String,
}

/// Highest part of a compute capability; the newest GPUs are at 12.
const CAPABILITY_MAX: u32 = 1_000;

impl Inventory {
    /// Whether a host can have all this. What is planned, shown and kept in memory follows from these numbers, so
    /// that a mistyped one must not get in: a worker looks before it says Hello, the coordinator when it hears it,
    /// and again at what an earlier version stored.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let number = |field, value: u64, max: u64| {
            let problem = format!("is {value}; at most {max} are believed");
            (value <= max)
                .then_some(())
                .ok_or(OutOfBounds { field, problem })
        };
        number(
            "inventory.cpu_slots",
            self.cpu_slots.into(),
            HOST_DEVICES_MAX.into(),
        )?;
        let threads = [
            ("inventory.cpu_threads", self.cpu_threads),
            ("inventory.threads_per_slot", self.threads_per_slot),
        ];
        for (field, value) in threads {
            number(field, value.into(), HOST_THREADS_MAX.into())?;
        }
        number(
            "inventory.memory_bytes",
            self.memory_bytes,
            HOST_MEMORY_MAX_BYTES,
        )?;
        let texts = [
            ("inventory.hostname", &self.hostname),
            ("inventory.address", &self.address),
            ("inventory.flavour", &self.flavour),
        ];
        for (field, value) in texts {
            text(field, value)?;
        }
        number(
            "inventory.labels",
            self.labels.len() as u64,
            LABELS_MAX as u64,
        )?;
        for label in &self.labels {
            check_label(label).map_err(|problem| OutOfBounds {
                field: "inventory.labels",
                problem,
            })?;
        }
        number(
            "inventory.gpus",
            self.gpus.len() as u64,
            HOST_GPUS_MAX as u64,
        )?;
        let mut indices = BTreeSet::new();
        for gpu in &self.gpus {
            let highest = HOST_GPUS_MAX as u64 - 1;
            number("inventory.gpus.index", gpu.index.into(), highest)?;
            // Two GPUs of one index would be one device to the planner, which could then be given
            // out twice.
            if !indices.insert(gpu.index) {
                return Err(OutOfBounds {
                    field: "inventory.gpus.index",
                    problem: format!("{} stands twice", gpu.index),
                });
            }
            text("inventory.gpus.uuid", &gpu.uuid)?;
            text("inventory.gpus.name", &gpu.name)?;
            if let Some(part) = gpu.part {
                number("inventory.gpus.part.of", part.of.into(), highest)?;
            }
            let memory = gpu.memory_bytes;
            number("inventory.gpus.memory_bytes", memory, HOST_MEMORY_MAX_BYTES)?;
            let (major, minor) = gpu.compute_capability;
            for part in [major, minor] {
                number(
                    "inventory.gpus.compute_capability",
                    part.into(),
                    CAPABILITY_MAX.into(),
                )?;
            }
        }
        Ok(())
    }

    /// How many devices of `kind` this host offers; for `Any`, of the better kind it has.
    #[must_use]
    pub fn devices(&self, kind: DeviceKind) -> u32 {
        let gpus = u32::try_from(self.gpus.len()).unwrap_or(u32::MAX);
        match kind {
            DeviceKind::Cpu => self.cpu_slots,
            DeviceKind::Gpu => gpus,
            // A gang takes one kind for all its ranks: adding both up would promise what no plan
            // can give.
            DeviceKind::Any => gpus.max(self.cpu_slots),
        }
    }
}

/// A text that can be stored, and shown in one line.
fn text(field: &'static str, value: &str) -> Result<(), OutOfBounds> {
    let problem = if value.len() > HOST_TEXT_MAX_BYTES {
        format!(
            "has {} bytes; at most {HOST_TEXT_MAX_BYTES} fit",
            value.len()
        )
    } else if value.chars().any(char::is_control) {
        "holds control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(OutOfBounds { field, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Inventory {
        Inventory {
            hostname: "gpu-1".into(),
            cpu_threads: 512,
            memory_bytes: 6 << 40,
            cpu_slots: 512,
            threads_per_slot: 1,
            gpus: (0..16)
                .map(|index| GpuInfo {
                    index,
                    uuid: format!("GPU-{index}"),
                    name: "NVIDIA H200".into(),
                    memory_bytes: 141 << 30,
                    compute_capability: (9, 0),
                    part: None,
                })
                .collect(),
            address: "10.0.0.7".into(),
            flavour: "libtorch-2.11.0".into(),
            labels: BTreeSet::from(["switch=a".into()]),
        }
    }

    #[test]
    fn every_field_of_a_host_has_its_bounds() {
        assert_eq!(host().check(), Ok(()));
        type Change = fn(&mut Inventory);
        let hostile: [(&str, Change); 17] = [
            ("inventory.labels", |host| {
                host.labels = (0..33).map(|label| label.to_string()).collect();
            }),
            ("inventory.labels", |host| {
                host.labels.insert("a\u{1b}b".into());
            }),
            ("inventory.cpu_slots", |host| host.cpu_slots = 4_000_000_000),
            ("inventory.cpu_slots", |host| host.cpu_slots = u32::MAX),
            ("inventory.cpu_threads", |host| host.cpu_threads = u32::MAX),
            ("inventory.threads_per_slot", |host| {
                host.threads_per_slot = u32::MAX;
            }),
            ("inventory.memory_bytes", |host| {
                host.memory_bytes = u64::MAX
            }),
            ("inventory.hostname", |host| host.hostname = "h".repeat(257)),
            ("inventory.hostname", |host| host.hostname = "a\0b".into()),
            ("inventory.address", |host| host.address = "a\nb".into()),
            ("inventory.flavour", |host| {
                host.flavour = "\u{1b}[2J".into()
            }),
            ("inventory.gpus", |host| {
                host.gpus = vec![host.gpus[0].clone(); 129];
            }),
            ("inventory.gpus.index", |host| host.gpus[1].index = u32::MAX),
            ("inventory.gpus.index", |host| host.gpus[1].index = 0),
            ("inventory.gpus.name", |host| {
                host.gpus[0].name = "\0".into()
            }),
            ("inventory.gpus.memory_bytes", |host| {
                host.gpus[0].memory_bytes = u64::MAX;
            }),
            ("inventory.gpus.compute_capability", |host| {
                host.gpus[0].compute_capability = (u32::MAX, 0);
            }),
        ];
        for (field, change) in hostile {
            let mut host = host();
            change(&mut host);
            assert_eq!(host.check().unwrap_err().field, field);
        }
    }
}
