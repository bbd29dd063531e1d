//! What a benchmark says: one line a figure, as a table for people or as JSON for programs.
//!
//! Invariant: a ratio is how many times better than the reference we are, whether more or less of the
//! unit is better; a value that is not a number meets no goal.

use std::borrow::Cow;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

/// What is asked of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// How many times better than the reference, at least.
    Ratio(f64),
    /// The value itself, in its unit.
    AtLeast(f64),
    AtMost(f64),
}

/// One measured thing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    /// With the clock where it is a time: "CPU ms/picture", "pictures/s wall".
    pub(super) unit: Cow<'static, str>,
    pub(super) is_less_better: bool,
    /// Who it is compared with, and their value in the same unit.
    pub(super) reference: Option<(String, f64)>,
    pub(super) goal: Option<Goal>,
    /// What ran, so that it can be judged and repeated.
    pub(super) ran: String,
}

impl Figure {
    pub(super) fn ratio(&self) -> Option<f64> {
        let (_, reference) = self.reference.as_ref()?;
        Some(if self.is_less_better {
            reference / self.value
        } else {
            self.value / reference
        })
    }

    /// None where nothing is asked. Not "is not worse": what is not a number must not pass.
    pub(super) fn is_met(&self) -> Option<bool> {
        Some(match self.goal? {
            // A goal beside a reference that could not be measured is not met.
            Goal::Ratio(least) => self.ratio().is_some_and(|ratio| ratio >= least),
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        })
    }

    fn as_json(&self) -> Value {
        let goal = self.goal.map(|goal| match goal {
            Goal::Ratio(least) => json!({ "ratio_at_least": least }),
            Goal::AtLeast(least) => json!({ "at_least": least }),
            Goal::AtMost(most) => json!({ "at_most": most }),
        });
        json!({
            "name": self.name, "value": self.value, "unit": self.unit,
            "reference": self.reference.as_ref().map(|(name, value)| json!({ "name": name, "value": value })),
            "ratio": self.ratio(), "goal": goal, "ok": self.is_met(), "ran": self.ran,
        })
    }

    fn cells(&self) -> [String; 6] {
        let (reference, ratio) = match (&self.reference, self.ratio()) {
            (Some((name, value)), Some(ratio)) => {
                (format!("{name} {}", short(*value)), format!("{ratio:.2}x"))
            }
            (Some(_) | None, _) => (String::new(), String::new()),
        };
        let goal = match self.goal {
            Some(Goal::Ratio(least)) => format!(">= {least}x"),
            Some(Goal::AtLeast(least)) => format!(">= {least}"),
            Some(Goal::AtMost(most)) => format!("<= {most}"),
            None => String::new(),
        };
        let verdict = match self.is_met() {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        [
            self.name.clone(),
            format!("{} {}", short(self.value), self.unit),
            reference,
            ratio,
            goal,
            verdict.to_owned(),
        ]
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

/// All that a run has measured so far.
#[derive(Debug)]
pub(super) struct Sheet {
    as_json: bool,
    rows: Vec<([String; 6], String)>,
    missed: Vec<String>,
}

impl Sheet {
    pub(super) fn new(as_json: bool) -> Self {
        Self {
            as_json,
            rows: Vec::new(),
            missed: Vec::new(),
        }
    }

    /// Takes a figure; as JSON it is printed at once.
    pub(super) fn add(&mut self, figure: Figure) {
        if figure.is_met() == Some(false) {
            self.missed.push(figure.name.clone());
        }
        // At once: a run takes hours, and what it has found must not be lost if a later piece
        // fails.
        self.print_json(&figure.as_json());
        self.rows.push((figure.cells(), figure.ran));
    }

    /// Says that something could not be measured, and why.
    pub(super) fn skip(&mut self, name: &str, why: &str) {
        self.print_json(&json!({ "name": name, "value": null, "ok": null, "skipped": why }));
        let mut cells: [String; 6] = Default::default();
        cells[0] = name.to_owned();
        cells[1] = "skipped".to_owned();
        self.rows.push((cells, why.to_owned()));
    }

    #[allow(clippy::print_stdout, reason = "the figures are data")]
    fn print_json(&self, value: &Value) {
        if self.as_json {
            println!("{value}");
        }
    }

    /// Prints the table; failure where a goal was missed.
    #[allow(clippy::print_stdout, reason = "the figures are data")]
    pub(super) fn finish(self) -> Result<ExitCode> {
        if !self.as_json {
            print!("{}", table(&self.rows));
        }
        if self.missed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("goals missed: {}", self.missed.join("; "));
        Ok(ExitCode::FAILURE)
    }
}

/// Columns as wide as they must be; below each row what ran.
fn table(rows: &[([String; 6], String)]) -> String {
    const HEAD: [&str; 6] = ["what", "ours", "reference", "ratio", "goal", ""];
    let head = HEAD.map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().map(|(cells, _)| &cells[column]);
        let longest = cells
            .chain([&head[column]])
            .map(|cell| cell.chars().count());
        longest.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |cells: &[String; 6]| {
        let cells = cells.iter().zip(widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&head);
    for (cells, ran) in rows {
        text.push_str(&line(cells));
        if !ran.is_empty() {
            text.push_str(&format!("    {ran}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, reference: f64, is_less_better: bool, goal: Goal) -> Figure {
        Figure {
            name: "decode".to_owned(),
            value,
            unit: "CPU ms/picture".into(),
            is_less_better,
            reference: Some(("PIL".to_owned(), reference)),
            goal: Some(goal),
            ran: "200 pictures".to_owned(),
        }
    }

    #[test]
    fn a_ratio_is_how_many_times_better_we_are() {
        let time = figure(2.0, 5.0, true, Goal::Ratio(2.5));
        assert_eq!((time.ratio(), time.is_met()), (Some(2.5), Some(true)));
        let rate = figure(2.0, 5.0, false, Goal::Ratio(0.5));
        assert_eq!((rate.ratio(), rate.is_met()), (Some(0.4), Some(false)));
        assert_eq!(
            figure(199.0, 1.0, true, Goal::AtMost(200.0)).is_met(),
            Some(true)
        );
    }

    #[test]
    fn what_was_not_measured_meets_no_goal() {
        for goal in [Goal::Ratio(0.0), Goal::AtLeast(0.0), Goal::AtMost(9.0)] {
            assert_eq!(figure(f64::NAN, 1.0, true, goal).is_met(), Some(false));
        }
        let alone = Figure {
            reference: None,
            ..figure(1.0, 1.0, true, Goal::Ratio(0.0))
        };
        assert_eq!(alone.is_met(), Some(false));
    }

    #[test]
    fn the_table_has_a_row_and_what_ran_for_each_figure() {
        let met = figure(1.25, 3.1, true, Goal::Ratio(2.3));
        let text = table(&[(met.cells(), met.ran.clone())]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>().join(" "),
            "decode 1.25 CPU ms/picture PIL 3.10 2.48x >= 2.3x ok"
        );
        assert_eq!(lines[2], "    200 pictures");
        assert_eq!(met.as_json()["goal"]["ratio_at_least"], 2.3);
        assert_eq!(met.as_json()["ok"], true);
    }
}
