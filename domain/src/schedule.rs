//! Pipelines that are submitted at the times of a cron pattern: what becomes of each due time.
//!
//! Not here: which times a pattern means; that needs the rules of time zones.

use chrono::{DateTime, TimeDelta, Utc};

/// What becomes of a due time while the run before it has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It waits for that end. One waits; those that come while one does are left out.
    Queue,
}

impl Overlap {
    pub const ALL: [Self; 2] = [Self::Skip, Self::Queue];

    /// The word used in SQL and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }

    /// What a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

/// What becomes of due times at which no coordinator led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missed {
    /// One run stands for all of them.
    #[default]
    One,
    /// They are left out.
    None,
}

impl Missed {
    pub const ALL: [Self; 2] = [Self::One, Self::None];

    /// The word used in SQL and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::None => "none",
        }
    }

    /// What a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

/// What became of a due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its pipeline was submitted.
    Submitted,
    /// The run before it had not ended.
    Skipped,
    /// No coordinator led at that time.
    Missed,
    /// The pipeline could not be stored.
    Refused,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Submitted, Self::Skipped, Self::Missed, Self::Refused];

    /// The word used in SQL and on screen.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
            Self::Refused => "refused",
        }
    }

    /// What a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

/// A due time that is seen this late was missed: rounds are a second apart, and a take-over takes a few.
pub const LATE: TimeDelta = TimeDelta::seconds(60);
/// Due times that are gone through after a long absence: a week of minutes. Those before are counted as missed with it.
const LOOKED_AT_MAX: u32 = 10_000;

/// How far a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub overlap: Overlap,
    pub missed: Missed,
    /// The first due time that nobody has dealt with. None: there is none any more.
    pub next_due: Option<DateTime<Utc>>,
    /// A due time that waits for the end of the run before it.
    pub waiting_due: Option<DateTime<Utc>>,
}

/// One thing to be done about a schedule. What it says of how far the schedule is then is stored with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub does: Does,
    pub next_due: Option<DateTime<Utc>>,
    pub waiting_due: Option<DateTime<Utc>>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    /// Submits the pipeline for this due time; `note` is what is to be said of it beside that.
    Submit { due: DateTime<Utc>, note: String },
    /// Takes down what became of a due time without a run.
    Leave {
        due: DateTime<Utc>,
        outcome: Outcome,
        note: String,
    },
    /// Lets the due time wait for the end of the run before it.
    Wait,
}

/// What is to be done first about a schedule. None: nothing, for now. `is_open`: the newest run has not ended;
/// `after`: the first due time after a time.
#[must_use]
pub fn step(
    progress: &Progress,
    now: DateTime<Utc>,
    is_open: bool,
    after: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>,
) -> Option<Step> {
    let Progress {
        overlap,
        missed,
        next_due,
        waiting_due,
    } = *progress;
    // It was due before all others.
    if let Some(due) = waiting_due.filter(|_| !is_open) {
        let note = "waited for the end of the run before it".to_owned();
        return Some(Step {
            does: Does::Submit { due, note },
            next_due,
            waiting_due: None,
        });
    }
    let first = next_due.filter(|due| *due <= now)?;
    let (mut last, mut count) = (first, 1);
    while let Some(next) = after(last).filter(|next| *next <= now) {
        if count == LOOKED_AT_MAX {
            break;
        }
        // The one that is on time stands for itself.
        if now - next <= LATE && now - last > LATE {
            let step = left_out(first, last, count, Some(next), waiting_due);
            return Some(step);
        }
        (last, count) = (next, count + 1);
    }
    // From now on and not from the last one looked at: what lies between was counted as missed with
    // the others.
    let next_due = after(last.max(now));
    let is_late = now - last > LATE;
    if is_late && missed == Missed::None {
        return Some(left_out(first, last, count, next_due, waiting_due));
    }
    // Of several that are on time each has its turn.
    let (due, next_due) = if is_late {
        (last, next_due)
    } else {
        (first, after(first))
    };
    let note = match (is_late, count) {
        (false, _) => String::new(),
        (true, 1) => "caught up: no coordinator led at that time".to_owned(),
        (true, _) => format!("caught up for {}", words(first, last, count)),
    };
    let does = match (is_open, overlap, waiting_due) {
        (false, _, _) => Does::Submit { due, note },
        (true, Overlap::Queue, None) => {
            return Some(Step {
                does: Does::Wait,
                next_due,
                waiting_due: Some(due),
            });
        }
        (true, Overlap::Queue, Some(_)) => Does::Leave {
            due,
            outcome: Outcome::Skipped,
            note: "one due time waits already for the run before it".to_owned(),
        },
        (true, Overlap::Skip, _) => Does::Leave {
            due,
            outcome: Outcome::Skipped,
            note: "the run before it had not ended".to_owned(),
        },
    };
    Some(Step {
        does,
        next_due,
        waiting_due,
    })
}

