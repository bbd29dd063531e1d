//! From JPEG files on disk to a trained network, beside a PyTorch script with a DataLoader and the
//! same cores.
//!
//! Ours is what a pipeline does: the files become shards once, and each epoch reads those. Theirs decodes
//! each file in each epoch, with as many workers as turn out fastest.

#![allow(clippy::cast_precision_loss, reason = "there are a few epochs")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Bench;
use super::children::{
    PICTURES, Shards, THREADS, ensure_pictures, make_shards, run_child, train_work,
};
use super::peers::median;
use crate::bench::figure::{Figure, Goal, Sheet};
use marquee_xtask::process;

const BATCH: u32 = 32;
/// Of which both sides do the same number in each round.
const EPOCHS: u32 = 2;
const ROUNDS: usize = 3;
/// Worker processes of the DataLoader that are tried.
const WORKERS: [u32; 2] = [1, 2];

/// A model, the side of its pictures, how it computes, and how much faster it must be.
struct Case {
    model: &'static str,
    side: u32,
    precision: &'static str,
    encoding: &'static str,
    goal: f64,
}

const CASES: [Case; 3] = [
    Case {
        model: "simple-cnn",
        side: 224,
        precision: "fp32",
        encoding: "raw",
        goal: 1.5,
    },
    Case {
        model: "simple-cnn",
        side: 224,
        precision: "bf16",
        encoding: "jpeg",
        goal: 1.5,
    },
    Case {
        model: "resnet18",
        side: 224,
        precision: "bf16",
        encoding: "raw",
        goal: 1.0,
    },
];

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    let pictures = ensure_pictures(bench)?;
    for case in &CASES {
        let shape = Shards {
            side: case.side,
            encoding: case.encoding,
        };
        let (shards, making_s) = make_shards(bench, shape)?;
        let mut ours = Vec::new();
        let mut theirs: Vec<Vec<f64>> = vec![Vec::new(); WORKERS.len()];
        for _ in 0..bench.rounds(ROUNDS) {
            ours.push(train_ours(bench, &shards, case)?);
            for (workers, rates) in WORKERS.into_iter().zip(&mut theirs) {
                rates.push(train_theirs(bench, &pictures, case, workers)?);
            }
        }
        let medians = theirs.iter().map(|rates| median(rates));
        let (workers, best) = WORKERS
            .into_iter()
            .zip(medians)
            // Their best number of workers is what ours is held against: a team would have tried,
            // too.
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .context("no workers were tried")?;
        let rates: Vec<f64> = ours.iter().map(|run| run.pictures_per_s).collect();
        let stall = median(&ours.iter().map(|run| run.stall).collect::<Vec<_>>());
        let rate = median(&rates);
        sheet.add(Figure {
            name: format!(
                "files to training, {} {} px {}, {} shards",
                case.model, case.side, case.precision, case.encoding
            ),
            value: rate,
            unit: "pictures/s wall".into(),
            is_less_better: false,
            reference: Some(("DataLoader".to_owned(), best)),
            goal: Some(Goal::Ratio(case.goal)),
            ran: format!(
                "{PICTURES} JPEG files of 500x750, batch {BATCH}, {THREADS} threads, epochs after the first, \
                 median of {} runs in turn; DataLoader with {workers} workers; ours waits {:.2} % of the step for \
                 input, and had made its shards once, in {making_s:.1} s ({:.0} pictures/s)",
                ours.len(),
                100.0 * stall,
                f64::from(PICTURES) / making_s,
            ),
        });
    }
    Ok(())
}

/// What one of our runs was like.
struct Run {
    pictures_per_s: f64,
    /// Share of the steps that waited for input.
    stall: f64,
}

fn train_ours(bench: &Bench<'_>, shards: &Path, case: &Case) -> Result<Run> {
    // One epoch more, for the first warms up and is left out.
    let work = train_work(case.model, case.precision, BATCH, EPOCHS + 1);
    let folder = bench.folder.join("train");
    let _ = fs::remove_dir_all(&folder);
    let done = run_child(&bench.trainer, &folder, &work, &json!({ "shards": shards }))?;
    // The first epoch warms up, as theirs does.
    let rows: Vec<&Value> = done
        .events
        .iter()
        .filter(|event| {
            event["event"] == "metrics" && event["values"]["epoch/images_per_second"].is_f64()
        })
        .collect();
    let counted: Vec<f64> = rows
        .iter()
        .skip(1)
        .filter_map(|event| event["values"]["epoch/images_per_second"].as_f64())
        .collect();
    if counted.is_empty() {
        bail!("a run of {} epochs reported none of them", EPOCHS + 1);
    }
    let phases = &done.summary["phases"];
    let number = |key: &str| phases[key].as_f64().with_context(|| format!("no {key}"));
    Ok(Run {
        // The rate over all of the time: a plain mean of rates would favour the quick epochs.
        pictures_per_s: counted.len() as f64 / counted.iter().map(|rate| 1.0 / rate).sum::<f64>(),
        stall: number("input_s")? / number("step_s")?,
    })
}

fn train_theirs(bench: &Bench<'_>, pictures: &Path, case: &Case, workers: u32) -> Result<f64> {
    let mut command = bench.peer("files");
    command
        .arg(pictures)
        .args(["--model", case.model, "--precision", case.precision])
        // Set by whoever runs this, it would overrule the number of threads that the script is
        // told.
        .env_remove("OMP_NUM_THREADS");
    for (name, value) in [
        ("size", case.side),
        ("batch", BATCH),
        ("workers", workers),
        ("epochs", EPOCHS),
        ("threads", THREADS),
    ] {
        command.args([format!("--{name}"), value.to_string()]);
    }
    let text = process::read(&mut command)?;
    // The script leaves its first epoch out by itself.
    let (mut pictures, mut seconds) = (0.0, 0.0);
    for line in text.lines() {
        let epoch: Value =
            serde_json::from_str(line).with_context(|| format!("it said {line:?}"))?;
        pictures += epoch["pictures"].as_f64().context("no pictures")?;
        seconds += epoch["wall_s"].as_f64().context("no wall_s")?;
    }
    Ok(pictures / seconds)
}
