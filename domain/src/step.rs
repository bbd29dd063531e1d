//! What makes two steps the same: settings, inputs, and the version of the code. The digest of the
//! first two names the step; an artifact of the same step, made by the same code, can stand for
//! another one's.
//!
//! Not here: whether such an artifact is there. Only the coordinator knows.

use std::collections::BTreeMap;

use crate::artifact::{Digest, Manifest};
use crate::spec::Work;

/// File of a dataset that tells how its fetch went: the day, the seconds, what it went on from. No
/// result of a later step depends on it, so two fetches that found the same make the same input.
pub const RUN_NOTE_FILE: &str = "run.json";

/// The digest of a step: of its settings, defaults filled in, and of what each input holds.
#[must_use]
pub fn digest(work: &Work, inputs: &BTreeMap<String, Manifest>) -> Digest {
    let contents: BTreeMap<&String, Digest> = inputs
        .iter()
        .map(|(name, manifest)| (name, contents(manifest)))
        .collect();
    let step = serde_json::json!({ "work": work, "inputs": contents });
    // Fields stand in the order of their types, and maps are sorted: equal values, equal text.
    Digest::of(step.to_string().as_bytes())
}

/// The digest of an artifact without the notes of how it came about.
fn contents(manifest: &Manifest) -> Digest {
    // In any folder: an array's artifact has one note for each element, below `elements/`.
    let is_note = |path: &str| path.rsplit('/').next() == Some(RUN_NOTE_FILE);
    let mut rest = manifest.clone();
    rest.files.retain(|file| !is_note(&file.path));
    rest.executables.retain(|path| !is_note(path));
    rest.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::FileEntry;
    use crate::pipeline::{DocumentText, parse_pipeline};

    fn work(settings: &str) -> Work {
        let text = format!(
            "name = \"p\"\n[jobs.a]\nkind = \"fetch\"\nsource = {{ type = \"folder\", path = \"/x\" }}\n\
             [jobs.b]\nkind = \"preprocess\"\ninputs = {{ dataset = \"a.dataset\" }}\n{settings}"
        );
        let spec = parse_pipeline(DocumentText::Toml(&text), &[], None).unwrap();
        spec.jobs.into_iter().nth(1).unwrap().work
    }

    fn inputs(files: &[(&str, &str)]) -> BTreeMap<String, Manifest> {
        let files = files.iter().map(|(path, text)| FileEntry {
            path: (*path).to_owned(),
            size_bytes: text.len() as u64,
            digest: Digest::of(text.as_bytes()),
        });
        let manifest = Manifest::new(files.collect()).unwrap();
        BTreeMap::from([("dataset".to_owned(), manifest)])
    }

    #[test]
    fn a_step_is_named_by_settings_and_inputs_and_nothing_else() {
        let data = inputs(&[("films.parquet", "films"), ("run.json", "monday")]);
        let same = digest(&work("width = 64\nheight = 64"), &data);
        // A default that is written out is no other setting.
        let written = work("width = 64\nheight = 64\nseed = 0");
        assert_eq!(digest(&written, &data), same);
        assert_ne!(digest(&work("width = 65\nheight = 64"), &data), same);
        let other = inputs(&[("films.parquet", "other"), ("run.json", "monday")]);
        assert_ne!(digest(&written, &other), same);
    }

    #[test]
    fn how_a_fetch_went_is_no_part_of_what_it_found() {
        let work = work("width = 64\nheight = 64");
        let of = |path: &str, note: &str| inputs(&[("films.parquet", "films"), (path, note)]);
        let monday = digest(&work, &of("run.json", "monday"));
        assert_eq!(digest(&work, &of("run.json", "tuesday")), monday);
        assert_eq!(digest(&work, &of("elements/0003/run.json", "x")), monday);
        assert_ne!(digest(&work, &of("my-run.json", "tuesday")), monday);
    }
}
