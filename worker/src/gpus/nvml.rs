//! NVML asked about one device: everything that `nvidia-smi` shows of it.
//!
//! Invariant: what a device or an old driver cannot tell is unset, never an error; only an answer
//! that means "this device is not there any more" is. The library is opened when the process runs,
//! so the daemon starts on hosts without it.

use std::path::Path;
use std::process::Command;

use marquee_domain::gpu::{GpuProcess, GpuReading};
use marquee_domain::resources::{GpuInfo, GpuPart, PartKind};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, ComputeMode, EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};

use super::health::HARDWARE_HEAT;

/// Processes listed of one device: more share no GPU that trains.
pub(super) const PROCESSES_MAX: usize = 32;
/// Bytes of a process's path that are asked for.
const PROCESS_NAME_MAX: usize = 256;

/// NVML's numbers for whether rows wait to be remapped, and whether a remap failed (NVML_FI_DEV_REMAPPED_PENDING and
/// _FAILURE in `nvml.h`).
const REMAP_PENDING: FieldId = FieldId(144);
const REMAP_FAILED: FieldId = FieldId(145);

/// The UUIDs of all GPUs that NVML lists; None where one does not tell its own.
#[must_use]
pub(super) fn uuids(nvml: &Nvml) -> Option<Vec<String>> {
    let count = nvml.device_count().ok()?;
    let uuid = |index| nvml.device_by_index(index).ok()?.uuid().ok();
    (0..count).map(uuid).collect()
}

/// The GPU that a device is a part of, or the device itself.
pub(super) fn whole<'nvml>(device: Device<'nvml>, gpu: &GpuInfo) -> Device<'nvml> {
    match gpu.part.map(|part| part.kind) {
        Some(PartKind::Mig) => device.mig_parent_device().unwrap_or(device),
        Some(PartKind::Share) | None => device,
    }
}

/// Every GPU of the host, or why there is no knowing.
pub fn devices(nvml: &Nvml) -> Vec<Result<GpuInfo, (u32, NvmlError)>> {
    let count = nvml.device_count().unwrap_or(0);
    (0..count)
        .map(|index| info(nvml, index).map_err(|error| (index, error)))
        .collect()
}

fn info(nvml: &Nvml, index: u32) -> Result<GpuInfo, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let capability = device.cuda_compute_capability()?;
    let part = |n: i32| u32::try_from(n).unwrap_or(0);
    let uuid = device.uuid()?;
    let memory_bytes = match device.memory_info() {
        Ok(memory) => memory.total,
        // Drivers before 510 (a Tesla K80 has 470 at most) lack the call that the wrapper makes.
        Err(NvmlError::FailedToLoadSymbol(_)) => memory_by_smi(&uuid).unwrap_or(0),
        Err(error) => return Err(error),
    };
    Ok(GpuInfo {
        index,
        name: device.name()?,
        memory_bytes,
        compute_capability: (part(capability.major), part(capability.minor)),
        part: None,
        uuid,
    })
}

/// The MIG instances of a GPU, as devices without numbers of their own yet. None: MIG is off, or nothing that this GPU
/// or its driver knows.
#[must_use]
pub fn instances(nvml: &Nvml, gpu: &GpuInfo) -> Option<Vec<GpuInfo>> {
    let device = nvml.device_by_index(gpu.index).ok()?;
    let mode = device.mig_mode().ok()?;
    if mode.current == 0 {
        return None;
    }
    let slots = device.mig_device_count().unwrap_or(0);
    let instance = |slot| -> Result<GpuInfo, NvmlError> {
        let instance = device.mig_device_by_index(slot)?;
        Ok(GpuInfo {
            index: gpu.index,
            uuid: instance.uuid()?,
            name: instance.name()?,
            memory_bytes: instance.memory_info()?.total,
            compute_capability: gpu.compute_capability,
            part: Some(GpuPart {
                of: gpu.index,
                kind: PartKind::Mig,
            }),
        })
    };
    // A slot without an instance is not found.
    Some((0..slots).filter_map(|slot| instance(slot).ok()).collect())
}

/// A device's memory as the driver's own program tells it.
fn memory_by_smi(uuid: &str) -> Option<u64> {
    let arguments = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"];
    let output = Command::new("nvidia-smi")
        .args(arguments)
        .arg(format!("--id={uuid}"))
        .output()
        .ok()?;
    let mebibytes: u64 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .ok()?;
    Some(mebibytes * 1024 * 1024)
}

/// The versions that all devices share.
#[derive(Debug, Clone, Default)]
pub struct Driver {
    pub version: String,
    /// The newest CUDA that it serves, as NVML writes it: 13000 is 13.0.
    pub cuda: Option<u32>,
}

