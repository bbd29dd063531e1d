//! Shards as files: what is written is read back, and what was damaged is refused by name.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use marquee_datasets::shards::{Check, ShardIndex, ShardLayout, ShardSet, ShardWriter};
use marquee_datasets::thumbnail::jpeg_of;
use marquee_domain::report::SourceNote;
use marquee_domain::spec::ImageEncoding;

const WIDTH: u32 = 5;
const HEIGHT: u32 = 7;
const PIXELS: usize = 5 * 7 * 3;
const ROWS: usize = 600;

fn layout(encoding: ImageEncoding) -> ShardLayout {
    ShardLayout {
        width: WIDTH,
        height: HEIGHT,
        encoding,
        classes: vec!["Drama".into(), "Western".into()],
        source: SourceNote {
            synthetic: true,
            attribution: None,
            f1_micro_ceiling: Some(0.83),
            ..SourceNote::default()
        },
        seed: 7,
        // One batch of 256 rows is above it, so that each becomes a file.
        notes: BTreeMap::new(),
        shard_bytes: 1_000,
    }
}

fn pixels_of(row: usize) -> Vec<u8> {
    (0..PIXELS)
        .map(|at| u8::try_from((row * 31 + at * 7) % 251).unwrap())
        .collect()
}

fn labels_of(row: usize) -> [u8; 2] {
    [
        u8::from(row.is_multiple_of(2)),
        u8::from(row.is_multiple_of(3)),
    ]
}

fn write_set(dir: &Path, encoding: ImageEncoding) -> ShardIndex {
    let mut writer = ShardWriter::create(dir, layout(encoding)).unwrap();
    for row in 0..ROWS {
        let pixels = pixels_of(row);
        let image = match encoding {
            ImageEncoding::Raw => pixels,
            ImageEncoding::Jpeg | ImageEncoding::Original => jpeg_of(&pixels, WIDTH, HEIGHT, 90),
        };
        let split = if row.is_multiple_of(10) {
            "test"
        } else {
            "train"
        };
        writer
            .push(split, &format!("film-{row}"), &labels_of(row), &image)
            .unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn raw_rows_come_back_as_they_were_over_all_files_of_a_split() {
    let dir = tempfile::tempdir().unwrap();
    let index = write_set(dir.path(), ImageEncoding::Raw);
    let set = ShardSet::open(dir.path()).unwrap();
    assert_eq!(set.index(), &index);
    assert_eq!(index.splits["train"].len(), 3);
    assert_eq!(set.split("train").unwrap().len(), 540);
    assert_eq!(set.split("test").unwrap().len(), 60);
    assert!(set.split("validation").is_none());

    let mut out = vec![0; PIXELS];
    for (at, row) in (0..ROWS).filter(|row| !row.is_multiple_of(10)).enumerate() {
        let split = set.split("train").unwrap();
        let got = split.row(at).unwrap();
        assert_eq!(got.id, format!("film-{row}"));
        assert_eq!(got.labels, labels_of(row));
        assert_eq!(got.image, pixels_of(row));
        split.pixels_into(at, &mut out).unwrap();
        assert_eq!(out, pixels_of(row));
    }
}

/// Where the file is mapped in this process.
fn mapped_at(file: &Path) -> Vec<std::ops::Range<usize>> {
    let name = fs::canonicalize(file).unwrap().display().to_string();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.ends_with(&name));
    lines
        .map(|line| {
            let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            usize::from_str_radix(from, 16).unwrap()..usize::from_str_radix(to, 16).unwrap()
        })
        .collect()
}

#[test]
fn rows_are_never_copied_their_bytes_lie_where_the_file_is_mapped() {
    for encoding in [ImageEncoding::Raw, ImageEncoding::Jpeg] {
        let dir = tempfile::tempdir().unwrap();
        let index = write_set(dir.path(), encoding);
        let set = ShardSet::open_with(dir.path(), Check::Layout).unwrap();
        let mut row = 0;
        for file in &index.splits["train"] {
            let places = mapped_at(&dir.path().join(&file.file));
            for _ in 0..file.rows {
                let found = set.split("train").unwrap().row(row).unwrap();
                for bytes in [found.image, found.labels, found.id.as_bytes()] {
                    let (from, to) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
                    let lies = places
                        .iter()
                        .any(|place| place.start <= from && to <= place.end);
                    assert!(lies, "row {row} of {}", file.file);
                }
                row += 1;
            }
        }
        assert_eq!(row, 540);
    }
}

/// Bytes that this process has had read from disks so far.
fn read_from_disk() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find(|line| line.starts_with("read_bytes:"));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn what_will_be_needed_is_read_before_it_is_touched_and_nothing_else() {
    // Beside the checkout: a folder for temporary files may be memory, which nothing is read from.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let large = ShardLayout {
        width: 64,
        height: 64,
        shard_bytes: 1 << 30,
        ..layout(ImageEncoding::Raw)
    };
    let picture_bytes = 64 * 64 * 3;
    let mut writer = ShardWriter::create(dir.path(), large).unwrap();
    for row in 0..1_024 {
        let image = vec![7; picture_bytes];
        writer
            .push("train", &row.to_string(), &[1, 0], &image)
            .unwrap();
    }
    writer.finish().unwrap();
    let set = ShardSet::open_with(dir.path(), Check::Layout).unwrap();
    // Opening reads around what it looks at, on some systems megabytes.
    let shard = fs::File::open(dir.path().join("train-00000.arrow")).unwrap();
    nix::fcntl::posix_fadvise(
        &shard,
        0,
        0,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )
    .unwrap();
    let split = set.split("train").unwrap();
    let before = read_from_disk();
    let rows: Vec<usize> = (512..768).collect();
    split.will_need(&rows);
    let read = read_from_disk() - before;
    let asked = (rows.len() * picture_bytes) as u64;
    if read == 0 {
        eprintln!("skipped: the target folder is kept in memory");
        return;
    }
    assert!(
        (asked * 9 / 10..asked * 3 / 2).contains(&read),
        "{read} bytes for {asked}"
    );

    let before = read_from_disk();
    let mut out = vec![0; picture_bytes];
    for row in rows {
        split.pixels_into(row, &mut out).unwrap();
    }
    let read = read_from_disk() - before;
    assert!(
        read < asked / 10,
        "{read} bytes were read when they were touched"
    );
    // Rows that are not there, or in any order, harm nothing.
    split.will_need(&[3, 1, 1, 5_000]);
}

