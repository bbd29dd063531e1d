//! kill -9 at random steps, and in the middle of writing a checkpoint, again and again: the weights at the end are
//! those of the run that was left alone, to the last bit.
//!
//! A few kills run with every test. Twenty and more, with the seed of your choice:
//! `MARQUEE_KILLS=20 MARQUEE_SEED=7 cargo xtask test -- -p marquee-trainer --run-ignored only twenty_kills`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{Dice, Gang, PATIENCE, Run, checkpoint_in, settings, write_shards};
use marquee_domain::child::ChildEvent;
use marquee_domain::spec::{Optimizer, TrainSettings};
use nix::sys::signal::{Signal, kill};

const RANKS: u32 = 2;
/// 75 rows in batches of 8: ten steps an epoch.
const ROWS: [usize; 3] = [75, 9, 0];
const EPOCHS: u32 = 6;
const STEPS: u64 = 10 * EPOCHS as u64;
/// Kills of one run, from its first attempt to its end.
const KILLS_OF_A_RUN: usize = 5;
/// Of how many steps at most an attempt makes before it is killed.
const STEPS_OF_AN_ATTEMPT: u64 = 9;

fn often() -> TrainSettings {
    TrainSettings {
        epochs: EPOCHS,
        checkpoint_every_steps: 2,
        optimizer: Optimizer::AdamW {
            lr: 2e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
        ..settings()
    }
}

/// When an attempt was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// At or after this step.
    After(u64),
    /// While a checkpoint was being written: what was written aside is still there.
    InWriting,
}

/// One run, killed up to `KILLS_OF_A_RUN` times. Returns when, and the weights at its end.
fn run_killed(shards: &Path, dice: &mut Dice, wanted: usize) -> (Vec<Killed>, Vec<u8>) {
    let mut kills = Vec::new();
    let mut newest: Option<(u64, PathBuf)> = None;
    // Kept until the end: a later attempt goes on from an earlier one's checkpoint.
    let mut attempts: Vec<Run> = Vec::new();
    while kills.len() < wanted {
        let run = attempt(shards, newest.as_ref());
        let mut gang = run.start(RANKS);
        let from = newest.as_ref().map_or(0, |(step, _)| *step);
        let in_writing = dice.below(3) == 0;
        let target = (from + 1 + dice.below(STEPS_OF_AN_ATTEMPT)).min(STEPS - 4);
        if in_writing {
            wait_for_writing(&run.spec.checkpoints);
        } else {
            gang.ranks[0].wait_for(|event| (step_of(event)? >= target).then_some(()));
            std::thread::sleep(Duration::from_micros(dice.below(3_000)));
        }
        // Both as a host's loss does, or one and the other loses its peer.
        let victims = [&[0, 1][..], &[0], &[1]][usize::try_from(dice.below(3)).unwrap()];
        kill_ranks(&gang, victims);
        newest = newest_of(&mut gang).or(newest);
        drop(gang);
        if run.output("model.safetensors").exists() {
            // It was through before the signal came: that was no kill.
            return (kills, run.model_bytes());
        }
        kills.push(
            match in_writing && victims.contains(&0) && is_writing(&run.spec.checkpoints) {
                true => Killed::InWriting,
                false => Killed::After(target),
            },
        );
        attempts.push(run);
    }
    let last = attempt(shards, newest.as_ref());
    last.succeed(RANKS);
    (kills, last.model_bytes())
}

fn attempt(shards: &Path, newest: Option<&(u64, PathBuf)>) -> Run {
    let run = Run::train(shards, often());
    match newest {
        Some((_, path)) => run.resuming(path),
        None => run,
    }
}

fn step_of(event: &ChildEvent) -> Option<u64> {
    match event {
        ChildEvent::Checkpoint { step, .. } | ChildEvent::Metrics { step, .. } => Some(*step),
        ChildEvent::Progress { .. }
        | ChildEvent::Regrouped { .. }
        | ChildEvent::Finished { .. }
        | ChildEvent::Failed { .. } => None,
    }
}

fn kill_ranks(gang: &Gang, victims: &[usize]) {
    for victim in victims {
        // One that has just ended by itself is as dead.
        let _ = kill(gang.ranks[*victim].pid(), Signal::SIGKILL);
    }
}

/// The newest checkpoint that rank 0 told of before it ended, as its worker would have stored it.
fn newest_of(gang: &mut Gang) -> Option<(u64, PathBuf)> {
    let (events, _) = gang.ranks[0].finish();
    let mut told = events.iter().filter_map(checkpoint_in);
    told.next_back().map(|(step, path)| (step, path.to_owned()))
}

/// Whether a checkpoint that is not whole lies there.
fn is_writing(checkpoints: &Path) -> bool {
    let entries = std::fs::read_dir(checkpoints)
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .any(|name| name.ends_with(".partial"))
}

fn wait_for_writing(checkpoints: &Path) {
    let start = Instant::now();
    while !is_writing(checkpoints) {
        assert!(start.elapsed() < PATIENCE, "no checkpoint was begun");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Kills runs until `wanted` kills are done, `in_writing` of them while a checkpoint was written.
fn weights_are_equal(seed: u64, wanted: usize, in_writing: usize) {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let undisturbed = Run::train(folder.path(), often());
    undisturbed.succeed(RANKS);
    let expected = undisturbed.model_bytes();

    let mut dice = Dice::new(seed);
    let mut kills: Vec<Killed> = Vec::new();
    let torn = |kills: &[Killed]| kills.iter().filter(|k| **k == Killed::InWriting).count();
    let mut runs = 0;
    while kills.len() < wanted || torn(&kills) < in_writing {
        runs += 1;
        assert!(runs <= 2 * wanted, "too few kills hit: {kills:?}");
        let (of_run, weights) = run_killed(folder.path(), &mut dice, KILLS_OF_A_RUN.min(wanted));
        assert!(
            weights == expected,
            "weights differ after {of_run:?} (seed {seed}, run {runs})"
        );
        kills.extend(of_run);
    }
    eprintln!(
        "seed {seed}: {} kills in {runs} runs of {STEPS} steps on {RANKS} ranks, {} of them in the middle of writing a \
         checkpoint; all weights equal to the last bit",
        kills.len(),
        torn(&kills)
    );
}

#[test]
fn a_few_kills_anywhere_change_no_bit() {
    weights_are_equal(1, 3, 1);
}

#[test]
#[ignore = "takes minutes; see the head of this file"]
fn twenty_kills_anywhere_change_no_bit() {
    let number = |name: &str, otherwise: u64| {
        let given = std::env::var(name).ok();
        given.map_or(otherwise, |text| text.parse().unwrap())
    };
    let kills = usize::try_from(number("MARQUEE_KILLS", 20)).unwrap();
    weights_are_equal(number("MARQUEE_SEED", 7), kills, kills.div_ceil(5));
}
