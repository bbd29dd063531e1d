//! Whole training steps beside PyTorch eager and `torch.compile`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use super::peers::{Trainee, Turns, require_same_losses, take_turns};
use crate::bench::figure::{Figure, Goal, Sheet};
use marquee_xtask::{process, report};

/// A model, and the batch it is timed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) model: &'static str,
    batch: u32,
    side: u32,
    /// Steps of one turn, and turns.
    steps: usize,
    rounds: usize,
}

pub(super) const CASES: [Case; 4] = [
    Case {
        model: "simple-cnn",
        batch: 32,
        side: 224,
        steps: 2,
        rounds: 9,
    },
    Case {
        model: "resnet18",
        batch: 32,
        side: 128,
        steps: 2,
        rounds: 9,
    },
    Case {
        model: "vgg16",
        batch: 8,
        side: 224,
        steps: 1,
        rounds: 7,
    },
    Case {
        model: "inception_v3",
        batch: 8,
        side: 299,
        steps: 1,
        rounds: 9,
    },
];

/// How both sides compute.
#[derive(Debug, Clone, Copy)]
struct Mode {
    name: &'static str,
    precision: &'static str,
    layout: &'static str,
    /// Least ratio to eager: 1 / 0.95 where that is the goal.
    eager: f64,
    /// Relative difference of the first losses that rounding may make beside `torch.compile`, which fuses
    /// what eager rounds one by one.
    compiled_tolerance: f64,
}

const MODES: [Mode; 2] = [
    Mode {
        name: "fp32",
        precision: "fp32",
        layout: "channels_first",
        eager: 1.0,
        compiled_tolerance: 1e-3,
    },
    Mode {
        name: "channels_last + bf16",
        precision: "bf16",
        layout: "channels_last",
        eager: 1.053,
        compiled_tolerance: 5e-2,
    },
];
/// Of the first losses beside eager, which calls the same kernels.
const EAGER_TOLERANCE: f64 = 1e-4;
/// 1 / 1.05.
const COMPILED: f64 = 0.952;
/// Steps before the first that counts.
const WARMUP: usize = 3;
pub(super) const CLASSES: u32 = 20;

pub(super) fn run(bench: &Bench<'_>, case: Case, sheet: &mut Sheet) -> Result<()> {
    let folder = ensure_batch(bench, case.model, case.batch, case.side)?;
    for mode in MODES {
        let mut trainees = vec![
            Trainee::start("ours", [ours(bench, &folder, case.model, mode)])?,
            Trainee::start("torch eager", [theirs(bench, &folder, mode, false)])?,
        ];
        // One for each peer, in the peers' order.
        let mut asked = vec![(mode.eager, EAGER_TOLERANCE)];
        if bench.with_compiled {
            trainees.push(Trainee::start(
                "torch.compile",
                [theirs(bench, &folder, mode, true)],
            )?);
            asked.push((COMPILED, mode.compiled_tolerance));
        }
        let turns = Turns {
            warmup: WARMUP,
            rounds: bench.rounds(case.rounds),
            steps: case.steps,
        };
        take_turns(&mut trainees, turns)?;
        let (ours, peers) = trainees.split_first().context("ours takes part")?;
        for (peer, (goal, tolerance)) in peers.iter().zip(asked) {
            // Before any figure is shown: times of two trainings that differ cannot be compared.
            let apart = require_same_losses(ours, peer, tolerance)?;
            sheet.add(figure(case, mode, (ours, peer), goal, (turns, apart)));
        }
        report::note(&format!("{} {}: done", case.model, mode.name));
    }
    Ok(())
}

fn figure(
    case: Case,
    mode: Mode,
    (ours, peer): (&Trainee, &Trainee),
    goal: f64,
    (turns, apart): (Turns, f64),
) -> Figure {
    Figure {
        name: format!("{} step, {}", case.model, mode.name),
        value: ours.cpu_ms(),
        unit: "CPU ms/step".into(),
        is_less_better: true,
        reference: Some((peer.name.to_owned(), peer.cpu_ms())),
        goal: Some(Goal::Ratio(goal)),
        ran: format!(
            "{} x {}x{} px, 1 thread each, median of {} rounds of {} in turn; least {:.0} and {:.0} ms, wall \
             median {:.0} and {:.0} ms, memory {:.0} and {:.0} MB, first losses within {apart:.0e}",
            case.batch,
            case.side,
            case.side,
            turns.rounds,
            turns.steps,
            ours.cpu_least_ms(),
            peer.cpu_least_ms(),
            ours.wall_ms(),
            peer.wall_ms(),
            ours.peak_memory_bytes / 1e6,
            peer.peak_memory_bytes / 1e6,
        ),
    }
}

/// Weights and a batch of a model, for both sides.
pub(super) fn ensure_batch(
    bench: &Bench<'_>,
    model: &str,
    batch: u32,
    side: u32,
) -> Result<PathBuf> {
    let folder = bench.folder.join(format!("{model}-{batch}x{side}"));
    // Written last.
    if !folder.join("model.txt").exists() {
        fs::create_dir_all(&folder)?;
        let mut init = bench.peer("init");
        init.arg(model).arg(&folder);
        for (name, value) in [
            ("batch", batch),
            ("width", side),
            ("height", side),
            ("classes", CLASSES),
        ] {
            init.args([format!("--{name}"), value.to_string()]);
        }
        process::run(&mut init)?;
    }
    Ok(folder)
}

/// Our side of a step: `marquee-trainer bench-step` on the batch in `folder`.
pub(super) fn bench_step(bench: &Bench<'_>, folder: &Path, model: &str) -> Command {
    let mut command = bench.step(model);
    command
        .arg("--weights")
        .arg(folder.join("weights.safetensors"))
        .arg("--data")
        .arg(folder.join("data.safetensors"));
    command
}

fn ours(bench: &Bench<'_>, folder: &Path, model: &str, mode: Mode) -> Command {
    let mut command = bench_step(bench, folder, model);
    let last = mode.layout == "channels_last";
    command
        .args(["--precision", mode.precision])
        .args(["--channels-last", if last { "true" } else { "false" }]);
    command
}

fn theirs(bench: &Bench<'_>, folder: &Path, mode: Mode, compiled: bool) -> Command {
    let mut command = bench.peer("step");
    command
        .arg(folder)
        .args(["--precision", mode.precision, "--layout", mode.layout])
        // It is read as PyTorch is loaded: set from within the script it would come too late.
        .env("OMP_NUM_THREADS", "1");
    if compiled {
        command.arg("--compile");
    }
    command
}
