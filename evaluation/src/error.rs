//! What can be wrong with an evaluation's input or its folder.

use std::path::PathBuf;

/// Why an evaluation was refused or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("the model has no classes; evaluate a model that was trained on at least one label")]
    NoClasses,
    #[error(
        "split {split:?} has {ids} ids and {classes} classes, so {expected} values are needed, but \
         {what} has {found}; give one value for each picture and class"
    )]
    Shape {
        split: &'static str,
        what: &'static str,
        ids: usize,
        classes: usize,
        expected: usize,
        found: usize,
    },
    #[error(
        "split \"test\" has no pictures, so there is nothing to score; give the preprocess job a \
         larger test share or more pictures"
    )]
    EmptyTest,
    #[error(
        "this eval is no test: {what}. Evaluate on the shards that the model was trained with, train again \
         on these shards, or set allow_overlap = true to see the figures under a banner"
    )]
    Overlap {
        /// In numbers, what the model has learned from.
        what: String,
    },
    #[error(
        "split {split:?}: scores that are no probabilities (0 to 1) in {pictures} of {of} pictures, \
         such as {examples}; train again with a lower learning rate, or apply the sigmoid to the \
         outputs"
    )]
    NotAProbability {
        split: &'static str,
        pictures: usize,
        of: usize,
        /// The first few: id, class and value.
        examples: String,
    },
    #[error(
        "split {split:?}: the truth of picture {id:?} for class {class:?} is {value}, not 0 or 1"
    )]
    NotATruth {
        split: &'static str,
        id: String,
        class: String,
        value: u8,
    },
    #[error("thresholds.{label} names no label of the model; its labels are {known}")]
    UnknownLabel { label: String, known: String },
    #[error("thresholds.{label} is {value}; a threshold lies between 0 and 1")]
    BadThreshold { label: String, value: f64 },
    #[error("cannot write {}: {source}; check that the folder exists and has space", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot encode {what}: {source}")]
    Encode {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
