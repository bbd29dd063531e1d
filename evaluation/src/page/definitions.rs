//! What the figures mean and where their definitions come from.

use marquee_domain::report::EvalReport;
use maud::{Markup, html};

use super::format::{count, duration};
use crate::input::EvalInput;

// Links for a reader to follow: the page itself loads nothing from there.
const SCIKIT_LEARN: &str = "https://scikit-learn.org/stable/modules/model_evaluation.html";
const LIPTON: &str = "https://arxiv.org/abs/1402.1892";

pub(super) fn section(input: &EvalInput<'_>, report: &EvalReport) -> Markup {
    html! {
        section aria-labelledby="definitions" {
            h2 #definitions { "What the figures mean" }
            dl.definitions { (figures()) (protocol(input)) }
            (provenance(input, report))
        }
    }
}

fn figures() -> Markup {
    html! {
        dt { "F1" }
        dd { "2 TP / (2 TP + FP + FN): true positives, false positives, false negatives. 0 where all three are 0. " (scikit_learn()) }
        dt { "Micro, macro, weighted, samples" }
        dd { "Micro adds the counts of all classes first. Macro is the plain mean over classes; weighted weighs each by how often it is true. Samples is the mean over pictures, where a picture without any true or predicted label counts 0." }
        dt { "All labels right, Hamming loss" }
        dd { "Share of pictures whose every label is right (subset accuracy), and share of single yes-or-no decisions that are wrong. Hamming loss flatters where labels are rare: predicting nothing scores well." }
        dt { "ROC AUC" }
        dd { "Chance that a true picture scores above another one, ties counting half: area under the ROC curve by trapezoids. No value for a class that is always or never true; the mean leaves it out." }
        dt { "Average precision (AP)" }
        dd { "Sum of precision times gain in recall down the ranking, without interpolation, ties as one step. No value without a positive; the mean leaves it out." }
    }
}

fn protocol(input: &EvalInput<'_>) -> Markup {
    html! {
        dt { "Tuned thresholds" }
        dd {
            "All on validation alone, the higher of equals; 0.5 where no label is true. " b { "Per class: " }
            "for each class the threshold with its best F1. " b { "One for all: " }
            "the one with the best micro F1. For well-calibrated scores both are half the best F1 that they reach: "
            a href=(LIPTON) { "Lipton et al. 2014" } ". " b { "Shrunk: " }
            "a class with n positives keeps n / (n + 30) of the way, in logits, from the one for all to its own."
        }
        dt { "Headline" }
        dd { "The figures of one rule: of 0.5, one for all, shrunk and per class, that with the highest micro F1 on validation pictures that it was not tuned on. Pictures are drawn with replacement, rules are tuned on those drawn and scored on those left out." }
        dt { "Intervals" }
        dd {
            @if input.bootstrap_resamples == 0 { "Not asked for." }
            @else { "Percentile bootstrap (Efron 1979): " (count(input.bootstrap_resamples.into())) " resamples of the test pictures, seed " (input.seed) "; the model and its thresholds stay as they are." }
        }
        dt { "Baselines" }
        dd { "Predict every label; predict none; predict each with chance one half; predict each as often as it is true in validation. The last two by their expected counts." }
        @if input.source.f1_micro_ceiling.is_some() {
            dt { "Ceiling" }
            dd { "The best micro F1 that any classifier can expect on this source, as the source states it. A score above it is luck or a leak." }
        }
    }
}

fn provenance(input: &EvalInput<'_>, report: &EvalReport) -> Markup {
    html! {
        p.note {
            "Validation rows have the digest " code { (report.thresholds_from) }
            ", test rows " code { (report.test_from) }
            "; reports with the same digests saw the same rows."
            @if input.timing.seconds > 0.0 { " Scoring took " (duration(input.timing.seconds)) "." }
        }
    }
}

fn scikit_learn() -> Markup {
    html! { "As in " a href=(SCIKIT_LEARN) { "scikit-learn" } ", with zero_division = 0." }
}
