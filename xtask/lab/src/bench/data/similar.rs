//! Pictures that show the same: how many of the copies that were planted are found, and how much of what is
//! found was planted.

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::figure::{Figure, Goal, Sheet};
use super::Bench;
use marquee_xtask::{process, report};

/// Of each kind. Each is compared with all others, so more of them try the precision harder.
const PICTURES: &str = "1000";
/// Share of the pairs that are found which were planted, at least.
const PRECISION_MIN: f64 = 0.99;
/// Share of drawings that may be flagged `low_information`.
const LOW_INFORMATION_MAX: f64 = 0.05;

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    let mut command = bench.catalogue();
    command.args(["bench", "similar", "--pictures", PICTURES]);
    let text = process::read(&mut command)?;
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).context("a line of JSON")?;
        report::note(line);
        let ran = format!("{PICTURES} pictures, one copy of each");
        let figure = |name: String, value: &Value, goal, reference| Figure {
            name,
            value: value.as_f64().unwrap_or(f64::NAN),
            unit: "of 1".into(),
            is_less_better: false,
            reference,
            goal,
            ran: ran.clone(),
        };
        let pictures = row["pictures"].as_str().unwrap_or_default();
        if let Some(change) = row["change"].as_str() {
            let strict = row["strict_recall"].as_f64().unwrap_or(f64::NAN);
            let reference = Some(("the strict rule alone".to_owned(), strict));
            let name = format!("recall, {pictures} {change}");
            sheet.add(figure(name, &row["recall"], None, reference));
            let name = format!("precision, {pictures} {change}");
            let goal = Some(Goal::AtLeast(PRECISION_MIN));
            sheet.add(figure(name, &row["precision"], goal, None));
        } else if row["low_information"].is_number() {
            let name = format!("{pictures} flagged low_information");
            // Drawings alone: posters have hundreds of grey values, so nothing is shown by them.
            let goal = (pictures == "drawings").then_some(Goal::AtMost(LOW_INFORMATION_MAX));
            let few = row["few_greys"].as_f64().unwrap_or(f64::NAN);
            let reference = Some(("few grey values alone".to_owned(), few));
            sheet.add(Figure {
                is_less_better: true,
                ..figure(name, &row["low_information"], goal, reference)
            });
        }
    }
    Ok(())
}
