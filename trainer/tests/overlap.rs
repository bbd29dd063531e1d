//! A model says what it learned from, and no eval takes that for a test.

use std::path::Path;

use crate::common::{HEIGHT, Run, WIDTH, settings, write_shards, write_shards_from};
use marquee_domain::FailureClass;
use marquee_domain::child::ChildEvent;
use marquee_domain::report::EvalReport;
use marquee_domain::spec::{Backbone, TrainSettings, Transfer};

const RECORD: &str = "trained_on.bin";

fn short() -> TrainSettings {
    TrainSettings {
        epochs: 1,
        ..settings()
    }
}

fn trained(shards: &Path) -> Run {
    let run = Run::train(shards, short());
    run.succeed(1);
    run
}

fn refused(shards: &Path, model: &Path) -> String {
    let eval = Run::eval([("shards", shards), ("model", model)]);
    let (class, message) = eval.start(1).ranks[0].fail();
    assert_eq!(class, FailureClass::BadInput, "{message}");
    assert!(!eval.output("report.json").exists());
    message
}

fn report(run: &Run) -> EvalReport {
    match run.succeed(1).last() {
        Some(ChildEvent::Finished { summary }) => serde_json::from_value(summary.clone()).unwrap(),
        other => panic!("it did not finish: {other:?}"),
    }
}

fn evaluated(shards: &Path, model: &Path) -> EvalReport {
    report(&Run::eval([("shards", shards), ("model", model)]))
}

#[test]
fn the_same_pictures_dealt_anew_are_refused_with_the_numbers_or_shown_under_a_banner() {
    let folder = tempfile::tempdir().unwrap();
    let (first, again) = (folder.path().join("first"), folder.path().join("again"));
    // Both hold the same 60 pictures. Of the second's test 10 were trained on, 10 tuned on, 10 are new; its
    // validation was trained on.
    write_shards(&first, [40, 10, 10]);
    write_shards(&again, [20, 10, 30]);
    let model = trained(&first);
    let own = evaluated(&first, &model.spec.output);
    let seen = own.overlap.unwrap();
    assert!(
        seen.recorded && seen.comparable && !seen.is_leak(),
        "{seen:?}"
    );
    assert_eq!((seen.trained_pictures, seen.tuned_pictures), (40, 10));
    assert!(!own.warnings.iter().any(|warning| warning.contains("leak")));

    let message = refused(&again, &model.spec.output);
    assert!(
        message.contains("of 30 test pictures the model was trained on 10 and was tuned on 10")
            && message.contains("of 10 validation pictures the model was trained on 10")
            && message.contains("allow_overlap = true"),
        "{message}"
    );

    let shown = report(&Run::eval_in_spite([
        ("shards", &again),
        ("model", &model.spec.output),
    ]));
    assert_eq!(shown.overlap.unwrap().in_test(), 20);
    assert!(
        shown.warnings[0].starts_with("leak: "),
        "{:?}",
        shown.warnings
    );
}

#[test]
fn what_earlier_models_learned_is_carried_along_by_weights_ensembles_and_features() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = ["1", "2", "3"].map(|name| folder.path().join(name));
    let size = (WIDTH, HEIGHT);
    write_shards_from(1, &first, [40, 10, 10], size);
    write_shards_from(2, &second, [40, 10, 10], size);
    // The first set again, other way round: its test is what the first model was trained on.
    write_shards_from(1, &third, [0, 0, 40], size);
    let model = trained(&first);
    let weights = Some(model.output("model.safetensors").display().to_string());

    let mut by_input = Run::train(&second, short());
    let input = ("weights".to_owned(), model.spec.output.clone());
    by_input.spec.inputs.extend([input]);
    let by_path = Run::train(
        &second,
        TrainSettings {
            transfer: Transfer {
                weights: weights.clone(),
                // And with features computed once.
                freeze: vec!["@backbone".into()],
                ..Transfer::default()
            },
            epochs: 3,
            ..settings()
        },
    );
    let backbone = |weights| Backbone {
        model: "simple-cnn".into(),
        weights,
        width: None,
        height: None,
    };
    let in_ensemble = Run::train(
        &second,
        TrainSettings {
            model: "ensemble".into(),
            transfer: Transfer {
                backbones: [
                    ("new".to_owned(), backbone(None)),
                    ("old".to_owned(), backbone(weights)),
                ]
                .into(),
                ..Transfer::default()
            },
            ..short()
        },
    );
    for run in [&by_input, &by_path, &in_ensemble] {
        run.succeed(1);
        let message = refused(&third, &run.spec.output);
        assert!(
            message.contains("of 40 test pictures the model was trained on 40"),
            "{message}"
        );
        assert!(
            !evaluated(&second, &run.spec.output)
                .overlap
                .unwrap()
                .is_leak()
        );
    }

    // A copy under another name has nobody to speak for it, and the report says so.
    let copy = folder.path().join("copy.safetensors");
    std::fs::copy(model.output("model.safetensors"), &copy).unwrap();
    let mut of_copy = short();
    of_copy.transfer.weights = Some(copy.display().to_string());
    let of_copy = Run::train(&second, of_copy);
    of_copy.succeed(1);
    let seen = evaluated(&second, &of_copy.spec.output).overlap.unwrap();
    assert_eq!(seen.unrecorded, ["copy.safetensors"]);
}

#[test]
fn a_run_that_goes_on_or_shares_its_work_leaves_the_same_record() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [40, 10, 10]);
    let other = tempfile::tempdir().unwrap();
    write_shards_from(3, other.path(), [20, 5, 5], (WIDTH, HEIGHT));
    let earlier = trained(other.path());
    let start = |settings| {
        let mut run = Run::train(folder.path(), settings);
        let input = ("weights".to_owned(), earlier.spec.output.clone());
        run.spec.inputs.extend([input]);
        run
    };
    let whole = start(settings());
    let events = whole.succeed(1);
    let record = std::fs::read(whole.output(RECORD)).unwrap();
    let (_, checkpoint) = events
        .iter()
        .find_map(crate::common::checkpoint_in)
        .unwrap();
    let resumed = start(settings()).resuming(checkpoint);
    resumed.succeed(1);
    assert!(std::fs::read(resumed.output(RECORD)).unwrap() == record);
    let shared = start(settings());
    shared.succeed(2);
    assert!(std::fs::read(shared.output(RECORD)).unwrap() == record);
}

#[test]
fn a_model_of_an_earlier_version_is_scored_with_a_warning_and_a_damaged_record_is_not_passed_over()
{
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), [40, 10, 10]);
    let model = trained(folder.path());
    let record = model.output(RECORD);
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, &whole[..whole.len() - 1]).unwrap();
    let message = refused(folder.path(), &model.spec.output);
    assert!(message.contains(RECORD), "{message}");

    std::fs::remove_file(&record).unwrap();
    let old = evaluated(folder.path(), &model.spec.output);
    assert!(
        old.warnings
            .iter()
            .any(|warning| warning.contains("no record")),
        "{:?}",
        old.warnings
    );
    assert!(!old.overlap.unwrap().recorded);

    // What started from it does not know it all either, and says so.
    let mut next = Run::train(folder.path(), short());
    let input = ("weights".to_owned(), model.spec.output.clone());
    next.spec.inputs.extend([input]);
    next.succeed(1);
    let report = evaluated(folder.path(), &next.spec.output);
    assert_eq!(report.overlap.unwrap().unrecorded_models.len(), 1);
    assert!(
        report
            .warnings
            .iter()
            .any(|warning| warning.contains("not wholly known")),
        "{:?}",
        report.warnings
    );
}
