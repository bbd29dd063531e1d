//! GPU readings on the wire and in the domain.
//!
//! The one list of fields serves both ways, and a struct literal names every field: one that is added to either
//! side and forgotten here does not compile.

use chrono::{DateTime, Utc};
use marquee_domain::evidence::{Evidence, EvidenceKind, clean};
use marquee_domain::gpu::{GpuProcess, GpuReading, GpuSample, XidError};

use crate::convert::{datetime, timestamp};
use crate::v1;

/// A reading of the other side: the same fields, but for the times in it.
macro_rules! reading {
    ($from:ident, $at:expr, $evidence:expr) => {
        Self {
            at: $at($from.at),
            xids: $from.xids.into_iter().map(Into::into).collect(),
            processes: $from.processes.into_iter().map(Into::into).collect(),
            index: $from.index,
            uuid: $from.uuid,
            name: $from.name,
            fault: $from.fault,
            cure: $from.cure,
            utilisation_percent: $from.utilisation_percent,
            memory_utilisation_percent: $from.memory_utilisation_percent,
            memory_used_bytes: $from.memory_used_bytes,
            memory_total_bytes: $from.memory_total_bytes,
            power_mw: $from.power_mw,
            power_limit_mw: $from.power_limit_mw,
            temperature_c: $from.temperature_c,
            slowdown_temperature_c: $from.slowdown_temperature_c,
            sm_clock_mhz: $from.sm_clock_mhz,
            sm_clock_max_mhz: $from.sm_clock_max_mhz,
            memory_clock_mhz: $from.memory_clock_mhz,
            memory_clock_max_mhz: $from.memory_clock_max_mhz,
            throttle_reasons: $from.throttle_reasons,
            fan_percent: $from.fan_percent,
            ecc_enabled: $from.ecc_enabled,
            ecc_corrected_volatile: $from.ecc_corrected_volatile,
            ecc_uncorrected_volatile: $from.ecc_uncorrected_volatile,
            ecc_corrected_aggregate: $from.ecc_corrected_aggregate,
            ecc_uncorrected_aggregate: $from.ecc_uncorrected_aggregate,
            xid_source: $from.xid_source,
            pcie_generation: $from.pcie_generation,
            pcie_generation_max: $from.pcie_generation_max,
            pcie_width: $from.pcie_width,
            pcie_width_max: $from.pcie_width_max,
            pci_bus_id: $from.pci_bus_id,
            driver_version: $from.driver_version,
            cuda_version: $from.cuda_version,
            persistence_mode: $from.persistence_mode,
            compute_mode: $from.compute_mode,
            mig_enabled: $from.mig_enabled,
            performance_state: $from.performance_state,
            evidence: $from.evidence.into_iter().filter_map($evidence).collect(),
            memory_repair_pending: $from.memory_repair_pending,
            memory_repair_failed: $from.memory_repair_failed,
        }
    };
}

impl From<GpuReading> for v1::GpuReading {
    fn from(reading: GpuReading) -> Self {
        reading!(reading, to_wire, |piece| Some(evidence_to_wire(piece)))
    }
}

impl From<v1::GpuReading> for GpuReading {
    fn from(reading: v1::GpuReading) -> Self {
        reading!(reading, from_wire, evidence_from_wire)
    }
}

/// A piece of evidence for the wire.
#[must_use]
pub fn evidence_to_wire(evidence: Evidence) -> v1::GpuEvidence {
    let Evidence {
        kind,
        code,
        first_at,
        last_at,
        count,
        text,
    } = evidence;
    v1::GpuEvidence {
        kind: kind.as_str().to_owned(),
        code,
        first_at: Some(timestamp(first_at)),
        last_at: Some(timestamp(last_at)),
        count,
        text,
    }
}

/// None of a piece of a kind that this version does not know, or without a time: it could not be told from others.
#[must_use]
pub fn evidence_from_wire(evidence: v1::GpuEvidence) -> Option<Evidence> {
    let last_at = from_wire(evidence.last_at)?;
    Some(Evidence {
        kind: EvidenceKind::from_word(&evidence.kind)?,
        code: evidence.code,
        first_at: from_wire(evidence.first_at).unwrap_or(last_at).min(last_at),
        last_at,
        count: evidence.count,
        text: clean(&evidence.text),
    })
}

impl From<XidError> for v1::XidError {
    fn from(XidError { code, at }: XidError) -> Self {
        Self {
            code,
            at: to_wire(at),
        }
    }
}

impl From<v1::XidError> for XidError {
    fn from(v1::XidError { code, at }: v1::XidError) -> Self {
        Self {
            code,
            at: from_wire(at),
        }
    }
}

impl From<GpuProcess> for v1::GpuProcess {
    fn from(process: GpuProcess) -> Self {
        let GpuProcess {
            pid,
            name,
            memory_bytes,
        } = process;
        Self {
            pid,
            name,
            memory_bytes,
        }
    }
}

impl From<v1::GpuProcess> for GpuProcess {
    fn from(process: v1::GpuProcess) -> Self {
        let v1::GpuProcess {
            pid,
            name,
            memory_bytes,
        } = process;
        Self {
            pid,
            name,
            memory_bytes,
        }
    }
}

