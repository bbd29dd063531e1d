//! A running rank's GPUs as metrics of its job: `gpu/<index>/utilisation_percent` and its kin.
//!
//! Each value stands for all samples since the last one: means where a mean tells more, else the
//! highest. Not here: how metrics are stored (they go the way of the child's own).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::gpu::GpuReading;
use marquee_domain::job::RankState;
use marquee_domain::resources::Device;
use tokio::time::Instant;
use tracing::warn;

use super::Gpus;
use crate::blocking::blocking;
use crate::rank::held::{HeldRank, Host};
use crate::supervisor::Supervisor;
use marquee_domain::RankKey;

/// How often a rank's GPUs become metrics: a month of eight GPUs stays below ten million rows.
const METRICS_EVERY: Duration = Duration::from_secs(15);

/// Writes metrics of running ranks for as long as the daemon lives.
pub async fn report(host: Arc<Host>, supervisor: Arc<Supervisor>, mut gpus: Gpus) {
    let mut series = Series::default();
    let mut flushed = Instant::now();
    loop {
        gpus.changed().await;
        let readings = gpus.readings();
        let running: Vec<Arc<HeldRank>> = supervisor
            .ranks()
            .into_iter()
            .filter(|rank| rank.state() == RankState::Running)
            .collect();
        // What an ended rank has left is dropped, or it would be kept for as long as the daemon
        // lives.
        series.keep_only(&running);
        for rank in &running {
            series.add(rank.key, &rank.assignment.devices, &readings);
        }
        if flushed.elapsed() < METRICS_EVERY {
            continue;
        }
        flushed = Instant::now();
        for rank in running {
            let values = series.take(rank.key);
            if values.is_empty() {
                continue;
            }
            let host = Arc::clone(&host);
            // The spool is synced to disk.
            let report = blocking(move || rank.report_while_running(&host, values));
            match report.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "metrics of a GPU cannot be spooled"),
                Err(error) => warn!(%error, "spooling metrics of a GPU failed"),
            }
        }
    }
}

/// What was sampled of each rank's GPUs since it was last reported.
#[derive(Debug, Default)]
struct Series(BTreeMap<RankKey, BTreeMap<String, Value>>);

#[derive(Debug, Clone, Copy)]
enum Value {
    Mean { sum: f64, count: f64 },
    Highest(f64),
}

impl Series {
    fn keep_only(&mut self, running: &[Arc<HeldRank>]) {
        self.0
            .retain(|key, _| running.iter().any(|rank| rank.key == *key));
    }

    fn add(&mut self, key: RankKey, devices: &[Device], readings: &[GpuReading]) {
        for device in devices {
            let Device::Gpu { index } = device else {
                continue;
            };
            let Some(reading) = readings.iter().find(|reading| reading.index == *index) else {
                continue;
            };
            let values = self.0.entry(key).or_default();
            let mut add = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    values
                        .entry(format!("gpu/{index}/{name}"))
                        .and_modify(|all| all.merge(value))
                        .or_insert(value);
                }
            };
            let mean = |value: Option<u32>, scale: f64| {
                value.map(|value| Value::Mean {
                    sum: f64::from(value) * scale,
                    count: 1.0,
                })
            };
            add(
                "utilisation_percent",
                mean(reading.utilisation_percent, 1.0),
            );
            add("power_w", mean(reading.power_mw, 1e-3));
            add("sm_clock_mhz", mean(reading.sm_clock_mhz, 1.0));
            let highest = |value: f64| Value::Highest(value);
            add(
                "memory_used_bytes",
                reading.memory_used_bytes.map(|bytes| highest(bytes as f64)),
            );
            add(
                "temperature_c",
                reading.temperature_c.map(|degrees| highest(degrees.into())),
            );
        }
    }

    fn take(&mut self, key: RankKey) -> BTreeMap<String, f64> {
        let values = self.0.remove(&key).unwrap_or_default();
        values
            .into_iter()
            .map(|(name, value)| (name, value.result()))
            .collect()
    }
}

impl Value {
    fn merge(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::Mean { sum, count }, Self::Mean { sum: s, count: c }) => Self::Mean {
                sum: sum + s,
                count: count + c,
            },
            (Self::Highest(a), Self::Highest(b)) => Self::Highest(a.max(b)),
            // One name is always of one kind.
            (Self::Mean { .. }, Self::Highest(_)) | (Self::Highest(_), Self::Mean { .. }) => other,
        };
    }

    fn result(self) -> f64 {
        match self {
            Self::Mean { sum, count } => sum / count,
            Self::Highest(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(index: u32, utilisation: u32, degrees: u32) -> GpuReading {
        GpuReading {
            index,
            utilisation_percent: Some(utilisation),
            temperature_c: Some(degrees),
            power_mw: Some(250_000),
            ..GpuReading::default()
        }
    }

    #[test]
    fn a_value_stands_for_all_samples_of_the_ranks_own_devices() {
        let (mut series, key) = (Series::default(), RankKey::new(17, 1, 0));
        let devices = [Device::Gpu { index: 1 }, Device::Cpu { index: 0 }];
        series.add(key, &devices, &[reading(0, 1, 1), reading(1, 100, 70)]);
        series.add(key, &devices, &[reading(0, 1, 1), reading(1, 50, 60)]);
        let values = series.take(key);
        let expected = [
            ("gpu/1/power_w", 250.0),
            ("gpu/1/temperature_c", 70.0),
            ("gpu/1/utilisation_percent", 75.0),
        ];
        let values: Vec<(&str, f64)> = values.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(values, expected);
        assert!(series.take(key).is_empty(), "each sample counts once");
    }
}
