//! A user's own pictures: folder and archive, through fetch and preprocess.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder, codecs::webp::WebPEncoder};
use marquee_datasets::dataset::Dataset;
use marquee_datasets::shards::{ShardIndex, ShardSet};
use marquee_datasets::thumbnail::jpeg_of;
use marquee_domain::FailureClass;
use marquee_domain::spec::{
    CommandSettings, ImageEncoding, LabelRules, PreprocessSettings, Source, Work,
};

use crate::support::{Ended, Workplace, program, results, settings};

const SIDE: u32 = 40;

fn rgb(row: usize) -> Vec<u8> {
    (0..SIDE as usize * SIDE as usize * 3)
        .map(|at| u8::try_from((at / 3 + row * 17) % 256).unwrap())
        .collect()
}

/// The file of picture `row`: JPEG, PNG or WebP in turn.
fn picture(row: usize) -> (String, Vec<u8>) {
    let pixels = rgb(row);
    let mut file = Vec::new();
    match row % 3 {
        0 => return (format!("img/{row}.jpg"), jpeg_of(&pixels, SIDE, SIDE, 90)),
        1 => PngEncoder::new(&mut file)
            .write_image(&pixels, SIDE, SIDE, ExtendedColorType::Rgb8)
            .unwrap(),
        _ => WebPEncoder::new_lossless(&mut file)
            .write_image(&pixels, SIDE, SIDE, ExtendedColorType::Rgb8)
            .unwrap(),
    }
    (
        format!("img/{row}.{}", if row % 3 == 1 { "png" } else { "webp" }),
        file,
    )
}

/// A set with 90 good pictures in groups of two, and one of each thing that can be wrong.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut table = String::from("path,labels,group\n");
    for row in 0..90 {
        let (path, file) = picture(row);
        let labels = ["cat", "dog", "cat|dog", "bird|cat"][row % 4];
        table += &format!("{path},{labels},g{}\n", row / 2);
        files.insert(path, file);
    }
    table +=
        "missing.jpg,cat,\nnotes.txt,dog,\nunlabelled.jpg,,\ncut.jpg,cat,\nnot-a-bird.jpg,bird,\n";
    files.insert("notes.txt".into(), b"no picture".to_vec());
    files.insert("unlabelled.jpg".into(), picture(0).1);
    let whole = picture(3).1;
    files.insert("cut.jpg".into(), whole[..whole.len() / 2].to_vec());
    files.insert(
        "not-a-bird.jpg".into(),
        [&[0xff, 0xd8, 0xff][..], &[7; 500], &[0xff, 0xd9]].concat(),
    );
    files.insert("labels.csv".into(), table.into_bytes());
    files
}

