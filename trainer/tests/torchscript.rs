//! TorchScript modules that pip's PyTorch exported, under the same engine as networks of the zoo.
//! `vectors/make_modules.py` made the files.

use std::path::Path;

use crate::common::{CLASSES, Run, settings, weights_apart, write_shards};
use marquee_domain::child::ChildEvent;
use marquee_domain::report::{EvalReport, TrainSummary};
use marquee_domain::spec::{Precision, ScriptSettings, TrainSettings, Transfer};
use nix::sys::signal::{Signal, kill};

/// 45 rows in batches of 8: five full steps, then one of 5 that no number of ranks shares evenly.
const ROWS: [usize; 3] = [45, 9, 9];

fn with(module: &str) -> TrainSettings {
    TrainSettings {
        model: "torchscript".into(),
        transfer: Transfer {
            module: Some(ScriptSettings {
                file: module.into(),
                width: None,
                height: None,
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            }),
            ..Transfer::default()
        },
        ..settings()
    }
}

/// A run that was given the modules as an input artifact.
fn run(shards: &Path, settings: TrainSettings) -> Run {
    let mut run = Run::train(shards, settings);
    let modules = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(env!("MARQUEE_TRAINER_SOURCES"))
        .join("tests/data/modules");
    run.spec.inputs.insert("module".into(), modules);
    run
}

fn summary(events: &[ChildEvent]) -> serde_json::Value {
    match events.last() {
        Some(ChildEvent::Finished { summary }) => summary.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_ranks_compute_what_one_rank_does() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let exact = || TrainSettings {
        precision: Precision::Fp64,
        max_steps: Some(20),
        epochs: 99,
        ..with("group.pt")
    };
    let alone = run(folder.path(), exact());
    alone.succeed(1);
    let together = run(folder.path(), exact());
    let events = together.succeed(2);
    let (apart, largest) = weights_apart(&alone.model_bytes(), &together.model_bytes());
    println!("{apart:e} apart, largest weight {largest}");
    assert!(apart <= 1e-12 && largest > 0.1, "{apart:e} apart");
    let summary: TrainSummary = serde_json::from_value(summary(&events)).unwrap();
    assert_eq!(
        (summary.model.as_str(), summary.world_size),
        ("torchscript", 2)
    );
    let phases = summary.phases;
    assert!(
        phases.forward_s > 0.0 && phases.backward_s > 0.0,
        "{phases:?}"
    );
}

#[test]
fn killed_and_resumed_equals_undisturbed_with_batch_norm_and_dropout() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    let often = || TrainSettings {
        checkpoint_every_steps: 3,
        epochs: 6,
        ..with("dropout.pt")
    };
    let undisturbed = run(folder.path(), often());
    undisturbed.succeed(2);
    let killed = run(folder.path(), often());
    let mut gang = killed.start(2);
    let checkpoint = gang.ranks[0].wait_for_checkpoint(3);
    for rank in &gang.ranks {
        kill(rank.pid(), Signal::SIGKILL).unwrap();
    }
    drop(gang);
    assert!(!killed.output("model.safetensors").exists());
    let resumed = run(folder.path(), often()).resuming(&checkpoint);
    resumed.succeed(2);
    assert!(undisturbed.model_bytes() == resumed.model_bytes());
}

#[test]
fn a_trained_module_scores_and_trains_on() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [200, 40, 60]);
    let training = run(
        folder.path(),
        TrainSettings {
            epochs: 12,
            ..with("batch.pt")
        },
    );
    training.succeed(2);
    let card = std::fs::read_to_string(training.output("model.json")).unwrap();
    let card: serde_json::Value = serde_json::from_str(&card).unwrap();
    assert_eq!(card["model"], "torchscript");
    assert_eq!(card["mean"][0], 0.485);

    let scoring = Run::eval([("shards", folder.path()), ("model", &training.spec.output)]);
    let report: EvalReport = serde_json::from_value(summary(&scoring.succeed(1))).unwrap();
    assert_eq!(report.classes, CLASSES);
    let half = report.rules.iter().find(|rule| rule.rule == "0.5").unwrap();
    assert!(half.f1_micro > 0.8, "it has learnt: {half:?}");

    // What came out is a module like the one that went in.
    let mut again = Run::train(folder.path(), with("module.pt"));
    let model = training.spec.output.clone();
    again.spec.inputs.insert("module".into(), model);
    let summary: TrainSummary = serde_json::from_value(summary(&again.succeed(1))).unwrap();
    assert!(
        summary.final_loss < 0.4,
        "it goes on from there: {summary:?}"
    );
}

#[test]
fn what_cannot_be_trained_is_refused_before_the_first_step_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), ROWS);
    for (module, words) in [
        (
            "frozen.pt",
            "was frozen (torch.jit.freeze), export it without",
        ),
        ("traced.pt", "fixed its batch_norm (eval)"),
        (
            "half.pt",
            "is Half, but must be Float; export it from model.float()",
        ),
        (
            "five.pt",
            "the shards have 3 classes: it must be [2, 3]; give its last layer 3 outputs",
        ),
        ("grey.pt", "it cannot take pictures [2, 3, 24, 16]"),
        ("two.pt", "but must give one tensor of logits"),
        (
            "unused.pt",
            "parameter \"spare.weight\" takes no part in forward",
        ),
        ("none.pt", "there is no module"),
    ] {
        let refused = run(folder.path(), with(module));
        let (class, message) = refused.start(1).ranks[0].fail();
        assert!(message.contains(words), "{module}: {class:?} {message}");
        assert!(!class.is_worth_a_retry(), "{module}: {class:?} {message}");
    }
    let mut text = run(folder.path(), with("text.pt"));
    std::fs::write(folder.path().join("text.pt"), "no module").unwrap();
    text.spec
        .inputs
        .insert("module".into(), folder.path().to_owned());
    let (_, message) = text.start(1).ranks[0].fail();
    assert!(message.contains("is no TorchScript module"), "{message}");
}
