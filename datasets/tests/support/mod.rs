//! What the tests of the program share: a catalogue that runs, and jobs that run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use clap::Parser as _;
use marquee_catalogue::{CatalogueServer, RequestLog, ServeArgs};
use marquee_domain::child::{ChildEvent, ChildSpec};
use marquee_domain::failure::Failure;
use marquee_domain::report::{FetchSummary, PreprocessSummary};
use marquee_domain::resources::Device;
use marquee_domain::spec::{
    ArrayElement, FetchSettings, FilmList, ImageEncoding, PreprocessSettings, Source, Splits, Work,
};
use marquee_domain::{AttemptNumber, JobId};
use tokio::runtime::Runtime;

pub(crate) mod own;

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_marquee-prep"))
}

/// Every path that was asked for, with the time of each request.
type Asked = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// A catalogue that serves over HTTP, by threads of this process, until it is dropped.
pub(crate) struct Catalogue {
    /// Holds the server's threads.
    _runtime: Runtime,
    pub(crate) api_url: String,
    asked: Asked,
}

/// The words of `marquee-catalogue serve`.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArgs,
}

impl Catalogue {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let words = ["--seed", "4"].iter().chain(arguments);
        let serve = Arguments::try_parse_from(words).unwrap().serve;
        let asked = Asked::default();
        let log = RequestLog::new({
            let asked = asked.clone();
            move |path| {
                let mut asked = asked.lock().unwrap();
                asked
                    .entry(path.to_owned())
                    .or_default()
                    .push(Instant::now());
            }
        });
        let runtime = Runtime::new().unwrap();
        let bound = CatalogueServer::bind(serve.address(), serve.options(Some(log)), now);
        let server = runtime.block_on(bound).unwrap();
        if let Some(file) = &serve.truth {
            server.write_truth(file).unwrap();
        }
        let api_url = server.api_url();
        runtime.spawn(server.serve(std::future::pending()));
        Self {
            _runtime: runtime,
            api_url,
            asked,
        }
    }

    pub(crate) fn source(&self) -> Source {
        source(&self.api_url)
    }

    /// How often each path was asked for so far.
    pub(crate) fn requests(&self) -> BTreeMap<String, usize> {
        let asked = self.asked.lock().unwrap();
        let counts = asked.iter().map(|(path, at)| (path.clone(), at.len()));
        counts.collect()
    }
}

#[allow(clippy::disallowed_methods, reason = "the server needs a clock")]
fn now() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

/// A source at `api_url`, fast and with few retries.
pub(crate) fn source(api_url: &str) -> Source {
    Source::Tmdb {
        api_url: api_url.to_owned(),
        export_url: None,
        image_url: None,
        poster_size: "w92".to_owned(),
        credential_env: None,
        credential_file: None,
        limit: None,
        requests_per_second: 2_000,
        concurrency: 8,
        request_timeout_s: 10,
        request_attempts: 3,
        outage_s: 2,
        films: FilmList::Export,
        from: None,
        to: None,
        rights: None,
    }
}

/// A job's folders; they vanish with it.
pub(crate) struct Workplace {
    folder: tempfile::TempDir,
    scratch: Option<PathBuf>,
    resume: Option<PathBuf>,
    previous: Option<PathBuf>,
    element: Option<ArrayElement>,
    licence: Option<String>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) events: Vec<ChildEvent>,
    /// All that it wrote.
    pub(crate) text: String,
}

