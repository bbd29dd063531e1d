use std::io::Write as _;

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

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn what_no_manifest_names_goes_and_what_is_not_ours_stays() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let manifest = made(root, &[b"one", b"two"]);
    let old = put(&root.join(ARTIFACTS), b"of an earlier backup");
    fs::write(root.join("database-0-3.dump"), "old").unwrap();
    fs::write(root.join("files-0.txt"), "old").unwrap();
    fs::write(root.join("notes.txt"), "mine").unwrap();
    fs::write(root.join("database-of-films.dump"), "mine").unwrap();
    // A file manager leaves things everywhere; none of it may end a backup.
    fs::write(root.join(ARTIFACTS).join(".DS_Store"), "x").unwrap();
    fs::create_dir_all(root.join(ARTIFACTS).join("ab/folder")).unwrap();
    tidy(root, &manifest).unwrap();
    assert!(!path_of(&root.join(ARTIFACTS), &old).exists());
    let left = names(root);
    let expected = [
        "artifacts",
        "database-1-1.dump",
        "database-of-films.dump",
        "files-1.txt",
        "manifest.json",
        "notes.txt",
    ];
    assert_eq!(left, expected.map(str::to_owned).into());
    manifest.verify(root).unwrap();
    tidy(root, &manifest).unwrap();
}

#[test]
fn a_cluster_without_artifacts_is_backed_up_too() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = made(folder.path(), &[]);
    assert!(!folder.path().join(ARTIFACTS).exists());
    tidy(folder.path(), &manifest).unwrap();
    assert_eq!(manifest.verify(folder.path()).unwrap(), []);
    assert_eq!(manifest.files.count, 0);
}

#[test]
fn two_backups_at_once_do_not_write_to_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let lock = take(folder.path()).unwrap();
    let error = take(folder.path()).unwrap_err().to_string();
    assert!(error.contains("another backup is being written"), "{error}");
    drop(lock);
    take(folder.path()).unwrap();
    assert!(take(&folder.path().join("nowhere")).is_err());
}

#[test]
fn what_a_try_left_goes_at_its_end_and_after_a_kill_at_the_next_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let leave = || {
        let name = dump_name(now(), 2);
        for name in [name.as_str(), "database-Xy3k1a.partial", "files-7.txt"] {
            fs::write(root.join(name), "of no manifest").unwrap();
        }
    };
    let lock: BTreeSet<String> = ["backup.lock".to_owned()].into();
    // A first backup that never came to a manifest.
    let taken = take(root).unwrap();
    leave();
    drop(taken);
    assert_eq!(names(root), lock);
    // Killed: nobody drops anything.
    leave();
    let taken = take(root).unwrap();
    assert_eq!(names(root), lock);
    // One that stands keeps what is its own.
    let manifest = made(root, &[b"one"]);
    leave();
    drop(taken);
    manifest.verify(root).unwrap();
    assert_eq!(names(root).len(), 5, "{:?}", names(root));
    // Of a manifest that cannot be read nobody knows what it names.
    fs::write(root.join("manifest.json"), "{").unwrap();
    drop(take(root).unwrap());
    assert!(root.join(&manifest.dump.file).exists());
}

#[test]
fn a_manifest_that_cannot_be_written_leaves_nothing_beside_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let manifest = made(root, &[b"one"]);
    // In the place of the file that is written first there is a folder with something in it.
    let aside = root.join(".files-2.txt.new");
    fs::create_dir_all(aside.join("x")).unwrap();
    Files::write(root, "files-2.txt", std::iter::empty()).unwrap_err();
    // Written, and then it cannot take the place that it is for.
    fs::create_dir_all(root.join("files-3.txt/x")).unwrap();
    Files::write(root, "files-3.txt", std::iter::empty()).unwrap_err();
    assert!(!root.join(".files-3.txt.new").exists());
    manifest.verify(root).unwrap();
}

#[test]
fn a_backup_is_for_whoever_makes_it_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b");
    private_folder(&deep).unwrap();
    let mode = fs::metadata(&deep).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    private_folder(&deep).unwrap();
}

#[test]
fn what_is_hashed_is_what_was_written_however_little_at_a_time() {
    /// Takes one byte at a time, as a slow disk may.
    struct Slow(Vec<u8>);
    impl io::Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(bytes.first());
            Ok(bytes.len().min(1))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hashed = Hashed::new(Slow(Vec::new()));
    hashed.write_all(b"some bytes").unwrap();
    hashed.flush().unwrap();
    let (written, digest) = hashed.finish();
    assert_eq!(written.0, b"some bytes");
    assert_eq!(digest, Digest::of(b"some bytes"));
}

#[test]
fn a_folder_of_another_cluster_is_refused_and_ones_own_and_an_empty_one_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    is_free_for(folder.path(), other).unwrap();
    made(folder.path(), &[b"one"]);
    is_free_for(folder.path(), ours).unwrap();
    let error = is_free_for(folder.path(), other).unwrap_err().to_string();
    assert!(
        error.contains("another cluster") && error.contains("name another folder"),
        "{error}"
    );
    // What cannot be read may be worth more than the next backup: it is not written over.
    fs::write(folder.path().join("manifest.json"), "{").unwrap();
    assert!(is_free_for(folder.path(), ours).is_err());
}
