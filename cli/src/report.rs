//! The summary of a pipeline that trained and evaluated a model: how good, how fast, and where the
//! time went. Shown by `marquee report` and at the end of `marquee demo`.
//!
//! Invariant: nothing is computed here that the eval job has not measured; figures are taken from
//! its `report.json` and from the ranks' own summaries.

mod gather;
mod page;

use marquee_domain::job::JobStateName;
use marquee_domain::report::{EvalReport, FetchSummary, PreprocessSummary, TrainSummary};
use marquee_domain::verdict::diagnose;
use marquee_proto::v1::Job;
use serde_json::{Value, json};

use crate::output::words;

pub(crate) use gather::{gather, summaries};

/// The rule that the headline figures are of: thresholds tuned on validation.
const HEADLINE_RULE: &str = "per_class";

/// All that the table shows.
#[derive(Debug)]
pub(crate) struct Summary {
    pub pipeline_id: i64,
    pub pipeline_name: String,
    pub jobs: Vec<Job>,
    /// None while no fetch job has succeeded, or there is none.
    pub fetch: Option<FetchSummary>,
    /// The same of preprocess jobs.
    pub preprocess: Option<PreprocessSummary>,
    /// None while no eval job has succeeded.
    pub eval: Option<EvalReport>,
    /// Of the newest succeeded train job, by rank.
    pub ranks: Vec<TrainSummary>,
    /// The eval job whose report this is.
    pub eval_job: Option<i64>,
}

impl Summary {
    /// From the first submission to the last job's end, where all have ended.
    pub(crate) fn seconds(&self) -> Option<f64> {
        let first = self
            .jobs
            .iter()
            .filter_map(|job| words::time(job.created_at.as_ref()))
            .min()?;
        let ends: Option<Vec<_>> = self
            .jobs
            .iter()
            .map(|job| words::time(job.finished_at.as_ref()))
            .collect();
        Some(words::between(first, ends?.into_iter().max()?).as_secs_f64())
    }

    /// The summary as one JSON object.
    pub(crate) fn json(&self) -> Value {
        let eval = self.eval.as_ref();
        let headline =
            eval.and_then(|eval| eval.rules.iter().find(|rule| rule.rule == HEADLINE_RULE));
        let baselines = eval.map(|eval| {
            let figures = eval.baselines.iter().map(|baseline| {
                let scores =
                    json!({ "f1_micro": baseline.f1_micro, "f1_weighted": baseline.f1_weighted });
                (baseline.name.clone(), scores)
            });
            figures.collect::<serde_json::Map<_, _>>()
        });
        json!({
            "pipeline_id": self.pipeline_id,
            "jobs": self.jobs.iter().map(job_line).collect::<Vec<_>>(),
            "fetch": self.fetch,
            "preprocess": self.preprocess,
            "f1_micro": headline.map(|rule| rule.f1_micro),
            "f1_weighted": headline.map(|rule| rule.f1_weighted),
            "f1_micro_ceiling": eval.and_then(|eval| eval.source.f1_micro_ceiling),
            "synthetic": eval.map(|eval| eval.source.synthetic),
            "baselines": baselines,
            "rules": eval.map(|eval| &eval.rules),
            "seconds": self.seconds(),
            "images_per_second": self.ranks.first().map(|rank| rank.images_per_second),
            "world_size": self.ranks.first().map(|rank| rank.world_size),
            "verdict": diagnose(&self.ranks).map(|bottleneck| {
                json!({ "bottleneck": bottleneck.name(), "words": bottleneck.words() })
            }),
            "weights": self.ranks.first().map(|rank| &rank.weights),
            "features": self.ranks.first().and_then(|rank| rank.features.as_ref()),
            "phases": self.ranks.iter().map(phases).collect::<Vec<_>>(),
        })
    }
}

fn job_line(job: &Job) -> Value {
    let ran = match (&job.started_at, &job.finished_at) {
        (Some(started), Some(finished)) => words::time(Some(started))
            .zip(words::time(Some(finished)))
            .map(|(from, to)| words::between(from, to).as_secs_f64()),
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

/// Whether every job succeeded.
pub(crate) fn all_succeeded(jobs: &[Job]) -> bool {
    jobs.iter()
        .all(|job| words::state_name(job) == Some(JobStateName::Succeeded))
}
