//! The zoo: models by name.
//!
//! Invariant: the names are those of [`marquee_domain::spec::MODELS`], which the coordinator checks
//! at submit. A model maps pictures to one logit a class; it knows nothing of training.

use std::fmt::Debug;

use marquee_domain::spec::MODELS;
use tch::{Device, Kind, TchError, Tensor};

use crate::error::RunError;
use crate::parameters::Parameters;

mod simple_cnn;

use simple_cnn::SimpleCnn;

/// What every model can do.
pub(crate) trait Model: Debug {
    /// Logits `[N, classes]` of normalised pictures `[N, 3, height, width]`.
    fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError>;
}

/// A model with its weights.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) parameters: Parameters,
    model: Box<dyn Model>,
}

impl Network {
    /// Builds the model `name` for `classes` classes. Its weights are drawn from `seed`.
    pub(crate) fn build(
        name: &str,
        classes: usize,
        seed: u64,
        kind: Kind,
        device: Device,
    ) -> Result<Self, RunError> {
        let classes =
            i64::try_from(classes).map_err(|_| RunError::input("there are too many classes"))?;
        tch::manual_seed(seed.cast_signed());
        let mut parameters = Parameters::new(kind, device);
        let model: Box<dyn Model> = match name {
            "simple-cnn" => Box::new(SimpleCnn::build(&mut parameters, classes)?),
            unknown => {
                return Err(RunError::user(format!(
                    "there is no model {unknown:?}; the models are {}",
                    MODELS.join(", ")
                )));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            parameters,
            model,
        })
    }

    /// Logits `[N, classes]` of normalised pictures.
    pub(crate) fn forward(&self, pictures: &Tensor) -> Result<Tensor, TchError> {
        self.model.forward(pictures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(name: &str, seed: u64) -> Network {
        Network::build(name, 5, seed, Kind::Float, Device::Cpu).unwrap()
    }

    #[test]
    fn every_name_that_can_be_submitted_can_be_built_and_takes_any_size() {
        for name in MODELS {
            let network = build(name, 1);
            for (height, width) in [(72, 48), (33, 35), (224, 224)] {
                let pictures = Tensor::rand([2, 3, height, width], (Kind::Float, Device::Cpu));
                assert_eq!(
                    network.forward(&pictures).unwrap().size(),
                    [2, 5],
                    "{name} {height}x{width}"
                );
            }
        }
    }

    #[test]
    fn the_simple_cnn_has_about_80_thousand_parameters() {
        let count = build("simple-cnn", 1).parameters.count();
        assert!((70_000..90_000).contains(&count), "{count}");
    }

    #[test]
    fn a_seed_means_one_set_of_weights() {
        let weights = |seed| build("simple-cnn", seed).parameters.tensors().remove(0);
        assert!(weights(3).equal(&weights(3)));
        assert!(!weights(3).equal(&weights(4)));
    }

    #[test]
    fn an_unknown_model_is_named_with_the_known_ones() {
        let error = Network::build("resnet9000", 5, 1, Kind::Float, Device::Cpu).unwrap_err();
        assert_eq!(
            error.message,
            "there is no model \"resnet9000\"; the models are simple-cnn"
        );
    }
}
