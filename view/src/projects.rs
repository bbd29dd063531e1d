//! Projects: what each may have, what it uses, and when what is used up frees.

use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::v1::{Project, Quotas};
use serde_json::Value;

use crate::page::{Cell, Page, Tone, View, left, right, toned};
use crate::{json, units};

/// A list of projects, one row each.
#[derive(Debug)]
pub struct Projects<'a>(pub &'a [Project]);

impl View for Projects<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let heads = [
            left("NAME"),
            right("WEIGHT"),
            right("GPUS"),
            right("CPU SLOTS"),
            right("QUEUED"),
            right("GPU-HOURS A WEEK"),
            right("RECENT GPU-HOURS"),
        ];
        page.table(heads, self.0.iter().map(row).collect());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(json::project).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|project| project.name.clone()).collect()
    }
}

fn row(project: &Project) -> Vec<Cell> {
    let quotas = project.quotas.clone().unwrap_or_default();
    vec![
        toned(project.name.as_str(), Tone::Strong),
        project.weight.to_string().into(),
        of(u64::from(project.gpus_used), quotas.gpus).into(),
        of(u64::from(project.cpu_slots_used), quotas.cpu_slots).into(),
        of(project.queued_jobs, quotas.queued).into(),
        hours(project, &quotas).into(),
        format!("{:.1}", project.usage_gpu_seconds / 3600.0).into(),
    ]
}

/// `6 of 8`, or `6` where there is no quota.
fn of(used: u64, quota: Option<u32>) -> String {
    match quota {
        Some(quota) => format!("{used} of {quota}"),
        None => used.to_string(),
    }
}

fn hours(project: &Project, quotas: &Quotas) -> String {
    let used = project.gpu_hours_used;
    match quotas.gpu_hours_week {
        Some(quota) => format!("{used:.1} of {quota:.1}"),
        None => format!("{used:.1}"),
    }
}

/// The quotas of projects, one row each: what is used of it, and when it frees.
#[derive(Debug)]
pub struct QuotasOf<'a>(pub &'a [Project]);

impl View for QuotasOf<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let heads = [
            left("PROJECT"),
            left("QUOTA"),
            right("USED"),
            right("OF"),
            left("FREES"),
        ];
        let rows: Vec<Vec<Cell>> = self.0.iter().flat_map(quota_rows).collect();
        page.table(heads, rows);
        for line in self.0.iter().filter_map(keeps) {
            page.line(line);
        }
        for line in self.0.iter().filter_map(stops_idle) {
            page.line(line);
        }
        for project in self.0.iter().filter(|project| !project.changes.is_empty()) {
            page.heading(format!("Changes of {} (UTC)", project.name));
            for change in &project.changes {
                let at = units::time(change.at.as_ref())
                    .map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string());
                let at = at.unwrap_or_default();
                page.line(format!("{at}  {}  by {}", change.text, change.caller));
            }
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(json::project).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|project| project.name.clone()).collect()
    }
}

