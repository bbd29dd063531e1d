//! Classifier layers on pooled features.

use marquee_domain::spec::{Activation, HeadSettings};
use tch::{TchError, Tensor};

use crate::error::RunError;
use crate::models::{Linear, Pass};
use crate::parameters::Scope;

/// What names of own layers begin with; layer n is `own_head.n`.
pub(super) const PREFIX: &str = "own_head";

/// Linear layers with activations and dropout between them.
#[derive(Debug)]
pub(super) struct Head {
    layers: Vec<Linear>,
    activation: Activation,
    dropout: f64,
}

impl Head {
    /// No layers: the network has a classifier of its own.
    pub(super) fn none() -> Self {
        Self {
            layers: Vec::new(),
            activation: Activation::Relu,
            dropout: 0.0,
        }
    }

    /// Without hidden layers a network's own classifier keeps its name.
    pub(super) fn build(
        at: &mut Scope,
        prefix: &str,
        width: i64,
        settings: &HeadSettings,
        classes: i64,
    ) -> Result<Self, RunError> {
        let sizes: Vec<i64> = std::iter::once(width)
            .chain(settings.hidden.iter().map(|size| i64::from(*size)))
            .chain([classes])
            .collect();
        let mut layers = Vec::new();
        for (index, pair) in sizes.windows(2).enumerate() {
            let name = if prefix == PREFIX {
                format!("{prefix}.{index}")
            } else {
                prefix.to_owned()
            };
            layers.push(at.linear(&name, pair[0], pair[1])?);
        }
        Ok(Self {
            layers,
            activation: settings.activation,
            dropout: settings.dropout,
        })
    }

    pub(super) fn forward(&self, features: &Tensor, pass: &Pass) -> Result<Tensor, TchError> {
        let mut x = features.shallow_clone();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                x = match self.activation {
                    Activation::Relu => x.f_relu()?,
                    Activation::Gelu => x.f_gelu("none")?,
                    Activation::Silu => x.f_silu()?,
                };
                x = pass.dropout(&x, self.dropout)?;
            }
            x = layer.forward(&x)?;
        }
        Ok(x)
    }
}
