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

use super::precision::Numbers;
use crate::data::Batch;
use crate::ema::Ema;
use crate::error::RunError;
use crate::ffi::{self, Reducer};
use crate::learner::Learner;
use crate::learner::freeze::Rules;
use crate::loss::Loss;
use crate::models::{Chance, Pass};
use crate::optimizer::Optimizer;
use crate::rendezvous::Peers;
use crate::scaler::Scaler;
use crate::tensors::Tensors;

/// What a step tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepResult {
    /// Sum over this rank's pictures of their losses, each averaged over classes.
    pub(super) loss_sum: f64,
    /// Whether any rank was asked to stop.
    pub(super) stop_agreed: bool,
}

/// What the settings say of a step, beside the optimizer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub(super) numbers: Numbers,
    /// Parts that a rank computes its share of a step in.
    pub(super) parts: u32,
    pub(super) clip_norm: Option<f64>,
    /// Whether gradients travel as bfloat16.
    pub(super) half_gradients: bool,
    /// Width and height of the pictures.
    pub(super) size: (u32, u32),
}

#[derive(Debug)]
pub(super) struct Stepper {
    learner: Learner,
    optimizer: Optimizer,
    loss: Loss,
    recipe: Recipe,
    scaler: Option<Scaler>,
    ema: Option<Ema>,
    reducer: Option<Reducer>,
    wish: Tensor,
    world_size: u32,
    device: Device,
    kind: Kind,
    /// Whether the clock is read.
    is_timed: bool,
}

impl Stepper {
    pub(super) fn new(
        learner: Learner,
        optimizer: Optimizer,
        ema: Option<Ema>,
        loss: Loss,
        recipe: Recipe,
    ) -> Result<Self, RunError> {
        let (device, kind) = (learner.parameters.device(), learner.parameters.kind());
        let wish = Tensor::f_zeros([1; 0], (kind, device))?.f_set_requires_grad(true)?;
        let scaler = match recipe.numbers {
            Numbers::Fp16 => Some(Scaler::new(device)?),
            Numbers::Plain | Numbers::Bf16 => None,
        };
        Ok(Self {
            learner,
            optimizer,
            loss,
            recipe,
            scaler,
            ema,
            reducer: None,
            wish,
            world_size: 1,
            device,
            kind,
            is_timed: true,
        })
    }

    /// Stops reading the clock: all times but that of the whole step stay 0. For a benchmark that shows
    /// what the clock costs.
    pub(super) fn stop_the_clock(&mut self) {
        self.is_timed = false;
    }

    /// From here on gradients are averaged over `peers`.
    pub(super) fn hook(&mut self, peers: &Peers) -> Result<(), RunError> {
        self.world_size = peers.world_size;
        if let Some(group) = peers.group() {
            // Frozen weights are not exchanged.
            let mut exchanged = self.learner.learning();
            exchanged.push(self.wish.shallow_clone());
            self.reducer = Some(Reducer::new(group, &exchanged, self.recipe.half_gradients)?);
            self.settle_buckets(self.recipe.size)?;
        }
        Ok(())
    }

    /// Takes the hooks off the weights, and forgets what a step that failed left behind.
    pub(super) fn unhook(&mut self) -> Result<(), RunError> {
        if let Some(reducer) = self.reducer.take() {
            reducer.close();
        }
        self.forget_gradients()
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
    ) -> Result<(), RunError> {
        if rules.apply(&mut self.learner, epoch)? {
            self.unhook()?;
            self.hook(peers)?;
        }
        Ok(())
    }

    pub(super) fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// The state of the optimizer and what goes with it, by name.
    pub(super) fn optimizer_state(&self) -> Tensors {
        let mut state = self.optimizer.save();
        if let Some(scaler) = &self.scaler {
            scaler.save(&mut state);
        }
        state
    }

    /// The running mean of the weights, where there is one.
    pub(super) fn ema(&self) -> Option<&Ema> {
        self.ema.as_ref()
    }

    pub(super) fn ema_mut(&mut self) -> Option<&mut Ema> {
        self.ema.as_mut()
    }

    pub(super) fn scaler_mut(&mut self) -> Option<&mut Scaler> {
        self.scaler.as_mut()
    }

