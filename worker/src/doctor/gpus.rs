//! Driver, GPUs, what the trainer has for them, the nodes in /dev, and memory shared between GPUs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use marquee_domain::doctor::Check;
use marquee_domain::evidence::Evidence;
use marquee_domain::flavour;
use marquee_domain::gpu::GpuReading;
use marquee_domain::resources::GpuInfo;
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus};

use super::trainer::Trainer;
use crate::config::Config;
use crate::gpus::nvml::{self, Driver, cuda_words};
use crate::gpus::visible::{VARIABLE, Visible, visible};
use crate::gpus::{NVML_START_MAX, kept_evidence, look_once};

/// PCI vendor of NVIDIA, and the class of display controllers, as sysfs writes them.
const NVIDIA: &str = "0x10de";
const DISPLAY_CLASS: &str = "0x03";
/// Oldest driver for each major version of CUDA that a flavour is built for (NVIDIA, "CUDA
/// Compatibility": minor versions of one major number work on the first one's driver).
const DRIVERS: [(u32, u32); 3] = [(11, 450), (12, 525), (13, 580)];

/// Looks at all of it. Gives the number of GPUs that NVML lists.
pub(super) async fn look(
    config: &Config,
    trainer: &Option<Trainer>,
    checks: &mut Vec<Check>,
) -> usize {
    let asked = tokio::task::spawn_blocking(ask_nvml);
    // A driver that hangs holds its thread up for good; the rest of the host is looked at all the same.
    let found = match tokio::time::timeout(NVML_START_MAX, asked).await {
        Ok(found) => found.unwrap_or_else(|error| Err(error.to_string())),
        Err(_) => {
            let found = format!("NVML gave no answer in {} s", NVML_START_MAX.as_secs());
            let cure =
                "look for \"NVRM\" in \"journalctl -k\"; a GPU hangs: reset it or restart the host";
            checks.push(Check::failed("driver", found, cure));
            return 0;
        }
    };
    let host = match found {
        Ok(host) => host,
        Err(why) => {
            checks.push(no_driver(&why, &nvidia_devices()));
            return 0;
        }
    };
    checks.push(driver(&host.driver, trainer.as_ref()));
    if host.gpus.is_empty() && host.silent.is_empty() {
        let cure = "see \"lspci -d 10de:\" and \"journalctl -k\" for why the driver has none";
        checks.push(Check::warning("gpus", "the driver lists no GPU", cure));
        return 0;
    }
    checks.extend(host.silent.iter().cloned());
    checks.extend(offered(&host.gpus, std::env::var(VARIABLE).ok().as_deref()));
    for gpu in &host.gpus {
        checks.push(kernels(gpu, trainer.as_ref()));
    }
    checks.extend(host.health);
    let kept = kept_evidence(&config.data_dir);
    checks.extend(host.gpus.iter().filter_map(|gpu| evidence(gpu, &kept)));
    if let Some(trainer) = trainer {
        checks.push(cuda_library(trainer));
    }
    checks.push(nodes(&host.minors));
    checks.push(host.peers);
    // Those that do not answer count too: it is a host for GPUs, and is held to what these need.
    host.gpus.len() + host.silent.len()
}

/// What NVML says, gathered in one go on a thread that may block.
struct Host {
    driver: Driver,
    gpus: Vec<GpuInfo>,
    silent: Vec<Check>,
    health: Vec<Check>,
    minors: Vec<u32>,
    peers: Check,
}

fn ask_nvml() -> Result<Host, String> {
    let nvml = Nvml::init().map_err(|error| error.to_string())?;
    let (mut gpus, mut silent) = (Vec::new(), Vec::new());
    for found in nvml::devices(&nvml) {
        match found {
            Ok(gpu) => gpus.push(gpu),
            Err((index, error)) => silent.push(Check::failed(
                format!("gpu {index}"),
                format!("does not answer NVML: {error}"),
                format!("reset it with \"nvidia-smi --gpu-reset -i {index}\" as root, or restart the host"),
            )),
        }
    }
    let health = look_once(&nvml, &gpus).iter().map(health).collect();
    // The nodes in /dev go by minor numbers, which need not be those that NVML counts by.
    let minor = |gpu: &GpuInfo| nvml.device_by_index(gpu.index).ok()?.minor_number().ok();
    let minors = gpus.iter().filter_map(minor).collect();
    Ok(Host {
        driver: Driver::of(&nvml),
        peers: peers(&nvml, &gpus),
        gpus,
        silent,
        health,
        minors,
    })
}

