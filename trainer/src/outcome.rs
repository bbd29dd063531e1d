//! How a job's work ended on this rank, and the last word about it.

use marquee_domain::child::{ChildEvent, ExitCode};
use serde::Serialize;

use crate::error::RunError;
use crate::events::Events;

/// How a run ended when nothing went wrong.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All done; the summary for the last word.
    Finished(serde_json::Value),
    /// Stopped as asked.
    Stopped,
}

impl Outcome {
    pub(crate) fn finished(summary: &impl Serialize) -> Self {
        Self::Finished(marquee_domain::report::summary(summary))
    }
}

/// Says the last word, and gives the exit code that goes with it.
pub(crate) fn conclude(result: Result<Outcome, RunError>, events: &Events) -> ExitCode {
    match result {
        Ok(Outcome::Finished(summary)) => {
            events.last_word(&ChildEvent::Finished { summary });
            ExitCode::OK
        }
        Ok(Outcome::Stopped) => ExitCode::STOPPED,
        Err(error) => {
            tracing::error!(class = error.class.as_str(), "{}", error.message);
            events.last_word(&ChildEvent::Failed {
                class: error.class,
                message: error.message,
            });
            ExitCode::FAILED
        }
    }
}
