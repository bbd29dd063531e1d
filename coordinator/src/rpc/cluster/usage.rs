//! Devices over time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveTime, TimeDelta, Utc};
use marquee_domain::users::Role;
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_store::usage::{self, Held};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::Status;

use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;

const HOURS_DEFAULT: u32 = 24;
const HOURS_MAX: u32 = 90 * 24;
const BUCKETS_DEFAULT: u32 = 96;
const BUCKETS_MAX: u32 = 500;
/// Ranks that are looked at: a month of a busy cluster, a few megabytes.
const RANKS_MAX: u32 = 50_000;
const PIPELINES_MAX: usize = 20;
/// For so long, answers follow from what was read for an earlier one.
const READ_EVERY: Duration = Duration::from_secs(10);
/// Spans that are remembered: the page has three and its weeks. Each is some megabytes at most.
const SPANS_KEPT: usize = 4;

/// When ranks were read, by the hours that were asked for.
type Spans = BTreeMap<u32, (Instant, Arc<Vec<Held>>)>;

/// Ranks that were read lately. However many people look at the page, and ask again each minute, what they look at is read
/// once.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<Spans>);

impl Lately {
    /// Whoever comes while it is read waits for the same.
    async fn read(
        &self,
        app: &App,
        hours: u32,
        from: DateTime<Utc>,
    ) -> Result<Arc<Vec<Held>>, LifecycleError> {
        let mut spans = self.0.lock().await;
        spans.retain(|_, (read_at, _)| read_at.elapsed() < READ_EVERY);
        if let Some((_, held)) = spans.get(&hours) {
            return Ok(held.clone());
        }
        let held = Arc::new(read(app, from).await?);
        while spans.len() >= SPANS_KEPT {
            // The shortest span: it costs the least to read again.
            spans.pop_first();
        }
        spans.insert(hours, (Instant::now(), held.clone()));
        Ok(held)
    }
}

/// Of the projects that the caller may look at.
pub(super) async fn look(
    app: &App,
    lately: &Lately,
    request: v1::GetUsageRequest,
    caller: &Caller,
) -> Result<v1::Usage, Status> {
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
    let held = lately.read(app, hours, from).await?;
    // Before those are left out that the caller may not see: how far back it goes must not depend on who
    // asks.
    let is_cut = held.len() >= RANKS_MAX as usize;
    let seen = || {
        held.iter()
            .filter(|rank| caller.may(Role::Viewer, &rank.project))
    };
    Ok(v1::Usage {
        is_cut,
        project_weeks: weeks(seen(), from, now),
        ..sum(seen(), from, now, buckets)
    })
}

async fn read(app: &App, from: DateTime<Utc>) -> Result<Vec<Held>, LifecycleError> {
    let mut conn = app.db.read().await?;
    Ok(usage::list_held(&mut conn, from, RANKS_MAX).await?)
}

/// Device seconds of each part of the time, and of each pipeline's name.
fn sum<'h>(
    held: impl Iterator<Item = &'h Held>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    buckets: u32,
) -> v1::Usage {
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
        // Of many parts a rank was there in few.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to the number of parts"
        )]
        let first = (begin / width) as u32;
        let parts = cpus.iter_mut().zip(&mut gpus);
        for (part, (cpu, gpu)) in (first..).zip(parts.skip(first as usize)) {
            let starts = f64::from(part) * width;
            if starts >= end {
                break;
            }
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
        is_cut: false,
        project_weeks: vec![],
    }
}

/// Monday 00:00 UTC of the week of a time.
fn monday(time: DateTime<Utc>) -> DateTime<Utc> {
    let day = time.date_naive();
    let since = i64::from(day.weekday().num_days_from_monday());
    (day - TimeDelta::days(since))
        .and_time(NaiveTime::MIN)
        .and_utc()
}

/// What each project held in each week, the newest first.
fn weeks<'h>(
    held: impl Iterator<Item = &'h Held>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Vec<v1::ProjectWeek> {
    let mut of: BTreeMap<(DateTime<Utc>, &str), v1::ProjectWeek> = BTreeMap::new();
    for rank in held {
        let end = rank.to.unwrap_or(to).min(to);
        let mut begin = rank.from.max(from);
        while begin < end {
            let week = monday(begin);
            let until = (week + TimeDelta::weeks(1)).min(end);
            let hours = (until - begin).as_seconds_f64() / 3600.0;
            let one = of.entry((week, rank.project.as_str())).or_default();
            one.cpu_hours += hours * f64::from(rank.cpus);
            one.gpu_hours += hours * f64::from(rank.gpus);
            if rank.is_lost {
                one.lost_hours += hours * f64::from(rank.cpus + rank.gpus);
            }
            begin = until;
        }
    }
    let newest_first = of.into_iter().rev();
    newest_first
        .map(|((week, project), hours)| v1::ProjectWeek {
            project: project.to_owned(),
            week: Some(timestamp(week)),
            ..hours
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_count_for_the_time_in_which_they_were_held() {
        let at = |minutes| DateTime::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap();
        let held = |name: &str, from, to: Option<i64>, cpus, gpus, is_lost| Held {
            pipeline_name: name.parse().unwrap(),
            project: "default".into(),
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
        let usage = sum(ranks.iter(), at(0), at(40), 4);
        assert_eq!(usage.gpus, [2.0, 1.0, 0.0, 0.0]);
        assert_eq!(usage.cpus, [0.0, 0.0, 0.0, 1.0]);
        let of: Vec<_> = usage
            .pipelines
            .iter()
            .map(|p| (p.pipeline_name.as_str(), p.gpu_hours, p.lost_hours))
            .collect();
        assert_eq!(of, [("a", 0.5, 0.5), ("b", 0.0, 0.0)]);
    }

    #[test]
    fn hours_belong_to_the_week_in_which_they_were_held() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        // Monday, 2026-11-30.
        let now = at("2026-11-30T06:00:00Z");
        let held = |project: &str, from: &str, to: Option<&str>, is_lost| Held {
            pipeline_name: "p".parse().unwrap(),
            project: project.into(),
            from: at(from),
            to: to.map(at),
            cpus: 0,
            gpus: 2,
            is_lost,
            is_first: true,
        };
        let ranks = [
            // Over midnight of Sunday, and still running.
            held("vision", "2026-11-29T22:00:00Z", None, false),
            held(
                "text",
                "2026-11-25T00:00:00Z",
                Some("2026-11-25T03:00:00Z"),
                true,
            ),
            // Began before what was asked for.
            held(
                "text",
                "2026-11-01T00:00:00Z",
                Some("2026-11-16T01:00:00Z"),
                false,
            ),
        ];
        let weeks = weeks(ranks.iter(), at("2026-11-15T23:00:00Z"), now);
        let told: Vec<_> = weeks
            .iter()
            .map(|week| {
                let monday = marquee_proto::convert::datetime(&week.week.unwrap()).unwrap();
                let day = monday.format("%a %d").to_string();
                (day, week.project.as_str(), week.gpu_hours, week.lost_hours)
            })
            .collect();
        let day = str::to_owned;
        assert_eq!(
            told,
            [
                (day("Mon 30"), "vision", 12.0, 0.0),
                (day("Mon 23"), "vision", 4.0, 0.0),
                (day("Mon 23"), "text", 6.0, 6.0),
                (day("Mon 16"), "text", 2.0, 0.0),
                (day("Mon 09"), "text", 2.0, 0.0),
            ]
        );
    }
}
