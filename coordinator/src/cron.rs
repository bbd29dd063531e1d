//! Cron patterns in time zones: which times they mean.
//!
//! Where a clock jumps ahead, a pattern with a fixed hour that falls into the gap is due at its end, and one that comes
//! again and again leaves the gap out. Where a clock goes back, a fixed hour is due once, and what comes again and
//! again goes on through the hour that is there twice. So do the crons that people know.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron as Pattern;
use croner::parser::{CronParser, Seconds, Year};
use marquee_domain::nearest::nearest;

/// Bytes of a pattern: the longest that anybody writes by hand, several times.
const PATTERN_MAX_BYTES: usize = 200;
/// A pattern that is not due for so long is taken for a slip: the longest wait that people mean is for a 29 February.
const AHEAD_MAX: TimeDelta = TimeDelta::days(9 * 366);

/// A pattern in its time zone.
#[derive(Debug, Clone)]
pub(crate) struct Cron {
    pattern: Pattern,
    zone: Tz,
}

impl Cron {
    /// Reads a pattern of five fields (minute, hour, day of the month, month, day of the week) and the IANA name of a
    /// time zone.
    ///
    /// # Errors
    /// What is wrong with which of them, and the way out.
    pub(crate) fn parse(pattern: &str, zone: &str) -> Result<Self, String> {
        let zone = zone.parse::<Tz>().map_err(|_| {
            let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let meant = nearest(zone, known).map(|meant| format!("; did you mean {meant:?}?"));
            format!(
                "time_zone: {zone:?} is no time zone; give a name such as \"Europe/Berlin\" or \"UTC\"{}",
                meant.unwrap_or_default()
            )
        })?;
        if pattern.len() > PATTERN_MAX_BYTES {
            let bytes = pattern.len();
            return Err(format!(
                "cron: {bytes} bytes are too many; at most {PATTERN_MAX_BYTES} fit"
            ));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed);
        let pattern = parser.build().parse(pattern).map_err(|why| {
            format!(
                "cron: {pattern:?} is no pattern ({why}); write minute, hour, day, month and day of the week, as in \
                 \"30 6 * * MON-FRI\""
            )
        })?;
        Ok(Self { pattern, zone })
    }

    /// The first due time after a time; None: there is none within nine years.
    #[must_use]
    pub(crate) fn after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.zone);
        let next = self.pattern.find_next_occurrence(&local, false).ok()?;
        let next = next.with_timezone(&Utc);
        // A pattern that went back in time would be due for ever.
        (next > time && next < time + AHEAD_MAX).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(pattern: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(pattern, zone).unwrap();
        let mut at: DateTime<Utc> = from.parse().unwrap();
        let mut times = Vec::new();
        for _ in 0..count {
            let Some(next) = cron.after(at) else { break };
            at = next;
            times.push(at.format("%m-%d %H:%M").to_string());
        }
        times
    }

    #[test]
    fn a_pattern_means_times_of_its_zone() {
        let weekdays = due(
            "30 6 * * MON-FRI",
            "Europe/Berlin",
            "2027-01-15T00:00:00Z",
            3,
        );
        assert_eq!(weekdays, ["01-15 05:30", "01-18 05:30", "01-19 05:30"]);
        assert_eq!(
            due("*/20 * * * *", "UTC", "2027-01-15T00:00:00Z", 3),
            ["01-15 00:20", "01-15 00:40", "01-15 01:00"]
        );
        // The last day of each month.
        assert_eq!(
            due("0 0 L * *", "UTC", "2027-01-15T00:00:00Z", 2),
            ["01-31 00:00", "02-28 00:00"]
        );
        assert_eq!(
            due("0 0 29 2 *", "UTC", "2027-01-15T00:00:00Z", 1),
            ["02-29 00:00"]
        );
    }

    /// Berlin's clocks jump from 02:00 to 03:00 on 28 March 2027, at 01:00 UTC.
    #[test]
    fn an_hour_that_is_not_there_loses_no_daily_run_and_makes_up_no_others() {
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2027-03-26T12:00:00Z", 3),
            ["03-27 01:30", "03-28 01:00", "03-29 00:30"],
            "02:30 is not there: it is due when the gap ends"
        );
        assert_eq!(
            due("*/30 * * * *", "Europe/Berlin", "2027-03-28T00:00:00Z", 4),
            ["03-28 00:30", "03-28 01:00", "03-28 01:30", "03-28 02:00"],
            "every half hour of what time there is"
        );
    }

    /// Berlin's clocks go back from 03:00 to 02:00 on 31 October 2027, at 01:00 UTC.
    #[test]
    fn an_hour_that_is_there_twice_doubles_no_daily_run() {
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2027-10-29T12:00:00Z", 3),
            ["10-30 00:30", "10-31 00:30", "11-01 01:30"]
        );
        assert_eq!(
            due("*/30 * * * *", "Europe/Berlin", "2027-10-31T00:00:00Z", 4),
            ["10-31 00:30", "10-31 01:00", "10-31 01:30", "10-31 02:00"]
        );
    }

    #[test]
    fn what_is_no_pattern_or_zone_is_refused_with_the_way_out() {
        let refused = |pattern: &str, zone: &str| Cron::parse(pattern, zone).unwrap_err();
        for pattern in [
            "",
            "* * * *",
            "0 0 6 * * *",
            "61 * * * *",
            "at noon",
            "0 25 * * *",
        ] {
            let told = refused(pattern, "UTC");
            assert!(
                told.starts_with("cron: ") && told.contains("30 6 * * MON-FRI"),
                "{told}"
            );
        }
        assert!(refused(&"1,".repeat(200), "UTC").contains("400 bytes are too many"));
        let told = refused("* * * * *", "Europe/Berlim");
        assert!(told.contains("did you mean \"Europe/Berlin\"?"), "{told}");
        assert_eq!(
            due("0 0 30 2 *", "UTC", "2027-01-15T00:00:00Z", 1),
            [] as [&str; 0],
            "it never comes"
        );
    }

    /// Whatever the zone does with its clock, times only go forward.
    #[test]
    fn due_times_go_forward_in_zones_with_odd_clocks() {
        for zone in [
            "Australia/Lord_Howe",
            "America/St_Johns",
            "Asia/Kathmandu",
            "Pacific/Apia",
            "Africa/Casablanca",
        ] {
            for pattern in ["*/15 * * * *", "10 2 * * *", "0 0 * * SUN", "45 1-3 * * *"] {
                let cron = Cron::parse(pattern, zone).unwrap();
                let mut at: DateTime<Utc> = "2027-03-01T00:00:00Z".parse().unwrap();
                for _ in 0..500 {
                    let next = cron.after(at).unwrap();
                    assert!(next > at, "{zone} {pattern}");
                    at = next;
                }
            }
        }
    }
}
