//! The learning rate of each step: a pure function of the settings and the step.
//!
//! Warm-up rises in a line, from `rate / steps` in its first step to the full rate in its last; the
//! schedule then covers the rest of the run. Definitions are those of PyTorch: `LinearLR`,
//! `CosineAnnealingLR`, `StepLR`, `OneCycleLR`.

use std::f64::consts::PI;

use marquee_domain::spec::{LrSchedule, Optimizer, Span, TrainSettings};

/// The learning rate over one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    peak: f64,
    shape: LrSchedule,
    warmup_steps: u64,
    steps_per_epoch: u64,
    total_steps: u64,
}

impl Schedule {
    pub(crate) fn new(settings: &TrainSettings, steps_per_epoch: u64, total_steps: u64) -> Self {
        Self::of(
            settings.optimizer,
            settings.lr_schedule,
            settings.warmup,
            steps_per_epoch,
            total_steps,
        )
    }

    /// The same, from the settings that it needs.
    pub(crate) fn of(
        optimizer: Optimizer,
        shape: LrSchedule,
        warmup: Option<Span>,
        steps_per_epoch: u64,
        total_steps: u64,
    ) -> Self {
        let (Optimizer::Sgd { lr, .. } | Optimizer::AdamW { lr, .. }) = optimizer;
        Self {
            peak: lr,
            shape,
            warmup_steps: warmup.map_or(0, |span| span.steps(steps_per_epoch)),
            steps_per_epoch,
            total_steps,
        }
    }

    /// The rate of `step`, from 0.
    pub(crate) fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let step = step - self.warmup_steps;
        // At least 1, since a warm-up may be as long as the whole run.
        let total = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        match self.shape {
            LrSchedule::Constant => self.peak,
            LrSchedule::Cosine => between(self.peak, 0.0, step as f64 / total as f64),
            LrSchedule::Step { every, factor } => {
                let drops = step / every.steps(self.steps_per_epoch).max(1);
                self.peak * factor.powf(drops as f64)
            }
            LrSchedule::OneCycle {
                rise,
                start_divisor,
                end_divisor,
            } => {
                let first = self.peak / start_divisor;
                let last = first / end_divisor;
                let step = step as f64;
                // PyTorch's `OneCycleLR` ends the rise a step before its share of the run.
                let top = rise * total as f64 - 1.0;
                if step <= top {
                    return between(first, self.peak, step / top.max(f64::MIN_POSITIVE));
                }
                let end = (total - 1) as f64;
                let top = top.max(0.0);
                let way = (step - top) / (end - top).max(f64::MIN_POSITIVE);
                between(self.peak, last, way.min(1.0))
            }
        }
    }
}

/// From `from` to `to` along half a cosine, at the share `way` of it.
fn between(from: f64, to: f64, way: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (PI * way).cos())
}
