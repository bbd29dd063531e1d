//! What the GPUs of a host said over the last hour, thinned out: for whoever wants to see how it came about. In memory
//! alone, like the newest readings; a coordinator that starts knows no past.

use std::collections::{BTreeMap, VecDeque};

use chrono::TimeDelta;
use marquee_domain::gpu::{GpuReading, GpuSample};

/// Time between two readings that are kept, and how many are: an hour.
const KEPT_EVERY: TimeDelta = TimeDelta::seconds(10);
const KEPT_MAX: usize = 360;

/// The past of a host's GPUs, by index.
#[derive(Debug, Default)]
pub(super) struct Track {
    gpus: BTreeMap<u32, VecDeque<GpuSample>>,
}

impl Track {
    /// Takes in readings, which are bounded already ([`super::gpus::bounded`]). GPUs that are gone are forgotten.
    pub(super) fn add(&mut self, readings: &[GpuReading]) {
        self.gpus
            .retain(|index, _| readings.iter().any(|reading| reading.index == *index));
        for reading in readings {
            let Some(sample) = GpuSample::of(reading) else {
                continue;
            };
            let past = self.gpus.entry(reading.index).or_default();
            if let Some(last) = past.back() {
                if sample.at < last.at {
                    // The host's clock was put back: what it said before lies in the future.
                    past.clear();
                } else if sample.at - last.at < KEPT_EVERY {
                    continue;
                }
            }
            if past.len() >= KEPT_MAX {
                past.pop_front();
            }
            past.push_back(sample);
        }
    }

    /// Each GPU's samples, oldest first.
    pub(super) fn all(&self) -> BTreeMap<u32, Vec<GpuSample>> {
        let past = |(index, samples): (&u32, &VecDeque<GpuSample>)| {
            (*index, samples.iter().copied().collect())
        };
        self.gpus.iter().map(past).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(index: u32, seconds: i64) -> GpuReading {
        GpuReading {
            index,
            at: chrono::DateTime::from_timestamp(seconds, 0),
            utilisation_percent: Some(50),
            ..GpuReading::default()
        }
    }

    #[test]
    fn an_hour_is_kept_thinned_out_and_a_clock_put_back_begins_anew() {
        let mut track = Track::default();
        let lengths =
            |track: &Track| -> Vec<usize> { track.all().values().map(Vec::len).collect() };
        for second in 0..5_000 {
            track.add(&[reading(0, second), reading(3, second)]);
        }
        assert_eq!(lengths(&track), [KEPT_MAX, KEPT_MAX]);
        let first = track.all()[&0][0];
        assert_eq!(
            (first.at.timestamp(), first.utilisation_percent),
            (1_400, Some(50))
        );
        track.add(&[reading(0, 10)]);
        assert_eq!(lengths(&track), [1], "one was put back, one is gone");
    }
}
