//! Ranks as real processes: that they compute what one rank would, and what happens when one dies.

use std::time::Instant;

use crate::common::{PATIENCE, Run, settings, trainer, weights_apart, write_shards};
use marquee_domain::FailureClass;
use marquee_domain::child::ChildEvent;
use marquee_domain::report::TrainSummary;
use marquee_domain::spec::{
    GradientCompression, Learning, LrSchedule, Mix, Optimizer, Precision, TrainSettings,
};
use nix::sys::signal::{Signal, kill};

fn exact(optimizer: Optimizer) -> TrainSettings {
    TrainSettings {
        precision: Precision::Fp64,
        max_steps: Some(20),
        epochs: 99,
        optimizer,
        ..settings()
    }
}

/// 45 rows in batches of 8: five full steps, then one of 5 that no number of ranks shares evenly.
const ROWS: [usize; 3] = [45, 9, 0];

#[test]
fn two_and_three_ranks_compute_what_one_rank_does() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let sgd = Optimizer::Sgd {
        lr: 0.05,
        momentum: 0.9,
        nesterov: true,
        weight_decay: 1e-3,
    };
    let adamw = Optimizer::AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    };
    for optimizer in [sgd, adamw] {
        let alone = Run::train(folder.path(), exact(optimizer));
        alone.succeed(1);
        for ranks in [2, 3] {
            let together = Run::train(folder.path(), exact(optimizer));
            together.succeed(ranks);
            let (apart, largest) = weights_apart(&alone.model_bytes(), &together.model_bytes());
            println!("{optimizer:?}, {ranks} ranks: {apart:e} apart, largest weight {largest}");
            assert!(
                apart <= 1e-12,
                "{optimizer:?}, {ranks} ranks: {apart:e} apart"
            );
            assert!(largest > 0.1);
        }
    }
}

/// One plain step at a rate of 1 takes the gradient itself off the weights. 8 pictures over 3 ranks are
/// shared unevenly.
#[test]
fn gradients_of_two_and_three_ranks_are_those_of_one() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    for (precision, limit) in [(Precision::Fp64, 1e-12), (Precision::Fp32, 1e-6)] {
        let one_step = || TrainSettings {
            precision,
            max_steps: Some(1),
            lr_schedule: LrSchedule::Constant,
            ..exact(Optimizer::Sgd {
                lr: 1.0,
                momentum: 0.0,
                nesterov: false,
                weight_decay: 0.0,
            })
        };
        let alone = Run::train(folder.path(), one_step());
        alone.succeed(1);
        for ranks in [2, 3] {
            let together = Run::train(folder.path(), one_step());
            together.succeed(ranks);
            let (apart, _) = weights_apart(&alone.model_bytes(), &together.model_bytes());
            println!("{precision:?}, {ranks} ranks: gradients {apart:e} apart");
            assert!(apart <= limit, "{precision:?}, {ranks} ranks: {apart:e}");
        }
    }
}

/// Clipping goes by the norm over all ranks' gradients, and parts of a step add up to it.
#[test]
fn clipping_accumulation_and_the_running_mean_are_those_of_one_rank() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let settings = |accumulate| TrainSettings {
        clip_norm: Some(0.2),
        accumulate,
        ema_decay: Some(0.9),
        ..exact(settings().optimizer)
    };
    let alone = Run::train(folder.path(), settings(1));
    alone.succeed(1);
    for (ranks, accumulate) in [(1, 3), (2, 2), (3, 4)] {
        let together = Run::train(folder.path(), settings(accumulate));
        together.succeed(ranks);
        let (apart, _) = weights_apart(&alone.model_bytes(), &together.model_bytes());
        println!("{ranks} ranks, {accumulate} parts: {apart:e} apart");
        assert!(apart <= 1e-12, "{ranks} ranks: {apart:e} apart");
    }
    let without = Run::train(
        folder.path(),
        TrainSettings {
            clip_norm: None,
            ..settings(1)
        },
    );
    without.succeed(1);
    let (apart, _) = weights_apart(&alone.model_bytes(), &without.model_bytes());
    assert!(
        apart > 1e-4,
        "the norm was never above what it is clipped to"
    );
}

