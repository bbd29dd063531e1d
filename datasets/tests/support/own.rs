//! A user's own pictures: small sets of them, and what a fetch of them comes to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use marquee_datasets::dataset::Dataset;
use marquee_datasets::thumbnail::jpeg_of;
use marquee_domain::spec::{LabelRules, Source};

use super::Workplace;

pub(crate) fn picture(seed: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..32 * 32 * 3)
        .map(|at| u8::try_from((at * (seed + 5) / 11) % 256).unwrap())
        .collect();
    jpeg_of(&pixels, 32, 32, 90)
}

pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub(crate) fn folder(path: &Path, rules: LabelRules) -> Source {
    Source::Folder {
        path: path.display().to_string(),
        rules,
    }
}

pub(crate) fn list(path: &Path) -> Source {
    Source::List {
        path: path.display().to_string(),
        requests_per_second: 100,
        concurrency: 4,
        request_timeout_s: 5,
        request_attempts: 1,
        outage_s: 2,
        rules: LabelRules::default(),
    }
}

pub(crate) fn labels_of(workplace: &Workplace) -> BTreeMap<String, String> {
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    let examples = dataset.examples().iter();
    examples
        .map(|example| (example.id.clone(), example.labels.join("+")))
        .collect()
}

/// The message of a fetch that is refused, without the places of this machine.
pub(crate) fn refused(workplace: &Workplace, source: Source) -> String {
    let failure = workplace.fetch(source).failure();
    assert!(!failure.class.is_worth_a_retry(), "{failure:?}");
    let here = workplace.path("").display().to_string();
    failure.message.replace(&here, "/w/")
}