impl Driver {
    /// What the opened library says of the driver.
    #[must_use]
    pub fn of(nvml: &Nvml) -> Self {
        let cuda = nvml.sys_cuda_driver_version().ok();
        Self {
            version: nvml.sys_driver_version().unwrap_or_default(),
            cuda: cuda.and_then(|version| u32::try_from(version).ok()),
        }
    }

    /// Such as "13.0"; empty where it is not known.
    #[must_use]
    pub fn cuda_words(&self) -> String {
        self.cuda.map_or_else(String::new, cuda_words)
    }
}

/// 13000 as "13.0".
#[must_use]
pub fn cuda_words(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Reads one device. The error is the answer of a device that is not there any more.
pub(super) fn read(nvml: &Nvml, gpu: &GpuInfo, driver: &Driver) -> Result<GpuReading, NvmlError> {
    // By UUID: the library was perhaps opened anew since (`sampler`), and counts without the
    // devices that it has lost meanwhile.
    let device = nvml.device_by_uuid(gpu.uuid.as_str())?;
    let mut asked = Asked::default();
    let mut reading = GpuReading {
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        name: gpu.name.clone(),
        driver_version: driver.version.clone(),
        cuda_version: driver.cuda_words(),
        ..GpuReading::default()
    };
    // First: the load of the GPU is told by its processes where the driver has no figure of its own.
    asked.processes(nvml, &device, &mut reading);
    asked.load(gpu, &device, &mut reading);
    asked.clocks(&device, &mut reading);
    asked.errors(&device, &mut reading);
    asked.memory_repair(&device, &mut reading);
    asked.place(gpu, &device, &mut reading);
    match asked.gone {
        Some(error) => Err(error),
        None => Ok(reading),
    }
}

/// Questions to one device, with the first answer that says it is gone.
#[derive(Debug, Default)]
struct Asked {
    gone: Option<NvmlError>,
}

impl Asked {
    fn note<T>(&mut self, answer: Result<T, NvmlError>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(error) => {
                if self.gone.is_none() && means_gone(&error) {
                    self.gone = Some(error);
                }
                None
            }
        }
    }

    fn load(&mut self, gpu: &GpuInfo, device: &Device<'_>, reading: &mut GpuReading) {
        if let Some(utilisation) = self.note(device.utilization_rates()) {
            reading.utilisation_percent = Some(utilisation.gpu);
            reading.memory_utilisation_percent = Some(utilisation.memory);
        }
        match device.memory_info() {
            Ok(memory) => {
                reading.memory_used_bytes = Some(memory.used);
                reading.memory_total_bytes = Some(memory.total);
            }
            Err(NvmlError::FailedToLoadSymbol(_)) => {
                let used = reading.processes.iter().filter_map(|p| p.memory_bytes);
                reading.memory_used_bytes = Some(used.sum());
                reading.memory_total_bytes = (gpu.memory_bytes > 0).then_some(gpu.memory_bytes);
            }
            Err(error) => {
                // Every device has memory: any other refusal is a fault.
                self.gone.get_or_insert(error);
            }
        }
        reading.power_mw = self.note(device.power_usage());
        reading.power_limit_mw = self
            .note(device.enforced_power_limit())
            .or_else(|| self.note(device.power_management_limit()));
        reading.temperature_c = self.note(device.temperature(TemperatureSensor::Gpu));
        reading.slowdown_temperature_c =
            self.note(device.temperature_threshold(TemperatureThreshold::Slowdown));
        reading.fan_percent = self.note(device.fan_speed(0));
    }

    fn clocks(&mut self, device: &Device<'_>, reading: &mut GpuReading) {
        reading.sm_clock_mhz = self.note(device.clock_info(Clock::SM));
        reading.sm_clock_max_mhz = self.note(device.max_clock_info(Clock::SM));
        reading.memory_clock_mhz = self.note(device.clock_info(Clock::Memory));
        reading.memory_clock_max_mhz = self.note(device.max_clock_info(Clock::Memory));
        if let Some(reasons) = self.note(device.current_throttle_reasons()) {
            reading.throttle_reasons = throttle_words(reasons);
        }
        if let Some(state) = self.note(device.performance_state()) {
            reading.performance_state = match state.as_c() {
                state @ 0..=15 => format!("P{state}"),
                _ => String::new(),
            };
        }
    }

    fn errors(&mut self, device: &Device<'_>, reading: &mut GpuReading) {
        let ecc = self.note(device.is_ecc_enabled());
        reading.ecc_enabled = ecc.map(|mode| mode.currently_enabled);
        // NVML counts errors only where ECC is on.
        if reading.ecc_enabled != Some(true) {
            return;
        }
        let mut count = |kind, counter| self.note(device.total_ecc_errors(kind, counter));
        use {EccCounter::Aggregate, EccCounter::Volatile};
        reading.ecc_corrected_volatile = count(MemoryError::Corrected, Volatile);
        reading.ecc_uncorrected_volatile = count(MemoryError::Uncorrected, Volatile);
        reading.ecc_corrected_aggregate = count(MemoryError::Corrected, Aggregate);
        reading.ecc_uncorrected_aggregate = count(MemoryError::Uncorrected, Aggregate);
    }

    /// From Ampere on rows are remapped; before, pages were retired. Each kind of device tells of one of the two.
    fn memory_repair(&mut self, device: &Device<'_>, reading: &mut GpuReading) {
        let fields = device.field_values_for(&[REMAP_PENDING, REMAP_FAILED]);
        let mut flags = fields.into_iter().flatten().map(|field| {
            let value = field.ok()?.value.ok()?;
            Some(match value {
                SampleValue::U32(value) => value != 0,
                SampleValue::U64(value) => value != 0,
                SampleValue::I64(value) => value != 0,
                SampleValue::F64(_) => return None,
            })
        });
        let (pending, failed) = (flags.next().flatten(), flags.next().flatten());
        let retired = self.note(device.are_pages_pending_retired());
        reading.memory_repair_pending = match (pending, retired) {
            (None, None) => None,
            (pending, retired) => Some(pending == Some(true) || retired == Some(true)),
        };
        reading.memory_repair_failed = failed;
    }

    fn place(&mut self, gpu: &GpuInfo, device: &Device<'_>, reading: &mut GpuReading) {
        reading.pcie_generation = self.note(device.current_pcie_link_gen());
        reading.pcie_generation_max = self.note(device.max_pcie_link_gen());
        reading.pcie_width = self.note(device.current_pcie_link_width());
        reading.pcie_width_max = self.note(device.max_pcie_link_width());
        // By its bus the kernel's log names a GPU; an instance has none of its own.
        let bus = match gpu.part.map(|part| part.kind) {
            Some(PartKind::Mig) => device.mig_parent_device().and_then(|gpu| gpu.pci_info()),
            Some(PartKind::Share) | None => device.pci_info(),
        };
        reading.pci_bus_id = self.note(bus).map_or_else(String::new, |pci| pci.bus_id);
        reading.persistence_mode = self.note(device.is_in_persistent_mode());
        reading.compute_mode = self
            .note(device.compute_mode())
            .map_or("", compute_mode_words)
            .to_owned();
        reading.mig_enabled = self.note(device.mig_mode()).map(|mode| mode.current == 1);
    }

    fn processes(&mut self, nvml: &Nvml, device: &Device<'_>, reading: &mut GpuReading) {
        let found = match device.running_compute_processes() {
            // As with the memory: an older driver has the older call.
            Err(NvmlError::FailedToLoadSymbol(_)) => device.running_compute_processes_v2(),
            answer => answer,
        };
        let found = self.note(found).unwrap_or_default();
        reading.processes = found
            .iter()
            .take(PROCESSES_MAX)
            .map(|p| process(nvml, p))
            .collect();
    }
}

