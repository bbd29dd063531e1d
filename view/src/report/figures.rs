//! The same for programs.

use marquee_domain::bottleneck::{JobParts, diagnose};
use marquee_domain::report::{EvalReport, TrainSummary};
use marquee_proto::v1::Job;
use serde_json::{Value, json};

use super::{Part, Summary};
use crate::{outcome, units, words};

/// The keys at the top are those of [`Summary::main_eval`] and of the last training; `evals` and
/// `trainings` hold all.
pub(super) fn json(summary: &Summary) -> Value {
    let main = summary.main_eval();
    let of_eval = main.map(eval).unwrap_or_default();
    let last = summary.trainings.last();
    let of_training = last.map(training).unwrap_or_default();
    let mut warnings = Vec::new();
    let mut warn = |job: &str, of_job: &[String]| {
        warnings.extend(of_job.iter().map(|warning| format!("{job}: {warning}")));
    };
    for fetch in &summary.fetches {
        warn(&fetch.name, &fetch.left.remarks.warnings);
    }
    for preprocess in &summary.preprocesses {
        warn(&preprocess.name, &preprocess.left.warnings);
    }
    for eval in &summary.evals {
        warn(&eval.name, &eval.left.warnings);
    }
    for training in &summary.trainings {
        warn(&training.name, &outcome::warnings(&training.left));
    }
    json!({
        "pipeline_id": summary.pipeline_id,
        "jobs": summary.jobs.iter().map(job_line).collect::<Vec<_>>(),
        "fetch": summary.fetches.last().map(|fetch| &fetch.left),
        "preprocess": summary.preprocesses.last().map(|preprocess| &preprocess.left),
        "eval": main.map(|eval| &eval.name),
        "rule": of_eval["rule"],
        "f1_micro": of_eval["f1_micro"],
        "f1_weighted": of_eval["f1_weighted"],
        "f1_micro_ceiling": of_eval["f1_micro_ceiling"],
        "synthetic": of_eval["synthetic"],
        "baselines": of_eval["baselines"],
        "rules": of_eval["rules"],
        "warnings": warnings,
        "seconds": summary.seconds(),
        "images_per_second": of_training["images_per_second"],
        "world_size": of_training["world_size"],
        "verdict": of_training["verdict"],
        "weights": of_training["weights"],
        "features": of_training["features"],
        // A list also where nothing was trained: whoever goes through it need not ask first.
        "phases": last.map_or_else(|| json!([]), |_| of_training["phases"].clone()),
        "evals": summary.evals.iter().map(eval).collect::<Vec<_>>(),
        "trainings": summary.trainings.iter().map(training).collect::<Vec<_>>(),
    })
}

fn eval(part: &Part<EvalReport>) -> Value {
    let report = &part.left;
    let headline = report.headline_scores();
    let baselines = report.baselines.iter().map(|baseline| {
        let scores = json!({ "f1_micro": baseline.f1_micro, "f1_weighted": baseline.f1_weighted });
        (baseline.name.clone(), scores)
    });
    json!({
        "name": part.name,
        "job_id": part.job_id,
        "model": report.model,
        "model_of": part.input("model"),
        "shards_of": part.input("shards"),
        "pictures": report.pictures,
        "classes": report.classes.len(),
        "rule": headline.map(|scores| &scores.rule),
        "why": report.headline.as_ref().map(|headline| &headline.why),
        "f1_micro": headline.map(|scores| scores.f1_micro),
        "f1_micro_interval": headline.and_then(|scores| scores.f1_micro_interval),
        "f1_weighted": headline.map(|scores| scores.f1_weighted),
        "f1_micro_ceiling": report.source.f1_micro_ceiling,
        "synthetic": report.source.synthetic,
        "baselines": baselines.collect::<serde_json::Map<_, _>>(),
        "rules": report.rules,
        "headline": report.headline,
        "overlap": report.overlap,
        "warnings": report.warnings,
        "test_from": report.test_from,
    })
}

fn training(part: &Part<Vec<TrainSummary>>) -> Value {
    let ranks = &part.left;
    let first = ranks.first();
    json!({
        "name": part.name,
        "job_id": part.job_id,
        "model": first.map(|rank| &rank.model),
        "shards_of": part.input("shards"),
        "images_per_second": first.map(TrainSummary::whole_images_per_second),
        // Beside the rate of the whole: steps over features read no pictures, and their rate is the
        // one that impresses.
        "step_images_per_second": first.map(|rank| rank.images_per_second),
        "world_size": first.map(|rank| rank.world_size),
        "parts": JobParts::of(ranks).map(|parts| json!({
            "features_s": parts.features_s,
            "steps_s": parts.steps_s,
            "validation_s": parts.validation_s,
            "rest_s": parts.rest_s,
        })),
        "verdict": diagnose(ranks).map(|bottleneck| {
            json!({ "bottleneck": bottleneck.name(), "words": bottleneck.words() })
        }),
        "weights": first.map(|rank| &rank.weights),
        "features": first.and_then(|rank| rank.features.as_ref()),
        "phases": ranks.iter().map(phases).collect::<Vec<_>>(),
        "warnings": outcome::warnings(ranks),
    })
}

fn job_line(job: &Job) -> Value {
    let ran = match (&job.started_at, &job.finished_at) {
        (Some(started), Some(finished)) => units::time(Some(started))
            .zip(units::time(Some(finished)))
            .map(|(from, to)| units::between(from, to).as_secs_f64()),
        (None, _) | (_, None) => None,
    };
    json!({
        "name": job.name,
        "kind": words::job_kind(job),
        "state": words::job_state(job),
        "attempts": job.attempt,
        "seconds": ran,
    })
}

fn phases(rank: &TrainSummary) -> Value {
    let mut value = serde_json::to_value(rank.phases).unwrap_or_default();
    value["rank"] = rank.rank.into();
    value
}