    /// Does `work` with the weights that count: the running mean, where there is one.
    pub(super) fn with_final_weights<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        let Some(ema) = &self.ema else {
            return work(self);
        };
        ema.swap()?;
        let result = work(self);
        ema.swap()?;
        result
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
        let logits = self.forward(&blank, Pass::eval())?;
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
        chance: &dyn Fn(u64) -> Chance,
        lr: f64,
        wants_stop: bool,
        phases: &mut PhaseTimes,
    ) -> Result<StepResult, RunError> {
        let parts = parts(batch, self.recipe.parts)?;
        let last = parts.len() - 1;
        let mut loss_sum = 0.0;
        for (place, part) in parts.iter().enumerate() {
            // Gradients of all parts but the last stay here and add up.
            let exchanges = place == last;
            // A stand-in must leave no trace in what batch-norm remembers.
            let pass = if part.counted == 0 {
                Pass::eval()
            } else {
                Pass::train(chance(part.first))
            };
            loss_sum += self.part(part, pass, exchanges, wants_stop, phases)?;
        }
        let started = self.now();
        let stop_agreed = self.wish.f_grad()?.f_double_value(&[])? > 0.0;
        self.update(lr)?;
        self.wait_for_device();
        phases.optimizer_s += seconds_since(started);
        Ok(StepResult {
            loss_sum,
            stop_agreed,
        })
    }

    fn now(&self) -> Option<Instant> {
        self.is_timed.then(Instant::now)
    }

    /// Forward and backward over one part of a step. Returns the loss to report.
    fn part(
        &self,
        batch: &Batch,
        pass: Pass,
        exchanges: bool,
        wants_stop: bool,
        phases: &mut PhaseTimes,
    ) -> Result<f64, RunError> {
        let started = self.now();
        if let Some(reducer) = &self.reducer
            && exchanges
        {
            reducer.prepare()?;
        }
        let logits = self.forward(&batch.pixels, pass)?;
        let (loss, loss_sum) = self.weighted_loss(&logits, batch, wants_stop)?;
        self.wait_for_device();
        phases.forward_s += seconds_since(started);

        let loss = match &self.scaler {
            Some(scaler) => scaler.scaled(&loss)?,
            None => loss,
        };
        if !self.is_timed {
            ffi::backward_untimed(&loss)?;
            return Ok(loss_sum);
        }
        let times = ffi::backward(&loss)?;
        phases.backward_s += times.compute_s;
        // Where nothing is exchanged, what follows the last gradient is the engine's tidying up.
        let waiting = if self.reducer.is_some() && exchanges {
            &mut phases.all_reduce_s
        } else {
            &mut phases.backward_s
        };
        *waiting += times.waiting_s;
        Ok(loss_sum)
    }

    /// Brings the gradients to size, steps along them and forgets them.
    fn update(&mut self, lr: f64) -> Result<(), RunError> {
        let is_good = match &mut self.scaler {
            Some(scaler) => scaler.unscale(&self.optimizer.moved())?,
            None => true,
        };
        if is_good {
            if let Some(max_norm) = self.recipe.clip_norm {
                ffi::clip_gradients(&self.optimizer.moved(), max_norm)?;
            }
            self.optimizer.step(lr)?;
            if let Some(ema) = &mut self.ema {
                ema.update()?;
            }
        }
        self.forget_gradients()
    }

    /// Logits of pictures or of their features, in the run's own kind.
    fn forward(&self, pixels: &Tensor, pass: Pass) -> Result<Tensor, RunError> {
        let _autocast = self.recipe.numbers.autocast(self.device)?;
        Ok(self.learner.logits(pixels, pass)?.f_to_kind(self.kind)?)
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
        tch::no_grad(|| self.forward(pixels, Pass::eval()))
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
}

fn seconds_since(started: Option<Instant>) -> f64 {
    started.map_or(0.0, |started| started.elapsed().as_secs_f64())
}

/// A batch in so many parts of about the same size, of which none is empty.
fn parts(batch: &Batch, wanted: u32) -> Result<Vec<Batch>, RunError> {
    let rows = batch.pixels.size().first().copied().unwrap_or(0);
    let count = i64::from(wanted).clamp(1, rows.max(1));
    (0..count)
        .map(|part| {
            let (from, to) = (rows * part / count, rows * (part + 1) / count);
            let rows = to - from;
            Ok(Batch {
                pixels: batch.pixels.f_narrow(0, from, rows)?,
                labels: batch.labels.f_narrow(0, from, rows)?,
                counted: if batch.counted == 0 {
                    0
                } else {
                    rows.unsigned_abs()
                },
                global: batch.global,
                first: batch.first + from.unsigned_abs(),
            })
        })
        .collect()
}