/// Whether an answer says that the device, or the whole driver, is out of reach.
fn means_gone(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::IrqIssue
            | NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::LibRmVersionMismatch
    )
}

fn process(nvml: &Nvml, process: &ProcessInfo) -> GpuProcess {
    let path = nvml.sys_process_name(process.pid, PROCESS_NAME_MAX);
    let path = path.unwrap_or_default();
    let name = Path::new(&path).file_name();
    GpuProcess {
        pid: process.pid,
        name: name.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        memory_bytes: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    }
}

fn compute_mode_words(mode: ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Default => "default",
        ComputeMode::ExclusiveThread => "exclusive thread",
        ComputeMode::Prohibited => "prohibited",
        ComputeMode::ExclusiveProcess => "exclusive process",
    }
}

/// Why clocks are held down. A GPU that idles is not held down.
fn throttle_words(reasons: ThrottleReasons) -> Vec<String> {
    [
        (ThrottleReasons::SW_POWER_CAP, "power cap"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat (software)"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, HARDWARE_HEAT),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync boost"),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "set clocks"),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display clocks"),
    ]
    .into_iter()
    .filter(|(reason, _)| reasons.contains(*reason))
    .map(|(_, words)| words.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_reasons_are_words_and_idling_is_none() {
        let heat = ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::GPU_IDLE;
        assert_eq!(throttle_words(heat), ["heat (hardware)"]);
        assert_eq!(throttle_words(ThrottleReasons::GPU_IDLE), [""; 0]);
    }

    #[test]
    fn cuda_versions_are_written_as_people_write_them() {
        assert_eq!(cuda_words(13_000), "13.0");
        assert_eq!(cuda_words(11_040), "11.4");
    }
}
