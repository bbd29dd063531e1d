//! Train jobs: the loop over steps and epochs, and what happens between them.
//!
//! Invariants: N ranks compute what one rank would at the same global batch; what is reported as
//! loss or F1 is over all ranks; rank 0 alone writes files.

use std::time::{Duration, Instant};

use marquee_domain::child::ChildSpec;
use marquee_domain::pulse::Phase;
use marquee_domain::spec::TrainSettings;

use crate::compat;
use crate::data::{self, SplitReader};
use crate::device;
use crate::error::RunError;
use crate::events::Events;
use crate::ffi;
use crate::outcome::Outcome;
use crate::rendezvous::{Exchange, Peers, Place};
use crate::stop::Stop;

mod clock;
mod precision;
mod prepare;
mod regroup;
mod save;
mod step;
mod tell;
mod training;
mod validate;
#[cfg(test)]
mod vectors;

pub(crate) use clock::StepResult;
pub(crate) use precision::{Numbers, kind_of};
use prepare::Given;
pub(crate) use step::{Recipe, StepInput, Stepper};
pub(crate) use training::REPORT_EVERY_STEPS;
use training::{Ending, Training};

/// Does a train job's work on one rank.
pub(crate) fn run(
    spec: &ChildSpec,
    settings: &TrainSettings,
    place: &Place,
    events: &Events,
    stop: &Stop,
) -> Result<Outcome, RunError> {
    let started = Instant::now();
    // Before any work: a build that cannot do it must refuse at once, not after an epoch.
    compat::half_gradients(settings.gradient_compression)?;
    let device = device::choose(spec)?;
    let shards = data::open(spec)?;
    let train = SplitReader::of(&shards, data::TRAIN).ok_or_else(|| {
        RunError::input(
            "the shards hold no pictures to train on; give the train split a larger share",
        )
    })?;
    let exchange = Exchange {
        device,
        backend: settings.backend,
        timeout: Duration::from_secs(u64::from(settings.collective_timeout_s)),
    };
    let Some(peers) = Peers::join(spec, place, exchange, stop)? else {
        return Ok(Outcome::Stopped);
    };
    ffi::stand(Phase::Preparing);
    let given = Given {
        spec,
        settings,
        shards: &shards,
        device,
        events,
        stop,
    };
    let Some(mut training) = Training::prepare(given, peers, train)? else {
        return Ok(Outcome::Stopped);
    };
    let step = training.position.step;
    match training.run()? {
        Ending::Stopped => {
            tracing::info!(
                step = training.position.step,
                "stopped as asked, with a checkpoint"
            );
            training.leave();
            Ok(Outcome::Stopped)
        }
        Ending::Done => {
            let summary = training.summary(step, started);
            training.leave();
            Ok(Outcome::finished(&summary))
        }
    }
}
