//! GPUs that are held and do nothing: what counts as that, and how long it may go on.
//!
//! Not here: the readings, and who looks at them (the coordinator's `session` and `background`).

use std::time::Duration;

/// A GPU that was busy for at most this share of each sample period, in percent, does nothing: some drivers round up
/// what a desktop or a monitor takes.
pub const BUSY_PERCENT_MAX: u32 = 1;
/// Longest pause between two readings that belong together; of what was between two further apart nobody knows.
pub const READINGS_APART_MAX: Duration = Duration::from_secs(30);
/// After so long a job whose GPUs do nothing is said to idle; where its project stops such jobs earlier than after
/// twice that, after half of its time.
pub const SAID_AFTER: Duration = Duration::from_secs(15 * 60);
/// Least and greatest time, in minutes, after which a project may have idle jobs stopped: below, a job that reads its
/// first data would be; a week.
pub const STOP_MINUTES: std::ops::RangeInclusive<u32> = 5..=7 * 24 * 60;

/// Whether a time after which idle jobs are stopped can be meant.
///
/// # Errors
/// What may be given.
pub fn check_stop(minutes: u32) -> Result<(), String> {
    if STOP_MINUTES.contains(&minutes) {
        return Ok(());
    }
    let (least, most) = (STOP_MINUTES.start(), STOP_MINUTES.end() / (24 * 60));
    Err(format!(
        "idle_stop: {minutes} min is out of range; give {least} minutes to {most} days, or \"none\" for never"
    ))
}

/// How long a job of a project may idle before it is said, where the project stops such jobs after `stop_minutes`. Always
/// before it is stopped.
#[must_use]
pub fn said_after(stop_minutes: Option<u32>) -> Duration {
    match stop_minutes {
        // Half of the time to the stop at most, so that nobody is stopped who could not have read
        // it before.
        Some(minutes) => SAID_AFTER.min(Duration::from_secs(u64::from(minutes) * 60 / 2)),
        None => SAID_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_stopped_was_told_before() {
        for minutes in STOP_MINUTES {
            assert!(said_after(Some(minutes)) < Duration::from_secs(u64::from(minutes) * 60));
        }
        assert_eq!(said_after(None), SAID_AFTER);
        assert_eq!(said_after(Some(10)), Duration::from_secs(300));
    }

    #[test]
    fn a_time_that_is_none_is_refused_with_what_may_be_given() {
        assert_eq!(check_stop(5), Ok(()));
        assert_eq!(check_stop(10_080), Ok(()));
        for bad in [0, 4, 10_081, u32::MAX] {
            assert!(check_stop(bad).unwrap_err().contains("5 minutes to 7 days"));
        }
    }
}