/// Due times that no run follows, since nobody led.
fn left_out(
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    count: u32,
    next_due: Option<DateTime<Utc>>,
    waiting_due: Option<DateTime<Utc>>,
) -> Step {
    Step {
        does: Does::Leave {
            due: last,
            outcome: Outcome::Missed,
            note: format!("{}: no coordinator led", words(first, last, count)),
        },
        next_due,
        waiting_due,
    }
}

fn words(first: DateTime<Utc>, last: DateTime<Utc>, count: u32) -> String {
    let clock = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M").to_string();
    match count {
        1 => format!("1 due time, {} UTC", clock(last)),
        LOOKED_AT_MAX.. => format!(
            "more than {LOOKED_AT_MAX} due times since {} UTC",
            clock(first)
        ),
        count => format!("{count} due times, {} to {} UTC", clock(first), clock(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// Every ten minutes.
    fn after(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let seconds = (time - at(0)).num_seconds();
        Some(at((seconds.div_euclid(600) + 1) * 600))
    }

    fn progress(overlap: Overlap, missed: Missed, next_due: i64) -> Progress {
        Progress {
            overlap,
            missed,
            next_due: Some(at(next_due)),
            waiting_due: None,
        }
    }

    fn submits(step: &Step) -> i64 {
        match &step.does {
            Does::Submit { due, .. } => (*due - at(0)).num_seconds(),
            other @ (Does::Leave { .. } | Does::Wait) => panic!("{other:?}"),
        }
    }

    fn leaves(step: &Step) -> (i64, Outcome, &str) {
        match &step.does {
            Does::Leave { due, outcome, note } => ((*due - at(0)).num_seconds(), *outcome, note),
            other @ (Does::Submit { .. } | Does::Wait) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_due_time_is_submitted_once_it_has_come() {
        let skip = progress(Overlap::Skip, Missed::One, 600);
        assert_eq!(step(&skip, at(599), false, after), None);
        let now = step(&skip, at(600), false, after).unwrap();
        assert_eq!((submits(&now), now.next_due), (600, Some(at(1_200))));
        // A round that came late is no absence.
        assert_eq!(submits(&step(&skip, at(660), false, after).unwrap()), 600);
    }

    #[test]
    fn what_nobody_saw_is_caught_up_once_or_left_out_and_said() {
        let one = progress(Overlap::Skip, Missed::One, 600);
        let step_one = step(&one, at(2_500), false, after).unwrap();
        assert_eq!(
            (submits(&step_one), step_one.next_due),
            (2_400, Some(at(3_000)))
        );
        let Does::Submit { note, .. } = &step_one.does else {
            panic!()
        };
        assert_eq!(
            note,
            "caught up for 4 due times, 2027-01-15 08:10 to 2027-01-15 08:40 UTC"
        );

        let none = progress(Overlap::Skip, Missed::None, 600);
        let step_none = step(&none, at(2_500), false, after).unwrap();
        let said = "4 due times, 2027-01-15 08:10 to 2027-01-15 08:40 UTC: no coordinator led";
        assert_eq!(leaves(&step_none), (2_400, Outcome::Missed, said));
        assert_eq!(step_none.next_due, Some(at(3_000)));

        // One that is on time is submitted beside, whatever the policy.
        for missed in Missed::ALL {
            let back = step(
                &progress(Overlap::Skip, missed, 600),
                at(2_430),
                false,
                after,
            )
            .unwrap();
            assert_eq!(leaves(&back).0, 1_800);
            let then = progress(Overlap::Skip, missed, 2_400);
            assert_eq!(back.next_due, then.next_due);
            assert_eq!(
                submits(&step(&then, at(2_430), false, after).unwrap()),
                2_400
            );
        }
    }

    #[test]
    fn while_a_run_is_open_due_times_are_skipped_or_one_waits() {
        let skip = progress(Overlap::Skip, Missed::One, 600);
        let skipped = step(&skip, at(600), true, after).unwrap();
        assert_eq!(leaves(&skipped).1, Outcome::Skipped);

        let queue = progress(Overlap::Queue, Missed::One, 600);
        let waits = step(&queue, at(600), true, after).unwrap();
        assert_eq!(
            (&waits.does, waits.waiting_due),
            (&Does::Wait, Some(at(600)))
        );
        let waiting = Progress {
            next_due: waits.next_due,
            waiting_due: waits.waiting_due,
            ..queue
        };
        assert_eq!(step(&waiting, at(700), true, after), None);
        let second = step(&waiting, at(1_200), true, after).unwrap();
        assert_eq!(leaves(&second).0, 1_200);
        assert_eq!(
            second.waiting_due,
            Some(at(600)),
            "the first one still waits"
        );
        let ended = step(&waiting, at(700), false, after).unwrap();
        assert_eq!((submits(&ended), ended.waiting_due), (600, None));
        assert_eq!(ended.next_due, Some(at(1_200)));
    }

    /// Played with absences, open runs and both policies: every due time is dealt with once, or stands in the count of
    /// one that was, and no due time is submitted twice.
    #[test]
    fn every_due_time_is_dealt_with_once() {
        let mut dice = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = |below: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % below
        };
        let mut counts = [0; 4];
        for round in 0..300 {
            let overlap = Overlap::ALL[usize::from(draw(2) == 0)];
            let missed = Missed::ALL[usize::from(draw(2) == 0)];
            let mut now = progress(overlap, missed, 600);
            let (mut second, mut is_open) = (0, false);
            let mut dealt = std::collections::BTreeSet::new();
            for _ in 0..200 {
                second += i64::try_from(if draw(20) == 0 {
                    draw(40_000)
                } else {
                    draw(300)
                })
                .unwrap();
                while let Some(step) = step(&now, at(second), is_open, after) {
                    assert!(step.next_due > Some(at(second)) || step.next_due >= now.next_due);
                    match step.does {
                        Does::Submit { due, .. } => {
                            assert!(!is_open, "round {round}: one at a time");
                            assert!(
                                due <= at(second) && dealt.insert(due),
                                "round {round}: {due} twice"
                            );
                            is_open = draw(3) > 0;
                            counts[0] += 1;
                        }
                        Does::Leave { due, outcome, .. } => {
                            assert!(dealt.insert(due), "round {round}: {due} twice");
                            counts[if outcome == Outcome::Missed { 1 } else { 2 }] += 1;
                        }
                        Does::Wait => counts[3] += 1,
                    }
                    (now.next_due, now.waiting_due) = (step.next_due, step.waiting_due);
                }
                assert!(
                    now.next_due > Some(at(second)),
                    "round {round}: nothing is left behind"
                );
                is_open &= draw(4) > 0;
            }
        }
        assert!(
            counts.iter().all(|count| *count > 100),
            "the draws are worth something: {counts:?}"
        );
    }
}
