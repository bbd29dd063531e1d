//! That an interrupted run ends as if nothing had happened.

use crate::common::{Run, checkpoint_in, settings, write_shards};
use marquee_domain::FailureClass;
use marquee_domain::child::ChildEvent;
use marquee_domain::spec::{Colour, Crop, Learning, LrSchedule, Mix, Optimizer, TrainSettings};
use nix::sys::signal::{Signal, kill};

/// 75 rows in batches of 8: ten steps an epoch, the last one of 3.
const ROWS: [usize; 3] = [75, 9, 0];

fn often(optimizer: Optimizer) -> TrainSettings {
    TrainSettings {
        checkpoint_every_steps: 3,
        optimizer,
        ..settings()
    }
}

fn sgd() -> Optimizer {
    Optimizer::Sgd {
        lr: 0.05,
        momentum: 0.9,
        nesterov: false,
        weight_decay: 1e-4,
    }
}

fn adamw() -> Optimizer {
    Optimizer::AdamW {
        lr: 2e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    }
}

/// Kills all ranks after the checkpoint of step 3 (of 20), goes on from it, and compares weights.
fn killed_and_resumed_equals_undisturbed(ranks: u32, optimizer: Optimizer) {
    killed_and_resumed(ranks, &often(optimizer));
}

fn killed_and_resumed(ranks: u32, settings: &TrainSettings) {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let undisturbed = Run::train(folder.path(), settings.clone());
    undisturbed.succeed(ranks);

    let killed = Run::train(folder.path(), settings.clone());
    let mut gang = killed.start(ranks);
    let checkpoint = gang.ranks[0].wait_for_checkpoint(3);
    for rank in &gang.ranks {
        kill(rank.pid(), Signal::SIGKILL).unwrap();
    }
    drop(gang);
    assert!(
        !killed.output("model.safetensors").exists(),
        "it was killed too late to show anything"
    );

    let resumed = Run::train(folder.path(), settings.clone()).resuming(&checkpoint);
    let events = resumed.succeed(ranks);
    let Some(ChildEvent::Finished { summary }) = events.last() else {
        panic!("{events:?}")
    };
    let from = summary["resumed_from_step"].as_u64().unwrap();
    assert_eq!(from % 10 % 3, 0, "step {from} should be in mid-epoch");
    assert_eq!(summary["steps"].as_u64(), Some(20));
    assert!(
        undisturbed.model_bytes() == resumed.model_bytes(),
        "weights differ ({ranks} ranks, {:?})",
        settings.optimizer
    );

    // The history has the first epoch's row from before the kill.
    let history = std::fs::read_to_string(resumed.output("history.json")).unwrap();
    let rows: Vec<marquee_evaluation::EpochRow> = serde_json::from_str(&history).unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| (row.epoch, row.step))
            .collect::<Vec<_>>(),
        [(1, 10), (2, 20)]
    );
}

#[test]
fn one_rank_with_sgd() {
    killed_and_resumed_equals_undisturbed(1, sgd());
}

#[test]
fn one_rank_with_adamw() {
    killed_and_resumed_equals_undisturbed(1, adamw());
}

#[test]
fn two_ranks_with_sgd() {
    killed_and_resumed_equals_undisturbed(2, sgd());
}

/// With three ranks the order of sums matters: buckets must be the same before the first step.
#[test]
fn three_ranks_with_adamw() {
    killed_and_resumed_equals_undisturbed(3, adamw());
}

/// All that has a state or a place in the run beside the optimizer.
#[test]
fn two_ranks_with_all_that_settings_can_add() {
    killed_and_resumed(
        2,
        &TrainSettings {
            lr_schedule: LrSchedule::OneCycle {
                rise: 0.3,
                start_divisor: 25.0,
                end_divisor: 1e4,
            },
            clip_norm: Some(0.5),
            accumulate: 2,
            ema_decay: Some(0.8),
            crop: Some(Crop {
                min_area: 0.5,
                max_stretch: 1.2,
            }),
            colour: Some(Colour {
                brightness: 0.2,
                contrast: 0.2,
                saturation: 0.2,
            }),
            input_threads: 3,
            learning: Learning {
                mixup: Some(Mix {
                    alpha: 0.4,
                    share: 0.4,
                }),
                cutmix: Some(Mix {
                    alpha: 1.0,
                    share: 0.4,
                }),
                ..Learning::default()
            },
            ..often(adamw())
        },
    );
}

#[test]
fn told_to_stop_all_ranks_leave_at_the_same_step_with_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let long = || TrainSettings {
        epochs: 15,
        checkpoint_every_steps: 0,
        ..settings()
    };
    let undisturbed = Run::train(folder.path(), long());
    undisturbed.succeed(2);

    let run = Run::train(folder.path(), long());
    let mut gang = run.start(2);
    gang.ranks[0].wait_for_checkpoint(10);
    // One rank alone is told; the other learns of it through the all-reduce.
    kill(gang.ranks[1].pid(), Signal::SIGTERM).unwrap();
    let (events, code) = gang.ranks[0].finish();
    assert_eq!(
        (code, gang.ranks[1].finish().1),
        (Some(75), Some(75)),
        "{events:#?}"
    );
    let Some(ChildEvent::Checkpoint { step, path }) = events.last() else {
        panic!("{events:#?}")
    };
    assert!(*step < 150, "it ran to its end instead");

    let resumed = Run::train(folder.path(), long()).resuming(path);
    resumed.succeed(2);
    assert!(
        undisturbed.model_bytes() == resumed.model_bytes(),
        "weights differ after a stop at step {step}"
    );
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let first = Run::train(
        folder.path(),
        TrainSettings {
            max_steps: Some(3),
            ..often(sgd())
        },
    );
    let events = first.succeed(1);
    let checkpoint = events
        .iter()
        .find_map(checkpoint_in)
        .map(|(_, path)| path.to_owned())
        .unwrap();
    let refused = |settings: TrainSettings, what: &str| {
        let run = Run::train(folder.path(), settings).resuming(&checkpoint);
        let (class, message) = run.start(1).ranks[0].fail();
        assert_eq!(class, FailureClass::BadInput);
        assert!(message.contains(what), "{message}");
    };
    refused(
        TrainSettings {
            batch_size: 16,
            ..often(sgd())
        },
        "batch_size was 8 and is now 16",
    );
    refused(
        TrainSettings {
            seed: 12,
            ..often(sgd())
        },
        "seed was 11 and is now 12",
    );
    refused(often(adamw()), "exp_avg");

    std::fs::write(checkpoint.join("weights.safetensors"), b"torn").unwrap();
    refused(often(sgd()), "weights.safetensors cannot be read");
}
