//! Reading what a worker's GPUs say of themselves, within bounds.
//!
//! The newest readings live in memory beside the session: they are a few seconds old at most, and
//! after a restart every worker's Hello brings them again. What outlives them are the metrics of the
//! jobs that ran on a GPU.

use marquee_domain::evidence::EVIDENCE_MAX;
use marquee_domain::gpu::GpuReading;
use marquee_domain::limits::{HOST_GPUS_MAX, HOST_MEMORY_MAX_BYTES};
use marquee_proto::v1;

/// GPUs of one host; more are cut off.
const GPUS_MAX: usize = HOST_GPUS_MAX;
/// A share in percent. Some fans turn faster than their rating.
const PERCENT_MAX: u32 = 200;
/// Bytes of a text in a reading.
const TEXT_MAX_BYTES: usize = 512;
/// Throttle reasons, processes and Xid errors of one reading, as the protocol says.
const REASONS_MAX: usize = 16;
const PROCESSES_MAX: usize = 32;
const XIDS_MAX: usize = 8;

/// Readings as they may be kept: whatever a worker sends, its entry stays small.
pub(super) fn bounded(readings: Vec<v1::GpuReading>) -> Vec<GpuReading> {
    let few = readings.into_iter().take(GPUS_MAX);
    let mut readings: Vec<GpuReading> = few.map(GpuReading::from).collect();
    for reading in &mut readings {
        let GpuReading {
            uuid,
            name,
            fault,
            cure,
            xid_source,
            pci_bus_id,
            driver_version,
            cuda_version,
            compute_mode,
            performance_state,
            ..
        } = reading;
        for text in [
            uuid,
            name,
            fault,
            cure,
            xid_source,
            pci_bus_id,
            driver_version,
            cuda_version,
            compute_mode,
            performance_state,
        ] {
            cut(text);
        }
        reading.throttle_reasons.truncate(REASONS_MAX);
        reading.throttle_reasons.iter_mut().for_each(cut);
        reading.processes.truncate(PROCESSES_MAX);
        reading.processes.iter_mut().for_each(|p| cut(&mut p.name));
        // The oldest go: the last error tells most of what is wrong.
        let too_many = reading.xids.len().saturating_sub(XIDS_MAX);
        reading.xids.drain(..too_many);
        reading.evidence.truncate(EVIDENCE_MAX);
        believable(reading);
    }
    // One entry a GPU, whatever was sent.
    readings.sort_by_key(|reading| reading.index);
    readings.dedup_by_key(|reading| reading.index);
    readings
}

/// Leaves out numbers that no GPU has, as the conversion did with times: what shows them need not reckon with them.
fn believable(reading: &mut GpuReading) {
    let percent = |value: &mut Option<u32>| *value = value.filter(|value| *value <= PERCENT_MAX);
    percent(&mut reading.utilisation_percent);
    percent(&mut reading.memory_utilisation_percent);
    percent(&mut reading.fan_percent);
    let bytes = |value: &mut Option<u64>| {
        *value = value.filter(|value| *value <= HOST_MEMORY_MAX_BYTES);
    };
    bytes(&mut reading.memory_used_bytes);
    bytes(&mut reading.memory_total_bytes);
    for process in &mut reading.processes {
        bytes(&mut process.memory_bytes);
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_MAX_BYTES));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_sends_too_much_is_cut_short_and_sorted() {
        let reading = |index| v1::GpuReading {
            index,
            fault: "x".repeat(10_000),
            xids: vec![v1::XidError::default(); 20],
            evidence: vec![
                v1::GpuEvidence {
                    kind: "xid".into(),
                    last_at: Some(prost_types::Timestamp::default()),
                    text: "x".repeat(10_000),
                    ..v1::GpuEvidence::default()
                };
                100
            ],
            processes: vec![v1::GpuProcess::default(); 100],
            utilisation_percent: Some(u32::MAX),
            fan_percent: Some(110),
            memory_used_bytes: Some(u64::MAX),
            at: Some(marquee_proto::convert::timestamp(
                chrono::DateTime::<chrono::Utc>::MAX_UTC,
            )),
            ..v1::GpuReading::default()
        };
        let kept = bounded((0..1_000).rev().map(reading).collect());
        assert_eq!(kept.len(), GPUS_MAX);
        assert!(kept.is_sorted_by_key(|reading| reading.index));
        let first = &kept[0];
        assert_eq!(
            (first.utilisation_percent, first.fan_percent),
            (None, Some(110))
        );
        assert_eq!((first.memory_used_bytes, first.at), (None, None));
        assert_eq!(
            (first.fault.len(), first.xids.len(), first.processes.len()),
            (TEXT_MAX_BYTES, XIDS_MAX, PROCESSES_MAX)
        );
        assert_eq!(first.evidence.len(), EVIDENCE_MAX);
        assert!(
            first
                .evidence
                .iter()
                .all(|piece| piece.text.len() <= TEXT_MAX_BYTES)
        );
    }
}
