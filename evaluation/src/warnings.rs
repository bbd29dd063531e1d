//! Reasons to doubt a report's own figures. Shown on the page, in `report.json`, and by the CLI.

use std::collections::HashSet;

use marquee_domain::report::{EvalReport, Overlap};

use crate::input::{EvalInput, SplitScores};

/// Ids or labels named in a warning.
const NAMED_AT_MOST: usize = 5;

/// Every warning, the gravest first.
pub(crate) fn find(input: &EvalInput<'_>, report: &EvalReport) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(learned_pictures(&input.overlap));
    warnings.extend(shared_pictures(input));
    warnings.extend(above_ceiling(report));
    warnings.extend(repeated_pictures("validation", &input.validation.ids));
    warnings.extend(repeated_pictures("test", &input.test.ids));
    // Whoever prepared the pictures has looked at the classes of every split, the test split too.
    if input.data_warnings.is_empty() {
        warnings.extend(constant_classes(input));
    } else {
        warnings.extend(input.data_warnings.iter().cloned());
    }
    warnings.extend(no_better_than_all(input, report));
    warnings.extend(untuned_classes(input));
    warnings.extend(untested_classes(report));
    warnings
}

/// What the model's own record of its training says of these pictures.
fn learned_pictures(overlap: &Overlap) -> Vec<String> {
    let mut warnings = Vec::new();
    if overlap.is_leak() {
        warnings.push(format!(
            "leak: {}; no figure here says how good the model is on new pictures. Evaluate on the shards \
             that it was trained with, or train again on these",
            overlap.words()
        ));
    }
    if !overlap.recorded {
        warnings.push(
            "the model has no record of the pictures that it was trained on, since an earlier version \
             trained it: whether these test pictures are new to it is not known. Train it again, or make \
             sure that these are the shards that it was trained with"
                .to_owned(),
        );
    } else if !overlap.comparable {
        warnings.push(
            "the model's record knows pictures by their files and these shards by stored bytes alone, or \
             the other way round: whether these test pictures are new to it is not known. Evaluate on \
             shards of a preprocess job"
                .to_owned(),
        );
    }
    if !overlap.unrecorded_models.is_empty() {
        warnings.push(format!(
            "training started from {}, of which there is no record since an earlier version trained it: \
             whether these test pictures are new to the model is not wholly known. Train that one again \
             first, or make sure",
            overlap.unrecorded_models.join(", ")
        ));
    }
    if overlap.namesakes > 0 {
        warnings.push(format!(
            "{} of groups whose names training knew, though no single picture is the same: if these are \
             the same groups, this is a leak",
            count(
                usize::try_from(overlap.namesakes).unwrap_or(usize::MAX),
                "picture is",
                "pictures are"
            )
        ));
    }
    warnings
}

/// A picture in both splits is a leak: its threshold was tuned on it.
fn shared_pictures(input: &EvalInput<'_>) -> Option<String> {
    // By their ids, for which no record of a training is needed: it is found of any model.
    let validation: HashSet<&String> = input.validation.ids.iter().collect();
    let shared: Vec<&str> = input
        .test
        .ids
        .iter()
        .filter(|id| validation.contains(id))
        .map(String::as_str)
        .collect();
    (!shared.is_empty()).then(|| {
        format!(
            "leak: {} of the test split are also in validation ({}); preprocess the dataset again",
            count(shared.len(), "picture", "pictures"),
            some_of(&shared)
        )
    })
}

/// No classifier can beat the source's ceiling for long: either luck, or the test split leaked.
fn above_ceiling(report: &EvalReport) -> Option<String> {
    let ceiling = report.source.f1_micro_ceiling?;
    let best = report
        .rules
        .iter()
        .max_by(|a, b| a.f1_micro.total_cmp(&b.f1_micro))?;
    if best.f1_micro <= ceiling {
        return None;
    }
    // Of all rules and not of the headline's alone: whatever beats the ceiling is a sign.
    let verdict = match best.f1_micro_interval {
        Some((low, _)) if low > ceiling => "its whole interval lies above: look for a leak",
        Some(_) => {
            "its interval reaches below, so this may be chance; if it stays, look for a leak"
        }
        None => "this is chance or a leak; ask for bootstrap intervals to tell which",
    };
    Some(format!(
        "micro F1 {:.3} of rule {:?} is above {ceiling:.3}, the best that any classifier can expect \
         on this source; {verdict}",
        best.f1_micro, best.rule
    ))
}

fn repeated_pictures(split: &str, ids: &[String]) -> Option<String> {
    let mut seen = HashSet::new();
    let repeated: Vec<&str> = ids
        .iter()
        .filter(|id| !seen.insert(*id))
        .map(String::as_str)
        .collect();
    (!repeated.is_empty()).then(|| {
        format!(
            "{} of split {split:?} are scored more than once ({}), which counts them double",
            count(repeated.len(), "picture", "pictures"),
            some_of(&repeated)
        )
    })
}

