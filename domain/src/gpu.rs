//! What one GPU says of itself. The worker reads it through NVML and judges it; the coordinator places ranks by
//! the verdict, keeps the newest readings in memory and makes figures of them.
//!
//! Invariant: what a device does not tell is None or empty, never 0. A number that means "unknown" would be drawn
//! and averaged like a measured one.

use chrono::{DateTime, Utc};

use crate::evidence::Evidence;

/// One look at one GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuReading {
    /// As in the host's inventory.
    pub index: u32,
    pub uuid: String,
    pub name: String,
    /// When it was read, by the worker's clock.
    pub at: Option<DateTime<Utc>>,
    /// Why no new rank is placed on it; empty: it is well.
    pub fault: String,
    /// What to do about `fault`.
    pub cure: String,
    /// Share of the last sample period in which a kernel ran.
    pub utilisation_percent: Option<u32>,
    /// Share of it in which memory was read or written.
    pub memory_utilisation_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_mw: Option<u32>,
    pub power_limit_mw: Option<u32>,
    pub temperature_c: Option<u32>,
    /// From here on the device slows itself down.
    pub slowdown_temperature_c: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub sm_clock_max_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub memory_clock_max_mhz: Option<u32>,
    /// Why its clocks are below their maximum, in words; empty: they are not, or it does not tell.
    pub throttle_reasons: Vec<String>,
    pub fan_percent: Option<u32>,
    /// None where the device has no ECC.
    pub ecc_enabled: Option<bool>,
    /// Since the driver was loaded.
    pub ecc_corrected_volatile: Option<u64>,
    pub ecc_uncorrected_volatile: Option<u64>,
    /// Since the device was made.
    pub ecc_corrected_aggregate: Option<u64>,
    pub ecc_uncorrected_aggregate: Option<u64>,
    /// Where Xid errors are read from: "events", "kernel log", or empty: they are not readable.
    pub xid_source: String,
    /// The newest ones, oldest first.
    pub xids: Vec<XidError>,
    pub processes: Vec<GpuProcess>,
    pub pcie_generation: Option<u32>,
    pub pcie_generation_max: Option<u32>,
    pub pcie_width: Option<u32>,
    pub pcie_width_max: Option<u32>,
    pub pci_bus_id: String,
    pub driver_version: String,
    /// The newest CUDA version that the driver serves, such as "13.0".
    pub cuda_version: String,
    pub persistence_mode: Option<bool>,
    /// "default", "exclusive process" or "prohibited".
    pub compute_mode: String,
    /// None where the device cannot be divided.
    pub mig_enabled: Option<bool>,
    /// "P0" (fastest) to "P15".
    pub performance_state: String,
    /// What speaks against it and outlasts restarts of its worker.
    pub evidence: Vec<Evidence>,
    /// Rows of its memory wait to be remapped, or pages to be retired, until it is reset; None: it does not tell.
    pub memory_repair_pending: Option<bool>,
    /// A row of its memory could not be remapped; None: it does not tell.
    pub memory_repair_failed: Option<bool>,
}

/// An error that the driver reported of a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XidError {
    pub code: u64,
    pub at: Option<DateTime<Utc>>,
}

/// A process that uses a GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuProcess {
    pub pid: u32,
    /// Of its program; empty where it may not be known.
    pub name: String,
    pub memory_bytes: Option<u64>,
}

/// What is kept of a reading to draw its past.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuSample {
    /// By the worker's clock.
    pub at: DateTime<Utc>,
    pub utilisation_percent: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub power_mw: Option<u32>,
    pub temperature_c: Option<u32>,
    /// It had no fault.
    pub is_well: bool,
}

impl GpuSample {
    /// None of a reading that does not say when it was taken: it has no place in a past.
    #[must_use]
    pub fn of(reading: &GpuReading) -> Option<Self> {
        Some(Self {
            at: reading.at?,
            utilisation_percent: reading.utilisation_percent,
            memory_used_bytes: reading.memory_used_bytes,
            power_mw: reading.power_mw,
            temperature_c: reading.temperature_c,
            is_well: reading.fault.is_empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_its_reading_and_one_without_a_time_has_no_past() {
        let at = DateTime::from_timestamp(1_800_000_000, 0);
        let cases = [
            ("", Some(0), true),
            ("Xid 79", Some(u32::MAX), false),
            ("", None, true),
        ];
        for (fault, temperature_c, is_well) in cases {
            let reading = GpuReading {
                at,
                fault: fault.into(),
                temperature_c,
                ..GpuReading::default()
            };
            let sample = GpuSample::of(&reading).unwrap();
            assert_eq!((Some(sample.at), sample.is_well), (at, is_well));
            // What was not told stays so, and 0 degrees are 0 degrees.
            assert_eq!(sample.temperature_c, temperature_c);
            assert_eq!(sample.utilisation_percent, None);
        }
        assert_eq!(GpuSample::of(&GpuReading::default()), None);
    }
}
