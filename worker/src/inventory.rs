//! What this host has: threads, memory, GPUs, a trainer. Looked up once, at the daemon's start.
//!
//! Not here: judgement. What the host lacks is reported as absent, and the scheduler decides.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::time::Duration;

use marquee_domain::resources::{GpuInfo, Inventory};
use nvml_wrapper::Nvml;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::gpus::parts::divided;
use crate::gpus::visible::{VARIABLE, Visible, visible};
use crate::gpus::{NVML_START_MAX, nvml};
use crate::proc;

/// How long `marquee-trainer --version` may take: it loads libtorch, from a cold disk if need be.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);
/// How the trainer names what it links.
const FLAVOUR_PREFIX: &str = "libtorch-";

/// Looks at the host.
pub async fn take(config: &Config) -> Inventory {
    let cpu_threads = std::thread::available_parallelism().map_or(1, |n| clamp_u32(n.get()));
    // A host may offer no CPU slot at all.
    let shared = cpu_threads / config.cpu_slots.max(1);
    Inventory {
        hostname: hostname::get().map_or_else(
            |_| config.name.clone(),
            |n| n.to_string_lossy().into_owned(),
        ),
        cpu_threads,
        memory_bytes: memory_bytes(),
        cpu_slots: config.cpu_slots,
        threads_per_slot: config.threads_per_slot.unwrap_or(shared.max(1)),
        gpus: gpus(config.gpu_shares.clone()).await,
        address: address(config),
        flavour: flavour(&config.bin_dir.join("marquee-trainer")).await,
        labels: config.labels.clone(),
    }
}

fn clamp_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The host's memory, or less where a cgroup allows less.
fn memory_bytes() -> u64 {
    let limits = cgroup_limits(&proc::own_cgroups());
    // Version 1 writes a number beyond any memory where there is no limit: the least of all is
    // right there, too.
    limits.into_iter().fold(proc::memory_bytes(), u64::min)
}

/// Memory limits of the process's own cgroup and of those above it, of either cgroup version.
fn cgroup_limits(own: &[(Vec<String>, String)]) -> Vec<u64> {
    let mut limits = Vec::new();
    for (controllers, group) in own {
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.iter().any(|c| c == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let own = Path::new(root).join(group.trim_start_matches('/'));
        for folder in own
            .ancestors()
            .take_while(|folder| folder.starts_with(root))
        {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            // Where there is no limit, version 2 writes the word "max".
            limits.extend(text.trim().parse::<u64>().ok());
        }
    }
    limits
}

/// The GPUs that answer. A driver that hangs must not keep the daemon, with its CPU slots, away.
async fn gpus(shares: BTreeMap<u32, u32>) -> Vec<GpuInfo> {
    let asked = tokio::task::spawn_blocking(move || ask_nvml(&shares));
    match tokio::time::timeout(NVML_START_MAX, asked).await {
        Ok(gpus) => gpus.unwrap_or_default(),
        Err(_) => {
            warn!("NVML does not answer: no GPUs are offered; see \"marquee-worker doctor\"");
            Vec::new()
        }
    }
}

fn ask_nvml(shares: &BTreeMap<u32, u32>) -> Vec<GpuInfo> {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => {
            debug!(%error, "no NVML on this host: no GPUs are offered");
            return Vec::new();
        }
    };
    let gpus = nvml::devices(&nvml).into_iter().filter_map(|found| match found {
        Ok(gpu) => Some(gpu),
        Err((index, error)) => {
            warn!(index, %error, "GPU left out: it does not answer NVML; cure it and restart the worker");
            None
        }
    });
    let found: Vec<GpuInfo> = gpus.collect();
    let of = found.len();
    let list = std::env::var(VARIABLE).ok();
    let Visible { offered, unknown } = visible(found.clone(), list.as_deref());
    if let Some(list) = list {
        info!(
            offered = offered.len(),
            of, list, "only GPUs that {VARIABLE} names are offered"
        );
    }
    if let Some(word) = unknown {
        warn!(
            word,
            "{VARIABLE} names a GPU that this host does not have; it and what follows it are left out"
        );
    }
    // Numbered over all of the host's, so that another list gives no part another number.
    let parts = divided(found, |gpu| nvml::instances(&nvml, gpu), shares);
    let is_offered = |part: &GpuInfo| {
        let of = part.part.map_or(part.index, |part| part.of);
        offered.iter().any(|gpu| gpu.index == of)
    };
    parts.into_iter().filter(is_offered).collect()
}

/// Where ranks on other hosts reach this one: as configured, else the address from which this host
/// would speak to the coordinator (loopback where the coordinator is on the same host), else the
/// host's name.
fn address(config: &Config) -> String {
    if let Some(address) = &config.address {
        return address.clone();
    }
    let mut coordinators = config.coordinators.iter();
    match coordinators.find_map(|url| address_towards(url)) {
        Some(address) => address.to_string(),
        None => {
            info!("the way to the coordinator is unknown; the host's name serves as address");
            config.name.clone()
        }
    }
}

/// The kernel's choice of a source address. Connecting a UDP socket sends nothing.
fn address_towards(url: &str) -> Option<IpAddr> {
    let authority = url.split_once("://")?.1.split('/').next()?;
    let targets: Vec<_> = authority.to_socket_addrs().ok()?.collect();
    let target = targets.iter().find(|t| t.is_ipv4()).or(targets.first())?;
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What the trainer says it links; empty where there is no trainer that starts.
async fn flavour(trainer: &Path) -> String {
    if !trainer.exists() {
        info!(path = %trainer.display(), "no trainer on this host: it takes no train and eval jobs");
        return String::new();
    }
    let asked = tokio::process::Command::new(trainer)
        .arg("--version")
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(VERSION_TIMEOUT, asked).await {
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let flavour = flavour_in(&text);
            if flavour.is_empty() {
                let said = String::from_utf8_lossy(&output.stderr);
                warn!(status = %output.status, stdout = %text, stderr = %said,
                    "marquee-trainer --version names no libtorch: no train and eval jobs here");
            }
            flavour
        }
        Ok(Err(error)) => {
            warn!(%error, path = %trainer.display(), "marquee-trainer does not start");
            String::new()
        }
        Err(_) => {
            warn!(path = %trainer.display(), "marquee-trainer --version did not end in time");
            String::new()
        }
    }
}

fn flavour_in(version: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || c == ')' || c == ',';
    version
        .split(|c: char| is_end(c) || c == '(')
        .find(|w| w.starts_with(FLAVOUR_PREFIX))
        .unwrap_or("")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_on_loopback_is_reached_from_loopback() {
        assert_eq!(
            address_towards("http://127.0.0.1:7700")
                .unwrap()
                .to_string(),
            "127.0.0.1"
        );
        assert_eq!(address_towards("no url"), None);
    }

    #[test]
    fn the_host_has_memory() {
        assert!(memory_bytes() > 64 * 1024 * 1024);
    }

    #[test]
    fn a_flavour_is_found_in_any_version_line() {
        assert_eq!(
            flavour_in("marquee-trainer 0.1.0 (libtorch-2.11.0)\n"),
            "libtorch-2.11.0"
        );
        assert_eq!(
            flavour_in("marquee-trainer 0.1.0 libtorch-2.0.1"),
            "libtorch-2.0.1"
        );
        assert_eq!(flavour_in("marquee-trainer 0.1.0"), "");
    }
}
