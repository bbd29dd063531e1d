//! Programs that measure: each figure is a line of JSON on their stdout, which is judged and shown here.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Options;
use super::figure::{Figure, Goal, Sheet};
use marquee_xtask::{process, report};

/// Takes the figures that `command` prints, each as soon as it is there.
pub(super) fn measure(command: &mut Command, options: &Options, sheet: &mut Sheet) -> Result<()> {
    if options.quick {
        command.arg("--quick");
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", process::line(command)))?;
    let stdout = child.stdout.take().context("its stdout is ours")?;
    for line in BufReader::new(stdout).lines() {
        match read(&line?)? {
            Line::Figure(figure) => {
                report::note(&format!(
                    "{}: {:.4} {}",
                    figure.name, figure.value, figure.unit
                ));
                sheet.add(figure);
            }
            Line::Skipped { name, why } => {
                report::note(&format!("{name}: skipped, {why}"));
                sheet.skip(&name, &why);
            }
        }
    }
    // Looked at last: the figures that came before a failure are shown all the same.
    let status = child.wait()?;
    if !status.success() {
        bail!("{} failed with {status}", process::line(command));
    }
    Ok(())
}

/// What one line of a measuring program says.
#[derive(Debug, PartialEq)]
enum Line {
    Figure(Figure),
    Skipped { name: String, why: String },
}

fn read(line: &str) -> Result<Line> {
    let value: Value =
        serde_json::from_str(line).with_context(|| format!("no figure: {line:?}"))?;
    let text = |key: &str| -> Result<String> {
        let text = value[key].as_str();
        Ok(text
            .with_context(|| format!("no {key:?} in {line}"))?
            .to_owned())
    };
    let name = text("name")?;
    if value.get("skipped").is_some() {
        let why = text("skipped")?;
        return Ok(Line::Skipped { name, why });
    }
    let reference = &value["reference"];
    let goal = |key: &str| value["goal"][key].as_f64();
    Ok(Line::Figure(Figure {
        name,
        // A value that is no number stands as null in JSON, and then meets no goal.
        value: value["value"].as_f64().unwrap_or(f64::NAN),
        unit: text("unit")?.into(),
        is_less_better: value["is_less_better"]
            .as_bool()
            .with_context(|| format!("no \"is_less_better\" in {line}"))?,
        reference: reference["name"]
            .as_str()
            .zip(reference["value"].as_f64())
            .map(|(name, value)| (name.to_owned(), value)),
        goal: goal("at_most")
            .map(Goal::AtMost)
            .or_else(|| goal("at_least").map(Goal::AtLeast)),
        ran: text("ran")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_figure_with_what_it_is_judged_by() {
        let line = r#"{"name": "one", "value": 12.5, "unit": "ms", "is_less_better": true,
            "reference": {"name": "bare", "value": 2.5}, "goal": {"at_most": 40.0}, "ran": "5 jobs"}"#;
        let Line::Figure(figure) = read(line).unwrap() else {
            panic!("a figure");
        };
        assert_eq!((figure.ratio(), figure.is_met()), (Some(0.2), Some(true)));
        assert_eq!((&*figure.unit, figure.ran.as_str()), ("ms", "5 jobs"));
    }

    #[test]
    fn a_value_that_is_not_there_meets_no_goal() {
        let line = r#"{"name": "one", "value": null, "unit": "ms", "is_less_better": false,
            "reference": null, "goal": {"at_least": 0}, "ran": ""}"#;
        let Line::Figure(figure) = read(line).unwrap() else {
            panic!("a figure");
        };
        assert_eq!((figure.is_met(), figure.ratio()), (Some(false), None));
    }

    #[test]
    fn what_was_skipped_says_why_and_what_is_no_figure_is_refused() {
        let skipped = read(r#"{"name": "many", "skipped": "refused: at most 1,000"}"#).unwrap();
        let why = "refused: at most 1,000".to_owned();
        let name = "many".to_owned();
        assert_eq!(skipped, Line::Skipped { name, why });
        for line in ["panicked", "{}", r#"{"name": "x", "value": 1}"#] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
