use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// Puts a file where it lies by its digest.
fn put(root: &Path, contents: &[u8]) -> Digest {
    let digest = Digest::of(contents);
    let path = path_of(root, &digest);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
    digest
}

/// A folder with a finished backup of these files.
fn made(folder: &Path, contents: &[&[u8]]) -> Manifest {
    let digests: Vec<Digest> = contents
        .iter()
        .map(|contents| put(&folder.join(ARTIFACTS), contents))
        .collect();
    let dump = folder.join("database-1-1.dump");
    fs::write(&dump, "a dump").unwrap();
    let files = Files::write(folder, "files-1.txt", digests.iter()).unwrap();
    let dump = Dump::of(&dump).unwrap();
    let manifest = Manifest::new(
        (Uuid::from_u128(1), None),
        (now(), "1.2.3"),
        dump,
        files,
        Vec::new(),
    );
    manifest.write(folder).unwrap();
    manifest
}

#[test]
fn files_are_copied_once_and_what_is_missing_or_damaged_is_told() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = put(from.path(), b"whole");
    let empty = put(from.path(), b"");
    let damaged = put(from.path(), b"damaged");
    fs::write(path_of(from.path(), &damaged), "something else").unwrap();
    let missing = Digest::of(b"was removed");
    let all = [
        whole.clone(),
        empty.clone(),
        damaged.clone(),
        missing.clone(),
    ];
    let done = copy_files(from.path(), to.path(), &all).unwrap();
    assert_eq!(done.copied, 2);
    let absent: Vec<(&Digest, &str)> = done
        .absent
        .iter()
        .map(|one| (&one.digest, one.why.as_str()))
        .collect();
    assert_eq!(absent, [(&damaged, "damaged"), (&missing, "missing")]);
    assert_eq!(fs::read(path_of(to.path(), &whole)).unwrap(), b"whole");
    assert!(
        !path_of(to.path(), &damaged).exists(),
        "no half of it is left"
    );
    let again = copy_files(from.path(), to.path(), &all[..2]).unwrap();
    assert_eq!((again.copied, again.absent.len()), (0, 0));
    let nothing = copy_files(from.path(), to.path(), &[]).unwrap();
    assert_eq!((nothing.copied, nothing.absent.len()), (0, 0));
}

#[test]
fn a_folder_that_cannot_be_written_is_named_and_no_file_is_said_to_be_missing_for_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = put(from.path(), b"whole");
    // Where its folder should be stands a file.
    let place = path_of(to.path(), &whole);
    fs::write(place.parent().unwrap(), "in the way").unwrap();
    let error = copy_files(from.path(), to.path(), &[whole])
        .map(|_| ())
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("could not create"),
        "{error:#}"
    );
}

#[test]
fn what_a_backup_came_to_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let backup = Backup {
        manifest: made(folder.path(), &[b"one", b"three"]),
        copied: 1,
    };
    assert_eq!(
        backup.text(Path::new("/backups/a")),
        "backed up to /backups/a: a database of 6 bytes and 2 files of 8 bytes, 1 of which were copied now\n"
    );
    assert_eq!(
        backup.manifest.text(),
        "backup of cluster 00000000-0000-0000-0000-000000000001 from 2027-01-15 08:00:00 UTC: 2 files, all as the manifest says; "
    );
}
