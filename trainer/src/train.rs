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
use marquee_domain::report::{FeaturesReport, PhaseTimes, WeightsReport, WentOn};
use marquee_domain::spec::{Precision, TrainSettings};
use marquee_evaluation::{SplitScores, tuned_thresholds};
use tch::Device;

use crate::checkpoint::{self, Position, RunIdentity, Snapshot, Writer, Written};
use crate::compat;
use crate::data::{self, Augment, Mixing, Prefetch, Sampler, SplitReader, StepPlan};
use crate::device;
use crate::ema::Ema;
use crate::error::RunError;
use crate::events::Events;
use crate::learner::freeze::Rules;
use crate::learner::{Blueprint, Learner, features, load};
use crate::loss::Loss;
use crate::model_folder::{self, ModelCard};
use crate::models::Chance;
use crate::optimizer::Optimizer;
use crate::outcome::Outcome;
use crate::parameters::Start;
use crate::rendezvous::{Exchange, Peers, Place};
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::tensorboard::Board;

mod clock;
mod precision;
mod regroup;
mod step;
mod tell;
mod validate;
#[cfg(test)]
mod vectors;

pub(crate) use clock::Told;
use precision::Trial;
pub(crate) use precision::{Numbers, kind_of};
pub(crate) use step::{Recipe, StepInput, Stepper};

/// Steps over which a reported loss is averaged. The exchange that it takes costs two numbers.
pub(crate) const REPORT_EVERY_STEPS: u64 = 10;

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
    plan: StepPlan,
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
        let kind = kind_of(settings.precision);
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
        let plan = StepPlan::new(settings, train.rows(), peers.rank, peers.world_size)
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

    /// Copies the state, and has it written while training goes on. If the checkpoint before is not
    /// on disk yet, waits for it.
    fn write_checkpoint(&mut self) -> Result<(), RunError> {
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

    fn leave(mut self) {
        if let Err(error) = self.stepper.unhook() {
            tracing::warn!(message = error.message, "gradients cannot be forgotten");
        }
        self.peers.leave();
    }
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
