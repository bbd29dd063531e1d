//! When waiting jobs are expected to start, as somebody asked last: one answer for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;
use marquee_store::forecasts::Accuracy;

use crate::scheduler::forecast::STARTS_MAX;

/// For how long a play is taken for the present.
const GOOD_FOR: TimeDelta = TimeDelta::seconds(10);
/// Running jobs named that keep an end to themselves.
const NAMED_MAX: usize = 3;

/// When a job is expected to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// As likely earlier as later.
    pub at: DateTime<Utc>,
    /// In nine cases of ten by then.
    pub by: DateTime<Utc>,
    /// What it follows from, in words.
    pub basis: String,
}

/// The newest play.
#[derive(Debug, Default)]
pub struct Plays {
    newest: Mutex<Option<Play>>,
    accuracy: Mutex<Option<Accuracy>>,
}

/// The planner played forward twice: with lengths that half of the runs kept, and nine of ten.
#[derive(Debug)]
pub struct Play {
    pub made_at: DateTime<Utc>,
    pub half: BTreeMap<JobId, DateTime<Utc>>,
    pub most: BTreeMap<JobId, DateTime<Utc>>,
    pub basis: String,
    /// Running jobs of whose ends nothing is known.
    pub silent: BTreeSet<JobId>,
}

impl Plays {
    /// Looks at the newest play, where it is new enough.
    pub fn look<T>(&self, now: DateTime<Utc>, look: impl FnOnce(&Play) -> T) -> Option<T> {
        let play = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes it old too.
        let is_good = |play: &&Play| (now - play.made_at).abs() < GOOD_FOR;
        play.as_ref().filter(is_good).map(look)
    }

    /// Keeps a play for those who ask next.
    pub fn keep(&self, play: Play) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(play);
    }

    /// How wrong earlier ones were, as somebody looked last; None: nobody did, or there was nothing to judge.
    pub fn accuracy(&self) -> Option<Accuracy> {
        *self.accuracy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps how wrong earlier ones were.
    pub fn keep_accuracy(&self, accuracy: Option<Accuracy>) {
        *self.accuracy.lock().unwrap_or_else(PoisonError::into_inner) = accuracy;
    }
}

impl Play {
    /// When a job is expected to start, or why nobody can tell.
    pub fn of(&self, job: JobId) -> Result<Expected, String> {
        if let (Some(at), Some(most)) = (self.half.get(&job), self.most.get(&job)) {
            return Ok(Expected {
                at: *at,
                // The two plays may order jobs differently: the later time is never told to be before the likely one.
                by: *most.max(at),
                basis: self.basis.clone(),
            });
        }
        if self.half.len() >= STARTS_MAX {
            return Err(format!(
                "{} jobs are expected to start before it",
                STARTS_MAX
            ));
        }
        if self.silent.is_empty() {
            return Err("the ends of what runs alone do not let it start".to_owned());
        }
        let named = self.silent.iter().take(NAMED_MAX);
        let named: Vec<String> = named.map(|job| format!("job {job}")).collect();
        let more = if self.silent.len() > NAMED_MAX {
            " and others"
        } else {
            ""
        };
        Err(format!(
            "nobody can tell when {}{more} will end: no time limit is set, and not enough runs like it are known",
            named.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_play_is_looked_at_for_a_while_and_says_when_or_why_not() {
        let plays = Plays::default();
        let look = |now: i64, job: i64| plays.look(at(now), |play| play.of(JobId(job)));
        assert_eq!(look(0, 1), None);
        plays.keep(Play {
            made_at: at(0),
            half: BTreeMap::from([(JobId(1), at(60)), (JobId(2), at(90))]),
            most: BTreeMap::from([(JobId(1), at(80)), (JobId(2), at(70))]),
            basis: "b".into(),
            silent: (10..15).map(JobId).collect(),
        });
        let said = look(9, 1).unwrap().unwrap();
        assert_eq!((said.at, said.by), (at(60), at(80)));
        let said = look(9, 2).unwrap().unwrap();
        assert_eq!((said.at, said.by), (at(90), at(90)), "never sooner");
        let why = look(9, 3).unwrap().unwrap_err();
        assert!(why.contains("job 10, job 11, job 12 and others"), "{why}");
        assert_eq!(look(10, 1), None);
        assert_eq!(look(-10, 1), None);
    }
}
