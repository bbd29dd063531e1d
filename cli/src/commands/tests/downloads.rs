//! Fetching an artifact from a coordinator that may be broken, or none at all: what is on the disk afterwards is what the
//! list says, or nothing.

use std::path::Path;
use std::sync::Mutex;

use marquee_domain::artifact::Digest;
use marquee_proto::v1::{self, FileEntry, Manifest};
use prost::Message as _;
use tonic::Status;

use super::*;
use crate::error::CliError;
use crate::tests::wire::Wire;

fn entry(path: &str, contents: &[u8]) -> FileEntry {
    FileEntry {
        path: path.into(),
        size_bytes: contents.len() as u64,
        digest: Digest::of(contents).to_string(),
    }
}

fn artifact(manifest: Manifest) -> Vec<u8> {
    v1::Artifact {
        digest: "5a3cf0918d22".repeat(6)[..64].into(),
        name: "model".into(),
        job_id: 17,
        file_count: u32::try_from(manifest.files.len()).unwrap(),
        manifest: Some(manifest),
        ..v1::Artifact::default()
    }
    .encode_to_vec()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    v1::DownloadBlobResponse {
        chunk: bytes.to_vec().into(),
    }
    .encode_to_vec()
}

async fn get(wire: &Wire, to: &Path) -> Result<(), CliError> {
    let line = format!(
        "marquee --addr {} artifacts get 17 --to {}",
        wire.addr,
        to.display()
    );
    run(parse(&line).unwrap()).await
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            let below = files(&entry.path());
            found.extend(below.into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn files_come_whole_in_their_folders_with_their_modes() {
    use std::os::unix::fs::PermissionsExt as _;
    let manifest = Manifest {
        files: vec![
            entry("run.sh", b"#!/bin/sh\n"),
            entry("a/b/data", b"abc"),
            entry("empty", b""),
        ],
        executables: vec!["run.sh".into()],
        empty_folders: vec!["logs".into()],
    };
    let wire = Wire::start(move |path, bytes| {
        if path == "Artifacts/GetArtifact" {
            return Ok(vec![artifact(manifest.clone())]);
        }
        let asked = v1::DownloadBlobRequest::decode(bytes).unwrap();
        assert_eq!(
            asked.job_id, 17,
            "without it a user who may not look at all is refused"
        );
        let contents: &[u8] = match asked.size_bytes {
            Some(3) => b"abc",
            Some(0) => b"",
            _ => b"#!/bin/sh\n",
        };
        // In pieces of one byte: whatever the pieces are, the file is the file.
        Ok(contents.chunks(1).map(chunk).collect())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out");
    get(&wire, &to).await.unwrap();
    assert_eq!(files(&to), ["a/b/data", "empty", "run.sh"]);
    assert_eq!(std::fs::read(to.join("a/b/data")).unwrap(), b"abc");
    assert!(to.join("logs").is_dir());
    let mode = |name: &str| {
        std::fs::metadata(to.join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_ne!(mode("run.sh") & 0o100, 0);
    assert_eq!(mode("empty") & 0o111, 0);
    // Fetched again it is the same: what was there is replaced whole.
    get(&wire, &to).await.unwrap();
    assert_eq!(files(&to).len(), 3);
}

#[tokio::test]
async fn what_is_not_as_the_list_says_leaves_no_file() {
    let cases: [(&str, Vec<&[u8]>, &str); 4] = [
        ("less came", vec![b"ab"], "arrived damaged"),
        ("other bytes came", vec![b"abd"], "arrived damaged"),
        ("nothing came", vec![], "arrived damaged"),
        ("more came", vec![b"abc", b"d"], "more than its 3 bytes"),
    ];
    for (what, chunks, says) in cases {
        let chunks: Vec<Vec<u8>> = chunks.into_iter().map(chunk).collect();
        let wire = Wire::start(move |path, _| {
            if path == "Artifacts/GetArtifact" {
                let files = vec![entry("data", b"abc")];
                return Ok(vec![artifact(Manifest {
                    files,
                    ..Manifest::default()
                })]);
            }
            Ok(chunks.clone())
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let error = get(&wire, folder.path()).await.unwrap_err();
        let text = error.render(false);
        assert!(text.contains(says), "{what}: {text}");
        assert_eq!(files(folder.path()), [] as [&str; 0], "{what}");
    }
}

#[tokio::test]
async fn a_list_that_leads_out_of_the_folder_is_refused_before_anything_is_fetched() {
    for path in [
        "../out",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "",
        ".",
        "a\0b",
    ] {
        let wire = Wire::start(move |asked, _| {
            if asked == "Artifacts/GetArtifact" {
                let files = vec![entry(path, b"abc")];
                return Ok(vec![artifact(Manifest {
                    files,
                    ..Manifest::default()
                })]);
            }
            Ok(vec![chunk(b"abc")])
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let error = get(&wire, &folder.path().join("to")).await.unwrap_err();
        assert!(
            error.render(false).contains("wrong manifest"),
            "{path:?}: {}",
            error.render(false)
        );
        assert_eq!(files(folder.path()), [] as [&str; 0], "{path:?}");
        let heard = wire.heard();
        assert!(
            heard
                .iter()
                .all(|(path, _)| path == "Artifacts/GetArtifact"),
            "{heard:?}"
        );
    }
}

#[tokio::test]
async fn a_download_that_nobody_answers_for_a_moment_is_asked_again() {
    let offsets: &'static Mutex<Vec<u64>> = Box::leak(Box::default());
    let wire = Wire::start(|path, bytes| {
        if path == "Artifacts/GetArtifact" {
            let files = vec![entry("data", b"abcdef")];
            return Ok(vec![artifact(Manifest {
                files,
                ..Manifest::default()
            })]);
        }
        let offset = v1::DownloadBlobRequest::decode(bytes).unwrap().offset;
        let mut offsets = offsets.lock().unwrap();
        offsets.push(offset);
        match offsets.len() {
            // Nobody leads just now.
            1 => Err(Status::unavailable("the coordinator stops")),
            _ => {
                let from = usize::try_from(offset).unwrap();
                Ok(vec![chunk(&b"abcdef"[from..])])
            }
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    get(&wire, folder.path()).await.unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("data")).unwrap(),
        b"abcdef"
    );
    assert_eq!(*offsets.lock().unwrap(), [0, 0]);
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_asked_again() {
    let wire = Wire::start(|path, _| {
        if path == "Artifacts/GetArtifact" {
            let files = vec![entry("data", b"abc")];
            return Ok(vec![artifact(Manifest {
                files,
                ..Manifest::default()
            })]);
        }
        Err(marquee_proto::error::ErrorCode::BlobDamaged.status("blob 5a3cf0 is damaged here"))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let error = get(&wire, folder.path()).await.unwrap_err();
    assert!(error.render(false).contains("is damaged here"));
    let fetches = wire
        .heard()
        .into_iter()
        .filter(|(path, _)| path == "Artifacts/DownloadBlob");
    assert_eq!(fetches.count(), 1);
}
