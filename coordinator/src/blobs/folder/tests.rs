//! The blob folder, used and attacked.

use bytes::Bytes;
use marquee_domain::artifact::FileEntry;
use marquee_domain::limits::CHUNK_BYTES;

use super::*;
use crate::blobs::FREE_FLOOR_BYTES;

async fn store() -> (tempfile::TempDir, Folder) {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::open(folder.path().join("blobs")).await.unwrap();
    (folder, store)
}

async fn put(store: &Folder, announced: &Digest, bytes: &[u8]) -> Result<(), BlobError> {
    let mut writer = store.write(announced.clone(), bytes.len() as u64).await?;
    for chunk in bytes.chunks(1000) {
        writer.push(Bytes::copy_from_slice(chunk)).await?;
    }
    writer.finish().await
}

async fn read_all(store: &Folder, digest: &Digest, offset: u64) -> Vec<u8> {
    let mut reader = store.read(digest.clone(), offset, None).await.unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await.unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_under(&path))
        } else {
            files.push(path)
        }
    }
    files
}

#[tokio::test]
async fn a_blob_comes_back_whole_and_from_an_offset() {
    let (_folder, store) = store().await;
    let bytes: Vec<u8> = (0..=250).cycle().take(CHUNK_BYTES + 777).collect();
    let digest = Digest::of(&bytes);
    let missing = store.missing(vec![digest.clone()]).await.unwrap();
    assert_eq!(missing, std::slice::from_ref(&digest));
    put(&store, &digest, &bytes).await.unwrap();
    assert!(
        store
            .missing(vec![digest.clone()])
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(read_all(&store, &digest, 0).await, bytes);
    assert_eq!(read_all(&store, &digest, 5000).await, bytes[5000..]);
    assert_eq!(read_all(&store, &digest, bytes.len() as u64).await, b"");
    let behind = store.read(digest, bytes.len() as u64 + 1, None).await;
    assert!(matches!(behind, Err(BlobError::OffsetTooLarge { .. })));
}

#[tokio::test]
async fn the_empty_file_is_a_blob_too() {
    let (_folder, store) = store().await;
    put(&store, &Digest::of(b""), b"").await.unwrap();
    assert_eq!(read_all(&store, &Digest::of(b""), 0).await, b"");
}

#[tokio::test]
async fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
    let (folder, store) = store().await;
    let digest = Digest::of(b"poster");
    let wrong = put(&store, &digest, b"posted").await;
    assert!(
        matches!(wrong, Err(BlobError::WrongDigest { .. })),
        "{wrong:?}"
    );

    let mut short = store.write(digest.clone(), 6).await.unwrap();
    short.push(Bytes::from_static(b"post")).await.unwrap();
    let short = short.finish().await;
    assert!(
        matches!(short, Err(BlobError::WrongSize { got: 4, .. })),
        "{short:?}"
    );

    let mut long = store.write(digest.clone(), 3).await.unwrap();
    let long = long.push(Bytes::from_static(b"poster")).await;
    assert!(
        matches!(long, Err(BlobError::WrongSize { got: 6, .. })),
        "{long:?}"
    );

    assert_eq!(files_under(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let (folder, store) = store().await;
    let mut writer = store.write(Digest::of(b"poster"), 6).await.unwrap();
    writer.push(Bytes::from_static(b"pos")).await.unwrap();
    assert_eq!(files_under(folder.path()).len(), 1, "it is written aside");
    assert_eq!(
        store
            .missing(vec![Digest::of(b"poster")])
            .await
            .unwrap()
            .len(),
        1
    );
    drop(writer);
    assert_eq!(files_under(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_by_the_one_that_leads() {
    let (folder, store) = store().await;
    put(&store, &Digest::of(b"kept"), b"kept").await.unwrap();
    let half = folder.path().join("blobs/tmp/half");
    fs::write(&half, b"half a pos").unwrap();
    // Whoever only stands by leaves what a living one may be writing.
    let store = Folder::open(folder.path().join("blobs")).await.unwrap();
    assert!(half.exists());
    store.remove_leftovers().await.unwrap();
    assert_eq!(
        files_under(folder.path()),
        [store.path(&Digest::of(b"kept"))]
    );
}

#[tokio::test]
async fn a_folder_has_one_id_whoever_asks_first() {
    let (folder, store) = store().await;
    let root = folder.path().join("blobs");
    let ask = |number| {
        let root = root.clone();
        async move {
            let store = Folder::open(root).await.unwrap();
            store.storage(uuid::Uuid::from_u128(number)).await.unwrap()
        }
    };
    let ids = futures::future::join_all((1..=8).map(ask)).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(
        store.storage(uuid::Uuid::from_u128(99)).await.unwrap(),
        ids[0]
    );
    fs::write(root.join("storage-id"), "half").unwrap();
    let damaged = store.storage(uuid::Uuid::from_u128(1)).await.unwrap_err();
    assert!(damaged.to_string().contains("storage-id"), "{damaged}");
}

#[tokio::test]
async fn one_blob_may_be_uploaded_by_many_at_once() {
    let (folder, store) = store().await;
    let bytes = vec![7_u8; 50_000];
    let digest = Digest::of(&bytes);
    let uploads = (0..8).map(|_| put(&store, &digest, &bytes));
    for result in futures::future::join_all(uploads).await {
        result.unwrap();
    }
    assert_eq!(read_all(&store, &digest, 0).await, bytes);
    assert_eq!(files_under(folder.path()).len(), 1);
}

#[tokio::test]
async fn an_upload_that_would_fill_the_disk_is_refused_at_the_door() {
    let (_folder, store) = store().await;
    let refused = store.write(Digest::of(b"x"), u64::MAX / 2).await;
    assert!(
        matches!(refused, Err(BlobError::DiskFull { .. })),
        "{refused:?}"
    );
    // In the unit in which people look at disks, with the way out.
    let said = refused.unwrap_err().to_string();
    for expected in [
        " MiB are free in ",
        "256.0 MiB of them must stay free",
        "marquee rm",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

fn file(path: &str, size_bytes: u64, digest: &Digest) -> FileEntry {
    FileEntry {
        path: path.into(),
        size_bytes,
        digest: digest.clone(),
    }
}

/// Reads to the end, as a download does, and gives the error that it ends with.
async fn error_of(
    store: &Folder,
    digest: &Digest,
    offset: u64,
    expected: Option<u64>,
) -> BlobError {
    let mut reader = match store.read(digest.clone(), offset, expected).await {
        Ok(reader) => reader,
        Err(error) => return error,
    };
    loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a damaged blob was read to its end"),
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn a_damaged_blob_is_told_at_once_set_aside_and_whole_again_when_it_is_stored_again() {
    let bytes: Vec<u8> = (0..=250).cycle().take(2 * CHUNK_BYTES + 9).collect();
    let size = bytes.len() as u64;
    let digest = Digest::of(&bytes);
    let mut flipped = bytes.clone();
    flipped[CHUNK_BYTES] ^= 1;
    let longer = [bytes.as_slice(), b"x"].concat();
    for (what, stored) in [
        ("short", &bytes[..CHUNK_BYTES]),
        ("empty", &[]),
        ("flipped", &flipped),
        ("longer", &longer),
    ] {
        for (offset, expected) in [(0, None), (0, Some(size)), (size - 1, Some(size))] {
            if what == "flipped" && offset > 0 {
                // Only a reader of the whole can see it.
                continue;
            }
            let (_folder, store) = store().await;
            put(&store, &digest, &bytes).await.unwrap();
            fs::write(store.path(&digest), stored).unwrap();
            let error = error_of(&store, &digest, offset, expected).await;
            assert!(
                matches!(error, BlobError::Damaged { .. }),
                "{what}: {error}"
            );
            // From now on it is not there, for whoever asks, also after a restart.
            assert_eq!(store.missing(vec![digest.clone()]).await.unwrap().len(), 1);
            let store = Folder::open(store.root.to_path_buf()).await.unwrap();
            let error = error_of(&store, &digest, offset, expected).await;
            assert!(
                matches!(error, BlobError::Damaged { .. }),
                "{what}: {error}"
            );
            let manifest = Manifest::new(vec![file("model.bin", size, &digest)]).unwrap();
            assert_eq!(store.damaged_among(&manifest), Some("model.bin"));

            put(&store, &digest, &bytes).await.unwrap();
            assert_eq!(store.damaged_among(&manifest), None);
            assert!(!store.has_damaged());
            assert_eq!(read_all(&store, &digest, 0).await, bytes);
            assert!(store.check(&manifest).await.unwrap().wrong.is_empty());
        }
    }
}

#[tokio::test]
async fn a_list_of_files_that_lies_costs_no_blob() {
    let (_folder, store) = store().await;
    let digest = Digest::of(b"poster");
    put(&store, &digest, b"poster").await.unwrap();
    let error = error_of(&store, &digest, 0, Some(7)).await;
    assert!(
        matches!(error, BlobError::OtherSize { size_bytes: 6, .. }),
        "{error}"
    );
    let gone = Digest::of(b"gone");
    let manifest = Manifest::new(vec![file("a", 1 << 40, &digest), file("b", 4, &gone)]).unwrap();
    let wrong = store.check(&manifest).await.unwrap().wrong;
    let mut told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    told.sort();
    assert!(
        told[0].contains("has 6 bytes here, not 1099511627776"),
        "{told:?}"
    );
    assert!(told[1].contains("was not uploaded"), "{told:?}");
    assert!(!store.has_damaged());
    assert_eq!(read_all(&store, &digest, 0).await, b"poster");
}

#[tokio::test]
async fn uploads_that_begin_at_once_are_not_given_the_same_room() {
    let (folder, store) = store().await;
    let stat = nix::sys::statvfs::statvfs(folder.path()).unwrap();
    let free = stat.blocks_available() * stat.fragment_size();
    let each = (free - FREE_FLOOR_BYTES) / 3;
    let mut writers = Vec::new();
    for number in 0..10_u8 {
        writers.push(store.write(Digest::of(&[number]), each).await);
    }
    let begun = writers.iter().filter(|writer| writer.is_ok()).count();
    assert!((1..=3).contains(&begun), "{begun}");
    drop(writers);
    assert!(store.write(Digest::of(b"x"), each).await.is_ok());
}

/// Removes what nobody counts on, with nobody in between.
async fn remove(condemned: Condemned, unnamed: &[Digest]) -> (u64, u64) {
    let going = condemned.take_out(unnamed.to_vec()).await.unwrap();
    let still = going.digests().to_vec();
    going.remove(still).await.unwrap()
}

/// As of a coordinator that is stopped in the middle of a removal, and goes on when another one leads, which has the
/// same folder and knows nothing of it.
#[tokio::test]
async fn a_removal_that_goes_on_too_late_takes_nothing_that_was_needed_meanwhile() {
    let (folder, old) = store().await;
    let names = ["asked for", "looked at", "read", "sent anew", "nobody's"];
    let all = names.map(|name| Digest::of(name.as_bytes()));
    for (name, digest) in names.iter().zip(&all) {
        put(&old, digest, name.as_bytes()).await.unwrap();
    }
    let going = old
        .condemn(&all)
        .await
        .take_out(all.to_vec())
        .await
        .unwrap();
    assert_eq!(going.digests(), all);
    assert!(all.iter().all(|digest| !old.path(digest).exists()));
    // It has asked for names, found none, and stands still.
    let new = Folder::open(folder.path().join("blobs")).await.unwrap();
    assert!(new.missing(vec![all[0].clone()]).await.unwrap().is_empty());
    let size = names[1].len() as u64;
    let manifest = Manifest::new(vec![file("f", size, &all[1])]).unwrap();
    assert!(new.check(&manifest).await.unwrap().wrong.is_empty());
    assert_eq!(read_all(&new, &all[2], 0).await, names[2].as_bytes());
    put(&new, &all[3], names[3].as_bytes()).await.unwrap();
    let (_, bytes) = going.remove(all.to_vec()).await.unwrap();
    assert_eq!(bytes, (names[3].len() + names[4].len()) as u64);
    let here = all.map(|digest| new.path(&digest).exists());
    assert_eq!(here, [true, true, true, true, false]);
    assert!(fs::read_dir(new.going()).unwrap().next().is_none());
}

#[tokio::test]
async fn what_a_removal_that_is_refused_or_killed_had_moved_away_is_put_back() {
    let (folder, store) = store().await;
    let all = ["one", "two"].map(|name| Digest::of(name.as_bytes()));
    put(&store, &all[0], b"one").await.unwrap();
    put(&store, &all[1], b"two").await.unwrap();
    let condemned = store.condemn(&all).await;
    let going = condemned.take_out(all.to_vec()).await.unwrap();
    let (count, _) = going.remove(vec![all[1].clone()]).await.unwrap();
    assert_eq!(count, 1);
    assert!(store.path(&all[0]).exists(), "it is named after all");
    let condemned = store.condemn(&all).await;
    // A process that is killed drops nothing.
    std::mem::forget(condemned.take_out(all.to_vec()).await.unwrap());
    assert!(!store.path(&all[0]).exists());
    let next = Folder::open(folder.path().join("blobs")).await.unwrap();
    next.remove_leftovers().await.unwrap();
    assert_eq!(read_all(&next, &all[0], 0).await, b"one");
    assert!(fs::read_dir(next.going()).unwrap().next().is_none());
}

#[tokio::test]
async fn a_fault_that_was_mended_meanwhile_takes_no_whole_file_away() {
    let (_folder, store) = store().await;
    let digest = Digest::of(b"whole");
    put(&store, &digest, b"whole").await.unwrap();
    fs::write(store.path(&digest), b"rotten").unwrap();
    let mut reader = store.read(digest.clone(), 0, None).await.unwrap();
    reader.next().await.unwrap();
    // Stored anew, in the place of the file that the reader has open.
    put(&store, &digest, b"whole").await.unwrap();
    assert!(reader.next().await.is_err(), "what it got was rotten");
    assert_eq!(read_all(&store, &digest, 0).await, b"whole");
    assert!(!store.has_damaged());
}

#[tokio::test]
async fn what_somebody_is_about_to_name_is_not_removed() {
    let (_folder, store) = store().await;
    let names = ["looked at", "told of", "stored now", "nobody's"];
    let all = names.map(|name| Digest::of(name.as_bytes()));
    for (name, digest) in names.iter().zip(&all) {
        put(&store, digest, name.as_bytes()).await.unwrap();
    }
    let size = names[0].len() as u64;
    let manifest = Manifest::new(vec![file("f", size, &all[0])]).unwrap();
    let condemned = store.condemn(&all).await;
    let checked = store.check(&manifest).await.unwrap();
    assert!(checked.wrong.is_empty());
    let gone = Digest::of(b"gone");
    let asked = vec![all[1].clone(), gone.clone()];
    assert_eq!(store.missing(asked).await.unwrap(), [gone]);
    put(&store, &all[2], names[2].as_bytes()).await.unwrap();
    let removed = remove(condemned, &all).await;
    assert_eq!(removed, (1, names[3].len() as u64));
    // The next one may take what nobody counts on any more.
    drop(checked);
    let condemned = store.condemn(&all).await;
    let (count, _) = remove(condemned, &all).await;
    assert_eq!(count, 2);
    let here = all.map(|digest| store.path(&digest).exists());
    assert_eq!(here, [false, true, false, false]);
}