/// How long a project keeps what has ended; None: for ever.
fn keeps(project: &Project) -> Option<String> {
    let days = |days: Option<u32>, what: &str| days.map(|days| format!("{what} {days} days"));
    let said: Vec<String> = [
        days(project.keep_days, "pipelines"),
        days(project.keep_log_days, "logs and metrics"),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Most projects keep everything for ever, which is not said of each.
    (!said.is_empty()).then(|| format!("{} keeps {}", project.name, said.join(", ")))
}

/// What becomes of its jobs whose GPUs do nothing; None: they are said to idle, and go on.
fn stops_idle(project: &Project) -> Option<String> {
    let minutes = project.idle_stop_min?;
    let (name, length) = (&project.name, TimeDelta::minutes(minutes.into()));
    let length = units::duration(length.to_std().ok()?);
    Some(format!(
        "{name} stops train and command jobs whose GPUs do nothing for {length}"
    ))
}

/// GPUs, CPU slots, queued jobs and GPU-hours of one project.
fn quota_rows(project: &Project) -> Vec<Vec<Cell>> {
    let quotas = project.quotas.clone().unwrap_or_default();
    let at = |at: &Option<_>, otherwise: &str| match units::time(at.as_ref()) {
        // At the latest, by the time limits of what runs: it may end sooner.
        Some(at) => format!("by {} UTC", at.format("%Y-%m-%d %H:%M")),
        None => otherwise.to_owned(),
    };
    let devices = |used: u32, quota: Option<u32>| {
        let is_full = quota.is_some_and(|quota| used >= quota);
        // Only once it is full: before, nothing has to come free for the next job to start.
        let when = is_full.then(|| at(&project.devices_free_at, "when a job of it ends"));
        (when.unwrap_or_default(), is_full)
    };
    let line =
        |what: &str, used: String, quota: Option<String>, (frees, is_full): (String, bool)| {
            let tone = if is_full { Tone::Warn } else { Tone::Plain };
            vec![
                toned(project.name.as_str(), Tone::Strong),
                what.to_owned().into(),
                toned(used, tone),
                quota.unwrap_or_else(|| "no quota".into()).into(),
                frees.into(),
            ]
        };
    let number = |quota: Option<u32>| quota.map(|quota| quota.to_string());
    let queue_full = quotas
        .queued
        .is_some_and(|quota| project.queued_jobs >= u64::from(quota));
    let queue = if queue_full {
        "when a job of it starts or ends"
    } else {
        ""
    };
    let hours_full = quotas
        .gpu_hours_week
        .is_some_and(|quota| project.gpu_hours_used >= quota);
    // The coordinator's time comes first: it knows how long what was used stays in the week.
    let hours = match (hours_full, quotas.reset.as_str()) {
        (true, _) => at(&project.gpu_hours_free_at, "as they age"),
        // A coordinator from before there was a choice sends no word; its quotas rolled.
        (false, "rolling" | "") => "each hour 168 hours later".to_owned(),
        (false, day) => format!("on {day}, 00:00 UTC"),
    };
    vec![
        line(
            "GPUs at once",
            project.gpus_used.to_string(),
            number(quotas.gpus),
            devices(project.gpus_used, quotas.gpus),
        ),
        line(
            "CPU slots at once",
            project.cpu_slots_used.to_string(),
            number(quotas.cpu_slots),
            devices(project.cpu_slots_used, quotas.cpu_slots),
        ),
        line(
            "jobs queued",
            project.queued_jobs.to_string(),
            number(quotas.queued),
            (queue.to_owned(), queue_full),
        ),
        line(
            "GPU-hours a week",
            format!("{:.1}", project.gpu_hours_used),
            quotas.gpu_hours_week.map(|quota| format!("{quota:.1}")),
            (hours, hours_full),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;
    use marquee_proto::v1::ProjectChange;

    use crate::page::Block;

    use super::*;

    fn vision() -> Project {
        Project {
            name: "vision".into(),
            weight: 2.0,
            quotas: Some(Quotas {
                gpus: Some(8),
                gpu_hours_week: Some(41.0),
                reset: "rolling".into(),
                ..Quotas::default()
            }),
            gpus_used: 8,
            queued_jobs: 12,
            gpu_hours_used: 40.25,
            devices_free_at: DateTime::from_timestamp(1_800_000_000, 0).map(timestamp),
            usage_gpu_seconds: 7_200.0,
            keep_days: Some(90),
            idle_stop_min: Some(30),
            changes: vec![ProjectChange {
                at: DateTime::from_timestamp(1_800_000_000, 0).map(timestamp),
                text: "gpus none -> 8".into(),
                caller: "local".into(),
            }],
            ..Project::default()
        }
    }

    fn words(view: &impl View) -> String {
        let page = Page::of(view, DateTime::UNIX_EPOCH);
        let texts = page.blocks().iter().map(|block| match block {
            Block::Table(table) => {
                let rows = table.rows.iter().map(|row| {
                    row.iter()
                        .map(|cell| cell.text.as_str())
                        .collect::<Vec<_>>()
                        .join(" | ")
                });
                rows.collect::<Vec<_>>().join("\n")
            }
            Block::Line(line) => line.clone(),
            Block::Heading(title) => title.clone(),
            Block::Gap | Block::Fields(_) => String::new(),
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_quota_says_what_is_used_and_when_it_frees() {
        let projects = [vision()];
        assert_eq!(
            words(&QuotasOf(&projects)),
            "vision | GPUs at once | 8 | 8 | by 2027-01-15 08:00 UTC\n\
             vision | CPU slots at once | 0 | no quota | \n\
             vision | jobs queued | 12 | no quota | \n\
             vision | GPU-hours a week | 40.2 | 41.0 | each hour 168 hours later\n\
             vision keeps pipelines 90 days\n\
             vision stops train and command jobs whose GPUs do nothing for 30 m 00 s\n\
             Changes of vision (UTC)\n\
             2027-01-15 08:00:00  gpus none -> 8  by local"
        );
        assert_eq!(
            words(&Projects(&projects)),
            "vision | 2 | 8 of 8 | 0 | 12 | 40.2 of 41.0 | 2.0"
        );
        assert_eq!(
            Projects(&projects).json(DateTime::UNIX_EPOCH)[0]["quotas"]["gpus"],
            8
        );
    }
}
