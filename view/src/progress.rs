//! How far a job is: the share done, its rate, the time left, and all of it in one line.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_proto::v1::Progress;

use crate::units;

/// A rate measured over a shorter time would be noise.
const RATE_AFTER: Duration = Duration::from_secs(1);
/// Classes of problems that fit into one line.
const PROBLEMS_SHOWN: usize = 3;
/// A longer time left is not shown: such a figure says nothing but that it is long.
const LEFT_MAX: Duration = Duration::from_secs(99 * 24 * 3_600);

/// Which round this is, of how many: (2, 8) for the phase "epoch 2/8", (1, 1) for a phase without
/// such a figure.
fn round(progress: &Progress) -> (u64, u64) {
    let said = progress
        .phase
        // The last word alone: "epoch 2/8" has its rounds at the end, and a path with a slash may
        // stand before it.
        .rsplit(' ')
        .next()
        .and_then(|last| last.split_once('/'));
    said.and_then(|(this, all)| Some((this.parse().ok()?, all.parse().ok()?)))
        // A phase may end in any words, among them ones with a slash that count nothing.
        .filter(|(this, all)| (1..=*all).contains(this))
        .unwrap_or((1, 1))
}

/// The share done of all rounds, in whole percent.
#[must_use]
pub fn percent(progress: &Progress) -> Option<u64> {
    // In 128 bits: programs report any numbers, and these are multiplied.
    let total = u128::from(progress.total.filter(|total| *total > 0)?);
    let (this, all) = round(progress);
    // More than was announced is all of it: no share is above 100 %.
    let done = u128::from(this - 1) * total + u128::from(progress.done).min(total);
    u64::try_from(done.checked_mul(100)? / (total * u128::from(all))).ok()
}

/// Units a second since the phase began; what an earlier attempt did is no part of it.
#[must_use]
pub fn rate(progress: &Progress) -> Option<f64> {
    per_second(
        progress,
        progress.done.saturating_sub(progress.phase_started_done),
    )
}

fn per_second(progress: &Progress, since_start: u64) -> Option<f64> {
    let started = units::time(progress.phase_started_at.as_ref())?;
    let measured = units::between(started, units::time(progress.at.as_ref())?);
    // To the report and not to now: between two reports the rate would seem to fall.
    (measured >= RATE_AFTER && since_start > 0).then(|| since_start as f64 / measured.as_secs_f64())
}

/// `190.0 MiB, 12.1 MiB/s`, of what brings bytes in.
fn bytes_text(progress: &Progress) -> Option<String> {
    let bytes = progress.bytes.filter(|bytes| *bytes > 0)?;
    let mut text = units::bytes(bytes);
    let since_start = bytes.saturating_sub(progress.phase_started_bytes);
    if let Some(rate) = per_second(progress, since_start) {
        // No rate in bytes comes near the largest number.
        #[allow(clippy::cast_possible_truncation, reason = "it saturates")]
        let rate = rate as u64;
        text.push_str(&format!(", {}/s", units::bytes(rate)));
    }
    Some(text)
}

/// `15 not well: 12 gone, 3 rejected_no_poster`; the commonest `most` classes.
#[must_use]
pub fn problems_text(progress: &Progress, most: usize) -> Option<String> {
    let mut classes: Vec<(&String, u64)> = progress
        .problems
        .iter()
        .map(|(class, count)| (class, *count))
        .filter(|(_, count)| *count > 0)
        .collect();
    let all = units::total(classes.iter().map(|(_, count)| *count));
    // A stable sort: classes of one count stay in the order of their names, and the line does not
    // flicker.
    classes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let named = classes.iter().take(most);
    let mut parts: Vec<String> = named
        .map(|(class, count)| format!("{} {class}", units::count(*count)))
        .collect();
    let rest = units::total(classes.iter().skip(most).map(|(_, count)| *count));
    if rest > 0 {
        parts.push(format!("{} of other classes", units::count(rest)));
    }
    (all > 0).then(|| format!("{} not well: {}", units::count(all), parts.join(", ")))
}

/// How long this round and those after it will go on at its rate, seen from `now`.
#[must_use]
pub fn time_left(progress: &Progress, now: DateTime<Utc>) -> Option<Duration> {
    let rate = rate(progress)?;
    let total = progress.total?;
    let (this, all) = round(progress);
    // Nothing is said where more was done than was announced: a time that follows from a wrong total is wrong as well.
    let units = total.checked_sub(progress.done)? as f64 + (all - this) as f64 * total as f64;
    // What has passed since the report is not left any more; the page of a rank that reports seldom counts down.
    let since = units::between(units::time(progress.at.as_ref())?, now).as_secs_f64();
    let left = Duration::try_from_secs_f64((units / rate - since).max(0.0)).ok()?;
    (left < LEFT_MAX).then_some(left)
}

