//! What a learner is made from: the networks, the classifier and the rates that a job's settings ask
//! for, before anything is built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use marquee_domain::spec::{
    Backbone as BackboneSettings, HeadSettings, ScriptSettings, TrainSettings,
};
use marquee_domain::zoo::{self, MODELS, ModelInfo};
use serde::{Deserialize, Serialize};

use crate::error::RunError;
use crate::models::{Rates, TORCHSCRIPT};

/// Name of the model that is made of several networks.
pub(super) const ENSEMBLE: &str = "ensemble";

/// Folders of a job's input artifacts, by input name.
pub(crate) type Inputs = BTreeMap<String, PathBuf>;

/// The optional input that holds a job's own module.
const MODULE_INPUT: &str = "module";

/// One network of a learner, as files describe it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartCard {
    /// What its weights' names begin with, without the dot; empty for a network alone.
    pub(crate) name: String,
    /// Name in the zoo.
    pub(crate) model: String,
    /// Pixels that it is shown; None: pictures as they come.
    pub(crate) size: Option<(u32, u32)>,
    pub(crate) mean: [f64; 3],
    pub(crate) std: [f64; 3],
}

/// All that a learner is made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Blueprint {
    /// Name in the zoo, or [`ENSEMBLE`].
    pub(crate) model: String,
    pub(crate) parts: Vec<PartCard>,
    pub(crate) head: HeadSettings,
    pub(crate) rates: Rates,
    /// File of the TorchScript module that is the one network.
    pub(crate) script: Option<PathBuf>,
}

impl Blueprint {
    /// What `settings` describe.
    pub(crate) fn of(inputs: &Inputs, settings: &TrainSettings) -> Result<Self, RunError> {
        let transfer = &settings.transfer;
        if let Some(module) = &transfer.module {
            return Self::of_module(inputs, module);
        }
        let parts = if settings.model == ENSEMBLE {
            let part = |(name, backbone): (&String, &BackboneSettings)| {
                let size = backbone.width.zip(backbone.height);
                Ok(PartCard::new(name, find(&backbone.model)?, size))
            };
            transfer
                .backbones
                .iter()
                .map(part)
                .collect::<Result<_, RunError>>()?
        } else {
            vec![PartCard::new("", find(&settings.model)?, None)]
        };
        Ok(Self {
            model: settings.model.clone(),
            parts,
            head: transfer.head.clone(),
            rates: Rates {
                dropout: settings.dropout,
                drop_path: settings.drop_path,
            },
            script: None,
        })
    }

    fn of_module(inputs: &Inputs, module: &ScriptSettings) -> Result<Self, RunError> {
        let file = Path::new(&module.file);
        let path = match inputs.get(MODULE_INPUT) {
            Some(folder) => folder.join(file),
            None if file.is_absolute() => file.to_owned(),
            None => {
                return Err(RunError::user(format!(
                    "module.file {:?} is no absolute path, and the job has no input {MODULE_INPUT:?}",
                    module.file
                )));
            }
        };
        Ok(Self {
            model: TORCHSCRIPT.to_owned(),
            parts: vec![PartCard {
                name: String::new(),
                model: TORCHSCRIPT.to_owned(),
                size: module.width.zip(module.height),
                mean: module.mean,
                std: module.std,
            }],
            head: HeadSettings::default(),
            rates: Rates::default(),
            script: Some(path),
        })
    }
}

impl PartCard {
    pub(crate) fn new(name: &str, info: &ModelInfo, size: Option<(u32, u32)>) -> Self {
        Self {
            name: name.to_owned(),
            model: info.name.to_owned(),
            size,
            mean: info.mean,
            std: info.std,
        }
    }

    /// What the names of its weights begin with.
    pub(crate) fn prefix(&self) -> String {
        if self.name.is_empty() {
            String::new()
        } else {
            format!("{}.", self.name)
        }
    }
}

pub(super) fn find(model: &str) -> Result<&'static ModelInfo, RunError> {
    zoo::find(model).ok_or_else(|| {
        RunError::user(format!(
            "there is no model {model:?}; the models are {}",
            MODELS.join(", ")
        ))
    })
}
