//! The artifact of a train job: weights, and what is needed to use them.
//!
//! `model.safetensors`, `model.json` ([`ModelCard`]), `history.json` (an array of [`EpochRow`]),
//! `trained_on.bin` (the pictures that it was trained and tuned on, see `training_record`), where
//! asked for `tensorboard/`, and `module.pt` where the job brought a TorchScript module of its own.

use std::collections::BTreeMap;
use std::path::Path;

use marquee_domain::report::TrainedBy;
use marquee_domain::spec::HeadSettings;
use marquee_domain::zoo;
use marquee_evaluation::{ChosenThresholds, EpochRow};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::error::RunError;
use crate::files;
use crate::learner::{Blueprint, Learner, PartCard};
use crate::models::{Rates, TORCHSCRIPT};
use crate::parameters::Start;
use crate::tensors;

pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The whole network, for `torch.jit.load`, where the job brought its own.
pub(crate) const SCRIPT: &str = "module.pt";
pub(crate) const CARD: &str = "model.json";
const HISTORY: &str = "history.json";
/// Folder of the event files.
pub(crate) const TENSORBOARD: &str = "tensorboard";
/// Version of the layout.
const FORMAT: u32 = 1;

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelCard {
    format: u32,
    /// Name in the zoo, "ensemble" or "torchscript".
    pub(crate) model: String,
    /// Names of the outputs, in order.
    pub(crate) classes: Vec<String>,
    /// Pixels of the pictures it was trained on.
    pub(crate) width: u32,
    /// Pixels.
    pub(crate) height: u32,
    /// Taken off each channel (red, green, blue) of pixels from 0 to 1, by the first network.
    pub(crate) mean: [f64; 3],
    /// What each channel is then divided by.
    pub(crate) std: [f64; 3],
    /// The networks, each with its own size and normalisation. Empty in cards from before ensembles.
    #[serde(default)]
    networks: Vec<PartCard>,
    #[serde(default)]
    head: HeadSettings,
    /// For each class the score from which it counts as predicted.
    #[serde(default)]
    thresholds: BTreeMap<String, f64>,
    /// The rule that they are by, which validation chose: "0.5", "global", "shrunk" or "per_class". In
    /// cards of earlier versions it is missing and means "per_class".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold_rule: Option<String>,
    pub(crate) parameters: u64,
    /// None in cards of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trained_by: Option<TrainedBy>,
    /// How a picture comes to `width` x `height`: as the preprocess job of the shards did it.
    resize: String,
}

/// How `marquee-prep` fits a picture to the size of the shards.
const RESIZE: &str = "whole picture, bilinear, antialiased";

impl ModelCard {
    pub(crate) fn new(
        learner: &Learner,
        head: &HeadSettings,
        classes: &[String],
        (width, height): (u32, u32),
        chosen: Option<&ChosenThresholds>,
    ) -> Self {
        let networks = learner.cards();
        let [mean, std] = networks
            .first()
            .map_or([[0.0; 3], [1.0; 3]], |first| [first.mean, first.std]);
        Self {
            format: FORMAT,
            model: learner.model.clone(),
            classes: classes.to_vec(),
            width,
            height,
            mean,
            std,
            networks,
            head: head.clone(),
            thresholds: classes
                .iter()
                .cloned()
                .zip(
                    chosen
                        .into_iter()
                        .flat_map(|chosen| chosen.thresholds.iter().copied()),
                )
                .collect(),
            threshold_rule: chosen.map(|chosen| chosen.rule.to_owned()),
            parameters: learner.parameters.count(),
            trained_by: None,
            resize: RESIZE.to_owned(),
        }
    }
}

impl ModelCard {
    /// With which training made the model.
    pub(crate) fn trained_by(self, by: TrainedBy) -> Self {
        Self {
            trained_by: Some(by),
            ..self
        }
    }
}

/// Writes the model into the folder `dir`. The card comes last: without it the folder is no model.
pub(crate) fn write(
    dir: &Path,
    learner: &Learner,
    card: &ModelCard,
    history: &[EpochRow],
) -> Result<(), RunError> {
    let weights = tensors::encode(learner.parameters.state())?;
    files::write(&dir.join(WEIGHTS), weights.as_ref())?;
    learner.save_script(&dir.join(SCRIPT))?;
    files::write_json(&dir.join(HISTORY), &history)?;
    files::write_json(&dir.join(CARD), card)
}

/// A trained model, ready to score.
#[derive(Debug)]
pub(crate) struct Trained {
    pub(crate) card: ModelCard,
    pub(crate) learner: Learner,
    pub(crate) history: Vec<EpochRow>,
}

/// Reads the card of the model in the folder `dir`.
pub(crate) fn read_card(dir: &Path) -> Result<ModelCard, RunError> {
    let card: ModelCard = files::read_json(&dir.join(CARD))?;
    if card.format != FORMAT {
        let format = card.format;
        return Err(RunError::input(format!(
            "{} has format {format}, this program reads {FORMAT}",
            dir.display()
        )));
    }
    Ok(card)
}

/// Reads the model in the folder `dir`, in f32.
pub(crate) fn read(dir: &Path, device: Device) -> Result<Trained, RunError> {
    let card = read_card(dir)?;
    let mut parts = card.networks.clone();
    let script = (card.model == TORCHSCRIPT).then(|| dir.join(SCRIPT));
    // A card from before ensembles: its one network has the size and normalisation of the card
    // itself.
    if parts.is_empty() {
        let info = zoo::find(&card.model).ok_or_else(|| {
            RunError::input(format!("there is no model {:?} in the zoo", card.model))
        })?;
        parts.push(PartCard {
            mean: card.mean,
            std: card.std,
            ..PartCard::new("", info, None)
        });
    }
    let blueprint = Blueprint {
        model: card.model.clone(),
        parts,
        head: card.head.clone(),
        rates: Rates::default(),
        script,
    };
    let learner = Learner::build(
        &blueprint,
        card.classes.len(),
        Start::Zeros,
        // In f32 whatever it was trained in: a model has the same scores wherever it is evaluated.
        Kind::Float,
        device,
    )?;
    let weights = dir.join(WEIGHTS);
    learner
        .parameters
        .load(&tensors::read(&weights)?, &weights.display().to_string())?;
    let history = files::read_json(&dir.join(HISTORY))?;
    Ok(Trained {
        card,
        learner,
        history,
    })
}