#[test]
fn jpeg_rows_are_decoded_to_about_the_same_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), layout(ImageEncoding::Jpeg)).unwrap();
    let flat: Vec<u8> = [200, 100, 50].repeat(PIXELS / 3);
    writer
        .push("train", "flat", &[1, 0], &jpeg_of(&flat, WIDTH, HEIGHT, 90))
        .unwrap();
    writer.finish().unwrap();

    let set = ShardSet::open(dir.path()).unwrap();
    let mut out = vec![0; PIXELS];
    set.split("train")
        .unwrap()
        .pixels_into(0, &mut out)
        .unwrap();
    assert!(
        out.iter()
            .zip(&flat)
            .all(|(got, want)| got.abs_diff(*want) <= 4),
        "{out:?}"
    );
}

#[test]
fn a_row_or_a_buffer_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), ImageEncoding::Raw);
    let set = ShardSet::open(dir.path()).unwrap();
    let split = set.split("test").unwrap();
    insta::assert_snapshot!(split.row(60).unwrap_err(), @r#"split "test" has 60 rows, so there is no row 60"#);
    insta::assert_snapshot!(
        split.pixels_into(0, &mut [0; 4]).unwrap_err(),
        @"a picture takes 105 bytes, but the buffer has 4"
    );
    let mut writer = ShardWriter::create(dir.path(), layout(ImageEncoding::Raw)).unwrap();
    insta::assert_snapshot!(
        writer.push("train", "x", &[1], &pixels_of(0)).unwrap_err(),
        @r#"row "x" cannot be written: labels must be 2 bytes of 0 or 1"#
    );
}

#[test]
fn every_flipped_byte_is_noticed_and_the_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), ImageEncoding::Raw);
    let shard = dir.path().join("train-00001.arrow");
    let good = fs::read(&shard).unwrap();
    for at in (0..good.len()).step_by(997) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&shard, &bad).unwrap();
        let error = ShardSet::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("train-00001.arrow is torn or altered"),
            "{error}"
        );
    }
}

#[test]
fn a_torn_shard_is_refused_at_every_length_even_without_digests() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), ImageEncoding::Raw);
    let shard = dir.path().join("test-00000.arrow");
    let good = fs::read(&shard).unwrap();
    for length in (0..good.len()).step_by(101).chain([good.len() - 1]) {
        fs::write(&shard, &good[..length]).unwrap();
        for check in [Check::Layout, Check::Digests] {
            let error = ShardSet::open_with(dir.path(), check)
                .unwrap_err()
                .to_string();
            assert!(error.contains("test-00000.arrow"), "{error}");
        }
    }
}

#[test]
fn a_shard_of_another_set_is_refused_even_without_digests() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_set(one.path(), ImageEncoding::Raw);
    let mut writer = ShardWriter::create(
        other.path(),
        ShardLayout {
            classes: vec!["Drama".into(), "War".into()],
            ..layout(ImageEncoding::Raw)
        },
    )
    .unwrap();
    writer.push("test", "x", &[1, 0], &pixels_of(0)).unwrap();
    writer.finish().unwrap();
    fs::copy(
        other.path().join("test-00000.arrow"),
        one.path().join("test-00000.arrow"),
    )
    .unwrap();
    let error = ShardSet::open_with(one.path(), Check::Layout)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("test-00000.arrow") && error.contains("marquee.classes"),
        "{error}"
    );
}

#[test]
fn a_folder_without_its_index_is_no_shards_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(dir.path(), layout(ImageEncoding::Raw)).unwrap();
    writer.push("train", "x", &[1, 0], &pixels_of(0)).unwrap();
    drop(writer);
    let error = ShardSet::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("shards.json"), "{error}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing half-written may stay"
    );
}