/// Which GPUs a daemon with this environment would offer; nothing where that is all of them.
fn offered(gpus: &[GpuInfo], list: Option<&str>) -> Option<Check> {
    let list = list?;
    let Visible { offered, unknown } = visible(gpus.to_vec(), Some(list));
    let found = format!(
        "{} of {}: {VARIABLE} is {list:?}",
        offered.len(),
        gpus.len()
    );
    Some(match unknown {
        Some(word) => Check::warning(
            "gpus offered",
            format!("{found}, and this host has no GPU {word:?}"),
            format!(
                "name GPUs by number or UUID (\"nvidia-smi -L\"), or unset {VARIABLE} to offer all"
            ),
        ),
        None => Check::ok("gpus offered", found),
    })
}

fn no_driver(why: &str, devices: &[String]) -> Check {
    if devices.is_empty() {
        // A host without a GPU offers its CPU slots, and nothing is wrong with it.
        return Check::skipped(
            "driver",
            "no NVIDIA GPU on this host's PCI bus: it offers CPUs",
        );
    }
    let found = format!(
        "{} on the PCI bus ({}), but NVML does not start: {why}",
        if devices.len() == 1 {
            "an NVIDIA GPU"
        } else {
            "NVIDIA GPUs"
        },
        devices.join(", ")
    );
    let cure = "install NVIDIA's driver (Debian: \"apt install nvidia-driver\"), restart, and try \"nvidia-smi\"";
    Check::failed("driver", found, cure)
}

