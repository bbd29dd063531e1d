//! The thread that asks NVML, again and again, and publishes what it hears.
//!
//! Invariant: nobody waits for it. A driver that hangs holds up this thread alone; who reads sees
//! from a sample's age that nothing new came ([`super::Gpus`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
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

use super::book::{Book, VANISHED_AFTER};
use super::health::{History, is_the_drivers};
use super::nvml::{self, Driver};
use super::xid::{KernelLog, Line, is_same_bus};
use super::{NOT_AT_WORK, SAMPLE_EVERY, Sample};
use crate::clock::SystemClock;
use crate::proc;

/// While a device does not answer, the library is opened anew this often: a device that was reset
/// or a driver that was loaded is only seen through a new one.
const REOPEN_EVERY: Duration = Duration::from_secs(30);

/// Least time between two samples: a program can provoke Xids by the thousand, and each would ask for one.
const SAMPLE_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// An Xid that comes again and again is logged this often.
const LOG_AGAIN_EVERY: Duration = Duration::from_secs(60);

/// One device with what happened to it.
#[derive(Debug)]
struct Watched {
    gpu: GpuInfo,
    history: History,
    /// Its bus, from when it last answered.
    bus: String,
    /// Of a part of a GPU: that GPU's, under which its Xids are told.
    whole_uuid: String,
    fault: String,
    /// Since when it does not answer, and whether that is noted as evidence.
    silent: Option<(Instant, bool)>,
    /// When an Xid was logged last, by its code, and how many were not logged since.
    logged: BTreeMap<u64, (Instant, u32)>,
}

#[derive(Debug)]
pub(super) struct Sampler {
    devices: Vec<Watched>,
    out: watch::Sender<Sample>,
    /// Index of the device that is being asked.
    asking: Arc<AtomicU32>,
    book: Book,
}

