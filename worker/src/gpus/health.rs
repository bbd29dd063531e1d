//! Whether a GPU may be given new ranks now: a verdict with its cure, from what NVML and the driver
//! said of it. Pure: times are arguments. What lasts beyond that is evidence (`book`).

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::evidence;
use marquee_domain::gpu::{GpuReading, XidError};
use nvml_wrapper::error::NvmlError;
use tokio::time::Instant;

/// Xid errors kept of a device.
const XIDS_MAX: usize = 8;
/// After a fatal Xid a device must have answered for this long: it may still be on its way down.
const XID_HOLD: Duration = Duration::from_secs(60);
/// The same after it was so hot that its hardware slowed it down: a GPU that has just been let off cools within seconds, and
/// with the next rank it would be as hot again.
const HEAT_HOLD: Duration = Duration::from_secs(60);
/// How NVML's reason for that reads (`nvml`).
pub(super) const HARDWARE_HEAT: &str = "heat (hardware)";

/// What happened to a device.
#[derive(Debug, Default)]
pub(super) struct History {
    xids: VecDeque<XidError>,
    fatal: Option<Fatal>,
    /// When it was last too hot, and its temperature then.
    heat: Option<(Instant, Option<u32>)>,
}

#[derive(Debug, Clone, Copy)]
struct Fatal {
    code: u64,
    meaning: &'static str,
    /// When it was reported, or when the device last failed to answer after it.
    at: Instant,
}

impl History {
    /// An Xid that was reported `age` ago: a record of the kernel's log may be as old as the daemon's absence.
    pub(super) fn add_xid(&mut self, code: u64, at: DateTime<Utc>, age: Duration, now: Instant) {
        if self.xids.len() == XIDS_MAX {
            self.xids.pop_front();
        }
        self.xids.push_back(XidError { code, at: Some(at) });
        let Some(xid) = evidence::xid(code).filter(|_| age < XID_HOLD) else {
            return;
        };
        self.fatal = Some(Fatal {
            code,
            meaning: xid.meaning,
            at: now.checked_sub(age).unwrap_or(now),
        });
    }

    pub(super) fn xids(&self) -> Vec<XidError> {
        self.xids.iter().copied().collect()
    }

    /// The verdict on a device that answered.
    pub(super) fn judge(&mut self, reading: &mut GpuReading, now: Instant) {
        if self
            .fatal
            .is_some_and(|fatal| now.duration_since(fatal.at) >= XID_HOLD)
        {
            self.fatal = None;
        }
        let slowed = reading.throttle_reasons.iter();
        if slowed.clone().any(|reason| reason == HARDWARE_HEAT) {
            self.heat = Some((now, reading.temperature_c));
        }
        self.heat = self
            .heat
            .filter(|(at, _)| now.duration_since(*at) < HEAT_HOLD);
        // First: it stays until a reset, while the hold after an Xid ends by itself.
        let uncorrected = reading.ecc_uncorrected_volatile.unwrap_or(0);
        if uncorrected > 0 {
            let plural = if uncorrected == 1 { "" } else { "s" };
            reading.fault = format!(
                "{uncorrected} uncorrectable ECC error{plural} since the driver was loaded"
            );
            reading.cure = format!("{}; if they come back, replace the card", reset(reading));
        } else if reading.memory_repair_failed == Some(true) {
            reading.fault = "a row of its memory could not be remapped".to_owned();
            reading.cure = format!("{}; if it stays, replace the card", reset(reading));
        } else if reading.memory_repair_pending == Some(true) {
            reading.fault =
                "rows of its memory wait to be remapped, or pages to be retired".to_owned();
            reading.cure = reset(reading);
        } else if let Some(Fatal { code, meaning, .. }) = self.fatal {
            reading.fault = format!("Xid {code}: {meaning}");
            reading.cure = reset(reading);
        } else if let Some((_, temperature)) = self.heat {
            let degrees = temperature.map_or(String::new(), |c| format!(" at {c} °C"));
            reading.fault = format!("too hot: its hardware slowed it down{degrees}");
            reading.cure = format!(
                "look after its fans, its power limit and the air of the room; it is offered again {} s after it was hot last",
                HEAT_HOLD.as_secs()
            );
        }
    }

    /// The verdict on a device that did not.
    pub(super) fn judge_silent(
        &mut self,
        reading: &mut GpuReading,
        error: &NvmlError,
        now: Instant,
    ) {
        let xid = self.fatal.as_mut().map(|fatal| {
            fatal.at = now;
            format!(" (Xid {}: {})", fatal.code, fatal.meaning)
        });
        reading.fault = format!("does not answer NVML: {error}{}", xid.unwrap_or_default());
        reading.cure = if is_the_drivers(error) {
            "load the driver that belongs to the installed library: restart the host after a driver's upgrade".into()
        } else {
            reset(reading)
        };
    }
}

