//! What a run leaves on disk: checkpoints while it goes, the model at its end.

use std::time::Instant;

use marquee_domain::child::ChildEvent;
use marquee_domain::pulse::Phase;
use marquee_domain::report::TrainedBy;
use marquee_evaluation::{ChosenThresholds, SplitScores, choose_thresholds};

use super::training::Training;
use super::validate;
use crate::checkpoint::{Snapshot, Written};
use crate::error::RunError;
use crate::ffi;
use crate::model_folder::{self, ModelCard};
use crate::provenance;

impl Training<'_> {
    /// Copies the state, and has it written while training goes on. If the checkpoint before is not
    /// on disk yet, waits for it.
    pub(super) fn write_checkpoint(&mut self) -> Result<(), RunError> {
        if !self.peers.is_first() {
            return Ok(());
        }
        let started = Instant::now();
        self.finish_writing()?;
        let snapshot = Snapshot::take(
            self.checkpoints.spare(),
            &self.position,
            self.stepper.learner().parameters.state(),
            &self.stepper.optimizer_state(),
            self.stepper.ema(),
        )?;
        self.checkpoints.start(snapshot)?;
        let seconds = started.elapsed().as_secs_f64();
        self.phases.checkpoint_s += seconds;
        self.phases.step_s += seconds;
        Ok(())
    }

    /// Waits for the checkpoint that is being written, and tells of it.
    pub(super) fn finish_writing(&mut self) -> Result<(), RunError> {
        ffi::stand(Phase::Checkpoint);
        if let Some(written) = self.checkpoints.wait()? {
            self.announce(written);
        }
        Ok(())
    }

    pub(super) fn announce(&self, written: Written) {
        self.events.emit(&ChildEvent::Checkpoint {
            step: written.step,
            path: written.path,
        });
    }

    /// The thresholds of the rule that validation chooses; none without a validation split. All ranks
    /// take part.
    pub(super) fn thresholds(&mut self) -> Result<Option<ChosenThresholds>, RunError> {
        let Some(split) = &self.validation else {
            return Ok(None);
        };
        let started = Instant::now();
        ffi::stand(Phase::Validation);
        let mut scores = SplitScores::default();
        let threads = split.threads(self.settings.input_threads, self.spec.threads);
        let batch_size = self.settings.batch_size;
        self.stepper.with_final_weights(|stepper| {
            let into = Some(&mut scores);
            validate::score(stepper, split, threads, batch_size, &self.peers, into)
        })?;
        self.phases.validation_s += started.elapsed().as_secs_f64();
        // The choice alone takes time on large splits, and the first rank alone needs it.
        let classes = split.index().classes.len();
        Ok(self
            .peers
            .is_first()
            .then(|| choose_thresholds(&scores, classes)))
    }

    pub(super) fn write_model(
        &mut self,
        thresholds: Option<&ChosenThresholds>,
    ) -> Result<(), RunError> {
        // The event file lies in the output, which has to be whole when the job says that it is
        // done.
        if let Some(board) = &mut self.board {
            board.close()?;
        }
        if !self.peers.is_first() {
            return Ok(());
        }
        ffi::stand(Phase::Writing);
        let index = self.train.index();
        // Before the card, without which the folder is no model: there is none without its record.
        self.record
            .write(self.spec, &self.shards, &self.spec.output)?;
        let by = TrainedBy {
            job: provenance::job_of(self.spec),
            seed: self.settings.seed,
        };
        self.stepper.with_final_weights(|stepper| {
            let learner = stepper.learner();
            let card = ModelCard::new(
                learner,
                &self.settings.transfer.head,
                &index.classes,
                (index.width, index.height),
                thresholds,
            )
            .trained_by(by);
            model_folder::write(&self.spec.output, learner, &card, &self.position.history)
        })
    }
}
