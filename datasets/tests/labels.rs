//! What tables of strangers say of their pictures, through fetch and preprocess.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use std::collections::BTreeMap;
use std::path::Path;

use marquee_datasets::dataset::{Dataset, outcomes};
use marquee_datasets::shards::ShardSet;
use marquee_domain::report::FetchSummary;
use marquee_domain::spec::{LabelRules, PreprocessSettings, Uncertain, Unlabelled};

use crate::support::own::{folder, labels_of, list, picture, refused, write};
use crate::support::{Workplace, settings};

/// A folder with `count` pictures `img/N.jpg` and this table.
fn set(workplace: &Workplace, count: usize, table: &str, text: &[u8]) -> std::path::PathBuf {
    let mine = workplace.path("mine");
    for row in 0..count {
        write(&mine, &format!("img/{row}.jpg"), &picture(row));
    }
    write(&mine, table, text);
    mine
}

fn fetched(mine: &Path, rules: LabelRules) -> (Workplace, FetchSummary) {
    let workplace = Workplace::new();
    let summary = workplace.fetch(folder(mine, rules)).fetched();
    (workplace, summary)
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
