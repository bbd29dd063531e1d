//! What came in, what was left out and why.

use std::collections::BTreeMap;

use marquee_domain::report::{FetchSummary, PreprocessSummary};

use super::Part;
use crate::units;

/// What came, what was left out and why: nothing is dropped in silence. Where several jobs did the same,
/// each line begins with the job's name.
pub(super) fn lines(
    fetches: &[Part<FetchSummary>],
    preprocesses: &[Part<PreprocessSummary>],
) -> Vec<String> {
    let mut lines = Vec::new();
    for fetch in fetches {
        lines.push(named(fetch, fetches.len(), fetched(&fetch.left)));
        let remarks = &fetch.left.remarks;
        for note in &remarks.notes {
            lines.push(named(fetch, fetches.len(), note.clone()));
        }
        lines.extend(
            remarks
                .warnings
                .iter()
                .map(|warning| warned(fetch, warning)),
        );
    }
    for preprocess in preprocesses {
        let line = prepared(&preprocess.left);
        lines.push(named(preprocess, preprocesses.len(), line));
        let warnings = preprocess.left.warnings.iter();
        lines.extend(warnings.map(|warning| warned(preprocess, warning)));
    }
    lines
}

fn warned<T>(part: &Part<T>, warning: &str) -> String {
    format!("WARNING: {}: {warning}", part.name)
}

fn named<T>(part: &Part<T>, of: usize, line: String) -> String {
    // A pipeline has one job of the kind as a rule, and its name would only repeat itself.
    if of > 1 {
        format!("{}: {line}", part.name)
    } else {
        line
    }
}

fn fetched(fetch: &FetchSummary) -> String {
    let mut line = format!(
        "fetched {} of {} ({})",
        units::count(fetch.fetched),
        units::count(fetch.asked),
        units::bytes(fetch.bytes)
    );
    if fetch.gone > 0 {
        line.push_str(&format!(", {} gone", units::count(fetch.gone)));
    }
    line.push_str(&by_class(", not usable", &fetch.rejected));
    line.push_str(&by_class(", failed", &fetch.failed));
    if fetch.remarks.without_label > 0 {
        line.push_str(&format!(
            "; {} have none of the labels",
            units::count(fetch.remarks.without_label)
        ));
    }
    line
}

fn prepared(prepared: &PreprocessSummary) -> String {
    let splits = ["train", "validation", "test"].map(|split| {
        let rows = prepared.splits.get(split).copied().unwrap_or_default();
        format!("{} {split}", units::count(rows))
    });
    format!(
        "{} of {} pictures in {} classes: {}{}",
        units::count(units::total(prepared.splits.values().copied())),
        units::count(prepared.pictures),
        prepared.classes.len(),
        splits.join(", "),
        by_class("; skipped", &prepared.skipped)
    )
}

/// `; skipped 3 (truncated 1, undecodable 2)`, or nothing where there is none.
fn by_class(word: &str, classes: &BTreeMap<String, u64>) -> String {
    let all = units::total(classes.values().copied());
    if all == 0 {
        return String::new();
    }
    let each: Vec<String> = classes
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(class, count)| format!("{class} {}", units::count(*count)))
        .collect();
    format!("{word} {} ({})", units::count(all), each.join(", "))
}
