//! What a run tells of itself while it goes and at its end: losses, epochs, phase times, summary.
//!
//! All ranks take part in what is summed; rank 0 alone tells what all have in common.

use std::time::Instant;

use marquee_domain::report::{FeaturesReport, PhaseTimes, TrainSummary};
use marquee_evaluation::EpochRow;
use tch::Device;

use super::training::Training;
use super::validate;
use crate::error::RunError;
use crate::ffi::{self, PeakMemory};
use crate::learner::features;
use crate::model_folder;
use crate::tensorboard::Board;

impl Training<'_> {
    /// Starts the event file, on the rank that writes one.
    pub(super) fn open_board(&mut self) -> Result<(), RunError> {
        if self.peers.is_first() && self.settings.tensorboard && self.board.is_none() {
            let mut board = Board::create(&self.spec.output.join(model_folder::TENSORBOARD))?;
            // Each attempt has a file of its own, and so has a rank that became the first by a
            // loss: with the epochs before, its curves are whole.
            for row in &self.position.history {
                board.scalars(row.step, &epoch_values(row))?;
            }
            self.board = Some(board);
        }
        Ok(())
    }

    /// Adds the window's sums up over all ranks, reports them, and starts a new window.
    pub(super) fn report(&mut self) -> Result<(), RunError> {
        if self.window.pictures == 0 {
            return Ok(());
        }
        let started = Instant::now();
        let window = std::mem::take(&mut self.window);
        let [loss] = self.peers.sum([window.loss])?;
        let seconds = started.elapsed().as_secs_f64();
        // Nothing is computed while the ranks add up, so all of it is waiting.
        self.phases.all_reduce_s += seconds;
        self.phases.step_s += seconds;
        self.position.epoch.loss += loss;
        self.position.epoch.pictures += window.pictures;
        self.position.epoch.seconds += window.seconds + seconds;

        let step = self.position.step;
        let mean_loss = loss / window.pictures as f64;
        // Of the sum over all ranks: so all of them end here, and none waits for the others.
        if !mean_loss.is_finite() {
            return Err(RunError::user(format!(
                "the loss is no longer a number by step {step}; lower optimizer.lr"
            )));
        }
        if self.peers.is_first() {
            let last = step.saturating_sub(1);
            let lr = self.schedule.rate(last);
            let rate = window.pictures as f64 / (window.seconds + seconds);
            let values = [
                ("train/loss", mean_loss),
                ("train/lr", lr),
                ("train/images_per_second", rate),
            ];
            self.events.step_metrics(step, &values);
            if let Some(board) = &mut self.board {
                board.scalars(step, &values)?;
            }
        }
        Ok(())
    }

    /// Validates, and closes the epoch's row of the history.
    pub(super) fn end_epoch(&mut self) -> Result<(), RunError> {
        let started = Instant::now();
        let scores = match &self.validation {
            Some(split) => {
                let threads = split.threads(self.settings.input_threads, self.spec.threads);
                let batch_size = self.settings.batch_size;
                Some(self.stepper.with_final_weights(|stepper| {
                    validate::score(stepper, split, threads, batch_size, &self.peers, None)
                })?)
            }
            None => None,
        };
        self.phases.validation_s += started.elapsed().as_secs_f64();

        let step = self.position.step;
        let sums = std::mem::take(&mut self.position.epoch);
        let row = EpochRow {
            epoch: self.plan.epoch_of(step - 1) + 1,
            step,
            train_loss: sums.loss / sums.pictures.max(1) as f64,
            validation_loss: scores.map(|scores| scores.loss),
            validation_f1_micro: scores.map(|scores| scores.f1_micro),
            seconds: sums.seconds,
            images_per_second: sums.pictures as f64 / sums.seconds.max(f64::MIN_POSITIVE),
            of_features: self.features.is_some(),
        };
        if self.peers.is_first() {
            let values = epoch_values(&row);
            self.events.metrics(step, &values);
            if let Some(board) = &mut self.board {
                board.scalars(step, &values)?;
            }
            tracing::info!(
                epoch = row.epoch,
                step,
                train_loss = row.train_loss,
                validation_loss = row.validation_loss,
                validation_f1_micro = row.validation_f1_micro,
                "epoch done"
            );
        }
        // An epoch that `max_steps` had cut, and that has gone on since, has a row already.
        self.position
            .history
            .retain(|earlier| earlier.epoch != row.epoch);
        self.position.history.push(row);
        self.events
            .metrics(step, &phase_values(&self.phases, &self.phases_before));
        self.phases_before = self.phases;
        // A run that is stopped by max_steps in mid-epoch and later goes on counts the epoch on.
        if !step.is_multiple_of(self.plan.steps_per_epoch()) {
            self.position.epoch = sums;
        }
        Ok(())
    }

    pub(super) fn summary(&self, resumed_from_step: u64, started: Instant) -> TrainSummary {
        let learner = self.stepper.learner();
        let learning = learner.learning();
        let memory = peak_memory(learner.parameters.device());
        TrainSummary {
            model: learner.model.clone(),
            parameters: learner.parameters.count(),
            learning: learning.iter().map(|tensor| tensor.numel() as u64).sum(),
            weights: self.weights.clone(),
            features: self.features_report(),
            world_size: self.peers.world_size,
            rank: self.peers.rank,
            backend: self.peers.backend().to_owned(),
            warnings: self
                .peers
                .warning()
                .map(str::to_owned)
                .into_iter()
                .collect(),
            device: if memory.is_some() { "cuda" } else { "cpu" }.to_owned(),
            peak_memory_bytes: memory.map(|memory| memory.allocated),
            peak_reserved_bytes: memory.map(|memory| memory.reserved),
            epochs: self.position.history.last().map_or(0, |row| row.epoch),
            steps: self.position.step,
            resumed_from_step,
            images_per_second: self.pictures as f64 / self.phases.step_s.max(f64::MIN_POSITIVE),
            final_loss: self
                .position
                .history
                .last()
                .map_or(0.0, |row| row.train_loss),
            seconds: started.elapsed().as_secs_f64(),
            phases: self.phases,
            precision: self.precision.as_str().to_owned(),
            encoding: self.train.index().encoding.as_str().to_owned(),
            regroups: u32::try_from(self.went_on.len()).unwrap_or(u32::MAX),
            went_on: self.went_on.clone(),
        }
    }

    /// With how much faster training went for them.
    fn features_report(&self) -> Option<FeaturesReport> {
        let mut report = self.features.clone()?;
        report.speedup =
            features::speedup(&report, self.phases.step_s / self.pictures.max(1) as f64);
        tracing::info!(
            speedup = report.speedup,
            from_cache = report.from_cache,
            "steps went so many times faster than with the frozen networks in them"
        );
        Some(report)
    }
}

