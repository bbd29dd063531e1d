use super::*;

fn file(path: &str) -> FileEntry {
    FileEntry {
        path: path.into(),
        size_bytes: 3,
        digest: Digest::of(b"abc"),
    }
}

#[test]
fn digest_is_that_of_sha256sum_output() {
    // printf abc > b; printf abc > a; sha256sum a b | sha256sum
    let manifest = Manifest::new(vec![file("b"), file("a")]).unwrap();
    assert_eq!(manifest.files[0].path, "a");
    assert_eq!(
        manifest.digest().as_str(),
        "6e0534855d1d183250459e82c311fb77578cf75019787625a10154399462260d",
    );
}

#[test]
fn a_path_that_could_leave_the_folder_is_refused() {
    for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b"] {
        assert_eq!(
            Manifest::new(vec![file(bad)]),
            Err(InvalidManifest::Path(bad.into()))
        );
    }
    assert!(Manifest::new(vec![file("tensorboard/events")]).is_ok());
}

#[test]
fn more_than_one_message_could_carry_is_refused() {
    use crate::limits::{ARTIFACT_MAX_FILES, ARTIFACT_MAX_PATH_BYTES};
    let many = (0..=ARTIFACT_MAX_FILES).map(|i| file(&format!("{i}")));
    assert_eq!(
        Manifest::new(many.collect()),
        Err(InvalidManifest::TooMany {
            count: ARTIFACT_MAX_FILES + 1
        })
    );
    let long = |index: usize| format!("{index:0255}/{}", "x".repeat(255));
    let fits = ARTIFACT_MAX_PATH_BYTES / 511;
    let paths = |count| (0..count).map(|index| file(&long(index))).collect();
    assert!(Manifest::new(paths(fits)).is_ok());
    assert_eq!(
        Manifest::new(paths(fits + 1)),
        Err(InvalidManifest::PathsTooLong {
            bytes: (fits + 1) * 511
        })
    );
}

#[test]
fn what_no_folder_can_hold_is_refused() {
    let refused = |paths: &[&str]| {
        let files = paths.iter().map(|path| file(path)).collect();
        Manifest::new(files).unwrap_err()
    };
    let clash = |file: &str, beside: &str| InvalidManifest::FileAndFolder {
        file: file.into(),
        beside: beside.into(),
    };
    assert_eq!(refused(&["a", "a/b"]), clash("a", "a/b"));
    assert_eq!(refused(&["a-", "a/b/c", "a", "a0"]), clash("a", "a/b/c"));
    assert_eq!(refused(&["x/y/z", "x/y"]), clash("x/y", "x/y/z"));
    let fine = ["a", "a-b", "a.b", "ab/a", "b/a"].map(file);
    assert!(Manifest::new(fine.into()).is_ok());
    for long in ["x".repeat(256), "x/".repeat(1_600) + "x"] {
        let error = refused(&[&long]);
        assert!(
            matches!(error, InvalidManifest::PathTooLong { .. }),
            "{error}"
        );
        assert!(error.to_string().len() < 200);
    }
}

/// Such a name made the digest of one folder from the files of another.
#[test]
fn no_name_of_a_file_forges_the_digest_of_another_folder() {
    let honest = Manifest::new(vec![file("a"), file("b")]).unwrap();
    let forged = Manifest {
        files: vec![file(&format!("a\n{}  b", Digest::of(b"abc")))],
        ..Manifest::default()
    };
    assert_eq!(forged.digest(), honest.digest());
    let path = forged.files[0].path.clone();
    assert_eq!(forged.check(), Err(InvalidManifest::Control(path)));
    for control in ["a\nb", "a\0b", "\u{1b}[2J", "\u{7f}", "\u{9b}x", "a\r"] {
        assert_eq!(
            Manifest::new(vec![file(control)]),
            Err(InvalidManifest::Control(control.into()))
        );
    }
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    let sized = |path: &str, size_bytes| FileEntry {
        path: path.into(),
        size_bytes,
        digest: Digest::of(path.as_bytes()),
    };
    let too_large = |path: &str| InvalidManifest::TooLarge { path: path.into() };
    for (sizes, wanted) in [
        ([u64::MAX, 0], "a"),
        ([1 << 63, 1 << 63], "a"),
        ([1, u64::MAX], "b"),
        ([ARTIFACT_MAX_BYTES, 1], "b"),
    ] {
        let files = vec![sized("a", sizes[0]), sized("b", sizes[1])];
        assert_eq!(Manifest::new(files.clone()), Err(too_large(wanted)));
        // As it may be stored: nothing that reads it overflows.
        assert!(
            Manifest {
                files,
                ..Manifest::default()
            }
            .size_bytes()
                >= 1
        );
    }
    let fits = vec![sized("a", ARTIFACT_MAX_BYTES - 1), sized("b", 1)];
    assert_eq!(
        Manifest::new(fits).unwrap().size_bytes(),
        ARTIFACT_MAX_BYTES
    );
    let same = |path: &str, size_bytes| FileEntry {
        size_bytes,
        ..file(path)
    };
    assert_eq!(
        Manifest::new(vec![same("a", 3), same("b", 4)]),
        Err(InvalidManifest::TwoSizes("b".into(), 3, 4))
    );
}