/// PCI addresses of NVIDIA's display controllers.
fn nvidia_devices() -> Vec<String> {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let devices = fs::read_dir("/sys/bus/pci/devices")
        .into_iter()
        .flatten()
        .flatten();
    let ours = devices.filter(|device| {
        text(device.path().join("vendor")).trim() == NVIDIA
            && text(device.path().join("class")).starts_with(DISPLAY_CLASS)
    });
    ours.map(|device| device.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The driver, and whether it serves the trainer's CUDA.
fn driver(driver: &Driver, trainer: Option<&Trainer>) -> Check {
    let found = format!(
        "{}, serves CUDA up to {}",
        driver.version,
        driver.cuda_words()
    );
    let (Some(wanted), Some(served)) = (trainer.and_then(|t| t.cuda), driver.cuda) else {
        return Check::ok("driver", found);
    };
    // The major number alone: see `DRIVERS`.
    if served / 1000 >= wanted / 1000 {
        return Check::ok("driver", found);
    }
    let oldest = DRIVERS.iter().find(|(major, _)| *major == wanted / 1000);
    let oldest = oldest.map_or_else(String::new, |(_, driver)| format!(" {driver} or newer"));
    Check::failed(
        "driver",
        format!(
            "{found}, but the trainer's libtorch needs CUDA {}",
            cuda_words(wanted)
        ),
        format!(
            "install NVIDIA's driver{oldest}; where the GPU is too old for it, install the kepler flavour (docs/deploy.md)"
        ),
    )
}

/// Whether the trainer has kernels for a GPU.
fn kernels(gpu: &GpuInfo, trainer: Option<&Trainer>) -> Check {
    let name = format!("gpu {}", gpu.index);
    let (major, minor) = gpu.compute_capability;
    let memory = super::bytes(gpu.memory_bytes);
    let found = format!("{}, {memory}, compute capability {major}.{minor}", gpu.name);
    let Some(trainer) = trainer else {
        return Check::ok(name, format!("{found}; no trainer to compare it with"));
    };
    let covered =
        trainer.kernels.is_empty() || flavour::covers(&trainer.kernels, gpu.compute_capability);
    if covered {
        return Check::ok(
            name,
            format!("{found}: {} has kernels for it", trainer.flavour),
        );
    }
    let refusal = flavour::refusal(&trainer.flavour, gpu.compute_capability);
    // The scheduler refuses in the same sentence: what stands behind its colon is the cure.
    let (why, cure) = refusal
        .split_once(": ")
        .unwrap_or((&refusal, "see docs/deploy.md"));
    Check::failed(name, format!("{found}, but {why}"), cure)
}

fn health(reading: &GpuReading) -> Check {
    let name = format!("gpu {} health", reading.index);
    if !reading.fault.is_empty() {
        return Check::failed(name, &reading.fault, &reading.cure);
    }
    if reading.compute_mode == "prohibited" {
        let cure = format!("\"nvidia-smi -i {} -c DEFAULT\" as root", reading.index);
        return Check::failed(name, "its compute mode prohibits computing", cure);
    }
    let is_hot = reading
        .temperature_c
        .zip(reading.slowdown_temperature_c)
        .is_some_and(|(now, slow)| now >= slow);
    if is_hot {
        let found = format!(
            "{} C, and so hot that it slows down",
            reading.temperature_c.unwrap_or(0)
        );
        return Check::warning(name, found, "see to its fans and the room's air");
    }
    if reading.persistence_mode == Some(false) {
        let found = "well, but not in persistence mode: each start of a job waits for the driver";
        return Check::warning(
            name,
            found,
            "\"systemctl enable --now nvidia-persistenced\"",
        );
    }
    Check::ok(name, "no fault known")
}

/// What the daemon has written down against a GPU; None: nothing. It may be settled by now, which the coordinator knows.
fn evidence(gpu: &GpuInfo, kept: &BTreeMap<String, Vec<Evidence>>) -> Option<Check> {
    let found: Vec<String> = kept.get(&gpu.uuid)?.iter().map(Evidence::words).collect();
    if found.is_empty() {
        return None;
    }
    Some(Check::warning(
        format!("gpu {} evidence", gpu.index),
        found.join("; "),
        "\"marquee workers\" says whether it is in quarantine; \"marquee burn-in\" tests it (docs/gpu-health.md)",
    ))
}

fn cuda_library(trainer: &Trainer) -> Check {
    match &trainer.cuda_missing {
        None => Check::ok("cuda libraries", "libtorch_cuda.so loads"),
        Some(why) => Check::failed(
            "cuda libraries",
            format!("libtorch_cuda.so does not load: {why}"),
            "install the GPU runtime, libtorch_cuda.so and the nvidia folder of the torch wheel, beside the trainer's libtorch (docs/deploy.md)",
        ),
    }
}

/// The nodes that CUDA opens, as this user.
fn nodes(minors: &[u32]) -> Check {
    let common = ["/dev/nvidiactl".to_owned(), "/dev/nvidia-uvm".to_owned()];
    let devices = minors.iter().map(|minor| format!("/dev/nvidia{minor}"));
    let paths: Vec<String> = common.into_iter().chain(devices).collect();
    judge_nodes(&paths)
}

fn judge_nodes(paths: &[String]) -> Check {
    // Opened in earnest: the unit closes devices by a cgroup (`DevicePolicy=closed`), which
    // `access` knows nothing of.
    let open = |path: &str| -> std::io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new(path))
    };
    let mut missing = Vec::new();
    let mut closed = Vec::new();
    for path in paths {
        match open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                missing.push(path.as_str())
            }
            Err(error) => closed.push(format!("{path} ({error})")),
        }
    }
    if !missing.is_empty() {
        return Check::failed(
            "device nodes",
            format!("missing: {}", missing.join(", ")),
            "\"systemctl enable --now nvidia-persistenced\", or \"nvidia-modprobe -u -c0\" as root before the worker starts",
        );
    }
    if !closed.is_empty() {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        let user = user
            .ok()
            .flatten()
            .map_or_else(|| "this user".to_owned(), |user| user.name);
        return Check::failed(
            "device nodes",
            format!("{user} may not open {}", closed.join(", ")),
            format!("\"usermod -aG video,render {user}\", and restart marquee-worker"),
        );
    }
    Check::ok(
        "device nodes",
        format!("{} can be opened", paths.join(", ")),
    )
}

