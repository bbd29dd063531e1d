//! When a job is expected to start, and afterwards how wrong that was.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_proto::v1::{Forecast, JobDetail};

use crate::units;

/// What can be said of the start of a queued job.
#[must_use]
pub(crate) fn expected(detail: &JobDetail, now: DateTime<Utc>) -> Option<String> {
    let Some(when) = detail.expected.as_ref().and_then(|found| when(found, now)) else {
        let why = &detail.no_forecast;
        return (!why.is_empty()).then(|| format!("When it starts cannot be said: {why}."));
    };
    Some(format!("It is expected to start {when}."))
}

/// When something is expected, in both ways, and what that follows from.
pub(crate) fn when(found: &Forecast, now: DateTime<Utc>) -> Option<String> {
    let (expected_at, likely_by, basis) = times(found)?;
    Some(format!(
        "at {} ({}), and in nine cases of ten by {}: by {basis}",
        clock(expected_at),
        away(expected_at, now),
        clock(likely_by)
    ))
}

/// How far such words can be trusted: how wrong they were lately in this cluster.
#[must_use]
pub(crate) fn accuracy(detail: &JobDetail) -> Option<String> {
    let accuracy = detail.forecast_accuracy.as_ref()?;
    // A float from the wire may be negative, endless or no number: then nothing is said.
    let off = Duration::try_from_secs_f64(accuracy.median_error_s).ok()?;
    let (jobs, held) = (accuracy.jobs, accuracy.held);
    Some(format!(
        "Of the last {jobs} forecasts here half were off by at most {}, and {held} of {jobs} jobs started by the later \
         time.",
        units::duration(off)
    ))
}

/// What was first said of the start of a job that has started, and how wrong it was.
#[must_use]
pub(crate) fn looking_back(detail: &JobDetail) -> Option<String> {
    let said = detail.first_said.as_ref()?;
    let (expected_at, likely_by, _) = times(said)?;
    let said_at = units::time(said.said_at.as_ref())?;
    // It was said of the first attempt; when a later one began follows from why the first ended.
    let first = detail.attempts.first()?;
    let began = units::time(first.created_at.as_ref())?;
    // Signed: a job that starts early is as wrong a forecast as one that is late.
    let late = (began - expected_at).num_seconds();
    let wrong = units::duration(units::between(
        expected_at.min(began),
        expected_at.max(began),
    ));
    let how = match late {
        // Within a second of it nobody would call it late or early.
        -1..=1 => "as was expected".to_owned(),
        2.. => format!("{wrong} later than was expected"),
        _ => format!("{wrong} earlier than was expected"),
    };
    let within = if began <= likely_by {
        "within"
    } else {
        "beyond"
    };
    Some(format!(
        "It started {how}: at {} it was expected at {}, and in nine cases of ten by {}; it was {within} that.",
        clock(said_at),
        clock(expected_at),
        clock(likely_by)
    ))
}

fn times(forecast: &Forecast) -> Option<(DateTime<Utc>, DateTime<Utc>, &str)> {
    Some((
        units::time(forecast.expected_at.as_ref())?,
        units::time(forecast.likely_by.as_ref())?,
        &forecast.basis,
    ))
}

fn clock(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn away(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if at <= now {
        "now".to_owned()
    } else {
        format!("in {}", units::duration(units::between(now, at)))
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;
    use marquee_proto::v1::{Attempt, ForecastAccuracy};

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn forecast() -> Option<Forecast> {
        Some(Forecast {
            said_at: Some(timestamp(at(0))),
            expected_at: Some(timestamp(at(600))),
            likely_by: Some(timestamp(at(900))),
            basis: "the time limits of 2 running jobs".into(),
        })
    }

    #[test]
    fn a_waiting_job_says_when_and_by_what_or_why_not() {
        let mut detail = JobDetail {
            expected: forecast(),
            ..JobDetail::default()
        };
        assert_eq!(
            expected(&detail, at(0)).unwrap(),
            "It is expected to start at 2027-01-15 08:10:00 UTC (in 10 m 00 s), and in nine cases of ten by \
             2027-01-15 08:15:00 UTC: by the time limits of 2 running jobs."
        );
        assert_eq!(accuracy(&detail), None);
        detail.forecast_accuracy = Some(ForecastAccuracy {
            jobs: 40,
            median_error_s: 130.0,
            held: 36,
        });
        assert_eq!(
            accuracy(&detail).unwrap(),
            "Of the last 40 forecasts here half were off by at most 2 m 10 s, and 36 of 40 jobs started by the later \
             time."
        );
        detail.expected = None;
        assert_eq!(expected(&detail, at(0)), None, "of an older coordinator");
        detail.no_forecast = "job 9 may run for ever".into();
        assert_eq!(
            expected(&detail, at(0)).unwrap(),
            "When it starts cannot be said: job 9 may run for ever."
        );
    }

    #[test]
    fn a_job_that_started_says_how_wrong_it_was() {
        let began = |seconds| {
            let detail = JobDetail {
                first_said: forecast(),
                attempts: vec![Attempt {
                    created_at: Some(timestamp(at(seconds))),
                    ..Attempt::default()
                }],
                ..JobDetail::default()
            };
            looking_back(&detail).unwrap()
        };
        assert!(began(601).starts_with("It started as was expected: at 2027-01-15 08:00:00 UTC"));
        assert!(began(540).starts_with("It started 1 m 00 s earlier than was expected"));
        assert!(began(540).ends_with("it was within that."));
        let late = began(1_200);
        assert!(
            late.starts_with("It started 10 m 00 s later than was expected"),
            "{late}"
        );
        assert!(late.ends_with("it was beyond that."), "{late}");
        assert_eq!(looking_back(&JobDetail::default()), None);
    }
}
