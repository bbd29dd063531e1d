//! One training step: forward, backward with all-reduce, optimizer; and where its time goes.
//!
//! # The loss, and batches that do not divide evenly
//! The loss of a step is the mean over all its pictures and classes, on all ranks. The Reducer
//! averages gradients over ranks, so each rank takes the *sum* over its own pictures times
//! `world_size / (pictures of the step * classes)`: the average of these over ranks is exactly that
//! mean, however unevenly the pictures are shared. A rank without any takes part with a weight of 0.
//!
//! # The wish to stop
//! All ranks must stop at the same step, or the one that goes on waits for the other for ever. The
//! wish travels inside the all-reduce of the gradients: as the gradient of one extra number, `wish`,
//! that is no weight and always 0. Its averaged gradient is above 0 on every rank as soon as any
//! rank was asked to stop. It costs no exchange of its own.
//!
//! # What the times mean
//! `backward_s` ends when this rank has computed its last gradient; `all_reduce_s` is what it then
//! still waits (see `marquee_backward` in shim/collective.cpp). It contains the wait for slower
//! peers: who is ahead of the others has more of it, and it grows by what rank 0 spends on a
//! checkpoint. What Gloo's threads take from this rank's cores during backward is in `backward_s`.

use std::time::Instant;

use marquee_domain::report::PhaseTimes;
use tch::{Cuda, Device, Kind, Tensor};

use crate::data::Batch;
use crate::error::RunError;
use crate::ffi::{self, Reducer};
use crate::learner::Learner;
use crate::learner::freeze::Rules;
use crate::loss::Loss;
use crate::models::{Chance, Pass};
use crate::optimizer::Optimizer;
use crate::rendezvous::Peers;

/// What a step tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepResult {
    /// Sum over this rank's pictures of their losses, each averaged over classes.
    pub(super) loss_sum: f64,
    /// Whether any rank was asked to stop.
    pub(super) stop_agreed: bool,
}

/// Averages the gradients of all weights that learn, and of the wish. Frozen ones are not exchanged.
fn exchange(learner: &Learner, wish: &Tensor, peers: &Peers) -> Result<Option<Reducer>, RunError> {
    let Some(group) = peers.group() else {
        return Ok(None);
    };
    let mut exchanged = learner.learning();
    exchanged.push(wish.shallow_clone());
    Ok(Some(Reducer::new(group, &exchanged)?))
}

#[derive(Debug)]
pub(super) struct Stepper {
    learner: Learner,
    optimizer: Optimizer,
    loss: Loss,
    reducer: Option<Reducer>,
    wish: Tensor,
    world_size: u32,
    device: Device,
    kind: Kind,
}

impl Stepper {
    /// `size` is the width and height of the pictures to come.
    pub(super) fn new(
        learner: Learner,
        optimizer: Optimizer,
        loss: Loss,
        peers: &Peers,
        size: (u32, u32),
    ) -> Result<Self, RunError> {
        let weights = learner.parameters.tensors();
        let (device, kind) = weights.first().map_or((Device::Cpu, Kind::Float), |first| {
            (first.device(), first.kind())
        });
        let wish = Tensor::f_zeros([1; 0], (kind, device))?.f_set_requires_grad(true)?;
        let reducer = exchange(&learner, &wish, peers)?;
        let stepper = Self {
            learner,
            optimizer,
            loss,
            reducer,
            wish,
            world_size: peers.world_size,
            device,
            kind,
        };
        stepper.settle_buckets(size)?;
        Ok(stepper)
    }

    pub(super) fn learner(&self) -> &Learner {
        &self.learner
    }

    /// Lets those weights learn that `rules` says do in `epoch`. All ranks call it at the same step.
    pub(super) fn start_epoch(
        &mut self,
        rules: &Rules,
        epoch: u32,
        peers: &Peers,
        size: (u32, u32),
    ) -> Result<(), RunError> {
        if rules.apply(&mut self.learner, epoch)? {
            self.forget_gradients()?;
            if let Some(reducer) = self.reducer.take() {
                reducer.close();
            }
            self.reducer = exchange(&self.learner, &self.wish, peers)?;
            self.settle_buckets(size)?;
        }
        Ok(())
    }

