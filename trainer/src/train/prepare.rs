//! Everything that a run needs before its first step, made or read from a checkpoint.

use std::path::Path;
use std::sync::Arc;

use marquee_datasets::shards::{ShardIndex, ShardSet};
use marquee_domain::child::ChildSpec;
use marquee_domain::report::{PhaseTimes, WeightsReport};
use marquee_domain::spec::TrainSettings;
use tch::Device;

use super::precision::{self, Numbers, Trial, kind_of};
use super::step::{Recipe, Stepper};
use super::training::{Training, Window};
use crate::checkpoint::{self, Position, RunIdentity, Writer};
use crate::compat;
use crate::data::{self, Augment, Mixing, Sampler, SplitReader, StepPlan};
use crate::device;
use crate::ema::Ema;
use crate::error::RunError;
use crate::events::Events;
use crate::learner::freeze::Rules;
use crate::learner::{Blueprint, Learner, features, load};
use crate::loss::Loss;
use crate::optimizer::Optimizer;
use crate::parameters::Start;
use crate::rendezvous::Peers;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::training_record::Draft;

/// What a run is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) spec: &'a ChildSpec,
    pub(super) settings: &'a TrainSettings,
    pub(super) shards: &'a Arc<ShardSet>,
    pub(super) device: Device,
    pub(super) events: &'a Events,
    pub(super) stop: &'a Stop,
}

impl Given<'_> {
    /// The networks with the weights that the job begins with, and what became of those that it was
    /// given.
    fn learner(&self, index: &ShardIndex) -> Result<(Learner, Vec<WeightsReport>), RunError> {
        let Self { spec, settings, .. } = *self;
        let classes = &index.classes;
        let blueprint = Blueprint::of(&spec.inputs, settings)?;
        let mut learner = Learner::build(
            &blueprint,
            classes.len(),
            Start::Seed(settings.seed),
            kind_of(settings.precision),
            self.device,
        )?;
        learner.check_size(index.width, index.height)?;
        if !settings.channels_last {
            learner.use_channels_first()?;
        }
        // A checkpoint holds all weights, so the ones that the job began with are not read again.
        let weights = match spec.resume {
            Some(_) => Vec::new(),
            None => load::load(spec, &settings.transfer, &learner, classes)?,
        };
        if settings.transfer.freeze_norms {
            learner.freeze_norms();
        }
        Ok((learner, weights))
    }
}

impl<'a> Training<'a> {
    /// None if asked to stop meanwhile.
    pub(super) fn prepare(
        given: Given<'a>,
        peers: Peers,
        mut train: SplitReader,
    ) -> Result<Option<Self>, RunError> {
        let Given {
            spec,
            settings,
            shards,
            device,
            events,
            stop,
        } = given;
        let record = Draft::begin(spec, settings, shards)?;
        device::choose_kernels(device, settings.deterministic, settings.precision)?;
        let (mut learner, weights) = given.learner(train.index())?;
        let size = (train.index().width, train.index().height);
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
        let identity = RunIdentity::new(settings, &train.index().classes, train.rows());
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
        // Drawn or read by each rank for itself: all begin with the first one's, to the bit.
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
            size,
            pictures: u64::from(settings.batch_size) / u64::from(peers.world_size),
        };
        let precision = precision::resolve(settings.precision, position.chosen, &peers, &trial)?;
        // Kept with the position: an attempt on another kind of host goes on in the same format.
        position.chosen = Some(precision);
        let recipe = Recipe {
            numbers: Numbers::of(precision, device)?,
            parts: settings.accumulate,
            clip_norm: settings.clip_norm,
            half_gradients: compat::half_gradients(settings.gradient_compression)?,
            size,
        };
        let loss = Loss::new(
            &settings.learning,
            &train,
            kind_of(settings.precision),
            device,
        )?;
        let mut stepper = Stepper::new(learner, optimizer, ema, loss, recipe)?;
        if let (Some(dir), Some(scaler)) = (&spec.resume, stepper.scaler_mut()) {
            checkpoint::restore_scaler(dir, scaler)?;
        }
        stepper.hook(&peers)?;
        let augment = Augment {
            crop: settings.crop,
            colour: settings.colour,
        };
        let phases = PhaseTimes {
            features_s: features.as_ref().map_or(0.0, |features| features.seconds),
            ..PhaseTimes::default()
        };
        let mut training = Self {
            spec,
            settings,
            events,
            stop,
            peers,
            shards: Arc::clone(shards),
            record,
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
            phases,
            phases_before: phases,
            pictures: 0,
            steps_here: 0,
        };
        training.open_board()?;
        Ok(Some(training))
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
    // Each compares with its own step: the sum fits on all ranks only if all steps are the same.
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