/// What tensors took of the GPU; None on CPUs.
fn peak_memory(device: Device) -> Option<PeakMemory> {
    let read = ffi::peak_memory(ffi::gpu_index(device)?);
    read.inspect_err(|error| tracing::warn!(%error, "the GPU's peak memory is not known"))
        .ok()
}

fn epoch_values(row: &EpochRow) -> Vec<(&'static str, f64)> {
    let mut values = vec![
        ("epoch/train_loss", row.train_loss),
        ("epoch/seconds", row.seconds),
        ("epoch/images_per_second", row.images_per_second),
    ];
    values.extend(row.validation_loss.map(|loss| ("validation/loss", loss)));
    values.extend(
        row.validation_f1_micro
            .map(|f1| ("validation/f1_micro", f1)),
    );
    values
}

/// Where the time went between two moments.
fn phase_values(now: &PhaseTimes, before: &PhaseTimes) -> [(&'static str, f64); 8] {
    [
        ("phase/step_s", now.step_s - before.step_s),
        ("phase/input_s", now.input_s - before.input_s),
        ("phase/forward_s", now.forward_s - before.forward_s),
        ("phase/backward_s", now.backward_s - before.backward_s),
        ("phase/all_reduce_s", now.all_reduce_s - before.all_reduce_s),
        ("phase/optimizer_s", now.optimizer_s - before.optimizer_s),
        ("phase/checkpoint_s", now.checkpoint_s - before.checkpoint_s),
        ("phase/validation_s", now.validation_s - before.validation_s),
    ]
}