/// Classes that are true of every picture of a split that is scored.
fn always_true<'a>(input: &'a EvalInput<'_>) -> Vec<&'a str> {
    let of_all = |split: &SplitScores, class: usize| {
        let mut column = split.truth.iter().skip(class).step_by(input.classes.len());
        // Of no pictures at all everything is true.
        !split.truth.is_empty() && column.all(|&is_true| is_true != 0)
    };
    let classes = input.classes.iter().enumerate();
    classes
        .filter(|(class, _)| of_all(&input.test, *class))
        .map(|(_, name)| name.as_str())
        .collect()
}

/// What is true of everything can neither be learned nor measured, and lifts every figure.
fn constant_classes(input: &EvalInput<'_>) -> Option<String> {
    let always = always_true(input);
    (!always.is_empty()).then(|| {
        format!(
            "{} true of every test picture ({}): there is nothing to tell apart, and micro F1 is lifted by \
             answers that need no picture; bring pictures of which it is not true (in a table of 0 and 1 \
             the zeros say so), or leave it out by the preprocess job's labels",
            count(always.len(), "class is", "classes are"),
            some_of(&always)
        )
    })
}

fn no_better_than_all(input: &EvalInput<'_>, report: &EvalReport) -> Option<String> {
    let all = report
        .baselines
        .iter()
        .find(|baseline| baseline.name == "all")?;
    let best = report
        .rules
        .iter()
        .max_by(|a, b| a.f1_micro.total_cmp(&b.f1_micro))?;
    // The best of the rules is asked, in the model's favour: one bad threshold is no proof that it
    // learned nothing.
    (best.f1_micro <= all.f1_micro).then(|| {
        format!(
            "the model has learned nothing useful: its best micro F1 {:.3} is no better than {:.3} for \
             predicting every label for every picture; {}",
            best.f1_micro,
            all.f1_micro,
            cure_of_no_learning(input)
        )
    })
}

/// What helps a model that has learned nothing depends on how its training went.
fn cure_of_no_learning(input: &EvalInput<'_>) -> &'static str {
    if always_true(input).len() == input.classes.len() {
        return "with classes that are true of every picture no model can be: give it something to tell \
                apart";
    }
    let losses: Vec<f64> = input
        .history
        .iter()
        .filter_map(|epoch| epoch.validation_loss)
        .collect();
    let best = losses
        .iter()
        .copied()
        .enumerate()
        .min_by(|a, b| a.1.total_cmp(&b.1));
    match (best, losses.last()) {
        (Some((at, _)), Some(_)) if at + 1 == losses.len() => {
            "its validation loss was still falling at the end: train longer"
        }
        (Some((_, best)), Some(last)) if *last > best => {
            "its validation loss rose again before the end: more epochs will not help, but more pictures, \
             augmentation or published weights to start from may"
        }
        (Some(_) | None, Some(_) | None) => {
            "train longer, and see whether the labels are of these pictures"
        }
    }
}

fn untuned_classes(input: &EvalInput<'_>) -> Option<String> {
    let classes = input.classes.len();
    let mut has_positive = vec![false; classes];
    for row in input.validation.truth.chunks_exact(classes) {
        for (seen, &is_true) in has_positive.iter_mut().zip(row) {
            *seen |= is_true != 0;
        }
    }
    let untuned: Vec<&str> = input
        .classes
        .iter()
        .zip(has_positive)
        .filter(|(_, seen)| !seen)
        .map(|(class, _)| class.as_str())
        .collect();
    (!untuned.is_empty()).then(|| {
        format!(
            "{} without a positive in validation ({}): no threshold of its own can be tuned; give \
             validation a larger share, or leave it out by min_label_count",
            count(untuned.len(), "class", "classes"),
            some_of(&untuned)
        )
    })
}

fn untested_classes(report: &EvalReport) -> Option<String> {
    let untested: Vec<&str> = report
        .per_class
        .iter()
        .filter(|class| class.support == 0)
        .map(|class| class.class.as_str())
        .collect();
    (!untested.is_empty()).then(|| {
        format!(
            "{} without a positive in the test split ({}): no AUC and no average precision, and \
             macro F1 counts 0 for it; give the test split a larger share, or leave it out by \
             min_label_count",
            count(untested.len(), "class", "classes"),
            some_of(&untested)
        )
    })
}

fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 {
        format!("1 {one}")
    } else {
        format!("{number} {many}")
    }
}

fn some_of(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMED_AT_MOST)].join(", ");
    match names.len().saturating_sub(NAMED_AT_MOST) {
        0 => shown,
        left => format!("{shown} and {left} more"),
    }
}
