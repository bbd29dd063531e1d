//! One child's work, from its spec to its last word.

use std::fs;
use std::path::Path;

use marquee_domain::child::{ChildEvent, ChildSpec, ExitCode};
use marquee_domain::spec::Work;
use serde::Serialize;

use crate::error::RunError;
use crate::events::Events;
use crate::rendezvous::Place;
use crate::stop::Stop;
use crate::{eval, train};

/// How a run ended when nothing went wrong.
#[derive(Debug)]
pub enum Outcome {
    /// All done; the summary for the last word.
    Finished(serde_json::Value),
    /// Stopped as asked.
    Stopped,
}

impl Outcome {
    pub(crate) fn finished(summary: &impl Serialize) -> Self {
        Self::Finished(serde_json::to_value(summary).unwrap_or_default())
    }
}

/// Reads a spec file.
///
/// # Errors
/// [`RunError`] when the file cannot be read, or is no spec.
pub fn read_spec(path: &Path) -> Result<ChildSpec, RunError> {
    let problem =
        |error: &dyn std::fmt::Display| RunError::user(format!("spec {}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| problem(&error))?;
    serde_json::from_str(&text).map_err(|error| problem(&error))
}

/// Does the work of `spec` as the process at `place`.
///
/// # Errors
/// [`RunError`] with the class and the words for the last event.
pub fn run(
    spec: &ChildSpec,
    place: &Place,
    events: &Events,
    stop: &Stop,
) -> Result<Outcome, RunError> {
    match &spec.work {
        Work::Train(settings) => train::run(spec, settings, place, events, stop),
        Work::Eval(settings) => eval::run(spec, settings, place, events, stop),
        Work::Fetch(_) | Work::Preprocess(_) => Err(RunError::user(format!(
            "{} jobs are marquee-prep's; the trainer does train and eval",
            spec.work.kind()
        ))),
        Work::Command(_) => Err(RunError::user(
            "a command job runs its own program, not the trainer",
        )),
    }
}

/// Says the last word, and gives the exit code that goes with it.
#[must_use]
pub fn conclude(result: Result<Outcome, RunError>, events: &Events) -> ExitCode {
    match result {
        Ok(Outcome::Finished(summary)) => {
            events.emit(&ChildEvent::Finished { summary });
            ExitCode::OK
        }
        Ok(Outcome::Stopped) => ExitCode::STOPPED,
        Err(error) => {
            tracing::error!(class = error.class.as_str(), "{}", error.message);
            events.emit(&ChildEvent::Failed {
                class: error.class,
                message: error.message,
            });
            ExitCode::FAILED
        }
    }
}
