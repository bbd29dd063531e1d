//! The thread that asks NVML, again and again, and publishes what it hears.
//!
//! Invariant: nobody waits for it. A driver that hangs holds up this thread alone; who reads sees
//! from a sample's age that nothing new came ([`super::Gpus`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use marquee_domain::env::Clock as _;
use marquee_domain::gpu::GpuReading;
use marquee_domain::resources::GpuInfo;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::health::History;
use super::nvml::{self, Driver};
use super::xid::{KernelLog, is_same_bus};
use super::{NOT_AT_WORK, SAMPLE_EVERY, Sample};
use crate::clock::SystemClock;

/// While a device does not answer, the library is opened anew this often: a device that was reset
/// or a driver that was loaded is only seen through a new one.
const REOPEN_EVERY: Duration = Duration::from_secs(30);

/// One device with what happened to it.
#[derive(Debug)]
struct Watched {
    gpu: GpuInfo,
    history: History,
    /// Its bus, from when it last answered.
    bus: String,
    fault: String,
}

#[derive(Debug)]
pub(super) struct Sampler {
    devices: Vec<Watched>,
    out: watch::Sender<Sample>,
    /// Index of the device that is being asked.
    asking: Arc<AtomicU32>,
}

impl Sampler {
    pub(super) fn new(
        gpus: &[GpuInfo],
        out: watch::Sender<Sample>,
        asking: Arc<AtomicU32>,
    ) -> Self {
        let devices = gpus.iter().map(|gpu| Watched {
            gpu: gpu.clone(),
            history: History::default(),
            bus: String::new(),
            fault: String::new(),
        });
        Self {
            devices: devices.collect(),
            out,
            asking,
        }
    }

    /// Samples for as long as anybody listens.
    pub(super) fn run(mut self) {
        while !self.out.is_closed() {
            match Nvml::init() {
                Ok(nvml) => self.watch(&nvml),
                Err(error) => {
                    let readings = self.silent(&error);
                    self.publish(readings);
                    std::thread::sleep(REOPEN_EVERY);
                }
            }
        }
    }

    /// Samples through one opened library, until it should be opened anew.
    fn watch(&mut self, nvml: &Nvml) {
        let driver = Driver::of(nvml);
        let mut xids = Xids::of(nvml, &self.devices);
        let opened = Instant::now();
        while !self.out.is_closed() {
            let since = Instant::now();
            let (readings, all_answer) = self.sample(nvml, &driver, xids.source());
            self.publish(readings);
            if !all_answer && opened.elapsed() >= REOPEN_EVERY {
                return;
            }
            // What the sampling took is part of the period.
            xids.collect_until(since + SAMPLE_EVERY, &mut self.devices);
        }
    }

    /// Reads every device. Whether all of them answered.
    fn sample(
        &mut self,
        nvml: &Nvml,
        driver: &Driver,
        xid_source: &str,
    ) -> (Vec<GpuReading>, bool) {
        let mut all_answer = true;
        let mut readings = Vec::with_capacity(self.devices.len());
        for device in &mut self.devices {
            // Noted before it is asked: if the driver never comes back, this is the GPU to name.
            self.asking.store(device.gpu.index, Ordering::Relaxed);
            let answer = nvml::read(nvml, &device.gpu, driver);
            let now = Instant::now();
            let mut reading = match answer {
                Ok(mut reading) => {
                    device.bus.clone_from(&reading.pci_bus_id);
                    device.history.judge(&mut reading, now);
                    reading
                }
                Err(error) => {
                    all_answer = false;
                    device.silent(&error, now)
                }
            };
            reading.xids = device.history.xids();
            reading.xid_source = xid_source.to_owned();
            reading.at = Some(SystemClock.now());
            readings.push(reading);
        }
        self.asking.store(NOT_AT_WORK, Ordering::Relaxed);
        (readings, all_answer)
    }

    fn silent(&mut self, error: &NvmlError) -> Vec<GpuReading> {
        let now = Instant::now();
        let at = Some(SystemClock.now());
        let silent = |device: &mut Watched| GpuReading {
            at,
            ..device.silent(error, now)
        };
        self.devices.iter_mut().map(silent).collect()
    }