impl From<GpuSample> for v1::GpuSample {
    fn from(sample: GpuSample) -> Self {
        let GpuSample {
            at,
            utilisation_percent,
            memory_used_bytes,
            power_mw,
            temperature_c,
            is_well,
        } = sample;
        Self {
            at_ms: at.timestamp_millis(),
            utilisation_percent,
            memory_used_bytes,
            power_mw,
            temperature_c,
            is_well,
        }
    }
}

fn to_wire(at: Option<DateTime<Utc>>) -> Option<prost_types::Timestamp> {
    at.map(timestamp)
}

/// A reading says what it says whatever its clock shows: a time that cannot be is left out, and with it the one
/// point of the GPU's past, but its fault still closes the GPU.
fn from_wire(at: Option<prost_types::Timestamp>) -> Option<DateTime<Utc>> {
    at.and_then(|at| datetime(&at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> GpuReading {
        let at = DateTime::from_timestamp(1_800_000_000, 123_000_000);
        GpuReading {
            index: 2,
            uuid: "uuid".into(),
            name: "name".into(),
            at,
            fault: "fault".into(),
            cure: "cure".into(),
            utilisation_percent: Some(8),
            memory_utilisation_percent: Some(9),
            memory_used_bytes: Some(10),
            memory_total_bytes: Some(11),
            power_mw: Some(12),
            power_limit_mw: Some(13),
            temperature_c: Some(14),
            slowdown_temperature_c: Some(15),
            sm_clock_mhz: Some(16),
            sm_clock_max_mhz: Some(17),
            memory_clock_mhz: Some(18),
            memory_clock_max_mhz: Some(19),
            throttle_reasons: vec!["power cap".into(), String::new()],
            fan_percent: Some(21),
            ecc_enabled: Some(false),
            ecc_corrected_volatile: Some(23),
            ecc_uncorrected_volatile: Some(24),
            ecc_corrected_aggregate: Some(25),
            ecc_uncorrected_aggregate: Some(26),
            xid_source: "xid_source".into(),
            xids: vec![XidError { code: 79, at }, XidError { code: 48, at: None }],
            processes: vec![
                GpuProcess {
                    pid: 7,
                    name: "träner".into(),
                    memory_bytes: Some(u64::MAX),
                },
                GpuProcess::default(),
            ],
            pcie_generation: Some(30),
            pcie_generation_max: Some(31),
            pcie_width: Some(32),
            pcie_width_max: Some(33),
            pci_bus_id: "pci_bus_id".into(),
            driver_version: "driver_version".into(),
            cuda_version: "cuda_version".into(),
            persistence_mode: Some(true),
            compute_mode: "compute_mode".into(),
            mig_enabled: Some(true),
            performance_state: "performance_state".into(),
            evidence: EvidenceKind::ALL
                .into_iter()
                .map(|kind| Evidence {
                    kind,
                    code: 79,
                    first_at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
                    last_at: DateTime::from_timestamp(1_800_000_060, 5_000).unwrap(),
                    count: u64::MAX,
                    text: "NVRM: Xid".into(),
                })
                .collect(),
            memory_repair_pending: Some(true),
            memory_repair_failed: Some(false),
        }
    }

    #[test]
    fn evidence_that_cannot_be_told_from_other_is_left_out() {
        let at = Some(timestamp(
            DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        ));
        let piece = |kind: &str, last_at| v1::GpuEvidence {
            kind: kind.into(),
            last_at,
            text: "a\nb".repeat(1_000),
            ..v1::GpuEvidence::default()
        };
        assert_eq!(evidence_from_wire(piece("of a later version", at)), None);
        assert_eq!(evidence_from_wire(piece("xid", None)), None);
        let kept = evidence_from_wire(piece("xid", at)).unwrap();
        assert_eq!(kept.first_at, kept.last_at);
        assert!(kept.text.len() <= 300 && !kept.text.contains('\n'));
    }

    #[test]
    fn every_field_comes_back_from_the_wire_as_it_went() {
        let (full, nothing) = (full(), GpuReading::default());
        assert_eq!(GpuReading::from(v1::GpuReading::from(full.clone())), full);
        assert_eq!(
            v1::GpuReading::from(nothing.clone()),
            v1::GpuReading::default()
        );
        assert_eq!(GpuReading::from(v1::GpuReading::default()), nothing);
    }

    #[test]
    fn times_that_nobody_has_are_left_out_and_the_rest_stays() {
        let odd = [
            (i64::MAX, 0),
            (i64::MIN, 0),
            (-1, 0),
            (0, -1),
            (0, i32::MAX),
            (253_402_300_800, 0),
        ];
        for (seconds, nanos) in odd {
            let at = Some(prost_types::Timestamp { seconds, nanos });
            let reading = GpuReading::from(v1::GpuReading {
                at,
                fault: "ill".into(),
                xids: vec![v1::XidError { code: u64::MAX, at }],
                ..v1::GpuReading::default()
            });
            assert_eq!(reading.at, None, "{at:?}");
            assert_eq!(reading.fault, "ill");
            let code = u64::MAX;
            assert_eq!(reading.xids, [XidError { code, at: None }], "{at:?}");
        }
        let last = prost_types::Timestamp {
            seconds: 253_402_300_799,
            nanos: 999_999_999,
        };
        assert!(from_wire(Some(last)).is_some());
    }
}