impl Workplace {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("checkpoints")).unwrap();
        Self {
            folder,
            scratch: None,
            resume: None,
            previous: None,
            element: None,
            licence: None,
        }
    }

    /// Its jobs are this element of an array.
    pub(crate) fn with_element(mut self, index: u32, size: u32) -> Self {
        self.element = Some(ArrayElement { index, size });
        self
    }

    /// Its fetch jobs state this licence.
    pub(crate) fn with_licence(mut self, licence: &str) -> Self {
        self.licence = Some(licence.to_owned());
        self
    }

    /// Its jobs find what earlier ones left.
    pub(crate) fn with_scratch(mut self) -> Self {
        self.scratch = Some(self.path("scratch"));
        self
    }

    /// Its jobs go on from a checkpoint.
    pub(crate) fn with_resume(mut self, checkpoint: &Path) -> Self {
        self.resume = Some(checkpoint.to_owned());
        self
    }

    /// Its fetch jobs have an earlier dataset.
    pub(crate) fn with_previous(mut self, dataset: &Path) -> Self {
        self.previous = Some(dataset.to_owned());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_spec(&self, work: Work, output: &str, threads: u32) -> PathBuf {
        let kind = work.kind().as_str();
        let mut inputs = BTreeMap::from([("dataset".to_owned(), self.path("dataset"))]);
        inputs.extend(
            self.previous
                .clone()
                .map(|path| ("previous".to_owned(), path)),
        );
        std::fs::create_dir_all(self.path(output)).unwrap();
        let spec = ChildSpec {
            job: JobId(7),
            job_name: kind.parse().unwrap(),
            pipeline: None,
            attempt: AttemptNumber(1),
            work,
            element: self.element,
            inputs,
            output: self.path(output),
            checkpoints: self.path("checkpoints"),
            resume: self.resume.clone(),
            rate: None,
            scratch: self.scratch.clone(),
            devices: vec![Device::Cpu { index: 0 }],
            threads,
        };
        let file = self.path(&format!("{kind}.json"));
        std::fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
        file
    }

    /// The command of a fetch job into the folder `dataset`.
    pub(crate) fn fetch_command(&self, source: Source) -> Command {
        let spec = self.write_spec(
            Work::Fetch(FetchSettings {
                source,
                licence: self.licence.clone(),
                retention_days: None,
            }),
            "dataset",
            2,
        );
        let mut command = program();
        command.arg("run").arg(spec);
        command
    }

    pub(crate) fn fetch(&self, source: Source) -> Ended {
        Ended::of(self.fetch_command(source).output().unwrap())
    }

    /// Runs any job with one thread into the folder `output`.
    pub(crate) fn run(&self, work: Work) -> Ended {
        let spec = self.write_spec(work, "output", 1);
        Ended::of(program().arg("run").arg(spec).output().unwrap())
    }

    /// Runs a preprocess job from the folder `dataset` into `output`.
    pub(crate) fn preprocess(
        &self,
        settings: PreprocessSettings,
        output: &str,
        threads: u32,
    ) -> Ended {
        let mut command = self.preprocess_command(settings, output, threads);
        Ended::of(command.output().unwrap())
    }

    /// The command of a preprocess job from the folder `dataset` into `output`.
    pub(crate) fn preprocess_command(
        &self,
        settings: PreprocessSettings,
        output: &str,
        threads: u32,
    ) -> Command {
        let spec = self.write_spec(Work::Preprocess(settings), output, threads);
        let mut command = program();
        command.arg("run").arg(spec);
        command
    }
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        let stdout = String::from_utf8(output.stdout).unwrap();
        let events = stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let text = stdout + &String::from_utf8(output.stderr).unwrap();
        Self {
            code: output.status.code(),
            events,
            text,
        }
    }

    fn summary(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}", self.text);
        match self.events.last() {
            Some(ChildEvent::Finished { summary }) => summary.clone(),
            other => panic!("the last event is {other:?}"),
        }
    }

    pub(crate) fn fetched(&self) -> FetchSummary {
        let summary: FetchSummary = serde_json::from_value(self.summary()).unwrap();
        let missed: u64 = summary
            .rejected
            .values()
            .chain(summary.failed.values())
            .sum();
        assert_eq!(
            summary.fetched + summary.gone + missed,
            summary.asked,
            "{summary:?}"
        );
        summary
    }

    pub(crate) fn preprocessed(&self) -> PreprocessSummary {
        let summary: PreprocessSummary = serde_json::from_value(self.summary()).unwrap();
        let skipped: u64 = summary.skipped.values().sum();
        assert_eq!(
            summary.splits.values().sum::<u64>() + skipped,
            summary.pictures
        );
        summary
    }

    pub(crate) fn failure(&self) -> Failure {
        assert_eq!(self.code, Some(1), "{}", self.text);
        match self.events.last() {
            Some(ChildEvent::Failed { class, message }) => Failure {
                class: *class,
                message: message.clone(),
            },
            other => panic!("the last event is {other:?}"),
        }
    }
}

/// Settings that suit small sets.
pub(crate) fn settings() -> PreprocessSettings {
    PreprocessSettings {
        width: 16,
        height: 24,
        encoding: ImageEncoding::Raw,
        splits: Splits {
            train: 0.6,
            validation: 0.2,
            test: 0.2,
        },
        seed: 3,
        labels: None,
        min_label_count: 1,
        shard_bytes: 100_000,
        released_from: None,
        released_to: None,
        undated: true,
        // The pictures of tests are simple, and many look the same.
        group_near_duplicates: false,
        max_per_class: None,
        test_rows: None,
        leave_out: Vec::new(),
    }
}

/// The files of a folder that must be equal when the work was equal: all but the books, which name
/// the source, and what tells how the work went.
pub(crate) fn results(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| !["fetch.json", "run.json", "preprocess.json"].contains(&name.as_str()))
        .map(|(name, path)| (name, std::fs::read(path).unwrap()))
        .collect()
}
