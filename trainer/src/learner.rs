//! What a train job trains and an eval job scores: one or more networks of the zoo under one
//! classifier, from uint8 pictures to logits.
//!
//! Invariants: with one network and no hidden layers in the head, every tensor has timm's name, so that
//! timm loads the file. Each network sees pictures in the size and normalisation that it was trained
//! with. A network whose weights are all frozen does not change in any way: it runs without gradients
//! and without dropout, and its batch-norm uses the statistics it has.
//! Not here: which weights learn ([`freeze`]) and where they come from ([`load`]).

use std::path::Path;

use tch::{Device, Kind, TchError, Tensor};

use crate::data::Normaliser;
use crate::error::RunError;
use crate::ffi;
use crate::models::{Backbone, Pass, Rates, ScriptModel, TORCHSCRIPT, backbone, head_name};
use crate::parameters::{Parameters, Start};

mod blueprint;
pub(crate) mod features;
pub(crate) mod freeze;
mod head;
pub(crate) mod load;

use blueprint::find;
pub(crate) use blueprint::{Blueprint, Inputs, PartCard};
use head::Head;

#[derive(Debug)]
struct Part {
    card: PartCard,
    backbone: Box<dyn Backbone>,
    normaliser: Normaliser,
    /// Whether none of its weights learns.
    is_frozen: bool,
    /// Whether pictures keep the layout they have in shards, channels last.
    channels_last: bool,
}

/// Networks with their weights under one classifier.
#[derive(Debug)]
pub(crate) struct Learner {
    /// Name in the zoo, or [`blueprint::ENSEMBLE`].
    pub(crate) model: String,
    pub(crate) parameters: Parameters,
    parts: Vec<Part>,
    head: Head,
    /// What the classifier's names begin with.
    head_prefix: String,
    rates: Rates,
    norms_frozen: bool,
}

impl Learner {
    /// Builds what `blueprint` describes for `classes` classes. Weights begin as `start` says.
    pub(crate) fn build(
        blueprint: &Blueprint,
        classes: usize,
        start: Start,
        kind: Kind,
        device: Device,
    ) -> Result<Self, RunError> {
        let classes =
            i64::try_from(classes).map_err(|_| RunError::input("there are too many classes"))?;
        if let Some(path) = &blueprint.script {
            return Self::of_script(blueprint, path, classes, (kind, device));
        }
        let mut parameters = Parameters::new(start, kind, device);
        let mut root = parameters.root();
        let mut parts = Vec::new();
        for card in &blueprint.parts {
            let info = find(&card.model)?;
            let backbone = if card.name.is_empty() {
                backbone(info, &mut root, blueprint.rates)?
            } else {
                backbone(info, &mut root.at(&card.name), blueprint.rates)?
            };
            parts.push(Part {
                card: card.clone(),
                backbone,
                normaliser: Normaliser::new(card.mean, card.std, kind, device)?,
                is_frozen: false,
                channels_last: true,
            });
        }
        let width = parts.iter().map(|part| part.backbone.width()).sum();
        let head_prefix = match &blueprint.parts[..] {
            [alone] if blueprint.head.hidden.is_empty() => head_name(&alone.model).to_owned(),
            _ => head::PREFIX.to_owned(),
        };
        let head = Head::build(&mut root, &head_prefix, width, &blueprint.head, classes)?;
        Ok(Self {
            model: blueprint.model.clone(),
            parameters,
            parts,
            head,
            head_prefix,
            rates: blueprint.rates,
            norms_frozen: false,
        })
    }

    fn of_script(
        blueprint: &Blueprint,
        path: &Path,
        classes: i64,
        options: (Kind, Device),
    ) -> Result<Self, RunError> {
        let (model, parameters) = ScriptModel::load(path, classes, options)?;
        let (kind, device) = options;
        let card = blueprint
            .parts
            .first()
            .ok_or_else(|| RunError::host("a module without a card"))?;
        let part = Part {
            card: card.clone(),
            backbone: Box::new(model),
            normaliser: Normaliser::new(card.mean, card.std, kind, device)?,
            is_frozen: false,
            channels_last: true,
        };
        Ok(Self {
            model: blueprint.model.clone(),
            parameters,
            parts: vec![part],
            head: Head::none(),
            // Which weights of a user's module are its classifier cannot be known, so none is treated so.
            head_prefix: head::PREFIX.to_owned(),
            rates: Rates::default(),
            norms_frozen: false,
        })
    }

    /// Writes the network into the file `path`, where it is a TorchScript module.
    pub(crate) fn save_script(&self, path: &Path) -> Result<bool, RunError> {
        match &self.parts[..] {
            [alone] => alone.backbone.save_script(path),
            _ => Ok(false),
        }
    }

