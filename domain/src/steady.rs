//! A time of day that does not jump. Back-off, time-outs and histories are counted in times that rows keep; when
//! somebody sets a host's clock an hour on, no job is to have run an hour longer for it.
//!
//! It starts as the host's clock says, goes on with the clock that cannot be set, and comes nearer to the host's by
//! at most `SLEW` of the time that passes: so what is counted with it is off by no more than that. A process
//! that starts anew begins with the host's time as it is then.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// One part in so many: 5 %, an hour's jump is made good in 20.
const SLEW: i32 = 20;
/// From here on a difference is a jump, and worth a word.
const JUMP: TimeDelta = TimeDelta::seconds(5);

/// The time of day as one process tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steady {
    shown: DateTime<Utc>,
    monotonic: Duration,
    is_told: bool,
}

impl Steady {
    /// Begins with the host's time.
    #[must_use]
    pub fn starting(wall: DateTime<Utc>, monotonic: Duration) -> Self {
        Self {
            shown: wall,
            monotonic,
            is_told: false,
        }
    }

    /// The time now, where the host's clocks say `wall` and `monotonic`. It never goes back.
    pub fn now(&mut self, wall: DateTime<Utc>, monotonic: Duration) -> DateTime<Utc> {
        // Threads ask in any order: one that read its clock before another, and asks after it, adds
        // nothing.
        let passed = monotonic.saturating_sub(self.monotonic);
        let passed = TimeDelta::from_std(passed).unwrap_or(TimeDelta::zero());
        let straight = self.shown + passed;
        let most = passed / SLEW;
        self.shown = straight + (wall - straight).clamp(-most, most);
        self.monotonic = self.monotonic.max(monotonic);
        self.shown
    }

    /// How far the host's clock is from the time that is told, where it was set since somebody asked: once a jump.
    pub fn jump(&mut self, wall: DateTime<Utc>) -> Option<TimeDelta> {
        let off = wall - self.shown;
        let is_far = off.abs() > JUMP;
        let is_news = is_far && !self.is_told;
        // Once it is near again the next jump is news.
        self.is_told = is_far;
        is_news.then_some(off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn clock(seconds: u64) -> Duration {
        Duration::from_secs(50_000 + seconds)
    }

    #[test]
    fn a_clock_that_is_set_an_hour_on_or_back_changes_no_count_by_more_than_a_twentieth() {
        for jump in [3_600, -3_600] {
            let mut steady = Steady::starting(at(0), clock(0));
            assert_eq!(steady.now(at(10), clock(10)), at(10));
            assert_eq!(steady.jump(at(10)), None);
            let before = steady.now(at(10), clock(10));
            let mut last = before;
            for second in 11..=110_u64 {
                let wall = at(i64::try_from(second).unwrap() + jump);
                let now = steady.now(wall, clock(second));
                assert!(now >= last, "{now} is before {last}");
                last = now;
            }
            let counted = (last - before).num_seconds();
            assert!(
                (95..=105).contains(&counted),
                "{jump}: 100 s were counted as {counted}"
            );
            let off = steady.jump(at(110 + jump)).unwrap().num_seconds();
            assert!((off - jump).abs() <= 6, "{jump}: {off}");
            assert_eq!(steady.jump(at(110 + jump)), None, "said once");
        }
    }

    #[test]
    fn a_difference_is_made_good_in_time_and_then_followed() {
        let mut steady = Steady::starting(at(0), clock(0));
        // Twenty hours later an hour's jump is made good.
        let day = 21 * 3_600;
        let now = steady.now(at(day + 3_600), clock(u64::try_from(day).unwrap()));
        assert_eq!(now, at(day + 3_600));
        assert_eq!(steady.jump(at(day + 3_600)), None);
        // Clocks that stand still or go back stop nothing.
        assert_eq!(steady.now(at(0), clock(0)), now);
    }
}
