//! What earlier versions left on disk, read by today's code: datasets, shards, journals.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use marquee_datasets::dataset::{Dataset, outcomes};
use marquee_datasets::preprocess;
use marquee_datasets::shards::ShardSet;
use marquee_domain::artifact::Digest;
use marquee_domain::spec::{LabelRules, Source};

use crate::support::{Workplace, settings};

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/stored")
        .join(name)
}

/// A copy of the folder, so that no job can alter the original.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_dataset_of_an_earlier_version_is_read_and_prepared() {
    let dataset = Dataset::open(&stored("dataset")).unwrap();
    assert_eq!(dataset.labels(), ["cat", "dog"]);
    assert_eq!(dataset.examples().len(), 9);
    assert_eq!(dataset.example("2.png").unwrap().labels, ["cat", "dog"]);
    assert_eq!(
        dataset.example("0.png").unwrap().group.as_deref(),
        Some("pair")
    );
    for example in dataset.examples() {
        let picture = dataset.picture(&example.id).unwrap();
        assert_eq!(Digest::of(picture), example.picture_digest);
    }
    let source = &dataset.books().summary.source;
    assert_eq!(source.licence.as_deref(), Some("CC0"));
    let missed: Vec<_> = outcomes(&stored("dataset"))
        .unwrap()
        .into_iter()
        .filter(|(_, outcome, _)| outcome != "fetched")
        .collect();
    let word = str::to_owned;
    assert_eq!(
        missed,
        [
            (word("missing.png"), word("gone"), word("gone")),
            (word("unlabelled.png"), word("rejected"), word("no_labels")),
        ]
    );

    let workplace = Workplace::new();
    copy(&stored("dataset"), &workplace.path("dataset"));
    let summary = workplace.preprocess(settings(), "shards", 1).preprocessed();
    assert_eq!(summary.pictures, 9);
    let made = |name: &str| workplace.path("shards").join(name).exists();
    assert!(made("examples.parquet") && !made("films.parquet"));
}

#[test]
fn shards_of_an_earlier_version_are_read_with_their_flags() {
    let set = ShardSet::open(&stored("shards")).unwrap();
    let rows: usize = ["train", "validation", "test"]
        .iter()
        .map(|split| set.split(split).unwrap().len())
        .sum();
    assert_eq!(rows, 9);
    let flags = preprocess::flags_of(&stored("shards")).unwrap();
    assert_eq!(flags.len(), 9);
    assert!(
        flags
            .iter()
            .all(|(_, flags)| flags.contains(&"tiny".to_owned()))
    );
}

#[test]
fn a_fetch_goes_on_from_a_checkpoint_of_an_earlier_version() {
    let workplace = Workplace::new();
    let checkpoint = workplace.path("checkpoint");
    copy(&stored("checkpoint"), &checkpoint);
    // The pictures that the list names are not beside it: what comes is the checkpoint's.
    let list = workplace.path("list.csv");
    fs::copy(stored("list.csv"), &list).unwrap();
    let source = Source::List {
        path: list.to_str().unwrap().to_owned(),
        requests_per_second: 100,
        concurrency: 4,
        request_timeout_s: 10,
        request_attempts: 1,
        outage_s: 10,
        rules: LabelRules::default(),
    };
    let workplace = workplace.with_resume(&checkpoint).with_licence("CC0");
    let summary = workplace.fetch(source).fetched();
    assert_eq!((summary.resumed, summary.asked), (8, 9), "{summary:?}");
    assert_eq!((summary.fetched, summary.gone), (3, 1), "{summary:?}");
    let rejected: Vec<&str> = summary.rejected.keys().map(String::as_str).collect();
    let wanted = ["duplicate_id", "no_labels", "odd_path", "unknown_format"];
    assert_eq!(rejected, wanted);
    // Nobody listens where the last one is.
    assert_eq!(summary.failed.keys().collect::<Vec<_>>(), ["connect"]);
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    for example in dataset.examples() {
        let picture = dataset.picture(&example.id).unwrap();
        assert_eq!(Digest::of(picture), example.picture_digest);
    }
}
