//! Lists, Kaggle's layout, export: what comes in by other ways than an API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use marquee_datasets::dataset::Dataset;
use marquee_datasets::thumbnail::jpeg_of;
use marquee_domain::FailureClass;
use marquee_domain::spec::{LabelRules, Source};

use crate::support::{Catalogue, Workplace, program, results};

fn list(path: &Path) -> Source {
    Source::List {
        path: path.display().to_string(),
        requests_per_second: 2_000,
        concurrency: 8,
        request_timeout_s: 5,
        request_attempts: 2,
        outage_s: 2,
        rules: LabelRules::default(),
    }
}

fn picture(seed: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..60 * 90 * 3)
        .map(|at| u8::try_from((at * (seed + 3) / 7) % 251).unwrap())
        .collect();
    jpeg_of(&pixels, 60, 90, 90)
}

/// A list with one row of every kind.
fn rows(api_url: &str) -> Vec<[String; 4]> {
    let images = api_url.replace("/3", "/t/p/w92");
    let row = |id: &str, url: String, labels: &str, group: &str| {
        [id.to_owned(), url, labels.to_owned(), group.to_owned()]
    };
    vec![
        row("one", "files/one.jpg".to_owned(), "cat|dog", "g1"),
        row("two", "files/two.jpg".to_owned(), "dog", ""),
        // The first film has one of these numbers.
        row("served-11", format!("{images}/poster-11.jpg"), "bird", ""),
        row("served-12", format!("{images}/poster-12.jpg"), "bird", ""),
        row("served-13", format!("{images}/poster-13.jpg"), "bird", ""),
        row("missing", "files/none.jpg".to_owned(), "cat", ""),
        row("two", "files/two.jpg".to_owned(), "cat", ""),
        row("bare", "files/one.jpg".to_owned(), "", ""),
        row("nowhere", String::new(), "cat", ""),
        row("outside", "../secret.jpg".to_owned(), "cat", ""),
        row("text", "files/text.jpg".to_owned(), "cat", ""),
        row("away", "http://127.0.0.1:9/a.jpg".to_owned(), "cat", ""),
        row(
            "with-key",
            "http://user:pass@127.0.0.1:9/a.jpg".to_owned(),
            "cat",
            "",
        ),
    ]
}

fn write_list(folder: &Path, rows: &[[String; 4]]) {
    fs::create_dir_all(folder.join("files")).unwrap();
    fs::write(folder.join("files/one.jpg"), picture(1)).unwrap();
    fs::write(folder.join("files/two.jpg"), picture(2)).unwrap();
    fs::write(folder.join("files/text.jpg"), "no picture").unwrap();
    fs::write(folder.join("../secret.jpg"), picture(3)).unwrap();
    let mut table = csv::Writer::from_path(folder.join("list.csv")).unwrap();
    table
        .write_record(["id", "url", "labels", "group"])
        .unwrap();
    for row in rows {
        table.write_record(row).unwrap();
    }
    table.flush().unwrap();
}

#[test]
fn a_list_brings_files_and_urls_and_accounts_for_every_row() {
    let catalogue = Catalogue::start(&["--films", "5", "--sketches"]);
    let workplace = Workplace::new();
    let folder = workplace.path("mine");
    write_list(&folder, &rows(&catalogue.api_url));
    let ended = workplace.fetch(list(&folder.join("list.csv")));
    let summary = ended.fetched();
    assert_eq!((summary.asked, summary.gone), (13, 3), "{summary:?}");
    let classes: BTreeMap<&str, u64> = summary
        .rejected
        .iter()
        .map(|(class, count)| (class.as_str(), *count))
        .collect();
    assert_eq!(
        classes,
        BTreeMap::from([
            ("duplicate_id", 1),
            ("no_labels", 1),
            ("no_url", 1),
            ("odd_path", 1),
            ("odd_url", 1),
            ("unknown_format", 1)
        ])
    );
    assert_eq!(summary.failed.keys().collect::<Vec<_>>(), ["connect"]);
    assert!(!ended.text.contains("user:pass"));
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    let ids: Vec<_> = dataset
        .examples()
        .iter()
        .map(|film| film.id.as_str())
        .collect();
    assert_eq!(ids[..2], ["one", "two"]);
    assert!(ids.len() == 3 && ids[2].starts_with("served-"), "{ids:?}");
    assert_eq!(dataset.labels(), ["cat", "dog", "bird"]);
    assert_eq!(dataset.examples()[0].group.as_deref(), Some("g1"));
    assert_eq!(dataset.examples()[0].source, "list");
    assert!(dataset.examples()[2].picture_etag.is_some());
}

