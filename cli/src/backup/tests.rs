use std::sync::atomic::AtomicU32;

use marquee_proto::error::ErrorCode;
use marquee_proto::v1::{
    DownloadBlobRequest, DownloadBlobResponse, MomentFile, MomentFiles, MomentHead, MomentPart,
    TakeMomentRequest,
};
use prost::Message as _;

use super::*;
use crate::context::Place;
use crate::tests::wire::{Answer, Wire};

const CLUSTER: Uuid = Uuid::from_u128(7);

fn head(cluster: Uuid) -> Part {
    Part::Head(MomentHead {
        cluster_id: cluster.to_string(),
        storage_id: Uuid::from_u128(8).to_string(),
        version: "9.9.9".into(),
        database_bytes: 1_000_000,
    })
}

fn files(contents: &[&[u8]]) -> Part {
    let files = contents.iter().map(|contents| MomentFile {
        digest: Digest::of(contents).to_string(),
        size_bytes: contents.len() as u64,
    });
    Part::Files(MomentFiles {
        files: files.collect(),
    })
}

fn end(dump: &[u8]) -> Part {
    Part::End(MomentEnd {
        dump_bytes: dump.len() as u64,
        dump_sha256: Digest::of(dump).to_string(),
    })
}

fn wired(parts: Vec<Part>) -> Vec<Vec<u8>> {
    let message = |part| MomentPart { part: Some(part) }.encode_to_vec();
    parts.into_iter().map(message).collect()
}

/// A whole moment with these files.
fn whole(contents: &[&[u8]]) -> Vec<Vec<u8>> {
    let (one, two) = (b"a du".to_vec(), b"mp".to_vec());
    wired(vec![
        head(CLUSTER),
        files(contents),
        // Two pipelines may name the same one.
        files(contents),
        Part::Dump(one.into()),
        Part::Dump(two.into()),
        end(b"a dump"),
    ])
}

/// The file of these contents, one byte at a time.
fn served(contents: &[&[u8]], request: &[u8]) -> Answer {
    let asked = DownloadBlobRequest::decode(request).unwrap();
    let found = contents
        .iter()
        .find(|contents| Digest::of(contents).to_string() == asked.digest);
    let Some(found) = found else {
        return Err(ErrorCode::BlobNotFound.status("there is no blob"));
    };
    let rest = &found[usize::try_from(asked.offset).unwrap()..];
    let chunk = |bytes: &[u8]| {
        let chunk = bytes.to_vec().into();
        DownloadBlobResponse { chunk }.encode_to_vec()
    };
    Ok(rest.chunks(1).map(chunk).collect())
}

fn remote(wire: &Wire) -> Remote {
    Remote::new(Place::local(&wire.addr.to_string())).unwrap()
}

async fn made(wire: &Wire, folder: &Path) -> Result<Made> {
    make(&remote(wire), folder, &Arc::default()).await
}

/// What lies directly in the folder, but for the lock.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "backup.lock").collect();
    names.sort();
    names
}

/// A coordinator at rest with these files.
async fn at_rest(contents: &'static [&'static [u8]]) -> Wire {
    Wire::start(move |path, request| match path {
        "Backups/TakeMoment" => Ok(whole(contents)),
        _ => served(contents, request),
    })
    .await
}

#[tokio::test]
async fn a_backup_is_whole_and_the_second_one_fetches_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("not/there/yet");
    let first = made(&at_rest(&[b"one", b""]).await, &to).await.unwrap();
    assert_eq!((first.copied, first.copied_bytes), (2, 3));
    let read = Manifest::read(&to).unwrap();
    assert_eq!(read.verify(&to).unwrap().len(), 2);
    assert_eq!(read.cluster_id, CLUSTER);
    assert_eq!(read.storage_id, Some(Uuid::from_u128(8)));
    assert_eq!(read.version, "9.9.9", "of who dumped it, and not ours");
    assert_eq!(std::fs::read(to.join(&read.dump.file)).unwrap(), b"a dump");

    let wire = at_rest(&[b"", b"three"]).await;
    let second = made(&wire, &to).await.unwrap();
    assert_eq!((second.copied, second.copied_bytes), (1, 5));
    let asked = wire.heard();
    let files = asked
        .iter()
        .filter(|(path, _)| path == "Artifacts/DownloadBlob");
    assert_eq!(files.count(), 1);
    let read = Manifest::read(&to).unwrap();
    assert_eq!(read.verify(&to).unwrap().len(), 2);
    assert!(
        !path_of(&to.join(ARTIFACTS), &Digest::of(b"one")).exists(),
        "what nothing names any more went"
    );
    let left = names(&to);
    assert_eq!(left.len(), 4, "artifacts, dump, list, manifest: {left:?}");
}

