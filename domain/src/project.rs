//! Projects: who shares the cluster, by what weight, and how much of it each may have.
//!
//! Usage decays: what a project used counts half after [`HALF_LIFE`]. It is kept as a value with its time and
//! decayed when it is read, so that nobody has to go through all projects to make them forget.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, TimeDelta, Utc, Weekday};
use serde::{Deserialize, Serialize};

use crate::ids::{InvalidName, JobName};
use crate::resources::DeviceKind;

/// After this long half of what a project used is forgotten: who was greedy last week is first in line again
/// the week after next, and nobody gains from waiting for Monday.
pub const HALF_LIFE: TimeDelta = TimeDelta::days(7);
/// What a second of a CPU slot counts beside a second of a GPU. Hosts have some ten slots for each GPU.
pub const CPU_SLOT_SHARE: f64 = 0.1;
/// Seconds for which a running job is charged in advance. Without it a project would fill an empty cluster before
/// it has used anything, and jobs of an hour would be dealt out by who asked first.
pub const FORESIGHT_S: f64 = 600.0;
/// Hours that a quota of GPU-hours looks back.
pub const WEEK_HOURS: i64 = 168;
/// Largest and smallest weight of a project: beyond them one project is all or nothing, and a priority says that
/// better.
pub const WEIGHT_MAX: f64 = 1_000.0;
pub const WEIGHT_MIN: f64 = 0.001;
/// Projects of a cluster: each round of the scheduler looks at all that have jobs.
pub const PROJECTS_MAX: usize = 1_000;
/// The project of whoever names none.
pub const DEFAULT: &str = "default";

/// The name of a project: 1 to 63 of `a-z`, `0-9`, `-` and `_`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectName(JobName);

impl ProjectName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is the project of whoever names none.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.as_str() == DEFAULT
    }
}

impl Default for ProjectName {
    fn default() -> Self {
        // The one name that is written down here.
        DEFAULT
            .parse()
            .unwrap_or_else(|_| unreachable!("\"default\" is a name"))
    }
}

impl FromStr for ProjectName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When GPU-hours that were used are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reset {
    /// Each hour of use 168 hours later.
    #[default]
    Rolling,
    /// All of them on this day of the week, at 00:00 UTC.
    Day(Weekday),
}

/// The days as they are typed and stored.
const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Mon),
    ("tue", Weekday::Tue),
    ("wed", Weekday::Wed),
    ("thu", Weekday::Thu),
    ("fri", Weekday::Fri),
    ("sat", Weekday::Sat),
    ("sun", Weekday::Sun),
];

impl Reset {
    /// The word used in SQL, JSON and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Day(day) => DAYS
                .iter()
                .find(|(_, known)| *known == day)
                .map_or("mon", |(word, _)| word),
        }
    }

    /// What a word means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let day = DAYS.iter().find(|(known, _)| *known == word);
        match day {
            Some((_, day)) => Some(Self::Day(*day)),
            None => (word == "rolling").then_some(Self::Rolling),
        }
    }

    /// The first hour that counts at `now`, as hours since 1970.
    #[must_use]
    pub fn since(self, now: DateTime<Utc>) -> i64 {
        match self {
            Self::Rolling => hour_of(now) - WEEK_HOURS + 1,
            Self::Day(day) => {
                let back = now.weekday().days_since(day);
                let start = now.date_naive().checked_sub_days(Days::new(back.into()));
                let start = start.and_then(|day| day.and_hms_opt(0, 0, 0));
                start.map_or_else(|| hour_of(now), |start| hour_of(start.and_utc()))
            }
        }
    }

    /// When an hour of use counts no more.
    #[must_use]
    pub fn frees(self, hour: i64, now: DateTime<Utc>) -> DateTime<Utc> {
        let hours = match self {
            Self::Rolling => hour + WEEK_HOURS,
            Self::Day(_) => self.since(now) + WEEK_HOURS,
        };
        DateTime::from_timestamp(hours.saturating_mul(3600), 0).unwrap_or(now)
    }
}

/// Hours since 1970.
#[must_use]
pub fn hour_of(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(3600)
}

/// What a project may have. None: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quotas {
    /// GPUs at once.
    pub gpus: Option<u32>,
    /// CPU slots at once.
    pub cpu_slots: Option<u32>,
    /// Jobs that wait or are queued, elements of arrays counted each.
    pub queued: Option<u32>,
    /// GPU-hours in a week.
    pub gpu_hours_week: Option<f64>,
    pub reset: Reset,
}

impl Quotas {
    /// Which quota a job could never meet, even if nothing else of its project ran: what it may not exceed, in
    /// words.
    #[must_use]
    pub fn never_fits(&self, device: DeviceKind, devices: u32) -> Option<String> {
        let over = |quota: Option<u32>| quota.filter(|quota| devices > *quota);
        let gpus = || over(self.gpus).map(|quota| format!("{quota} GPUs at once"));
        let slots = || over(self.cpu_slots).map(|quota| format!("{quota} CPU slots at once"));
        let hours = || {
            let none = self.gpu_hours_week.filter(|hours| *hours <= 0.0);
            none.map(|_| "0 GPU-hours a week".to_owned())
        };
        match device {
            DeviceKind::Gpu => gpus().or_else(hours),
            DeviceKind::Cpu => slots(),
            DeviceKind::Any => {
                let gpus = gpus().or_else(hours)?;
                Some(format!("{gpus} and {}", slots()?))
            }
        }
    }
}

