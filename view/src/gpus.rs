//! Every GPU of the cluster, with all that its driver tells.

mod readings;

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, GpuReading, Worker};
use serde_json::Value;

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::{json, units, words};
use readings::{NOTHING, ecc, memory, modes, of, pcie, power, temperature, text, unit, xids};

/// A reading is marked as old from this age on: the worker has missed three samples.
const OLD: Duration = Duration::from_secs(15);

/// The GPUs of all workers.
#[derive(Debug)]
pub struct Gpus<'a>(pub &'a [Worker]);

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
            // A device that fell off the bus is missing from the inventory of a restarted worker, and its reading
            // says why.
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

impl View for Gpus<'_> {
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

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.all()
            .iter()
            .map(|gpu| json::gpu(gpu.worker, gpu.index, gpu.name, gpu.reading))
            .collect()
    }

    fn ids(&self) -> Vec<String> {
        // As "marquee quarantine" takes it.
        let id = |gpu: &Gpu<'_>| format!("{}/{}", gpu.worker.name, gpu.index);
        self.all().iter().map(id).collect()
    }
}

impl Gpu<'_> {
    /// The first two columns of every table.
    fn head(&self) -> [Cell; 2] {
        [
            toned(self.worker.name.as_str(), Tone::Strong),
            self.index.to_string().into(),
        ]
    }

    /// The name without the maker's, which all share.
    fn short_name(&self) -> &str {
        self.name.strip_prefix("NVIDIA ").unwrap_or(self.name)
    }

    fn health(&self, now: DateTime<Utc>) -> Cell {
        // What a worker said before it went says nothing of now.
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
        let Some(at) = units::time(reading.at.as_ref()) else {
            return toned("not read yet", Tone::Faint);
        };
        let age = units::between(at, now);
        if age >= OLD {
            return toned(format!("read {} ago", units::about(age)), Tone::Warn);
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
    page.table(heads, gpus.iter().map(row).collect());
}

fn details(page: &mut Page, gpus: &[Gpu<'_>]) {
    // Before its first sample a worker sends what its inventory says, without a time: nothing was read yet.
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
    page.table(heads, read.iter().map(row).collect());

    // A table of its own: with the columns above in one, it would fit no terminal.
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
    page.table(heads, read.iter().map(row).collect());
}

fn processes(page: &mut Page, gpus: &[Gpu<'_>]) {
    let row = |gpu: &Gpu<'_>, process: &v1::GpuProcess| {
        let [worker, index] = gpu.head();
        let memory = process.memory_bytes.map_or(NOTHING.into(), units::bytes);
        vec![
            worker,
            index,
            process.pid.to_string().into(),
            text(&process.name),
            memory.into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = gpus
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
    page.table(heads, rows);
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

#[cfg(test)]
mod tests {
    use crate::samples::{gpu_workers, now};

    use super::*;

    #[test]
    fn programs_get_every_figure_and_null_for_what_is_not_told() {
        let workers = gpu_workers();
        let gpus = Gpus(&workers);
        let json = gpus.json(now());
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
