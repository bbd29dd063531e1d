//! The scores of each rule for thresholds, beside the source's ceiling and the baselines.

use marquee_domain::report::EvalReport;

use crate::page::{Cell, Page, Tone, left, right, toned};
use crate::units;

/// The rule that the headline figures are of: thresholds tuned on validation.
pub(super) const HEADLINE_RULE: &str = "per_class";

pub(super) fn title(eval: &EvalReport) -> String {
    let pictures = units::count(eval.pictures.get("test").copied().unwrap_or_default());
    let pictures = if eval.source.synthetic {
        format!("{pictures} synthetic test pictures (generated, never to be set beside real ones)")
    } else {
        format!("{pictures} test pictures")
    };
    format!(
        "Quality of {} on {pictures}, {} classes",
        eval.model,
        eval.classes.len()
    )
}

pub(super) fn table(page: &mut Page, eval: &EvalReport) {
    let f1 = |value: f64| Cell::from(format!("{value:.3}"));
    let mut rows = Vec::new();
    for rule in &eval.rules {
        let tone = if rule.rule == HEADLINE_RULE {
            Tone::Strong
        } else {
            Tone::Plain
        };
        let interval = rule
            .f1_micro_interval
            .map(|(low, high)| format!("{low:.3} to {high:.3}"))
            .unwrap_or_default();
        rows.push(vec![
            toned(rule_words(&rule.rule), tone),
            toned(format!("{:.3}", rule.f1_micro), tone),
            interval.into(),
            toned(format!("{:.3}", rule.f1_weighted), tone),
            f1(rule.f1_macro),
        ]);
    }
    if let Some(ceiling) = eval.source.f1_micro_ceiling {
        rows.push(vec!["ceiling of this source".into(), f1(ceiling)]);
    }
    for baseline in &eval.baselines {
        rows.push(vec![
            baseline_words(&baseline.name).into(),
            f1(baseline.f1_micro),
            "".into(),
            f1(baseline.f1_weighted),
        ]);
    }
    let heads = [
        left("THRESHOLD"),
        right("MICRO F1"),
        right("95 % INTERVAL"),
        right("WEIGHTED F1"),
        right("MACRO F1"),
    ];
    page.table(heads, rows);
}

fn rule_words(rule: &str) -> &str {
    match rule {
        "per_class" => "per class, tuned on validation",
        "fixed" => "given in the job",
        number => number,
    }
}

fn baseline_words(name: &str) -> String {
    match name {
        "all" => "baseline: every class".to_owned(),
        "none" => "baseline: no class".to_owned(),
        "coin" => "baseline: a coin for each".to_owned(),
        "prevalence" => "baseline: by prevalence".to_owned(),
        other => format!("baseline: {other}"),
    }
}
