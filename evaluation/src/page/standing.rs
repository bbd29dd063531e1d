//! The headline: how good is it, how sure are we, and against what?

use marquee_domain::report::{EvalReport, Headline, RuleScores};
use maud::{Markup, html};

use super::format::{count, css_percent, figure, interval, maybe_figure, percent, rule};
use crate::input::EvalInput;

pub(super) fn section(input: &EvalInput<'_>, report: &EvalReport) -> Markup {
    html! {
        section aria-labelledby="standing" {
            h2 #standing { "Where it stands" }
            @match report.headline_scores() {
                Some(headline) => {
                    p.lede { "On the test split. Rule of the headline: " b { (rule(&headline.rule)) } "." }
                    (cards(report, headline))
                }
                None => { p.lede { b { "There is no headline." } " The model has learned from pictures that are scored here, so no figure on this page says how good it is on new ones." } }
            }
            (ruler(report))
            (rules_table(input, report))
            @if let Some(headline) = &report.headline { (choice(headline)) }
        }
    }
}

/// How validation chose the rule.
fn choice(headline: &Headline) -> Markup {
    html! {
        h3 #choice { "Why this rule" }
        p.lede { (capital(&headline.why)) "." }
        @if !headline.candidates.is_empty() {
            div.scroll tabindex="0" role="region" aria-labelledby="choice" {
                table.figures {
                    thead { tr {
                        th scope="col" { "Rule" }
                        th scope="col" { "Micro F1 on validation pictures left out" }
                        th scope="col" { "Best in" }
                    } }
                    tbody {
                        @for candidate in &headline.candidates {
                            tr {
                                th scope="row" {
                                    (rule(&candidate.rule))
                                    @if candidate.rule == headline.rule { span.bounds { "chosen" } }
                                }
                                td { (figure(candidate.f1_micro)) }
                                td { (percent(candidate.best_share)) " of resamples" }
                            }
                        }
                    }
                }
            }
            p.note { "The test split has no say: a rule that is chosen by the figures it is then shown with would flatter itself." }
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

fn cards(report: &EvalReport, headline: &RuleScores) -> Markup {
    html! {
        ul.cards-row {
            li.card.lead {
                p.card-name { "Micro F1" }
                p.card-figure { (figure(headline.f1_micro)) }
                (interval_line(headline.f1_micro_interval))
                @if let Some(text) = way_to_ceiling(report, headline) { p.card-note { (text) } }
            }
            li.card {
                p.card-name { "Weighted F1" }
                p.card-figure { (figure(headline.f1_weighted)) }
                (interval_line(headline.f1_weighted_interval))
                p.card-note { "each class counts as often as it is true" }
            }
            li.card {
                p.card-name { "Mean average precision" }
                p.card-figure { (maybe_figure(report.map)) }
                p.card-note { "over " (report.map_classes) " of " (report.classes.len()) " classes, no threshold" }
            }
            li.card {
                p.card-name { "Mean ROC AUC" }
                p.card-figure { (maybe_figure(report.roc_auc_macro)) }
                p.card-note { "over " (report.roc_auc_classes) " of " (report.classes.len()) " classes; 0.5 is chance" }
            }
        }
    }
}

fn interval_line(bounds: Option<(f64, f64)>) -> Markup {
    html! {
        @if let Some(bounds) = bounds { p.card-interval { (interval(bounds)) " (95\u{a0}%)" } }
    }
}

/// How much of what can be learned was learned.
fn way_to_ceiling(report: &EvalReport, headline: &RuleScores) -> Option<String> {
    let ceiling = report.source.f1_micro_ceiling?;
    let all = report
        .baselines
        .iter()
        .find(|baseline| baseline.name == "all")?
        .f1_micro;
    // Where predicting everything is the best there is, the way to the ceiling has no length.
    (ceiling > all).then(|| {
        let share = (headline.f1_micro - all) / (ceiling - all);
        format!(
            "{} of the way from predicting everything to the ceiling",
            percent(share)
        )
    })
}

/// One line of the ruler.
struct Mark {
    name: String,
    kind: &'static str,
    value: f64,
    bounds: Option<(f64, f64)>,
}

fn marks(report: &EvalReport) -> Vec<Mark> {
    let baselines = report.baselines.iter().map(|baseline| Mark {
        name: baseline_words(&baseline.name).to_owned(),
        kind: "baseline",
        value: baseline.f1_micro,
        bounds: None,
    });
    let rules = report.rules.iter().map(|scores| Mark {
        name: rule(&scores.rule),
        kind: "model",
        value: scores.f1_micro,
        bounds: scores.f1_micro_interval,
    });
    let ceiling = report.source.f1_micro_ceiling.map(|value| Mark {
        name: "Ceiling".to_owned(),
        kind: "ceiling",
        value,
        bounds: None,
    });
    let mut baselines: Vec<Mark> = baselines.collect();
    baselines.sort_by(|a, b| a.value.total_cmp(&b.value));
    baselines.into_iter().chain(rules).chain(ceiling).collect()
}

fn baseline_words(name: &str) -> &str {
    match name {
        "all" => "Predict everything",
        "none" => "Predict nothing",
        "coin" => "Toss a coin",
        "prevalence" => "Guess by frequency",
        other => other,
    }
}

/// All micro F1 on one scale from 0 to 1.
fn ruler(report: &EvalReport) -> Markup {
    let ceiling = report.source.f1_micro_ceiling;
    let ceiling_css = ceiling.map(|value| format!("--ceiling:{}", css_percent(value)));
    html! {
        div.panel {
            table.ruler style=[ceiling_css] data-ceiling[ceiling.is_some()] {
                caption { "Micro F1 on the test split" }
                thead.visually-hidden { tr {
                    th scope="col" { "Classifier" }
                    td aria-hidden="true" {}
                    th scope="col" { "Micro F1 and 95 % interval" }
                } }
                tbody {
                    @for mark in marks(report) {
                        tr class=(mark.kind) {
                            th scope="row" { (mark.name) }
                            // Its figures stand beside it as text: a screen reader misses nothing.
                            td.track aria-hidden="true" { div { (track(&mark)) } }
                            td.num {
                                b { (figure(mark.value)) }
                                @if let Some(bounds) = mark.bounds { " " span.bounds { (interval(bounds)) } }
                            }
                        }
                    }
                }
                tfoot aria-hidden="true" { tr {
                    td {}
                    td.track { div { @for tenth in (0..=10).step_by(2) {
                        i.scale style={ "left:" (tenth * 10) "%" } { (f64::from(tenth) / 10.0) }
                    } } }
                    td {}
                } }
            }
            @if ceiling.is_some() {
                p.note { "The dashed line is the ceiling: the best that any classifier can expect on this source." }
            }
        }
    }
}

fn track(mark: &Mark) -> Markup {
    html! {
        @if let Some((low, high)) = mark.bounds {
            i.whisker style={ "left:" (css_percent(low)) ";width:" (css_percent(high - low)) } {}
        }
        i.dot style={ "left:" (css_percent(mark.value)) } {}
    }
}

fn rules_table(input: &EvalInput<'_>, report: &EvalReport) -> Markup {
    let headline = report.headline_scores().map(|scores| scores.rule.as_str());
    html! {
        h3 #rules { "Threshold rules" }
        p.lede { "A label is predicted when its score is at or above the threshold. Tuned thresholds come from the validation split alone." }
        div.scroll tabindex="0" role="region" aria-labelledby="rules" {
            table.figures {
                thead { tr {
                    th scope="col" { "Rule" }
                    th scope="col" { "F1 micro" }
                    th scope="col" { "F1 weighted" }
                    th scope="col" { "F1 macro" }
                    th scope="col" { "F1 samples" }
                    th scope="col" { "Precision" }
                    th scope="col" { "Recall" }
                    th scope="col" { "All labels right" }
                    th scope="col" { "Hamming loss" }
                } }
                tbody {
                    @for scores in &report.rules { (rule_row(scores, headline == Some(&scores.rule))) }
                    @for baseline in &report.baselines {
                        tr.quiet {
                            th scope="row" { (baseline_words(&baseline.name)) }
                            td { (figure(baseline.f1_micro)) }
                            td { (figure(baseline.f1_weighted)) }
                            td.blank colspan="6" { span.visually-hidden { "not computed" } }
                        }
                    }
                }
            }
        }
        @if input.bootstrap_resamples > 0 {
            p.note { "Small figures: 95 % interval over " (count(input.bootstrap_resamples.into())) " bootstrap resamples of the test pictures. Where two intervals overlap widely, the difference may be chance." }
        }
    }
}

fn rule_row(scores: &RuleScores, is_headline: bool) -> Markup {
    let with_bounds = |value: f64, bounds: Option<(f64, f64)>| {
        html! {
            b { (figure(value)) }
            @if let Some(bounds) = bounds { span.bounds { (interval(bounds)) } }
        }
    };
    html! {
        tr {
            th scope="row" {
                (rule(&scores.rule))
                @if is_headline { span.bounds { "headline" } }
            }
            td { (with_bounds(scores.f1_micro, scores.f1_micro_interval)) }
            td { (with_bounds(scores.f1_weighted, scores.f1_weighted_interval)) }
            td { (figure(scores.f1_macro)) }
            td { (figure(scores.f1_samples)) }
            td { (figure(scores.precision_micro)) }
            td { (figure(scores.recall_micro)) }
            td { (percent(scores.subset_accuracy)) }
            td { (figure(scores.hamming_loss)) }
        }
    }
}
