//! How many of an evaluation's pictures its model had learned from.

use serde::{Deserialize, Serialize};

/// What of an evaluation's pictures the model had been trained or tuned on before.
///
/// A picture is known by the digest of its file; pictures of one group (the films of a collection, the
/// frames of a shot) count as known where one of them is. Each picture of the test split is counted once,
/// at the first of the counts below that holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Overlap {
    /// Whether the model carries a record of its pictures. Those of earlier versions carry none, and then
    /// every count is 0 because nobody knows.
    pub recorded: bool,
    /// Whether the record can be held against these shards: shards that were made by hand know a picture
    /// by its stored bytes, those of a preprocess job by its file.
    pub comparable: bool,
    /// Pictures on record.
    pub trained_pictures: u64,
    pub tuned_pictures: u64,
    /// Pictures of the test split.
    pub test_pictures: u64,
    /// Of the test split: pictures that the weights were fitted to.
    pub test_trained: u64,
    /// Of the test split: others of a group of which pictures were trained on.
    pub test_trained_group: u64,
    /// Of the test split: others on which thresholds or settings were tuned.
    pub test_tuned: u64,
    /// Of the test split: others of a group of which pictures were tuned on.
    pub test_tuned_group: u64,
    /// Pictures of the validation split. That it was tuned on is as it should be.
    pub validation_pictures: u64,
    /// Of the validation split: pictures that the weights were fitted to.
    pub validation_trained: u64,
    /// Of the validation split: others of a group of which pictures were trained on.
    pub validation_trained_group: u64,
    /// Pictures whose group has the name of one on record, where no single picture of these shards is on
    /// record: most likely another data set that numbers its groups as well. They count as no leak.
    #[serde(default)]
    pub namesakes: u64,
    /// Weights that the model started from and of whose pictures there is no record, such as published ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unrecorded: Vec<String>,
    /// The same of models that were trained here, by an earlier version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unrecorded_models: Vec<String>,
}

impl Overlap {
    /// Pictures of the test split that are no test of the model.
    #[must_use]
    pub fn in_test(&self) -> u64 {
        // No picture is in two of them: each was counted at the first that held.
        self.test_trained + self.test_trained_group + self.test_tuned + self.test_tuned_group
    }

    /// Pictures of the validation split whose scores the model knew by heart.
    #[must_use]
    pub fn in_validation(&self) -> u64 {
        self.validation_trained + self.validation_trained_group
    }

    /// Whether the model has learned from pictures that are scored: at least a part of the evaluation is then no test.
    #[must_use]
    pub fn is_leak(&self) -> bool {
        self.in_test() + self.in_validation() > 0
    }

    /// Such as "of 373 test pictures the model was trained on 189 and tuned on 12; of 200 validation
    /// pictures it was trained on 97". Empty without a leak.
    #[must_use]
    pub fn words(&self) -> String {
        let parts = |counts: &[(u64, &str)]| {
            let told: Vec<String> = counts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{what} {count}"))
                .collect();
            match told.as_slice() {
                [] => String::new(),
                [one] => one.clone(),
                [first @ .., last] => format!("{} and {last}", first.join(", ")),
            }
        };
        let test = parts(&[
            (self.test_trained, "was trained on"),
            (self.test_trained_group, "was trained on the group of"),
            (self.test_tuned, "was tuned on"),
            (self.test_tuned_group, "was tuned on the group of"),
        ]);
        let validation = parts(&[
            (self.validation_trained, "was trained on"),
            (self.validation_trained_group, "was trained on the group of"),
        ]);
        let mut sentences = Vec::new();
        if !test.is_empty() {
            sentences.push(format!(
                "of {} test pictures the model {test}",
                self.test_pictures
            ));
        }
        if !validation.is_empty() {
            sentences.push(format!(
                "of {} validation pictures the model {validation}",
                self.validation_pictures
            ));
        }
        sentences.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told_in_numbers() {
        let clean = Overlap {
            recorded: true,
            comparable: true,
            trained_pictures: 900,
            test_pictures: 373,
            ..Overlap::default()
        };
        assert!(!clean.is_leak());
        assert_eq!(clean.words(), "");
        let leak = Overlap {
            test_trained: 189,
            test_trained_group: 3,
            test_tuned: 12,
            validation_pictures: 200,
            validation_trained: 97,
            ..clean
        };
        assert_eq!((leak.in_test(), leak.in_validation()), (204, 97));
        assert_eq!(
            leak.words(),
            "of 373 test pictures the model was trained on 189, was trained on the group of 3 and was \
             tuned on 12; of 200 validation pictures the model was trained on 97"
        );
    }
}
