//! The life of an attempt: assigned, running, ended. An ended attempt never changes again, which is
//! what keeps a device from being given back twice and an artifact from being committed twice.

use super::InvalidTransition;
use crate::end::AttemptEnd;
use crate::job::AttemptStateName;

/// What may happen to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptEvent {
    /// Every rank was told to start.
    Start,
    /// It ended, in whichever way.
    End,
}

impl AttemptEvent {
    /// Every event.
    pub const ALL: [Self; 2] = [Self::Start, Self::End];

    /// What the event does to the attempt, to be read after "cannot be".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::End => "ended",
        }
    }
}

impl AttemptStateName {
    /// assigned -> running.
    pub fn start(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Assigned => Ok(Self::Running),
            Self::Running
            | Self::Succeeded
            | Self::Failed
            | Self::Cancelled
            | Self::Interrupted => Err(self.refuse(AttemptEvent::Start)),
        }
    }

    /// assigned or running -> its end. It may end in every way before it was started: an attempt that
    /// takes over an earlier artifact has no ranks to start, and a rank can fail while it prepares.
    pub fn end(self, end: &AttemptEnd) -> Result<Self, InvalidTransition> {
        match self {
            // The state of the end, not of the caller's choosing: an attempt that failed cannot be written down
            // as cancelled.
            Self::Assigned | Self::Running => Ok(end.state()),
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Interrupted => {
                Err(self.refuse(AttemptEvent::End))
            }
        }
    }

    fn refuse(self, event: AttemptEvent) -> InvalidTransition {
        InvalidTransition::Attempt { from: self, event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::end::Interruption;
    use crate::failure::{Failure, FailureClass};

    fn every_end() -> [AttemptEnd; 4] {
        let message = String::from("why");
        [
            AttemptEnd::Succeeded,
            AttemptEnd::Failed(Failure {
                class: FailureClass::Crash,
                message: message.clone(),
            }),
            AttemptEnd::Cancelled,
            AttemptEnd::Interrupted {
                cause: Interruption::Drained,
                message,
            },
        ]
    }

    #[test]
    fn each_event_in_each_state() {
        use AttemptStateName::{Assigned, Cancelled, Failed, Interrupted, Running, Succeeded};
        // State, may it start, may it end.
        let table = [
            (Assigned, true, true),
            (Running, false, true),
            (Succeeded, false, false),
            (Failed, false, false),
            (Cancelled, false, false),
            (Interrupted, false, false),
        ];
        assert_eq!(table.map(|row| row.0), AttemptStateName::ALL);
        for (from, may_start, may_end) in table {
            let refused = |event| Err(InvalidTransition::Attempt { from, event });
            let started = if may_start {
                Ok(Running)
            } else {
                refused(AttemptEvent::Start)
            };
            assert_eq!(from.start(), started, "{from:?}");
            for end in every_end() {
                let ended = if may_end {
                    Ok(end.state())
                } else {
                    refused(AttemptEvent::End)
                };
                assert_eq!(from.end(&end), ended, "{from:?} {end:?}");
            }
            assert_eq!(from.has_ended(), !may_end, "{from:?}");
        }
    }
}