impl Sampler {
    pub(super) fn new(
        gpus: &[GpuInfo],
        out: watch::Sender<Sample>,
        asking: Arc<AtomicU32>,
        book: Book,
    ) -> Self {
        let devices = gpus.iter().map(|gpu| Watched {
            gpu: gpu.clone(),
            history: History::default(),
            bus: String::new(),
            whole_uuid: gpu.uuid.clone(),
            fault: String::new(),
            silent: None,
            logged: BTreeMap::new(),
        });
        Self {
            devices: devices.collect(),
            out,
            asking,
            book,
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
        if let Some(uuids) = nvml::uuids(nvml) {
            self.book.listed(&uuids, SystemClock.now());
        }
        let mut xids = Xids::of(nvml, &mut self.devices, &self.book);
        let opened = Instant::now();
        while !self.out.is_closed() {
            let since = Instant::now();
            let (readings, all_answer) = self.sample(nvml, &driver, xids.source());
            self.publish(readings);
            if !all_answer && opened.elapsed() >= REOPEN_EVERY {
                return;
            }
            // What the sampling took is part of the period.
            let heard = xids.collect(since + SAMPLE_AT_MOST_EVERY, since + SAMPLE_EVERY);
            for xid in heard {
                self.note(&xid);
            }
            self.book.log_read(xids.read_until());
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
                    device.silent = None;
                    self.book
                        .answered(&device.gpu.uuid, &reading, SystemClock.now());
                    device.history.judge(&mut reading, now);
                    reading
                }
                Err(error) => {
                    all_answer = false;
                    device.silent(&error, now, &mut self.book)
                }
            };
            reading.evidence = self.book.evidence(&device.gpu.uuid);
            reading.xids = device.history.xids();
            reading.xid_source = xid_source.to_owned();
            reading.at = Some(SystemClock.now());
            readings.push(reading);
        }
        self.asking.store(NOT_AT_WORK, Ordering::Relaxed);
        // Before anybody is told: what the coordinator knows, this host must not forget.
        self.book.store(Instant::now());
        (readings, all_answer)
    }

    fn silent(&mut self, error: &NvmlError) -> Vec<GpuReading> {
        let now = Instant::now();
        let at = Some(SystemClock.now());
        let book = &mut self.book;
        let silent = |device: &mut Watched| {
            let reading = device.silent(error, now, book);
            GpuReading {
                at,
                evidence: book.evidence(&device.gpu.uuid),
                ..reading
            }
        };
        let readings = self.devices.iter_mut().map(silent).collect();
        self.book.store(now);
        readings
    }

    /// Takes an Xid in: what it means for now, and what is kept of it.
    fn note(&mut self, xid: &Heard) {
        let (now, at) = (Instant::now(), SystemClock.now());
        for device in &mut self.devices {
            if !xid.of.is(device) {
                continue;
            }
            device.log(xid.code, now);
            let age = TimeDelta::from_std(xid.age).unwrap_or_default();
            let at = at.checked_sub_signed(age).unwrap_or(at);
            device.history.add_xid(xid.code, at, xid.age, now);
            self.book.xid(&device.gpu.uuid, xid.code, &xid.text, at);
        }
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
    fn silent(&mut self, error: &NvmlError, now: Instant, book: &mut Book) -> GpuReading {
        let (since, is_noted) = *self.silent.get_or_insert((now, false));
        // A driver that is not there, or is being replaced, says nothing of any device.
        if !is_noted && !is_the_drivers(error) && now.duration_since(since) >= VANISHED_AFTER {
            self.silent = Some((since, true));
            let text = format!("it does not answer NVML: {error}");
            book.vanished(&self.gpu.uuid, &text, SystemClock.now());
        }
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

impl Watched {
    /// Says of an Xid that it came, and of one that comes again and again how often.
    fn log(&mut self, code: u64, now: Instant) {
        let (gpu, name) = (self.gpu.index, &self.gpu.name);
        match self.logged.get_mut(&code) {
            Some((at, unsaid)) if now.duration_since(*at) < LOG_AGAIN_EVERY => *unsaid += 1,
            known => {
                let unsaid = known.map_or(0, |(_, unsaid)| *unsaid);
                warn!(gpu, name = %name, xid = code, unsaid, "the driver reports an Xid error");
                if self.logged.len() >= LOGGED_MAX {
                    self.logged.clear();
                }
                self.logged.insert(code, (now, 0));
            }
        }
    }
}

/// Codes of Xids of one device of which it is remembered when they were logged: there are some two hundred.
const LOGGED_MAX: usize = 256;

/// An Xid, wherever it was heard.
#[derive(Debug)]
struct Heard {
    of: Of,
    code: u64,
    /// How long ago it was reported.
    age: Duration,
    text: String,
}

/// Which device an Xid is about.
#[derive(Debug)]
enum Of {
    Uuid(String),
    Bus(String),
}

impl Of {
    fn is(&self, device: &Watched) -> bool {
        match self {
            Self::Uuid(uuid) => device.gpu.uuid == *uuid || device.whole_uuid == *uuid,
            Self::Bus(bus) => is_same_bus(&device.bus, bus),
        }
    }
}

/// Where Xid errors are heard.
enum Xids<'nvml> {
    Events(EventSet<'nvml>),
    KernelLog(KernelLog),
    Unreadable,
}

impl<'nvml> Xids<'nvml> {
    fn of(nvml: &'nvml Nvml, devices: &mut [Watched], book: &Book) -> Self {
        match Self::events(nvml, devices) {
            Some(set) => Self::Events(set),
            None => KernelLog::open(book.log_from()).map_or(Self::Unreadable, Self::KernelLog),
        }
    }

    /// None where no device supports them.
    fn events(nvml: &'nvml Nvml, devices: &mut [Watched]) -> Option<EventSet<'nvml>> {
        let mut set = nvml.create_event_set().ok()?;
        let mut any = false;
        for watched in devices {
            let Ok(device) = nvml.device_by_uuid(watched.gpu.uuid.as_str()) else {
                continue;
            };
            // Instances have no events: those of their GPU are theirs.
            let device = nvml::whole(device, &watched.gpu);
            if let Ok(uuid) = device.uuid() {
                watched.whole_uuid = uuid;
            }
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

    /// How far the kernel's log was read.
    fn read_until(&self) -> Option<u64> {
        match self {
            Self::KernelLog(log) => log.read_until(),
            Self::Events(_) | Self::Unreadable => None,
        }
    }

    /// Listens until `latest`, or from the first Xid on until `earliest`: what it did to the device is sampled at once, but
    /// not for each of a storm.
    fn collect(&mut self, earliest: Instant, latest: Instant) -> Vec<Heard> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        match self {
            Self::Events(set) => {
                let mut heard: Vec<Heard> = Vec::new();
                loop {
                    let until = if heard.is_empty() { latest } else { earliest };
                    let wait_ms = u32::try_from(left(until).as_millis()).unwrap_or(u32::MAX);
                    // Without a wait it still gives what lies ready, which could go on for ever.
                    if wait_ms == 0 || heard.len() >= HEARD_MAX {
                        std::thread::sleep(left(until));
                        return heard;
                    }
                    match set.wait(wait_ms) {
                        Ok(event) => {
                            let code = match event.event_data {
                                Some(XidError::Value(code)) => code,
                                Some(XidError::Unknown) | None => 0,
                            };
                            heard.push(Heard {
                                of: Of::Uuid(event.device.uuid().unwrap_or_default()),
                                code,
                                age: Duration::ZERO,
                                text: "told by NVML".to_owned(),
                            });
                        }
                        // A lost device ends every wait at once; the pause must not end with it.
                        Err(_) => {
                            std::thread::sleep(left(until));
                            return heard;
                        }
                    }
                }
            }
            Self::KernelLog(log) => {
                std::thread::sleep(left(latest));
                let up = proc::uptime();
                let heard = |line: Line| Heard {
                    of: Of::Bus(line.bus),
                    code: line.code,
                    age: up.map_or(Duration::ZERO, |up| up.saturating_sub(line.since_boot)),
                    text: line.text,
                };
                log.news().into_iter().map(heard).collect()
            }
            Self::Unreadable => {
                std::thread::sleep(left(latest));
                Vec::new()
            }
        }
    }
}

/// Xids taken in between two samples; the driver keeps the others for the next time.
const HEARD_MAX: usize = 10_000;
