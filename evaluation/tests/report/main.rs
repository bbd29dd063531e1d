//! The four files of a report, written and read back.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::report::{EvalReport, NamedJob, Overlap, Provenance, SourceNote, TrainedBy};
use marquee_evaluation::{
    EpochRow, EvalError, EvalInput, SplitScores, Timing, f1_micro, write_report,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

mod honest;

const CLASSES: [&str; 3] = ["Drama", "<b>Horror</b> & \"fear\"", "Silent"];

/// `rows` pictures: every third is a drama, every fourth horror, none silent; the scores follow
/// with some mistakes.
fn split(prefix: &str, rows: usize) -> SplitScores {
    let mut split = SplitScores::default();
    for row in 0..rows {
        split.ids.push(format!("{prefix}-{row}"));
        let truth = [row % 3 == 0, row % 4 == 0, false];
        split.truth.extend(truth.map(u8::from));
        let unsure = (row * 37 % 100) as f32 / 100.0;
        let score = |is_true: bool| {
            if is_true {
                0.3 + 0.7 * unsure
            } else {
                0.6 * unsure
            }
        };
        split.scores.extend(truth.map(score));
    }
    split
}

fn no_thumbnail(_: &str, _: usize) -> Option<Vec<u8>> {
    None
}

fn input(rows: usize) -> EvalInput<'static> {
    EvalInput {
        model: "simple-cnn".to_owned(),
        provenance: provenance(),
        picture_size: (48, 72),
        classes: CLASSES.map(str::to_owned).to_vec(),
        validation: split("validation", rows),
        test: split("test", rows),
        thresholds: BTreeMap::new(),
        bootstrap_resamples: 200,
        gallery: 2,
        seed: 1,
        source: SourceNote::default(),
        data_warnings: Vec::new(),
        overlap: Overlap {
            recorded: true,
            comparable: true,
            ..Overlap::default()
        },
        allow_overlap: false,
        history: vec![EpochRow {
            epoch: 1,
            step: 10,
            train_loss: 0.6,
            validation_loss: Some(0.5),
            validation_f1_micro: Some(0.4),
            seconds: 3.0,
            images_per_second: 100.0,
            of_features: false,
        }],
        timing: Timing {
            images_per_second: 400.0,
            seconds: 1.0,
        },
        thumbnail: &no_thumbnail,
    }
}

fn provenance() -> Provenance {
    let job = |id, name: &str| NamedJob {
        job: JobId(id),
        name: name.parse().unwrap(),
        pipeline: Some(PipelineId(3)),
    };
    Provenance {
        job: Some(job(18, "eval")),
        at: Some("2026-11-30T02:10:00Z".to_owned()),
        seed: 1,
        model: Some(Digest::of(b"model")),
        trained_by: Some(TrainedBy {
            job: job(17, "train"),
            seed: 11,
        }),
        shards: Some(Digest::of(b"shards")),
        dataset: Some(Digest::of(b"data set")),
        split_seed: Some(2),
        layout: "raw, 48 x 72 pixels".to_owned(),
    }
}

fn report_of(input: &EvalInput<'_>) -> EvalReport {
    write_report(tempfile::tempdir().unwrap().path(), input).unwrap()
}

fn page_of(input: &EvalInput<'_>) -> String {
    let dir = tempfile::tempdir().unwrap();
    write_report(dir.path(), input).unwrap();
    fs::read_to_string(dir.path().join("report.html")).unwrap()
}

fn rule<'a>(report: &'a EvalReport, name: &str) -> &'a marquee_domain::report::RuleScores {
    report.rules.iter().find(|rule| rule.rule == name).unwrap()
}

#[test]
fn folder_holds_the_four_files_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let report = write_report(dir.path(), &input(40)).unwrap();
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "classes.json",
            "predictions.parquet",
            "report.html",
            "report.json"
        ]
    );
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let text = format!("{}\n", serde_json::to_string_pretty(&report).unwrap());
    assert_eq!(String::from_utf8(read("report.json")).unwrap(), text);
    let read_back: EvalReport = serde_json::from_str(&text).unwrap();
    assert_eq!((read_back.format, read_back.per_class.len()), (1, 3));
    assert_eq!(
        serde_json::from_slice::<Vec<String>>(&read("classes.json")).unwrap(),
        CLASSES
    );
    let rules: Vec<&str> = report.rules.iter().map(|rule| rule.rule.as_str()).collect();
    assert_eq!(rules, ["0.5", "0.25", "global", "shrunk", "per_class"]);
    assert_eq!(report.pictures["test"], 40);
}

#[test]
fn same_input_gives_the_same_bytes() {
    let files = || {
        let dir = tempfile::tempdir().unwrap();
        write_report(dir.path(), &input(40)).unwrap();
        [
            "classes.json",
            "predictions.parquet",
            "report.html",
            "report.json",
        ]
        .map(|name| fs::read(dir.path().join(name)).unwrap())
    };
    assert!(files() == files());
}

