//! The loop over steps and epochs.
//!
//! Invariant: all ranks take every decision that involves an exchange (to report, to stop, to
//! validate) at the same step, because each follows from the step number or from a value that all of
//! them received.

use std::sync::Arc;
use std::time::Instant;

use marquee_datasets::shards::ShardSet;
use marquee_domain::child::ChildSpec;
use marquee_domain::pulse::Phase as Standing;
use marquee_domain::report::{FeaturesReport, PhaseTimes, WeightsReport, WentOn};
use marquee_domain::spec::{Precision, TrainSettings};

use super::clock::StepResult;
use super::step::{StepInput, Stepper};
use crate::checkpoint::{Position, Writer};
use crate::data::{Prefetch, SplitReader, StepPlan};
use crate::error::RunError;
use crate::events::Events;
use crate::ffi;
use crate::learner::freeze::Rules;
use crate::models::Chance;
use crate::rendezvous::Peers;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::tensorboard::Board;
use crate::training_record::Draft;

/// Steps over which a reported loss is averaged. The exchange that it takes costs two numbers.
pub(crate) const REPORT_EVERY_STEPS: u64 = 10;

/// How the loop ended.
pub(super) enum Ending {
    Done,
    Stopped,
}

/// What steps have added up since the last report, on this rank.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) loss: f64,
    pub(super) pictures: u64,
    pub(super) seconds: f64,
}

/// A train job's work on one rank, from its first step to its end.
pub(super) struct Training<'a> {
    pub(super) spec: &'a ChildSpec,
    pub(super) settings: &'a TrainSettings,
    pub(super) events: &'a Events,
    pub(super) stop: &'a Stop,
    pub(super) peers: Peers,
    pub(super) shards: Arc<ShardSet>,
    /// What the model will have been trained and tuned on.
    pub(super) record: Draft,
    pub(super) train: SplitReader,
    pub(super) validation: Option<SplitReader>,
    pub(super) plan: StepPlan,
    pub(super) rules: Rules,
    /// What became of the weights that the job was given.
    pub(super) weights: Vec<WeightsReport>,
    pub(super) features: Option<FeaturesReport>,
    pub(super) schedule: Schedule,
    pub(super) stepper: Stepper,
    pub(super) board: Option<Board>,
    pub(super) checkpoints: Writer,
    pub(super) precision: Precision,
    pub(super) position: Position,
    /// Whether all that follows the step of `position` (reports, validation) is done.
    pub(super) is_settled: bool,
    /// Whether the weights are being overwritten with those of another rank.
    pub(super) is_torn: bool,
    /// Each time that this rank has gone on after others were lost.
    pub(super) went_on: Vec<WentOn>,
    /// Whether any rank was asked to stop, which all have heard of after the same step.
    pub(super) stop_agreed: bool,
    pub(super) window: Window,
    pub(super) phases: PhaseTimes,
    /// `phases` at the start of the current epoch.
    pub(super) phases_before: PhaseTimes,
    /// Pictures of all ranks in this attempt.
    pub(super) pictures: u64,
    /// Steps of this attempt.
    pub(super) steps_here: u64,
}

