//! `cargo xtask bench input`: what a train job spends on anything but computing.
//!
//! Whether steps wait for pictures, what the phase clock takes, what checkpoints and TensorBoard take. Each
//! is a share of the step; the last two are measured with and without, in turn.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Options;
use super::figure::{Figure, Goal, Sheet};
use super::train::Bench;
use super::train::children::{Shards, THREADS, make_shards, run_child, train_work};
use super::train::peers::{Trainee, median, quartile};
use marquee_xtask::report;
use marquee_xtask::workspace::Workspace;

pub(super) const PARTS: &[&str] = &["stall", "clock", "checkpoints"];

/// Shares of the step, in percent, that each may take.
const STALL: f64 = 2.0;
const CLOCK: f64 = 0.5;
const CHECKPOINTS: f64 = 1.0;

/// Models from the quickest step to a slow one, and the side of their pictures.
const MODELS: [(&str, u32); 3] = [("simple-cnn", 64), ("simple-cnn", 224), ("resnet18", 224)];

/// Measures one part of the group.
type Piece = fn(&Bench<'_>, &mut Sheet) -> Result<()>;

pub(super) fn run(workspace: &Workspace, options: &Options, sheet: &mut Sheet) -> Result<()> {
    let bench = Bench::prepare(workspace, options)?;
    let pieces: [(&str, Piece); 3] = [
        ("stall", stall),
        ("clock", clock),
        ("checkpoints", checkpoints),
    ];
    for (name, piece) in pieces {
        if options.wants(name) {
            report::step(&format!("measure: {name}"), || piece(&bench, sheet))?;
        }
    }
    Ok(())
}

/// Phase times and steps of a run by hand.
fn phases_of(bench: &Bench<'_>, shards: &Path, work: &Value) -> Result<(Value, f64)> {
    let folder = bench.folder.join("train");
    let _ = fs::remove_dir_all(&folder);
    let done = run_child(&bench.trainer, &folder, work, &json!({ "shards": shards }))?;
    let steps = done.summary["steps"].as_f64().context("no steps")?;
    Ok((done.summary["phases"].clone(), steps))
}

fn number(phases: &Value, key: &str) -> Result<f64> {
    phases[key].as_f64().with_context(|| format!("no {key}"))
}

fn shards(bench: &Bench<'_>, side: u32, encoding: &'static str) -> Result<PathBuf> {
    Ok(make_shards(bench, Shards { side, encoding })?.0)
}

fn stall(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    for (model, side) in MODELS {
        for encoding in ["raw", "jpeg"] {
            let shards = shards(bench, side, encoding)?;
            // bf16, where steps are shorter, and waiting for pictures weighs more.
            let work = train_work(model, "bf16", 32, 6);
            let mut shares = Vec::new();
            let mut step_ms = Vec::new();
            for _ in 0..bench.rounds(3) {
                let (phases, steps) = phases_of(bench, &shards, &work)?;
                let step_s = number(&phases, "step_s")?;
                shares.push(100.0 * number(&phases, "input_s")? / step_s);
                step_ms.push(1e3 * step_s / steps);
            }
            sheet.add(Figure {
                name: format!("waits for input, {model} {side} px, {encoding} shards"),
                value: median(&shares),
                unit: "% of the step".into(),
                is_less_better: true,
                reference: None,
                // jpeg shards cost the decoding of each picture; they are for disks that are too
                // small for raw ones.
                goal: (encoding == "raw").then_some(Goal::AtMost(STALL)),
                ran: format!(
                    "bf16, batch 32, 6 epochs of 512 pictures, 2 threads; step {:.1} ms; median of {} runs, the \
                     first batch of each included",
                    median(&step_ms),
                    shares.len()
                ),
            });
        }
    }
    Ok(())
}

/// The quickest steps there are, on small pictures: there the clock's share is largest. By turns in one
/// process, for where its memory happens to lie makes two processes differ by more than the clock does.
fn clock(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    const STEPS: usize = 25;
    let rounds = bench.rounds(120);
    let mut command = bench.step("simple-cnn");
    command.args(["--batch", "8", "--width", "48", "--height", "72"]);
    let mut trainee = Trainee::start("ours", [command])?;
    // Thrown away: it warms up, with the clock on and off alike.
    trainee.cpu_s_of(2 * STEPS)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // In changing order, so that what drifts within a round befalls both alike.
        let first = if round % 2 == 0 { "on" } else { "off" };
        let second = if round % 2 == 0 { "off" } else { "on" };
        for phases in [first, second] {
            trainee.tell(&format!("phases {phases}"))?;
            let steps = trainee.cpu_s_of(STEPS)?;
            let list = if phases == "on" {
                &mut with
            } else {
                &mut without
            };
            list.extend(steps);
        }
    }
    let (with, without) = (1e3 * median(&with), 1e3 * median(&without));
    sheet.add(Figure {
        name: "the phase clock, simple-cnn 48x72 px".to_owned(),
        value: 100.0 * (with / without - 1.0),
        unit: "% of the step".into(),
        is_less_better: true,
        reference: None,
        goal: Some(Goal::AtMost(CLOCK)),
        ran: format!(
            "batch 8, 1 thread, CPU {with:.3} and {without:.3} ms a step, median of {rounds} rounds of {STEPS} in turn"
        ),
    });
    Ok(())
}

/// Steps with a checkpoint that is written meanwhile and with TensorBoard, and steps without, by turns in
/// one process. A checkpoint every ten seconds or so is more than jobs want.
fn checkpoints(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    for (model, steps) in [("simple-cnn", 300), ("resnet18", 50)] {
        let folder = bench.folder.join("written");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let mut command = bench.step_with(model, THREADS);
        command.args(["--batch", "4", "--precision", "bf16"]);
        let mut trainee = Trainee::start("ours", [command])?;
        trainee.times_of(steps)?;
        let rounds = bench.rounds(16);
        let (mut more, mut more_cpu, mut without) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let mut sums = [(0.0, 0.0); 2];
            for is_on in [round % 2 == 0, round % 2 == 1] {
                trainee.tell(&if is_on {
                    format!("write {}", folder.display())
                } else {
                    "quiet".to_owned()
                })?;
                // Each pair is compared within itself: over minutes the machine's speed drifts by
                // more than is looked for.
                sums[usize::from(is_on)] = trainee.times_of(steps)?;
            }
            let [(wall_off, cpu_off), (wall_on, cpu_on)] = sums;
            more.push(100.0 * (wall_on / wall_off - 1.0));
            more_cpu.push(100.0 * (cpu_on / cpu_off - 1.0));
            without.push(1e3 * wall_off / steps as f64);
        }
        sheet.add(Figure {
            name: format!("TensorBoard and checkpoints, {model} 224 px"),
            value: median(&more),
            unit: "% of the step".into(),
            is_less_better: true,
            reference: None,
            goal: Some(Goal::AtMost(CHECKPOINTS)),
            ran: format!(
                "bf16, batch 4, {THREADS} threads, a checkpoint every {steps} steps of {:.0} ms; CPU time {:+.2} %; \
                 medians of {rounds} pairs in turn, half of them between {:.2} and {:.2} %",
                median(&without),
                median(&more_cpu),
                quartile(&more, 1),
                quartile(&more, 3),
            ),
        });
    }
    Ok(())
}