fn read_parquet(path: &Path) -> RecordBatch {
    let file = fs::File::open(path).unwrap();
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none());
    batch
}

#[test]
fn predictions_are_read_back_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let input = input(10);
    write_report(dir.path(), &input).unwrap();
    let batch = read_parquet(&dir.path().join("predictions.parquet"));
    assert_eq!(batch.num_rows(), 20);
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let ids = column("id").as_string::<i32>();
    let splits = column("split").as_string::<i32>();
    assert_eq!(
        (ids.value(0), splits.value(0)),
        ("validation-0", "validation")
    );
    assert_eq!((ids.value(12), splits.value(12)), ("test-2", "test"));
    let truth = column("truth").as_list::<i32>();
    let labels = |row: usize| -> Vec<String> {
        let labels = truth.value(row);
        labels
            .as_string::<i32>()
            .iter()
            .map(|label| label.unwrap().to_owned())
            .collect()
    };
    assert_eq!(labels(10), CLASSES[..2]);
    assert_eq!(labels(11), Vec::<String>::new());
    let scores = column("scores").as_list::<i32>();
    let all: Vec<f32> = (10..20)
        .flat_map(|row| {
            scores
                .value(row)
                .as_primitive::<Float32Type>()
                .values()
                .to_vec()
        })
        .collect();
    assert_eq!(all, input.test.scores);
    assert_eq!(
        column("truth").null_count() + column("scores").null_count(),
        0
    );
}

#[test]
fn thresholds_come_from_validation_alone() {
    let base = input(40);
    let mut other_test = input(40);
    other_test.test.scores.reverse();
    let thresholds = |report: &EvalReport| {
        report
            .per_class
            .iter()
            .map(|c| c.threshold)
            .collect::<Vec<_>>()
    };
    let (base, other_test) = (report_of(&base), report_of(&other_test));
    assert_eq!(thresholds(&base), thresholds(&other_test));
    assert_eq!(base.thresholds_from, other_test.thresholds_from);
    assert_ne!(
        rule(&base, "per_class").f1_micro,
        rule(&other_test, "per_class").f1_micro
    );
    assert_eq!(
        base.per_class[2].threshold, 0.5,
        "no positive in validation"
    );

    let mut other_validation = input(40);
    other_validation.validation.truth[0] = 0;
    assert_ne!(
        report_of(&other_validation).thresholds_from,
        base.thresholds_from
    );
}

#[test]
fn fixed_thresholds_replace_the_tuned_ones_they_name() {
    let mut input = input(40);
    input.thresholds = CLASSES
        .iter()
        .map(|&class| (class.to_owned(), 0.5))
        .collect();
    let report = report_of(&input);
    let (fixed, half) = (rule(&report, "fixed"), rule(&report, "0.5"));
    assert_eq!(
        (fixed.f1_micro, fixed.f1_weighted),
        (half.f1_micro, half.f1_weighted)
    );
    assert_eq!(
        half.f1_micro,
        f1_micro(&input.test.truth, &input.test.scores, 0.5)
    );

    input.thresholds = BTreeMap::from([("Drama".to_owned(), 1.0)]);
    let report = report_of(&input);
    assert_ne!(
        rule(&report, "fixed").f1_micro,
        rule(&report, "per_class").f1_micro
    );
}

#[test]
fn classes_without_a_definition_have_no_value_and_are_left_out_of_the_means() {
    let report = report_of(&input(40));
    let silent = &report.per_class[2];
    assert_eq!(
        (silent.roc_auc, silent.average_precision, silent.f1),
        (None, None, 0.0)
    );
    assert_eq!((report.map_classes, report.roc_auc_classes), (2, 2));
    let mean = (report.per_class[0].average_precision.unwrap()
        + report.per_class[1].average_precision.unwrap())
        / 2.0;
    assert_eq!(report.map, Some(mean));
    assert!(
        report
            .warnings
            .iter()
            .any(|w| w.contains("without a positive in the test split"))
    );
}

#[test]
fn scores_above_the_ceiling_are_flagged() {
    let mut input = input(200);
    input.test.scores = input
        .test
        .truth
        .iter()
        .map(|&is_true| f32::from(is_true))
        .collect();
    input.source.f1_micro_ceiling = Some(0.83);
    let report = report_of(&input);
    assert!(
        report.warnings[0].contains("above 0.830"),
        "{:?}",
        report.warnings
    );
    assert!(report.warnings[0].contains("look for a leak"));
    assert!(page_of(&input).contains("look for a leak"));

    input.source.f1_micro_ceiling = Some(1.0);
    assert!(
        !report_of(&input)
            .warnings
            .iter()
            .any(|w| w.contains("leak"))
    );
}

