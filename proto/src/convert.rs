//! Conversions between wire messages and domain types. From the wire they can fail, and then name
//! the field.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{FileEntry, Manifest};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::rank::Rendezvous;
use marquee_domain::resources::{Device, GpuInfo, Inventory};
use marquee_domain::spec::JobKind;

use crate::v1;

/// A field of a message that holds no valid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field:?} {problem}")]
pub struct BadField {
    pub field: &'static str,
    pub problem: String,
}

impl BadField {
    /// A field that must be set and is not.
    #[must_use]
    pub fn missing(field: &'static str) -> Self {
        Self {
            field,
            problem: "is missing".into(),
        }
    }

    /// A field whose value cannot be read, with the reason.
    #[must_use]
    pub fn invalid(field: &'static str, why: impl std::fmt::Display) -> Self {
        Self {
            field,
            problem: format!("is invalid: {why}"),
        }
    }
}

impl From<BadField> for tonic::Status {
    fn from(bad: BadField) -> Self {
        crate::error::ErrorCode::InvalidRequest.status(bad.to_string())
    }
}

/// Maps an enum of ours to the wire's and back, state by state.
macro_rules! enum_pair {
    ($domain:ty, $wire:ty, $field:literal, { $($ours:ident => $theirs:ident),+ $(,)? }) => {
        impl From<$domain> for $wire {
            fn from(value: $domain) -> Self {
                match value { $(<$domain>::$ours => Self::$theirs),+ }
            }
        }

        impl TryFrom<$wire> for $domain {
            type Error = BadField;
            fn try_from(value: $wire) -> Result<Self, BadField> {
                match value {
                    $(<$wire>::$theirs => Ok(Self::$ours),)+
                    <$wire>::Unspecified => Err(BadField::missing($field)),
                }
            }
        }
    };
}

enum_pair!(JobKind, v1::JobKind, "kind", {
    Fetch => Fetch, Preprocess => Preprocess, Train => Train, Eval => Eval, Command => Command,
});
enum_pair!(JobStateName, v1::JobState, "state", {
    Waiting => Waiting, Queued => Queued, Running => Running,
    Succeeded => Succeeded, Failed => Failed, Cancelled => Cancelled,
});
enum_pair!(AttemptStateName, v1::AttemptState, "state", {
    Assigned => Assigned, Running => Running,
    Succeeded => Succeeded, Failed => Failed, Cancelled => Cancelled,
    Interrupted => Interrupted,
});
enum_pair!(RankState, v1::RankState, "state", {
    Assigned => Assigned, Prepared => Prepared, Running => Running,
    Finished => Finished, Failed => Failed, Stopped => Stopped,
});
enum_pair!(FailureClass, v1::FailureClass, "class", {
    UserError => UserError, OutOfMemory => OutOfMemory, BadInput => BadInput,
    DeviceFault => DeviceFault, LostWorker => LostWorker, Timeout => Timeout,
    Network => Network, Crash => Crash, DiskFull => DiskFull,
});

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            class: v1::FailureClass::from(failure.class).into(),
            message: failure.message,
        }
    }
}

impl TryFrom<v1::Failure> for Failure {
    type Error = BadField;
    fn try_from(failure: v1::Failure) -> Result<Self, BadField> {
        Ok(Self {
            class: failure.class().try_into()?,
            message: failure.message,
        })
    }
}

impl From<&Manifest> for v1::Manifest {
    fn from(manifest: &Manifest) -> Self {
        let files = manifest.files.iter().map(|file| v1::FileEntry {
            path: file.path.clone(),
            size_bytes: file.size_bytes,
            digest: file.digest.to_string(),
        });
        Self {
            files: files.collect(),
            executables: manifest.executables.clone(),
            empty_folders: manifest.empty_folders.clone(),
        }
    }
}

impl TryFrom<v1::Manifest> for Manifest {
    type Error = BadField;
    fn try_from(manifest: v1::Manifest) -> Result<Self, BadField> {
        let files: Result<Vec<_>, BadField> = manifest
            .files
            .into_iter()
            .map(|file| {
                let digest = file
                    .digest
                    .parse()
                    .map_err(|e| BadField::invalid("files.digest", e))?;
                Ok(FileEntry {
                    path: file.path,
                    size_bytes: file.size_bytes,
                    digest,
                })
            })
            .collect();
        Self::with_modes(files?, manifest.executables, manifest.empty_folders)
            .map_err(|e| BadField::invalid("files", e))
    }
}

