//! What a report says of its own figures: which stand for the model, which do not, and of which run.

use std::fs;

use marquee_domain::artifact::Digest;
use marquee_domain::report::EvalReport;
use marquee_evaluation::{EpochRow, EvalError, choose_thresholds, write_report};

use super::{CLASSES, input, page_of, report_of, rule};

#[test]
fn the_headline_is_chosen_on_validation_and_never_by_the_test() {
    let base = input(300);
    let report = report_of(&base);
    let headline = report.headline.clone().unwrap();
    assert!(headline.stands && headline.resamples == 200, "{headline:?}");
    let names: Vec<&str> = headline
        .candidates
        .iter()
        .map(|c| c.rule.as_str())
        .collect();
    assert_eq!(names, ["0.5", "global", "shrunk", "per_class"]);
    let best = headline
        .candidates
        .iter()
        .map(|c| c.f1_micro)
        .fold(0.0, f64::max);
    let chosen = headline
        .candidates
        .iter()
        .find(|c| c.rule == headline.rule)
        .unwrap();
    assert_eq!(chosen.f1_micro, best);
    // Classes are shown by the same thresholds.
    let of_classes: u64 = report.per_class.iter().map(|class| class.support).sum();
    let weighted: f64 = report
        .per_class
        .iter()
        .map(|class| class.support as f64 * class.f1)
        .sum();
    let scores = report.headline_scores().unwrap();
    assert!((weighted / of_classes as f64 - scores.f1_weighted).abs() < 1e-12);

    // Whatever the test split holds, and whatever seed the job has, the choice stays.
    let mut other = input(300);
    other.test.scores.reverse();
    other.test.truth.rotate_left(1);
    other.seed = 99;
    let other = report_of(&other);
    assert_eq!(other.headline.as_ref(), Some(&headline));
    assert_ne!(other.headline_scores(), Some(scores));
    // A page and a model's card say the same.
    let card = choose_thresholds(&base.validation, CLASSES.len());
    assert_eq!(card.rule, headline.rule);
    for (class, threshold) in report.per_class.iter().zip(card.thresholds) {
        assert_eq!(class.threshold, threshold);
    }
    let page = page_of(&base);
    assert!(page.contains("Why this rule") && page.contains("Chosen on validation alone"));
}

#[test]
fn a_report_of_an_earlier_version_has_its_headline_still() {
    let mut value = serde_json::to_value(report_of(&input(40))).unwrap();
    for key in ["headline", "overlap", "provenance", "test_from"] {
        value.as_object_mut().unwrap().remove(key).unwrap();
    }
    let report: EvalReport = serde_json::from_value(value).unwrap();
    assert_eq!(report.headline_scores(), Some(rule(&report, "per_class")));
}

#[test]
fn figures_on_pictures_that_the_model_learned_from_are_refused_or_stand_under_a_banner_without_headline()
 {
    let leak = |allowed| {
        let mut input = input(40);
        input.overlap.test_pictures = 40;
        input.overlap.test_trained = 19;
        input.allow_overlap = allowed;
        input
    };
    let dir = tempfile::tempdir().unwrap();
    let error = write_report(dir.path(), &leak(false)).unwrap_err();
    assert!(matches!(error, EvalError::Overlap { .. }));
    assert_eq!(
        error.to_string(),
        "this eval is no test: of 40 test pictures the model was trained on 19. Evaluate on the shards \
         that the model was trained with, train again on these shards, or set allow_overlap = true to see \
         the figures under a banner"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let report = report_of(&leak(true));
    assert_eq!(report.headline_scores(), None);
    assert!(!report.headline.as_ref().unwrap().stands);
    assert!(report.warnings[0].starts_with("leak: of 40 test pictures"));
    let page = page_of(&leak(true));
    assert!(page.contains("Not a test") && page.contains("There is no headline."));
    assert!(
        !page.contains("class=\"card-figure\""),
        "no figure is set large"
    );
}

#[test]
fn a_class_that_is_true_of_every_picture_is_named_with_a_cure_that_fits() {
    let mut input = input(40);
    for split in [&mut input.validation, &mut input.test] {
        for row in split.truth.chunks_exact_mut(CLASSES.len()) {
            row[0] = 1;
        }
    }
    input.test.scores.fill(0.0);
    let told = report_of(&input).warnings;
    let constant = told
        .iter()
        .find(|warning| warning.contains("every test picture"))
        .unwrap();
    assert!(
        constant.contains("(Drama)") && constant.contains("zeros"),
        "{constant}"
    );

    // What the preprocess job said of the same is said in its words, and once.
    input.data_warnings = vec!["every picture of split train has Drama: bring others".to_owned()];
    let told = report_of(&input).warnings;
    let of_class = |warning: &&String| warning.contains("every ") && warning.contains("Drama");
    assert_eq!(told.iter().filter(of_class).count(), 1, "{told:?}");
    assert!(told.contains(&input.data_warnings[0]), "{told:?}");

    // Alone it leaves nothing to learn: "train longer" would be no cure.
    let mut alone = super::input(40);
    alone.classes.truncate(1);
    for split in [&mut alone.validation, &mut alone.test] {
        split.truth = vec![1; 40];
        split.scores = vec![0.9; 40];
    }
    let told = report_of(&alone).warnings;
    let nothing = told
        .iter()
        .find(|warning| warning.contains("learned nothing"))
        .unwrap();
    assert!(
        !nothing.contains("train longer") && nothing.contains("something to tell apart"),
        "{nothing}"
    );
    let page = page_of(&alone);
    assert!(
        told.iter()
            .all(|warning| page.contains(&warning.replace('"', "&quot;")))
    );
}

#[test]
fn the_cure_of_a_model_that_learned_nothing_follows_from_how_its_training_went() {
    let told = |losses: &[f64]| {
        let mut input = input(40);
        input.test.scores.fill(0.0);
        let row = input.history[0];
        input.history = losses
            .iter()
            .map(|loss| EpochRow {
                validation_loss: Some(*loss),
                ..row
            })
            .collect();
        let warnings = report_of(&input).warnings;
        warnings
            .into_iter()
            .find(|warning| warning.contains("learned nothing"))
            .unwrap()
    };
    assert!(told(&[0.9, 0.7, 0.6]).contains("still falling at the end: train longer"));
    assert!(told(&[0.9, 0.5, 0.8]).contains("more epochs will not help"));
    assert!(told(&[]).contains("whether the labels are of these pictures"));
}

#[test]
fn two_runs_of_one_model_are_told_apart_on_the_page() {
    let page = page_of(&input(8));
    for fact in [
        "<title>simple-cnn · p3/eval (job 18) · Marquee evaluation</title>",
        "p3/eval (job 18), 2026-11-30 02:10 UTC, seed 1",
        "trained by p3/train (job 17), seed 11",
        "raw, 48 x 72 pixels, split by seed 2",
        Digest::of(b"model").short(),
        Digest::of(b"shards").short(),
        Digest::of(b"data set").short(),
    ] {
        assert!(page.contains(fact), "{fact}");
    }
    let mut square = input(8);
    square.picture_size = (128, 128);
    assert!(page_of(&square).contains("--frame:128/128"));
}
