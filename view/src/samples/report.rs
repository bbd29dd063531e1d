//! The summary of a pipeline that was trained and evaluated.

use marquee_domain::report::{
    Baseline, EvalReport, FetchSummary, PhaseTimes, PreprocessSummary, RuleScores, SourceNote,
    TrainSummary,
};

use super::jobs::pipeline;
use crate::report::Summary;

/// What a rank of the train job said.
#[must_use]
pub fn train_summary(rank: u32) -> TrainSummary {
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

/// A pipeline with scores.
#[must_use]
pub fn summary() -> Summary {
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
        jobs: pipeline().jobs,
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
        ranks: vec![train_summary(0), train_summary(1)],
        eval_job: Some(18),
    }
}
