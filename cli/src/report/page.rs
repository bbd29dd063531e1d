//! The summary as a person reads it: one table of quality, one of time.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::report::{EvalReport, PhaseTimes, TrainSummary};
use marquee_domain::verdict::diagnose;
use serde_json::Value;

use super::{HEADLINE_RULE, Summary};
use crate::output::table::{Entry, left, right, toned};
use crate::output::{Page, Show, Tone, trained, words};

impl Show for Summary {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        page.heading(&format!(
            "Pipeline p{} {}",
            self.pipeline_id, self.pipeline_name
        ));
        crate::commands::jobs_table(page, &self.jobs, now);
        let data = data(self);
        if !data.is_empty() {
            page.heading("Data");
            data.iter().for_each(|line| page.line(line));
        }
        if let Some(eval) = &self.eval {
            page.heading(&quality_title(eval));
            quality(page, eval);
        }
        if !self.ranks.is_empty() {
            page.heading(&speed_title(&self.ranks));
            for went_on in &self.ranks[0].went_on {
                page.line(went_on.words());
            }
            time(page, &self.ranks);
        }
        if self.eval.is_none() {
            page.gap();
            page.line("no eval job has succeeded yet: there are no scores");
        }
        if let Some(attribution) = self
            .eval
            .as_ref()
            .and_then(|eval| eval.source.attribution.as_ref())
        {
            page.gap();
            page.line(attribution);
        }
    }

    fn json(&self) -> Value {
        Summary::json(self)
    }

    fn ids(&self) -> Vec<String> {
        self.eval_job.iter().map(ToString::to_string).collect()
    }
}