/// Longest time for which something is kept that is kept for a time: ten years.
pub const KEEP_DAYS_MAX: u32 = 3_650;

/// For how long a project keeps what has ended, in days. None: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Pipelines with all that is stored of them, after the end of their last job.
    pub keep_days: Option<u32>,
    /// Logs and metrics of jobs, after their end.
    pub keep_log_days: Option<u32>,
}

impl Retention {
    /// Whether a time that somebody typed can be meant.
    ///
    /// # Errors
    /// Which one cannot, and what may be given.
    pub fn check(&self) -> Result<(), String> {
        for (what, days) in [
            ("keep_days", self.keep_days),
            ("keep_log_days", self.keep_log_days),
        ] {
            if let Some(days) = days.filter(|days| !(1..=KEEP_DAYS_MAX).contains(days)) {
                return Err(format!(
                    "{what}: {days} is out of range; give 1 to {KEEP_DAYS_MAX}, or \"none\" for ever"
                ));
            }
        }
        Ok(())
    }
}

/// A weight as somebody typed it.
///
/// # Errors
/// What is wrong with it, and what may be given.
pub fn check_weight(weight: f64) -> Result<f64, String> {
    if weight.is_finite() && (WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
        Ok(weight)
    } else {
        Err(format!(
            "{weight} is no weight; give {WEIGHT_MIN} to {WEIGHT_MAX}, where 2 means twice the share of 1"
        ))
    }
}

/// GPU-seconds that decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    value: f64,
    at: DateTime<Utc>,
}

impl Usage {
    /// What was stored. NaN or infinity, which only a damaged row has, counts as nothing used.
    #[must_use]
    pub fn new(value: f64, at: DateTime<Utc>) -> Self {
        let value = if value.is_finite() {
            value.max(0.0)
        } else {
            0.0
        };
        Self { value, at }
    }

    /// What is left of it at `now`: value x 0.5^((now - at) / half-life). A clock that goes back adds nothing.
    #[must_use]
    pub fn at(self, now: DateTime<Utc>) -> f64 {
        #[allow(
            clippy::cast_precision_loss,
            reason = "milliseconds of a lifetime fit into 53 bits"
        )]
        let halves =
            (now - self.at).num_milliseconds().max(0) as f64 / HALF_LIFE.num_milliseconds() as f64;
        self.value * (-halves).exp2()
    }

    /// With so many more GPU-seconds used by `now`.
    #[must_use]
    pub fn with(self, seconds: f64, now: DateTime<Utc>) -> Self {
        // Not back, where a clock was set back: the hours between would make it decay a second time.
        Self::new(self.at(now) + seconds, now.max(self.at))
    }
}

/// GPU-hours by the hour in which they were used.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hours(BTreeMap<i64, f64>);

impl Hours {
    /// What was stored: GPU-seconds by hours since 1970.
    #[must_use]
    pub fn new(seconds: impl IntoIterator<Item = (i64, f64)>) -> Self {
        let fine = |(_, seconds): &(i64, f64)| seconds.is_finite() && *seconds > 0.0;
        Self(seconds.into_iter().filter(fine).collect())
    }

    /// Adds `gpus` devices that were used from `from` to `to`, each hour its part.
    pub fn add(&mut self, gpus: u32, from: DateTime<Utc>, to: DateTime<Utc>) {
        // What is older no quota looks at: a job of a year is not gone through hour by hour.
        let mut from = from.max(to - TimeDelta::hours(WEEK_HOURS));
        while from < to {
            let hour = hour_of(from);
            let end = DateTime::from_timestamp((hour + 1) * 3600, 0).unwrap_or(to);
            let part = end.min(to);
            #[allow(clippy::cast_precision_loss, reason = "at most 3,600,000")]
            let seconds = (part - from).num_milliseconds() as f64 / 1e3;
            *self.0.entry(hour).or_default() += seconds * f64::from(gpus);
            from = part;
        }
    }

    /// GPU-seconds by hours since 1970.
    pub fn iter(&self) -> impl Iterator<Item = (i64, f64)> {
        self.0.iter().map(|(hour, seconds)| (*hour, *seconds))
    }

    /// Forgets what no quota looks at any more.
    pub fn trim(&mut self, now: DateTime<Utc>) {
        self.0 = self.0.split_off(&(hour_of(now) - WEEK_HOURS));
    }

    /// GPU-hours that count at `now`.
    #[must_use]
    pub fn used(&self, reset: Reset, now: DateTime<Utc>) -> f64 {
        self.0
            .range(reset.since(now)..)
            .map(|(_, seconds)| seconds)
            .sum::<f64>()
            / 3600.0
    }

