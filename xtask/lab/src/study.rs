//! `cargo xtask study`: the pipelines of examples/study, each from the API to its report, on a cluster
//! of this machine: few generated films, small pictures, few epochs, random weights in place of the
//! published ones.
//!
//! Invariants: the files run as they are, changed by `--set` alone; what each is there to show (given
//! weights, frozen networks, thresholds) must be in what its jobs say of themselves. Scores are
//! printed and judged by nobody: such runs are too small for that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use marquee_xtask::setup::{Setup, python};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

const REQUIREMENTS: &str = include_str!("../../python/zoo.txt");
const FILMS: u32 = 400;
/// What every pipeline is given.
const SMALL: [&str; 5] = [
    "jobs.fetch.source.requests_per_second=1000",
    "jobs.preprocess.min_label_count=20",
    "jobs.preprocess.splits={ train = 0.6, validation = 0.2, test = 0.2 }",
    "jobs.eval.bootstrap_resamples=100",
    "jobs.eval.gallery=4",
];
/// Rules whose scores each report must have.
const RULES: [&str; 3] = ["0.5", "0.25", "per_class"];

/// A pipeline of examples/study, and what is made smaller in it.
struct Example {
    name: &'static str,
    /// Pixels.
    width: u32,
    height: u32,
    epochs: u32,
    batch_size: u32,
    /// Key of the train job and the model whose weights it names.
    weights: &'static [(&'static str, &'static str)],
    /// Whether its networks are frozen throughout.
    is_frozen: bool,
}

/// Sides are the smallest that the networks take, or near it.
static EXAMPLES: [Example; 5] = [
    Example {
        name: "simple-cnn",
        width: 48,
        height: 72,
        epochs: 4,
        batch_size: 32,
        weights: &[],
        is_frozen: false,
    },
    Example {
        name: "densenet",
        width: 64,
        height: 64,
        epochs: 2,
        batch_size: 32,
        weights: &[("weights", "densenet121")],
        is_frozen: false,
    },
    Example {
        name: "inception-v3",
        width: 80,
        height: 80,
        epochs: 2,
        batch_size: 32,
        weights: &[("weights", "inception_v3")],
        is_frozen: false,
    },
    Example {
        name: "ensemble",
        width: 80,
        height: 80,
        epochs: 6,
        batch_size: 32,
        weights: &[
            ("backbones.inception_resnet.weights", "inception_resnet_v2"),
            ("backbones.xception.weights", "legacy_xception"),
        ],
        is_frozen: true,
    },
    Example {
        name: "vgg16-speed",
        width: 32,
        height: 32,
        epochs: 2,
        batch_size: 32,
        weights: &[],
        is_frozen: false,
    },
];