    fn publish(&mut self, readings: Vec<GpuReading>) {
        for (device, reading) in self.devices.iter_mut().zip(&readings) {
            if device.fault == reading.fault {
                continue;
            }
            let (gpu, name) = (device.gpu.index, &device.gpu.name);
            if reading.fault.is_empty() {
                info!(gpu, name, "the GPU is well again and offered to new ranks");
            } else {
                warn!(gpu, name, fault = %reading.fault, cure = %reading.cure,
                    "the GPU is not offered to new ranks");
            }
            device.fault.clone_from(&reading.fault);
        }
        self.out.send_replace(Sample {
            readings,
            taken: Some(Instant::now()),
        });
    }
}

impl Watched {
    fn silent(&mut self, error: &NvmlError, now: Instant) -> GpuReading {
        let mut reading = GpuReading {
            index: self.gpu.index,
            uuid: self.gpu.uuid.clone(),
            name: self.gpu.name.clone(),
            pci_bus_id: self.bus.clone(),
            memory_total_bytes: Some(self.gpu.memory_bytes),
            ..GpuReading::default()
        };
        self.history.judge_silent(&mut reading, error, now);
        reading
    }
}

/// Where Xid errors are heard.
enum Xids<'nvml> {
    Events(EventSet<'nvml>),
    KernelLog(KernelLog),
    Unreadable,
}

impl<'nvml> Xids<'nvml> {
    fn of(nvml: &'nvml Nvml, devices: &[Watched]) -> Self {
        match Self::events(nvml, devices) {
            Some(set) => Self::Events(set),
            None => KernelLog::open().map_or(Self::Unreadable, Self::KernelLog),
        }
    }

    /// None where no device supports them.
    fn events(nvml: &'nvml Nvml, devices: &[Watched]) -> Option<EventSet<'nvml>> {
        let mut set = nvml.create_event_set().ok()?;
        let mut any = false;
        for watched in devices {
            let Ok(device) = nvml.device_by_uuid(watched.gpu.uuid.as_str()) else {
                continue;
            };
            let supported = device
                .supported_event_types()
                .unwrap_or(EventTypes::empty());
            if supported.contains(EventTypes::CRITICAL_XID_ERROR) {
                // A device that refuses takes the set with it, and Xids of all devices come from
                // the kernel's log.
                set = device
                    .register_events(EventTypes::CRITICAL_XID_ERROR, set)
                    .ok()?;
                any = true;
            }
        }
        any.then_some(set)
    }

    fn source(&self) -> &'static str {
        match self {
            Self::Events(_) => "events",
            Self::KernelLog(_) => "kernel log",
            Self::Unreadable => "",
        }
    }

    /// Listens until `end`, or until the first Xid: what it did to the device is sampled at once.
    fn collect_until(&mut self, end: Instant, devices: &mut [Watched]) {
        let left = || end.saturating_duration_since(Instant::now());
        match self {
            Self::Events(set) => {
                let wait_ms = u32::try_from(left().as_millis()).unwrap_or(u32::MAX);
                match set.wait(wait_ms) {
                    Ok(event) => {
                        let uuid = event.device.uuid().unwrap_or_default();
                        let code = match event.event_data {
                            Some(XidError::Value(code)) => code,
                            Some(XidError::Unknown) | None => 0,
                        };
                        note(devices, code, |watched| watched.gpu.uuid == uuid);
                    }
                    // A lost device ends every wait at once; the pause must not end with it.
                    Err(_) => std::thread::sleep(left()),
                }
            }
            Self::KernelLog(log) => {
                std::thread::sleep(left());
                for (bus, code) in log.news() {
                    note(devices, code, |watched| is_same_bus(&watched.bus, &bus));
                }
            }
            Self::Unreadable => std::thread::sleep(left()),
        }
    }
}

fn note(devices: &mut [Watched], code: u64, is_meant: impl Fn(&Watched) -> bool) {
    for watched in devices.iter_mut().filter(|watched| is_meant(watched)) {
        warn!(gpu = watched.gpu.index, name = %watched.gpu.name, xid = code, "the driver reports an Xid error");
        watched
            .history
            .add_xid(code, SystemClock.now(), Instant::now());
    }
}
