use super::*;

/// A folder with a backup of one file, and where that lies.
fn made() -> (tempfile::TempDir, Manifest, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let digest = Digest::of(b"one");
    let path = path_of(&root.join(ARTIFACTS), &digest);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "one").unwrap();
    let dump = root.join("database-1-1.dump");
    fs::write(&dump, "a dump").unwrap();
    let files = Files::write(root, "files-1.txt", [digest].iter()).unwrap();
    let storage = Some(Uuid::from_u128(2));
    let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let absent = vec![Absent::new(&Digest::of(b"gone"), "missing")];
    let dump = Dump::of(&dump).unwrap();
    let manifest = Manifest::new(
        (Uuid::from_u128(1), storage),
        (at, "1.2.3"),
        dump,
        files,
        absent,
    );
    manifest.write(root).unwrap();
    (folder, manifest, path)
}

fn refused(folder: &Path) -> String {
    let read = Manifest::read(folder).and_then(|manifest| manifest.verify(folder));
    format!("{:#}", read.map(|_| ()).unwrap_err())
}

/// The manifest in a folder with this change.
fn change(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join(FILE);
    let mut value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_manifest_comes_back_as_it_was_written() {
    let (folder, manifest, _) = made();
    let read = Manifest::read(folder.path()).unwrap();
    assert_eq!(read.cluster_id, manifest.cluster_id);
    assert_eq!(read.storage_id, Some(Uuid::from_u128(2)));
    assert_eq!(
        (read.made_at, read.version),
        (manifest.made_at, manifest.version)
    );
    assert_eq!(
        (read.dump.bytes, read.files.count, read.files.bytes),
        (6, 1, 3)
    );
    assert_eq!(read.absent[0].why, "missing");
    let read = Manifest::read(folder.path()).unwrap();
    assert_eq!(read.verify(folder.path()).unwrap(), [Digest::of(b"one")]);
    // Written aside first: nothing of that is left.
    assert!(!folder.path().join(".manifest.json.new").exists());
}

#[test]
fn a_folder_without_a_finished_backup_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path());
    assert!(error.contains("holds no finished backup"), "{error}");
    for garbage in [
        "",
        "{",
        "[]",
        "{\"format\": \"one\"}",
        "{\"format\": 1}",
        "null",
    ] {
        fs::write(folder.path().join(FILE), garbage).unwrap();
        let error = refused(folder.path());
        assert!(
            error.contains("is no manifest of a backup"),
            "{garbage}: {error}"
        );
    }
}

#[test]
fn a_newer_layout_is_named_whatever_else_has_changed_in_it() {
    let (folder, ..) = made();
    change(folder.path(), |manifest| manifest["format"] = 2.into());
    let error = refused(folder.path());
    assert!(
        error.contains("in a form that this one does not know"),
        "{error}"
    );
    // With all other keys gone or of another kind it is not taken for garbage.
    let newer = r#"{ "format": 9, "version": "4.1.0", "dump": ["a", "b"] }"#;
    fs::write(folder.path().join(FILE), newer).unwrap();
    let error = refused(folder.path());
    assert!(error.contains("marquee-coordinator 4.1.0"), "{error}");
    // More keys of this very layout are passed over.
    let (folder, ..) = made();
    change(folder.path(), |manifest| manifest["note"] = "later".into());
    assert!(Manifest::read(folder.path()).is_ok());
}

#[test]
fn a_name_that_leads_out_of_the_folder_is_refused() {
    let (outside, ..) = made();
    let secret = outside.path().join("database-1-1.dump");
    for name in [
        "../database-1-1.dump",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        secret.to_str().unwrap(),
    ] {
        for part in ["dump", "files"] {
            let (folder, ..) = made();
            change(folder.path(), |manifest| {
                manifest[part]["file"] = name.into()
            });
            let error = refused(folder.path());
            assert!(
                error.contains("no file of this folder"),
                "{name:?}: {error}"
            );
        }
    }
}

#[test]
fn whatever_was_changed_since_is_found_before_anything_is_restored() {
    let (folder, ..) = made();
    fs::write(folder.path().join("database-1-1.dump"), "A dump").unwrap();
    assert!(refused(folder.path()).contains("is not what the manifest says"));

    let (folder, ..) = made();
    let list = folder.path().join("files-1.txt");
    fs::write(&list, format!("{}\n", Digest::of(b"two"))).unwrap();
    assert!(refused(folder.path()).contains("files-1.txt"));

    let (folder, ..) = made();
    fs::remove_file(folder.path().join("files-1.txt")).unwrap();
    assert!(refused(folder.path()).contains("could not read"));

    let (folder, _, path) = made();
    fs::write(&path, "One").unwrap();
    assert!(refused(folder.path()).contains("is damaged"));

    let (folder, _, path) = made();
    fs::remove_file(&path).unwrap();
    assert!(refused(folder.path()).contains("could not read"));
}

#[test]
fn a_list_that_holds_no_digests_names_the_line() {
    let (folder, manifest, _) = made();
    for odd in ["no digest", "../../etc/passwd", "ABCDEF", &"0".repeat(63)] {
        fs::write(folder.path().join("files-1.txt"), format!("{odd}\n")).unwrap();
        let error = format!("{:#}", manifest.files.read(folder.path()).unwrap_err());
        assert!(error.contains("files-1.txt"), "{error}");
    }
    fs::write(folder.path().join("files-1.txt"), "").unwrap();
    assert_eq!(manifest.files.read(folder.path()).unwrap(), []);
}

#[test]
fn a_file_that_is_to_be_listed_and_is_not_there_ends_the_backup() {
    let folder = tempfile::tempdir().unwrap();
    let missing = [Digest::of(b"never copied")];
    let error = Files::write(folder.path(), "files-1.txt", missing.iter()).unwrap_err();
    assert!(
        format!("{error:#}").contains("could not look at"),
        "{error:#}"
    );
    assert!(!folder.path().join("files-1.txt").exists());
}
