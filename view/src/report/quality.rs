//! The scores of each rule for thresholds, beside the source's ceiling and the baselines.

use marquee_domain::report::{EvalReport, rule_words};

use super::Part;
use crate::page::{Cell, Page, Tone, left, right, toned};
use crate::units;

/// One eval job's report: what it is of, its figures, why these, and what to doubt.
pub(super) fn section(page: &mut Page, eval: &Part<EvalReport>) {
    page.heading(title(eval));
    let report = &eval.left;
    // First, as on the page: whoever reads figures has then read whether to believe them.
    for warning in &report.warnings {
        page.line(format!("WARNING: {warning}"));
    }
    table(page, report);
    if let Some(headline) = &report.headline {
        page.line(headline_line(report, &headline.why));
    }
    let unrecorded = report
        .overlap
        .iter()
        .flat_map(|overlap| &overlap.unrecorded);
    let unrecorded: Vec<&str> = unrecorded.map(String::as_str).collect();
    if !unrecorded.is_empty() {
        page.line(format!(
            "what {} learned from before is not on record",
            unrecorded.join(", ")
        ));
    }
}

fn headline_line(report: &EvalReport, why: &str) -> String {
    match report.headline_scores() {
        Some(scores) => format!(
            "headline: micro F1 {:.3} {}; {why}",
            scores.f1_micro,
            rule_words(&scores.rule)
        ),
        None => why.to_owned(),
    }
}

/// All evals below each other, where there are several.
pub(super) fn side_by_side(page: &mut Page, evals: &[Part<EvalReport>]) {
    page.heading("Evaluations");
    let heads = [
        left("EVAL"),
        left("MODEL"),
        left("TRAINED BY"),
        right("TEST PICTURES"),
        right("MICRO F1"),
        right("95 % INTERVAL"),
        left("THRESHOLD"),
    ];
    let row = |eval: &Part<EvalReport>| -> Vec<Cell> {
        let report = &eval.left;
        let scores = report.headline_scores();
        let interval = scores.and_then(|scores| scores.f1_micro_interval);
        vec![
            eval.name.clone().into(),
            report.model.clone().into(),
            eval.input("model").unwrap_or_default().into(),
            units::count(test_pictures(report)).into(),
            match scores {
                Some(scores) => toned(format!("{:.3}", scores.f1_micro), Tone::Strong),
                // No figure at all where the model had seen the pictures: in a table it would be
                // compared whatever stood beside it.
                None => toned("no test", Tone::Warn),
            },
            interval
                .map(|(low, high)| format!("{low:.3} to {high:.3}"))
                .unwrap_or_default()
                .into(),
            scores
                .map(|scores| rule_cell(&scores.rule))
                .unwrap_or_default()
                .into(),
        ]
    };
    page.table(heads, evals.iter().map(row).collect());
    let mut tests: Vec<&str> = evals
        .iter()
        .map(|eval| eval.left.test_from.as_str())
        // A report of an earlier version has no digest: of its pictures nothing can be said either
        // way.
        .filter(|digest| !digest.is_empty())
        .collect();
    tests.sort_unstable();
    tests.dedup();
    if tests.len() > 1 {
        page.line("these are of different test pictures: their figures do not compare");
    }
}

fn test_pictures(report: &EvalReport) -> u64 {
    report.pictures.get("test").copied().unwrap_or_default()
}

/// `eval: quality of simple-cnn (trained by train) on 373 test pictures of preprocess, 12 classes`.
fn title(part: &Part<EvalReport>) -> String {
    let eval = &part.left;
    let of = |input: &str, before: &str, after: &str| {
        let what = part.input(input);
        what.map(|what| format!(" {before}{what}{after}"))
            .unwrap_or_default()
    };
    let pictures = units::count(test_pictures(eval));
    let (kind, caution) = if eval.source.synthetic {
        (
            "synthetic test pictures",
            " (generated, never to be set beside real ones)",
        )
    } else {
        ("test pictures", "")
    };
    format!(
        "{}: quality of {}{} on {pictures} {kind}{}{caution}, {} classes",
        part.name,
        eval.model,
        of("model", "(trained by ", ")"),
        of("shards", "of ", ""),
        eval.classes.len()
    )
}

fn table(page: &mut Page, eval: &EvalReport) {
    let f1 = |value: f64| Cell::from(format!("{value:.3}"));
    let headline = eval.headline_scores().map(|scores| scores.rule.as_str());
    let mut rows = Vec::new();
    for rule in &eval.rules {
        let tone = if headline == Some(&rule.rule) {
            Tone::Strong
        } else {
            Tone::Plain
        };
        let interval = rule
            .f1_micro_interval
            .map(|(low, high)| format!("{low:.3} to {high:.3}"))
            .unwrap_or_default();
        let mut name = rule_cell(&rule.rule);
        // The tone alone would not say it: it is lost in a pipe.
        if headline == Some(&rule.rule) {
            name.push_str(" (headline)");
        }
        rows.push(vec![
            toned(name, tone),
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

fn rule_cell(rule: &str) -> String {
    match rule {
        "global" => "one for all, tuned".to_owned(),
        "shrunk" => "per class, shrunk".to_owned(),
        "per_class" => "per class, tuned".to_owned(),
        "fixed" => "given in the job".to_owned(),
        number => number.to_owned(),
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