/// Whether each GPU reaches the memory of each other.
fn peers(nvml: &Nvml, gpus: &[GpuInfo]) -> Check {
    if gpus.len() < 2 {
        return Check::skipped("peer access", "fewer than two GPUs");
    }
    let mut without = BTreeSet::new();
    let mut unknown = None;
    for a in gpus {
        for b in gpus.iter().filter(|b| b.index > a.index) {
            let status = nvml.device_by_index(a.index).and_then(|one| {
                let other = nvml.device_by_index(b.index)?;
                one.p2p_status(&other, P2pCapabilitiesIndex::Read)
            });
            match status {
                Ok(P2pStatus::Ok) => {}
                Ok(status) => {
                    without.insert(format!(
                        "{} and {} ({})",
                        a.index,
                        b.index,
                        p2p_words(status)
                    ));
                }
                Err(error) => unknown = Some(error.to_string()),
            }
        }
    }
    // With one pair that nobody knows of, no sentence about all of them would be true.
    if let Some(why) = unknown {
        return Check::skipped("peer access", format!("NVML does not tell: {why}"));
    }
    if without.is_empty() {
        return Check::ok("peer access", "every GPU reaches the memory of every other");
    }
    let pairs: Vec<String> = without.into_iter().collect();
    Check::warning(
        "peer access",
        format!(
            "none between GPUs {}: all-reduce goes through the host's memory",
            pairs.join(", ")
        ),
        "put GPUs of one gang under one PCIe root; check that ACS and the IOMMU are off for them (\"nvidia-smi topo -m\")",
    )
}

fn p2p_words(status: P2pStatus) -> &'static str {
    match status {
        P2pStatus::Ok => "ok",
        P2pStatus::ChipsetNotSupported => "the chipset cannot",
        P2pStatus::GpuNotSupported => "the GPU cannot",
        P2pStatus::IohTopologyNotSupported => "not across these sockets",
        P2pStatus::DisabledByRegkey => "switched off in the driver",
        P2pStatus::NotSupported => "not supported",
        P2pStatus::Unknown => "unknown why",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::doctor::Verdict;

    #[test]
    fn a_gpu_without_driver_fails_and_a_host_without_gpu_is_no_fault() {
        assert_eq!(no_driver("no library", &[]).verdict, Verdict::Skipped);
        let check = no_driver("no library", &["0000:3b:00.0".into()]);
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.found.contains("0000:3b:00.0"), "{}", check.found);
    }

    #[test]
    fn a_driver_is_held_against_the_trainers_cuda() {
        let of = |cuda, wanted| {
            let found = Driver {
                version: "470.256.02".into(),
                cuda: Some(cuda),
            };
            let trainer = Trainer {
                cuda: Some(wanted),
                ..Trainer::default()
            };
            driver(&found, Some(&trainer))
        };
        assert_eq!(of(13_000, 13_000).verdict, Verdict::Ok);
        assert_eq!(
            of(11_040, 11_070).verdict,
            Verdict::Ok,
            "minor versions are compatible"
        );
        let old = of(11_040, 13_000);
        assert_eq!(old.verdict, Verdict::Failed);
        assert!(old.cure.unwrap().contains("580 or newer"));
    }

    #[test]
    fn nodes_are_opened_as_the_user_that_asks() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("nvidia0");
        fs::write(&node, "").unwrap();
        let paths = |name: &str| vec![dir.path().join(name).display().to_string()];
        assert_eq!(judge_nodes(&paths("nvidia0")).verdict, Verdict::Ok);
        let missing = judge_nodes(&paths("nvidia-uvm"));
        assert!(missing.found.contains("missing"), "{}", missing.found);
        // A folder cannot be opened for writing, by nobody.
        let closed = judge_nodes(&[dir.path().display().to_string()]);
        assert!(closed.cure.unwrap().contains("usermod"));
    }
}
