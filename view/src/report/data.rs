//! What came in, what was left out and why.

use std::collections::BTreeMap;

use marquee_domain::report::{FetchSummary, PreprocessSummary};

use crate::units;

/// What came, what was left out and why: nothing is dropped in silence.
pub(super) fn lines(
    fetch: Option<&FetchSummary>,
    preprocess: Option<&PreprocessSummary>,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(fetch) = fetch {
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
        lines.push(line);
    }
    if let Some(prepared) = preprocess {
        let splits = ["train", "validation", "test"].map(|split| {
            let rows = prepared.splits.get(split).copied().unwrap_or_default();
            format!("{} {split}", units::count(rows))
        });
        lines.push(format!(
            "{} of {} pictures in {} classes: {}{}",
            units::count(prepared.splits.values().sum()),
            units::count(prepared.pictures),
            prepared.classes.len(),
            splits.join(", "),
            by_class("; skipped", &prepared.skipped)
        ));
    }
    lines
}

/// `; skipped 3 (truncated 1, undecodable 2)`, or nothing where there is none.
fn by_class(word: &str, classes: &BTreeMap<String, u64>) -> String {
    let all: u64 = classes.values().sum();
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
