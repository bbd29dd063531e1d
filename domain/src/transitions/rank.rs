//! The life of a rank. It only moves forward, and it may skip: a quick child has finished before
//! anybody saw it run.

use super::InvalidTransition;
use crate::job::RankState;

/// What its worker says of a rank, or the coordinator finds out about one that its worker lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RankEvent {
    /// Its inputs are in the cache and its work directory is ready.
    Prepare,
    /// Its child was started.
    Start,
    /// Its child left well.
    Finish,
    /// Its child failed, or could not be started, or nobody knows of it any more.
    Fail,
    /// It was told to stop, and nothing of it is left.
    Stop,
}

impl RankEvent {
    /// Every event.
    pub const ALL: [Self; 5] = [
        Self::Prepare,
        Self::Start,
        Self::Finish,
        Self::Fail,
        Self::Stop,
    ];

    /// What the event does to the rank, to be read after "cannot be".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepared",
            Self::Start => "started",
            Self::Finish => "finished",
            Self::Fail => "failed",
            Self::Stop => "stopped",
        }
    }

    fn leads_to(self) -> RankState {
        match self {
            Self::Prepare => RankState::Prepared,
            Self::Start => RankState::Running,
            Self::Finish => RankState::Finished,
            Self::Fail => RankState::Failed,
            Self::Stop => RankState::Stopped,
        }
    }
}

impl RankState {
    /// The state after `event`. Words that come late or twice change nothing while the rank lives: a
    /// worker that came back after a cut says again what it may have said before. After the rank's
    /// end nothing is taken: its devices may be another's by then.
    pub fn apply(self, event: RankEvent) -> Result<Self, InvalidTransition> {
        match self {
            // The later of the two: after a cut a worker repeats "prepared" of a rank that runs by now, and a
            // rank that went back would be told to start a second time.
            Self::Assigned | Self::Prepared | Self::Running => Ok(event.leads_to().max(self)),
            Self::Finished | Self::Failed | Self::Stopped => {
                Err(InvalidTransition::Rank { from: self, event })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_in_each_state() {
        use RankState::{Assigned, Failed, Finished, Prepared, Running, Stopped};
        // The state after prepare, start, finish, fail and stop.
        let living = [
            (Assigned, [Prepared, Running, Finished, Failed, Stopped]),
            (Prepared, [Prepared, Running, Finished, Failed, Stopped]),
            (Running, [Running, Running, Finished, Failed, Stopped]),
        ];
        for (from, after) in living {
            for (event, expected) in RankEvent::ALL.into_iter().zip(after) {
                assert_eq!(from.apply(event), Ok(expected), "{from:?} {event:?}");
            }
        }
        let ended = [Finished, Failed, Stopped];
        for from in ended {
            for event in RankEvent::ALL {
                let refused = Err(InvalidTransition::Rank { from, event });
                assert_eq!(from.apply(event), refused);
            }
        }
        let tried: Vec<_> = living.map(|row| row.0).into_iter().chain(ended).collect();
        assert_eq!(tried, RankState::ALL);
        for state in RankState::ALL {
            assert_eq!(state.has_ended(), ended.contains(&state), "{state:?}");
        }
    }
}