/// What a picture is mixed with may lie on another rank.
#[test]
fn mixed_pictures_and_targets_are_those_of_one_rank() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let mix = |alpha| Some(Mix { alpha, share: 0.5 });
    let train = |mixup, cutmix, ranks| {
        let learning = Learning {
            mixup,
            cutmix,
            ..Learning::default()
        };
        let settings = TrainSettings {
            learning,
            ..exact(settings().optimizer)
        };
        let run = Run::train(folder.path(), settings);
        run.succeed(ranks);
        run.model_bytes()
    };
    let plain = train(None, None, 1);
    for (mixup, cutmix) in [(mix(0.4), None), (None, mix(1.0)), (mix(0.4), mix(1.0))] {
        let alone = train(mixup, cutmix, 1);
        for ranks in [2, 3] {
            let (apart, _) = weights_apart(&alone, &train(mixup, cutmix, ranks));
            println!("{ranks} ranks, {mixup:?}, {cutmix:?}: {apart:e} apart");
            assert!(apart <= 1e-12, "{ranks} ranks: {apart:e} apart");
        }
        assert!(weights_apart(&plain, &alone).0 > 1e-4, "nothing was mixed");
    }
}

fn final_loss(events: &[ChildEvent]) -> f64 {
    match events.last() {
        Some(ChildEvent::Finished { summary }) => summary["final_loss"].as_f64().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn gradients_of_16_bits_and_products_of_16_bits_learn_as_well() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let base = || TrainSettings {
        epochs: 4,
        ..settings()
    };
    let run = |settings: TrainSettings, ranks| {
        let run = Run::train(folder.path(), settings);
        final_loss(&run.succeed(ranks))
    };
    let full = run(base(), 2);
    let compressed = TrainSettings {
        gradient_compression: GradientCompression::Bf16,
        ..base()
    };
    let half = TrainSettings {
        precision: Precision::Bf16,
        ..base()
    };
    let mut cases = vec![("products", run(half, 1))];
    if cfg!(libtorch_2_0) {
        let (class, message) = Run::train(folder.path(), compressed).start(2).ranks[0].fail();
        assert_eq!(class, FailureClass::UserError);
        assert!(message.contains("gradient_compression"), "{message}");
    } else {
        cases.push(("gradients", run(compressed, 2)));
    }
    for (what, loss) in cases {
        println!("{what} in bf16: loss {loss}, in fp32: {full}");
        assert!(
            (loss - full).abs() < 0.05 * full,
            "{what}: {loss} for {full}"
        );
        assert!(loss.to_bits() != full.to_bits(), "{what} were not in bf16");
    }
}

#[test]
fn the_layout_of_weights_changes_no_result_beyond_rounding() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let run = |channels_last| {
        let run = Run::train(
            folder.path(),
            TrainSettings {
                channels_last,
                ..exact(settings().optimizer)
            },
        );
        run.succeed(1);
        run.model_bytes()
    };
    let (apart, _) = weights_apart(&run(true), &run(false));
    assert!(apart < 1e-10, "{apart:e} apart");
}

#[test]
fn auto_chooses_a_precision_and_says_which_and_fp16_is_refused_on_cpus() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let with = |precision| {
        Run::train(
            folder.path(),
            TrainSettings {
                precision,
                ..settings()
            },
        )
    };
    let events = with(Precision::Auto).succeed(2);
    let Some(ChildEvent::Finished { summary }) = events.last() else {
        panic!("{events:?}")
    };
    let chosen = summary["precision"].as_str().unwrap();
    assert!(["fp32", "bf16"].contains(&chosen), "{chosen}");
    let (class, message) = with(Precision::Fp16).start(1).ranks[0].fail();
    assert_eq!(class, FailureClass::UserError);
    assert!(
        message.contains("fp16") && message.contains("bf16"),
        "{message}"
    );
}

/// Starts ranks by hand, kills one in mid-run, and returns the events of the whole gang.
fn run_and_lose(shards: &std::path::Path, settings: TrainSettings, lost: u32) -> Vec<ChildEvent> {
    let run = Run::train(shards, settings);
    let mut command = trainer();
    command
        .arg("run")
        .arg(run.write_spec())
        .args(["--ranks", "3", "--min-ranks", "1"]);
    let mut gang = crate::common::RankProcess::spawn(command);
    gang.wait_for_checkpoint(10);
    kill(crate::common::rank_of(gang.pid(), lost), Signal::SIGKILL).unwrap();
    let (events, code) = gang.finish();
    assert_eq!(code, Some(0), "{events:#?}");
    assert!(run.output("model.safetensors").exists());
    events
}