impl Training<'_> {
    /// Trains to the end, going on with fewer ranks where that is allowed.
    pub(super) fn run(&mut self) -> Result<Ending, RunError> {
        let mut result = self.train();
        loop {
            match result {
                Err(error) if self.may_go_on_after(&error) => {
                    result = self.regroup(&error).and_then(|()| self.train());
                }
                ended => return ended,
            }
        }
    }

    fn train(&mut self) -> Result<Ending, RunError> {
        let total = self.plan.total_steps();
        let threads = self
            .train
            .threads(self.settings.input_threads, self.spec.threads);
        // Anew after each regrouping, when this rank's share of every batch has become another.
        let batches = Prefetch::start(
            &self.train,
            threads,
            self.plan.requests_from(self.position.step),
        )?;
        loop {
            let done = self.position.step;
            // Before a stop is followed: what follows a step (its report, its checkpoint) belongs to it, and whoever
            // goes on from here would not do it again.
            if !self.is_settled {
                self.settle()?;
                self.is_settled = true;
                if self.stop_agreed && done < total {
                    self.finish_writing()?;
                    self.peers.meet()?;
                    return Ok(Ending::Stopped);
                }
            }
            if done == total {
                self.finish_writing()?;
                // The last checkpoint is on disk by now: should the rest fail, the next attempt has nothing to train
                // any more.
                let thresholds = self.thresholds()?;
                self.write_model(thresholds.as_ref())?;
                self.peers.meet()?;
                return Ok(Ending::Done);
            }
            self.step(&batches).map_err(|error| {
                error.during(&format!("training step {}", self.position.step + 1))
            })?;
        }
    }

    /// All that follows a step: reports, validation, a checkpoint.
    fn settle(&mut self) -> Result<(), RunError> {
        let done = self.position.step;
        let ends_epoch = self.plan.ends_epoch(done);
        let every = u64::from(self.settings.checkpoint_every_steps);
        let is_due = ends_epoch || (every > 0 && done.is_multiple_of(every));
        if is_due || self.stop_agreed || done.is_multiple_of(REPORT_EVERY_STEPS) {
            self.drain()?;
            self.report()?;
        }
        let writes_checkpoint = is_due || self.stop_agreed;
        if writes_checkpoint {
            self.share_buffers()?;
        }
        if ends_epoch {
            ffi::stand(Standing::Validation);
            self.end_epoch()
                .map_err(|error| error.during(&format!("validation after step {done}")))?;
        }
        // After the validation, so that it holds the epoch's row: whoever goes on from it need not validate
        // again.
        if writes_checkpoint {
            self.write_checkpoint()?;
        }
        Ok(())
    }

    /// Waits for what a GPU still works on.
    fn drain(&mut self) -> Result<(), RunError> {
        let started = Instant::now();
        let told = self.stepper.drain(&self.peers, &mut self.phases)?;
        self.hear(&told);
        let seconds = started.elapsed().as_secs_f64();
        self.phases.step_s += seconds;
        self.window.seconds += seconds;
        Ok(())
    }

    /// Takes in what steps tell.
    fn hear(&mut self, told: &[StepResult]) {
        for step in told {
            self.window.loss += step.loss_sum;
            self.stop_agreed |= step.stop_agreed;
        }
    }

    /// Takes one step.
    fn step(&mut self, batches: &Prefetch) -> Result<(), RunError> {
        // Looked at with each step, without waiting: a disk that refuses a checkpoint ends the run now, not at the
        // next one.
        if let Some(written) = self.checkpoints.poll()? {
            self.announce(written);
        }
        self.peers.leave_behind()?;
        ffi::stand(Standing::Input);
        let started = Instant::now();
        let batch = batches
            .next()
            .ok_or_else(|| RunError::host("the input thread ended too early"))??;
        let waited_s = started.elapsed().as_secs_f64();

        let step = self.position.step;
        if self.rules.change_with_time() && step.is_multiple_of(self.plan.steps_per_epoch()) {
            let epoch = self.plan.epoch_of(step);
            self.stepper.start_epoch(&self.rules, epoch, &self.peers)?;
        }
        let lr = self.schedule.rate(step);
        let global = batch.global;
        if global < 2 * u64::from(self.peers.world_size) {
            self.share_buffers()?;
        }
        // From the step and the picture's place in it, never from what was drawn before: a resumed run draws the same.
        let chance = |first| Chance::new(self.settings.seed, step, first);
        let input = StepInput {
            peers: &self.peers,
            lr,
            wants_stop: self.stop.is_requested(),
            waited_s,
        };
        let told = self
            .stepper
            .step(&batch, &chance, input, &mut self.phases)?;
        self.hear(&told);

        let seconds = started.elapsed().as_secs_f64();
        self.phases.step_s += seconds;
        self.pictures += global;
        self.window.pictures += global;
        self.window.seconds += seconds;
        self.position.step += 1;
        ffi::stand_at_step(self.position.step);
        self.steps_here += 1;
        // Only after the step counts: a step that failed half way is taken again as a whole.
        self.is_settled = false;
        let epoch = self.plan.epoch_of(step) + 1;
        let phase = format!("epoch {epoch}/{}", self.plan.epochs());
        let done = self.plan.pictures_in_epoch(step + 1);
        self.events
            .progress(&phase, done.min(self.plan.rows), self.plan.rows, "images");
        Ok(())
    }

    /// Gives every rank what rank 0's batch-norm remembers of earlier batches.
    ///
    /// A rank needs it where it scores: to validate, and in a step of so few pictures that it may
    /// have one or none. It comes before each checkpoint too, for the checkpoint holds rank 0's: so
    /// a run that goes on finds the same on every rank as an undisturbed one.
    fn share_buffers(&self) -> Result<(), RunError> {
        let buffers = self.stepper.learner().parameters.buffer_tensors();
        if buffers.is_empty() {
            return Ok(());
        }
        self.peers.copy_from_first(&buffers)
    }

    pub(super) fn leave(mut self) {
        if let Err(error) = self.stepper.unhook() {
            tracing::warn!(message = error.message, "gradients cannot be forgotten");
        }
        self.peers.leave();
    }
}
