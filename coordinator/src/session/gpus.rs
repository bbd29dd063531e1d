//! Reading what a worker's GPUs say of themselves, within bounds.
//!
//! The newest readings live in memory beside the session: they are a few seconds old at most, and
//! after a restart every worker's Hello brings them again. What outlives them are the metrics of the
//! jobs that ran on a GPU.

use marquee_proto::v1;

/// GPUs of one host; more are cut off. The largest boxes have 16, MIG aside.
const GPUS_MAX: usize = 64;
/// Bytes of a text in a reading.
const TEXT_MAX_BYTES: usize = 512;
/// Throttle reasons, processes and Xid errors of one reading, as the protocol says.
const REASONS_MAX: usize = 16;
const PROCESSES_MAX: usize = 32;
const XIDS_MAX: usize = 8;

/// Readings as they may be kept: whatever a worker sends, its entry stays small.
pub(super) fn bounded(mut readings: Vec<v1::GpuReading>) -> Vec<v1::GpuReading> {
    readings.truncate(GPUS_MAX);
    for reading in &mut readings {
        let v1::GpuReading {
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
        let too_many = reading.xids.len().saturating_sub(XIDS_MAX);
        reading.xids.drain(..too_many);
    }
    readings.sort_by_key(|reading| reading.index);
    readings.dedup_by_key(|reading| reading.index);
    readings
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
            processes: vec![v1::GpuProcess::default(); 100],
            ..v1::GpuReading::default()
        };
        let kept = bounded((0..1_000).rev().map(reading).collect());
        assert_eq!(kept.len(), GPUS_MAX);
        assert!(kept.is_sorted_by_key(|reading| reading.index));
        let first = &kept[0];
        assert_eq!(
            (first.fault.len(), first.xids.len(), first.processes.len()),
            (TEXT_MAX_BYTES, XIDS_MAX, PROCESSES_MAX)
        );
    }
}
