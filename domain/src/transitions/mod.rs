//! Which event may happen in which state, and what the state is afterwards.
//!
//! Each transition takes the old state by value and returns the new one, or [`InvalidTransition`]
//! with the state and the event. They are the first wall: whoever changes a stored job, attempt or
//! rank asks here first and writes what comes out. The guarded UPDATE in `store`, which names the
//! state and attempt that it expects, is the second: it catches what changed since the row was read.
//!
//! Every match names every state, so that a new state does not compile until each event has said
//! what it means there.

mod attempt;
mod job;
pub mod needs;
mod rank;

pub use attempt::AttemptEvent;
pub use job::{JobEvent, JobLife, JobStage};
pub use rank::RankEvent;

use crate::job::{AttemptStateName, RankState};

/// An event that may not happen in the state that it met. Either somebody else was faster, or the
/// caller is wrong; in both cases nothing may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransition {
    #[error("a job that {from} cannot be {}", event.as_str())]
    Job { from: JobStage, event: JobEvent },
    #[error("an attempt that is {} cannot be {}", from.as_str(), event.as_str())]
    Attempt {
        from: AttemptStateName,
        event: AttemptEvent,
    },
    #[error("a rank that is {} cannot be {}", from.as_str(), event.as_str())]
    Rank { from: RankState, event: RankEvent },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_state_and_the_event() {
        let job = InvalidTransition::Job {
            from: JobStage::Succeeded,
            event: JobEvent::Place,
        };
        assert_eq!(job.to_string(), "a job that has succeeded cannot be placed");
        let attempt = InvalidTransition::Attempt {
            from: AttemptStateName::Failed,
            event: AttemptEvent::Start,
        };
        assert_eq!(
            attempt.to_string(),
            "an attempt that is failed cannot be started"
        );
        let rank = InvalidTransition::Rank {
            from: RankState::Stopped,
            event: RankEvent::Finish,
        };
        assert_eq!(
            rank.to_string(),
            "a rank that is stopped cannot be finished"
        );
    }
}