    /// From now on pictures and weights lie in memory channel by channel, PyTorch's default.
    pub(crate) fn use_channels_first(&mut self) -> Result<(), RunError> {
        for tensor in self.parameters.tensors() {
            ffi::to_channels_first(&tensor)?;
        }
        for part in &mut self.parts {
            part.channels_last = false;
        }
        Ok(())
    }

    /// Features of one picture.
    pub(crate) fn feature_width(&self) -> i64 {
        self.parts.iter().map(|part| part.backbone.width()).sum()
    }

    /// Refuses pictures of a size that a network cannot take, and a module that cannot be trained.
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), RunError> {
        for part in &self.parts {
            let (width, height) = part.card.size.unwrap_or((width, height));
            if part.card.model == TORCHSCRIPT {
                part.backbone.try_out(width, height)?;
                continue;
            }
            if let Some(problem) = find(&part.card.model)?.size_problem(width, height) {
                let place = if part.card.name.is_empty() {
                    "the preprocess job".to_owned()
                } else {
                    format!("backbones.{}", part.card.name)
                };
                return Err(RunError::user(format!(
                    "{problem}; set width and height of {place}"
                )));
            }
        }
        Ok(())
    }

    /// The networks, as files describe them.
    pub(crate) fn cards(&self) -> Vec<PartCard> {
        self.parts.iter().map(|part| part.card.clone()).collect()
    }

    /// From now on batch-norm uses the statistics it has, also while the rest learns.
    pub(crate) fn freeze_norms(&mut self) {
        self.norms_frozen = true;
    }

    /// Weights that learn, in order.
    pub(crate) fn learning(&self) -> Vec<Tensor> {
        let entries = self.parameters.entries().iter();
        entries
            .filter(|(_, tensor)| tensor.requires_grad())
            .map(|(_, tensor)| tensor.shallow_clone())
            .collect()
    }

    /// Whether a name belongs to the classifier.
    pub(crate) fn is_head(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.head_prefix);
        rest.is_some_and(|rest| rest.starts_with('.'))
    }

    /// Finds out which networks are frozen as a whole. To be called when that may have changed.
    fn notice_frozen(&mut self) {
        let learning: Vec<String> = self
            .parameters
            .entries()
            .iter()
            .filter(|(name, tensor)| tensor.requires_grad() && !self.is_head(name))
            .map(|(name, _)| name.clone())
            .collect();
        for part in &mut self.parts {
            let prefix = part.card.prefix();
            part.is_frozen = !learning.iter().any(|name| name.starts_with(&prefix));
        }
    }

    /// Whether only the classifier learns.
    pub(crate) fn has_frozen_features(&self) -> bool {
        self.parts.iter().all(|part| part.is_frozen)
    }

    /// Pooled features `[N, width]` of uint8 pictures `[N, height, width, 3]`, all networks' side by
    /// side.
    pub(crate) fn features(&self, pixels: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut all = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            if part.is_frozen {
                // In eval mode also while the rest trains: dropout and batch statistics would
                // change what is meant to stand still.
                all.push(tch::no_grad(|| part.features(pixels, &Pass::eval()))?);
            } else {
                all.push(part.features(pixels, pass)?);
            }
        }
        match all.len() {
            1 => Ok(all.remove(0)),
            _ => Tensor::f_cat(&all, 1),
        }
    }

    /// Logits `[N, classes]` of uint8 pictures `[N, height, width, 3]`; or of features `[N, width]`,
    /// where these were computed before.
    pub(crate) fn logits(&self, pixels: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let pass = if self.norms_frozen {
            pass.with_frozen_norms()
        } else {
            pass
        };
        let features = if pixels.dim() == 2 {
            let (kind, device) = (self.parameters.kind(), self.parameters.device());
            pixels.f_to_device(device)?.f_to_kind(kind)?
        } else {
            self.features(pixels, &pass)?
        };
        let features = pass.dropout(&features, self.rates.dropout)?;
        self.head.forward(&features, &pass)
    }
}

impl Part {
    fn features(&self, pixels: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let pictures = self.normaliser.apply(pixels)?;
        let pictures = match self.card.size {
            Some((width, height)) => resized(&pictures, width, height)?,
            None => pictures,
        };
        let pictures = if self.channels_last {
            pictures
        } else {
            // A copy of every batch: whoever asks for this layout gets it with its cost.
            pictures.f_contiguous()?
        };
        self.backbone.features(&pictures, pass)
    }
}

/// Pictures `[N, 3, height, width]` brought to another size, smoothly.
fn resized(pictures: &Tensor, width: u32, height: u32) -> Result<Tensor, TchError> {
    let size = [i64::from(height), i64::from(width)];
    if pictures.size()[2..] == size {
        return Ok(pictures.shallow_clone());
    }
    pictures.f_internal_upsample_bilinear2d_aa(size.as_slice(), false, None, None)
}

#[cfg(test)]
mod tests;
