//! Jobs run by hand, as a worker would run them, and the pictures that they work on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Bench;
use marquee_xtask::process;

/// JPEG files of 500x750.
pub(in crate::bench) const PICTURES: u32 = 512;
/// Each job may keep so many cores busy.
pub(in crate::bench) const THREADS: u32 = 2;

/// Shards to make of the pictures.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Shards {
    pub(in crate::bench) side: u32,
    /// "raw" or "jpeg".
    pub(in crate::bench) encoding: &'static str,
}

pub(in crate::bench) fn ensure_pictures(bench: &Bench<'_>) -> Result<PathBuf> {
    let folder = bench.folder.join("pictures");
    // Written last.
    if !folder.join("labels.csv").exists() {
        let count = PICTURES.to_string();
        process::run(
            bench
                .peer("pictures")
                .arg(&folder)
                .args(["--count", &count]),
        )?;
    }
    Ok(folder)
}

/// Fetches and preprocesses, as a pipeline does; the folder of shards, and the seconds it took.
pub(in crate::bench) fn make_shards(bench: &Bench<'_>, shape: Shards) -> Result<(PathBuf, f64)> {
    let folder = bench
        .folder
        .join(format!("shards-{}-{}", shape.side, shape.encoding));
    // Anew each time, since how long it takes to make them is part of the figure.
    let _ = fs::remove_dir_all(&folder);
    let started = Instant::now();
    let fetch = json!({
        "kind": "fetch",
        "settings": { "source": { "type": "folder", "path": fs::canonicalize(ensure_pictures(bench)?)? } },
    });
    let dataset = run_child(&bench.prep, &folder.join("fetch"), &fetch, &json!({}))?.output;
    let preprocess = json!({
        "kind": "preprocess",
        "settings": {
            "width": shape.side, "height": shape.side, "encoding": shape.encoding,
            "splits": { "train": 1.0, "validation": 0.0, "test": 0.0 },
            "seed": 1, "labels": null, "min_label_count": 1, "shard_bytes": 64_u32 << 20,
        },
    });
    let inputs = json!({ "dataset": dataset });
    let shards = run_child(
        &bench.prep,
        &folder.join("preprocess"),
        &preprocess,
        &inputs,
    )?
    .output;
    Ok((shards, started.elapsed().as_secs_f64()))
}

/// A train job with nothing in it that is not asked for.
pub(in crate::bench) fn train_work(model: &str, precision: &str, batch: u32, epochs: u32) -> Value {
    json!({
        "kind": "train",
        "settings": {
            "model": model, "epochs": epochs, "batch_size": batch,
            "optimizer": { "name": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": false, "weight_decay": 0.0 },
            "lr_schedule": "constant", "precision": precision, "seed": 1, "flip": true,
            "checkpoint_every_steps": 0, "max_steps": null, "tensorboard": false,
            "collective_timeout_s": 60,
        },
    })
}

/// What a child left behind.
pub(in crate::bench) struct Done {
    pub(in crate::bench) output: PathBuf,
    pub(in crate::bench) events: Vec<Value>,
    pub(in crate::bench) summary: Value,
}

/// Runs a job by hand, as its worker would: `PROGRAM run SPEC` in a folder of its own.
pub(in crate::bench) fn run_child(
    program: &Path,
    folder: &Path,
    work: &Value,
    inputs: &Value,
) -> Result<Done> {
    let folders = ["output", "checkpoints"].map(|name| folder.join(name));
    for folder in &folders {
        fs::create_dir_all(folder)?;
    }
    let [output, checkpoints] = folders;
    let spec = json!({
        "job": 1, "job_name": "bench", "attempt": 1, "work": work, "inputs": inputs, "output": output,
        "checkpoints": checkpoints, "resume": null, "devices": [{ "kind": "cpu", "index": 0 }],
        "threads": THREADS,
    });
    let path = folder.join("spec.json");
    fs::write(&path, spec.to_string())?;
    let mut command = Command::new(program);
    command.arg("run").arg(&path).env("MARQUEE_LOG", "warn");
    let text = process::read(&mut command)?;
    let events = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()
        .context("it said something that is no event")?;
    // The last word of a child is its summary, if it went well.
    let last = events.last().context("it said nothing")?;
    let summary = last["summary"].clone();
    if summary.is_null() {
        bail!("its last word was {last}");
    }
    Ok(Done {
        output,
        events,
        summary,
    })
}