pub(crate) fn run(workspace: &Workspace, names: &[String]) -> Result<ExitCode> {
    let examples = chosen(names)?;
    let start = Instant::now();
    let setup = Setup::ensure()?;
    report::step("build: all binaries", || {
        let mut command = workspace.cargo("build");
        process::run(setup.apply(command.args(["--workspace", "--bins"])))
    })?;
    let folder = workspace.bin_dir.join("../samples/study");
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    // Only where one wants them: they take a Python with PyTorch.
    let weights = if examples.iter().any(|example| !example.weights.is_empty()) {
        report::step("weights: random ones, imported", || {
            import(workspace, &folder)
        })?
    } else {
        BTreeMap::new()
    };
    let catalogue = Catalogue::start(workspace)?;
    let cluster = Cluster::start(workspace, &setup, &folder, 2)?;
    let mut results = Vec::with_capacity(examples.len());
    for example in &examples {
        let told = report::step(&format!("study: {}", example.name), || {
            train(workspace, &cluster, example, &catalogue.api_url, &weights)
        })?;
        report::note(&line(example, &told));
        results.push(json!({ "example": example.name, "report": told }));
    }
    report::note(&format!("in all {}", report::duration(start.elapsed())));
    print(&results)?;
    Ok(ExitCode::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the result is data")]
fn print(results: &[Value]) -> Result<()> {
    println!("{}", serde_json::to_string(results)?);
    Ok(())
}

/// The examples named, which must exist, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static Example>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| EXAMPLES.iter().all(|example| example.name != *name))
    {
        let known: Vec<&str> = EXAMPLES.iter().map(|example| example.name).collect();
        bail!(
            r#"there is no example "{unknown}"; examples/study has {}"#,
            known.join(", ")
        );
    }
    let wanted = |example: &&Example| names.is_empty() || names.iter().any(|n| n == example.name);
    Ok(EXAMPLES.iter().filter(wanted).collect())
}

/// Makes checkpoints and imports them as a user would; the files by the zoo's names.
fn import(workspace: &Workspace, folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let interpreter = python::ensure("zoo", REQUIREMENTS)?;
    let script = workspace.root.join("xtask/python/study_weights.py");
    let checkpoints = folder.join("checkpoints");
    let told = process::read(Command::new(interpreter).arg(script).arg(&checkpoints))?;
    let cases: Vec<Value> =
        serde_json::from_str(told.trim()).context("the script printed no list")?;
    let mut files = BTreeMap::new();
    for case in &cases {
        let text = |key: &str| case[key].as_str().with_context(|| format!("no {key}"));
        let (model, checkpoint) = (text("model")?, text("checkpoint")?);
        let imported = process::read(
            Command::new(workspace.bin_dir.join("marquee"))
                .args(["weights", "import", "--output", "json", checkpoint, "--to"])
                .arg(folder.join("weights"))
                .args(["--from", "random numbers", "--licence", "none"]),
        )?;
        let imported: Value = serde_json::from_str(&imported)?;
        // Files under timm's names need no translation, so they tell of no one model.
        let found = &imported["note"]["model"];
        ensure!(
            found.is_null() || found == model,
            "{checkpoint} was taken for {found}"
        );
        let file = imported["weights"]
            .as_str()
            .context("no file was written")?;
        files.insert(model.to_owned(), fs::canonicalize(file)?);
        // Hundreds of megabytes that nobody asks for again, once they are imported.
        fs::remove_file(checkpoint).ok();
    }
    Ok(files)
}

/// Runs one pipeline to its end and returns its report, which must show what it is there for.
fn train(
    workspace: &Workspace,
    cluster: &Cluster,
    example: &Example,
    api_url: &str,
    weights: &BTreeMap<String, PathBuf>,
) -> Result<Value> {
    let file = workspace
        .root
        .join(format!("examples/study/{}.toml", example.name));
    let mut sets: Vec<String> = SMALL.map(str::to_owned).to_vec();
    sets.extend([
        format!("jobs.fetch.source.api_url={api_url}"),
        format!("jobs.fetch.source.limit={FILMS}"),
        format!("jobs.preprocess.width={}", example.width),
        format!("jobs.preprocess.height={}", example.height),
        format!("jobs.train.epochs={}", example.epochs),
        format!("jobs.train.batch_size={}", example.batch_size),
    ]);
    for (key, model) in example.weights {
        let file = weights.get(*model).context("no such weights")?;
        sets.push(format!("jobs.train.{key}={}", file.display()));
    }
    let mut submit = cluster.command();
    submit.args(["submit", "--output", "json"]).arg(&file);
    for set in &sets {
        submit.args(["--set", set]);
    }
    let submitted: Value = serde_json::from_str(&process::read(&mut submit)?)?;
    let pipeline = submitted["pipeline_id"]
        .as_i64()
        .context("submit named no pipeline")?;
    process::run(
        cluster
            .command()
            .args(["wait", &format!("p{pipeline}")])
            // Our stdout is for the results, which `print` writes at the end.
            .stdout(Stdio::null()),
    )?;
    let told = process::read(cluster.command().args([
        "report",
        &format!("p{pipeline}"),
        "--output",
        "json",
    ]))?;
    let told: Value = serde_json::from_str(&told)?;
    check(example, &told).with_context(|| format!("the report of p{pipeline} {}", example.name))?;
    Ok(told)
}

/// What each example is there to show.
fn check(example: &Example, told: &Value) -> Result<()> {
    for rule in RULES {
        f1(told, rule).with_context(|| format!("no micro F1 under the rule {rule:?}"))?;
    }
    ensure!(
        told["baselines"]["coin"]["f1_micro"].is_number(),
        "the row \"random\" is missing: there is no baseline \"coin\""
    );
    ensure!(
        told["images_per_second"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0),
        "it says no pictures a second"
    );
    // Weights that were named but did not fit would train from nothing without a word.
    let given = told["weights"].as_array().map_or(0, Vec::len);
    ensure!(
        given == example.weights.len(),
        "weights were loaded for {given} networks, not for {}",
        example.weights.len()
    );
    for network in told["weights"].as_array().into_iter().flatten() {
        let none = |key: &str| network[key].as_array().is_some_and(Vec::is_empty);
        ensure!(
            network["loaded"]
                .as_u64()
                .is_some_and(|loaded| loaded > 100)
                && none("missing")
                && none("skipped"),
            "weights do not fit: {network}"
        );
    }
    let speedup = told["features"]["speedup"].as_f64();
    ensure!(
        speedup.is_some() == example.is_frozen && speedup.is_none_or(|times| times > 1.0),
        "features of frozen networks are to be computed once: {}",
        told["features"]
    );
    Ok(())
}

fn f1(told: &Value, rule: &str) -> Option<f64> {
    let rules = told["rules"].as_array()?;
    let scores = rules.iter().find(|scores| scores["rule"] == rule)?;
    scores["f1_micro"].as_f64()
}

fn line(example: &Example, told: &Value) -> String {
    let scores = RULES.map(|rule| format!("{rule} {:.3}", f1(told, rule).unwrap_or(f64::NAN)));
    let mut line = format!(
        "{:<12} micro F1 {}; {:.0} images/s",
        example.name,
        scores.join(", "),
        told["images_per_second"].as_f64().unwrap_or(f64::NAN)
    );
    if let Some(times) = told["features"]["speedup"].as_f64() {
        line.push_str(&format!(
            ", {times:.0} times as fast by features computed once"
        ));
    }
    line
}

/// The TMDb-compatible server of generated films. Ends with the task.
#[derive(Debug)]
struct Catalogue {
    child: Child,
    api_url: String,
}

impl Catalogue {
    fn start(workspace: &Workspace) -> Result<Self> {
        let mut child = Command::new(workspace.bin_dir.join("marquee-catalogue"))
            .args(["serve", "--seed", "1", "--port", "0", "--films"])
            .arg(FILMS.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start marquee-catalogue")?;
        let stdout = child.stdout.take().context("its stdout is ours")?;
        // Made before its address is known, so that whatever fails from here on ends the child.
        let mut catalogue = Self {
            child,
            api_url: String::new(),
        };
        for line in BufReader::new(stdout).lines() {
            // Lines that are no JSON are somebody's log and are passed over.
            let told: Value = serde_json::from_str(&line?).unwrap_or_default();
            if let Some(url) = told["api_url"].as_str() {
                catalogue.api_url = url.to_owned();
                return Ok(catalogue);
            }
        }
        bail!("the catalogue ended at its start")
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_study_is_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/study");
        let mut files: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        files.sort_unstable();
        let mut known: Vec<&str> = EXAMPLES.iter().map(|example| example.name).collect();
        known.sort_unstable();
        assert_eq!(files, known);
        let message = chosen(&["vgg".to_owned()]).err().unwrap().to_string();
        assert!(message.contains("vgg16-speed"), "{message}");
    }

    #[test]
    fn a_report_without_what_the_example_shows_fails() {
        let rule = |rule: &str| json!({ "rule": rule, "f1_micro": 0.3 });
        let loaded = json!({ "loaded": 300, "missing": [], "skipped": [] });
        let good = json!({
            "rules": RULES.map(rule),
            "baselines": { "coin": { "f1_micro": 0.2 } },
            "images_per_second": 12.0,
            "weights": [loaded, loaded],
            "features": { "speedup": 30.0 },
        });
        let ensemble = &EXAMPLES[3];
        check(ensemble, &good).unwrap();
        for (key, value) in [
            ("rules", json!([rule("0.5")])),
            ("baselines", json!({})),
            ("images_per_second", Value::Null),
            ("weights", json!([loaded])),
            (
                "weights",
                json!([loaded, { "loaded": 300, "missing": ["a"], "skipped": [] }]),
            ),
            ("features", Value::Null),
            ("features", json!({ "speedup": 0.9 })),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(check(ensemble, &bad).is_err(), "{key}");
        }
    }
}
