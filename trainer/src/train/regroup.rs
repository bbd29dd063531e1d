//! Going on after ranks were lost, from the last step in memory.
//!
//! A rank may be lost in the middle of an exchange that some survivors finished and others did not, so
//! one survivor may be a step ahead. Its state is right, for it had the sums of all ranks in that step; so
//! it is copied to the others. The global batch stays the same and each rank takes a larger share of it.
//! Unlike a resume from a checkpoint this is not exact to the bit: batch-norm's buffers are those of one
//! rank, and sums are added in another order.

use std::time::{Duration, Instant};

use marquee_domain::FailureClass;
use marquee_domain::child::ChildEvent;
use marquee_domain::pulse::Phase;
use marquee_domain::report::WentOn;

use super::training::{Training, Window};
use crate::error::RunError;
use crate::ffi;
use crate::rendezvous::Standing;
use crate::tensors::Tensors;

impl Training<'_> {
    /// Whether `error` is that of a lost peer, and the job goes on without.
    pub(super) fn may_go_on_after(&self, error: &RunError) -> bool {
        error.class == FailureClass::Collective && self.peers.may_regroup()
    }

    /// Forms a new group with the ranks that are left, and brings all to the same state.
    pub(super) fn regroup(&mut self, cause: &RunError) -> Result<(), RunError> {
        let started = Instant::now();
        ffi::stand(Phase::Joining);
        let before = self.peers.world_size;
        tracing::warn!(message = cause.message, "a rank was lost; regrouping");
        self.stepper.unhook()?;
        let standing = Standing {
            progress: (self.position.step, self.is_settled),
            is_torn: self.is_torn,
            position: serde_json::to_string(&self.position)
                .map_err(|error| RunError::host(format!("the position has no JSON: {error}")))?,
        };
        let regrouped = self.peers.regroup(&standing, self.step_time())?;
        if regrouped.needs_copy {
            self.copy_state_from(regrouped.source)?;
            self.position = serde_json::from_str(&regrouped.standing.position)
                .map_err(|error| RunError::host(format!("a peer's position: {error}")))?;
            self.is_settled = regrouped.standing.progress.1;
        }
        self.position.world_size = self.peers.world_size;
        self.plan = self.plan.of_rank(self.peers.rank, self.peers.world_size);
        // Part of these sums was on the lost ranks, so the reported mean would be wrong.
        self.window = Window::default();
        self.stop_agreed = false;
        self.stepper.hook(&self.peers)?;
        self.open_board()?;
        let seconds = started.elapsed().as_secs_f64();
        self.went_on.push(WentOn {
            step: self.position.step,
            ranks: self.peers.world_size,
            of: before,
            steps_lost: regrouped.steps_lost,
            seconds,
        });
        self.events.emit(&ChildEvent::Regrouped {
            step: self.position.step,
            ranks: regrouped.members,
            steps_lost: regrouped.steps_lost,
            seconds,
        });
        tracing::warn!(
            ranks_before = before,
            ranks = self.peers.world_size,
            rank = self.peers.rank,
            step = self.position.step,
            steps_lost = regrouped.steps_lost,
            seconds,
            "going on with fewer ranks, at the same global batch"
        );
        if self.peers.is_first() {
            let ranks = f64::from(self.peers.world_size);
            self.events
                .metrics(self.position.step, &[("train/ranks", ranks)]);
        }
        Ok(())
    }

    /// What a step has taken so far.
    fn step_time(&self) -> Duration {
        let steps = self.steps_here.max(1) as f64;
        Duration::from_secs_f64(self.phases.step_s / steps)
    }

    /// Overwrites all that learning has changed with what rank `source` has.
    fn copy_state_from(&mut self, source: u32) -> Result<(), RunError> {
        // Before the first tensor is touched. If the source is lost meanwhile, this rank must not
        // be chosen as the next one.
        self.is_torn = true;
        let state = self.stepper.optimizer_state();
        let parameters = &self.stepper.learner().parameters;
        let mut tensors = parameters.tensors();
        tensors.extend(parameters.buffer_tensors());
        // The optimizer's own tensors, no copies, so the exchange overwrites its state in place.
        // Only its counters have to be taken over afterwards.
        tensors.extend(state.values().map(tch::Tensor::shallow_clone));
        let ema = self.stepper.ema().map(crate::ema::Ema::save);
        if let Some(ema) = &ema {
            tensors.extend(ema.values().map(tch::Tensor::shallow_clone));
        }
        self.peers.copy_from(source, &tensors)?;
        self.adopt(&state, ema.as_ref())?;
        self.is_torn = false;
        Ok(())
    }

    /// Takes over the counters, which the saved state holds copies of.
    fn adopt(&mut self, state: &Tensors, ema: Option<&Tensors>) -> Result<(), RunError> {
        const WHENCE: &str = "the state of another rank";
        self.stepper.optimizer_mut().restore(state, WHENCE)?;
        if let Some(scaler) = self.stepper.scaler_mut() {
            scaler.restore(state)?;
        }
        if let (Some(mine), Some(given)) = (self.stepper.ema_mut(), ema) {
            mine.restore(given, WHENCE)?;
        }
        Ok(())
    }
}
