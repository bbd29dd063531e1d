//! `marquee-trainer run`: this process as a child of a worker, or of a person who started it by hand.
//!
//! Invariant: it has a last word and an exit code whatever happens, a panic included.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marquee_datasets::channel::Channel;
use marquee_domain::FailureClass;
use marquee_domain::child::{ExitCode, env};

use crate::error::RunError;
use crate::events::Events;
use crate::ffi;
use crate::launch::{Size, run_ranks};
use crate::outcome::{Outcome, conclude};
use crate::rendezvous::Place;
use crate::run::{read_spec, run};
use crate::stop::{Stop, when_stdin_ends};

/// Does the work of the spec file `spec`: as the rank that the environment names or, without one, as
/// all of `size` on this machine. With `until_eof` the end of stdin is taken as a request to stop.
#[must_use]
pub fn run_as_child(spec: &Path, size: Size, until_eof: bool) -> ExitCode {
    let events = match Channel::from_env() {
        Ok(channel) => Arc::new(Events::to(channel)),
        Err(error) => {
            tracing::error!("events cannot be written: {error}");
            return ExitCode::USAGE;
        }
    };
    // tch's plain calls panic on errors of libtorch, and so do bugs of ours: without this the
    // worker would learn of a crash and not of its cause.
    let result = catch_unwind(AssertUnwindSafe(|| {
        run_or_launch(spec, size, until_eof, &events)
    }));
    conclude(result.unwrap_or_else(|panic| Err(crash(&*panic))), &events)
}

fn run_or_launch(
    spec: &Path,
    size: Size,
    until_eof: bool,
    events: &Arc<Events>,
) -> Result<Outcome, RunError> {
    let stop = Stop::on_signals()?;
    if let Some(path) = std::env::var_os(env::PULSE).map(PathBuf::from) {
        // Whether it hangs can be told without, if less surely.
        if let Err(error) = ffi::open_standing(&path) {
            tracing::warn!(%error, "where this rank stands cannot be told");
        }
    }
    if until_eof {
        when_stdin_ends()?;
    }
    let place = Place::from_env(|name| std::env::var(name).ok())?;
    if place.is_none() && (size.ranks > 1 || size.min_ranks.is_some()) {
        return run_ranks(spec, size, events, &stop);
    }
    run(
        &read_spec(spec)?,
        &place.unwrap_or_else(Place::alone),
        events,
        &stop,
    )
}

/// The last word of a rank that panicked: tch's plain calls do so on errors of libtorch.
fn crash(panic: &(dyn std::any::Any + Send)) -> RunError {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    RunError {
        class: FailureClass::Crash,
        message: format!("the trainer panicked: {text}"),
    }
}
