//! The artifact of a train job: weights, and what is needed to use them.
//!
//! `model.safetensors`, `model.json` ([`ModelCard`]), `history.json` (an array of [`EpochRow`]) and,
//! where asked for, `tensorboard/`.

use std::path::Path;

use marquee_evaluation::EpochRow;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::error::RunError;
use crate::files;
use crate::models::{Network, Rates};
use crate::parameters::Start;
use crate::tensors;

const WEIGHTS: &str = "model.safetensors";
const CARD: &str = "model.json";
const HISTORY: &str = "history.json";
/// Folder of the event files.
pub(crate) const TENSORBOARD: &str = "tensorboard";
/// Version of the layout.
const FORMAT: u32 = 1;

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelCard {
    format: u32,
    /// Name in the zoo.
    pub(crate) model: String,
    /// Names of the outputs, in order.
    pub(crate) classes: Vec<String>,
    /// Pixels of the pictures it was trained on.
    pub(crate) width: u32,
    /// Pixels.
    pub(crate) height: u32,
    /// Taken off each channel (red, green, blue) of pixels from 0 to 1.
    pub(crate) mean: [f64; 3],
    /// What each channel is then divided by.
    pub(crate) std: [f64; 3],
    pub(crate) parameters: u64,
    /// How a picture comes to `width` x `height`: as the preprocess job of the shards did it.
    resize: String,
}

/// How `marquee-prep` fits a picture to the size of the shards.
const RESIZE: &str = "whole picture, bilinear, antialiased";

impl ModelCard {
    pub(crate) fn new(network: &Network, classes: &[String], width: u32, height: u32) -> Self {
        Self {
            format: FORMAT,
            model: network.info.name.to_owned(),
            classes: classes.to_vec(),
            width,
            height,
            mean: network.info.mean,
            std: network.info.std,
            parameters: network.parameters.count(),
            resize: RESIZE.to_owned(),
        }
    }
}

/// Writes the model into the folder `dir`. The card comes last: without it the folder is no model.
pub(crate) fn write(
    dir: &Path,
    network: &Network,
    card: &ModelCard,
    history: &[EpochRow],
) -> Result<(), RunError> {
    let weights = tensors::encode(network.parameters.state())?;
    files::write(&dir.join(WEIGHTS), &weights)?;
    files::write_json(&dir.join(HISTORY), &history)?;
    files::write_json(&dir.join(CARD), card)
}

/// A trained model, ready to score.
#[derive(Debug)]
pub(crate) struct Trained {
    pub(crate) card: ModelCard,
    pub(crate) network: Network,
    pub(crate) history: Vec<EpochRow>,
}

/// Reads the model in the folder `dir`, in f32.
pub(crate) fn read(dir: &Path, device: Device) -> Result<Trained, RunError> {
    let card: ModelCard = files::read_json(&dir.join(CARD))?;
    if card.format != FORMAT {
        let format = card.format;
        return Err(RunError::input(format!(
            "{} has format {format}, this program reads {FORMAT}",
            dir.display()
        )));
    }
    let network = Network::build(
        &card.model,
        card.classes.len(),
        Start::Zeros,
        Rates::default(),
        Kind::Float,
        device,
    )?;
    let weights = dir.join(WEIGHTS);
    network
        .parameters
        .load(&tensors::read(&weights)?, &weights.display().to_string())?;
    let history = files::read_json(&dir.join(HISTORY))?;
    Ok(Trained {
        card,
        network,
        history,
    })
}
