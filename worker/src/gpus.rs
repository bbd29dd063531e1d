//! What this host's GPUs say of themselves, while the daemon lives: for the coordinator's listings,
//! for running jobs' metrics, and to keep new ranks off a GPU that is ill.
//!
//! Invariant: NVML is asked by one thread (`sampler`) that nobody waits for. A device is ill when
//! it does not answer, has an uncorrectable ECC error, fell off the bus or is slowed down by its hardware for
//! heat; it is well again when it answers again. What must not be forgotten by then is evidence (`book`). Not here: judging whether a job may use a device (the coordinator's scheduler).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use marquee_domain::gpu::GpuReading;
use marquee_domain::ids::BootId;
use marquee_domain::resources::GpuInfo;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

mod book;
mod health;
pub mod nvml;
pub mod parts;
mod sampler;
pub mod series;
pub mod visible;
mod xid;

use book::Book;
pub(crate) use book::kept_evidence;
use health::History;
use nvml_wrapper::Nvml;
use sampler::Sampler;

/// How often NVML is asked. A person who watches sees changes as they come, an ill GPU is known
/// soon after, and some dozens of calls of microseconds cost no training step anything.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// A sampler that is silent for this long hangs in the driver: four samples are missing.
const STALE_AFTER: Duration = Duration::from_secs(20);
/// How long NVML may take for a first look: without persistence mode it wakes each GPU up.
pub const NVML_START_MAX: Duration = Duration::from_secs(60);
/// No device is being asked.
const NOT_AT_WORK: u32 = u32::MAX;

/// The newest readings of all devices.
#[derive(Debug, Clone, Default)]
struct Sample {
    readings: Vec<GpuReading>,
    /// None before the first.
    taken: Option<Instant>,
}

/// A handle on the readings.
#[derive(Debug, Clone)]
pub struct Gpus {
    newest: watch::Receiver<Sample>,
    asking: Arc<AtomicU32>,
    started: Instant,
    is_empty: bool,
}

impl Gpus {
    /// Starts to sample, and keeps in the data folder what speaks against a GPU; without GPUs there is nothing to start.
    #[must_use]
    pub fn start(gpus: &[GpuInfo], data_dir: &Path, boot: BootId) -> Self {
        // Named before anything is asked: a GPU whose driver never answers is listed too.
        let readings = gpus.iter().map(|gpu| GpuReading {
            index: gpu.index,
            uuid: gpu.uuid.clone(),
            name: gpu.name.clone(),
            memory_total_bytes: Some(gpu.memory_bytes),
            ..GpuReading::default()
        });
        let first = Sample {
            readings: readings.collect(),
            taken: None,
        };
        let (out, newest) = watch::channel(first);
        let asking = Arc::new(AtomicU32::new(NOT_AT_WORK));
        if !gpus.is_empty() {
            let book = Book::open(data_dir, &boot.to_string());
            let sampler = Sampler::new(gpus, out, Arc::clone(&asking), book);
            let thread = std::thread::Builder::new().name("nvml".into());
            if let Err(error) = thread.spawn(move || sampler.run()) {
                error!(%error, "no thread for NVML: GPUs are not watched");
            }
        }
        Self {
            newest,
            asking,
            started: Instant::now(),
            is_empty: gpus.is_empty(),
        }
    }

    /// Whether the host has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The newest readings; if they are old, each says that NVML hangs.
    #[must_use]
    pub fn readings(&self) -> Vec<GpuReading> {
        let sample = self.newest.borrow().clone();
        // A driver that hangs at the first question gives no sample at all: then the time runs from the start.
        let age = sample.taken.unwrap_or(self.started).elapsed();
        let mut readings = sample.readings;
        if age >= STALE_AFTER {
            // The number is for a message alone: nothing else is read on the strength of it.
            let asking = self.asking.load(Ordering::Relaxed);
            readings
                .iter_mut()
                .for_each(|reading| mark_stale(reading, asking));
        }
        readings
    }

    /// Whether what [`Self::readings`] gives was read since the daemon started.
    #[must_use]
    pub fn has_sampled(&self) -> bool {
        self.newest.borrow().taken.is_some()
    }

    /// Waits for the next sample. Never ends where there is no GPU or no sampler.
    pub async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One reading of each device, judged by itself. It may block for as long as the driver likes.
#[must_use]
pub fn look_once(nvml: &Nvml, gpus: &[GpuInfo]) -> Vec<GpuReading> {
    let driver = nvml::Driver::of(nvml);
    let look = |gpu: &GpuInfo| {
        let (mut history, now) = (History::default(), Instant::now());
        match nvml::read(nvml, gpu, &driver) {
            Ok(mut reading) => {
                history.judge(&mut reading, now);
                reading
            }
            Err(error) => {
                let mut reading = GpuReading {
                    index: gpu.index,
                    uuid: gpu.uuid.clone(),
                    ..GpuReading::default()
                };
                history.judge_silent(&mut reading, &error, now);
                reading
            }
        }
    };
    gpus.iter().map(look).collect()
}

/// One device that hangs in the driver hangs every program that counts devices, and all do.
fn mark_stale(reading: &mut GpuReading, asking: u32) {
    let seconds = STALE_AFTER.as_secs();
    let culprit = match asking {
        NOT_AT_WORK => String::new(),
        index => format!(", last asked about GPU {index}"),
    };
    reading.fault = format!("NVML has not answered for {seconds} s or more{culprit}");
    reading.cure =
        "look for \"NVRM\" in the kernel's log, reset the GPU that hangs, or restart the host"
            .into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_gpus_has_no_readings_and_no_thread() {
        let gpus = Gpus::start(&[], Path::new("/nowhere"), BootId(uuid::Uuid::nil()));
        assert!(gpus.is_empty() && !gpus.has_sampled());
        assert_eq!(gpus.readings(), []);
    }

    #[test]
    fn a_driver_that_hangs_is_named_with_the_device_it_hangs_at() {
        let mut reading = GpuReading::default();
        mark_stale(&mut reading, 3);
        assert_eq!(
            reading.fault,
            "NVML has not answered for 20 s or more, last asked about GPU 3"
        );
        mark_stale(&mut reading, NOT_AT_WORK);
        assert!(!reading.fault.contains("GPU"), "{}", reading.fault);
    }
}
