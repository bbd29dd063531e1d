//! The work of one rank: what its spec says, by the kind of the job.

use std::fs;
use std::path::Path;

use marquee_domain::child::ChildSpec;
use marquee_domain::spec::Work;

use crate::error::RunError;
use crate::events::Events;
use crate::outcome::Outcome;
use crate::rendezvous::Place;
use crate::stop::Stop;
use crate::{eval, train};

/// Reads a spec file.
pub(crate) fn read_spec(path: &Path) -> Result<ChildSpec, RunError> {
    let problem =
        |error: &dyn std::fmt::Display| RunError::user(format!("spec {}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| problem(&error))?;
    serde_json::from_str(&text).map_err(|error| problem(&error))
}

/// Does the work of `spec` as the process at `place`.
pub(crate) fn run(
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