/// Whether no device is to blame for an answer, and resetting one would mend nothing.
pub(super) fn is_the_drivers(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::DriverNotLoaded
            | NvmlError::LibRmVersionMismatch
            | NvmlError::LibloadingError(_)
            | NvmlError::Uninitialized
    )
}

fn reset(reading: &GpuReading) -> String {
    let id = if reading.uuid.is_empty() {
        reading.index.to_string()
    } else {
        reading.uuid.clone()
    };
    format!("reset it with \"nvidia-smi --gpu-reset -i {id}\" as root, or restart the host")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(history: &mut History, mut reading: GpuReading, now: Instant) -> String {
        history.judge(&mut reading, now);
        assert_eq!(reading.fault.is_empty(), reading.cure.is_empty());
        reading.fault
    }

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    #[test]
    fn a_device_is_held_for_a_while_after_it_fell_off_the_bus() {
        let (mut history, start) = (History::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        history.add_xid(79, at(), Duration::ZERO, start);
        let well = GpuReading::default;
        assert_eq!(
            judged(&mut history, well(), after(59)),
            "Xid 79: the GPU has fallen off the bus"
        );
        let mut silent = well();
        history.judge_silent(&mut silent, &NvmlError::GpuLost, after(59));
        assert!(silent.fault.contains("fallen off the bus"), "{silent:?}");
        assert!(silent.fault.contains("(Xid 79"), "{silent:?}");
        // The time runs from its last silence.
        assert_ne!(judged(&mut history, well(), after(118)), "");
        assert_eq!(judged(&mut history, well(), after(119)), "");
    }

    #[test]
    fn an_xid_of_long_ago_holds_nothing() {
        let (mut history, start) = (History::default(), Instant::now());
        let hour = Duration::from_secs(3_600);
        history.add_xid(79, at(), hour, start);
        assert_eq!(judged(&mut history, GpuReading::default(), start), "");
        assert_eq!(history.xids().len(), 1, "it is told all the same");
        // One of 50 s ago for another 10.
        let later = start + hour;
        history.add_xid(79, at(), Duration::from_secs(50), later);
        let after = |seconds| later + Duration::from_secs(seconds);
        assert_ne!(judged(&mut history, GpuReading::default(), after(9)), "");
        assert_eq!(judged(&mut history, GpuReading::default(), after(10)), "");
    }

    #[test]
    fn memory_that_waits_for_its_repair_is_used_by_nobody_before() {
        let mut history = History::default();
        let reading = |pending, failed| GpuReading {
            memory_repair_pending: pending,
            memory_repair_failed: failed,
            ..GpuReading::default()
        };
        let now = Instant::now();
        assert_eq!(
            judged(&mut history, reading(Some(false), Some(false)), now),
            ""
        );
        let pending = judged(&mut history, reading(Some(true), Some(false)), now);
        assert!(pending.contains("wait to be remapped"), "{pending}");
        let failed = judged(&mut history, reading(Some(true), Some(true)), now);
        assert!(failed.contains("could not be remapped"), "{failed}");
    }

    #[test]
    fn an_uncorrectable_error_counts_until_the_counter_is_reset() {
        let mut history = History::default();
        let reading = |count| GpuReading {
            ecc_uncorrected_volatile: Some(count),
            ecc_uncorrected_aggregate: Some(9),
            ..GpuReading::default()
        };
        let now = Instant::now();
        assert!(judged(&mut history, reading(1), now).starts_with("1 uncorrectable ECC error "));
        assert_eq!(judged(&mut history, reading(0), now), "");
    }

    #[test]
    fn one_that_its_hardware_slows_down_for_heat_is_held_until_it_has_been_cool_for_a_while() {
        let (mut history, start) = (History::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let reading = |reason: &str| GpuReading {
            temperature_c: Some(97),
            throttle_reasons: vec![reason.to_owned()],
            ..GpuReading::default()
        };
        // To be slowed down by the driver for heat or power is a day's work.
        for usual in ["heat (software)", "power cap"] {
            assert_eq!(judged(&mut history, reading(usual), start), "");
        }
        let hot = judged(&mut history, reading(HARDWARE_HEAT), start);
        assert_eq!(hot, "too hot: its hardware slowed it down at 97 °C");
        let cool = || reading("power cap");
        assert_ne!(judged(&mut history, cool(), after(59)), "");
        assert_eq!(judged(&mut history, cool(), after(60)), "");
        // What is worse goes before.
        history.add_xid(79, at(), Duration::ZERO, after(61));
        let both = judged(&mut history, reading(HARDWARE_HEAT), after(61));
        assert!(both.starts_with("Xid 79"), "{both}");
    }

    #[test]
    fn programs_errors_are_kept_and_forgiven_and_their_number_is_bounded() {
        let mut history = History::default();
        for _ in 0..2 * XIDS_MAX {
            history.add_xid(31, at(), Duration::ZERO, Instant::now());
        }
        assert_eq!(history.xids().len(), XIDS_MAX);
        assert_eq!(
            judged(&mut history, GpuReading::default(), Instant::now()),
            ""
        );
    }
}
