//! Devices over time.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_store::usage::{self, Held};
use tonic::Status;

use crate::app::App;
use crate::lifecycle::LifecycleError;

const HOURS_DEFAULT: u32 = 24;
const HOURS_MAX: u32 = 90 * 24;
const BUCKETS_DEFAULT: u32 = 96;
const BUCKETS_MAX: u32 = 500;
/// Ranks that are looked at: a month of a busy cluster, a few megabytes.
const RANKS_MAX: u32 = 50_000;
const PIPELINES_MAX: usize = 20;

pub(super) async fn look(app: &App, request: v1::GetUsageRequest) -> Result<v1::Usage, Status> {
    let or = |field, value: u32, default, max: u32| match value {
        0 => Ok(default),
        value if value <= max => Ok(value),
        value => Err(BadField::invalid(
            field,
            format!("{value} is more than {max}"),
        )),
    };
    let hours = or("hours", request.hours, HOURS_DEFAULT, HOURS_MAX)?;
    let buckets = or("buckets", request.buckets, BUCKETS_DEFAULT, BUCKETS_MAX)?;
    let now = app.clock.now();
    let from = now - TimeDelta::hours(i64::from(hours));
    let held = read(app, from).await?;
    Ok(sum(&held, from, now, buckets))
}

async fn read(app: &App, from: DateTime<Utc>) -> Result<Vec<Held>, LifecycleError> {
    let mut conn = app.db.read().await?;
    Ok(usage::list_held(&mut conn, from, RANKS_MAX).await?)
}

/// Device seconds of each part of the time, and of each pipeline's name.
fn sum(held: &[Held], from: DateTime<Utc>, to: DateTime<Utc>, buckets: u32) -> v1::Usage {
    let seconds = |time: DateTime<Utc>| (time - from).as_seconds_f64();
    let width = seconds(to) / f64::from(buckets);
    let mut cpus = vec![0.0; buckets as usize];
    let mut gpus = cpus.clone();
    let mut of: BTreeMap<&str, v1::UsageOf> = BTreeMap::new();
    for rank in held {
        let begin = seconds(rank.from).max(0.0);
        let end = seconds(rank.to.unwrap_or(to).min(to));
        if end <= begin {
            continue;
        }
        for (part, (cpu, gpu)) in (0_u32..).zip(cpus.iter_mut().zip(&mut gpus)) {
            let starts = f64::from(part) * width;
            let share = (end.min(starts + width) - begin.max(starts)).max(0.0) / width;
            *cpu += share * f64::from(rank.cpus);
            *gpu += share * f64::from(rank.gpus);
        }
        let hours = (end - begin) / 3600.0;
        let one = of.entry(rank.pipeline_name.as_str()).or_default();
        one.cpu_hours += hours * f64::from(rank.cpus);
        one.gpu_hours += hours * f64::from(rank.gpus);
        one.attempts += u32::from(rank.is_first);
        if rank.is_lost {
            one.lost_hours += hours * f64::from(rank.cpus + rank.gpus);
        }
    }
    let mut pipelines: Vec<v1::UsageOf> = of
        .into_iter()
        .map(|(name, usage)| v1::UsageOf {
            pipeline_name: name.to_owned(),
            ..usage
        })
        .collect();
    pipelines.sort_by(|a, b| {
        let hours = |usage: &v1::UsageOf| (usage.gpu_hours, usage.cpu_hours);
        let (a, b) = (hours(a), hours(b));
        b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    pipelines.truncate(PIPELINES_MAX);
    v1::Usage {
        from: Some(timestamp(from)),
        to: Some(timestamp(to)),
        cpus,
        gpus,
        pipelines,
        is_cut: held.len() >= RANKS_MAX as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_count_for_the_time_in_which_they_were_held() {
        let at = |minutes| DateTime::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap();
        let held = |name: &str, from, to: Option<i64>, cpus, gpus, is_lost| Held {
            pipeline_name: name.parse().unwrap(),
            from: at(from),
            to: to.map(at),
            cpus,
            gpus,
            is_lost,
            is_first: true,
        };
        let ranks = [
            // Began before, ends in the middle of the second part.
            held("a", -60, Some(15), 0, 2, true),
            // Runs on.
            held("b", 30, None, 1, 0, false),
            // Over before, and of a clock that was put back.
            held("c", -90, Some(-30), 9, 9, false),
            held("c", 20, Some(10), 9, 9, false),
        ];
        let usage = sum(&ranks, at(0), at(40), 4);
        assert_eq!(usage.gpus, [2.0, 1.0, 0.0, 0.0]);
        assert_eq!(usage.cpus, [0.0, 0.0, 0.0, 1.0]);
        let of: Vec<_> = usage
            .pipelines
            .iter()
            .map(|p| (p.pipeline_name.as_str(), p.gpu_hours, p.lost_hours))
            .collect();
        assert_eq!(of, [("a", 0.5, 0.5), ("b", 0.0, 0.0)]);
    }
}
