//! Weights that a job starts from: matched by name, with a report that leaves nothing out.
//!
//! Invariant: a tensor is taken whole or not at all, and what was not taken is in the report with
//! the reason. Unless a job allows it, anything but the classifier that does not fit is a failure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use marquee_domain::child::ChildSpec;
use marquee_domain::report::WeightsReport;
use marquee_domain::spec::{PartialWeights, Transfer};
use tch::no_grad;

use super::Learner;
use super::blueprint::PartCard;
use crate::error::RunError;
use crate::model_folder;
use crate::models::head_name;
use crate::tensors::{self, Tensors};

/// The optional input that a model artifact comes by.
const INPUT: &str = "weights";
/// How batch-norm of PyTorch ends the name of a counter that nothing here uses.
const BATCH_COUNTER: &str = ".num_batches_tracked";
/// Names that an error lists of each kind.
const NAMED_MAX: usize = 4;

/// Where weights for one network are, and what is known of them.
struct Given {
    path: PathBuf,
    /// Names of the outputs, where the file says.
    classes: Option<Vec<String>>,
}

/// Loads what the job names into `learner`, and tells what became of it.
pub(crate) fn load(
    spec: &ChildSpec,
    transfer: &Transfer,
    learner: &Learner,
    classes: &[String],
) -> Result<Vec<WeightsReport>, RunError> {
    let mut reports = Vec::new();
    for card in learner.cards() {
        let Some(given) = given(spec, transfer, &card)? else {
            continue;
        };
        let tensors = tensors::read(&given.path)?;
        // A classifier of other classes is no start for these, even where its shape fits.
        let keeps_head = given
            .classes
            .as_deref()
            .is_none_or(|known| known == classes);
        let report = fill(learner, &card, &tensors, &given.path, keeps_head)?;
        tell(&report);
        judge(&report, transfer.weights_partial)?;
        reports.push(report);
    }
    Ok(reports)
}

fn given(
    spec: &ChildSpec,
    transfer: &Transfer,
    card: &PartCard,
) -> Result<Option<Given>, RunError> {
    let path = match transfer.backbones.get(&card.name) {
        Some(backbone) => backbone.weights.as_ref(),
        None => transfer.weights.as_ref(),
    };
    let input = spec.inputs.get(INPUT).filter(|_| card.name.is_empty());
    match (path, input) {
        (Some(_), Some(_)) => Err(RunError::user(
            "the job has both weights and the input \"weights\"; leave one out",
        )),
        (Some(path), None) => Ok(Some(Given {
            path: path.into(),
            classes: None,
        })),
        (None, Some(folder)) => Ok(Some(Given {
            path: folder.join(model_folder::WEIGHTS),
            classes: Some(model_folder::read_card(folder)?.classes),
        })),
        (None, None) => Ok(None),
    }
}

pub(super) fn fill(
    learner: &Learner,
    card: &PartCard,
    tensors: &Tensors,
    path: &Path,
    keeps_head: bool,
) -> Result<WeightsReport, RunError> {
    let prefix = card.prefix();
    let file_head = head_name(&card.model);
    let is_file_head = |name: &str| {
        let rest = name.strip_prefix(file_head);
        rest.is_some_and(|rest| rest.starts_with('.')) || learner.is_head(name)
    };
    let mut report = WeightsReport {
        file: path.display().to_string(),
        network: card.name.clone(),
        ..WeightsReport::default()
    };
    let mut used = BTreeSet::new();
    for (full, tensor) in learner.parameters.state() {
        let Some(name) = full.strip_prefix(&prefix) else {
            continue;
        };
        let is_head = learner.is_head(full);
        // An ensemble has one classifier over all its networks: that of one of them does not fit.
        if is_head && !card.name.is_empty() {
            continue;
        }
        match tensors.get(name) {
            Some(given) if is_head && !keeps_head => {
                used.insert(name);
                report.head.push(format!(
                    "{name}: new, for the file's {:?} is for other classes",
                    given.size()
                ));
            }
            Some(given) if given.size() == tensor.size() => {
                used.insert(name);
                no_grad(|| tensor.shallow_clone().f_copy_(given))?;
                report.loaded += 1;
            }
            Some(given) => {
                used.insert(name);
                let (has, needs) = (given.size(), tensor.size());
                if is_head {
                    report
                        .head
                        .push(format!("{name}: new, {needs:?} instead of {has:?}"));
                } else {
                    let why = format!("{name}: its shape is {has:?}, the network's {needs:?}");
                    report.skipped.push(why);
                }
            }
            None if is_head => report.head.push(format!("{name}: new, not in the file")),
            None => report.missing.push(name.to_owned()),
        }
    }
    for name in tensors.keys().filter(|name| !used.contains(name.as_str())) {
        if is_file_head(name) {
            report
                .head
                .push(format!("{name}: left out, the classifier is another"));
        } else if !name.ends_with(BATCH_COUNTER) {
            report
                .skipped
                .push(format!("{name}: the network has no such weight"));
        }
    }
    Ok(report)
}

/// Writes the report into the job's log.
fn tell(report: &WeightsReport) {
    tracing::info!(
        file = report.file,
        network = report.network,
        loaded = report.loaded,
        skipped = report.skipped.len(),
        missing = report.missing.len(),
        "weights loaded"
    );
    for line in &report.head {
        tracing::info!("classifier {line}");
    }
    for line in &report.skipped {
        tracing::warn!("skipped {line}");
    }
    for name in &report.missing {
        tracing::warn!("missing {name}: it starts at random");
    }
}

pub(super) fn judge(report: &WeightsReport, partial: PartialWeights) -> Result<(), RunError> {
    let WeightsReport {
        file,
        loaded,
        skipped,
        missing,
        ..
    } = report;
    // Also where a part is enough: with nothing loaded it is a training from scratch that calls itself
    // another.
    if *loaded == 0 {
        return Err(RunError::input(format!(
            "{file} has none of the network's weights: its names are such as {}, the network's such as {}. It \
             is of another model, or its names are others than timm's: \"marquee weights import\" translates \
             torchvision's and takes off what wrappers put before them",
            first_name(skipped),
            first_name(missing)
        )));
    }
    match partial {
        PartialWeights::Allow => Ok(()),
        PartialWeights::Refuse if skipped.is_empty() && missing.is_empty() => Ok(()),
        PartialWeights::Refuse => Err(RunError::input(format!(
            "{file} does not fill the network: {loaded} weights fit, {} do not ({}), {} are missing \
             ({}); give the model's own weights, or set weights_partial = \"allow\"",
            skipped.len(),
            some(skipped),
            missing.len(),
            some(missing)
        ))),
    }
}

/// The first name of a report's lines, each a name and, after a colon, what is wrong with it.
fn first_name(lines: &[String]) -> String {
    match lines.first() {
        Some(line) => format!("{:?}", line.split(": ").next().unwrap_or(line)),
        None => "none".to_owned(),
    }
}

fn some(lines: &[String]) -> String {
    let mut text = lines[..lines.len().min(NAMED_MAX)].join("; ");
    match lines.len() {
        0 => text.push_str("none"),
        count if count > NAMED_MAX => text.push_str("; ..."),
        _ => {}
    }
    text
}
