//! Times, lengths, counts and sizes as people read them.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use marquee_proto::convert;
use prost_types::Timestamp;

/// A time of the wire, where it is set and in range.
#[must_use]
pub fn time(at: Option<&Timestamp>) -> Option<DateTime<Utc>> {
    at.and_then(|at| convert::datetime(at).ok())
}

/// RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(at: DateTime<Utc>) -> String {
    // Always three digits: times of one length sort as text in the order of time.
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The time of day in UTC, for lists of events.
#[must_use]
pub fn clock_time(at: DateTime<Utc>) -> String {
    at.format("%H:%M:%S").to_string()
}

/// From one time to a later one; zero if clocks disagree.
#[must_use]
pub fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Duration {
    (to - from).to_std().unwrap_or_default()
}

/// `0.4 s`, `12 s`, `3 m 05 s`, `2 h 07 m`, `5 d 3 h`.
#[must_use]
pub fn duration(length: Duration) -> String {
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
#[must_use]
pub fn about(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        86_400.. => format!("{} d", seconds / 86_400),
    }
}

/// Numbers that were counted somewhere else, together. Where they are more than a number holds, as many as it does:
/// whoever reads them must not fall over them.
#[must_use]
pub fn total(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// `12,345`.
#[must_use]
pub fn count(number: u64) -> String {
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
#[must_use]
pub fn bytes(number: u64) -> String {
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
#[must_use]
pub fn rate(per_second: f64) -> String {
    if per_second < 1.0 {
        format!("{per_second:.2}")
    } else if per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

/// The first twelve digits of a digest, or all of what is shorter.
#[must_use]
pub fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// What fits into a table of a text that may have many lines: the first, with what a colon at its end announces.
#[must_use]
pub fn first_line(text: &str) -> Cow<'_, str> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    match lines.next() {
        // "cannot read the table:" alone would end where it gets interesting.
        Some(next) if first.ends_with(':') => Cow::Owned(format!("{first} {}", next.trim_start())),
        Some(_) | None => Cow::Borrowed(first),
    }
}

/// `1 job`, `2 jobs`.
#[must_use]
pub fn plural(number: usize, noun: &str) -> String {
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
    fn one_line_of_many_is_one_that_says_something() {
        for (text, shown) in [
            ("", ""),
            ("out of memory", "out of memory"),
            (
                "it ended; the last line\nbefore that:\nothers",
                "it ended; the last line",
            ),
            (
                "x.csv cannot be used:\n  line 2: is blank\n  line 3: is blank",
                "x.csv cannot be used: line 2: is blank",
            ),
            ("x.csv cannot be used:", "x.csv cannot be used:"),
        ] {
            assert_eq!(first_line(text), shown);
        }
    }

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
