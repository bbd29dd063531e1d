//! Values as people read them. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use marquee_domain::failure::FailureClass;
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::report::{FetchSummary, PreprocessSummary, TrainSummary};
use marquee_domain::spec::JobKind;
use marquee_domain::verdict::diagnose;
use marquee_proto::{convert, v1};
use prost_types::Timestamp;

/// Shown for a value that a newer coordinator knows and this program does not.
const UNKNOWN: &str = "unknown";

/// What the reader must know of the way a train job ran, each thing once.
pub(crate) fn warnings(ranks: &[TrainSummary]) -> Vec<String> {
    let mut warnings: Vec<String> = ranks
        .iter()
        .flat_map(|rank| rank.warnings.clone())
        .collect();
    warnings.sort();
    warnings.dedup();
    warnings
}

/// What held a train job up, and what it warns of, from the words of its newest attempt that has ended;
/// None for others.
pub(crate) fn bottleneck(detail: &v1::JobDetail) -> Option<String> {
    let ranks = trained(detail)?;
    let mut lines: Vec<String> = diagnose(&ranks)
        .map(|found| found.words())
        .into_iter()
        .collect();
    lines.extend(
        warnings(&ranks)
            .into_iter()
            .map(|warning| format!("WARNING: {warning}")),
    );
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The ranks' own words of a train job's newest attempt that has ended; None for others.
pub(crate) fn trained(detail: &v1::JobDetail) -> Option<Vec<TrainSummary>> {
    let summaries = |attempt: &v1::Attempt| -> Option<Vec<TrainSummary>> {
        attempt
            .ranks
            .iter()
            .filter(|rank| rank.lost_at.is_none())
            .map(|rank| serde_json::from_str(&rank.summary_json).ok())
            .collect()
    };
    detail.attempts.iter().rev().find_map(summaries)
}

/// What a fetch or preprocess job that succeeded came to; None for others.
pub(crate) fn result(detail: &v1::JobDetail) -> Option<String> {
    let job = detail.job.as_ref()?;
    let ended = detail.attempts.iter().rev();
    let summary = ended
        .filter(|attempt| attempt.state() == v1::AttemptState::Succeeded)
        .find_map(|attempt| Some(attempt.ranks.first()?.summary_json.as_str()))?;
    match JobKind::try_from(job.kind()).ok()? {
        JobKind::Fetch => serde_json::from_str(summary).ok().as_ref().map(fetched),
        JobKind::Preprocess => serde_json::from_str(summary).ok().as_ref().map(prepared),
        JobKind::Train | JobKind::Eval | JobKind::Command => None,
    }
}

/// `2,990 of 3,000 fetched (190.0 MiB), 4 gone, 6 rejected (no_poster 6), 0 failed`.
fn fetched(fetch: &FetchSummary) -> String {
    let mut text = format!(
        "{} of {} fetched ({}), {} gone, {}, {}",
        count(fetch.fetched),
        count(fetch.asked),
        bytes(fetch.bytes),
        count(fetch.gone),
        by_class("rejected", &fetch.rejected),
        by_class("failed", &fetch.failed),
    );
    if fetch.unchanged > 0 {
        text.push_str(&format!(
            "; {} had not changed and were not sent again",
            count(fetch.unchanged)
        ));
    }
    text
}

/// `2,980 pictures in splits, 10 skipped (undecodable 10)`.
fn prepared(prepared: &PreprocessSummary) -> String {
    format!(
        "{} pictures in splits, {}",
        count(prepared.splits.values().sum()),
        by_class("skipped", &prepared.skipped)
    )
}

fn by_class(what: &str, classes: &BTreeMap<String, u64>) -> String {
    let all = count(classes.values().sum());
    let classes: Vec<String> = classes
        .iter()
        .map(|(class, number)| format!("{class} {}", count(*number)))
        .collect();
    if classes.is_empty() {
        format!("{all} {what}")
    } else {
        format!("{all} {what} ({})", classes.join(", "))
    }
}

/// What the newest attempt's loss of ranks came to, where it went on without them.
pub(crate) fn losses(detail: &v1::JobDetail) -> Vec<String> {
    let Some(attempt) = detail.attempts.last() else {
        return Vec::new();
    };
    let lost = attempt.ranks.iter().filter(|rank| rank.lost_at.is_some());
    let causes: Vec<String> = lost
        .map(|rank| {
            let cause = rank.failure.as_ref().map_or_else(
                || "no cause is known".to_owned(),
                |failure| {
                    format!(
                        "{}: {}",
                        failure_word(failure),
                        first_line(&failure.message)
                    )
                },
            );
            format!(
                "rank {} on {} was lost ({cause})",
                rank.rank, rank.worker_name
            )
        })
        .collect();
    if causes.is_empty() {
        return causes;
    }
    let (all, left) = (attempt.ranks.len(), attempt.ranks.len() - causes.len());
    let mut lines = vec![format!(
        "It went on with {left} of {all} ranks: {}.",
        causes.join("; ")
    )];
    let first = attempt.ranks.iter().find(|rank| rank.lost_at.is_none());
    let summary: Option<TrainSummary> =
        first.and_then(|rank| serde_json::from_str(&rank.summary_json).ok());
    lines.extend(
        summary
            .iter()
            .flat_map(|summary| &summary.went_on)
            .map(|went_on| format!("It {}.", went_on.words())),
    );
    lines
}

/// The word of a job's state.
pub(crate) fn job_state(job: &v1::Job) -> &'static str {
    state_name(job).map_or(UNKNOWN, JobStateName::as_str)
}