/// What came, what was left out and why: nothing is dropped in silence.
fn data(summary: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(fetch) = &summary.fetch {
        let mut line = format!(
            "fetched {} of {} ({})",
            words::count(fetch.fetched),
            words::count(fetch.asked),
            words::bytes(fetch.bytes)
        );
        if fetch.gone > 0 {
            line.push_str(&format!(", {} gone", words::count(fetch.gone)));
        }
        line.push_str(&by_class(", not usable", &fetch.rejected));
        line.push_str(&by_class(", failed", &fetch.failed));
        lines.push(line);
    }
    if let Some(prepared) = &summary.preprocess {
        let splits = ["train", "validation", "test"].map(|split| {
            let rows = prepared.splits.get(split).copied().unwrap_or_default();
            format!("{} {split}", words::count(rows))
        });
        lines.push(format!(
            "{} of {} pictures in {} classes: {}{}",
            words::count(prepared.splits.values().sum()),
            words::count(prepared.pictures),
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
        .map(|(class, count)| format!("{class} {}", words::count(*count)))
        .collect();
    format!("{word} {} ({})", words::count(all), each.join(", "))
}

fn quality_title(eval: &EvalReport) -> String {
    let pictures = words::count(eval.pictures.get("test").copied().unwrap_or_default());
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

fn quality(page: &mut Page, eval: &EvalReport) {
    let f1 = |value: f64| Entry::from(format!("{value:.3}"));
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
    page.table(&heads, rows);
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

fn speed_title(ranks: &[TrainSummary]) -> String {
    let first = &ranks[0];
    let backend = if first.backend == "none" {
        String::new()
    } else {
        format!(" ({})", first.backend)
    };
    let resumed = if first.resumed_from_step > 0 {
        format!(
            ", resumed from step {}",
            words::count(first.resumed_from_step)
        )
    } else {
        String::new()
    };
    format!(
        "Training: {} images/s on {}{backend}, {} steps, {} parameters{resumed}",
        words::rate(first.images_per_second),
        words::plural(first.world_size as usize, "rank"),
        words::count(first.steps),
        words::count(first.parameters)
    )
}

/// A phase's name and how to read it out of the times.
type Phase = (&'static str, fn(&PhaseTimes) -> f64);

/// The parts of a step, in the order in which they happen.
const PHASES: [Phase; 6] = [
    ("input", |times| times.input_s),
    ("forward", |times| times.forward_s),
    ("backward", |times| times.backward_s),
    ("all-reduce", |times| times.all_reduce_s),
    ("optimizer", |times| times.optimizer_s),
    ("checkpoint", |times| times.checkpoint_s),
];
/// Ranks that fit beside each other; JSON has all.
const RANKS_SHOWN: usize = 6;

fn time(page: &mut Page, ranks: &[TrainSummary]) {
    let shown = &ranks[..ranks.len().min(RANKS_SHOWN)];
    let mut heads = vec![left("WHERE THE TIME WENT")];
    heads.extend(
        shown
            .iter()
            .map(|rank| right(format!("RANK {}", rank.rank))),
    );
    let row = |name: &str, cell: &dyn Fn(&PhaseTimes) -> String| {
        let cells = shown.iter().map(|rank| cell(&rank.phases).into());
        std::iter::once(Entry::from(name)).chain(cells).collect()
    };
    let part =
        |read: fn(&PhaseTimes) -> f64| move |times: &PhaseTimes| share(read(times), times.step_s);
    let mut rows: Vec<Vec<Entry>> = PHASES
        .iter()
        .map(|(name, read)| row(name, &part(*read)))
        .collect();
    rows.push(row("other", &part(other_s)));
    rows.push(row("all steps", &|times| {
        format!("{:.1} s      ", times.step_s)
    }));
    rows.push(row("validation", &|times| {
        format!("{:.1} s      ", times.validation_s)
    }));
    page.table(&heads, rows);
    if ranks.len() > shown.len() {
        page.line(format!(
            "(and {} more; --output json has all)",
            ranks.len() - shown.len()
        ));
    }
    if let Some(bottleneck) = diagnose(ranks) {
        page.line(bottleneck.words());
    }
    for (label, line) in trained::lines(&ranks[0]) {
        page.line(format!("{label}: {line}"));
    }
    for warning in words::warnings(ranks) {
        page.line(format!("WARNING: {warning}"));
    }
}

/// What no phase accounts for: the loop's own cost.
fn other_s(times: &PhaseTimes) -> f64 {
    let known: f64 = PHASES.iter().map(|(_, read)| read(times)).sum();
    (times.step_s - known).max(0.0)
}

/// `12.3 s  45 %`.
fn share(seconds: f64, of: f64) -> String {
    let percent = if of > 0.0 { 100.0 * seconds / of } else { 0.0 };
    format!("{seconds:.1} s {percent:>3.0} %")
}

#[cfg(test)]
mod tests {
    use marquee_domain::report::{
        Baseline, FetchSummary, PreprocessSummary, RuleScores, SourceNote,
    };

    use super::*;

    fn rank(rank: u32) -> TrainSummary {
        TrainSummary {
            model: "simple-cnn".into(),
            parameters: 83_456,
            world_size: 2,
            rank,
            backend: "gloo".into(),
            epochs: 10,
            steps: 340,
            images_per_second: 512.3,
            phases: PhaseTimes {
                step_s: 42.0,
                input_s: 1.2,
                forward_s: 14.0,
                backward_s: 22.5,
                all_reduce_s: 3.0,
                optimizer_s: 0.8,
                checkpoint_s: 0.2,
                validation_s: 4.4,
            },
            ..TrainSummary::default()
        }
    }

    fn summary() -> Summary {
        let rule = |rule: &str, f1_micro, interval| RuleScores {
            rule: rule.into(),
            f1_micro,
            f1_weighted: f1_micro - 0.02,
            f1_macro: f1_micro - 0.03,
            precision_micro: 0.8,
            recall_micro: 0.7,
            f1_micro_interval: interval,
            ..RuleScores::default()
        };
        let baseline = |name: &str, f1_micro| Baseline {
            name: name.into(),
            f1_micro,
            f1_weighted: f1_micro,
        };
        Summary {
            pipeline_id: 3,
            pipeline_name: "posters".into(),
            jobs: crate::commands::samples::pipeline().jobs,
            fetch: Some(FetchSummary {
                asked: 3_000,
                fetched: 2_990,
                gone: 4,
                rejected: [("no_poster".to_owned(), 6)].into(),
                bytes: 190 << 20,
                ..FetchSummary::default()
            }),
            preprocess: Some(PreprocessSummary {
                pictures: 2_990,
                skipped: [("truncated".to_owned(), 1), ("undecodable".to_owned(), 2)].into(),
                splits: [("train", 2_091), ("validation", 448), ("test", 448)]
                    .map(|(split, rows)| (split.to_owned(), rows))
                    .into(),
                classes: vec!["Horror".into(), "Western".into()],
                ..PreprocessSummary::default()
            }),
            eval: Some(EvalReport {
                model: "simple-cnn".into(),
                classes: vec!["Horror".into(), "Western".into()],
                source: SourceNote {
                    synthetic: true,
                    attribution: None,
                    f1_micro_ceiling: Some(0.831),
                    ..SourceNote::default()
                },
                pictures: [("test".to_owned(), 450)].into(),
                rules: vec![
                    rule("0.5", 0.68, None),
                    rule("0.25", 0.71, None),
                    rule("per_class", 0.74, Some((0.71, 0.77))),
                ],
                baselines: vec![baseline("all", 0.37), baseline("prevalence", 0.245)],
                ..EvalReport::default()
            }),
            ranks: vec![rank(0), rank(1)],
            eval_job: Some(18),
        }
    }

    #[test]
    fn what_ranks_warn_of_is_told_once() {
        let warned = |number| TrainSummary {
            warnings: vec!["NCCL cannot be used: rank 0: no shim".into()],
            ..rank(number)
        };
        let warnings = words::warnings(&[warned(0), warned(1)]);
        assert_eq!(warnings, ["NCCL cannot be used: rank 0: no shim"]);
        assert!(words::warnings(&[rank(0)]).is_empty());
    }

    #[test]
    fn the_summary_sets_scores_beside_ceiling_and_baselines_and_shows_where_time_went() {
        let mut page = Page::new(false, None);
        summary().page(&mut page, crate::commands::samples::now());
        insta::assert_snapshot!(page.finish(), @r#"
        Pipeline p3 posters
        ID  PIPELINE    NAME        KIND        STATE      ATTEMPT    RAN  AGE  DETAIL
        15  p3 posters  fetch       fetch       succeeded      1/3   50 s  5 m
        16  p3 posters  preprocess  preprocess  running        1/3  4.0 s  5 m  resize 1,200/3,000 images (40 %), 300 images/s, 6 s left
        17  p3 posters  train       train       waiting        0/3         5 m  waits for "preprocess" to succeed

        Data
        fetched 2,990 of 3,000 (190.0 MiB), 4 gone, not usable 6 (no_poster 6)
        2,987 of 2,990 pictures in 2 classes: 2,091 train, 448 validation, 448 test; skipped 3 (truncated 1, undecodable 2)

        Quality of simple-cnn on 450 synthetic test pictures (generated, never to be set beside real ones), 2 classes
        THRESHOLD                       MICRO F1   95 % INTERVAL  WEIGHTED F1  MACRO F1
        0.5                                0.680                        0.660     0.650
        0.25                               0.710                        0.690     0.680
        per class, tuned on validation     0.740  0.710 to 0.770        0.720     0.710
        ceiling of this source             0.831
        baseline: every class              0.370                        0.370
        baseline: by prevalence            0.245                        0.245

        Training: 512 images/s on 2 ranks (gloo), 340 steps, 83,456 parameters
        WHERE THE TIME WENT        RANK 0        RANK 1
        input                 1.2 s   3 %   1.2 s   3 %
        forward              14.0 s  33 %  14.0 s  33 %
        backward             22.5 s  54 %  22.5 s  54 %
        all-reduce            3.0 s   7 %   3.0 s   7 %
        optimizer             0.8 s   2 %   0.8 s   2 %
        checkpoint            0.2 s   0 %   0.2 s   0 %
        other                 0.3 s   1 %   0.3 s   1 %
        all steps            42.0 s        42.0 s
        validation            4.4 s         4.4 s
        compute-bound: 89 % of the step computes; only faster devices, more ranks or a lower precision would help
        "#);
    }

    #[test]
    fn the_json_has_the_names_that_scripts_use() {
        let json = summary().json();
        assert_eq!(json["f1_micro"], 0.74);
        assert_eq!(json["f1_micro_ceiling"], 0.831);
        assert_eq!(json["baselines"]["all"]["f1_micro"], 0.37);
        assert_eq!(json["rules"][0]["rule"], "0.5");
        assert_eq!(json["world_size"], 2);
        assert_eq!(json["phases"][1]["rank"], 1);
        assert_eq!(json["phases"][1]["backward_s"], 22.5);
    }

    #[test]
    fn without_scores_none_are_invented() {
        let empty = Summary {
            fetch: None,
            preprocess: None,
            eval: None,
            ranks: Vec::new(),
            ..summary()
        };
        let mut page = Page::new(false, None);
        empty.page(&mut page, DateTime::UNIX_EPOCH);
        assert!(page.finish().contains("no eval job has succeeded yet"));
        assert!(empty.json()["f1_micro"].is_null());
    }
}
