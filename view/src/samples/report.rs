//! The summary of a pipeline that was trained and evaluated.

use marquee_domain::report::{
    Baseline, EvalReport, FeaturesReport, FetchSummary, Headline, Overlap, PhaseTimes,
    PreprocessSummary, RuleScores, SourceNote, TrainSummary,
};

use super::jobs::pipeline;
use crate::report::{Part, Summary};

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
            features_s: 0.0,
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
        fetches: vec![part(
            15,
            "fetch",
            &[],
            FetchSummary {
                asked: 3_000,
                fetched: 2_990,
                gone: 4,
                rejected: [("no_poster".to_owned(), 6)].into(),
                bytes: 190 << 20,
                ..FetchSummary::default()
            },
        )],
        preprocesses: vec![part(
            16,
            "preprocess",
            &[("dataset", "fetch")],
            PreprocessSummary {
                pictures: 2_990,
                skipped: [("truncated".to_owned(), 1), ("undecodable".to_owned(), 2)].into(),
                splits: [("train", 2_091), ("validation", 448), ("test", 448)]
                    .map(|(split, rows)| (split.to_owned(), rows))
                    .into(),
                classes: vec!["Horror".into(), "Western".into()],
                ..PreprocessSummary::default()
            },
        )],
        evals: vec![part(
            18,
            "eval",
            &[("model", "train"), ("shards", "preprocess")],
            EvalReport {
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
            },
        )],
        trainings: vec![part(
            17,
            "train",
            &[("shards", "preprocess")],
            vec![train_summary(0), train_summary(1)],
        )],
    }
}

/// A pipeline that trained and evaluated two models, one of them on pictures that it had learned from.
#[must_use]
pub fn two_models() -> Summary {
    let mut both = summary();
    let mut second = summary();
    let rename = |summary: &mut Summary, train: &str, eval: &str| {
        summary.trainings[0].name = train.to_owned();
        summary.evals[0].name = eval.to_owned();
        summary.evals[0].inputs[0].1 = train.to_owned();
    };
    rename(&mut both, "from-scratch", "eval-from-scratch");
    rename(&mut second, "fine-tune", "eval-fine-tune");
    let leak = Overlap {
        recorded: true,
        comparable: true,
        test_pictures: 450,
        test_trained: 189,
        ..Overlap::default()
    };
    let report = &mut second.evals[0].left;
    report.model = "tf_efficientnet_lite0".into();
    report.rules[0].f1_micro = 0.97;
    report.warnings = vec![format!("leak: {}; evaluate elsewhere", leak.words())];
    report.headline = Some(Headline {
        rule: "0.5".into(),
        stands: false,
        why: format!("there is no headline: {}", leak.words()),
        ..Headline::default()
    });
    report.overlap = Some(leak);
    report.test_from = "another".into();
    both.evals[0].left.test_from = "one".into();
    let features = FeaturesReport {
        pictures: 2_145,
        passes: 3_921,
        seconds: 45.0,
        seconds_per_picture: 0.0115,
        speedup: 38.4,
        ..FeaturesReport::default()
    };
    for rank in &mut second.trainings[0].left {
        rank.model = "tf_efficientnet_lite0".into();
        rank.features = Some(features.clone());
        rank.images_per_second = 47_324.0;
        rank.seconds = 48.0;
        rank.phases = PhaseTimes {
            step_s: 0.9,
            forward_s: 0.7,
            checkpoint_s: 0.15,
            validation_s: 0.2,
            features_s: 45.0,
            ..PhaseTimes::default()
        };
    }
    both.evals.append(&mut second.evals);
    both.trainings.append(&mut second.trainings);
    both
}

fn part<T>(job_id: i64, name: &str, inputs: &[(&str, &str)], left: T) -> Part<T> {
    Part {
        job_id,
        name: name.to_owned(),
        inputs: inputs
            .iter()
            .map(|(input, what)| ((*input).to_owned(), (*what).to_owned()))
            .collect(),
        left,
    }
}
