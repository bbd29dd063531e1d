//! Which of the host's GPUs are this worker's to offer: those that its own `CUDA_VISIBLE_DEVICES` names.
//!
//! Ranks get a list of their own, by UUID. Without this look, a daemon that was told to use two GPUs of a shared host
//! (by its owner's shell, a unit, or Slurm) would give all of them to jobs, those of others among them.

pub use marquee_domain::child::env::CUDA_VISIBLE_DEVICES as VARIABLE;
use marquee_domain::resources::GpuInfo;

/// What `CUDA_VISIBLE_DEVICES` leaves of the host's GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct Visible {
    /// In the order of the driver, not that of the list.
    pub offered: Vec<GpuInfo>,
    /// The first word of the list that names no GPU of this host. As for CUDA, what follows it does not count.
    pub unknown: Option<String>,
}

/// Applies the daemon's `CUDA_VISIBLE_DEVICES` to the host's GPUs; `None`: it is not set.
///
/// A word is a number, counted as NVML and `nvidia-smi` do, or the beginning of a UUID ("GPU-5c1f"). `-1`, an empty
/// list and Slurm's `NoDevFiles` leave none. MIG instances go with their GPU: their own names are unknown words.
#[must_use]
pub fn visible(gpus: Vec<GpuInfo>, list: Option<&str>) -> Visible {
    let Some(list) = list else {
        return Visible {
            offered: gpus,
            unknown: None,
        };
    };
    let mut chosen = Vec::new();
    let mut unknown = None;
    for word in list.split(',').map(str::trim) {
        let found = match word.parse::<u32>() {
            Ok(number) => gpus.iter().find(|gpu| gpu.index == number),
            Err(_) if word.starts_with("GPU-") => {
                gpus.iter().find(|gpu| gpu.uuid.starts_with(word))
            }
            Err(_) => None,
        };
        let Some(gpu) = found else {
            let says_none = matches!(word, "" | "-1" | "NoDevFiles");
            unknown = (!says_none).then(|| word.to_owned());
            break;
        };
        chosen.push(gpu.index);
    }
    let offered = gpus.into_iter().filter(|gpu| chosen.contains(&gpu.index));
    Visible {
        offered: offered.collect(),
        unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32) -> GpuInfo {
        GpuInfo {
            index,
            uuid: format!("GPU-{index}c1f2d3e"),
            name: "Tesla K80".into(),
            memory_bytes: 12 << 30,
            compute_capability: (3, 7),
            part: None,
        }
    }

    #[test]
    fn only_the_gpus_that_the_daemon_was_given_are_offered() {
        for (list, offered, unknown) in [
            (None, vec![0, 1, 2, 3], None),
            (Some("1,3"), vec![1, 3], None),
            (Some(" 3 , 1 "), vec![1, 3], None),
            (Some("2,2"), vec![2], None),
            (Some("GPU-1c1f2d3e,GPU-3"), vec![1, 3], None),
            (Some("0,GPU-2c"), vec![0, 2], None),
            // No GPU at all.
            (Some(""), vec![], None),
            (Some("-1"), vec![], None),
            (Some("NoDevFiles"), vec![], None),
            // CUDA stops at the first word that it does not know.
            (Some("1,-1,3"), vec![1], None),
            (Some("1,7,3"), vec![1], Some("7")),
            (Some("MIG-1a2b,0"), vec![], Some("MIG-1a2b")),
            (Some("GPU-9"), vec![], Some("GPU-9")),
            (Some("all"), vec![], Some("all")),
        ] {
            let found = visible((0..4).map(gpu).collect(), list);
            let indices: Vec<u32> = found.offered.iter().map(|gpu| gpu.index).collect();
            assert_eq!(indices, offered, "{list:?}");
            assert_eq!(found.unknown.as_deref(), unknown, "{list:?}");
        }
    }
}
