//! What is compared, and the pipeline that does it.

use std::str::FromStr;

use marquee_proto::v1;
use serde_json::{Map, Value, json};

use super::case::{Case, Input};
use super::devices::Devices;

/// Pixels, as 224 or 224x336 (width x height).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub width: u32,
    pub height: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text.split_once('x').unwrap_or((text, text));
        let side = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?}: write 224, or 224x336 for width x height"))
        };
        Ok(Self {
            width: side(width)?,
            height: side(height)?,
        })
    }
}

/// How long each case trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Epochs(u32),
    Steps(u64),
}

/// Where the pictures come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Digest of a dataset artifact.
    Dataset(String),
    /// A TMDb-compatible API to fetch from first.
    Api(String),
}

/// A whole bench.
#[derive(Debug, Clone)]
pub(crate) struct BenchPlan {
    pub model: String,
    pub size: Size,
    pub batch_size: u32,
    pub length: Length,
    pub devices: Vec<Devices>,
    pub inputs: Vec<Input>,
    pub tensorboard: Vec<bool>,
    pub rounds: u32,
    /// Key and value for every train job, as `--set` gives them.
    pub train: Vec<(String, String)>,
}

impl BenchPlan {
    /// All that is measured in one round, in the order in which it runs.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for devices in &self.devices {
            for input in &self.inputs {
                for tensorboard in &self.tensorboard {
                    cases.push(Case {
                        devices: devices.clone(),
                        input: *input,
                        tensorboard: *tensorboard,
                    });
                }
            }
        }
        cases
    }

    /// The pipeline as JSON. Each train job needs the one before, so that one runs at a time.
    pub(crate) fn document(&self, source: &Source) -> Value {
        let mut jobs = Map::new();
        let dataset = match source {
            Source::Dataset(digest) => format!("artifact:{digest}"),
            Source::Api(api_url) => {
                let source = json!({ "type": "tmdb", "api_url": api_url,
                    // A server of this machine that nobody else asks: what is kept to out of
                    // politeness elsewhere would only make the bench wait.
                    "requests_per_second": 1_000, "concurrency": 32 });
                jobs.insert(
                    "fetch".to_owned(),
                    json!({ "kind": "fetch", "source": source }),
                );
                "fetch.dataset".to_owned()
            }
        };
        for input in &self.inputs {
            jobs.insert(
                input.word().to_owned(),
                json!({
                    "kind": "preprocess",
                    "inputs": { "dataset": dataset },
                    "width": self.size.width,
                    "height": self.size.height,
                    "encoding": input.word(),
                    // Little is held back, for nothing is judged here; but a split must not be empty
                    // where there are a hundred pictures.
                    "splits": { "train": 0.9, "validation": 0.05, "test": 0.05 },
                }),
            );
        }
        // Shards are prepared before anything is measured.
        let mut needs: Vec<String> = self
            .inputs
            .iter()
            .map(|input| input.word().to_owned())
            .collect();
        // Rounds outside, cases inside: what drifts, such as the host's heat and its other users, meets all cases
        // alike.
        for round in 1..=self.rounds {
            for case in self.cases() {
                let name = case.job_name(round);
                jobs.insert(name.clone(), self.train_job(&case, &needs));
                // The order is made by needs, since the scheduler would place cases side by side
                // wherever devices are free.
                needs = vec![name];
            }
        }
        json!({ "name": "bench", "jobs": jobs })
    }

    fn train_job(&self, case: &Case, needs: &[String]) -> Value {
        /// More than any number of steps needs: a dataset has at least one step an epoch.
        const EPOCHS_MAX: u32 = 100_000;
        let (epochs, max_steps) = match self.length {
            Length::Epochs(epochs) => (epochs, None),
            Length::Steps(steps) => (EPOCHS_MAX, Some(steps)),
        };
        let mut job = json!({
            "kind": "train",
            "needs": needs,
            "inputs": { "shards": format!("{}.shards", case.input.word()) },
            "ranks": case.devices.ranks,
            "device": case.devices.kind.word(),
            "model": self.model,
            "epochs": epochs,
            "batch_size": self.batch_size,
            "optimizer": { "name": "sgd", "lr": 0.01 },
            "tensorboard": case.tensorboard,
            // A second try would be measured on other terms.
            "max_attempts": 1,
        });
        if let Some(steps) = max_steps {
            job["max_steps"] = steps.into();
        }
        job
    }

    /// What the user set for every train job.
    pub(crate) fn overrides(&self) -> Vec<v1::Override> {
        let mut overrides = Vec::new();
        for round in 1..=self.rounds {
            for case in self.cases() {
                overrides.extend(self.train.iter().map(|(key, value)| v1::Override {
                    path: format!("jobs.{}.{key}", case.job_name(round)),
                    value: value.clone(),
                }));
            }
        }
        overrides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> BenchPlan {
        BenchPlan {
            model: "vgg16".into(),
            size: "224".parse().unwrap(),
            batch_size: 16,
            length: Length::Steps(20),
            devices: vec!["cpu:1".parse().unwrap(), "gpu:2".parse().unwrap()],
            inputs: vec![Input::Original, Input::Raw],
            tensorboard: vec![false, true],
            rounds: 2,
            train: vec![("precision".into(), "bf16".into())],
        }
    }

    #[test]
    fn every_case_is_a_job_whose_name_says_what_it_measures_and_that_needs_the_one_before() {
        let plan = plan();
        let document = plan.document(&Source::Api("http://localhost:1/3".into()));
        let jobs = document["jobs"].as_object().unwrap();
        assert_eq!(plan.cases().len(), 8);
        assert_eq!(jobs.len(), 1 + 2 + 16);
        for case in plan.cases() {
            for round in 1..=2 {
                let name = case.job_name(round);
                assert!(jobs.contains_key(&name), "{name}");
                assert_eq!(Case::of_job(&name), Some(case.clone()));
            }
        }
        assert_eq!(jobs["cpu-1-original"]["needs"], json!(["original", "raw"]));
        assert_eq!(jobs["cpu-1-original-r2"]["needs"], json!(["gpu-2-raw-tb"]));
        for name in ["fetch", "raw", "cpu-1-png", "cpu-1-raw-x", "tpu-1-raw"] {
            assert_eq!(Case::of_job(name), None, "{name}");
        }
        assert_eq!(plan.overrides().len(), 16);
        assert_eq!(plan.overrides()[1].path, "jobs.cpu-1-original-tb.precision");
    }

    #[test]
    fn the_document_is_one_that_a_coordinator_takes() {
        let mut plan = plan();
        plan.train.clear();
        for length in [Length::Steps(20), Length::Epochs(2)] {
            plan.length = length;
            let text = plan.document(&Source::Dataset("ab".repeat(32))).to_string();
            let text = marquee_domain::pipeline::DocumentText::Json(&text);
            marquee_domain::pipeline::parse_pipeline(text, &[], None).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_way_out() {
        assert!("tpu:2".parse::<Devices>().unwrap_err().contains("gpu:2"));
        assert!(
            "cpu:0"
                .parse::<Devices>()
                .unwrap_err()
                .contains("1 or more")
        );
        assert!("png".parse::<Input>().unwrap_err().contains("original"));
        assert!("2b".parse::<Size>().unwrap_err().contains("224x336"));
        assert_eq!(
            "20x30".parse(),
            Ok(Size {
                width: 20,
                height: 30
            })
        );
    }
}