/// A job's state, unless only a newer coordinator knows it.
pub(crate) fn state_name(job: &v1::Job) -> Option<JobStateName> {
    JobStateName::try_from(job.state()).ok()
}

/// Whether the job will not change any more.
pub(crate) fn has_ended(job: &v1::Job) -> bool {
    state_name(job).is_some_and(JobStateName::is_final)
}

/// A job's name: `fetch`, an array's `fetch[0-15]`, an element's `fetch[3]`.
pub(crate) fn job_name(job: &v1::Job) -> String {
    match (&job.elements, &job.element) {
        (Some(counts), _) => format!(
            "{}[0-{}]",
            job.name,
            element_count(counts).saturating_sub(1)
        ),
        (None, Some(element)) => format!("{}[{}]", job.name, element.index),
        (None, None) => job.name.clone(),
    }
}

fn element_count(counts: &v1::ElementCounts) -> u32 {
    let v1::ElementCounts {
        waiting,
        queued,
        running,
        succeeded,
        failed,
        cancelled,
    } = counts;
    waiting + queued + running + succeeded + failed + cancelled
}

/// `12 of 16 elements succeeded, 3 running, 1 queued`.
pub(crate) fn element_states(counts: &v1::ElementCounts) -> String {
    let mut text = format!(
        "{} of {} elements succeeded",
        counts.succeeded,
        element_count(counts)
    );
    for (count, state) in [
        (counts.failed, JobStateName::Failed),
        (counts.cancelled, JobStateName::Cancelled),
        (counts.running, JobStateName::Running),
        (counts.queued, JobStateName::Queued),
        (counts.waiting, JobStateName::Waiting),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {}", state.as_str()));
        }
    }
    text
}

/// The word of a job's kind.
pub(crate) fn job_kind(job: &v1::Job) -> &'static str {
    JobKind::try_from(job.kind()).map_or(UNKNOWN, JobKind::as_str)
}

pub(crate) fn attempt_state(attempt: &v1::Attempt) -> &'static str {
    AttemptStateName::try_from(attempt.state()).map_or(UNKNOWN, AttemptStateName::as_str)
}

pub(crate) fn rank_state(rank: &v1::AttemptRank) -> &'static str {
    RankState::try_from(rank.state()).map_or(UNKNOWN, RankState::as_str)
}

pub(crate) fn worker_state(worker: &v1::Worker) -> &'static str {
    match worker.state() {
        v1::WorkerState::Online => "online",
        v1::WorkerState::Lost => "lost",
        v1::WorkerState::Left => "left",
        v1::WorkerState::Unspecified => UNKNOWN,
    }
}

/// The class of a failure.
pub(crate) fn failure_class(failure: &v1::Failure) -> Option<FailureClass> {
    FailureClass::try_from(failure.class()).ok()
}

/// The word of a failure's class.
pub(crate) fn failure_word(failure: &v1::Failure) -> &'static str {
    failure_class(failure).map_or(UNKNOWN, FailureClass::as_str)
}

/// `cpu 0` or `gpu 3`.
pub(crate) fn device(device: &v1::Device) -> String {
    match device.kind {
        Some(v1::device::Kind::Cpu(index)) => format!("cpu {index}"),
        Some(v1::device::Kind::Gpu(index)) => format!("gpu {index}"),
        None => UNKNOWN.to_owned(),
    }
}

