//! `marquee workers --gpus`: every GPU of the cluster, with all that its driver tells.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, GpuReading, Worker};
use serde_json::Value;

use crate::output::table::{Entry, left, right, toned};
use crate::output::{Page, Show, Tone, json, words};

/// Shown for what a device does not tell.
const NOTHING: &str = "-";
/// A reading this old says little of now: three samples of the worker are missing.
const OLD: Duration = Duration::from_secs(15);

/// The GPUs of all workers.
pub(super) struct Gpus<'a>(pub(super) &'a [Worker]);

/// One device with what is known of it.
struct Gpu<'a> {
    worker: &'a Worker,
    index: u32,
    name: &'a str,
    reading: Option<&'a GpuReading>,
}

impl<'a> Gpus<'a> {
    /// By worker and index; also devices that were never read, and those that only a reading names.
    fn all(&self) -> Vec<Gpu<'a>> {
        let of_worker = |worker: &'a Worker| {
            let offered = worker.inventory.iter().flat_map(|host| &host.gpus);
            let mut gpus: Vec<Gpu<'a>> = offered
                .map(|gpu| Gpu {
                    worker,
                    index: gpu.index,
                    name: &gpu.name,
                    reading: worker.gpus.iter().find(|r| r.index == gpu.index),
                })
                .collect();
            for reading in &worker.gpus {
                if gpus.iter().all(|gpu| gpu.index != reading.index) {
                    gpus.push(Gpu {
                        worker,
                        index: reading.index,
                        name: &reading.name,
                        reading: Some(reading),
                    });
                }
            }
            gpus.sort_by_key(|gpu| gpu.index);
            gpus
        };
        self.0.iter().flat_map(of_worker).collect()
    }
}

impl Show for Gpus<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let gpus = self.all();
        if gpus.is_empty() {
            return;
        }
        load(page, &gpus, now);
        details(page, &gpus);
        processes(page, &gpus);
        faults(page, &gpus);
    }

    fn json(&self) -> Value {
        self.all()
            .iter()
            .map(|gpu| json::gpu(gpu.worker, gpu.index, gpu.name, gpu.reading))
            .collect()
    }

    fn ids(&self) -> Vec<String> {
        let id = |gpu: &Gpu<'_>| format!("{}/{}", gpu.worker.name, gpu.index);
        self.all().iter().map(id).collect()
    }
}

impl Gpu<'_> {
    /// The first two columns of every table.
    fn head(&self) -> [Entry; 2] {
        [
            toned(self.worker.name.as_str(), Tone::Strong),
            self.index.to_string().into(),
        ]
    }

    /// The name without the maker's, which all share.
    fn short_name(&self) -> &str {
        self.name.strip_prefix("NVIDIA ").unwrap_or(self.name)
    }

    fn health(&self, now: DateTime<Utc>) -> Entry {
        if self.worker.state() != v1::WorkerState::Online {
            let state = words::worker_state(self.worker);
            return toned(format!("worker {state}"), Tone::Faint);
        }
        let Some(reading) = self.reading else {
            return toned("not read yet", Tone::Faint);
        };
        if !reading.fault.is_empty() {
            return toned("unhealthy", Tone::Bad);
        }
        let Some(at) = words::time(reading.at.as_ref()) else {
            return toned("not read yet", Tone::Faint);
        };
        let age = words::between(at, now);
        if age >= OLD {
            return toned(format!("read {} ago", words::about(age)), Tone::Warn);
        }
        toned("healthy", Tone::Good)
    }

    fn runs(&self) -> String {
        let here = v1::device::Kind::Gpu(self.index);
        let on_it = self
            .worker
            .ranks
            .iter()
            .filter(|rank| rank.devices.iter().any(|device| device.kind == Some(here)));
        let named =
            on_it.map(|rank| format!("{} {} rank {}", rank.job_id, rank.job_name, rank.rank));
        named.collect::<Vec<_>>().join("; ")
    }
}

