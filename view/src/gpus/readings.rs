//! The figures of one reading as text: each with its unit, "-" for what a device does not tell.

use marquee_proto::v1::GpuReading;

use crate::page::{Cell, Tone, toned};
use crate::units;

/// Shown for what a device does not tell.
pub(super) const NOTHING: &str = "-";

pub(super) fn text(text: &str) -> Cell {
    if text.is_empty() {
        NOTHING.into()
    } else {
        text.into()
    }
}

pub(super) fn unit(value: Option<u32>, unit: &str) -> String {
    value.map_or_else(|| NOTHING.into(), |value| format!("{value} {unit}"))
}

/// `823/875`.
pub(super) fn of(value: Option<u32>, most: Option<u32>) -> String {
    match (value, most) {
        (Some(value), Some(most)) => format!("{value}/{most}"),
        (Some(value), None) => value.to_string(),
        (None, _) => NOTHING.into(),
    }
}

/// `10.2/11.2 GiB`: one unit for both, so that they can be compared at a glance.
pub(super) fn memory(used: Option<u64>, total: Option<u64>) -> String {
    const GIB: f64 = (1_u64 << 30) as f64;
    let gib = |bytes: u64| bytes as f64 / GIB;
    match (used, total) {
        (Some(used), Some(total)) => format!("{:.1}/{:.1} GiB", gib(used), gib(total)),
        (None, Some(total)) => format!("-/{:.1} GiB", gib(total)),
        (Some(used), None) => format!("{:.1} GiB", gib(used)),
        (None, None) => NOTHING.into(),
    }
}

pub(super) fn power(reading: &GpuReading) -> String {
    // Rounded: 149.9 W at a limit of 150 W would otherwise look as if there were a watt left.
    let watts = |milliwatts: u32| milliwatts.saturating_add(500) / 1_000;
    let text = of(
        reading.power_mw.map(watts),
        reading.power_limit_mw.map(watts),
    );
    if text == NOTHING {
        text
    } else {
        format!("{text} W")
    }
}

/// In degrees Celsius; marked from where the device slows itself down.
pub(super) fn temperature(reading: &GpuReading) -> Cell {
    let Some(degrees) = reading.temperature_c else {
        return NOTHING.into();
    };
    let is_hot = reading
        .slowdown_temperature_c
        // At the device's own limit: which temperature is hot differs from one kind to the next.
        .is_some_and(|slow| degrees >= slow);
    if is_hot {
        toned(format!("{degrees} C hot"), Tone::Bad)
    } else {
        format!("{degrees} C").into()
    }
}

/// `3/0`: corrected and uncorrected errors, since the driver was loaded and ever.
pub(super) fn ecc(reading: &GpuReading) -> (Cell, Cell) {
    // Zero errors of a device that counts none would look like health.
    if reading.ecc_enabled != Some(true) {
        let word = if reading.ecc_enabled.is_some() {
            "off"
        } else {
            NOTHING
        };
        return (word.into(), word.into());
    }
    let pair = |corrected: Option<u64>, uncorrected: Option<u64>| {
        let number = |n: Option<u64>| n.map_or_else(|| NOTHING.into(), units::count);
        let tone = if uncorrected.unwrap_or(0) > 0 {
            Tone::Bad
        } else {
            Tone::Plain
        };
        toned(
            format!("{}/{}", number(corrected), number(uncorrected)),
            tone,
        )
    };
    (
        pair(
            reading.ecc_corrected_volatile,
            reading.ecc_uncorrected_volatile,
        ),
        pair(
            reading.ecc_corrected_aggregate,
            reading.ecc_uncorrected_aggregate,
        ),
    )
}

pub(super) fn xids(reading: &GpuReading) -> Cell {
    if reading.xids.is_empty() {
        let word = if reading.xid_source.is_empty() {
            // A driver whose errors cannot be read has not said that there are none.
            "not readable"
        } else {
            "none"
        };
        return toned(word, Tone::Faint);
    }
    let codes: Vec<String> = reading
        .xids
        .iter()
        .map(|xid| xid.code.to_string())
        .collect();
    toned(codes.join(", "), Tone::Warn)
}

/// `gen 3/3 x16/16`.
pub(super) fn pcie(reading: &GpuReading) -> String {
    let generation = of(reading.pcie_generation, reading.pcie_generation_max);
    let width = of(reading.pcie_width, reading.pcie_width_max);
    if generation == NOTHING && width == NOTHING {
        NOTHING.into()
    } else {
        format!("gen {generation} x{width}")
    }
}

/// What differs from how a GPU for training is usually set.
pub(super) fn modes(reading: &GpuReading) -> String {
    let mut modes = Vec::new();
    match reading.persistence_mode {
        Some(true) => modes.push("persistent"),
        Some(false) => modes.push("no persistence"),
        None => {}
    }
    if !reading.compute_mode.is_empty() && reading.compute_mode != "default" {
        modes.push(&reading.compute_mode);
    }
    if reading.mig_enabled == Some(true) {
        modes.push("MIG");
    }
    modes.join(", ")
}
