//! What users, workers and jobs send to a cluster: how it is taken, and what to start from.

use std::path::PathBuf;
use std::sync::LazyLock;

use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::pipeline::{DocumentText, FieldError, Override, parse_pipeline};
use marquee_domain::spec::PipelineSpec;
use marquee_proto::v1;
use marquee_worker::rank::readers;
use prost::Message as _;

/// A file that a spool is tried in. In memory, where the host has such a folder: each input is a file anew.
static SPOOL: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    folder.join(format!("marquee-fuzz-spool-{}", std::process::id()))
});

const DOCUMENT: &str = r#"name = "posters"
project = "default"
[jobs.fetch]
kind = "fetch"
source = { type = "folder", path = "/data", labels = "labels.csv" }
[jobs.prepare]
kind = "preprocess"
inputs = { dataset = "fetch.dataset" }
width = 64
height = 64
[jobs.train]
kind = "train"
inputs = { shards = "prepare.shards" }
model = "simple_cnn"
epochs = 3
ranks = { count = 2, min = 1 }
timeout = "3h"
[jobs.train.optimizer]
kind = "sgd"
learning_rate = 1e-2
[jobs.eval]
kind = "eval"
inputs = { model = "train.model", shards = "prepare.shards" }
[jobs.any]
kind = "command"
argv = ["sh", "-c", "true"]
env = { A = "b" }
array = 7
needs = ["eval"]
hosts = { labels = ["a"], avoid = ["b"] }
priority = -3
"#;

/// How a document was taken, as TOML and as JSON.
pub(super) fn document(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let toml = parse_pipeline(DocumentText::Toml(&text), &[], None);
    let json = parse_pipeline(DocumentText::Json(&text), &[], None);
    format!("{} / {}", said(toml), said(json))
}

/// How values were taken that are set in a good document: a line for each, as on the command line.
pub(super) fn overrides(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let values: Vec<Override> = text
        .lines()
        .map(|line| {
            // A line without "=" is tried as well: the command line would refuse it, another client
            // may not.
            let (path, value) = line.split_once('=').unwrap_or((line, ""));
            Override {
                path: path.to_owned(),
                value: value.to_owned(),
            }
        })
        .collect();
    said(parse_pipeline(DocumentText::Toml(DOCUMENT), &values, None))
}

fn said(read: Result<PipelineSpec, Vec<FieldError>>) -> String {
    match read {
        Ok(spec) => {
            // What was let in is stored, and must be the same when it is read again.
            for job in &spec.jobs {
                let stored = serde_json::to_string(job).expect("a spec can be written");
                let again = serde_json::from_str(&stored).expect("a spec can be read again");
                assert_eq!(job, &again);
            }
            format!("{} jobs", spec.jobs.len().min(3))
        }
        Err(errors) => {
            let longest = errors.iter().map(|error| error.message.len()).max();
            assert!(
                longest.is_some_and(|longest| longest < 5_000),
                "an error of {longest:?} bytes"
            );
            let first = errors.first().map_or("", |error| &error.message);
            format!("{} {}", errors.len().min(3), words(first))
        }
    }
}

/// How a list of files was taken.
pub(super) fn manifest(input: &[u8]) -> String {
    let sent = match v1::Manifest::decode(input) {
        Ok(sent) => match Manifest::try_from(sent) {
            Ok(manifest) => listed(&manifest),
            Err(bad) => words(&bad.to_string()),
        },
        Err(_) => "no message".to_owned(),
    };
    let stored = match serde_json::from_slice::<Manifest>(input) {
        Ok(manifest) => match manifest.check() {
            Ok(()) => listed(&manifest),
            Err(bad) => words(&bad.to_string()),
        },
        Err(_) => "no list".to_owned(),
    };
    format!("{sent} / {stored}")
}

/// One that was let in: it stays what it is on its way, and names nothing outside of its folder.
fn listed(manifest: &Manifest) -> String {
    let again = Manifest::try_from(v1::Manifest::from(manifest)).expect("it was let in before");
    assert_eq!(manifest.digest(), again.digest());
    // Whatever sizes a list names, their sum must not panic.
    let _no_overflow = manifest.size_bytes();
    for file in &manifest.files {
        let is_odd = |part: &str| matches!(part, "" | "." | "..");
        assert!(!file.path.split('/').any(is_odd), "{:?}", file.path);
        assert!(!file.path.contains(char::is_control), "{:?}", file.path);
    }
    format!("{} files", manifest.files.len().min(3))
}

/// How a spool was taken.
pub(super) fn spool(input: &[u8]) -> String {
    readers::read_any_spool(input, &SPOOL).unwrap_or_else(|error| words(&error.to_string()))
}

/// The words of a message without what stands in quotes and its numbers.
fn words(message: &str) -> String {
    // What stands in quotes is the input's own, and would make each verdict a new one.
    let outside = message.split('"').step_by(2);
    let words = outside.flat_map(|part| part.split(|c: char| !c.is_ascii_alphabetic()));
    let words: Vec<&str> = words.filter(|word| word.len() > 3).take(6).collect();
    words.join(" ")
}

pub(super) fn documents() -> Vec<Vec<u8>> {
    let json = r#"{"name":"p","jobs":{"a":{"kind":"command","argv":["true"],"ranks":2},"b":{"kind":"command","argv":["x"],"inputs":{"d":"a.output"}}}}"#;
    let small = "name = 'p'\njobs.a = { kind = 'command', argv = ['true'] }\n";
    [DOCUMENT, json, small]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

pub(super) fn override_samples() -> Vec<Vec<u8>> {
    [
        "jobs.train.epochs=5\njobs.train.optimizer.learning_rate=0.5",
        "name=other\njobs.fetch.source.path=/x",
        "jobs.any.argv=[\"a\", \"b\"]\njobs.any.env.B='c'\njobs.any.array=3",
        "jobs.train.ranks={ count = 4 }\njobs.new.kind=command\njobs.new.argv=['true']",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(super) fn manifests() -> Vec<Vec<u8>> {
    let file = |path: &str, size_bytes| v1::FileEntry {
        path: path.into(),
        size_bytes,
        digest: Digest::of(path.as_bytes()).to_string(),
    };
    let sent = v1::Manifest {
        files: vec![file("a", 0), file("b/c.bin", 1 << 33), file("b/d", 7)],
        executables: vec!["a".into()],
        empty_folders: vec!["e/f".into()],
    };
    let manifest = Manifest::try_from(sent.clone()).expect("the sample is right");
    let stored = serde_json::to_vec(&manifest).expect("a list can be written");
    vec![sent.encode_to_vec(), stored]
}

pub(super) fn events() -> Vec<Vec<u8>> {
    [
        r#"{"event":"progress","phase":"epoch 1/2","done":3,"total":9,"unit":"steps","bytes":5,"problems":{"gone":1}}"#,
        r#"{"event":"metrics","step":7,"values":{"train/loss":0.25,"phase/forward_s":1e-3}}"#,
        r#"{"event":"checkpoint","step":7,"path":"step-7"}"#,
        r#"{"event":"regrouped","step":7,"ranks":[0,2],"steps_lost":1,"seconds":2.5}"#,
        r#"{"event":"finished","summary":{"code":"x","scores":{"f1":0.5}}}"#,
        r#"{"event":"failed","class":"bad_input","message":"why"}"#,
        r#"{"event":"later","x":[[[[]]]]}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(super) fn spools() -> Vec<Vec<u8>> {
    readers::spool_samples().expect("a sample can be written")
}
