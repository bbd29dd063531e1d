//! GPUs that are offered in parts: MIG instances, and the shares that the host's owner allows.
//!
//! Invariant: a GPU that is offered in parts is not offered as a whole. Parts have numbers beyond those of all GPUs of
//! the host, in their order, so that the same host with the same settings gives each part the same number.

use std::collections::BTreeMap;

use marquee_domain::limits::HOST_GPUS_MAX;
use marquee_domain::resources::{GpuInfo, GpuPart, PartKind};
use tracing::warn;

/// Puts parts in the place of the GPUs that are divided. `gpus` are all of the host; `instances` says which MIG
/// instances one has, None where MIG is off; `shares` how many shares its owner allows of which.
#[must_use]
pub fn divided(
    gpus: Vec<GpuInfo>,
    instances: impl Fn(&GpuInfo) -> Option<Vec<GpuInfo>>,
    shares: &BTreeMap<u32, u32>,
) -> Vec<GpuInfo> {
    for index in shares.keys() {
        if !gpus.iter().any(|gpu| gpu.index == *index) {
            warn!(
                gpu = index,
                "gpu_shares names a GPU that this host does not have"
            );
        }
    }
    let mut next = gpus.iter().map(|gpu| gpu.index + 1).max().unwrap_or(0)..;
    let mut offered = Vec::with_capacity(gpus.len());
    for gpu in gpus {
        let count = shares.get(&gpu.index).copied();
        let parts = match (instances(&gpu), count) {
            (Some(parts), count) => {
                if count.is_some() {
                    warn!(
                        gpu = gpu.index,
                        "MIG is on: its instances are offered, and gpu_shares does not count"
                    );
                }
                if parts.is_empty() {
                    warn!(
                        gpu = gpu.index,
                        "MIG is on and has no instance: nothing of this GPU is offered"
                    );
                }
                parts
            }
            (None, Some(count)) => shares_of(&gpu, count),
            (None, None) => {
                offered.push(gpu);
                continue;
            }
        };
        offered.extend(
            parts
                .into_iter()
                // In this order: `zip` asks its left side first, so that no number is lost when the
                // parts are at their end.
                .zip(&mut next)
                .map(|(part, index)| GpuInfo { index, ..part }),
        );
    }
    let fits = |gpu: &GpuInfo| (gpu.index as usize) < HOST_GPUS_MAX;
    if !offered.iter().all(fits) {
        warn!(
            most = HOST_GPUS_MAX,
            "more parts of GPUs than a host can have: the last are left out"
        );
        offered.retain(fits);
    }
    offered.sort_by_key(|gpu| gpu.index);
    offered
}

fn shares_of(gpu: &GpuInfo, count: u32) -> Vec<GpuInfo> {
    let share = |number| GpuInfo {
        name: format!("{}, share {number} of {count}", gpu.name),
        memory_bytes: gpu.memory_bytes / u64::from(count),
        part: Some(GpuPart {
            of: gpu.index,
            kind: PartKind::Share,
        }),
        ..gpu.clone()
    };
    (1..=count).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32) -> GpuInfo {
        GpuInfo {
            index,
            uuid: format!("GPU-{index}"),
            name: "H100".into(),
            memory_bytes: 80 << 30,
            compute_capability: (9, 0),
            part: None,
        }
    }

    fn mig(of: u32, number: u32) -> GpuInfo {
        GpuInfo {
            uuid: format!("MIG-{of}-{number}"),
            memory_bytes: 10 << 30,
            part: Some(GpuPart {
                of,
                kind: PartKind::Mig,
            }),
            ..gpu(of)
        }
    }

    #[test]
    fn parts_stand_in_the_place_of_their_gpu_with_numbers_of_their_own() {
        let mig_on = |gpu: &GpuInfo| (gpu.index == 2).then(|| vec![mig(2, 0), mig(2, 1)]);
        let shares = BTreeMap::from([(0, 4), (2, 2), (9, 2)]);
        let offered = divided((0..3).map(gpu).collect(), mig_on, &shares);
        let seen: Vec<_> = offered
            .iter()
            .map(|gpu| (gpu.index, gpu.uuid.as_str(), gpu.memory_bytes >> 30))
            .collect();
        assert_eq!(
            seen,
            [
                (1, "GPU-1", 80),
                (3, "GPU-0", 20),
                (4, "GPU-0", 20),
                (5, "GPU-0", 20),
                (6, "GPU-0", 20),
                (7, "MIG-2-0", 10),
                (8, "MIG-2-1", 10),
            ]
        );
        let kinds: Vec<_> = offered.iter().map(|gpu| gpu.part).collect();
        assert_eq!(kinds[0], None);
        assert_eq!(
            kinds[1].map(|part| (part.of, part.kind)),
            Some((0, PartKind::Share))
        );
        assert_eq!(
            kinds[6].map(|part| (part.of, part.kind)),
            Some((2, PartKind::Mig))
        );
        assert_eq!(offered[1].name, "H100, share 1 of 4");
    }

    #[test]
    fn nothing_of_a_gpu_is_offered_whose_instances_are_not_made_and_no_number_is_too_high() {
        let mig_on = |_: &GpuInfo| Some(Vec::new());
        assert_eq!(divided(vec![gpu(0)], mig_on, &BTreeMap::new()), []);
        let all = (0..16).map(|index| (index, 16)).collect();
        let offered = divided((0..16).map(gpu).collect(), |_| None, &all);
        assert_eq!(offered.len(), HOST_GPUS_MAX - 16);
        assert!(
            offered
                .iter()
                .all(|gpu| (gpu.index as usize) < HOST_GPUS_MAX)
        );
    }
}
