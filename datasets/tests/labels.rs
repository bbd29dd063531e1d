//! What tables, folders and archives of strangers say of their pictures, through fetch and preprocess.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use marquee_datasets::dataset::{Dataset, outcomes};
use marquee_datasets::shards::ShardSet;
use marquee_datasets::thumbnail::jpeg_of;
use marquee_domain::report::FetchSummary;
use marquee_domain::spec::{LabelRules, PreprocessSettings, Source, Uncertain, Unlabelled};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

mod support;
use support::{Workplace, settings};

fn picture(seed: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..32 * 32 * 3)
        .map(|at| u8::try_from((at * (seed + 5) / 11) % 256).unwrap())
        .collect();
    jpeg_of(&pixels, 32, 32, 90)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn folder(path: &Path, rules: LabelRules) -> Source {
    Source::Folder {
        path: path.display().to_string(),
        rules,
    }
}

fn list(path: &Path) -> Source {
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

/// A folder with `count` pictures `img/N.jpg` and this table.
fn set(workplace: &Workplace, count: usize, table: &str, text: &[u8]) -> std::path::PathBuf {
    let mine = workplace.path("mine");
    for row in 0..count {
        write(&mine, &format!("img/{row}.jpg"), &picture(row));
    }
    write(&mine, table, text);
    mine
}

fn labels_of(workplace: &Workplace) -> BTreeMap<String, String> {
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    let examples = dataset.examples().iter();
    examples
        .map(|example| (example.id.clone(), example.labels.join("+")))
        .collect()
}

fn fetched(mine: &Path, rules: LabelRules) -> (Workplace, FetchSummary) {
    let workplace = Workplace::new();
    let summary = workplace.fetch(folder(mine, rules)).fetched();
    (workplace, summary)
}

/// The message of a fetch that is refused, without the places of this machine.
fn refused(workplace: &Workplace, source: Source) -> String {
    let failure = workplace.fetch(source).failure();
    assert!(!failure.class.is_worth_a_retry(), "{failure:?}");
    let here = workplace.path("").display().to_string();
    failure.message.replace(&here, "/w/")
}

/// How many rows of all splits have each class, and how many there are.
fn rows_of(workplace: &Workplace) -> (usize, BTreeMap<String, usize>) {
    let set = ShardSet::open(&workplace.path("shards")).unwrap();
    let classes = &set.index().classes;
    let mut counts: BTreeMap<String, usize> =
        classes.iter().map(|class| (class.clone(), 0)).collect();
    let mut all = 0;
    for split in ["train", "validation", "test"] {
        let split = set.split(split).unwrap();
        all += split.len();
        for row in 0..split.len() {
            for (class, label) in classes.iter().zip(split.row(row).unwrap().labels) {
                *counts.get_mut(class).unwrap() += usize::from(*label);
            }
        }
    }
    (all, counts)
}

#[test]
fn stated_zeros_are_negatives_from_the_table_to_the_shards() {
    let source = Workplace::new();
    let mut text = String::from("image,cat,dog\n");
    for row in 0..60 {
        text += &format!("{row},{},{}\n", row % 2, u8::from(row % 3 == 0));
    }
    let mine = set(&source, 60, "train.csv", text.as_bytes());
    let (workplace, summary) = fetched(&mine, LabelRules::default());
    assert_eq!((summary.asked, summary.fetched), (60, 60));
    assert_eq!(summary.remarks.without_label, 20);
    let all = BTreeMap::from([("cat".to_owned(), 30), ("dog".to_owned(), 20)]);
    workplace.preprocess(settings(), "shards", 1).preprocessed();
    assert_eq!(rows_of(&workplace), (60, all));

    // One class of two: what has only the other is a negative, and so is what lost its class for rarity.
    let one = PreprocessSettings {
        labels: Some(vec!["dog".to_owned()]),
        ..settings()
    };
    let workplace = fetched(&mine, LabelRules::default()).0;
    let prepared = workplace.preprocess(one, "shards", 1).preprocessed();
    assert_eq!(prepared.skipped.len(), 0, "{prepared:?}");
    assert_eq!(rows_of(&workplace).0, 60);

    let out = LabelRules {
        unlabelled: Unlabelled::LeaveOut,
        ..LabelRules::default()
    };
    let (_, summary) = fetched(&mine, out);
    assert_eq!((summary.fetched, summary.rejected["no_labels"]), (40, 20));
}

#[test]
fn a_single_column_of_zeros_and_ones_is_a_class_with_negatives() {
    let source = Workplace::new();
    let mut text = String::from("path,scratched\n");
    for row in 0..40 {
        text += &format!("img\\{row}.jpg,{}\n", ["True", "False"][row % 2]);
    }
    // Also when it is called labels.csv.
    let mine = set(&source, 40, "labels.csv", text.as_bytes());
    let (workplace, _) = fetched(&mine, LabelRules::default());
    workplace.preprocess(settings(), "shards", 1).preprocessed();
    let all = BTreeMap::from([("scratched".to_owned(), 20)]);
    assert_eq!(rows_of(&workplace), (40, all));
}

#[test]
fn a_class_that_every_picture_has_is_refused_alone_and_told_among_others() {
    let source = Workplace::new();
    let rows: String = (0..30).map(|row| format!("img/{row}.jpg,cat\n")).collect();
    let mine = set(
        &source,
        30,
        "labels.csv",
        format!("path,labels\n{rows}").as_bytes(),
    );
    let (workplace, _) = fetched(&mine, LabelRules::default());
    let failure = workplace.preprocess(settings(), "shards", 1).failure();
    insta::assert_snapshot!(failure.message, @r#"every picture has "cat": there is nothing to tell apart; bring pictures without it (a row of zeros in a table of 0 and 1, or [] in a column of labels), or name other classes in labels"#);

    let rows: String = (0..30)
        .map(|row| format!("img/{row}.jpg,{}\n", ["cat", "cat|dog"][row % 2]))
        .collect();
    write(
        &mine,
        "labels.csv",
        format!("path,labels\n{rows}").as_bytes(),
    );
    let (workplace, _) = fetched(&mine, LabelRules::default());
    let ended = workplace.preprocess(settings(), "shards", 1);
    let warnings = ended.preprocessed().warnings;
    assert_eq!(warnings.len(), 3, "one for each split: {warnings:?}");
    insta::assert_snapshot!(warnings[0], @r#"every picture of split train has "cat": it cannot be learned or measured there; bring pictures without it, or name the classes in labels without it"#);
    assert!(ended.text.contains("every picture of split test has"));
}

#[test]
fn negatives_survive_an_export_in_both_layouts() {
    let source = Workplace::new();
    let rows: String = (0..20)
        .map(|row| format!("img/{row}.jpg,{}\n", ["cat", "[]", "dog", ""][row % 4]))
        .collect();
    let mine = set(
        &source,
        20,
        "labels.csv",
        format!("path,labels\n{rows}").as_bytes(),
    );
    let (workplace, summary) = fetched(&mine, LabelRules::default());
    assert_eq!((summary.fetched, summary.remarks.without_label), (15, 5));
    assert_eq!(summary.rejected["no_labels"], 5);
    for layout in ["plain", "kaggle"] {
        let archive = workplace.path(&format!("{layout}.zip"));
        let done = support::program()
            .args(["export", "--layout", layout])
            .arg(workplace.path("dataset"))
            .arg(&archive)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        let (_, again) = fetched(&archive, LabelRules::default());
        assert_eq!(
            (again.fetched, again.remarks.without_label),
            (15, 5),
            "{layout}"
        );
    }
}

#[test]
fn blanks_and_minus_one_follow_the_rules_and_no_column_goes_without_a_word() {
    let source = Workplace::new();
    let text = "Id,Edema,Male,Grade,Empty\n0,1,1,3,\n1,-1,-1,4,\n2,,1,3,\n3,0,-1,3,\n";
    let mine = set(&source, 4, "train.csv", text.as_bytes());
    let with = |uncertain| LabelRules {
        uncertain,
        ..LabelRules::default()
    };
    let (workplace, summary) = fetched(&mine, with(Uncertain::Absent));
    let labels: Vec<String> = labels_of(&workplace).into_values().collect();
    assert_eq!(labels, ["Edema+Male", "", "Male", ""]);
    insta::assert_snapshot!(summary.remarks.notes.join("\n"), @r#"
    labels are the columns "Edema", "Male"
    columns not used: "Grade" (line 2 holds "3"), "Empty" (it is empty)
    blank cells of label columns count as 0 (1 cell)
    -1 counts as 0 in the columns "Male", which have no other
    -1 (uncertain) counts as 0 in the columns "Edema" (1 cell); the source's key uncertain decides
    "#);
    let (workplace, _) = fetched(&mine, with(Uncertain::Present));
    assert_eq!(labels_of(&workplace)["img/1.jpg"], "Edema");
    let (_, summary) = fetched(&mine, with(Uncertain::LeaveOut));
    assert_eq!((summary.fetched, summary.rejected["uncertain"]), (3, 1));
}

#[test]
fn joined_labels_are_split_by_the_key_and_warned_of_without() {
    let source = Workplace::new();
    let text = "image,labels\n0,scab\n1,rust\n2,scab rust\n3,healthy\n";
    let mine = set(&source, 4, "train.csv", text.as_bytes());
    let (workplace, summary) = fetched(&mine, LabelRules::default());
    assert_eq!(labels_of(&workplace)["img/2.jpg"], "scab rust");
    insta::assert_snapshot!(summary.remarks.warnings.join("\n"), @r#"1 label is made of other labels, such as "scab rust" of "scab" and "rust" (1 picture); if " " joins labels, set separator = " " in the job's source"#);
    let by_blank = LabelRules {
        separator: Some(" ".to_owned()),
        ..LabelRules::default()
    };
    let (workplace, summary) = fetched(&mine, by_blank);
    assert_eq!(labels_of(&workplace)["img/2.jpg"], "scab+rust");
    assert!(summary.remarks.warnings.is_empty());
}

#[test]
fn hidden_folders_litter_links_and_pipes_among_class_folders() {
    let workplace = Workplace::new();
    let (mine, elsewhere) = (workplace.path("mine"), workplace.path("elsewhere"));
    for row in 0..4 {
        write(&mine, &format!("cat/{row}.jpg"), &picture(row));
        write(&elsewhere, &format!("{row}.jpg"), &picture(row + 10));
    }
    write(
        &mine,
        "cat/.ipynb_checkpoints/0-checkpoint.jpg",
        &picture(0),
    );
    write(&mine, ".trash/9.jpg", &picture(9));
    write(&mine, "Thumbs.db", b"x");
    write(&mine, "cat/notes.txt", b"x");
    symlink(&elsewhere, mine.join("dog")).unwrap();
    symlink("../cat", mine.join("cat/again")).unwrap();
    symlink(elsewhere.join("3.jpg"), mine.join("cat/linked.jpg")).unwrap();
    mkfifo(&mine.join("cat/pipe.jpg"), Mode::S_IRWXU).unwrap();
    let summary = workplace
        .fetch(folder(&mine, LabelRules::default()))
        .fetched();
    assert_eq!((summary.asked, summary.fetched), (9, 9));
    let labels = labels_of(&workplace);
    assert_eq!(labels["dog/0.jpg"], "dog");
    assert_eq!(labels["cat/linked.jpg"], "cat");
    let passed = summary.remarks.passed_over;
    assert_eq!(
        passed
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect::<Vec<_>>(),
        ["hidden 2", "link_circle 1", "litter 1", "special_file 1"]
    );
    let notes = summary.remarks.notes.join("\n");
    assert!(notes.contains("2 links lead out of the folder"), "{notes}");
    assert!(
        notes.contains("files that are no pictures by their names: 1"),
        "{notes}"
    );

    // A pipe that a table names is a miss, and the source itself is refused; neither is waited for.
    write(
        &mine,
        "labels.csv",
        b"path,labels\ncat/0.jpg,cat\ncat/pipe.jpg,cat\n",
    );
    let summary = Workplace::new();
    let summary = summary
        .fetch(folder(&mine, LabelRules::default()))
        .fetched();
    assert_eq!(summary.rejected["not_a_file"], 1);
    let pipe = mine.join("cat/pipe.jpg");
    for source in [folder(&pipe, LabelRules::default()), list(&pipe)] {
        let message = refused(&workplace, source);
        assert!(message.contains("it is no plain file"), "{message}");
    }
}

#[test]
fn names_match_but_for_accents_and_capitals_and_what_is_missing_is_told_with_the_nearest() {
    let workplace = Workplace::new();
    let mine = workplace.path("mine");
    write(&mine, "img/e\u{301}te\u{301}.JPG", &picture(1));
    write(&mine, "img/a_001.jpg", &picture(2));
    write(
        &mine,
        "labels.csv",
        "path,labels\nimg/\u{e9}t\u{e9}.jpg,cat\nimg/a-001.jpg,dog\n".as_bytes(),
    );
    let summary = workplace
        .fetch(folder(&mine, LabelRules::default()))
        .fetched();
    assert_eq!((summary.fetched, summary.gone), (1, 1));
    insta::assert_snapshot!(summary.remarks.warnings.join("\n"), @r#"1 of 2 pictures of the table are not there, the first is "img/a-001.jpg" in line 3 (the nearest file is "img/a_001.jpg")"#);

    write(
        &mine,
        "labels.csv",
        b"path,labels\nimg/a-001.jpg,cat\nb.jpg,dog\nunlabelled.jpg,\n",
    );
    insta::assert_snapshot!(refused(&workplace, folder(&mine, LabelRules::default())), @r#"
    none of the 3 pictures of the source is usable (2 gone, 1 rejected: no_labels); the first:
      "img/a-001.jpg": there is no such file; the nearest is "img/a_001.jpg"
      "b.jpg": there is no such file
      "unlabelled.jpg": its labels are empty
    "#);

    write(&mine, "masks/a_001.png", &picture(3));
    write(&mine, "labels.csv", b"");
    fs::remove_file(mine.join("labels.csv")).unwrap();
    write(&mine, "train.csv", b"Id,cat\na_001,1\n");
    insta::assert_snapshot!(refused(&workplace, folder(&mine, LabelRules::default())), @r#"
    /w/mine/train.csv cannot be used:
      line 2, column Id: "a_001" fits 2 files: "img/a_001.jpg" and "masks/a_001.png"; write the one that is meant, with its folder and ending
    "#);
}

#[test]
fn tables_of_other_encodings_are_read_or_named_with_the_cure() {
    let source = Workplace::new();
    let text = "path,labels\r\nimg/0.jpg,\u{e9}t\u{e9}\r\nimg/1.jpg,hiver\r\n,,,\r\n";
    let utf16: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    let mine = set(&source, 2, "labels.csv", &utf16);
    let (workplace, _) = fetched(&mine, LabelRules::default());
    assert_eq!(labels_of(&workplace)["img/0.jpg"], "\u{e9}t\u{e9}");
    write(&mine, "labels.csv", b"path,labels\nimg/0.jpg,\xe9t\xe9\nimg/1.jpg,cat\nimg/1.jpg,dog\nimg/1.jpg,cat\nimg/1.jpg,bird\n");
    insta::assert_snapshot!(refused(&source, folder(&mine, LabelRules::default())), @r#"
    /w/mine/labels.csv cannot be used:
      line 2, column labels: is not UTF-8 but looks like ISO-8859-1 or Windows-1252 ("été")
      line 4, column path: "img/1.jpg" stands in line 3 already, with other labels or another group; write all labels of a picture in one row
      line 6, column path: "img/1.jpg" stands in line 3 already, with other labels or another group; write all labels of a picture in one row
    save the file as UTF-8 (in a spreadsheet: "CSV UTF-8"), or convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv
    "#);
    write(
        &mine,
        "labels.csv",
        b"path,labels\nimg/0.jpg,cat\nimg/1.jpg,dog\nimg/0.jpg,cat\n",
    );
    let (_, summary) = fetched(&mine, LabelRules::default());
    assert_eq!((summary.asked, summary.fetched), (2, 2));
    assert_eq!(
        summary.remarks.notes,
        ["1 row is repeated and counted once, the first in lines 2 and 4"]
    );
}

#[test]
fn a_list_names_what_it_does_not_fetch_and_states_zeros_too() {
    let workplace = Workplace::new();
    let mine = set(
        &workplace,
        3,
        "list.csv",
        b"id,url,cat,dog,note\na,img/0.jpg,1,0\nb,img/1.jpg,1,0,x,y\n,img/2.jpg,0,0,x\n",
    );
    insta::assert_snapshot!(refused(&workplace, list(&mine.join("list.csv"))), @r"
    /w/mine/list.csv cannot be used:
      line 2: there are 4 columns, the header has 5; put fields with commas in quotes
      line 3: there are 6 columns, the header has 5; put fields with commas in quotes
      line 4, column id: is empty
    ");
    write(&mine, "list.csv", b"id,url,cat,dog,note\na,img\\0.JPG,1,0,x\nb,img/1.jpg,0,0,y\nc,ftp://h/2.jpg,1,0,\nd,file:///img/2.jpg,1,0,\ne,\"data:image/png;base64,AA\",1,0,\n,,,,\n");
    let summary = workplace.fetch(list(&mine.join("list.csv"))).fetched();
    assert_eq!(
        (
            summary.asked,
            summary.fetched,
            summary.remarks.without_label
        ),
        (5, 2, 1)
    );
    assert_eq!(summary.rejected["odd_url"], 3);
    assert!(summary.remarks.zeros_stated);
    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    assert_eq!(dataset.labels(), ["cat", "dog"]);
    for problem in &dataset.books().problems {
        assert!(
            problem.detail.contains("only http:// and https://"),
            "{problem:?}"
        );
    }
    let found = outcomes(&workplace.path("dataset")).unwrap();
    assert_eq!(found.len(), 5);
}

fn zip_of(target: &Path, files: &[(&str, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(File::create(target).unwrap());
    for (name, bytes) in files {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        archive.start_file(*name, options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

/// Writes `new` over each `old` of the same length.
fn overwrite(file: &Path, old: &[u8], new: &[u8]) {
    let mut bytes = fs::read(file).unwrap();
    let places: Vec<usize> = (0..bytes.len() - old.len())
        .filter(|at| bytes[*at..].starts_with(old))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    fs::write(file, bytes).unwrap();
}

#[test]
fn an_archive_of_windows_is_read_with_its_own_separators_and_without_litter() {
    let workplace = Workplace::new();
    let archive = workplace.path("mine.zip");
    zip_of(
        &archive,
        &[
            (
                "set+labels.csv",
                b"path,labels\nimg\\0.jpg,cat\nimg/1.jpg,dog\n".to_vec(),
            ),
            ("set+img+0.jpg", picture(0)),
            ("set+img+1.jpg", picture(1)),
            ("set+img+.thumb+1.jpg", picture(1)),
            ("__MACOSX+img+._1.jpg", picture(1)),
            ("..+up.jpg", picture(2)),
        ],
    );
    // The writer knows one separator alone.
    for name in [
        "set+labels.csv",
        "set+img+0.jpg",
        "set+img+1.jpg",
        "set+img+.thumb+1.jpg",
        "__MACOSX+img+._1.jpg",
        "..+up.jpg",
    ] {
        overwrite(
            &archive,
            name.as_bytes(),
            name.replace('+', "\\").as_bytes(),
        );
    }
    let summary = workplace
        .fetch(folder(&archive, LabelRules::default()))
        .fetched();
    assert_eq!(summary.fetched, 2);
    assert_eq!(labels_of(&workplace)["img/0.jpg"], "cat");
    let passed = summary.remarks.passed_over;
    assert_eq!(
        (passed["hidden"], passed["litter"], passed["odd_name"]),
        (1, 1, 1)
    );
}

/// Bytes that cannot be packed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u8::try_from(state >> 56).unwrap()
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn archives_that_share_bytes_or_unpack_without_end_are_refused() {
    let workplace = Workplace::new();
    let archive = workplace.path("bomb.zip");
    let rows: String = (0..90).map(|row| format!("{row:02}.jpg,cat\n")).collect();
    let mut files = vec![("labels.csv", format!("path,labels\n{rows}").into_bytes())];
    let names: Vec<String> = (0..90).map(|row| format!("{row:02}.jpg")).collect();
    // 32 MiB of zeros each are 32 KiB in the archive, and 2.8 GiB in all.
    for name in &names {
        files.push((name, vec![0; 32 << 20]));
    }
    zip_of(&archive, &files);
    assert!(fs::metadata(&archive).unwrap().len() < 4 << 20);
    let message = refused(&workplace, folder(&archive, LabelRules::default()));
    insta::assert_snapshot!(message, @"/w/bomb.zip unpacks to more than 1073741824 bytes, 100 times its size: no pictures shrink so much; if it is right, unpack it and give the folder");

    // The second entry of the directory is made to begin where the first one does: the last name in the file is
    // the directory's, and before it stands where the entry begins.
    let archive = workplace.path("shared.zip");
    zip_of(
        &archive,
        &[("cat/a.jpg", noise(5_000)), ("dog/b.jpg", noise(6_000))],
    );
    let mut bytes = fs::read(&archive).unwrap();
    let name = bytes
        .windows(9)
        .rposition(|part| part == b"dog/b.jpg")
        .unwrap();
    bytes[name - 4..name].fill(0);
    fs::write(&archive, &bytes).unwrap();
    let message = refused(&workplace, folder(&archive, LabelRules::default()));
    assert!(message.contains("share bytes"), "{message}");
}

/// Changes the method by which every entry says that it is packed; deflate's number is 8.
fn set_method(archive: &Path, method: u8) {
    let mut bytes = fs::read(archive).unwrap();
    for at in 0..bytes.len() - 12 {
        if bytes[at..].starts_with(b"PK\x03\x04") {
            bytes[at + 8] = method;
        } else if bytes[at..].starts_with(b"PK\x01\x02") {
            bytes[at + 10] = method;
        }
    }
    fs::write(archive, &bytes).unwrap();
}

#[test]
fn archives_packed_with_deflate64_are_read() {
    let workplace = Workplace::new();
    let archive = workplace.path("mine.zip");
    zip_of(
        &archive,
        &[("cat/0.jpg", picture(0)), ("dog/1.jpg", picture(1))],
    );
    // Without far or long repetitions, which small pictures lack, both are the same format.
    set_method(&archive, 9);
    let summary = workplace
        .fetch(folder(&archive, LabelRules::default()))
        .fetched();
    assert_eq!(summary.fetched, 2);
}

#[test]
fn what_cannot_be_unpacked_is_named_with_the_first_reason_and_the_way_out() {
    let workplace = Workplace::new();
    let archive = workplace.path("mine.zip");
    zip_of(
        &archive,
        &[("cat/0.jpg", picture(0)), ("dog/1.jpg", picture(1))],
    );
    set_method(&archive, 14);
    insta::assert_snapshot!(refused(&workplace, folder(&archive, LabelRules::default())), @r#"
    none of the 2 pictures of the source is usable (2 failed: unreadable); the first:
      "cat/0.jpg": it is packed with method 14 (LZMA), which is not read; pack the archive with Deflate (zip -r), or unpack it and give the folder
      "dog/1.jpg": it is packed with method 14 (LZMA), which is not read; pack the archive with Deflate (zip -r), or unpack it and give the folder
    "#);
    for (start, word) in [
        (&b"7z\xbc\xaf\x27\x1c"[..], ".7z"),
        (b"Rar!\x1a\x07\x01", ".rar"),
        (b"\x1f\x8b\x08\0", "gzip"),
    ] {
        fs::write(&archive, start).unwrap();
        let message = refused(&workplace, folder(&archive, LabelRules::default()));
        assert!(
            message.contains(word) && message.contains("pack it as .zip"),
            "{message}"
        );
    }
}