#[tokio::test]
async fn whatever_is_wrong_with_a_moment_the_backup_of_before_stands_and_nothing_of_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path();
    made(&at_rest(&[b"one"]).await, to).await.unwrap();
    let before = names(to);
    let dump = || Part::Dump(b"another".to_vec().into());
    let wrong_end = |bytes, sha256: &str| {
        Part::End(MomentEnd {
            dump_bytes: bytes,
            dump_sha256: sha256.into(),
        })
    };
    let huge = Part::Files(MomentFiles {
        files: vec![MomentFile {
            digest: Digest::of(b"huge").to_string(),
            size_bytes: u64::MAX / 2,
        }],
    });
    let no_file = Part::Files(MomentFiles {
        files: vec![MomentFile {
            digest: "../../etc/passwd".into(),
            size_bytes: 1,
        }],
    });
    let cases = [
        ("no end", wired(vec![head(CLUSTER), dump()]), "cut off"),
        ("nothing", vec![], "cut off"),
        ("no dump", wired(vec![head(CLUSTER), end(b"")]), "no dump"),
        (
            "less than was sent",
            wired(vec![head(CLUSTER), dump(), wrong_end(8, "")]),
            "7 of 8 bytes",
        ),
        (
            "other bytes",
            wired(vec![head(CLUSTER), dump(), end(b"anothet")]),
            "arrived damaged",
        ),
        (
            "another cluster",
            wired(vec![head(Uuid::from_u128(9)), dump(), end(b"another")]),
            "another cluster",
        ),
        (
            "no room",
            wired(vec![head(CLUSTER), huge, dump(), end(b"another")]),
            "has no room",
        ),
        (
            "a name for a file that is none",
            wired(vec![head(CLUSTER), no_file, dump(), end(b"another")]),
            "names a file",
        ),
        (
            "no cluster",
            wired(vec![
                Part::Head(MomentHead::default()),
                dump(),
                end(b"another"),
            ]),
            "names no cluster",
        ),
        (
            "a part of a later version",
            vec![MomentPart { part: None }.encode_to_vec()],
            "does not know",
        ),
        ("not even a message", vec![vec![0xff; 20]], ""),
    ];
    for (what, answer, says) in cases {
        let wire = Wire::start(move |_, _| Ok(answer.clone())).await;
        let error = made(&wire, to).await.unwrap_err();
        let text = error.render(false);
        assert!(text.contains(says), "{what}: {text}");
        assert_eq!(names(to), before, "{what}");
        Manifest::read(to).unwrap().verify(to).unwrap();
    }
}

#[tokio::test]
async fn a_refusal_leaves_no_folder_with_anything_in_it_and_is_told_as_it_is() {
    for code in [
        ErrorCode::RoleTooLow,
        ErrorCode::NotLoggedIn,
        ErrorCode::CannotDump,
        // Somebody else takes one: nobody waits for that.
        ErrorCode::LimitReached,
    ] {
        let wire = Wire::start(move |_, _| Err(code.status("no"))).await;
        let folder = tempfile::tempdir().unwrap();
        let error = made(&wire, folder.path()).await.unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.render(false).contains(code.as_str()), "{code:?}");
        assert_eq!(names(folder.path()), [] as [&str; 0], "{code:?}");
        assert_eq!(wire.heard().len(), 1, "{code:?}: asked once");
    }
}

