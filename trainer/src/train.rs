//! Train jobs: the loop over steps and epochs, and what happens between them.
//!
//! Invariants: N ranks compute what one rank would at the same global batch; what is reported as
//! loss or F1 is over all ranks; rank 0 alone writes files. All ranks take every decision that
//! involves an exchange (to report, to stop, to validate) at the same step, because each follows
//! from the step number or from a value that all of them received.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use marquee_datasets::shards::ShardSet;
use marquee_domain::child::{ChildEvent, ChildSpec};
use marquee_domain::report::{FeaturesReport, PhaseTimes, TrainSummary, WeightsReport, WentOn};
use marquee_domain::spec::{Precision, TrainSettings};
use marquee_evaluation::{EpochRow, SplitScores, tuned_thresholds};
use tch::Device;

use crate::checkpoint::{self, Position, RunIdentity, Snapshot, Writer, Written};
use crate::compat;
use crate::data::{self, Augment, Mixing, Plan, Prefetch, Sampler, SplitReader};
use crate::device;
use crate::ema::Ema;
use crate::error::RunError;
use crate::events::Events;
use crate::ffi::{self, PeakMemory};
use crate::learner::freeze::Rules;
use crate::learner::{Blueprint, Learner, features, load};
use crate::loss::Loss;
use crate::model_folder::{self, ModelCard};
use crate::models::Chance;
use crate::optimizer::Optimizer;
use crate::parameters::Start;
use crate::rendezvous::{Exchange, Peers, Place};
use crate::run::Outcome;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::tensorboard::Board;

mod bench;
mod clock;
mod precision;
mod regroup;
mod step;
mod validate;
#[cfg(test)]
mod vectors;

pub use bench::{StepBench, StepBenchOptions, StepTimes};
use clock::Told;
use precision::{Numbers, Trial};
use step::{Recipe, StepInput, Stepper};
pub(crate) use validate::flat;

/// Steps over which a reported loss is averaged. The exchange that it takes costs two numbers.
const REPORT_EVERY_STEPS: u64 = 10;

/// Does a train job's work on one rank.
pub(crate) fn run(
    spec: &ChildSpec,
    settings: &TrainSettings,
    place: &Place,
    events: &Events,
    stop: &Stop,
) -> Result<Outcome, RunError> {
    let started = Instant::now();
    // Refused before anything is done, where this build cannot.
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
    let Some(mut session) =
        Session::prepare(spec, settings, peers, &shards, train, device, events, stop)?
    else {
        return Ok(Outcome::Stopped);
    };
    let step = session.position.step;
    match session.run()? {
        Ending::Stopped => {
            tracing::info!(
                step = session.position.step,
                "stopped as asked, with a checkpoint"
            );
            session.leave();
            Ok(Outcome::Stopped)
        }
        Ending::Done => {
            let summary = session.summary(step, started);
            session.leave();
            Ok(Outcome::finished(&summary))
        }
    }
}

/// How the loop ended.
enum Ending {
    Done,
    Stopped,
}

/// What steps have added up since the last report, on this rank.
#[derive(Debug, Default)]
struct Window {
    loss: f64,
    pictures: u64,
    seconds: f64,
}

struct Session<'a> {
    spec: &'a ChildSpec,
    settings: &'a TrainSettings,
    events: &'a Events,
    stop: &'a Stop,
    peers: Peers,
    train: SplitReader,
    validation: Option<SplitReader>,
    plan: Plan,
    rules: Rules,
    /// What became of the weights that the job was given.
    weights: Vec<WeightsReport>,
    features: Option<FeaturesReport>,
    schedule: Schedule,
    stepper: Stepper,
    board: Option<Board>,
    checkpoints: Writer,
    precision: Precision,
    position: Position,
    /// Whether all that follows the step of `position` (reports, validation) is done.
    is_settled: bool,
    /// Whether the weights are being overwritten with those of another rank.
    is_torn: bool,
    /// Each time that this rank has gone on after others were lost.
    went_on: Vec<WentOn>,
    /// Whether any rank was asked to stop, which all have heard of after the same step.
    stop_agreed: bool,
    window: Window,
    phases: PhaseTimes,
    /// `phases` at the start of the current epoch.
    phases_before: PhaseTimes,
    /// Pictures of all ranks in this attempt.
    pictures: u64,
    /// Steps of this attempt.
    steps_here: u64,
}