/// All devices of a rank.
pub(crate) fn devices(devices: &[v1::Device]) -> String {
    devices.iter().map(device).collect::<Vec<_>>().join(", ")
}

/// A time of the wire, where it is set and in range.
pub(crate) fn time(at: Option<&Timestamp>) -> Option<DateTime<Utc>> {
    at.and_then(|at| convert::datetime(at).ok())
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The time of day in UTC, for lists of events.
pub(crate) fn clock_time(at: DateTime<Utc>) -> String {
    at.format("%H:%M:%S").to_string()
}

/// From one time to a later one; zero if clocks disagree.
pub(crate) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// How long a job's newest attempt ran, or has run until now. None before the first.
pub(crate) fn ran_for(job: &v1::Job, now: DateTime<Utc>) -> Option<Duration> {
    let started = time(job.started_at.as_ref())?;
    let ended = time(job.finished_at.as_ref()).unwrap_or(now);
    Some(between(started, ended))
}

/// `0.4 s`, `12 s`, `3 m 05 s`, `2 h 07 m`, `5 d 3 h`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", length.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {:02} m", seconds / 3_600, seconds / 60 % 60),
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// The same, coarser, for a time left or an age: `12 s`, `3 m`, `2 h`, `5 d`.
pub(crate) fn about(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        86_400.. => format!("{} d", seconds / 86_400),
    }
}

/// `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in binary units: `512 B`, `1.5 KiB`, `3.2 GiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// A rate with as many digits as mean something: `0.42`, `8.3`, `312`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 1.0 {
        format!("{per_second:.2}")
    } else if per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

/// The first twelve digits of a digest, or all of what is shorter.
pub(crate) fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// What fits into a table of a text that may have many lines.
pub(crate) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// `1 job`, `2 jobs`.
pub(crate) fn plural(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_grow_coarser() {
        let words = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        let all = [0.0, 0.42, 9.96, 59.9, 65.0, 7_620.0, 442_800.0].map(words);
        assert_eq!(
            all,
            [
                "0.0 s", "0.4 s", "10.0 s", "59 s", "1 m 05 s", "2 h 07 m", "5 d 3 h"
            ]
        );
    }

    #[test]
    fn an_array_and_its_elements_are_told_apart_by_name() {
        let counts = v1::ElementCounts {
            succeeded: 12,
            running: 3,
            failed: 1,
            ..v1::ElementCounts::default()
        };
        let mut job = v1::Job {
            name: "fetch".into(),
            elements: Some(counts),
            ..v1::Job::default()
        };
        assert_eq!(job_name(&job), "fetch[0-15]");
        assert_eq!(
            element_states(&counts),
            "12 of 16 elements succeeded, 1 failed, 3 running"
        );
        job.elements = None;
        job.element = Some(v1::ElementOf {
            array_job_id: 1,
            index: 3,
        });
        assert_eq!(job_name(&job), "fetch[3]");
    }

    #[test]
    fn a_fetch_that_ended_says_what_became_of_every_id() {
        let summary = FetchSummary {
            asked: 3_000,
            fetched: 2_990,
            gone: 4,
            rejected: BTreeMap::from([("no_poster".to_owned(), 6)]),
            bytes: 190 << 20,
            unchanged: 12,
            ..FetchSummary::default()
        };
        let rank = v1::AttemptRank {
            summary_json: serde_json::to_string(&summary).unwrap(),
            ..v1::AttemptRank::default()
        };
        let attempt = v1::Attempt {
            state: v1::AttemptState::Succeeded.into(),
            ranks: vec![rank],
            ..v1::Attempt::default()
        };
        let detail = v1::JobDetail {
            job: Some(v1::Job {
                kind: v1::JobKind::Fetch.into(),
                ..v1::Job::default()
            }),
            attempts: vec![attempt],
            ..v1::JobDetail::default()
        };
        assert_eq!(
            result(&detail).unwrap(),
            "2,990 of 3,000 fetched (190.0 MiB), 4 gone, 6 rejected (no_poster 6), 0 failed; \
             12 had not changed and were not sent again"
        );
    }

    #[test]
    fn counts_have_separators_and_bytes_have_units() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        let sizes = [0, 1_023, 1_536, 3 << 30, u64::MAX].map(bytes);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.5 KiB", "3.0 GiB", "16384.0 PiB"]
        );
    }
}
