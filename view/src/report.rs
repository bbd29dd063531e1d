//! The summary of a pipeline that trained and evaluated a model: how good, how fast, and where the
//! time went.
//!
//! Invariant: nothing is computed here that the eval job has not measured; figures are taken from
//! its `report.json` and from the ranks' own summaries.

mod data;
mod figures;
mod quality;
mod time;

use chrono::{DateTime, Utc};
use marquee_domain::report::{EvalReport, FetchSummary, PreprocessSummary, TrainSummary};
use marquee_proto::v1::Job;
use serde_json::Value;

use crate::page::{Page, View};
use crate::{jobs, units};

/// All that the page shows.
#[derive(Debug)]
pub struct Summary {
    pub pipeline_id: i64,
    pub pipeline_name: String,
    pub jobs: Vec<Job>,
    /// Of the jobs that succeeded, in the pipeline's order, as are those that follow.
    pub fetches: Vec<Part<FetchSummary>>,
    pub preprocesses: Vec<Part<PreprocessSummary>>,
    /// The summaries of each train job's ranks, by rank; at least one.
    pub trainings: Vec<Part<Vec<TrainSummary>>>,
    pub evals: Vec<Part<EvalReport>>,
}

/// What one job of the pipeline left behind.
#[derive(Debug)]
pub struct Part<T> {
    /// The job that did the work: an earlier one where its artifact was taken.
    pub job_id: i64,
    /// Its name in this pipeline.
    pub name: String,
    /// What it worked on: the name of each input, and what it is, a job's name or an artifact.
    pub inputs: Vec<(String, String)>,
    pub left: T,
}

impl<T> Part<T> {
    /// What the input `name` is.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&str> {
        let of_name = self.inputs.iter().find(|(input, _)| input == name);
        of_name.map(|(_, what)| what.as_str())
    }
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
        // All or nothing: with one job still open it would be the time of an unfinished pipeline,
        // shown as if it were whole.
        Some(units::between(first, ends?.into_iter().max()?).as_secs_f64())
    }
}

impl Summary {
    /// The eval whose figures stand for the pipeline where one place holds one: the last one that may
    /// be a headline at all, else the last one.
    #[must_use]
    pub fn main_eval(&self) -> Option<&Part<EvalReport>> {
        let stands = |part: &&Part<EvalReport>| part.left.headline_scores().is_some();
        self.evals
            .iter()
            .rfind(stands)
            .or_else(|| self.evals.last())
    }
}

impl View for Summary {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        page.heading(format!(
            "Pipeline p{} {}",
            self.pipeline_id, self.pipeline_name
        ));
        jobs::table(page, &self.jobs, now);
        let data = data::lines(&self.fetches, &self.preprocesses);
        if !data.is_empty() {
            page.heading("Data");
            data.into_iter().for_each(|line| page.line(line));
        }
        if self.evals.len() > 1 {
            quality::side_by_side(page, &self.evals);
        }
        for eval in &self.evals {
            quality::section(page, eval);
        }
        for training in &self.trainings {
            time::section(page, training);
        }
        if self.evals.is_empty() {
            page.gap();
            page.line("no eval job has succeeded yet: there are no scores");
        }
        let mut attributions: Vec<&String> = self
            .evals
            .iter()
            .filter_map(|eval| eval.left.source.attribution.as_ref())
            .collect();
        // The terms of a source ask that its words are shown, once.
        attributions.dedup();
        for attribution in attributions {
            page.gap();
            page.line(attribution);
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        figures::json(self)
    }

    fn ids(&self) -> Vec<String> {
        let jobs = self.evals.iter().map(|eval| eval.job_id);
        jobs.map(|job| job.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::samples::{now, summary, two_models};

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
        assert_eq!(json["rule"], "per_class");
        assert_eq!(json["warnings"], serde_json::json!([]));
    }

    #[test]
    fn every_eval_and_training_is_there_with_what_it_is_of() {
        let json = two_models().json(now());
        let names = |key: &str, field: &str| -> Vec<String> {
            let all = json[key].as_array().unwrap().iter();
            all.map(|one| one[field].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            names("evals", "name"),
            ["eval-from-scratch", "eval-fine-tune"]
        );
        assert_eq!(names("evals", "model_of"), ["from-scratch", "fine-tune"]);
        assert_eq!(names("trainings", "name"), ["from-scratch", "fine-tune"]);
        // The second has learned from its test pictures: it is shown, and stands for nothing.
        assert!(json["evals"][1]["f1_micro"].is_null());
        assert_eq!(json["evals"][1]["rules"][0]["f1_micro"], 0.97);
        assert_eq!(
            (&json["eval"], &json["f1_micro"]),
            (&"eval-from-scratch".into(), &0.74.into())
        );
        assert!(
            json["warnings"][0]
                .as_str()
                .unwrap()
                .starts_with("eval-fine-tune: leak: ")
        );
    }

    #[test]
    fn what_fetch_and_preprocess_warn_of_is_told_on_the_page_and_in_json() {
        let mut summary = summary();
        summary.fetches[0].left.remarks.warnings = vec!["labels are made of other labels".into()];
        summary.preprocesses[0].left.warnings =
            vec!["every picture of split train has Horror".into()];
        let json = summary.json(now());
        assert_eq!(
            json["warnings"],
            serde_json::json!([
                "fetch: labels are made of other labels",
                "preprocess: every picture of split train has Horror"
            ])
        );
        let page = format!("{:?}", Page::of(&summary, now()).blocks());
        for warning in json["warnings"].as_array().unwrap() {
            assert!(
                page.contains(&format!("WARNING: {}", warning.as_str().unwrap())),
                "{page}"
            );
        }
    }

    #[test]
    fn alone_an_eval_that_is_none_gives_no_headline_at_all() {
        let mut summary = two_models();
        summary.evals.remove(0);
        let json = summary.json(now());
        assert!(
            json["f1_micro"].is_null() && json["f1_weighted"].is_null(),
            "{json}"
        );
    }
}
