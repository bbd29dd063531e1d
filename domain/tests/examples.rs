//! Every file in `examples/` is a pipeline that would be taken.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use marquee_domain::pipeline::{DocumentText, parse_pipeline};
use marquee_domain::spec::Work;

fn examples(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            examples(&path, files);
        } else if path.extension().is_some_and(|end| end == "toml") {
            files.push(path);
        }
    }
}

#[test]
fn every_example_is_a_right_pipeline_and_the_studys_models_are_all_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files = Vec::new();
    examples(&root, &mut files);
    assert!(files.len() >= 9, "{files:?}");
    let mut models = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let spec = parse_pipeline(DocumentText::Toml(&text), &[], None)
            .unwrap_or_else(|errors| panic!("{}: {errors:?}", file.display()));
        for job in spec.jobs {
            if let Work::Train(train) = job.work {
                models.push(train.model);
            }
        }
    }
    for model in [
        "simple-cnn",
        "densenet121",
        "inception_v3",
        "ensemble",
        "vgg16",
    ] {
        assert!(
            models.iter().any(|used| used == model),
            "{model} in {models:?}"
        );
    }
}
