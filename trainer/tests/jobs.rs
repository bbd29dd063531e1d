//! Whole jobs: training learns, evaluation scores what was trained, bad input is named.

use crate::common::{CLASSES, Run, settings, write_shards};
use marquee_domain::FailureClass;
use marquee_domain::child::ChildEvent;
use marquee_domain::report::EvalReport;
use marquee_domain::spec::{ImageEncoding, Optimizer, TrainSettings, Work};

#[test]
fn a_learnable_set_is_learnt_and_scored() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [400, 100, 100]);
    let adamw = Optimizer::AdamW {
        lr: 5e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
    };
    let learn = TrainSettings {
        epochs: 8,
        batch_size: 32,
        optimizer: adamw,
        tensorboard: true,
        ..settings()
    };
    let training = Run::train(folder.path(), learn);
    let events = training.succeed(1);

    let history = std::fs::read_to_string(training.output("history.json")).unwrap();
    let rows: Vec<marquee_evaluation::EpochRow> = serde_json::from_str(&history).unwrap();
    assert_eq!(rows.len(), 8);
    assert!(rows[7].train_loss < 0.5 * rows[0].train_loss, "{rows:?}");
    assert!(rows[7].validation_f1_micro.unwrap() > 0.9, "{rows:?}");
    assert!(events.iter().any(|event| matches!(event,
        ChildEvent::Metrics { values, .. } if values.contains_key("validation/f1_micro"))));
    assert!(events.iter().any(|event| matches!(event,
        ChildEvent::Progress { phase, unit, total: Some(400), .. } if phase == "epoch 8/8" && unit == "images")));
    let boards: Vec<_> = std::fs::read_dir(training.output("tensorboard"))
        .unwrap()
        .collect();
    assert_eq!(boards.len(), 1);

    let card: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(training.output("model.json")).unwrap())
            .unwrap();
    assert_eq!(
        (card["model"].as_str(), card["width"].as_u64()),
        (Some("simple-cnn"), Some(16))
    );

    let scoring = Run::eval([("shards", folder.path()), ("model", &training.spec.output)]);
    let events = scoring.succeed(1);
    let Some(ChildEvent::Finished { summary }) = events.last() else {
        panic!("{events:?}")
    };
    let report: EvalReport = serde_json::from_value(summary.clone()).unwrap();
    assert_eq!(report.classes, CLASSES);
    assert!(report.source.synthetic);
    let half = report
        .rules
        .iter()
        .find(|rule| rule.rule == "0.5")
        .expect("the rule 0.5 is always there");
    assert!(half.f1_micro > 0.9, "{half:?}");
    for file in [
        "predictions.parquet",
        "classes.json",
        "report.json",
        "report.html",
    ] {
        assert!(scoring.output(file).exists(), "{file}");
    }
}

#[test]
fn an_event_file_starts_with_its_version() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [20, 4, 0]);
    let run = Run::train(
        folder.path(),
        TrainSettings {
            tensorboard: true,
            epochs: 1,
            ..settings()
        },
    );
    run.succeed(1);
    let file = std::fs::read_dir(run.output("tensorboard"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let bytes = std::fs::read(file).unwrap();
    assert_eq!(
        bytes[..12],
        [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]
    );
    assert_eq!(&bytes[12 + 11..12 + 24], b"brain.Event:2");
}

#[test]
fn what_cannot_be_done_is_refused_with_its_class_and_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    write_shards(&shards, [20, 4, 4]);
    let failure = |run: &Run| run.start(1).ranks[0].fail();

    let unknown = Run::train(
        &shards,
        TrainSettings {
            model: "resnet9000".into(),
            ..settings()
        },
    );
    let (class, message) = failure(&unknown);
    assert_eq!(class, FailureClass::UserError);
    assert!(message.contains("simple-cnn"), "{message}");

    let absent = Run::train(&folder.path().join("absent"), settings());
    let (class, message) = failure(&absent);
    assert_eq!(class, FailureClass::BadInput);
    assert!(message.contains("absent"), "{message}");

    let wild = Optimizer::Sgd {
        lr: 1e30,
        momentum: 0.9,
        nesterov: false,
        weight_decay: 0.0,
    };
    let (class, message) = failure(&Run::train(
        &shards,
        TrainSettings {
            optimizer: wild,
            ..settings()
        },
    ));
    assert_eq!(class, FailureClass::UserError);
    assert!(message.contains("lower optimizer.lr"), "{message}");

    let mut gpu = Run::train(&shards, settings());
    gpu.spec.devices = vec![marquee_domain::resources::Device::Gpu { index: 0 }];
    let (class, message) = failure(&gpu);
    assert_eq!(class, FailureClass::DeviceFault);
    assert!(
        message.contains("device = \"cpu\"") || message.contains("nvidia-smi"),
        "{message}"
    );

    let mut fetch = Run::train(&shards, settings());
    fetch.spec.work = Work::Preprocess(marquee_domain::spec::PreprocessSettings {
        width: 16,
        height: 24,
        encoding: ImageEncoding::Raw,
        splits: marquee_domain::spec::Splits {
            train: 0.8,
            validation: 0.1,
            test: 0.1,
        },
        seed: 1,
        labels: None,
        min_label_count: 1,
        shard_bytes: 1,
        released_from: None,
        released_to: None,
        undated: true,
        group_near_duplicates: true,
        max_per_class: None,
        test_rows: None,
        leave_out: Vec::new(),
    });
    assert_eq!(failure(&fetch).0, FailureClass::UserError);
}

#[test]
fn a_torn_shard_is_bad_input_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [20, 4, 4]);
    let file = folder.path().join("train-00000.arrow");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let (class, message) = Run::train(folder.path(), settings()).start(1).ranks[0].fail();
    assert_eq!(class, FailureClass::BadInput);
    assert!(message.contains("train-00000.arrow"), "{message}");
}

#[test]
fn nccl_check_gives_a_verdict_with_its_reason_on_any_host() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_marquee-trainer"))
        .args(["nccl-check", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_usable = report["usable"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!is_usable)));
    assert!(!report["reason"].as_str().unwrap().is_empty(), "{report}");
    if report["gpus"] == 0 {
        assert!(!is_usable, "{report}");
        assert!(!report["cure"].as_str().unwrap().is_empty(), "{report}");
    }
}

#[test]
fn shards_of_noise_can_be_trained_on_and_a_job_on_cpus_warns_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_marquee-trainer"))
        .arg("make-shards")
        .arg(folder.path())
        .args(["--rows", "40", "--side", "32"])
        .status()
        .unwrap();
    assert!(made.success());
    let run = Run::train(
        folder.path(),
        TrainSettings {
            epochs: 1,
            ..settings()
        },
    );
    match run.succeed(1).last() {
        Some(ChildEvent::Finished { summary }) => {
            assert_eq!(summary["device"], "cpu");
            assert_eq!(summary["steps"], 5);
            assert!(summary.get("warnings").is_none(), "{summary}");
        }
        other => panic!("{other:?}"),
    }
}
