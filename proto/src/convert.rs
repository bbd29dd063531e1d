//! Conversions between wire messages and domain types. From the wire they can fail, and then name
//! the field.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::{FileEntry, Manifest};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::limits::HOST_TEXT_MAX_BYTES;
use marquee_domain::rank::Rendezvous;
use marquee_domain::resources::{Device, GpuInfo, GpuPart, Inventory, OutOfBounds, PartKind};
use marquee_domain::spec::JobKind;

use crate::v1;

/// Bytes of a sender's text that an error repeats.
const REPEATED_MAX_BYTES: usize = 80;
/// The first second of the year 10,000.
const TIME_END_S: i64 = 253_402_300_800;

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
                    // 0 is what arrives of a field that was not set, so it stands for no state of
                    // ours.
                    <$wire>::Unspecified => Err(BadField::missing($field)),
                }
            }
        }
    };
}

// None of the lists has a `_`: a state that is added on either side does not compile before it
// stands here.
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
    Hang => Hang, Collective => Collective, Idle => Idle,
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
    /// A class that only a newer version knows counts as a crash: what it says in words is kept.
    fn try_from(failure: v1::Failure) -> Result<Self, BadField> {
        let class = match v1::FailureClass::try_from(failure.class) {
            Ok(class) => class.try_into()?,
            Err(_) => FailureClass::Crash,
        };
        Ok(Self {
            class,
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
        // Not only read but checked: paths that leave their folder are refused here, before
        // anything stores them.
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
            // Also what arrives of a kind that only a newer version knows.
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
            part: gpu.part.map(|part| v1::GpuPart {
                of: part.of,
                is_share: part.kind == PartKind::Share,
            }),
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
            labels: inventory.labels.iter().cloned().collect(),
        }
    }
}

impl TryFrom<v1::Inventory> for Inventory {
    type Error = BadField;
    fn try_from(inventory: v1::Inventory) -> Result<Self, BadField> {
        let gpus = inventory.gpus.into_iter().map(|gpu| GpuInfo {
            index: gpu.index,
            uuid: gpu.uuid,
            name: gpu.name,
            memory_bytes: gpu.memory_bytes,
            compute_capability: (gpu.compute_major, gpu.compute_minor),
            part: gpu.part.map(|part| GpuPart {
                of: part.of,
                kind: if part.is_share {
                    PartKind::Share
                } else {
                    PartKind::Mig
                },
            }),
        });
        let inventory = Self {
            gpus: gpus.collect(),
            hostname: inventory.hostname,
            cpu_threads: inventory.cpu_threads,
            memory_bytes: inventory.memory_bytes,
            cpu_slots: inventory.cpu_slots,
            threads_per_slot: inventory.threads_per_slot,
            address: inventory.address,
            flavour: inventory.flavour,
            labels: inventory.labels.into_iter().collect(),
        };
        inventory
            .check()
            .map_err(|OutOfBounds { field, problem }| BadField { field, problem })?;
        Ok(inventory)
    }
}

impl TryFrom<v1::Rendezvous> for Rendezvous {
    type Error = BadField;
    fn try_from(wire: v1::Rendezvous) -> Result<Self, BadField> {
        let port = u16::try_from(wire.port).map_err(|e| BadField::invalid("rendezvous.port", e))?;
        let host = text("rendezvous.host", wire.host, HOST_TEXT_MAX_BYTES)?;
        Ok(Self { host, port })
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

/// A time from the wire: of the years 1970 to 9999, beyond which nobody's clock is and not every column goes.
pub fn datetime(at: &prost_types::Timestamp) -> Result<DateTime<Utc>, BadField> {
    let nanos = u32::try_from(at.nanos).map_err(|e| BadField::invalid("at.nanos", e))?;
    DateTime::from_timestamp(at.seconds, nanos)
        .filter(|_| (0..TIME_END_S).contains(&at.seconds))
        .ok_or_else(|| {
            let seconds = at.seconds;
            BadField::invalid(
                "at.seconds",
                format!("{seconds} is in no year from 1970 to 9999"),
            )
        })
}

/// A number for a column that has no more than 63 bits.
pub fn bounded(field: &'static str, value: u64) -> Result<u64, BadField> {
    if i64::try_from(value).is_ok() {
        return Ok(value);
    }
    Err(BadField::invalid(
        field,
        format!("{value} is more than {}", i64::MAX),
    ))
}

/// A text that is stored and shown in one line: of at most `max_bytes`, without control characters.
pub fn text(field: &'static str, value: String, max_bytes: usize) -> Result<String, BadField> {
    let bytes = value.len();
    if bytes > max_bytes {
        let why = format!("it has {bytes} bytes, at most {max_bytes} fit");
        return Err(BadField::invalid(field, why));
    }
    if value.chars().any(char::is_control) {
        let start = &value[..value.floor_char_boundary(REPEATED_MAX_BYTES)];
        let why = format!("{start:?} holds control characters");
        return Err(BadField::invalid(field, why));
    }
    Ok(value)
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
    fn a_time_that_no_column_holds_is_refused() {
        for seconds in [i64::MIN, -1, TIME_END_S, i64::MAX] {
            let at = prost_types::Timestamp { seconds, nanos: 0 };
            assert_eq!(datetime(&at).unwrap_err().field, "at.seconds");
        }
        let nanos = prost_types::Timestamp {
            seconds: 1,
            nanos: -1,
        };
        assert_eq!(datetime(&nanos).unwrap_err().field, "at.nanos");
        let last = DateTime::from_timestamp(TIME_END_S - 1, 0).unwrap();
        assert_eq!(datetime(&timestamp(last)), Ok(last));
    }

    #[test]
    fn a_text_is_one_line_that_fits_and_a_number_fits_its_column() {
        assert_eq!(text("f", "gpu-1".into(), 5), Ok("gpu-1".into()));
        for bad in ["gpu-12", "a\0", "a\nb", "\u{1b}[2J", "\u{9b}2J"] {
            assert_eq!(text("f", bad.into(), 5).unwrap_err().field, "f", "{bad:?}");
        }
        let largest = i64::MAX as u64;
        assert_eq!(bounded("f", largest), Ok(largest));
        assert!(bounded("f", largest + 1).is_err());
        assert!(bounded("f", u64::MAX).is_err());
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        let at = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();
        assert_eq!(datetime(&timestamp(at)), Ok(at));
    }
}