#[test]
fn pictures_in_both_splits_and_repeated_pictures_are_flagged() {
    let mut input = input(40);
    input.test.ids[3] = "validation-5".to_owned();
    input.test.ids[4] = "test-5".to_owned();
    let warnings = report_of(&input).warnings;
    assert!(
        warnings[0].starts_with("leak: 1 picture of the test split"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].contains("scored more than once (test-5)"),
        "{warnings:?}"
    );
}

#[test]
fn a_model_that_learned_nothing_is_told_so() {
    let mut input = input(40);
    input.test.scores.fill(0.0);
    assert!(
        report_of(&input)
            .warnings
            .iter()
            .any(|w| w.contains("learned nothing useful"))
    );
}

fn refusal(change: impl FnOnce(&mut EvalInput<'static>)) -> EvalError {
    let mut input = input(8);
    change(&mut input);
    let dir = tempfile::tempdir().unwrap();
    let error = write_report(dir.path(), &input).unwrap_err();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is written"
    );
    error
}

#[test]
fn unusable_input_is_refused_by_name() {
    let messages = [
        refusal(|input| input.test.scores[4] = f32::NAN),
        refusal(|input| input.validation.scores[0] = 1.5),
        refusal(|input| input.validation.scores[0] = -0.1),
        refusal(|input| input.test.scores[0] = f32::INFINITY),
        refusal(|input| input.test.truth[4] = 7),
        refusal(|input| input.test.truth.truncate(5)),
        refusal(|input| input.test = SplitScores::default()),
        refusal(|input| input.classes.clear()),
        refusal(|input| input.thresholds = BTreeMap::from([("Dram".to_owned(), 0.5)])),
        refusal(|input| input.thresholds = BTreeMap::from([("Drama".to_owned(), 50.0)])),
    ]
    .map(|error| error.to_string())
    .join("\n");
    insta::assert_snapshot!(messages);
}

#[test]
fn empty_validation_keeps_one_half() {
    let mut input = input(8);
    input.validation = SplitScores::default();
    let report = report_of(&input);
    assert!(report.per_class.iter().all(|class| class.threshold == 0.5));
    let headline = report.headline.as_ref().unwrap();
    assert_eq!(headline.rule, "0.5");
    assert!(headline.why.contains("no validation split"), "{headline:?}");
    assert!(
        report
            .warnings
            .iter()
            .any(|w| w.contains("no threshold of its own can be tuned"))
    );
}

#[test]
fn page_escapes_every_text() {
    let mut input = input(8);
    let hostile = "<script>alert('x')</script>\" onload=\"";
    input.model = hostile.to_owned();
    input.source.attribution = Some(hostile.to_owned());
    input.source.synthetic = true;
    input.test.ids = (0..8).map(|row| format!("{hostile}{row}")).collect();
    input.test.ids[1] = input.test.ids[0].clone(); // into a warning
    let page = page_of(&input);
    assert!(!page.contains("<script") && !page.contains("<b>Horror"));
    assert!(!page.contains("\" onload"));
    assert!(
        page.contains("&lt;script&gt;")
            && page.contains("&lt;b&gt;Horror&lt;/b&gt; &amp; &quot;fear&quot;")
    );
    assert!(page.contains("Synthetic pictures."));
}

#[test]
fn page_needs_nothing_from_elsewhere() {
    let page = page_of(&input(8));
    for forbidden in [
        "<script",
        "<link",
        "<iframe",
        "src=\"http",
        "url(",
        "@import",
        "javascript:",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains("default-src 'none'"));
    assert_eq!(page.matches("<h1").count(), 1);
    for heading in [
        "Where it stands",
        "Class by class",
        "How training went",
        "Reality check",
    ] {
        assert!(page.contains(heading), "{heading}");
    }
}

#[test]
fn page_shows_pictures_with_marks_that_need_no_colour() {
    let mut input = input(40);
    let jpeg = |split: &str, row: usize| {
        assert_eq!(split, "test");
        row.is_multiple_of(2).then(|| vec![0xFF, 0xD8, 0xFF, 0xE0])
    };
    input.thumbnail = &jpeg;
    input.gallery = 40;
    let page = page_of(&input);
    assert!(page.contains("src=\"data:image/jpeg;base64,/9j/4A==\""));
    assert!(page.contains("no picture"));
    assert!(page.contains("alt=\"Picture test-0: true Drama"));
    for (mark, word) in [("✓", "right: "), ("✗", "wrong: "), ("○", "missed: ")] {
        assert!(page.contains(mark) && page.contains(word), "{word}");
    }
}

#[test]
fn an_interval_lies_around_its_figure() {
    let mut input = input(300);
    input.bootstrap_resamples = 1000;
    let report = report_of(&input);
    let (low, high) = rule(&report, "0.5").f1_micro_interval.unwrap();
    let value = rule(&report, "0.5").f1_micro;
    assert!(low < value && value < high, "{low} {value} {high}");
}
