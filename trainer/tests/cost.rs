//! What the trainer's own work costs beside the computation: waiting for raw shards, the clock, and
//! checkpoints with TensorBoard. Ignored by default, for it wants a quiet machine:
//! `cargo test --workspace --test cost -- --ignored --nocapture`.

#![allow(clippy::print_stdout, reason = "figures for whoever runs it")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::path::Path;
use std::time::Instant;

use common::{Run, settings, write_shards_of};
use marquee_domain::child::ChildEvent;
use marquee_domain::report::TrainSummary;
use marquee_domain::spec::TrainSettings;

/// The models to measure, and their pictures' sides.
const CASES: [(&str, u32); 2] = [("simple-cnn", 224), ("resnet18", 128)];
const STEPS: u64 = 40;
/// Readings of the clock in a step: at most this many.
const READINGS: f64 = 16.0;
const PAIRS: usize = 3;

fn summary(shards: &Path, settings: TrainSettings) -> TrainSummary {
    let events = Run::train(shards, settings).succeed(1);
    match events.last() {
        Some(ChildEvent::Finished { summary }) => serde_json::from_value(summary.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn step_s(summary: &TrainSummary) -> f64 {
    summary.phases.step_s / summary.steps as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
#[ignore = "measures; wants a quiet machine"]
fn input_clock_and_checkpoints_cost_next_to_nothing() {
    let clock_s = {
        let started = Instant::now();
        let readings = 1_000_000;
        let sum: u128 = (0..readings).map(|_| started.elapsed().as_nanos()).sum();
        assert!(sum > 0);
        started.elapsed().as_secs_f64() / f64::from(readings)
    };
    for (model, side) in CASES {
        let folder = tempfile::tempdir().unwrap();
        write_shards_of(folder.path(), [128, 0, 0], (side, side));
        let base = || TrainSettings {
            model: model.into(),
            batch_size: 16,
            epochs: 99,
            max_steps: Some(STEPS),
            ..settings()
        };
        let on = || TrainSettings {
            tensorboard: true,
            checkpoint_every_steps: 20,
            ..base()
        };
        let (mut with, mut without, mut stalls) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let off = summary(folder.path(), base());
            stalls.push(off.phases.input_s / off.phases.step_s);
            without.push(step_s(&off));
            with.push(step_s(&summary(folder.path(), on())));
        }
        let (stall, off, on) = (median(stalls), median(without), median(with));
        let clock = READINGS * clock_s / off;
        println!(
            "{model} {side} px: step {:.1} ms; input stall {:.2} %; clock {:.4} %; checkpoints every 20 \
             steps and TensorBoard {:+.2} %",
            1e3 * off,
            100.0 * stall,
            100.0 * clock,
            100.0 * (on / off - 1.0)
        );
        assert!(
            stall <= 0.02,
            "{model}: {stall} of the step waits for raw pictures"
        );
        assert!(
            clock < 0.005,
            "{model}: {clock} of the step reads the clock"
        );
    }
}
