//! The zoo: models by name.
//!
//! Invariant: the names are those of [`marquee_domain::zoo`], which the coordinator checks at
//! submit, and tensors have timm's names and meaning, so that published weights fit. A model maps
//! pictures to one logit a class; it knows nothing of training.
//!
//! A network is a [`Backbone`], one file a family, and a linear classifier on its features. What
//! changes while it learns (dropout, stochastic depth, batch-norm) follows the [`Pass`].

use std::fmt::Debug;
use std::path::Path;

use marquee_domain::zoo::{self, MODELS, ModelInfo};
use tch::{Device, Kind, TchError, Tensor};

use crate::error::RunError;
use crate::parameters::{Parameters, Scope, Start};

mod blocks;
mod convnext;
mod densenet;
mod efficientnet;
#[cfg(test)]
mod flops;
mod inception_resnet_v2;
mod inception_v3;
mod layers;
mod pass;
mod resnet;
mod script;
mod simple_cnn;
mod vgg;
mod vit;
mod xception;

pub(crate) use layers::Linear;
pub(crate) use pass::{Chance, Pass};
pub(crate) use script::{ScriptModel, TORCHSCRIPT};

use convnext::ConvNext;
use densenet::DenseNet;
use efficientnet::{B0, EfficientNet, LITE0, TF_LITE0};
use inception_resnet_v2::InceptionResNetV2;
use inception_v3::InceptionV3;
use resnet::{RESNET18, RESNET34, RESNET50, ResNet};
use simple_cnn::SimpleCnn;
use vgg::{Norm, Vgg};
use vit::Vit;
use xception::Xception;

/// What every network is up to its classifier.
pub(crate) trait Backbone: Debug {
    /// Pooled features `[N, width]` of normalised pictures `[N, 3, height, width]`.
    fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError>;

    /// Features of one picture.
    fn width(&self) -> i64;

    /// Finds out whether a network that is not of the zoo can learn from pictures of this size.
    fn try_out(&self, _width: u32, _height: u32) -> Result<(), RunError> {
        Ok(())
    }

    /// Writes the network itself, where it is not of the zoo; else false.
    fn save_script(&self, _path: &Path) -> Result<bool, RunError> {
        Ok(false)
    }
}

/// What is dropped while learning. Both are 0 in timm unless asked for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Rates {
    /// Of the features before the classifier; in VGG also between its hidden layers.
    pub(crate) dropout: f64,
    /// Of a picture's way through the last residual block; earlier blocks have less.
    pub(crate) drop_path: f64,
}

/// A model with its weights.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) info: &'static ModelInfo,
    pub(crate) parameters: Parameters,
    backbone: Box<dyn Backbone>,
    head: Linear,
    dropout: f64,
}

impl Network {
    /// Builds the model `name` for `classes` classes.
    pub(crate) fn build(
        name: &str,
        classes: usize,
        start: Start,
        rates: Rates,
        kind: Kind,
        device: Device,
    ) -> Result<Self, RunError> {
        let info = zoo::find(name).ok_or_else(|| {
            RunError::user(format!(
                "there is no model {name:?}; the models are {}",
                MODELS.join(", ")
            ))
        })?;
        let classes =
            i64::try_from(classes).map_err(|_| RunError::input("there are too many classes"))?;
        let mut parameters = Parameters::new(start, kind, device);
        let mut root = parameters.root();
        let backbone = backbone(info, &mut root, rates)?;
        let head = root.linear(head_name(info.name), backbone.width(), classes)?;
        Ok(Self {
            info,
            parameters,
            backbone,
            head,
            dropout: rates.dropout,
        })
    }

    /// Refuses pictures of a size that the model cannot take.
    #[cfg(test)]
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), RunError> {
        match self.info.size_problem(width, height) {
            Some(problem) => Err(RunError::user(format!(
                "{problem}; set width and height of the preprocess job"
            ))),
            None => Ok(()),
        }
    }

    /// Pooled features `[N, feature_width]` of normalised pictures `[N, 3, height, width]`.
    pub(crate) fn features(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        self.backbone.features(pictures, pass)
    }

    /// Logits `[N, classes]` of features.
    pub(crate) fn classify(&self, features: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        self.head.forward(&pass.dropout(features, self.dropout)?)
    }

    /// Logits `[N, classes]` of normalised pictures.
    pub(crate) fn logits(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        self.classify(&self.features(pictures, pass)?, pass)
    }

    /// Features of one picture.
    #[allow(dead_code, reason = "heads of other shapes are not a setting yet")]
    pub(crate) fn feature_width(&self) -> i64 {
        self.backbone.width()
    }
}

/// Where the classifier's weight and bias are in a file.
pub(crate) fn head_name(model: &str) -> &'static str {
    match model {
        "vgg16" | "vgg16_bn" | "convnext_tiny" => "head.fc",
        "simple-cnn" | "vit_small_patch16_224" => "head",
        "densenet121" | "efficientnet_b0" | "efficientnet_lite0" | "tf_efficientnet_lite0" => {
            "classifier"
        }
        "inception_resnet_v2" => "classif",
        _ => "fc",
    }
}

/// Builds what comes before the classifier, below `at`.
pub(crate) fn backbone(
    info: &ModelInfo,
    at: &mut Scope,
    rates: Rates,
) -> Result<Box<dyn Backbone>, RunError> {
    Ok(match info.name {
        "simple-cnn" => Box::new(SimpleCnn::build(at)?),
        "resnet18" => Box::new(ResNet::build(at, RESNET18, rates)?),
        "resnet34" => Box::new(ResNet::build(at, RESNET34, rates)?),
        "resnet50" => Box::new(ResNet::build(at, RESNET50, rates)?),
        "vgg16" => Box::new(Vgg::build(at, Norm::None, rates)?),
        "vgg16_bn" => Box::new(Vgg::build(at, Norm::Batch, rates)?),
        "densenet121" => Box::new(DenseNet::build(at)?),
        "inception_v3" => Box::new(InceptionV3::build(at)?),
        "inception_resnet_v2" => Box::new(InceptionResNetV2::build(at)?),
        "legacy_xception" => Box::new(Xception::build(at)?),
        "efficientnet_b0" => Box::new(EfficientNet::build(at, B0, rates)?),
        "efficientnet_lite0" => Box::new(EfficientNet::build(at, LITE0, rates)?),
        "tf_efficientnet_lite0" => Box::new(EfficientNet::build(at, TF_LITE0, rates)?),
        "convnext_tiny" => Box::new(ConvNext::build(at, rates)?),
        "vit_small_patch16_224" => Box::new(Vit::build(at, rates)?),
        // The coordinator knows the same list: only programs of two releases come here.
        listed => {
            return Err(RunError::user(format!(
                "model {listed:?} is in the list but this program cannot build it"
            )));
        }
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
