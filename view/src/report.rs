//! The summary of a pipeline that trained and evaluated a model: how good, how fast, and where the
//! time went.
//!
//! Invariant: nothing is computed here that the eval job has not measured; figures are taken from
//! its `report.json` and from the ranks' own summaries.

mod data;
mod quality;
mod time;

use chrono::{DateTime, Utc};
use marquee_domain::bottleneck::diagnose;
use marquee_domain::report::{EvalReport, FetchSummary, PreprocessSummary, TrainSummary};
use marquee_proto::v1::Job;
use serde_json::{Value, json};

use crate::page::{Page, View};
use crate::{jobs, units, words};
use quality::HEADLINE_RULE;

/// All that the table shows.
#[derive(Debug)]
pub struct Summary {
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
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        let first = self
            .jobs
            .iter()
            .filter_map(|job| units::time(job.created_at.as_ref()))
            .min()?;
        let ends: Option<Vec<_>> = self
            .jobs
            .iter()
            .map(|job| units::time(job.finished_at.as_ref()))
            .collect();
        Some(units::between(first, ends?.into_iter().max()?).as_secs_f64())
    }
}

impl View for Summary {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        page.heading(format!(
            "Pipeline p{} {}",
            self.pipeline_id, self.pipeline_name
        ));
        jobs::table(page, &self.jobs, now);
        let data = data::lines(self.fetch.as_ref(), self.preprocess.as_ref());
        if !data.is_empty() {
            page.heading("Data");
            data.into_iter().for_each(|line| page.line(line));
        }
        if let Some(eval) = &self.eval {
            page.heading(quality::title(eval));
            quality::table(page, eval);
        }
        if let [first, ..] = self.ranks.as_slice() {
            page.heading(time::title(first));
            for went_on in &first.went_on {
                page.line(went_on.words());
            }
            time::table(page, &self.ranks, first);
        }
        if self.eval.is_none() {
            page.gap();
            page.line("no eval job has succeeded yet: there are no scores");
        }
        let attribution = self
            .eval
            .as_ref()
            .and_then(|eval| eval.source.attribution.as_ref());
        if let Some(attribution) = attribution {
            page.gap();
            page.line(attribution);
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
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

    fn ids(&self) -> Vec<String> {
        self.eval_job.iter().map(ToString::to_string).collect()
    }
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

#[cfg(test)]
mod tests {
    use crate::samples::{now, summary};

    use super::*;

    #[test]
    fn the_json_has_the_names_that_scripts_use() {
        let json = summary().json(now());
        assert_eq!(json["f1_micro"], 0.74);
        assert_eq!(json["f1_micro_ceiling"], 0.831);
        assert_eq!(json["baselines"]["all"]["f1_micro"], 0.37);
        assert_eq!(json["rules"][0]["rule"], "0.5");
        assert_eq!(json["world_size"], 2);
        assert_eq!(json["phases"][1]["rank"], 1);
        assert_eq!(json["phases"][1]["backward_s"], 22.5);
    }
}
