//! Since when the GPUs of a host have done nothing, as far as their readings tell without a gap.
//!
//! Invariant: only readings count that were taken, one after the other. A GPU that says nothing of its work, is ill, or was
//! not read for a while begins anew with its next reading, and so does every GPU in a coordinator that was just
//! started. Times are the host's own, so that its clock need not agree with anybody's.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::gpu::GpuReading;
use marquee_domain::idle::{BUSY_PERCENT_MAX, READINGS_APART_MAX};
use tokio::time::Instant;

/// What a GPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// Nobody knows.
    Unknown,
    Busy,
    /// Nothing, in every reading of so long.
    Quiet(Duration),
}

/// The GPUs of a host, by index.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    gpus: BTreeMap<u32, Run>,
}

/// Readings that follow each other.
#[derive(Debug)]
struct Run {
    uuid: String,
    newest: DateTime<Utc>,
    /// By this host's clock.
    heard: Instant,
    /// The first of the readings in which it did nothing. None: in the newest it did something.
    quiet_since: Option<DateTime<Utc>>,
}

impl Quiet {
    /// Takes in readings, which may be ones that were told before.
    pub(super) fn add(&mut self, readings: &[GpuReading], now: Instant) {
        let told = |index: &u32| readings.iter().any(|reading| reading.index == *index);
        self.gpus.retain(|index, _| told(index));
        for reading in readings {
            let busy = reading
                .utilisation_percent
                .filter(|_| reading.fault.is_empty());
            let (Some(at), Some(busy)) = (reading.at, busy) else {
                self.gpus.remove(&reading.index);
                continue;
            };
            let before = self.gpus.get(&reading.index);
            // A sampler that hangs has its last reading told again and again: that is no news.
            if before.is_some_and(|run| run.newest == at && run.uuid == reading.uuid) {
                continue;
            }
            let apart = TimeDelta::from_std(READINGS_APART_MAX).unwrap_or(TimeDelta::MAX);
            let follows = |run: &&Run| {
                run.uuid == reading.uuid && run.newest < at && at - run.newest <= apart
            };
            let since = before.filter(follows).and_then(|run| run.quiet_since);
            let run = Run {
                uuid: reading.uuid.clone(),
                newest: at,
                heard: now,
                // After a gap the time begins anew: what the GPU did between the two nobody has
                // seen.
                quiet_since: (busy <= BUSY_PERCENT_MAX).then(|| since.unwrap_or(at)),
            };
            self.gpus.insert(reading.index, run);
        }
    }

    /// What a GPU does, by readings of late.
    pub(super) fn of(&self, index: u32, now: Instant) -> Activity {
        match self.gpus.get(&index) {
            Some(run) if now.duration_since(run.heard) <= READINGS_APART_MAX => {
                match run.quiet_since {
                    Some(since) => {
                        // Up to the newest reading, not up to now: only what was read counts.
                        Activity::Quiet((run.newest - since).to_std().unwrap_or_default())
                    }
                    None => Activity::Busy,
                }
            }
            Some(_) | None => Activity::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(seconds: i64, busy: Option<u32>) -> GpuReading {
        GpuReading {
            index: 3,
            uuid: "GPU-a".into(),
            at: DateTime::from_timestamp(seconds, 0),
            utilisation_percent: busy,
            ..GpuReading::default()
        }
    }

    fn after(readings: impl IntoIterator<Item = GpuReading>) -> Activity {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        for reading in readings {
            quiet.add(&[reading], now);
        }
        quiet.of(3, now)
    }

    fn quiet(seconds: u64) -> Activity {
        Activity::Quiet(Duration::from_secs(seconds))
    }

    fn still(times: impl Iterator<Item = i64>) -> impl Iterator<Item = GpuReading> {
        times.map(|second| reading(second, Some(0)))
    }

    #[test]
    fn readings_that_follow_each_other_add_up() {
        assert_eq!(after(still((0..=1_800).step_by(5))), quiet(1_800));
        let nearly = (0..=100).map(|n| reading(n * 30, Some(u32::try_from(n % 2).unwrap())));
        assert_eq!(after(nearly), quiet(3_000), "one per cent is nothing");
        assert_eq!(after([]), Activity::Unknown);
    }

    #[test]
    fn a_single_busy_reading_begins_anew() {
        let worked = still(0..60).chain([reading(60, Some(2))]);
        assert_eq!(after(worked), Activity::Busy);
        let worked = still(0..60)
            .chain([reading(60, Some(97))])
            .chain(still(61..71));
        assert_eq!(after(worked), quiet(9));
    }

    #[test]
    fn what_was_not_read_proves_nothing() {
        // A pause, a clock that was put back, a reading without the figure, a GPU that was ill.
        assert_eq!(after(still(0..60).chain(still(90..100))), quiet(9));
        assert_eq!(after(still(1_000..1_060).chain(still(5..15))), quiet(9));
        let mute = still(0..60).chain([reading(60, None)]);
        assert_eq!(after(mute), Activity::Unknown);
        let mute = still(0..60).chain([reading(60, None)]).chain(still(61..66));
        assert_eq!(after(mute), quiet(4));
        let ill = GpuReading {
            fault: "does not answer".into(),
            ..reading(60, Some(0))
        };
        assert_eq!(after(still(0..60).chain([ill])), Activity::Unknown);
        // Another GPU stands in its place.
        let other = GpuReading {
            uuid: "GPU-b".into(),
            ..reading(60, Some(0))
        };
        assert_eq!(after(still(0..60).chain([other])), quiet(0));
    }

    #[test]
    fn the_same_reading_again_is_no_news_and_silence_no_idleness() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        quiet.add(&[reading(0, Some(0))], start);
        for second in 0..60 {
            quiet.add(&[reading(5, Some(0))], start + Duration::from_secs(second));
        }
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(quiet.of(3, at(30)), self::quiet(5));
        assert_eq!(
            quiet.of(3, at(31)),
            Activity::Unknown,
            "its worker is frozen"
        );
        quiet.add(&[], at(31));
        assert_eq!(quiet.of(3, at(31)), Activity::Unknown);
    }
}
