//! Rule 4: a device has one holder, and is free on proof.

use marquee_domain::ids::WorkerId;
use marquee_domain::job::RankState;
use marquee_domain::rank::RankKey;
use marquee_domain::resources::Device;

use crate::finding::{Rule, Subject};
use crate::line::Line;

/// 4a.
pub(crate) fn held_once(line: &mut Line<'_>, key: RankKey, worker: WorkerId, devices: &[Device]) {
    let state = line.state;
    for device in devices {
        let Some(other) = state.devices.get(&(worker, device.clone())) else {
            continue;
        };
        if *other == key {
            continue;
        }
        let since = state.held.get(other).map(|held| held.since.to_rfc3339());
        let text = format!(
            "rank {key} was granted {}, which rank {other} held since {}",
            words(device),
            since.unwrap_or_default()
        );
        let subject = Subject {
            worker: Some(worker),
            device: Some(device.clone()),
            ..key.into()
        };
        line.broken(Rule::DeviceOnce, subject, text);
    }
}

/// 4b.
pub(crate) fn free_on_proof(line: &mut Line<'_>, key: RankKey, worker: WorkerId, state: RankState) {
    if !state.has_ended() {
        let subject = Subject {
            worker: Some(worker),
            ..key.into()
        };
        let text = format!("its devices were freed while it was {}", state.as_str());
        line.broken(Rule::FreeOnProof, subject, text);
    }
}

fn words(device: &Device) -> String {
    match device {
        Device::Cpu { index } => format!("CPU slot {index}"),
        Device::Gpu { index } => format!("GPU {index}"),
    }
}
