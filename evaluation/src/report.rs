//! From scores to [`EvalReport`], and what else the page shows of them.

use std::collections::BTreeMap;

use marquee_domain::artifact::Digest;
use marquee_domain::report::{ClassScores, EvalReport, Headline, Overlap, RuleScores};
use sha2::{Digest as _, Sha256};

use crate::baselines::baselines;
use crate::bootstrap::intervals;
use crate::choice::{Choice, choose};
use crate::confusion::{Confusion, ratio};
use crate::decisions::Decisions;
use crate::input::{EvalInput, SplitScores};
use crate::ranking::Ranking;
use crate::tuning::Rule;
use crate::{rules, warnings};

/// Version of `report.json`'s layout.
const FORMAT: u32 = 1;

/// The report, and the parts of the way there that the page draws.
#[derive(Debug)]
pub(crate) struct Evaluation {
    pub(crate) report: EvalReport,
    /// What the chosen rule decided on the test split.
    pub(crate) decisions: Decisions,
    /// Of the test split, for each class.
    pub(crate) rankings: Vec<Ranking>,
}

/// Score checked input. Pure: no file, no clock.
pub(crate) fn evaluate(input: &EvalInput<'_>) -> Evaluation {
    let classes = input.classes.len();
    // Before test is looked at: nothing of it can reach the choice from here.
    let choice = choose(&input.validation, classes);
    let tuned = |rule| (Rule::name(rule), choice.of(rule).to_vec());
    let mut thresholds = vec![
        tuned(Rule::Half),
        ("0.25", vec![0.25; classes]),
        tuned(Rule::Global),
        tuned(Rule::Shrunk),
        tuned(Rule::PerClass),
    ];
    if !input.thresholds.is_empty() {
        thresholds.push(("fixed", fixed_thresholds(input, choice.thresholds())));
    }
    let mut decided: Vec<Decisions> = thresholds
        .iter()
        .map(|(_, rule)| Decisions::new(&input.test, rule))
        .collect();
    let mut rules: Vec<RuleScores> = thresholds
        .iter()
        .zip(&decided)
        .map(|((name, _), d)| rules::score(name, d))
        .collect();
    for (rule, bounds) in rules.iter_mut().zip(
        intervals(&decided, input.bootstrap_resamples, input.seed)
            .iter()
            .flatten(),
    ) {
        rule.f1_micro_interval = Some(bounds.f1_micro);
        rule.f1_weighted_interval = Some(bounds.f1_weighted);
    }
    let rankings: Vec<Ranking> = (0..classes)
        .map(|class| Ranking::of_class(&input.test, classes, class))
        .collect();
    // The rule 0.5 stands first. Taken now, since the chosen rule is about to be moved out of the
    // list.
    let at_half = decided[0].per_class();
    let chosen = thresholds
        .iter()
        .position(|(name, _)| *name == choice.rule.name())
        .unwrap_or(0);
    let decisions = decided.swap_remove(chosen);
    let per_class = class_scores(
        input,
        &rankings,
        choice.thresholds(),
        &decisions.per_class(),
        &at_half,
    );
    let (map, map_classes) = mean_of_known(per_class.iter().map(|class| class.average_precision));
    let (roc_auc_macro, roc_auc_classes) =
        mean_of_known(per_class.iter().map(|class| class.roc_auc));
    let mut report = EvalReport {
        format: FORMAT,
        model: input.model.clone(),
        provenance: Some(input.provenance.clone()),
        classes: input.classes.clone(),
        source: input.source.clone(),
        pictures: BTreeMap::from([
            ("validation".to_owned(), input.validation.ids.len() as u64),
            ("test".to_owned(), input.test.ids.len() as u64),
        ]),
        thresholds_from: rows_digest(&input.validation, classes).to_string(),
        test_from: rows_digest(&input.test, classes).to_string(),
        rules,
        headline: Some(headline(&choice, &input.overlap)),
        baselines: baselines(&input.validation, &input.test, classes),
        map,
        map_classes,
        roc_auc_macro,
        roc_auc_classes,
        per_class,
        images_per_second: input.timing.images_per_second,
        seconds: input.timing.seconds,
        warnings: Vec::new(),
        overlap: Some(input.overlap.clone()),
    };
    // At the end: most of them are about the report's own figures.
    report.warnings = warnings::find(input, &report);
    Evaluation {
        report,
        decisions,
        rankings,
    }
}

/// The choice as the report has it. Figures on pictures that the model has learned from are no headline,
/// whoever asked for them.
fn headline(choice: &Choice, overlap: &Overlap) -> Headline {
    let stands = !overlap.is_leak();
    Headline {
        rule: choice.rule.name().to_owned(),
        stands,
        why: if stands {
            choice.why.clone()
        } else {
            format!("there is no headline: {}", overlap.words())
        },
        resamples: choice.resamples,
        candidates: choice.candidates.clone(),
    }
}

/// The job's own thresholds; labels that it does not name keep that of the chosen rule.
fn fixed_thresholds(input: &EvalInput<'_>, tuned: &[f64]) -> Vec<f64> {
    let given = |label| input.thresholds.get(label).copied();
    input
        .classes
        .iter()
        .zip(tuned)
        .map(|(label, &tuned)| given(label).unwrap_or(tuned))
        .collect()
}

fn class_scores(
    input: &EvalInput<'_>,
    rankings: &[Ranking],
    tuned: &[f64],
    counts: &[Confusion],
    at_half: &[Confusion],
) -> Vec<ClassScores> {
    let pictures = input.test.ids.len() as u64;
    let one = |class: usize| ClassScores {
        class: input.classes[class].clone(),
        support: counts[class].support(),
        prevalence: ratio(counts[class].support(), pictures),
        roc_auc: rankings[class].roc_auc(),
        average_precision: rankings[class].average_precision(),
        threshold: tuned[class],
        precision: counts[class].precision(),
        recall: counts[class].recall(),
        f1: counts[class].f1(),
        f1_at_half: at_half[class].f1(),
    };
    (0..input.classes.len()).map(one).collect()
}

/// The mean over what has a value, and how many those are.
fn mean_of_known(values: impl Iterator<Item = Option<f64>>) -> (Option<f64>, u32) {
    let mut count = 0_u32;
    let mut sum = 0.0;
    for value in values.flatten() {
        count += 1;
        sum += value;
    }
    ((count > 0).then(|| sum / f64::from(count)), count)
}

/// SHA-256 over each row's id (preceded by its length as u64, little endian) and truth bytes, so
/// that two reports on the same rows can be told from two that are not.
fn rows_digest(split: &SplitScores, classes: usize) -> Digest {
    let mut hash = Sha256::new();
    for (id, truth) in split.ids.iter().zip(split.truth.chunks_exact(classes)) {
        hash.update((id.len() as u64).to_le_bytes());
        hash.update(id.as_bytes());
        hash.update(truth);
    }
    Digest::from_hash(&hash.finalize())
}
