//! What tells a report from others of the same model.

use serde::{Deserialize, Serialize};

use crate::artifact::Digest;
use crate::ids::{JobId, JobName, PipelineId};

/// A job, as people name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedJob {
    pub job: JobId,
    pub name: JobName,
    /// None: not known.
    #[serde(default)]
    pub pipeline: Option<PipelineId>,
}

impl NamedJob {
    /// Such as "p3/eval (job 18)".
    #[must_use]
    pub fn words(&self) -> String {
        match self.pipeline {
            Some(pipeline) => format!("p{pipeline}/{} (job {})", self.name, self.job),
            None => format!("{} (job {})", self.name, self.job),
        }
    }
}

/// Which training made a model. It travels in the model's card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedBy {
    #[serde(flatten)]
    pub job: NamedJob,
    /// Of weights, data order and augmentation.
    pub seed: u64,
}

/// Which run a report is of. What is not known is None.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// The eval job.
    #[serde(default)]
    pub job: Option<NamedJob>,
    /// When it was scored: ISO 8601, UTC.
    #[serde(default)]
    pub at: Option<String>,
    /// Of the intervals and of the gallery's random pictures.
    #[serde(default)]
    pub seed: u64,
    /// The model's artifact.
    #[serde(default)]
    pub model: Option<Digest>,
    #[serde(default)]
    pub trained_by: Option<TrainedBy>,
    /// The artifact of the shards.
    #[serde(default)]
    pub shards: Option<Digest>,
    /// Of what went into the shards: ids, labels, groups and pictures, whenever they were fetched.
    #[serde(default)]
    pub dataset: Option<Digest>,
    /// By which the pictures were dealt into splits.
    #[serde(default)]
    pub split_seed: Option<u64>,
    /// How the shards hold pictures, such as "raw, 128 x 128 pixels".
    #[serde(default)]
    pub layout: String,
}

/// Seconds since 1970 as ISO 8601 in UTC, such as "2026-11-30T02:10:00Z".
#[must_use]
pub fn iso_utc(unix_seconds: u64) -> String {
    const DAY_S: u64 = 86_400;
    /// Days of 400 years, after which the calendar repeats.
    const ERA_DAYS: u64 = 146_097;
    /// From 1 March 0000 to 1970: years that begin in March have their leap day at the end.
    const TO_1970_DAYS: u64 = 719_468;
    let days = unix_seconds / DAY_S + TO_1970_DAYS;
    let (era, of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    // Howard Hinnant's `civil_from_days`, from which the numbers are.
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + 400 * era + u64::from(month <= 2);
    let second = unix_seconds % DAY_S;
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_as_the_calendar_has_them() {
        // date -u -d @N +%FT%TZ
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_796_004_600, "2026-11-30T02:10:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(iso_utc(seconds), text);
        }
    }

    #[test]
    fn a_job_has_its_name_and_number() {
        let mut job = NamedJob {
            job: JobId(18),
            name: "eval".parse().unwrap(),
            pipeline: Some(PipelineId(3)),
        };
        assert_eq!(job.words(), "p3/eval (job 18)");
        job.pipeline = None;
        assert_eq!(job.words(), "eval (job 18)");
    }
}