#[test]
fn a_list_that_cannot_be_read_says_where_and_why() {
    let workplace = Workplace::new();
    let file = workplace.path("list.csv");
    let message = |text: &str| {
        fs::write(&file, text).unwrap();
        let failure = workplace.fetch(list(&file)).failure();
        assert_eq!(failure.class, FailureClass::BadInput);
        failure
            .message
            .replace(&workplace.path("").display().to_string(), "/w/")
    };
    insta::assert_snapshot!(message("id,link,labels\n"), @r#"/w/list.csv line 1: its columns are "id,link,labels"; write id,url,labels or id,url,labels,group"#);
    insta::assert_snapshot!(message("id,url,labels\na,b.jpg,x,y\n"), @r"
    /w/list.csv cannot be used:
      line 2: there are 4 columns, the header has 3; put fields with commas in quotes
    ");
    insta::assert_snapshot!(message("id,url,labels\n"), @"/w/list.csv names no picture; write one line a picture below the header id,url,labels");
}

#[test]
fn an_exported_archive_is_a_source_again_in_both_layouts() {
    let catalogue = Catalogue::start(&["--films", "60", "--sketches"]);
    let workplace = Workplace::new();
    workplace.fetch(catalogue.source()).fetched();
    let original = Dataset::open(&workplace.path("dataset")).unwrap();
    for layout in ["plain", "kaggle"] {
        let archive = workplace.path(&format!("{layout}.zip"));
        let done = program()
            .args(["export", "--layout", layout])
            .arg(workplace.path("dataset"))
            .arg(&archive)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        let again = Workplace::new();
        let source = Source::Folder {
            path: archive.display().to_string(),
            rules: LabelRules::default(),
        };
        again.fetch(source).fetched();
        let read = Dataset::open(&again.path("dataset")).unwrap();
        assert_eq!(read.examples().len(), original.examples().len(), "{layout}");
        for (before, after) in original.examples().iter().zip(read.examples()) {
            assert_eq!(before.labels, after.labels, "{layout}");
            assert_eq!(before.picture_digest, after.picture_digest, "{layout}");
        }
    }
}

/// A Python with pyarrow: `MARQUEE_TEST_PYTHON`, or `python3`. None: the test says that it is skipped.
fn python() -> Option<String> {
    let program = std::env::var("MARQUEE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&program)
        .args(["-c", "import pyarrow.parquet"])
        .output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    eprintln!("skipped: {program} has no pyarrow; set MARQUEE_TEST_PYTHON to one that has");
    None
}

const READ_ALL: &str = r#"
import datetime, hashlib, json, sys
import pyarrow as pa, pyarrow.ipc as ipc, pyarrow.parquet as pq
dataset, shards = sys.argv[1], sys.argv[2]
table = pq.read_table(dataset + "/examples.parquet")
assert table.schema.field("release_date").type == pa.date32(), table.schema
assert table.schema.field("labels").type == pa.list_(pa.field("item", pa.string(), False)), table.schema
rows = table.to_pylist()
assert any(row["release_date"] is None for row in rows) and any(isinstance(row["release_date"], datetime.date) for row in rows)
assert all(row["licence"] is None and row["source"] == "generated catalogue" for row in rows)
outcomes = pq.read_table(dataset + "/outcomes.parquet").to_pylist()
assert {row["outcome"] for row in outcomes} >= {"fetched", "rejected"}
pictures = {}
for name in ["pictures-00000.arrow"]:
    table = ipc.open_file(pa.memory_map(dataset + "/" + name)).read_all()
    pictures.update(zip(table["id"].to_pylist(), table["bytes"].to_pylist()))
for row in rows:
    assert hashlib.sha256(pictures[row["id"]]).hexdigest() == row["picture_digest"].removeprefix("sha256:")
    assert len(pictures[row["id"]]) == row["picture_bytes"]
index = json.load(open(shards + "/shards.json"))
seen = set()
for split, files in index["splits"].items():
    table = pq.read_table(shards + f"/{split}.parquet").to_pylist()
    ids = []
    for file in files:
        reader = ipc.open_file(pa.memory_map(shards + "/" + file["file"]))
        metadata = {key.decode(): value.decode() for key, value in reader.schema.metadata.items()}
        assert json.loads(metadata["marquee.classes"]) == index["classes"]
        assert json.loads(metadata["marquee.settings"])["width"] == int(metadata["marquee.width"])
        assert len(metadata["marquee.dataset"]) >= 64 and metadata["marquee.split"] == split
        for batch in range(reader.num_record_batches):
            part = reader.get_batch(batch)
            ids += part["id"].to_pylist()
            size = int(metadata["marquee.width"]) * int(metadata["marquee.height"]) * 3
            for image, labels in zip(part["image"].to_pylist(), part["labels"].to_pylist()):
                assert set(labels) <= {0, 1} and len(labels) == len(index["classes"])
                assert len(image) == size if index["encoding"] == "raw" else image[:3] == b"\xff\xd8\xff"
    assert [row["id"] for row in table] == ids, split
    for row in table:
        assert row["split"] == split and row["skipped"] is None and row["width"] > 0
        assert isinstance(row["quality_flags"], list) and len(row["phash"]) == 16
    assert not seen & set(ids)
    seen |= set(ids)
everything = pq.read_table(shards + "/examples.parquet").to_pylist()
assert {row["id"] for row in everything if row["skipped"] is None} == seen
print("read", len(rows), "pictures and", len(seen), "rows of shards")
"#;

#[test]
fn pyarrow_reads_every_file_without_our_code() {
    let Some(python) = python() else { return };
    let catalogue = Catalogue::start(&["--films", "700", "--sketches"]);
    let workplace = Workplace::new();
    workplace.fetch(catalogue.source()).fetched();
    for encoding in [
        marquee_domain::spec::ImageEncoding::Raw,
        marquee_domain::spec::ImageEncoding::Jpeg,
    ] {
        let output = format!("shards-{encoding:?}");
        let settings = marquee_domain::spec::PreprocessSettings {
            encoding,
            ..support::settings()
        };
        workplace.preprocess(settings, &output, 2).preprocessed();
        let read = Command::new(&python)
            .args(["-c", READ_ALL])
            .arg(workplace.path("dataset"))
            .arg(workplace.path(&output))
            .output()
            .unwrap();
        assert!(
            read.status.success(),
            "{}",
            String::from_utf8_lossy(&read.stderr)
        );
        println!("{}", String::from_utf8_lossy(&read.stdout).trim());
    }
}

const WRITE_LIST: &str = r#"
import sys, pyarrow as pa, pyarrow.parquet as pq
folder = sys.argv[1]
for name, labels in [("lists", [["cat", "dog"], ["dog"], []]), ("texts", ["cat|dog", "dog", None])]:
    table = pa.table({"id": [1, 2, 3], "url": ["files/one.jpg", "files/two.jpg", "files/one.jpg"], "labels": labels, "extra": [0.5, None, 1.0]})
    pq.write_table(table, f"{folder}/{name}.parquet")
texts = pa.array(["cat|dog", "dog", None, None]).dictionary_encode()
table = pa.table({"id": pa.array([1, 2, 3, None], pa.uint8()), "url": pa.array(["files/one.jpg", "files/two.jpg", "files/one.jpg", None], pa.large_string()), "labels": texts})
pq.write_table(table, f"{folder}/categories.parquet", compression="zstd")
"#;

#[test]
fn a_parquet_list_is_read_with_labels_as_lists_or_texts() {
    let Some(python) = python() else { return };
    let workplace = Workplace::new();
    let folder = workplace.path("mine");
    write_list(&folder, &[]);
    let written = Command::new(python)
        .args(["-c", WRITE_LIST])
        .arg(&folder)
        .output()
        .unwrap();
    assert!(
        written.status.success(),
        "{}",
        String::from_utf8_lossy(&written.stderr)
    );
    let mut tables = Vec::new();
    // An empty list says that there is no label, null says nothing.
    for (name, fetched) in [("lists", 3), ("texts", 2), ("categories", 2)] {
        let place = Workplace::new();
        let summary = place
            .fetch(list(&folder.join(format!("{name}.parquet"))))
            .fetched();
        assert_eq!((summary.asked, summary.fetched), (3, fetched));
        let dataset = Dataset::open(&place.path("dataset")).unwrap();
        tables.push(
            dataset
                .examples()
                .iter()
                .map(|film| (film.id.clone(), film.labels.clone()))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(tables[0][..2], tables[1]);
    assert_eq!(tables[1], tables[2]);
    assert_eq!(tables[0][0].0, "1");
    assert!(tables[0][2].1.is_empty());
}

#[test]
fn data_whose_term_is_over_is_not_used() {
    let workplace = Workplace::new();
    let folder = workplace.path("mine");
    write_list(&folder, &[]);
    fs::write(
        folder.join("labels.csv"),
        "path,labels\nfiles/one.jpg,cat\nfiles/two.jpg,dog\n",
    )
    .unwrap();
    let source = Source::Folder {
        path: folder.display().to_string(),
        rules: LabelRules::default(),
    };
    workplace.fetch(source).fetched();
    let books = workplace.path("dataset/fetch.json");
    let text = fs::read_to_string(&books).unwrap();
    let old = text.replacen(
        "\"synthetic\": false",
        "\"synthetic\": false, \"use_until\": \"2020-01-31\"",
        1,
    );
    assert_ne!(old, text);
    fs::write(&books, old).unwrap();
    let failure = workplace
        .preprocess(support::settings(), "shards", 1)
        .failure();
    assert_eq!(failure.class, FailureClass::UserError);
    assert!(
        failure
            .message
            .contains("may be used until 2020-01-31 alone"),
        "{failure:?}"
    );
    assert_eq!(results(&workplace.path("shards")).len(), 0);
}