fn load(page: &mut Page, gpus: &[Gpu<'_>], now: DateTime<Utc>) {
    let heads = [
        left("WORKER"),
        right("GPU"),
        left("NAME"),
        right("UTIL"),
        right("MEMORY"),
        right("POWER"),
        right("TEMP"),
        left("HEALTH"),
        left("RUNS"),
    ];
    let row = |gpu: &Gpu<'_>| {
        let empty = GpuReading::default();
        let reading = gpu.reading.unwrap_or(&empty);
        let [worker, index] = gpu.head();
        vec![
            worker,
            index,
            gpu.short_name().into(),
            unit(reading.utilisation_percent, "%").into(),
            memory(reading.memory_used_bytes, reading.memory_total_bytes).into(),
            power(reading).into(),
            temperature(reading),
            gpu.health(now),
            gpu.runs().into(),
        ]
    };
    page.table(&heads, gpus.iter().map(row).collect());
}

fn details(page: &mut Page, gpus: &[Gpu<'_>]) {
    let read: Vec<(&Gpu<'_>, &GpuReading)> = gpus
        .iter()
        .filter_map(|gpu| Some((gpu, gpu.reading.filter(|reading| reading.at.is_some())?)))
        .collect();
    if read.is_empty() {
        return;
    }
    page.heading("Clocks and cooling");
    let heads = [
        left("WORKER"),
        right("GPU"),
        right("SM MHZ"),
        right("MEM MHZ"),
        left("STATE"),
        right("MEM UTIL"),
        right("FAN"),
        left("HELD DOWN BY"),
    ];
    let row = |(gpu, reading): &(&Gpu<'_>, &GpuReading)| {
        let [worker, index] = gpu.head();
        vec![
            worker,
            index,
            of(reading.sm_clock_mhz, reading.sm_clock_max_mhz).into(),
            of(reading.memory_clock_mhz, reading.memory_clock_max_mhz).into(),
            text(&reading.performance_state),
            unit(reading.memory_utilisation_percent, "%").into(),
            unit(reading.fan_percent, "%").into(),
            toned(reading.throttle_reasons.join(", "), Tone::Warn),
        ]
    };
    page.table(&heads, read.iter().map(row).collect());

    page.heading("Errors, link and modes");
    let heads = [
        left("WORKER"),
        right("GPU"),
        left("ECC NOW"),
        left("ECC EVER"),
        left("XID"),
        left("PCIE"),
        left("MODES"),
        right("DRIVER"),
        right("CUDA"),
    ];
    let row = |(gpu, reading): &(&Gpu<'_>, &GpuReading)| {
        let [worker, index] = gpu.head();
        let (now, ever) = ecc(reading);
        vec![
            worker,
            index,
            now,
            ever,
            xids(reading),
            pcie(reading).into(),
            modes(reading).into(),
            text(&reading.driver_version),
            text(&reading.cuda_version),
        ]
    };
    page.table(&heads, read.iter().map(row).collect());
}

fn processes(page: &mut Page, gpus: &[Gpu<'_>]) {
    let row = |gpu: &Gpu<'_>, process: &v1::GpuProcess| {
        let [worker, index] = gpu.head();
        let memory = process.memory_bytes.map_or(NOTHING.into(), words::bytes);
        vec![
            worker,
            index,
            process.pid.to_string().into(),
            text(&process.name),
            memory.into(),
        ]
    };
    let rows: Vec<Vec<Entry>> = gpus
        .iter()
        .flat_map(|gpu| {
            let processes = gpu.reading.iter().flat_map(|reading| &reading.processes);
            processes.map(move |process| row(gpu, process))
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    page.heading("Processes");
    let heads = [
        left("WORKER"),
        right("GPU"),
        right("PID"),
        left("PROGRAM"),
        right("MEMORY"),
    ];
    page.table(&heads, rows);
}

fn faults(page: &mut Page, gpus: &[Gpu<'_>]) {
    let ill = gpus.iter().filter_map(|gpu| {
        let reading = gpu.reading.filter(|reading| !reading.fault.is_empty())?;
        Some((gpu, reading))
    });
    let ill: Vec<_> = ill.collect();
    if ill.is_empty() {
        return;
    }
    page.heading("Not offered to new ranks");
    for (gpu, reading) in ill {
        page.line(format!(
            "{} gpu {}: {}",
            gpu.worker.name, gpu.index, reading.fault
        ));
        page.line(format!("  {}", reading.cure));
    }
}

fn text(text: &str) -> Entry {
    if text.is_empty() {
        NOTHING.into()
    } else {
        text.into()
    }
}

fn unit(value: Option<u32>, unit: &str) -> String {
    value.map_or_else(|| NOTHING.into(), |value| format!("{value} {unit}"))
}

/// `823/875`.
fn of(value: Option<u32>, most: Option<u32>) -> String {
    match (value, most) {
        (Some(value), Some(most)) => format!("{value}/{most}"),
        (Some(value), None) => value.to_string(),
        (None, _) => NOTHING.into(),
    }
}

/// `10.2/11.2 GiB`: one unit for both, so that they can be compared at a glance.
fn memory(used: Option<u64>, total: Option<u64>) -> String {
    const GIB: f64 = (1_u64 << 30) as f64;
    let gib = |bytes: u64| bytes as f64 / GIB;
    match (used, total) {
        (Some(used), Some(total)) => format!("{:.1}/{:.1} GiB", gib(used), gib(total)),
        (None, Some(total)) => format!("-/{:.1} GiB", gib(total)),
        (Some(used), None) => format!("{:.1} GiB", gib(used)),
        (None, None) => NOTHING.into(),
    }
}

fn power(reading: &GpuReading) -> String {
    let watts = |milliwatts: u32| (milliwatts + 500) / 1_000;
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
fn temperature(reading: &GpuReading) -> Entry {
    let Some(degrees) = reading.temperature_c else {
        return NOTHING.into();
    };
    let is_hot = reading
        .slowdown_temperature_c
        .is_some_and(|slow| degrees >= slow);
    if is_hot {
        toned(format!("{degrees} C hot"), Tone::Bad)
    } else {
        format!("{degrees} C").into()
    }
}

/// `3/0`: corrected and uncorrected errors, since the driver was loaded and ever.
fn ecc(reading: &GpuReading) -> (Entry, Entry) {
    if reading.ecc_enabled != Some(true) {
        let word = if reading.ecc_enabled.is_some() {
            "off"
        } else {
            NOTHING
        };
        return (word.into(), word.into());
    }
    let pair = |corrected: Option<u64>, uncorrected: Option<u64>| {
        let number = |n: Option<u64>| n.map_or_else(|| NOTHING.into(), words::count);
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

fn xids(reading: &GpuReading) -> Entry {
    if reading.xids.is_empty() {
        let word = if reading.xid_source.is_empty() {
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
fn pcie(reading: &GpuReading) -> String {
    let generation = of(reading.pcie_generation, reading.pcie_generation_max);
    let width = of(reading.pcie_width, reading.pcie_width_max);
    if generation == NOTHING && width == NOTHING {
        NOTHING.into()
    } else {
        format!("gen {generation} x{width}")
    }
}

/// What differs from how a GPU for training is usually set.
fn modes(reading: &GpuReading) -> String {
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

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;

    use super::*;

    fn cluster(now: DateTime<Utc>) -> Vec<Worker> {
        let gpu = |index, name: &str| v1::Gpu {
            index,
            name: name.into(),
            memory_bytes: 12 << 30,
            ..v1::Gpu::default()
        };
        let well = GpuReading {
            index: 0,
            name: "Tesla K80".into(),
            at: Some(timestamp(now)),
            utilisation_percent: Some(97),
            memory_utilisation_percent: Some(41),
            memory_used_bytes: Some(10_200 << 20),
            memory_total_bytes: Some(11_441 << 20),
            power_mw: Some(139_400),
            power_limit_mw: Some(149_000),
            temperature_c: Some(93),
            slowdown_temperature_c: Some(93),
            sm_clock_mhz: Some(562),
            sm_clock_max_mhz: Some(875),
            memory_clock_mhz: Some(2_505),
            memory_clock_max_mhz: Some(2_505),
            throttle_reasons: vec!["heat (hardware)".into(), "power cap".into()],
            ecc_enabled: Some(true),
            ecc_corrected_volatile: Some(3),
            ecc_uncorrected_volatile: Some(0),
            ecc_corrected_aggregate: Some(1_200),
            ecc_uncorrected_aggregate: Some(1),
            xid_source: "events".into(),
            xids: vec![v1::XidError { code: 31, at: None }],
            processes: vec![v1::GpuProcess {
                pid: 4242,
                name: "marquee-trainer".into(),
                memory_bytes: Some(10_100 << 20),
            }],
            pcie_generation: Some(3),
            pcie_generation_max: Some(3),
            pcie_width: Some(8),
            pcie_width_max: Some(16),
            driver_version: "470.256.02".into(),
            cuda_version: "11.4".into(),
            persistence_mode: Some(false),
            compute_mode: "default".into(),
            performance_state: "P0".into(),
            ..GpuReading::default()
        };
        let ill = GpuReading {
            index: 1,
            name: "Tesla K80".into(),
            at: Some(timestamp(now)),
            fault: "does not answer NVML: device fell off the bus".into(),
            cure: "reset it with \"nvidia-smi --gpu-reset -i GPU-1\" as root, or restart the host"
                .into(),
            memory_total_bytes: Some(11_441 << 20),
            ..GpuReading::default()
        };
        let rank = v1::RunningRank {
            job_id: 17,
            job_name: "train".into(),
            attempt: 1,
            rank: 1,
            devices: vec![v1::Device {
                kind: Some(v1::device::Kind::Gpu(0)),
            }],
        };
        let k80 = Worker {
            name: "gpu-03".into(),
            state: v1::WorkerState::Online.into(),
            inventory: Some(v1::Inventory {
                gpus: vec![gpu(0, "Tesla K80"), gpu(1, "Tesla K80")],
                ..v1::Inventory::default()
            }),
            gpus: vec![well, ill],
            ranks: vec![rank],
            ..Worker::default()
        };
        let lost = Worker {
            name: "gpu-04".into(),
            state: v1::WorkerState::Lost.into(),
            inventory: Some(v1::Inventory {
                gpus: vec![gpu(0, "NVIDIA H100 80GB HBM3")],
                ..v1::Inventory::default()
            }),
            ..Worker::default()
        };
        vec![k80, lost]
    }

    fn rendered(width: Option<u16>) -> String {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let mut page = Page::new(false, width);
        Gpus(&cluster(now)).page(&mut page, now);
        page.finish()
    }

    #[test]
    fn gpus_show_what_their_driver_tells() {
        insta::assert_snapshot!(rendered(Some(160)));
    }

    #[test]
    fn a_terminal_of_eighty_columns_is_not_overrun() {
        let page = rendered(Some(80));
        let tables = page.split("Not offered").next().unwrap_or_default();
        assert!(
            tables.lines().all(|line| line.chars().count() <= 80),
            "{page}"
        );
        for words in ["gpu-04", "marquee-trainer", "2505/2505"] {
            assert!(page.contains(words), "{words} in {page}");
        }
    }

    #[test]
    fn programs_get_every_figure_and_null_for_what_is_not_told() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let workers = cluster(now);
        let gpus = Gpus(&workers);
        let json = gpus.json();
        assert_eq!(json[0]["power_w"], 139.4);
        assert_eq!(json[0]["ecc"]["uncorrected_aggregate"], 1);
        assert_eq!(json[0]["processes"][0]["pid"], 4242);
        assert_eq!(json[0]["healthy"], true);
        assert_eq!(json[1]["healthy"], false);
        assert_eq!(json[1]["utilisation_percent"], Value::Null);
        assert_eq!(json[2]["worker"], "gpu-04");
        assert_eq!(json[2]["healthy"], Value::Null);
        assert_eq!(gpus.ids(), ["gpu-03/0", "gpu-03/1", "gpu-04/0"]);
    }
}
