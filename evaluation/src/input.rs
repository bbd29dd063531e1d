//! What an evaluation is given, and the checks before any figure is computed.

use std::collections::BTreeMap;
use std::fmt;

use marquee_domain::report::{Overlap, Provenance, SourceNote};

use crate::error::EvalError;
use crate::history::EpochRow;

/// Broken scores named in an error.
const EXAMPLES_IN_ERROR: usize = 5;

/// Everything that goes into a report.
pub struct EvalInput<'a> {
    /// Name of the model, such as "simple-cnn".
    pub model: String,
    /// Which run this is, for a reader who has several reports.
    pub provenance: Provenance,
    /// Pixels of the gallery's pictures, width and height; their frames have these proportions.
    pub picture_size: (u32, u32),
    /// Labels, in the order of the columns of `truth` and `scores`.
    pub classes: Vec<String>,
    /// Thresholds are tuned on it. May be empty: every class then keeps 0.5.
    pub validation: SplitScores,
    /// Figures are computed on it.
    pub test: SplitScores,
    /// Fixed thresholds by label; labels not named keep their tuned one. Empty: no rule "fixed".
    pub thresholds: BTreeMap<String, f64>,
    /// 0: no intervals.
    pub bootstrap_resamples: u32,
    /// Pictures of each kind in the gallery.
    pub gallery: u32,
    /// Of the bootstrap and the gallery's random pictures.
    pub seed: u64,
    pub source: SourceNote,
    /// What the preprocess job warned of, such as a class that is true of every training picture.
    pub data_warnings: Vec<String>,
    /// What of these pictures the model has learned from.
    pub overlap: Overlap,
    /// Whether to report in spite of it, without a headline.
    pub allow_overlap: bool,
    /// From the model's `history.json`; may be empty.
    pub history: Vec<EpochRow>,
    pub timing: Timing,
    /// Bytes of a small JPEG (or PNG, WebP) for a row of a split, for the gallery. `None`: the page
    /// shows a blank. Called for the gallery's pictures alone.
    pub thumbnail: &'a dyn Fn(&str, usize) -> Option<Vec<u8>>,
}

/// How fast the pictures were scored.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timing {
    pub images_per_second: f64,
    /// Wall time of scoring both splits.
    pub seconds: f64,
}

/// The scores of one split, row by row, for n pictures and C classes.
///
/// Each picture appears once: drop the padding of the last distributed batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SplitScores {
    /// n ids.
    pub ids: Vec<String>,
    /// n x C, row-major: 1 where the label is true, else 0.
    pub truth: Vec<u8>,
    /// n x C, row-major: probabilities from 0 to 1 (after the sigmoid).
    pub scores: Vec<f32>,
}

impl EvalInput<'_> {
    /// Refuse what cannot be scored, naming the split, the picture and the way out.
    pub(crate) fn check(&self) -> Result<(), EvalError> {
        if self.classes.is_empty() {
            return Err(EvalError::NoClasses);
        }
        // The shapes first: all that follows cuts rows by the number of classes.
        self.validation.check("validation", &self.classes)?;
        self.test.check("test", &self.classes)?;
        if self.test.ids.is_empty() {
            return Err(EvalError::EmptyTest);
        }
        check_overlap(&self.overlap, self.allow_overlap)?;
        for (label, &value) in &self.thresholds {
            // Passed over, a mistyped label would quietly keep its tuned threshold.
            if !self.classes.contains(label) {
                let known = self.classes.join(", ");
                return Err(EvalError::UnknownLabel {
                    label: label.clone(),
                    known,
                });
            }
            if !(0.0..=1.0).contains(&value) {
                return Err(EvalError::BadThreshold {
                    label: label.clone(),
                    value,
                });
            }
        }
        Ok(())
    }
}

/// Refuses to evaluate on pictures that the model has learned from, unless that is `allowed`. An eval
/// job asks before it scores; [`crate::write_report`] asks again.
///
/// # Errors
/// [`EvalError::Overlap`], with the numbers and the ways out.
pub fn check_overlap(overlap: &Overlap, allowed: bool) -> Result<(), EvalError> {
    if overlap.is_leak() && !allowed {
        return Err(EvalError::Overlap {
            what: overlap.words(),
        });
    }
    Ok(())
}

impl SplitScores {
    fn check(&self, split: &'static str, classes: &[String]) -> Result<(), EvalError> {
        let expected = self.ids.len() * classes.len();
        for (what, found) in [("truth", self.truth.len()), ("scores", self.scores.len())] {
            if found != expected {
                let (ids, classes) = (self.ids.len(), classes.len());
                return Err(EvalError::Shape {
                    split,
                    what,
                    ids,
                    classes,
                    expected,
                    found,
                });
            }
        }
        if let Some(cell) = self.truth.iter().position(|&value| value > 1) {
            return Err(EvalError::NotATruth {
                split,
                id: self.ids[cell / classes.len()].clone(),
                class: classes[cell % classes.len()].clone(),
                value: self.truth[cell],
            });
        }
        self.check_probabilities(split, classes)
    }

    /// A NaN would sort and compare in silence; an output without sigmoid would look like a score.
    fn check_probabilities(
        &self,
        split: &'static str,
        classes: &[String],
    ) -> Result<(), EvalError> {
        let mut pictures = 0;
        let mut examples = Vec::new();
        for (id, row) in self.ids.iter().zip(self.scores.chunks_exact(classes.len())) {
            // NaN lies in no range, so it is found here too.
            let Some(class) = row.iter().position(|score| !(0.0..=1.0).contains(score)) else {
                continue;
            };
            pictures += 1;
            if examples.len() < EXAMPLES_IN_ERROR {
                examples.push(format!("{id:?} ({}: {})", classes[class], row[class]));
            }
        }
        if pictures == 0 {
            return Ok(());
        }
        Err(EvalError::NotAProbability {
            split,
            pictures,
            of: self.ids.len(),
            examples: examples.join(", "),
        })
    }
}

impl fmt::Debug for EvalInput<'_> {
    /// The shapes; not a million scores.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvalInput")
            .field("model", &self.model)
            .field("classes", &self.classes)
            .field("validation_pictures", &self.validation.ids.len())
            .field("test_pictures", &self.test.ids.len())
            .field("thresholds", &self.thresholds)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