fn write_folder(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn write_zip(target: &Path, inside: &str, files: &BTreeMap<String, Vec<u8>>) {
    let mut archive = zip::ZipWriter::new(File::create(target).unwrap());
    for (path, bytes) in files {
        archive
            .start_file(
                format!("{inside}{path}"),
                zip::write::SimpleFileOptions::default(),
            )
            .unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

fn folder_source(path: &Path) -> Source {
    Source::Folder {
        path: path.display().to_string(),
        rules: LabelRules::default(),
    }
}

/// A workplace whose dataset is fetched.
fn fetched() -> Workplace {
    let workplace = Workplace::new();
    write_folder(&workplace.path("mine"), &files());
    workplace
        .fetch(folder_source(&workplace.path("mine")))
        .fetched();
    workplace
}

#[test]
fn folder_and_archive_give_the_same_dataset_and_the_books_say_what_is_missing() {
    let workplace = fetched();
    let from_folder = results(&workplace.path("dataset"));
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    let summary = &dataset.books().summary;
    assert_eq!((summary.asked, summary.fetched, summary.gone), (95, 92, 1));
    assert_eq!(summary.rejected["no_labels"], 1);
    assert_eq!(summary.rejected["unknown_format"], 1);
    assert_eq!(dataset.labels(), ["cat", "dog", "bird"]);
    let problems: Vec<_> = dataset
        .books()
        .problems
        .iter()
        .map(|p| (p.id.as_str(), p.class.as_str()))
        .collect();
    assert_eq!(
        problems,
        [
            ("missing.jpg", "gone"),
            ("notes.txt", "unknown_format"),
            ("unlabelled.jpg", "no_labels")
        ]
    );
    for inside in ["", "my-pictures/"] {
        let zipped = Workplace::new();
        write_zip(&zipped.path("mine.zip"), inside, &files());
        zipped
            .fetch(folder_source(&zipped.path("mine.zip")))
            .fetched();
        assert_eq!(results(&zipped.path("dataset")), from_folder, "{inside:?}");
    }
}

#[test]
fn a_place_that_holds_no_pictures_is_refused_with_what_is_wanted() {
    let workplace = Workplace::new();
    let message = |path: &Path| {
        let failure = workplace.fetch(folder_source(path)).failure();
        assert!(!failure.class.is_worth_a_retry());
        failure
            .message
            .replace(&workplace.path("").display().to_string(), "/w/")
    };
    insta::assert_snapshot!(message(&workplace.path("nowhere")), @"/w/nowhere cannot be opened on this worker: No such file or directory (os error 2)");
    fs::create_dir(workplace.path("empty")).unwrap();
    insta::assert_snapshot!(message(&workplace.path("empty")), @"there is no /w/empty/labels.csv; a folder of pictures needs one, with the header path,labels (or a table as Kaggle's sets have it, or one folder a label)");
    fs::write(workplace.path("text.zip"), "no archive").unwrap();
    insta::assert_snapshot!(message(&workplace.path("text.zip")), @"/w/text.zip is neither a folder nor a .zip archive: invalid Zip archive: Could not find EOCD");
    write_zip(&workplace.path("bare.zip"), "a/b/", &files());
    insta::assert_snapshot!(message(&workplace.path("bare.zip")), @"there is no /w/bare.zip/labels.csv, but one in its folder b; move it to the top, or give that folder as path");
    write_folder(
        &workplace.path("wrong"),
        &BTreeMap::from([(
            "labels.csv".to_owned(),
            b"path,labels\na.jpg,cat||dog\n".to_vec(),
        )]),
    );
    insta::assert_snapshot!(message(&workplace.path("wrong")), @r#"
    /w/wrong/labels.csv cannot be used:
      line 2, column labels: "cat||dog" has an empty label between its bars
    "#);
}

#[test]
fn shards_are_byte_equal_for_any_number_of_threads() {
    let workplace = fetched();
    for encoding in [
        ImageEncoding::Raw,
        ImageEncoding::Jpeg,
        ImageEncoding::Original,
    ] {
        let mut all = Vec::new();
        for threads in [1, 2, 5] {
            let output = format!("shards-{encoding:?}-{threads}");
            let settings = PreprocessSettings {
                encoding,
                ..settings()
            };
            workplace
                .preprocess(settings, &output, threads)
                .preprocessed();
            all.push(results(&workplace.path(&output)));
        }
        assert_eq!(all[0], all[1]);
        assert_eq!(all[0], all[2]);
    }
}

#[test]
fn originals_are_kept_as_they_came_and_decode_to_what_raw_shards_hold() {
    let workplace = fetched();
    let open = |encoding: ImageEncoding| {
        let output = format!("{encoding:?}");
        let settings = PreprocessSettings {
            encoding,
            ..settings()
        };
        workplace.preprocess(settings, &output, 2).preprocessed();
        ShardSet::open(&workplace.path(&output)).unwrap()
    };
    let (raw, original) = (open(ImageEncoding::Raw), open(ImageEncoding::Original));
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    let (raw, original) = (
        raw.split("train").unwrap(),
        original.split("train").unwrap(),
    );
    assert_eq!(raw.len(), original.len());
    let mut pixels = vec![0; raw.row(0).unwrap().image.len()];
    for at in 0..raw.len() {
        let row = original.row(at).unwrap();
        assert_eq!(row.id, raw.row(at).unwrap().id);
        assert_eq!(Some(row.image), dataset.picture(row.id), "{}", row.id);
        original.pixels_into(at, &mut pixels).unwrap();
        assert!(pixels == raw.row(at).unwrap().image, "{}", row.id);
    }
}

#[test]
fn groups_stay_whole_classes_are_shared_out_and_broken_pictures_are_listed() {
    let workplace = fetched();
    let summary = workplace.preprocess(settings(), "shards", 2).preprocessed();
    assert_eq!(summary.pictures, 92);
    assert_eq!(summary.skipped.values().sum::<u64>(), 2, "{summary:?}");
    assert_eq!(summary.skipped["truncated"], 1);
    let books = fs::read_to_string(workplace.path("shards/preprocess.json")).unwrap();
    assert!(books.contains("cut.jpg") && books.contains("not-a-bird.jpg"));

    let set = ShardSet::open(&workplace.path("shards")).unwrap();
    assert_eq!(set.index().classes, ["cat", "dog", "bird"]);
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    let group_of: BTreeMap<_, _> = dataset
        .examples()
        .iter()
        .map(|film| (film.id.clone(), film.group.clone()))
        .collect();
    let mut seen = BTreeSet::new();
    for (name, share) in [("train", 0.6), ("validation", 0.2), ("test", 0.2)] {
        let split = set.split(name).unwrap();
        assert!(
            (split.len() as f64 - 90.0 * share).abs() <= 3.0,
            "{name}: {}",
            split.len()
        );
        let mut groups = BTreeSet::new();
        let mut cats = 0.0;
        for row in (0..split.len()).map(|row| split.row(row).unwrap()) {
            groups.insert(group_of[row.id].clone());
            cats += f64::from(row.labels[0]);
        }
        assert!((cats - 68.0 * share).abs() <= 3.0, "{name}: {cats} cats");
        for group in groups {
            assert!(seen.insert(group.clone()), "{group:?} is in two splits");
        }
    }
}

#[test]
fn pixels_are_those_of_the_picture() {
    let workplace = fetched();
    let same_size = PreprocessSettings {
        width: SIDE,
        height: SIDE,
        ..settings()
    };
    workplace.preprocess(same_size, "shards", 2).preprocessed();
    let set = ShardSet::open(&workplace.path("shards")).unwrap();
    let mut checked = 0;
    for name in ["train", "validation", "test"] {
        let split = set.split(name).unwrap();
        for row in (0..split.len()).map(|row| split.row(row).unwrap()) {
            let number: usize = row
                .id
                .trim_start_matches("img/")
                .split('.')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            // PNG and WebP keep every pixel.
            if !number.is_multiple_of(3) {
                assert_eq!(row.image, rgb(number), "{}", row.id);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 60);
}

#[test]
fn what_cannot_become_shards_is_refused_with_the_way_out() {
    let workplace = fetched();
    let message = |settings: PreprocessSettings| {
        let failure = workplace.preprocess(settings, "refused", 2).failure();
        assert!(!workplace.path("refused/shards.json").exists());
        assert!(!failure.class.is_worth_a_retry());
        failure.message
    };
    let labels = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let misspelt = PreprocessSettings {
        labels: labels(&["cat", "dgo"]),
        ..settings()
    };
    insta::assert_snapshot!(message(misspelt), @r#"labels[1] "dgo" is no label of the dataset; did you mean "dog"?"#);
    let demanding = PreprocessSettings {
        min_label_count: 1_000,
        ..settings()
    };
    insta::assert_snapshot!(message(demanding), @"no label has 1000 pictures, the most common has 68; lower min_label_count");
    let mut tiny_test = settings();
    tiny_test.splits.test = 0.000_001;
    tiny_test.splits.train = 0.799_999;
    insta::assert_snapshot!(message(tiny_test), @r#"split test is empty: 92 pictures came in, skipped {"truncated": 1, "undecodable": 1}; bring more pictures or change splits"#);
}

#[test]
fn rare_labels_are_dropped_and_their_pictures_counted() {
    let workplace = fetched();
    let few = PreprocessSettings {
        min_label_count: 30,
        labels: None,
        ..settings()
    };
    let summary = workplace.preprocess(few, "shards", 2).preprocessed();
    assert_eq!(summary.classes, ["cat", "dog"]);
    // The one picture of a bird alone; those of cats with birds stay.
    assert_eq!(summary.skipped["no_class"], 1);
    let books = fs::read_to_string(workplace.path("shards/preprocess.json")).unwrap();
    assert!(books.contains("label_dropped"));
}

#[test]
fn an_altered_or_incomplete_dataset_is_refused() {
    let workplace = fetched();
    let pictures = workplace.path("dataset/pictures-00000.arrow");
    let mut bytes = fs::read(&pictures).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pictures, &bytes).unwrap();
    let failure = workplace.preprocess(settings(), "a", 2).failure();
    assert_eq!(failure.class, FailureClass::BadInput);
    assert!(
        failure.message.contains("its digest differs"),
        "{failure:?}"
    );

    fs::write(&pictures, &bytes[..middle]).unwrap();
    let failure = workplace.preprocess(settings(), "b", 2).failure();
    assert!(
        failure
            .message
            .contains("pictures-00000.arrow is torn or altered"),
        "{failure:?}"
    );

    fs::remove_file(workplace.path("dataset/fetch.json")).unwrap();
    let failure = workplace.preprocess(settings(), "c", 2).failure();
    assert!(
        failure.message.contains("no complete dataset"),
        "{failure:?}"
    );
}

#[test]
fn the_index_on_disk_is_what_the_library_reads() {
    let workplace = fetched();
    workplace.preprocess(settings(), "shards", 1).preprocessed();
    let text = fs::read(workplace.path("shards/shards.json")).unwrap();
    let index: ShardIndex = serde_json::from_slice(&text).unwrap();
    assert_eq!((index.format, index.width, index.height), (1, 16, 24));
    assert_eq!(
        index.splits.keys().collect::<Vec<_>>(),
        ["test", "train", "validation"]
    );
}

#[test]
fn a_spec_that_is_none_is_a_usage_error_and_one_of_another_kind_a_user_error() {
    let workplace = Workplace::new();
    let spec = workplace.path("spec.json");
    let run = || Ended::of(program().arg("run").arg(&spec).output().unwrap());
    assert_eq!(run().code, Some(2));
    fs::write(&spec, "{}").unwrap();
    let ended = run();
    assert_eq!(
        (ended.code, ended.events.len()),
        (Some(2), 0),
        "{}",
        ended.text
    );

    let argv = vec!["true".to_owned()];
    let command = Work::Command(CommandSettings {
        argv,
        env: BTreeMap::new(),
        env_from_worker: Vec::new(),
    });
    let failure = workplace.run(command).failure();
    assert_eq!(failure.class, FailureClass::UserError);
    insta::assert_snapshot!(failure.message, @"marquee-prep does fetch and preprocess jobs, and this spec is of kind command; marquee-trainer does train and eval");
}
