//! Devices to measure on, as typed and as workers have them.

use std::fmt;
use std::str::FromStr;

use marquee_proto::v1;

/// A kind of device and how many ranks of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Devices {
    pub kind: DeviceKind,
    pub ranks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DeviceKind {
    Cpu,
    Gpu,
}

impl DeviceKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, ranks) = text.split_once(':').unwrap_or((text, "1"));
        let kind = match kind {
            "cpu" => DeviceKind::Cpu,
            "gpu" => DeviceKind::Gpu,
            _ => {
                return Err(format!(
                    "{text:?}: write cpu:RANKS or gpu:RANKS, as in gpu:2"
                ));
            }
        };
        match ranks.parse() {
            Ok(ranks) if ranks >= 1 => Ok(Self { kind, ranks }),
            _ => Err(format!(
                "{text:?}: the number of ranks is a whole number, 1 or more"
            )),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranks = if self.ranks == 1 { "rank" } else { "ranks" };
        write!(f, "{} {} {ranks}", self.ranks, self.kind.word())
    }
}

/// What online workers have: 1, 2, 4 ... and all of each kind.
pub(crate) fn available(workers: &[v1::Worker]) -> Vec<Devices> {
    let online = workers
        .iter()
        .filter(|worker| worker.state() == v1::WorkerState::Online);
    let (mut cpus, mut gpus) = (0_u32, 0_u32);
    for inventory in online.filter_map(|worker| worker.inventory.as_ref()) {
        // The numbers are what workers say of themselves: they may be anything, and a sum of them
        // must not panic.
        cpus = cpus.saturating_add(inventory.cpu_slots);
        gpus = gpus.saturating_add(u32::try_from(inventory.gpus.len()).unwrap_or(u32::MAX));
    }
    let mut all = Vec::new();
    for (kind, count) in [(DeviceKind::Cpu, cpus), (DeviceKind::Gpu, gpus)] {
        // Doubled and not counted: each case trains by itself, and a curve of scaling is seen from
        // its doublings.
        let doubled = std::iter::successors(Some(1_u32), |ranks| ranks.checked_mul(2));
        let ranks = doubled
            .take_while(|ranks| *ranks < count)
            .chain((count > 0).then_some(count));
        all.extend(ranks.map(|ranks| Devices { kind, ranks }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_double_up_to_all_of_a_kind_that_online_workers_have() {
        let worker = |state: v1::WorkerState, cpu_slots, gpus| v1::Worker {
            state: state.into(),
            inventory: Some(v1::Inventory {
                cpu_slots,
                gpus: vec![v1::Gpu::default(); gpus],
                ..v1::Inventory::default()
            }),
            ..v1::Worker::default()
        };
        let found = available(&[
            worker(v1::WorkerState::Online, 1, 4),
            worker(v1::WorkerState::Online, 0, 2),
            worker(v1::WorkerState::Lost, 8, 8),
        ]);
        let words: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "1 cpu rank",
                "1 gpu rank",
                "2 gpu ranks",
                "4 gpu ranks",
                "6 gpu ranks"
            ]
        );
        assert!(available(&[]).is_empty());
    }
}