impl<'a> Session<'a> {
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing that the run is given"
    )]
    fn prepare(
        spec: &'a ChildSpec,
        settings: &'a TrainSettings,
        peers: Peers,
        shards: &Arc<ShardSet>,
        mut train: SplitReader,
        device: Device,
        events: &'a Events,
        stop: &'a Stop,
    ) -> Result<Option<Self>, RunError> {
        device::choose_kernels(device, settings.deterministic, settings.precision)?;
        let kind = precision::kind(settings.precision);
        let classes = &train.index().classes;
        let blueprint = Blueprint::of(&spec.inputs, settings)?;
        let mut learner = Learner::build(
            &blueprint,
            classes.len(),
            Start::Seed(settings.seed),
            kind,
            device,
        )?;
        let (width, height) = (train.index().width, train.index().height);
        learner.check_size(width, height)?;
        if !settings.channels_last {
            learner.use_channels_first()?;
        }
        // A checkpoint holds all weights: those it was started from are then of no interest.
        let weights = match spec.resume {
            Some(_) => Vec::new(),
            None => load::load(spec, &settings.transfer, &learner, classes)?,
        };
        if settings.transfer.freeze_norms {
            learner.freeze_norms();
        }
        let rules = Rules::new(&settings.transfer, &learner)?;
        let plan = Plan::new(settings, train.rows(), peers.rank, peers.world_size)
            .with_sampler(Sampler::new(settings.learning.sampling, &train)?);
        let schedule = Schedule::new(settings, plan.steps_per_epoch(), plan.total_steps());
        let mut optimizer = Optimizer::new(
            settings.optimizer,
            &learner.parameters,
            rules.of_weights(),
            plan.steps_per_epoch(),
        )?;
        let mut ema = settings
            .ema_decay
            .map(|decay| Ema::new(decay, &learner.parameters))
            .transpose()?;
        let identity = RunIdentity::new(settings, classes, train.rows());
        let mut position = match &spec.resume {
            Some(dir) => {
                let parts = checkpoint::Parts {
                    parameters: &learner.parameters,
                    optimizer: &mut optimizer,
                    ema: ema.as_mut(),
                };
                resume(dir, &identity, parts, &peers)?
            }
            None => Position::start(identity, peers.world_size),
        };
        peers.copy_from_first(&learner.parameters.tensors())?;
        peers.copy_from_first(&learner.parameters.buffer_tensors())?;
        rules.apply(&mut learner, plan.epoch_of(position.step))?;
        let mut validation = SplitReader::of(shards, data::VALIDATION);
        let work = features::Work {
            learner: &learner,
            peers: &peers,
            events,
            stop,
        };
        let Some(features) =
            features::prepare(work, settings, &rules, &mut train, validation.as_mut())?
        else {
            return Ok(None);
        };
        let trial = Trial {
            learner: &learner,
            device,
            size: (width, height),
            pictures: u64::from(settings.batch_size) / u64::from(peers.world_size),
        };
        let precision = precision::resolve(settings.precision, position.chosen, &peers, &trial)?;
        position.chosen = Some(precision);
        let recipe = Recipe {
            numbers: Numbers::of(precision, device)?,
            parts: settings.accumulate,
            clip_norm: settings.clip_norm,
            half_gradients: compat::half_gradients(settings.gradient_compression)?,
            size: (width, height),
        };
        let loss = Loss::new(&settings.learning, &train, kind, device)?;
        let mut stepper = Stepper::new(learner, optimizer, ema, loss, recipe)?;
        if let (Some(dir), Some(scaler)) = (&spec.resume, stepper.scaler_mut()) {
            checkpoint::restore_scaler(dir, scaler)?;
        }
        stepper.hook(&peers)?;
        let augment = Augment {
            crop: settings.crop,
            colour: settings.colour,
        };
        let mut session = Self {
            spec,
            settings,
            events,
            stop,
            peers,
            validation: validation.map(|split| split.pinned_for(device)),
            train: train
                .augmented(augment)
                .mixed(Mixing::of(&settings.learning))
                .pinned_for(device),
            plan,
            rules,
            weights,
            features,
            schedule,
            stepper,
            board: None,
            checkpoints: Writer::new(&spec.checkpoints),
            precision,
            position,
            is_settled: true,
            is_torn: false,
            went_on: Vec::new(),
            stop_agreed: false,
            window: Window::default(),
            phases: PhaseTimes::default(),
            phases_before: PhaseTimes::default(),
            pictures: 0,
            steps_here: 0,
        };
        session.open_board()?;
        Ok(Some(session))
    }

    /// Starts the event file, on the rank that writes one.
    fn open_board(&mut self) -> Result<(), RunError> {
        if self.peers.is_first() && self.settings.tensorboard && self.board.is_none() {
            let mut board = Board::create(&self.spec.output.join(model_folder::TENSORBOARD))?;
            for row in &self.position.history {
                board.scalars(row.step, &epoch_values(row))?;
            }
            self.board = Some(board);
        }
        Ok(())
    }

    /// Trains to the end, going on with fewer ranks where that is allowed.
    fn run(&mut self) -> Result<Ending, RunError> {
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
        let batches = Prefetch::start(
            &self.train,
            threads,
            self.plan.requests_from(self.position.step),
        )?;
        loop {
            let done = self.position.step;
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
                let thresholds = self.thresholds()?;
                self.write_model(&thresholds)?;
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
            self.end_epoch()
                .map_err(|error| error.during(&format!("validation after step {done}")))?;
        }
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
    fn hear(&mut self, told: &[Told]) {
        for step in told {
            self.window.loss += step.loss_sum;
            self.stop_agreed |= step.stop_agreed;
        }
    }

    /// Takes one step.
    fn step(&mut self, batches: &Prefetch) -> Result<(), RunError> {
        if let Some(written) = self.checkpoints.poll()? {
            self.announce(written);
        }
        self.peers.leave_behind()?;
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
        self.steps_here += 1;
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

    /// Adds the window's sums up over all ranks, reports them, and starts a new window.
    fn report(&mut self) -> Result<(), RunError> {
        if self.window.pictures == 0 {
            return Ok(());
        }
        let started = Instant::now();
        let window = std::mem::take(&mut self.window);
        let [loss] = self.peers.sum([window.loss])?;
        let seconds = started.elapsed().as_secs_f64();
        // It is an exchange that nothing hides.
        self.phases.all_reduce_s += seconds;
        self.phases.step_s += seconds;
        self.position.epoch.loss += loss;
        self.position.epoch.pictures += window.pictures;
        self.position.epoch.seconds += window.seconds + seconds;

        let step = self.position.step;
        let mean_loss = loss / window.pictures as f64;
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
    fn end_epoch(&mut self) -> Result<(), RunError> {
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

    /// Copies the state, and has it written while training goes on. If the checkpoint before is not
    /// on disk yet, waits for it.
    fn write_checkpoint(&mut self) -> Result<(), RunError> {
        if !self.peers.is_first() {
            return Ok(());
        }
        let started = Instant::now();
        self.finish_writing()?;
        let snapshot = Snapshot::take(
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
    fn finish_writing(&mut self) -> Result<(), RunError> {
        if let Some(written) = self.checkpoints.wait()? {
            self.announce(written);
        }
        Ok(())
    }

    fn announce(&self, written: Written) {
        self.events.emit(&ChildEvent::Checkpoint {
            step: written.step,
            path: written.path,
        });
    }

    /// For each class the threshold of the best F1 on validation; none without a validation split.
    /// All ranks take part.
    fn thresholds(&mut self) -> Result<Vec<f64>, RunError> {
        let Some(split) = &self.validation else {
            return Ok(Vec::new());
        };
        let started = Instant::now();
        let mut scores = SplitScores::default();
        let threads = split.threads(self.settings.input_threads, self.spec.threads);
        let batch_size = self.settings.batch_size;
        self.stepper.with_final_weights(|stepper| {
            let into = Some(&mut scores);
            validate::score(stepper, split, threads, batch_size, &self.peers, into)
        })?;
        self.phases.validation_s += started.elapsed().as_secs_f64();
        Ok(tuned_thresholds(&scores, split.index().classes.len()))
    }

    fn write_model(&mut self, thresholds: &[f64]) -> Result<(), RunError> {
        if let Some(board) = &mut self.board {
            board.close()?;
        }
        if !self.peers.is_first() {
            return Ok(());
        }
        let index = self.train.index();
        self.stepper.with_final_weights(|stepper| {
            let learner = stepper.learner();
            let card = ModelCard::new(
                learner,
                &self.settings.transfer.head,
                &index.classes,
                (index.width, index.height),
                thresholds,
            );
            model_folder::write(&self.spec.output, learner, &card, &self.position.history)
        })
    }

    fn summary(&self, resumed_from_step: u64, started: Instant) -> TrainSummary {
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
            "training went so many times faster than with the frozen networks in every step"
        );
        Some(report)
    }

    fn leave(mut self) {
        if let Err(error) = self.stepper.unhook() {
            tracing::warn!(message = error.message, "gradients cannot be forgotten");
        }
        self.peers.leave();
    }
}

/// What tensors took of the GPU; None on CPUs.
fn peak_memory(device: Device) -> Option<PeakMemory> {
    let read = ffi::peak_memory(ffi::gpu_index(device)?);
    read.inspect_err(|error| tracing::warn!(%error, "the GPU's peak memory is not known"))
        .ok()
}

/// Goes on from the checkpoint in `dir`. All ranks must have been given the same one.
fn resume(
    dir: &Path,
    identity: &RunIdentity,
    parts: checkpoint::Parts<'_>,
    peers: &Peers,
) -> Result<Position, RunError> {
    let position = checkpoint::restore(dir, identity, parts)?;
    let mine = position.step as f64;
    let [sum] = peers.sum([mine])?;
    if sum.to_bits() != (mine * f64::from(peers.world_size)).to_bits() {
        return Err(RunError::host(format!(
            "ranks were given different checkpoints: this one's is of step {}",
            position.step
        )));
    }
    if position.world_size != peers.world_size {
        tracing::warn!(
            written_by = position.world_size,
            now = peers.world_size,
            "the number of ranks has changed: the run goes on, but sums in another order"
        );
    }
    tracing::info!(step = position.step, "going on from a checkpoint");
    Ok(position)
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