#[test]
fn a_path_stands_once() {
    let twice = Manifest::new(vec![file("a"), file("a")]);
    assert_eq!(twice, Err(InvalidManifest::Duplicate("a".into())));
}

#[test]
fn what_may_be_executed_and_empty_folders_change_the_digest_and_nothing_else_does() {
    let files = || vec![file("run.sh"), file("weights")];
    let plain = Manifest::new(files()).unwrap();
    let with = |executables: &[&str], folders: &[&str]| {
        let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        Manifest::with_modes(files(), owned(executables), owned(folders))
    };
    let same = with(&[], &[]).unwrap();
    assert_eq!((same.version(), same.digest()), (1, plain.digest()));
    assert_eq!(
        serde_json::to_string(&same).unwrap(),
        serde_json::to_string(&plain).unwrap()
    );
    let mut digests = vec![
        plain.digest(),
        with(&["run.sh"], &[]).unwrap().digest(),
        with(&["weights"], &[]).unwrap().digest(),
        with(&[], &["logs"]).unwrap().digest(),
        with(&["run.sh"], &["logs"]).unwrap().digest(),
    ];
    let both = with(&["run.sh", "run.sh"], &["logs/b", "logs/a"]).unwrap();
    assert!(both.is_executable("run.sh") && !both.is_executable("weights"));
    let read: Manifest = serde_json::from_str(&serde_json::to_string(&both).unwrap()).unwrap();
    assert_eq!((read.version(), read.digest()), (2, both.digest()));
    digests.push(both.digest());
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 6);
    assert_eq!(
        with(&["gone"], &[]),
        Err(InvalidManifest::NoSuchExecutable("gone".into()))
    );
    for (bad, named) in [
        (vec!["run.sh"], "run.sh"),
        (vec!["run.sh/x"], "run.sh"),
        (vec!["a", "a-b", "a/b"], "a"),
        (vec!["a", "a"], "a"),
    ] {
        assert_eq!(
            with(&[], &bad),
            Err(InvalidManifest::NotEmpty(named.into()))
        );
    }
    assert_eq!(
        with(&[], &["../a"]),
        Err(InvalidManifest::Path("../a".into()))
    );
}

#[test]
fn a_manifest_that_an_older_version_stored_is_read() {
    let stored = format!(
        r#"{{"files":[{{"path":"a","size_bytes":3,"digest":"{}"}}]}}"#,
        Digest::of(b"abc")
    );
    let manifest: Manifest = serde_json::from_str(&stored).unwrap();
    assert_eq!(manifest, Manifest::new(vec![file("a")]).unwrap());
}

/// What is stored is searched and digested as it stands. Found by the fuzzer.
#[test]
fn a_stored_manifest_out_of_order_is_refused() {
    let entry = |path: &str| FileEntry {
        path: path.into(),
        size_bytes: 1,
        digest: Digest::of(path.as_bytes()),
    };
    let files = vec![entry("a"), entry("b")];
    let good = Manifest::with_modes(
        files,
        vec!["a".into(), "b".into()],
        vec!["c".into(), "d".into()],
    );
    let good = good.unwrap();
    let mut turned = [good.clone(), good.clone(), good.clone(), good.clone()];
    turned[0].files.reverse();
    turned[1].executables.reverse();
    turned[2].empty_folders.reverse();
    turned[3].executables.push("b".into());
    assert_eq!(good.check(), Ok(()));
    for turned in turned {
        assert_eq!(
            turned.check(),
            Err(InvalidManifest::Disordered),
            "{turned:?}"
        );
    }
}