#[tokio::test]
async fn what_was_removed_meanwhile_is_in_no_later_moment_and_what_is_missing_there_is_named() {
    // The first moment names a file that is gone by then; the second one does not.
    let asked = AtomicU32::new(0);
    let wire = Wire::start(move |path, request| match path {
        "Backups/TakeMoment" if asked.fetch_add(1, Ordering::Relaxed) == 0 => {
            Ok(whole(&[b"stays", b"goes"]))
        }
        "Backups/TakeMoment" => Ok(whole(&[b"stays"])),
        _ => served(&[b"stays"], request),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let backup = made(&wire, folder.path()).await.unwrap();
    assert!(backup.manifest.absent.is_empty());
    assert_eq!(backup.copied, 1);
    Manifest::read(folder.path())
        .unwrap()
        .verify(folder.path())
        .unwrap();

    // One that every moment names and nobody has, and one that is another file there.
    let wire = Wire::start(move |path, request| {
        if path == "Backups/TakeMoment" {
            return Ok(whole(&[b"stays", b"lost", b"damaged"]));
        }
        let request_of = DownloadBlobRequest::decode(request).unwrap();
        if request_of.digest == Digest::of(b"damaged").to_string() {
            return Err(ErrorCode::BlobDamaged.status("it is damaged here"));
        }
        served(&[b"stays"], request)
    })
    .await;
    let backup = made(&wire, folder.path()).await.unwrap();
    let absent = &backup.manifest.absent;
    let mut why: Vec<&str> = absent.iter().map(|one| one.why.as_str()).collect();
    why.sort_unstable();
    assert_eq!(why, ["damaged", "missing"]);
    let read = Manifest::read(folder.path()).unwrap();
    assert_eq!(read.verify(folder.path()).unwrap(), [Digest::of(b"stays")]);
    let moments = wire.heard();
    let moments = moments
        .iter()
        .filter(|(path, _)| path == "Backups/TakeMoment");
    assert_eq!(moments.count(), 2, "missing twice is missing");
}

#[tokio::test]
async fn after_a_try_that_was_cut_off_the_next_one_is_whole_and_fetches_no_file_twice() {
    let (moments, files) = (AtomicU32::new(0), AtomicU32::new(0));
    let wire = Wire::start(move |path, request| match path {
        "Backups/TakeMoment" if moments.fetch_add(1, Ordering::Relaxed) == 1 => {
            let half = Part::Dump(b"half".to_vec().into());
            Ok(wired(vec![head(CLUSTER), half]))
        }
        "Backups/TakeMoment" => Ok(whole(&[b"one", b"two"])),
        _ if files.fetch_add(1, Ordering::Relaxed) == 1 => {
            Err(ErrorCode::Internal.status("a fault"))
        }
        _ => served(&[b"one", b"two"], request),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    // At the second file, then in the middle of a dump.
    for says in ["a fault", "cut off"] {
        let error = made(&wire, folder.path()).await.unwrap_err();
        assert!(
            error.render(false).contains(says),
            "{}",
            error.render(false)
        );
    }
    let backup = made(&wire, folder.path()).await.unwrap();
    assert_eq!(backup.copied, 1);
    assert_eq!(names(folder.path()).len(), 4);
    Manifest::read(folder.path())
        .unwrap()
        .verify(folder.path())
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_once_the_coordinator_has_answered_and_not_for_ever() {
    let gone = || {
        Err(CliError::Unreachable {
            addr: "http://a:1".into(),
            origin: String::new(),
            tried: String::new(),
            hints: Vec::new(),
        })
    };
    let tries = |begun: bool, fails: u32| async move {
        let progress = Progress {
            has_begun: AtomicBool::new(begun),
            ..Progress::default()
        };
        let mut tries = 0;
        let ended = patiently(&progress, async || {
            tries += 1;
            if tries > fails { Ok(()) } else { gone() }
        });
        let ended = ended.await.is_ok();
        (ended, tries)
    };
    assert_eq!(
        tries(false, 1).await,
        (false, 1),
        "whoever typed it is told"
    );
    assert_eq!(tries(true, 3).await, (true, 4));
    let (ended, count) = tries(true, u32::MAX).await;
    assert!(!ended && count == TRIES_MAX, "{count}");
}

#[tokio::test]
async fn a_look_writes_nothing_and_says_what_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("none");
    let wire = Wire::start(|path, request| {
        assert_eq!(path, "Backups/TakeMoment");
        assert!(TakeMomentRequest::decode(request).unwrap().dry_run);
        let nothing = Part::End(MomentEnd::default());
        Ok(wired(vec![
            head(CLUSTER),
            files(&[b"one", b"three"]),
            nothing,
        ]))
    })
    .await;
    let moment = look(&remote(&wire), &to).await.unwrap();
    assert!(!to.exists());
    let (missing, bytes) = moment.missing(&to);
    assert_eq!((missing.len(), bytes), (2, 8));
    assert!(free_bytes(&to).unwrap() > 0, "of the disk where it will be");
    made(&at_rest(&[b"one"]).await, &to).await.unwrap();
    let moment = look(&remote(&wire), &to).await.unwrap();
    assert_eq!(moment.missing(&to).1, 5);
}

#[tokio::test]
async fn two_backups_at_once_do_not_write_to_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _lock = marquee_backups::take(folder.path()).unwrap();
    let wire = at_rest(&[b"one"]).await;
    let error = made(&wire, folder.path()).await.unwrap_err();
    assert!(error.render(false).contains("another backup"));
    assert!(wire.heard().is_empty(), "nobody was asked for a dump");
}
