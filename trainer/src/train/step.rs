//! One training step: forward, backward with all-reduce, optimizer; and where its time goes.
//!
//! # The loss, and batches that do not divide evenly
//! The loss of a step is the mean over all its pictures and classes, on all ranks. The Reducer
//! averages gradients over ranks, so each rank takes the *sum* over its own pictures times
//! `world_size / (pictures of the step * classes)`: the average of these over ranks is exactly that
//! mean, however unevenly the pictures are shared. A rank without any takes part with a weight of 0.
//!
//! # The wish to stop
//! All ranks must stop after the same step: one that went on would wait for the others for ever. So a
//! rank that is asked to stop tells the others within the all-reduce of the gradients. There is one extra
//! parameter, `wish`, that is no weight and always 0. A rank that wants to stop gives it a gradient above
//! 0, and then the average is above 0 on every rank. This costs no exchange of its own.
//!
//! # What the times mean
//! `backward_s` ends when this rank has computed its last gradient; `all_reduce_s` is what it then
//! still waits (see `marquee_backward` in shim/collective.cpp). It contains the wait for slower
//! peers: the fastest rank waits longest, and all others wait for rank 0 while it copies a
//! checkpoint. What Gloo's threads take from this rank's cores during backward is in `backward_s`.
//! On GPUs all are the GPU's own times (see [`super::clock`]).

use marquee_domain::pulse::Phase as Standing;
use marquee_domain::report::PhaseTimes;
use tch::{Device, Kind, Tensor};

use super::clock::{Phase, PhaseClock, StepResult};
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

/// What the settings say of a step, beside the optimizer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) numbers: Numbers,
    /// In how many parts a rank computes its share of a step (gradient accumulation).
    pub(crate) parts: u32,
    pub(crate) clip_norm: Option<f64>,
    /// Whether gradients travel as bfloat16.
    pub(crate) half_gradients: bool,
    /// Width and height of the pictures.
    pub(crate) size: (u32, u32),
}

#[derive(Debug)]
pub(crate) struct Stepper {
    learner: Learner,
    optimizer: Optimizer,
    loss: Loss,
    recipe: Recipe,
    scaler: Option<Scaler>,
    ema: Option<Ema>,
    reducer: Option<Reducer>,
    wish: Tensor,
    clock: PhaseClock,
    world_size: u32,
    device: Device,
    kind: Kind,
}

/// What a step is given beside its batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepInput<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) lr: f64,
    /// Whether this rank was asked to stop.
    pub(crate) wants_stop: bool,
    /// Seconds that the host waited for the batch.
    pub(crate) waited_s: f64,
}