/// `films 1,200/3,000 films (40 %), 312 films/s, 80.1 MiB, 20.8 MiB/s, 6 s left; 15 not well: 15 gone`.
#[must_use]
pub fn progress_text(progress: &Progress, now: DateTime<Utc>) -> String {
    let done = units::count(progress.done);
    let mut text = match progress.total {
        // It waits for something, and there is nothing to count.
        None if progress.unit.is_empty() && progress.done == 0 => progress.phase.clone(),
        Some(total) => {
            format!(
                "{} {done}/{} {}",
                progress.phase,
                units::count(total),
                progress.unit
            )
        }
        None => format!("{} {done} {}", progress.phase, progress.unit),
    };
    if let Some(percent) = percent(progress) {
        text.push_str(&format!(" ({percent} %)"));
    }
    if let Some(rate) = rate(progress) {
        text.push_str(&format!(", {} {}/s", units::rate(rate), progress.unit));
    }
    if let Some(bytes) = bytes_text(progress) {
        text.push_str(&format!(", {bytes}"));
    }
    if let Some(left) = time_left(progress, now) {
        text.push_str(&format!(", {} left", units::about(left)));
    }
    if let Some(problems) = problems_text(progress, PROBLEMS_SHOWN) {
        text.push_str(&format!("; {problems}"));
    }
    // A program's own progress may have no phase.
    text.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn posters(done: u64, total: Option<u64>, measured_at: i64) -> Progress {
        Progress {
            phase: "posters".into(),
            done,
            total,
            unit: "images".into(),
            at: Some(timestamp(at(measured_at))),
            phase_started_at: Some(timestamp(at(0))),
            ..Progress::default()
        }
    }

    #[test]
    fn rate_and_time_left_follow_from_the_phase() {
        let text = progress_text(&posters(1_200, Some(3_000), 4), at(4));
        assert_eq!(
            text,
            "posters 1,200/3,000 images (40 %), 300 images/s, 6 s left"
        );
        // Two seconds later, without news, two seconds less are left.
        let later = progress_text(&posters(1_200, Some(3_000), 4), at(6));
        assert!(later.ends_with("4 s left"), "{later}");
    }

    #[test]
    fn a_fetch_says_its_bytes_and_what_did_not_go_well() {
        let classes = [
            ("gone", 12),
            ("failed_timeout", 1),
            ("rejected_adult", 2),
            ("failed_http_500", 3),
        ];
        let fetch = Progress {
            bytes: Some(40 << 20),
            problems: classes
                .map(|(class, count)| (class.to_owned(), count))
                .into(),
            ..posters(1_200, Some(3_000), 4)
        };
        assert_eq!(
            progress_text(&fetch, at(4)),
            "posters 1,200/3,000 images (40 %), 300 images/s, 40.0 MiB, 10.0 MiB/s, 6 s left; \
             18 not well: 12 gone, 3 failed_http_500, 2 rejected_adult, 1 of other classes"
        );
    }

    #[test]
    fn what_an_earlier_attempt_did_is_no_part_of_the_rate() {
        let resumed = Progress {
            phase_started_done: 1_000,
            bytes: Some(110 << 20),
            phase_started_bytes: 100 << 20,
            ..posters(1_200, Some(3_000), 4)
        };
        assert_eq!(
            progress_text(&resumed, at(4)),
            "posters 1,200/3,000 images (40 %), 50 images/s, 110.0 MiB, 2.5 MiB/s, 36 s left"
        );
    }

    #[test]
    fn rounds_are_counted_together() {
        let epoch = Progress {
            phase: "epoch 3/4".into(),
            ..posters(50, Some(100), 10)
        };
        assert_eq!(percent(&epoch), Some(62));
        assert_eq!(time_left(&epoch, at(10)), Some(Duration::from_secs(30)));
        for odd in ["epoch 0/4", "epoch 5/4", "epoch x/y", "3/", ""] {
            assert_eq!(
                round(&Progress {
                    phase: odd.into(),
                    ..epoch.clone()
                }),
                (1, 1),
                "{odd}"
            );
        }
    }

    #[test]
    fn nothing_is_claimed_that_is_not_known() {
        assert_eq!(
            progress_text(&posters(7, None, 0), at(0)),
            "posters 7 images"
        );
        assert_eq!(
            progress_text(&posters(0, Some(0), 9), at(9)),
            "posters 0/0 images"
        );
        assert_eq!(percent(&posters(5, Some(4), 1)), Some(100));
        assert_eq!(time_left(&posters(5, Some(4), 1), at(1)), None);
    }

    #[test]
    fn figures_that_no_job_has_are_shown_and_stumbled_over_by_nobody() {
        let most = u64::MAX;
        let odd = Progress {
            phase: format!("epoch {most}/{most}"),
            problems: [("gone".to_owned(), most), ("rejected".to_owned(), most)].into(),
            ..posters(most, Some(most), 1)
        };
        let _ = (
            percent(&odd),
            rate(&odd),
            time_left(&odd, at(i64::from(u32::MAX))),
        );
        let text = problems_text(&odd, 1).unwrap();
        assert!(
            text.starts_with("18,446,744,073,709,551,615 not well"),
            "{text}"
        );
        for phase in [
            "epoch 0/5",
            "epoch 6/5",
            "epoch -1/5",
            "epoch 1/",
            "/",
            "1/0",
            "",
        ] {
            let odd = Progress {
                phase: phase.into(),
                ..posters(5, Some(10), 1)
            };
            assert_eq!(percent(&odd), Some(50), "{phase}");
        }
        assert_eq!(percent(&posters(5, Some(0), 1)), None);
        assert_eq!(percent(&posters(50, Some(10), 1)), Some(100));
    }
}
