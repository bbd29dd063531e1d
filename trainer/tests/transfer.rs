//! Whole jobs that start from given weights, freeze, thaw, and compute features once.

use std::path::Path;

use crate::common::{Run, settings, weights_apart, write_shards};
use marquee_domain::child::ChildEvent;
use marquee_domain::report::TrainSummary;
use marquee_domain::spec::{
    Backbone, HeadSettings, Loss, Mix, Optimizer, Precision, Sampling, TrainSettings, Transfer,
    Work,
};

/// Small enough for a test, and in f64 so that sums in another order stay equal.
fn exact() -> TrainSettings {
    TrainSettings {
        precision: Precision::Fp64,
        batch_size: 10,
        optimizer: Optimizer::Sgd {
            lr: 0.05,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-4,
        },
        ..settings()
    }
}

fn summary(events: &[ChildEvent]) -> TrainSummary {
    match events.last() {
        Some(ChildEvent::Finished { summary }) => serde_json::from_value(summary.clone()).unwrap(),
        other => panic!("it did not finish: {other:?}"),
    }
}

fn frozen(cache: Option<&Path>) -> Transfer {
    Transfer {
        freeze: vec!["@backbone".into()],
        feature_cache: cache.map(|path| path.display().to_string()),
        ..Transfer::default()
    }
}

#[test]
fn features_computed_once_train_the_same_classifier_and_are_kept_for_later_jobs() {
    let shards = tempfile::tempdir().unwrap();
    write_shards(shards.path(), [45, 20, 20]);
    let cache = tempfile::tempdir().unwrap();
    let run = |epochs, cache: Option<&Path>, ranks| {
        let run = Run::train(
            shards.path(),
            TrainSettings {
                epochs,
                transfer: frozen(cache),
                ..exact()
            },
        );
        let summary = summary(&run.succeed(ranks));
        (run.model_bytes(), summary)
    };
    // One epoch alone would not pay, so the networks run in it.
    let (plain, told) = run(1, None, 1);
    assert_eq!(told.features, None);
    assert!(told.learning < told.parameters);
    let (once, told) = run(1, Some(cache.path()), 1);
    let features = told.features.as_ref().unwrap();
    assert!(
        !features.from_cache && features.speedup > 1.0,
        "{features:?}"
    );
    // The 45 training pictures are mirrored too: 45 * 2 + 20 passes, which are the job's and no step's.
    assert_eq!((features.pictures, features.passes), (65, 110));
    assert!(features.seconds > 0.0 && told.phases.features_s >= features.seconds);
    assert!(told.whole_images_per_second() < told.images_per_second);
    assert!(weights_apart(&plain, &once).0 < 1e-12);

    let (again, told) = run(1, Some(cache.path()), 1);
    let kept = told.features.unwrap();
    assert!(kept.from_cache && kept.passes == 0, "{kept:?}");
    assert_eq!(again, once);

    // Without a folder they last for the job; two ranks compute them together.
    let (long, told) = run(4, None, 1);
    assert!(told.features.is_some());
    let (shared, told) = run(4, None, 2);
    assert!(told.features.is_some());
    assert!(weights_apart(&long, &shared).0 < 1e-12);
}

#[test]
fn mixed_pictures_need_the_networks_in_every_step() {
    let shards = tempfile::tempdir().unwrap();
    write_shards(shards.path(), [40, 10, 10]);
    let mut settings = TrainSettings {
        epochs: 4,
        transfer: frozen(None),
        ..exact()
    };
    settings.learning.mixup = Some(Mix {
        alpha: 0.2,
        share: 1.0,
    });
    let told = summary(&Run::train(shards.path(), settings).succeed(1));
    assert_eq!(told.features, None);
}

#[test]
fn kept_features_are_of_these_weights_and_pictures_alone() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_shards(one.path(), [20, 10, 10]);
    write_shards(other.path(), [21, 10, 10]);
    let cache = tempfile::tempdir().unwrap();
    for (shards, seed, files) in [(&one, 1, 1), (&one, 2, 2), (&other, 1, 3), (&one, 1, 3)] {
        let settings = TrainSettings {
            epochs: 1,
            seed,
            transfer: frozen(Some(cache.path())),
            ..exact()
        };
        Run::train(shards.path(), settings).succeed(1);
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), files);
    }
}

