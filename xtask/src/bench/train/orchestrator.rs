//! What Marquee itself costs: a train job of a cluster on this machine beside the same spec run by
//! hand.
//!
//! Between its two epochs, of 15 s or so, the job stores a checkpoint of 94 MB at the coordinator; few jobs
//! store one as often.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Bench;
use super::children::{ensure_pictures, run_child};
use super::peers::median;
use crate::bench::figure::{Figure, Goal, Sheet};
use crate::cluster::Cluster;
use crate::process;

const ROUNDS: usize = 5;
/// 1 / 1.01.
const STEP: f64 = 0.99;
const IN_ALL_S: f64 = 2.0;

/// What a run took.
struct Took {
    step_ms: f64,
    in_all_s: f64,
}

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    let pictures = fs::canonicalize(ensure_pictures(bench)?)?;
    let folder = bench.folder.join("cluster");
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    let cluster = Cluster::start(bench.workspace, &bench.setup, &folder, 1)?;
    submit(cluster.command(), &folder, &prepare(&pictures))?;
    let digest = artifact_of(cluster.command(), "preprocess")?;
    let shards = folder.join("shards");
    let _ = fs::remove_dir_all(&shards);
    let mut get = cluster.command();
    process::read(
        get.args(["artifacts", "get", "preprocess", "--to"])
            .arg(&shards),
    )?;

    let (mut under, mut by_hand) = (Vec::new(), Vec::new());
    // The first round warms up both: files into memory, the artifact into the worker's cache.
    for round in 0..=bench.rounds(ROUNDS) {
        let started = Instant::now();
        submit(cluster.command(), &folder, &train(&digest))?;
        let in_all_s = started.elapsed().as_secs_f64();
        let job = show(cluster.command(), "train")?;
        let summary = &job["attempts"][0]["ranks"][0]["summary"];
        let took = Took {
            step_ms: step_ms(summary)?,
            in_all_s,
        };
        let work = &job["spec"]["work"];
        let place = folder.join("by-hand");
        let _ = fs::remove_dir_all(&place);
        let started = Instant::now();
        let done = run_child(&bench.trainer, &place, work, &json!({ "shards": shards }))?;
        let hand = Took {
            in_all_s: started.elapsed().as_secs_f64(),
            step_ms: step_ms(&done.summary)?,
        };
        if round > 0 {
            under.push(took);
            by_hand.push(hand);
        }
    }
    let middle =
        |runs: &[Took], pick: fn(&Took) -> f64| median(&runs.iter().map(pick).collect::<Vec<_>>());
    let ran = format!(
        "resnet18, 224x224 px raw, batch 32, 2 epochs of 512 pictures with a checkpoint between them, all threads; \
         median of {} in turn",
        under.len()
    );
    sheet.add(Figure {
        name: "a step under Marquee beside by hand".to_owned(),
        value: middle(&under, |took| took.step_ms),
        unit: "wall ms/step",
        is_less_better: true,
        reference: Some(("by hand".to_owned(), middle(&by_hand, |took| took.step_ms))),
        goal: Some(Goal::Ratio(STEP)),
        ran: ran.clone(),
    });
    let extra: Vec<f64> = under
        .iter()
        .zip(&by_hand)
        .map(|(took, hand)| took.in_all_s - hand.in_all_s)
        .collect();
    sheet.add(Figure {
        name: "submit to result, beyond by hand".to_owned(),
        value: median(&extra),
        unit: "s wall",
        is_less_better: true,
        reference: None,
        goal: Some(Goal::AtMost(IN_ALL_S)),
        ran: format!(
            "{ran}; marquee submit --wait took {:.1} s, by hand {:.1} s",
            middle(&under, |took| took.in_all_s),
            middle(&by_hand, |took| took.in_all_s)
        ),
    });
    Ok(())
}

fn prepare(pictures: &Path) -> String {
    format!(
        "name = \"bench-prepare\"\n\
         [jobs.fetch]\nkind = \"fetch\"\nsource = {{ type = \"folder\", path = {:?} }}\n\
         [jobs.preprocess]\nkind = \"preprocess\"\ninputs = {{ dataset = \"fetch.dataset\" }}\n\
         width = 224\nheight = 224\nencoding = \"raw\"\nseed = 1\n\
         splits = {{ train = 0.98, validation = 0.01, test = 0.01 }}\n",
        pictures.display().to_string()
    )
}

fn train(digest: &str) -> String {
    format!(
        "name = \"bench-train\"\n\
         [jobs.train]\nkind = \"train\"\ninputs = {{ shards = \"artifact:{digest}\" }}\n\
         model = \"resnet18\"\nepochs = 2\nbatch_size = 32\nprecision = \"bf16\"\nseed = 1\n\
         optimizer = {{ name = \"sgd\", lr = 0.01, momentum = 0.9 }}\n"
    )
}

fn submit(mut marquee: Command, folder: &Path, pipeline: &str) -> Result<()> {
    let file = folder.join("pipeline.toml");
    fs::write(&file, pipeline)?;
    let command = marquee.args(["submit", "--wait"]).arg(&file);
    process::run(command.stdout(Stdio::null()))
}

fn show(mut marquee: Command, job: &str) -> Result<Value> {
    let text = process::read(marquee.args(["show", job, "--output", "json"]))?;
    serde_json::from_str(&text).with_context(|| format!("marquee show {job} said no JSON"))
}

fn artifact_of(marquee: Command, job: &str) -> Result<String> {
    let job = show(marquee, job)?;
    let digest = job["artifact_digest"].as_str().context("no artifact")?;
    Ok(digest.to_owned())
}

fn step_ms(summary: &Value) -> Result<f64> {
    let number = |value: &Value| value.as_f64().context("a summary without times");
    Ok(1e3 * number(&summary["phases"]["step_s"])? / number(&summary["steps"])?)
}
