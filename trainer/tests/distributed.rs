//! Ranks as real processes: that they compute what one rank would, and what happens when one dies.

mod common;

use std::time::Instant;

use common::{PATIENCE, Run, settings, trainer, weights_apart, write_shards};
use marquee_domain::FailureClass;
use marquee_domain::child::ChildEvent;
use marquee_domain::report::TrainSummary;
use marquee_domain::spec::{Optimizer, Precision, TrainSettings};
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
    let loss = |events: &[ChildEvent]| match events.last() {
        Some(ChildEvent::Finished { summary }) => summary["final_loss"].as_f64().unwrap(),
        other => panic!("{other:?}"),
    };
    assert!((loss(&one) - loss(&three)).abs() < 1e-12);
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
    assert_eq!(class, FailureClass::Network);
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
    assert_eq!(class, FailureClass::Network, "{message}");
    assert!((2.0..15.0).contains(&took), "took {took} s: {message}");
    kill(gang.ranks[1].pid(), Signal::SIGKILL).unwrap();
}

#[test]
fn ranks_of_different_attempts_never_meet() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let store = common::StoreProcess::start();
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
        ranks.push(common::RankProcess::spawn(command));
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
    let (events, code) = common::RankProcess::spawn(command).finish();
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
    let (class, message) = common::RankProcess::spawn(command).fail();
    assert_eq!(class, FailureClass::BadInput);
    assert!(
        message.starts_with("rank ") && message.contains("nowhere"),
        "{message}"
    );
}

#[test]
fn a_store_lives_until_it_is_told_to_end() {
    let store = common::StoreProcess::start();
    let ended = Instant::now();
    assert!(store.end_stdin().success());
    assert!(ended.elapsed() < PATIENCE);
}