impl From<&Device> for v1::Device {
    fn from(device: &Device) -> Self {
        let kind = match device {
            Device::Cpu { index } => v1::device::Kind::Cpu(*index),
            Device::Gpu { index } => v1::device::Kind::Gpu(*index),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Device> for Device {
    type Error = BadField;
    fn try_from(device: v1::Device) -> Result<Self, BadField> {
        match device.kind {
            Some(v1::device::Kind::Cpu(index)) => Ok(Self::Cpu { index }),
            Some(v1::device::Kind::Gpu(index)) => Ok(Self::Gpu { index }),
            None => Err(BadField::missing("device.kind")),
        }
    }
}

impl From<&Inventory> for v1::Inventory {
    fn from(inventory: &Inventory) -> Self {
        let gpus = inventory.gpus.iter().map(|gpu| v1::Gpu {
            index: gpu.index,
            uuid: gpu.uuid.clone(),
            name: gpu.name.clone(),
            memory_bytes: gpu.memory_bytes,
            compute_major: gpu.compute_capability.0,
            compute_minor: gpu.compute_capability.1,
        });
        Self {
            hostname: inventory.hostname.clone(),
            cpu_threads: inventory.cpu_threads,
            memory_bytes: inventory.memory_bytes,
            cpu_slots: inventory.cpu_slots,
            threads_per_slot: inventory.threads_per_slot,
            gpus: gpus.collect(),
            address: inventory.address.clone(),
            flavour: inventory.flavour.clone(),
        }
    }
}

impl From<v1::Inventory> for Inventory {
    fn from(inventory: v1::Inventory) -> Self {
        let gpus = inventory.gpus.into_iter().map(|gpu| GpuInfo {
            index: gpu.index,
            uuid: gpu.uuid,
            name: gpu.name,
            memory_bytes: gpu.memory_bytes,
            compute_capability: (gpu.compute_major, gpu.compute_minor),
        });
        Self {
            gpus: gpus.collect(),
            hostname: inventory.hostname,
            cpu_threads: inventory.cpu_threads,
            memory_bytes: inventory.memory_bytes,
            cpu_slots: inventory.cpu_slots,
            threads_per_slot: inventory.threads_per_slot,
            address: inventory.address,
            flavour: inventory.flavour,
        }
    }
}

impl TryFrom<v1::Rendezvous> for Rendezvous {
    type Error = BadField;
    fn try_from(wire: v1::Rendezvous) -> Result<Self, BadField> {
        let port = u16::try_from(wire.port).map_err(|e| BadField::invalid("rendezvous.port", e))?;
        Ok(Self {
            host: wire.host,
            port,
        })
    }
}

impl From<Rendezvous> for v1::Rendezvous {
    fn from(ours: Rendezvous) -> Self {
        Self {
            host: ours.host,
            port: u32::from(ours.port),
        }
    }
}

/// A time on the wire.
#[must_use]
pub fn timestamp(at: DateTime<Utc>) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(999_999_999);
    prost_types::Timestamp {
        seconds: at.timestamp(),
        nanos,
    }
}

/// A time from the wire.
pub fn datetime(at: &prost_types::Timestamp) -> Result<DateTime<Utc>, BadField> {
    let nanos = u32::try_from(at.nanos).map_err(|e| BadField::invalid("at.nanos", e))?;
    DateTime::from_timestamp(at.seconds, nanos)
        .ok_or_else(|| BadField::invalid("at.seconds", "out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_go_both_ways() {
        for state in JobStateName::ALL {
            assert_eq!(JobStateName::try_from(v1::JobState::from(state)), Ok(state));
        }
        for state in RankState::ALL {
            assert_eq!(RankState::try_from(v1::RankState::from(state)), Ok(state));
        }
        assert!(JobKind::try_from(v1::JobKind::Unspecified).is_err());
    }

    #[test]
    fn a_manifest_that_leaves_its_folder_is_refused() {
        let digest = marquee_domain::artifact::Digest::of(b"").to_string();
        let file = v1::FileEntry {
            path: "../../etc/passwd".into(),
            size_bytes: 0,
            digest,
        };
        let manifest = v1::Manifest {
            files: vec![file],
            ..v1::Manifest::default()
        };
        let error = Manifest::try_from(manifest).unwrap_err();
        assert_eq!(error.field, "files");
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        let at = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();
        assert_eq!(datetime(&timestamp(at)), Ok(at));
    }
}
