//! What is compared, and the pipeline that does it.

use std::fmt;
use std::str::FromStr;

use marquee_proto::v1;
use serde_json::{Map, Value, json};

/// A kind of device and how many ranks of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Devices {
    pub kind: DeviceKind,
    pub ranks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DeviceKind {
    Cpu,
    Gpu,
}

impl DeviceKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, ranks) = text.split_once(':').unwrap_or((text, "1"));
        let kind = match kind {
            "cpu" => DeviceKind::Cpu,
            "gpu" => DeviceKind::Gpu,
            _ => {
                return Err(format!(
                    "{text:?}: write cpu:RANKS or gpu:RANKS, as in gpu:2"
                ));
            }
        };
        match ranks.parse() {
            Ok(ranks) if ranks >= 1 => Ok(Self { kind, ranks }),
            _ => Err(format!(
                "{text:?}: the number of ranks is a whole number, 1 or more"
            )),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranks = if self.ranks == 1 { "rank" } else { "ranks" };
        write!(f, "{} {} {ranks}", self.ranks, self.kind.word())
    }
}

/// What training reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    Original,
    Jpeg,
    Raw,
}

impl Input {
    pub(crate) const ALL: [Self; 3] = [Self::Original, Self::Jpeg, Self::Raw];

    /// The preprocess job's `encoding`, and its name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Jpeg => "jpeg",
            Self::Raw => "raw",
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Original => "files decoded and resized each time",
            Self::Jpeg => "jpeg shards",
            Self::Raw => "raw shards",
        }
    }
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|input| input.word() == text)
            .ok_or_else(|| format!("{text:?}: write original, jpeg or raw"))
    }
}

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

/// One thing that is measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub devices: Devices,
    pub input: Input,
    pub tensorboard: bool,
}

impl Case {
    /// The name of its train job in a round, counted from 1: `gpu-2-raw`, `gpu-2-raw-tb-r3`.
    fn job_name(&self, round: u32) -> String {
        let Devices { kind, ranks } = &self.devices;
        let mut name = format!("{}-{ranks}-{}", kind.word(), self.input.word());
        if self.tensorboard {
            name.push_str("-tb");
        }
        if round > 1 {
            name.push_str(&format!("-r{round}"));
        }
        name
    }

    /// What a job's name says that it measures; None for other jobs.
    pub(crate) fn of_job(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let (kind, ranks) = (parts.next()?, parts.next()?);
        let devices = format!("{kind}:{ranks}").parse().ok()?;
        let input = parts.next()?.parse().ok()?;
        let mut tensorboard = false;
        for part in parts {
            match part.strip_prefix('r') {
                Some(round) if round.parse::<u32>().is_ok() => {}
                Some(_) | None if part == "tb" => tensorboard = true,
                Some(_) | None => return None,
            }
        }
        Some(Self {
            devices,
            input,
            tensorboard,
        })
    }
}

/// A whole bench.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
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

impl Plan {
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
        for round in 1..=self.rounds {
            for case in self.cases() {
                let name = case.job_name(round);
                jobs.insert(name.clone(), self.train_job(&case, &needs));
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

/// What online workers have: 1, 2, 4 ... and all of each kind.
pub(crate) fn available(workers: &[v1::Worker]) -> Vec<Devices> {
    let online = workers
        .iter()
        .filter(|worker| worker.state() == v1::WorkerState::Online);
    let (mut cpus, mut gpus) = (0_u32, 0_u32);
    for inventory in online.filter_map(|worker| worker.inventory.as_ref()) {
        cpus = cpus.saturating_add(inventory.cpu_slots);
        gpus = gpus.saturating_add(u32::try_from(inventory.gpus.len()).unwrap_or(u32::MAX));
    }
    let mut all = Vec::new();
    for (kind, count) in [(DeviceKind::Cpu, cpus), (DeviceKind::Gpu, gpus)] {
        let doubled = std::iter::successors(Some(1_u32), |ranks| ranks.checked_mul(2));
        let ranks = doubled
            .take_while(|ranks| *ranks < count)
            .chain((count > 0).then_some(count));
        all.extend(ranks.map(|ranks| Devices { kind, ranks }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
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
    fn devices_double_up_to_all_of_a_kind_that_online_workers_have() {
        let worker = |state: v1::WorkerState, cpu_slots, gpus| v1::Worker {
            state: state.into(),
            inventory: Some(v1::Inventory {
                cpu_slots,
                gpus: vec![v1::Gpu::default(); gpus],
                ..v1::Inventory::default()
            }),
            ..v1::Worker::default()
        };
        let found = available(&[
            worker(v1::WorkerState::Online, 1, 4),
            worker(v1::WorkerState::Online, 0, 2),
            worker(v1::WorkerState::Lost, 8, 8),
        ]);
        let words: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "1 cpu rank",
                "1 gpu rank",
                "2 gpu ranks",
                "4 gpu ranks",
                "6 gpu ranks"
            ]
        );
        assert!(available(&[]).is_empty());
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