    pub(super) fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Runs one backward pass whose gradients are thrown away.
    ///
    /// The Reducer puts gradients into buckets by a guess, and again, for good, in the order in which
    /// they turned up in its first pass. Gloo sums a bucket piece by piece around a ring, so with
    /// three ranks or more the last bit of a sum depends on where in a bucket a number lies: the
    /// first step after a resume would differ from the same step of an undisturbed run. So the
    /// buckets find their final order before the first step that counts. (Leaving them unordered for
    /// good is no way out: the Reducer would note the order of every pass, and grow.)
    fn settle_buckets(&self, (width, height): (u32, u32)) -> Result<(), RunError> {
        let Some(reducer) = &self.reducer else {
            return Ok(());
        };
        reducer.prepare()?;
        let blank = Tensor::f_zeros(
            [1, i64::from(height), i64::from(width), 3],
            (Kind::Uint8, Device::Cpu),
        )?;
        let logits = self.learner.logits(&blank, Pass::eval())?;
        let loss = logits
            .f_sum(self.kind)?
            .f_mul_scalar(0.0)?
            .f_add(&self.wish.f_mul_scalar(0.0)?)?;
        ffi::backward(&loss)?;
        reducer.rebuild()?;
        self.forget_gradients()
    }

    pub(super) fn step(
        &mut self,
        batch: &Batch,
        chance: Chance,
        lr: f64,
        wants_stop: bool,
        phases: &mut PhaseTimes,
    ) -> Result<StepResult, RunError> {
        let started = Instant::now();
        if let Some(reducer) = &self.reducer {
            reducer.prepare()?;
        }
        // A stand-in must leave no trace in what batch-norm remembers.
        let pass = if batch.counted == 0 {
            Pass::eval()
        } else {
            Pass::train(chance)
        };
        let logits = self.learner.logits(&batch.pixels, pass)?;
        let (loss, loss_sum) = self.weighted_loss(&logits, batch, wants_stop)?;
        self.wait_for_device();
        phases.forward_s += started.elapsed().as_secs_f64();

        let times = ffi::backward(&loss)?;
        phases.backward_s += times.compute_s;
        // With one rank what follows the last gradient is the engine's own tidying up.
        let waiting = if self.reducer.is_some() {
            &mut phases.all_reduce_s
        } else {
            &mut phases.backward_s
        };
        *waiting += times.waiting_s;

        let started = Instant::now();
        let stop_agreed = self.wish.f_grad()?.f_double_value(&[])? > 0.0;
        self.optimizer.step(lr)?;
        self.forget_gradients()?;
        self.wait_for_device();
        phases.optimizer_s += started.elapsed().as_secs_f64();
        Ok(StepResult {
            loss_sum,
            stop_agreed,
        })
    }

    /// The loss to go backward from, and the value to report.
    fn weighted_loss(
        &self,
        logits: &Tensor,
        batch: &Batch,
        wants_stop: bool,
    ) -> Result<(Tensor, f64), RunError> {
        let targets = batch
            .labels
            .f_to_device(self.device)?
            .f_to_kind(self.kind)?;
        let sum = self.loss.sum(logits, &targets)?;
        let classes = *targets.size().last().unwrap_or(&1) as f64;
        let weight = if batch.counted == 0 {
            0.0
        } else {
            f64::from(self.world_size) / (batch.global as f64 * classes)
        };
        let wish = self.wish.f_mul_scalar(f64::from(u8::from(wants_stop)))?;
        let loss = sum.f_mul_scalar(weight)?.f_add(&wish)?;
        let reported = if batch.counted == 0 {
            0.0
        } else {
            sum.f_double_value(&[])? / classes
        };
        Ok((loss, reported))
    }

    /// Logits of pictures, without gradients.
    pub(super) fn logits(&self, pixels: &Tensor) -> Result<Tensor, RunError> {
        tch::no_grad(|| Ok(self.learner.logits(pixels, Pass::eval())?))
    }

    fn forget_gradients(&self) -> Result<(), RunError> {
        ffi::forget_gradients(std::slice::from_ref(&self.wish))?;
        self.optimizer.forget_gradients()
    }

    /// GPUs work on while we go on; without waiting, times would tell who queued what, not who
    /// took how long.
    fn wait_for_device(&self) {
        match self.device {
            Device::Cuda(index) => Cuda::synchronize(i64::try_from(index).unwrap_or(0)),
            Device::Cpu | Device::Mps | Device::Vulkan => {}
        }
    }

    /// Takes the hooks off the weights. Only after the last step went well.
    pub(super) fn close(self) {
        if let Some(reducer) = self.reducer {
            reducer.close();
        }
    }
}
