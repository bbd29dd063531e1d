//! A checkpoint and a TensorBoard file beside steps that are timed, written as train jobs write them.

use std::fs;
use std::path::Path;
use std::time::Instant;

use marquee_domain::report::PhaseTimes;
use marquee_domain::spec::TrainSettings;

use crate::checkpoint::{Position, RunIdentity, Snapshot, Writer};
use crate::error::RunError;
use crate::tensorboard::Board;
use crate::train::{REPORT_EVERY_STEPS, Stepper};

/// What is written.
#[derive(Debug)]
pub(super) struct Writing {
    position: Position,
    checkpoints: Writer,
    board: Board,
}

impl Writing {
    /// Writes into `folder`, of a run with `settings` on so many pictures.
    pub(super) fn start(
        folder: &Path,
        settings: &TrainSettings,
        rows: u64,
    ) -> Result<Self, RunError> {
        let run = RunIdentity::new(settings, &[], rows);
        Ok(Self {
            position: Position::start(run, 1),
            checkpoints: Writer::new(folder),
            board: Board::create(folder)?,
        })
    }

    /// What a train job does before it takes the step `step`.
    pub(super) fn before(
        &mut self,
        step: u64,
        is_first: bool,
        stepper: &Stepper,
        phases: &mut PhaseTimes,
    ) -> Result<(), RunError> {
        if is_first {
            let started = Instant::now();
            self.position.step = step;
            let snapshot = Snapshot::take(
                self.checkpoints.spare(),
                &self.position,
                stepper.learner().parameters.state(),
                &stepper.optimizer_state(),
                stepper.ema(),
            )?;
            self.checkpoints.start(snapshot)?;
            phases.checkpoint_s += started.elapsed().as_secs_f64();
        }
        if step.is_multiple_of(REPORT_EVERY_STEPS) {
            let values =
                ["train/loss", "train/lr", "train/images_per_second"].map(|tag| (tag, 0.1));
            self.board.scalars(step, &values)?;
        }
        Ok(())
    }

    /// Waits for the checkpoint, and removes it.
    pub(super) fn settle(&mut self) -> Result<(), RunError> {
        let Some(written) = self.checkpoints.wait()? else {
            return Ok(());
        };
        // Hundreds of checkpoints would otherwise fill the disk of the host that is measured.
        fs::remove_dir_all(&written.path).map_err(|error| {
            RunError::host(format!("cannot remove {}: {error}", written.path.display()))
        })
    }
}
