//! `report.html`: one self-contained page.
//!
//! Invariants: no script, no font, picture or style from elsewhere (a content security policy in
//! the page forbids it); every text is escaped by the template macro; colour never carries meaning
//! alone. One module a section.

mod classes;
mod curves;
mod definitions;
mod format;
mod gallery;
mod plot;
mod provenance;
mod roc;
mod standing;

use marquee_domain::report::EvalReport;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::input::EvalInput;
use crate::report::Evaluation;

const STYLE: &str = include_str!("page/style.css");

/// Nothing from the network, no script; styles of this page and pictures inside it alone.
// Inline styles are let through because bars and ticks have their lengths there; without scripts
// nothing can make use of that.
const SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
                               base-uri 'none'; form-action 'none'";

/// The whole page.
pub(crate) fn render(input: &EvalInput<'_>, evaluation: &Evaluation) -> String {
    let report = &evaluation.report;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(SECURITY_POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (provenance::title(report)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the figures" }
                (header(input, evaluation))
                main #main {
                    (banner(report))
                    (warnings(&report.warnings))
                    (standing::section(input, report))
                    (classes::section(report))
                    (curves::section(&input.history))
                    (roc::section(report, &evaluation.rankings))
                    (gallery::section(input, report.chosen_rule(), &evaluation.decisions))
                    (definitions::section(input, report))
                }
                footer { p { "Written by Marquee. Every score is in predictions.parquet, every figure in report.json." } }
            }
        }
    }
    .into_string()
}

fn header(input: &EvalInput<'_>, evaluation: &Evaluation) -> Markup {
    let report = &evaluation.report;
    let pictures = |split: &str| report.pictures.get(split).copied().unwrap_or(0);
    html! {
        header.sign {
            div.sign-board {
                p.eyebrow { "Marquee evaluation" }
                h1 { (report.model) }
                p.billing {
                    span { b { (format::count(pictures("test"))) } " test pictures" }
                    span { b { (format::count(pictures("validation"))) } " for thresholds" }
                    span { b { (report.classes.len()) } " classes" }
                    @if input.timing.images_per_second > 0.0 {
                        span { b { (format::rate(input.timing.images_per_second)) } " pictures/s" }
                    }
                }
                (provenance::facts(report))
                @if report.source.synthetic {
                    p.synthetic {
                        strong { "Synthetic pictures." }
                        " They were generated, so these figures tell how well the machinery works; \
                         never set them beside figures on real pictures."
                    }
                }
                @if let Some(attribution) = &report.source.attribution {
                    p.attribution { (attribution) }
                }
            }
        }
    }
}

/// Over figures that are no test of the model.
fn banner(report: &EvalReport) -> Markup {
    let leak = report.overlap.as_ref().filter(|overlap| overlap.is_leak());
    html! {
        @if let Some(overlap) = leak {
            section.banner aria-labelledby="banner" {
                h2 #banner { span aria-hidden="true" { "✗ " } "Not a test" }
                p { "The model has learned from pictures that are scored here: " (overlap.words()) ". Its figures on them are no headline, here or anywhere." }
            }
        }
    }
}

fn warnings(warnings: &[String]) -> Markup {
    html! {
        @if !warnings.is_empty() {
            section.warnings aria-labelledby="warnings" {
                h2 #warnings { span aria-hidden="true" { "⚠ " } "Before you trust these figures" }
                ul { @for warning in warnings { li { (warning) } } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hidden text is placed absolutely. In a box that scrolls sideways and is not its containing block it
    /// would lie beside the box and make the whole page as wide as the box's content.
    #[test]
    fn boxes_that_scroll_or_clip_hold_their_hidden_texts() {
        let rule = STYLE
            .lines()
            .find(|line| line.ends_with("{ position: relative; }"))
            .unwrap();
        for class in [".scroll", ".panel", ".example", ".chip"] {
            assert!(rule.contains(class), "{class}: {rule}");
        }
        assert!(
            STYLE.contains("aspect-ratio: var(--frame"),
            "frames follow the pictures"
        );
    }
}