#[test]
fn a_model_starts_from_another_jobs_model_and_says_so() {
    let shards = tempfile::tempdir().unwrap();
    write_shards(shards.path(), [40, 10, 10]);
    let first = Run::train(shards.path(), exact());
    first.succeed(1);
    let still = TrainSettings {
        optimizer: Optimizer::Sgd {
            lr: 1e-12,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        },
        epochs: 1,
        seed: 99,
        ..exact()
    };
    let mut second = Run::train(shards.path(), still);
    second
        .spec
        .inputs
        .insert("weights".into(), first.spec.output.clone());
    let told = summary(&second.succeed(1));
    assert_eq!(told.weights.len(), 1);
    assert!(told.weights[0].loaded > 4 && told.weights[0].missing.is_empty());
    assert!(
        told.weights[0].head.is_empty(),
        "the same classes: {told:?}"
    );
    let (apart, _) = weights_apart(&first.model_bytes(), &second.model_bytes());
    assert!(apart < 1e-6, "{apart}");
}

#[test]
fn weights_of_another_model_fail_the_job_and_name_the_file() {
    let shards = tempfile::tempdir().unwrap();
    write_shards(shards.path(), [20, 10, 10]);
    let first = Run::train(shards.path(), settings());
    first.succeed(1);
    let mut wrong = settings();
    wrong.model = "resnet18".into();
    wrong.transfer.weights = Some(first.output("model.safetensors").display().to_string());
    let run = Run::train(shards.path(), wrong);
    let (events, code) = run.start(1).ranks[0].finish();
    assert_eq!(code, Some(1));
    let last = events.last();
    assert!(
        matches!(last, Some(ChildEvent::Failed { message, .. })
            if message.contains("model.safetensors") && message.contains("another model")),
        "{last:?}"
    );
}

#[test]
fn weights_that_thaw_learn_from_their_epoch_on_with_two_ranks_as_with_one() {
    let shards = tempfile::tempdir().unwrap();
    write_shards(shards.path(), [40, 10, 10]);
    let thaw = |epochs| TrainSettings {
        epochs,
        learning: marquee_domain::spec::Learning {
            loss: Loss::Asl {
                gamma_pos: 1.0,
                gamma_neg: 4.0,
                clip: 0.05,
            },
            sampling: Sampling::Balanced,
            label_smoothing: 0.1,
            ..Default::default()
        },
        transfer: Transfer {
            freeze: vec!["@backbone".into()],
            unfreeze: [("*".to_owned(), 2)].into(),
            lr_scale: [("*".to_owned(), 0.5)].into(),
            ..Transfer::default()
        },
        lr_schedule: marquee_domain::spec::LrSchedule::Constant,
        // Weights that do not learn yet have no gradient to clip.
        clip_norm: Some(0.5),
        ..exact()
    };
    let train = |epochs, ranks| {
        let run = Run::train(shards.path(), thaw(epochs));
        let told = summary(&run.succeed(ranks));
        (run.model_bytes(), told)
    };
    let (after_one, told) = train(1, 1);
    assert!(told.learning < told.parameters);
    let (after_two, told) = train(2, 1);
    assert_eq!(told.learning, told.parameters);
    assert!(weights_apart(&after_one, &after_two).0 > 1e-6);
    let (two_ranks, _) = train(2, 2);
    assert!(weights_apart(&after_two, &two_ranks).0 < 1e-12);
}

#[test]
fn an_ensemble_is_trained_written_and_scored() {
    let shards = tempfile::tempdir().unwrap();
    write_shards(shards.path(), [40, 20, 20]);
    let backbone = |width| Backbone {
        model: "simple-cnn".into(),
        weights: None,
        width,
        height: width,
    };
    let ensemble = TrainSettings {
        model: "ensemble".into(),
        transfer: Transfer {
            head: HeadSettings {
                hidden: vec![12],
                dropout: 0.2,
                ..HeadSettings::default()
            },
            backbones: [
                ("as_is".to_owned(), backbone(None)),
                ("large".to_owned(), backbone(Some(32))),
            ]
            .into(),
            freeze: vec!["large.*".into()],
            ..Transfer::default()
        },
        ..settings()
    };
    let run = Run::train(shards.path(), ensemble);
    let told = summary(&run.succeed(2));
    assert_eq!(told.model, "ensemble");
    assert!(told.learning < told.parameters);
    let eval = Run::eval([("shards", shards.path()), ("model", &run.spec.output)]);
    assert!(matches!(eval.spec.work, Work::Eval(_)));
    eval.succeed(1);
    let read = |path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    // The thresholds that two ranks tuned together are those that the report comes to.
    let (card, report) = (
        read(run.output("model.json")),
        read(eval.output("report.json")),
    );
    for class in report["per_class"].as_array().unwrap() {
        let tuned = card["thresholds"][class["class"].as_str().unwrap()]
            .as_f64()
            .unwrap();
        let reported = class["threshold"].as_f64().unwrap();
        assert!((tuned - reported).abs() < 1e-5, "{tuned} {class}");
    }
}
