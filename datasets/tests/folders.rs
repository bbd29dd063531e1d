//! Folders and archives as strangers have them: litter, links, pipes, odd names, and archives that are made
//! to harm.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use marquee_domain::spec::LabelRules;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use crate::support::Workplace;
use crate::support::own::{folder, labels_of, list, picture, refused, write};

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
