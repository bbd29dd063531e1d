//! The table of classes, the most frequent first.

use marquee_domain::report::{ClassScores, EvalReport};
use maud::{Markup, html};

use super::format::{count, css_percent, figure, maybe_figure, percent, rule};

pub(super) fn section(report: &EvalReport) -> Markup {
    html! {
        section aria-labelledby="classes" {
            h2 #classes { "Class by class" }
            p.lede { "Frequent classes first. The bar is F1 at the threshold of the rule " b { (rule(report.chosen_rule())) } "; the tick in it is F1 at 0.5." }
            // What scrolls sideways has to be reachable by keyboard, hence the tabindex.
            div.scroll tabindex="0" role="region" aria-labelledby="classes" {
                table.figures {
                    thead { tr {
                        th scope="col" { "Class" }
                        th.wide scope="col" { "F1" }
                        th scope="col" { "F1 at 0.5" }
                        th scope="col" { "Precision" }
                        th scope="col" { "Recall" }
                        th scope="col" { "Threshold" }
                        th scope="col" { abbr title="Area under the ROC curve" { "AUC" } }
                        th scope="col" { abbr title="Average precision" { "AP" } }
                        th scope="col" { "Pictures" }
                    } }
                    tbody { @for class in by_frequency(&report.per_class) { (row(class)) } }
                }
            }
        }
    }
}

/// As they are read: the most frequent first, then by name.
pub(super) fn by_frequency(classes: &[ClassScores]) -> Vec<&ClassScores> {
    let mut sorted: Vec<&ClassScores> = classes.iter().collect();
    sorted.sort_by(|a, b| {
        b.support
            .cmp(&a.support)
            .then_with(|| a.class.cmp(&b.class))
    });
    sorted
}

fn row(class: &ClassScores) -> Markup {
    html! {
        tr {
            th scope="row" { (class.class) }
            td.wide {
                div.bar-cell {
                    span.bar aria-hidden="true" {
                        i.fill style={ "width:" (css_percent(class.f1)) } {}
                        i.tick style={ "left:" (css_percent(class.f1_at_half)) } {}
                    }
                    b { (figure(class.f1)) }
                }
            }
            td { (figure(class.f1_at_half)) }
            td { (figure(class.precision)) }
            td { (figure(class.recall)) }
            td { (figure(class.threshold)) }
            td { (maybe_figure(class.roc_auc)) }
            td { (maybe_figure(class.average_precision)) }
            td { (count(class.support)) " " span.bounds.beside { (percent(class.prevalence)) } }
        }
    }
}