    /// When less than `quota` hours will count, if nothing more is used.
    #[must_use]
    pub fn frees_at(&self, quota: f64, reset: Reset, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut left = self.used(reset, now);
        for (hour, seconds) in self.0.range(reset.since(now)..) {
            if left < quota {
                break;
            }
            // The oldest hours go first, as they are given back.
            left -= seconds / 3600.0;
            if left < quota {
                return Some(reset.frees(*hour, now));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn usage_halves_in_a_half_life_in_whatever_steps_it_is_looked_at() {
        let start = at("2026-11-02T00:00:00Z");
        let used = Usage::new(1_000.0, start);
        assert!((used.at(start + HALF_LIFE) - 500.0).abs() < 1e-9);
        let mut stepwise = used;
        for hour in 1..=168 {
            stepwise = stepwise.with(0.0, start + TimeDelta::hours(hour));
        }
        assert!((stepwise.at(start + HALF_LIFE) - 500.0).abs() < 1e-6);
        // A clock that was set back neither makes usage grow nor loses what is added.
        assert_eq!(used.at(start - HALF_LIFE), 1_000.0);
        assert_eq!(used.with(5.0, start - HALF_LIFE).at(start), 1_005.0);
        for damaged in [f64::NAN, f64::INFINITY, -3.0] {
            assert_eq!(Usage::new(damaged, start).at(start), 0.0);
        }
    }

    #[test]
    fn weights_that_are_none_are_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9, 1e-9] {
            assert!(
                check_weight(bad).unwrap_err().contains("no weight"),
                "{bad}"
            );
        }
        assert_eq!(check_weight(2.5), Ok(2.5));
    }

    #[test]
    fn hours_are_given_back_one_by_one_or_on_a_day() {
        // A Wednesday.
        let start = at("2026-11-04T10:30:00Z");
        let mut hours = Hours::default();
        hours.add(4, start, start + TimeDelta::hours(2));
        let now = start + TimeDelta::hours(2);
        assert!((hours.used(Reset::Rolling, now) - 8.0).abs() < 1e-9);
        // 2 hours were used in the first of three hours of the clock, 4 in the second, 2 in the third.
        assert_eq!(
            hours.frees_at(8.0, Reset::Rolling, now),
            Some(at("2026-11-11T10:00:00Z"))
        );
        assert_eq!(
            hours.frees_at(5.0, Reset::Rolling, now),
            Some(at("2026-11-11T11:00:00Z"))
        );
        assert_eq!(hours.frees_at(9.0, Reset::Rolling, now), None);
        assert!((hours.used(Reset::Rolling, at("2026-11-11T10:30:00Z")) - 6.0).abs() < 1e-9);
        let monday = Reset::from_word("mon").unwrap();
        assert_eq!(
            hours.frees_at(5.0, monday, now),
            Some(at("2026-11-09T00:00:00Z"))
        );
        assert_eq!(hours.used(monday, at("2026-11-09T00:00:00Z")), 0.0);
        hours.trim(now + TimeDelta::days(30));
        assert_eq!(hours, Hours::default());
        for (word, _) in DAYS {
            assert_eq!(Reset::from_word(word).unwrap().as_str(), word);
        }
        assert_eq!(Reset::from_word("Monday"), None);
    }

    #[test]
    fn days_that_cannot_be_meant_are_refused_by_name() {
        let of = |keep_days, keep_log_days| Retention {
            keep_days,
            keep_log_days,
        };
        assert_eq!(of(None, None).check(), Ok(()));
        assert_eq!(of(Some(1), Some(KEEP_DAYS_MAX)).check(), Ok(()));
        assert!(
            of(Some(0), None)
                .check()
                .unwrap_err()
                .starts_with("keep_days: 0")
        );
        let told = of(None, Some(KEEP_DAYS_MAX + 1)).check().unwrap_err();
        assert!(told.starts_with("keep_log_days: 3651"), "{told}");
    }

    #[test]
    fn a_job_above_its_quota_is_told_which() {
        let quotas = Quotas {
            gpus: Some(4),
            cpu_slots: Some(2),
            ..Quotas::default()
        };
        let told = |device, devices| quotas.never_fits(device, devices);
        assert_eq!(told(DeviceKind::Gpu, 4), None);
        assert_eq!(told(DeviceKind::Gpu, 5).as_deref(), Some("4 GPUs at once"));
        assert_eq!(told(DeviceKind::Any, 4), None);
        assert_eq!(
            told(DeviceKind::Any, 5).as_deref(),
            Some("4 GPUs at once and 2 CPU slots at once")
        );
        let none = Quotas {
            gpu_hours_week: Some(0.0),
            ..Quotas::default()
        };
        assert!(none.never_fits(DeviceKind::Gpu, 1).is_some());
        assert_eq!(none.never_fits(DeviceKind::Cpu, 1), None);
    }
}