/// Rank 0, which writes what all have in common, and another.
#[test]
fn survivors_of_a_killed_rank_go_on_and_learn_as_well_as_the_undisturbed() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let settings = || TrainSettings {
        epochs: 60,
        checkpoint_every_steps: 5,
        ema_decay: Some(0.5),
        optimizer: Optimizer::Sgd {
            lr: 0.01,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-4,
        },
        ..settings()
    };
    let undisturbed = final_loss(&Run::train(folder.path(), settings()).succeed(3));
    for lost in [2, 0] {
        let events = run_and_lose(folder.path(), settings(), lost);
        let Some(ChildEvent::Finished { summary }) = events.last() else {
            panic!("{events:#?}")
        };
        let summary: TrainSummary = serde_json::from_value(summary.clone()).unwrap();
        assert_eq!(
            (summary.world_size, summary.regroups),
            (2, 1),
            "rank {lost} lost"
        );
        assert_eq!((summary.epochs, summary.steps, summary.rank), (60, 360, 0));
        // Whoever writes in the place of rank 0 is heard in its place.
        let last = events
            .iter()
            .rev()
            .find_map(crate::common::checkpoint_in)
            .unwrap();
        assert_eq!(last.0, 360);
        let apart = (summary.final_loss - undisturbed).abs();
        println!(
            "rank {lost} lost: loss {} for {undisturbed}",
            summary.final_loss
        );
        assert!(apart < 0.02, "{} for {undisturbed}", summary.final_loss);
    }
}

#[test]
fn with_too_few_survivors_the_run_fails_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let forever = TrainSettings {
        epochs: 100_000,
        checkpoint_every_steps: 5,
        ..settings()
    };
    let run = Run::train(folder.path(), forever);
    let mut command = trainer();
    command
        .arg("run")
        .arg(run.write_spec())
        .args(["--ranks", "2", "--min-ranks", "2"]);
    let mut gang = crate::common::RankProcess::spawn(command);
    gang.wait_for_checkpoint(10);
    kill(crate::common::rank_of(gang.pid(), 1), Signal::SIGKILL).unwrap();
    let (class, message) = gang.fail();
    assert_eq!(class, FailureClass::Crash, "{message}");
    assert!(message.contains("rank 1 died by signal 9"), "{message}");
}

#[test]
fn a_rank_without_a_picture_in_the_last_step_takes_part_and_counts_nothing() {
    // 9 rows in batches of 4 for 3 ranks: the last step has one picture.
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [9, 2, 0]);
    let settings = || TrainSettings {
        batch_size: 4,
        precision: Precision::Fp64,
        epochs: 3,
        ..settings()
    };
    let (alone, together) = (
        Run::train(folder.path(), settings()),
        Run::train(folder.path(), settings()),
    );
    let (one, three) = (alone.succeed(1), together.succeed(3));
    let (apart, _) = weights_apart(&alone.model_bytes(), &together.model_bytes());
    assert!(apart <= 1e-12, "{apart:e} apart");
    assert!((final_loss(&one) - final_loss(&three)).abs() < 1e-12);
}

#[test]
fn the_summary_says_who_did_what_and_where_the_time_went() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let run = Run::train(folder.path(), settings());
    let events = run.succeed(2);
    let Some(ChildEvent::Finished { summary }) = events.last() else {
        panic!("{events:?}")
    };
    let summary: TrainSummary = serde_json::from_value(summary.clone()).unwrap();
    assert_eq!(
        (summary.world_size, summary.rank, summary.backend.as_str()),
        (2, 0, "gloo")
    );
    assert_eq!(
        (summary.epochs, summary.steps, summary.resumed_from_step),
        (2, 12, 0)
    );
    let phases = summary.phases;
    assert!(
        phases.forward_s > 0.0 && phases.backward_s > 0.0 && phases.optimizer_s > 0.0,
        "{phases:?}"
    );
    assert!(
        phases.all_reduce_s > 0.0 && phases.checkpoint_s > 0.0 && phases.validation_s > 0.0,
        "{phases:?}"
    );
    let parts = phases.input_s
        + phases.forward_s
        + phases.backward_s
        + phases.all_reduce_s
        + phases.optimizer_s
        + phases.checkpoint_s;
    let unexplained = (phases.step_s - parts) / phases.step_s;
    assert!(
        (-1e-9..0.05).contains(&unexplained),
        "{unexplained}: {phases:?}"
    );
}

