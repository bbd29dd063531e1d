//! What Marquee itself costs: a train job of a cluster on this machine beside the same spec run by
//! hand.
//!
//! Two runs of one program differ by more than what is looked for, so that there are many short pairs. A
//! step is one after the first ten.
//! Coordinator, Postgres and worker share the cores with the job; hosts of their own would spare it most
//! of this.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Bench;
use super::children::{ensure_pictures, run_child};
use super::peers::{median, quartile};
use crate::bench::figure::{Figure, Goal, Sheet};
use crate::cluster::Cluster;
use marquee_xtask::process;

const ROUNDS: usize = 20;
const BATCH: u32 = 8;
const STEPS: u32 = 50;
/// Of each window of ten steps.
const SPEED: &str = "train/images_per_second";
/// Per cent of a step.
const STEP: f64 = 1.0;
const IN_ALL_S: f64 = 2.0;

/// What a run took.
struct Took {
    step_ms: f64,
    in_all_s: f64,
    /// CPU time of the daemons meanwhile.
    daemons_s: f64,
}

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    let pictures = fs::canonicalize(ensure_pictures(bench)?)?;
    let folder = bench.folder.join("cluster");
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    let cluster = Cluster::start(bench.workspace, &bench.setup, &folder, 1)?;
    // Once, by a pipeline of its own: what is measured is training, not the making of shards.
    submit(cluster.command(), &folder, &prepare(&pictures))?;
    // Both sides train on these same shards: the cluster's job by the digest, the other by the
    // files.
    let digest = artifact_of(cluster.command(), "preprocess")?;
    let shards = folder.join("shards");
    let _ = fs::remove_dir_all(&shards);
    let mut get = cluster.command();
    process::read(
        get.args(["artifacts", "get", "preprocess", "--to"])
            .arg(&shards),
    )?;

    let under = || -> Result<Took> {
        let (started, cpu_s) = (Instant::now(), cluster.daemons_cpu_s()?);
        submit(cluster.command(), &folder, &train(&digest))?;
        let in_all_s = started.elapsed().as_secs_f64();
        let daemons_s = cluster.daemons_cpu_s()? - cpu_s;
        let points = process::read(
            cluster
                .command()
                .args(["metrics", "train", "--name", SPEED, "--output", "json"]),
        )?;
        let rates = points.lines().map(|point| {
            let point: Value = serde_json::from_str(point)?;
            point["value"].as_f64().context("a point without value")
        });
        Ok(Took {
            step_ms: step_ms(rates.collect::<Result<Vec<f64>>>()?)?,
            in_all_s,
            daemons_s,
        })
    };
    let by_hand = |work: &Value| -> Result<Took> {
        let place = folder.join("by-hand");
        let _ = fs::remove_dir_all(&place);
        let started = Instant::now();
        let done = run_child(&bench.trainer, &place, work, &json!({ "shards": shards }))?;
        let in_all_s = started.elapsed().as_secs_f64();
        let events = done.events.iter();
        let rates = events.filter_map(|event| event["values"][SPEED].as_f64());
        Ok(Took {
            in_all_s,
            step_ms: step_ms(rates.collect())?,
            daemons_s: 0.0,
        })
    };
    // Warms up both: files into memory, the artifact into the worker's cache.
    under()?;
    let job = show(cluster.command(), "train")?;
    // What the cluster made of the document is what is run by hand, so that no default can differ.
    let work = &job["spec"]["work"];
    by_hand(work)?;
    let (mut ours, mut hands) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds(ROUNDS) {
        // What drifts befalls both alike.
        if round % 2 == 0 {
            ours.push(under()?);
            hands.push(by_hand(work)?);
        } else {
            hands.push(by_hand(work)?);
            ours.push(under()?);
        }
    }
    report(sheet, &ours, &hands);
    Ok(())
}

fn report(sheet: &mut Sheet, ours: &[Took], hands: &[Took]) {
    let of_pairs = |extra: fn(&Took, &Took) -> f64| -> Vec<f64> {
        let pairs = ours.iter().zip(hands);
        pairs.map(|(ours, hand)| extra(ours, hand)).collect()
    };
    let middle =
        |runs: &[Took], pick: fn(&Took) -> f64| median(&runs.iter().map(pick).collect::<Vec<_>>());
    let more = of_pairs(|ours, hand| 100.0 * (ours.step_ms / hand.step_ms - 1.0));
    let extra = of_pairs(|ours, hand| ours.in_all_s - hand.in_all_s);
    let ran = format!(
        "resnet18, 224x224 px raw, batch {BATCH}, {STEPS} steps, all threads; median of {} pairs in turn",
        more.len()
    );
    sheet.add(Figure {
        name: "a step under Marquee, beyond by hand".to_owned(),
        value: median(&more),
        unit: "% of its wall time".into(),
        is_less_better: true,
        reference: None,
        goal: Some(Goal::AtMost(STEP)),
        ran: format!(
            "{ran}, half of them between {:.2} and {:.2} %; {:.0} and {:.0} ms",
            quartile(&more, 1),
            quartile(&more, 3),
            middle(ours, |took| took.step_ms),
            middle(hands, |took| took.step_ms),
        ),
    });
    sheet.add(Figure {
        name: "coordinator, Postgres and worker, over a job".to_owned(),
        value: middle(ours, |took| took.daemons_s),
        unit: "CPU s".into(),
        is_less_better: true,
        reference: None,
        goal: None,
        ran: format!(
            "{ran}; from submission to result, {:.1} s, with a checkpoint of 94 MB and a model of 45 MB stored",
            middle(ours, |took| took.in_all_s)
        ),
    });
    sheet.add(Figure {
        name: "submit to result, beyond by hand".to_owned(),
        value: median(&extra),
        unit: "s wall".into(),
        is_less_better: true,
        reference: None,
        goal: Some(Goal::AtMost(IN_ALL_S)),
        ran: format!(
            "{ran}; marquee submit --wait took {:.1} s, by hand {:.1} s",
            middle(ours, |took| took.in_all_s),
            middle(hands, |took| took.in_all_s)
        ),
    });
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
         model = \"resnet18\"\nepochs = 1\nmax_steps = {STEPS}\nbatch_size = {BATCH}\nprecision = \"bf16\"\nseed = 1\n\
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

/// Of the windows after the first, which has what happens once: what comes with a start counts in all.
fn step_ms(pictures_per_second: Vec<f64>) -> Result<f64> {
    let windows = pictures_per_second.get(1..).unwrap_or_default();
    anyhow::ensure!(!windows.is_empty(), "the run told of too few steps");
    let seconds: f64 = windows.iter().map(|rate| f64::from(BATCH) / rate).sum();
    Ok(1e3 * seconds / windows.len() as f64)
}