impl Stepper {
    pub(crate) fn new(
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
            Numbers::Plain | Numbers::Tf32 | Numbers::Bf16 => None,
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
            clock: PhaseClock::of(device),
            world_size: 1,
            device,
            kind,
        })
    }

    /// Whether the phases of a step are measured, as they are by default. If not, only the time of the
    /// whole step is. For a benchmark that shows what the measuring costs.
    pub(crate) fn time_phases(&mut self, timed: bool) {
        self.clock.set_running(timed);
    }

    /// From here on gradients are averaged over `peers`.
    pub(crate) fn hook(&mut self, peers: &Peers) -> Result<(), RunError> {
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
    pub(crate) fn unhook(&mut self) -> Result<(), RunError> {
        self.clock.forget();
        if let Some(reducer) = self.reducer.take() {
            reducer.close();
        }
        self.forget_gradients()
    }

    pub(crate) fn learner(&self) -> &Learner {
        &self.learner
    }

    /// Lets those weights learn that `rules` says do in `epoch`. All ranks call it at the same step.
    pub(crate) fn start_epoch(
        &mut self,
        rules: &Rules,
        epoch: u32,
        peers: &Peers,
    ) -> Result<(), RunError> {
        if rules.apply(&mut self.learner, epoch)? {
            // The reducer exchanges those weights that learnt when it was made.
            self.unhook()?;
            self.hook(peers)?;
        }
        Ok(())
    }

    pub(crate) fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// The state of the optimizer and what goes with it, by name.
    pub(crate) fn optimizer_state(&self) -> Tensors {
        let mut state = self.optimizer.save();
        if let Some(scaler) = &self.scaler {
            scaler.save(&mut state);
        }
        state
    }

    /// The running mean of the weights, where there is one.
    pub(crate) fn ema(&self) -> Option<&Ema> {
        self.ema.as_ref()
    }

    pub(crate) fn ema_mut(&mut self) -> Option<&mut Ema> {
        self.ema.as_mut()
    }

    pub(crate) fn scaler_mut(&mut self) -> Option<&mut Scaler> {
        self.scaler.as_mut()
    }

    /// Does `work` with the weights that count: the running mean, where there is one.
    pub(crate) fn with_final_weights<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, RunError>,
    ) -> Result<T, RunError> {
        let Some(ema) = &self.ema else {
            return work(self);
        };
        ema.swap()?;
        let result = work(self);
        // Also after a failure: the run may go on with the ranks that are left, and with the weights that
        // learn.
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

    /// Takes a step. Returns what is known by now of it and of those before it, see [`Self::drain`].
    pub(crate) fn step(
        &mut self,
        batch: &Batch,
        chance: &dyn Fn(u64) -> Chance,
        input: StepInput<'_>,
        phases: &mut PhaseTimes,
    ) -> Result<Vec<StepResult>, RunError> {
        self.clock.begin(input.waited_s, phases)?;
        let batch = batch.on(self.device)?;
        let parts = parts(&batch, self.recipe.parts)?;
        let last = parts.len() - 1;
        // On the device, so that no part makes the host wait; in f64, so that many parts add up as
        // one would.
        let mut loss_sum = Tensor::f_zeros([1; 0], (Kind::Double, self.device))?;
        for (place, part) in parts.iter().enumerate() {
            // Gradients of all parts but the last stay here and add up.
            let exchanges = place == last;
            // A stand-in counts for nothing, so batch-norm must not learn from its picture either.
            let pass = if part.counted == 0 {
                Pass::eval()
            } else {
                Pass::train(chance(part.first))
            };
            if let Some(part_sum) = self.part(part, pass, exchanges, input.wants_stop, phases)? {
                loss_sum = loss_sum.f_add(&part_sum)?;
            }
        }
        if input.peers.may_lose_an_exchange() {
            // A failed exchange leaves wrong gradients. They must not reach the weights, from which the
            // ranks that are left go on.
            self.clock.wait(input.peers)?;
        }
        let wish = self.wish.f_grad()?.f_to_kind(Kind::Double)?;
        let found = self.update(input.lr)?;
        // One copy off the device for all three: each would wait for the GPU by itself.
        let told = Tensor::f_stack(&[loss_sum, wish, found], 0)?;
        self.clock.end(Phase::Optimizer, phases)?;
        let told = self.clock.finish(&told, input.peers, phases)?;
        self.note_skipped(&told);
        Ok(told)
    }

    /// Waits for what a GPU still works on, and returns what its steps tell.
    pub(crate) fn drain(
        &mut self,
        peers: &Peers,
        phases: &mut PhaseTimes,
    ) -> Result<Vec<StepResult>, RunError> {
        let told = self.clock.drain(peers, phases)?;
        self.note_skipped(&told);
        Ok(told)
    }

    fn note_skipped(&mut self, told: &[StepResult]) {
        let skipped = told.iter().filter(|told| told.skipped).count();
        self.optimizer.note_skipped(skipped);
    }

    /// Forward and backward over one part of a step. Returns the loss to report, on the device; None
    /// for a stand-in.
    fn part(
        &mut self,
        batch: &Batch,
        pass: Pass,
        exchanges: bool,
        wants_stop: bool,
        phases: &mut PhaseTimes,
    ) -> Result<Option<Tensor>, RunError> {
        if let Some(reducer) = &self.reducer
            && exchanges
        {
            reducer.prepare()?;
        }
        ffi::stand(Standing::Forward);
        let logits = self.forward(&batch.pixels, pass)?;
        let (mut loss, loss_sum) = self.weighted_loss(&logits, batch, wants_stop)?;
        if let Some(scaler) = &self.scaler {
            loss = scaler.scaled(&loss)?;
        }
        self.clock.end(Phase::Forward, phases)?;
        // A pass without an exchange (one rank, or a part before the last) waits for nobody: the time
        // after its last gradient is the autograd engine's own and belongs to backward.
        let waiting = if self.reducer.is_some() && exchanges {
            Phase::AllReduce
        } else {
            Phase::Backward
        };
        ffi::stand(Standing::Backward);
        self.clock.backward(&loss, waiting, phases)?;
        Ok(loss_sum)
    }

    /// Brings the gradients to size, steps along them and forgets them. Returns a number that is above
    /// 0 if they overflowed, and the device has left the weights as they were.
    fn update(&mut self, lr: f64) -> Result<Tensor, RunError> {
        ffi::stand(Standing::Optimizer);
        let found = match &self.scaler {
            Some(scaler) => Some(scaler.unscale(&self.optimizer.moved())?),
            None => None,
        };
        if let Some(max_norm) = self.recipe.clip_norm {
            // After the loss scale was taken off: before, the norm would be that of the scale.
            ffi::clip_gradients(&self.optimizer.moved(), max_norm)?;
        }
        self.optimizer.step(lr, found.as_ref())?;
        if let Some(ema) = &mut self.ema {
            ema.update()?;
        }
        self.forget_gradients()?;
        match found {
            Some(found) => Ok(found.f_to_kind(Kind::Double)?.f_view([0_i64; 0])?),
            None => Ok(Tensor::f_zeros([1; 0], (Kind::Double, self.device))?),
        }
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
    ) -> Result<(Tensor, Option<Tensor>), RunError> {
        let targets = batch.labels.f_to_kind(self.kind)?;
        let sum = self.loss.sum(logits, &targets)?;
        let classes = *targets.size().last().unwrap_or(&1) as f64;
        // The exchange averages over ranks. What counts is the mean over the pictures of all, however many each rank
        // has.
        let weight = if batch.counted == 0 {
            0.0
        } else {
            f64::from(self.world_size) / (batch.global as f64 * classes)
        };
        // Carried by the exchange of gradients: a stop costs none of its own, and all ranks hear of it after the same
        // step.
        let wish = self.wish.f_mul_scalar(f64::from(u8::from(wants_stop)))?;
        let loss = sum.f_mul_scalar(weight)?.f_add(&wish)?;
        let reported = if batch.counted == 0 {
            None
        } else {
            let sum = sum.f_detach()?.f_to_kind(Kind::Double)?;
            Some(sum.f_div_scalar(classes)?)
        };
        Ok((loss, reported))
    }

    /// Logits of pictures, without gradients.
    pub(crate) fn logits(&self, pixels: &Tensor) -> Result<Tensor, RunError> {
        tch::no_grad(|| self.forward(pixels, Pass::eval()))
    }

    fn forget_gradients(&self) -> Result<(), RunError> {
        ffi::forget_gradients(std::slice::from_ref(&self.wish))?;
        self.optimizer.forget_gradients()
    }
}

/// A batch in so many parts of about the same size, of which none is empty.
fn parts(batch: &Batch, wanted: u32) -> Result<Vec<Batch>, RunError> {
    let rows = batch.pixels.size().first().copied().unwrap_or(0);
    let count = i64::from(wanted).clamp(1, rows.max(1));
    (0..count)
        .map(|part| {
            // Multiplied first, so that the sizes differ by one picture at most and none is left over.
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