#[test]
fn a_killed_rank_is_an_error_of_the_other_at_once() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let forever = TrainSettings {
        epochs: 100_000,
        checkpoint_every_steps: 5,
        ..settings()
    };
    let run = Run::train(folder.path(), forever);
    let mut gang = run.start(2);
    gang.ranks[0].wait_for_checkpoint(10);
    kill(gang.ranks[1].pid(), Signal::SIGKILL).unwrap();
    let killed = Instant::now();
    let (class, message) = gang.ranks[0].fail();
    let took = killed.elapsed();
    println!("noticed and left after {took:?}: {message}");
    assert_eq!(class, FailureClass::Collective);
    assert!(
        message.contains("training step") && message.contains("peer"),
        "{message}"
    );
    assert!(took.as_secs_f64() < 5.0, "took {took:?}");
}

#[test]
fn a_rank_that_hangs_is_an_error_after_the_time_out() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let impatient = TrainSettings {
        epochs: 100_000,
        checkpoint_every_steps: 5,
        collective_timeout_s: 3,
        ..settings()
    };
    let run = Run::train(folder.path(), impatient);
    let mut gang = run.start(2);
    gang.ranks[0].wait_for_checkpoint(10);
    kill(gang.ranks[1].pid(), Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    let (class, message) = gang.ranks[0].fail();
    let took = stopped.elapsed().as_secs_f64();
    assert_eq!(class, FailureClass::Collective, "{message}");
    assert!((2.0..15.0).contains(&took), "took {took} s: {message}");
    kill(gang.ranks[1].pid(), Signal::SIGKILL).unwrap();
}

#[test]
fn ranks_of_different_attempts_never_meet() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let store = crate::common::StoreProcess::start();
    let mut ranks = Vec::new();
    let mut runs = Vec::new();
    for (rank, attempt) in [(0, 1), (1, 2)] {
        let mut run = Run::train(folder.path(), settings());
        run.spec.attempt = marquee_domain::AttemptNumber(attempt);
        let mut command = trainer();
        command
            .arg("run")
            .arg(run.write_spec())
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", store.port.to_string());
        ranks.push(crate::common::RankProcess::spawn(command));
        runs.push(run);
    }
    // Both wait for peers that never come; told to stop they leave at once and in order.
    std::thread::sleep(std::time::Duration::from_secs(3));
    for rank in &mut ranks {
        assert!(
            rank.child.try_wait().unwrap().is_none(),
            "it should still be waiting"
        );
        kill(rank.pid(), Signal::SIGTERM).unwrap();
        let (events, code) = rank.finish();
        assert_eq!((code, events.len()), (Some(75), 0), "{events:?}");
    }
}

#[test]
fn a_gang_by_hand_behaves_like_one_child() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let run = Run::train(folder.path(), settings());
    let mut command = trainer();
    command
        .arg("run")
        .arg(run.write_spec())
        .args(["--ranks", "2"]);
    let (events, code) = crate::common::RankProcess::spawn(command).finish();
    assert_eq!(code, Some(0), "{events:#?}");
    let Some(ChildEvent::Finished { summary }) = events.last() else {
        panic!("{events:#?}")
    };
    assert_eq!(
        (summary["world_size"].as_u64(), summary["rank"].as_u64()),
        (Some(2), Some(0))
    );
    assert!(run.output("model.safetensors").exists());

    // One rank cannot read its input: the gang fails with the cause, not with the lost connection.
    let mut broken = Run::train(folder.path(), settings());
    broken
        .spec
        .inputs
        .insert("shards".into(), folder.path().join("nowhere"));
    let mut command = trainer();
    command
        .arg("run")
        .arg(broken.write_spec())
        .args(["--ranks", "2"]);
    let (class, message) = crate::common::RankProcess::spawn(command).fail();
    assert_eq!(class, FailureClass::BadInput);
    assert!(
        message.starts_with("rank ") && message.contains("nowhere"),
        "{message}"
    );
}

#[test]
fn a_store_lives_until_it_is_told_to_end() {
    let store = crate::common::StoreProcess::start();
    let ended = Instant::now();
    assert!(store.end_stdin().success());
    assert!(ended.elapsed() < PATIENCE);
}
