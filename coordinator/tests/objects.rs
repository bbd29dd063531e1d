//! Blobs in a bucket of a real server (moto), with a door before it that does what networks do; a cluster on it, its kill,
//! its successor, and what one that lost the lead does late.

mod away;
mod cluster;
mod removal;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use futures::TryStreamExt as _;
use marquee_coordinator::blobs::{BlobError, BlobStore, Bucket, ObjectTrouble};
use marquee_coordinator::env::{Clock as _, SystemClock};
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_objects::testing::{Door, Fault, Server, place};
use marquee_objects::{Place, Store};
use tempfile::TempDir;
use uuid::Uuid;

/// The least that servers take.
const PART: u64 = 5 * 1024 * 1024;
const STORAGE: Uuid = Uuid::from_u128(7);

/// A server, a door before it, and what is needed to ask.
struct Site {
    _server: Server,
    door: Door,
    folder: TempDir,
}

impl Site {
    async fn start(test: &str) -> Option<Self> {
        let server = Server::start(test).await?;
        server.make_bucket("films").await.unwrap();
        let door = Door::open(Some(&server)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Some(Self {
            _server: server,
            door,
            folder,
        })
    }

    fn place(&self) -> Place {
        place(&self.door.address, "films", self.folder.path())
    }

    fn raw(&self) -> Store {
        Store::open(&self.place()).unwrap()
    }

    /// A coordinator's view, after its start: one that stands by.
    async fn reader(&self) -> BlobStore {
        let blobs = BlobStore::in_bucket(Bucket::new(self.raw(), PART));
        assert_eq!(blobs.storage(STORAGE).await.unwrap(), STORAGE);
        blobs
    }

    /// The view of one that leads.
    async fn leader(&self) -> BlobStore {
        let blobs = self.reader().await;
        blobs.remove_leftovers().await.unwrap();
        blobs
    }

    async fn keys(&self, folder: &str) -> BTreeSet<String> {
        let listed = self.raw().list(folder).map_ok(|one| one.key);
        listed.try_collect().await.unwrap()
    }
}

/// Bytes that no two parts have in common.
fn bytes(count: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap());
    let mut state = 1_u64;
    while (bytes.len() as u64) < count {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(usize::try_from(count).unwrap());
    bytes
}

/// Sends bytes from `offset` on, in chunks of an odd size.
async fn send(
    blobs: &BlobStore,
    digest: &Digest,
    all: &[u8],
    offset: u64,
    until: u64,
) -> Result<marquee_coordinator::blobs::BlobWriter, BlobError> {
    let size = all.len() as u64;
    let mut writer = blobs.write_from(digest.clone(), size, offset).await?;
    let some = &all[usize::try_from(offset).unwrap()..usize::try_from(until).unwrap()];
    for chunk in some.chunks(200_003) {
        writer.push(Bytes::copy_from_slice(chunk)).await?;
    }
    Ok(writer)
}

async fn put(blobs: &BlobStore, all: &[u8]) -> Digest {
    let digest = Digest::of(all);
    let writer = send(blobs, &digest, all, 0, all.len() as u64)
        .await
        .unwrap();
    writer.finish().await.unwrap();
    digest
}

async fn read(blobs: &BlobStore, digest: &Digest, offset: u64) -> Result<Vec<u8>, BlobError> {
    let mut reader = blobs.read(digest.clone(), offset, None).await?;
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

fn manifest(digest: &Digest, size_bytes: u64) -> Manifest {
    Manifest::new(vec![FileEntry {
        path: "model.bin".into(),
        size_bytes,
        digest: digest.clone(),
    }])
    .unwrap()
}

async fn is_missing(blobs: &BlobStore, digest: &Digest) -> bool {
    !blobs
        .missing(vec![digest.clone()])
        .await
        .unwrap()
        .is_empty()
}

/// Waits until a broken upload is written down as far as this.
async fn until_begun(blobs: &BlobStore, digest: &Digest, bytes: u64) {
    for _ in 0..600 {
        if blobs.begun(digest).await.unwrap() == bytes {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} of {bytes}", blobs.begun(digest).await.unwrap());
}

fn is_away(error: &BlobError) -> bool {
    matches!(error, BlobError::Objects { trouble, .. } if *trouble == ObjectTrouble::Away)
}

#[tokio::test]
async fn blobs_in_a_bucket_keep_what_blobs_promise() {
    let Some(site) = Site::start("blobs_in_a_bucket_keep_what_blobs_promise").await else {
        return;
    };
    let leader = site.leader().await;
    whole_and_wrong(&site, &leader).await;
    broken_uploads_go_on(&site, &leader).await;
    damage(&site, &leader).await;
    removal::removal(&site, &leader).await;
    removal::orphans(&site).await;
    two_clusters(&site, &leader).await;
    // Last: what makes the bucket another one.
    another_bucket(&site, &leader).await;
}

async fn whole_and_wrong(site: &Site, leader: &BlobStore) {
    let small = put(leader, b"weights").await;
    let empty = put(leader, b"").await;
    for (digest, all) in [(&small, b"weights" as &[u8]), (&empty, b"")] {
        assert!(!is_missing(leader, digest).await);
        assert_eq!(read(leader, digest, 0).await.unwrap(), all);
    }
    assert_eq!(read(leader, &small, 4).await.unwrap(), b"hts");
    let checked = leader.check(&manifest(&small, 7)).await.unwrap();
    assert!(checked.wrong.is_empty());
    let checked = leader.check(&manifest(&small, 8)).await.unwrap();
    assert!(checked.wrong[0].why.contains("has 7 bytes here, not 8"));
    let far = leader.read(small.clone(), 8, None).await.unwrap_err();
    assert!(matches!(far, BlobError::OffsetTooLarge { .. }), "{far}");
    let other = leader.read(small.clone(), 0, Some(9)).await.unwrap_err();
    assert!(matches!(other, BlobError::OtherSize { .. }), "{other}");
    let gone = Digest::of(b"never");
    assert!(is_missing(leader, &gone).await);
    let absent = leader.read(gone.clone(), 0, None).await.unwrap_err();
    assert!(matches!(absent, BlobError::NotFound(_)), "{absent}");

    // What is not what was announced is nowhere, whether it is small or comes in parts.
    let lie = Digest::of(b"something else");
    for all in [b"a lie".to_vec(), bytes(PART + 9)] {
        let size = all.len() as u64;
        let writer = send(leader, &lie, &all, 0, size).await.unwrap();
        let error = writer.finish().await.unwrap_err();
        assert!(matches!(error, BlobError::WrongDigest { .. }), "{error}");
        let writer = send(leader, &lie, &all, 0, size - 1).await.unwrap();
        let error = writer.finish().await.unwrap_err();
        assert!(matches!(error, BlobError::WrongSize { .. }), "{error}");
        let mut writer = send(leader, &lie, &all, 0, size).await.unwrap();
        assert!(writer.push(Bytes::from_static(b"more")).await.is_err());
        assert!(is_missing(leader, &lie).await);
    }
    assert!(
        site.keys("blobs")
            .await
            .iter()
            .all(|key| !key.contains(lie.as_str()))
    );
    // One part that is never written is no use to anybody.
    assert!(leader.write_from(gone, 100, 50).await.is_err());
}

/// An upload breaks between parts and within one; it goes on in the same process, in the next one, in one that has taken
/// over, and where the server has forgotten it.
async fn broken_uploads_go_on(site: &Site, leader: &BlobStore) {
    let all = bytes(3 * PART + 1_000);
    let (digest, size) = (Digest::of(&all), 3 * PART + 1_000);
    drop(send(leader, &digest, &all, 0, PART + 12_345).await.unwrap());
    until_begun(leader, &digest, PART).await;
    assert!(is_missing(leader, &digest).await, "half of it is nothing");
    // A kill: nothing of this process is left but the bucket.
    let next = site.leader().await;
    assert_eq!(next.begun(&digest).await.unwrap(), PART);
    for wrong in [1, PART - 1, PART + 1, 2 * PART] {
        let error = next
            .write_from(digest.clone(), size, wrong)
            .await
            .unwrap_err();
        assert!(matches!(error, BlobError::Moved(_)), "{error}");
    }
    site.door.forget_seen();
    drop(send(&next, &digest, &all, PART, 2 * PART).await.unwrap());
    until_begun(&next, &digest, 2 * PART).await;
    let last = site.leader().await;
    let writer = send(&last, &digest, &all, 2 * PART, size).await.unwrap();
    // The server puts it together, and nobody hears that it did.
    site.door.rule("POST", "uploadId=", 1, Fault::DoneAndCut);
    let over = "<Error><Code>NoSuchUpload</Code></Error>".to_owned();
    site.door
        .rule("POST", "uploadId=", 1, Fault::Answer(404, over));
    writer.finish().await.unwrap();
    assert_eq!(read(&last, &digest, 0).await.unwrap(), all);
    assert_eq!(
        read(&last, &digest, PART + 1).await.unwrap(),
        all[usize::try_from(PART).unwrap() + 1..]
    );
    assert_eq!(
        site.door.count("PUT", "partNumber=1"),
        0,
        "no part was sent twice"
    );
    let written = site.keys("uploads").await;
    assert!(written.iter().all(|key| !key.contains(digest.as_str())));
    let unfinished = site.raw().unfinished("blobs").await.unwrap();
    assert!(
        unfinished
            .iter()
            .all(|one| !one.key.contains(digest.as_str()))
    );

    // Two send the same file at once: neither hurts the other.
    let all = bytes(2 * PART + 3);
    let digest = Digest::of(&all);
    let size = all.len() as u64;
    let one = send(&last, &digest, &all, 0, PART + 5).await.unwrap();
    let other = send(&last, &digest, &all, 0, size).await.unwrap();
    let error = last
        .write_from(digest.clone(), size, PART)
        .await
        .unwrap_err();
    assert!(
        matches!(error, BlobError::Moved(_)),
        "somebody is at work: {error}"
    );
    other.finish().await.unwrap();
    assert_eq!(read(&last, &digest, 0).await.unwrap(), all);
    drop(one);

    // The server gave the upload up: it begins anew, and says so.
    let mut all = bytes(2 * PART + 4);
    all[0] = 77;
    let digest = Digest::of(&all);
    let size = all.len() as u64;
    drop(send(leader, &digest, &all, 0, PART).await.unwrap());
    until_begun(leader, &digest, PART).await;
    let unfinished = site.raw().unfinished("blobs").await.unwrap();
    for one in unfinished
        .iter()
        .filter(|one| one.key.contains(digest.as_str()))
    {
        site.raw().abort(&one.key, &one.upload).await.unwrap();
    }
    let writer = send(leader, &digest, &all, PART, size).await;
    let error = match writer {
        Err(error) => error,
        Ok(writer) => writer.finish().await.unwrap_err(),
    };
    assert!(matches!(error, BlobError::Moved(_)), "{error}");
    assert_eq!(leader.begun(&digest).await.unwrap(), 0);
    // Somebody sent other bytes under this name: whoever goes on with them is not to blame, and begins anew.
    let lie = bytes(PART);
    drop(
        send(
            leader,
            &digest,
            &[&lie[..], &all[lie.len()..]].concat(),
            0,
            PART,
        )
        .await
        .unwrap(),
    );
    until_begun(leader, &digest, PART).await;
    let writer = send(leader, &digest, &all, PART, size).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert!(matches!(error, BlobError::Moved(_)), "{error}");
    assert!(is_missing(leader, &digest).await);
    assert_eq!(put(leader, &all).await, digest);
    // Busy, broken and half: tried again by itself.
    all[0] = 78;
    site.door.rule(
        "PUT",
        "partNumber=1",
        2,
        Fault::Answer(503, "<Error><Code>SlowDown</Code></Error>".into()),
    );
    site.door.rule("PUT", "partNumber=2", 1, Fault::DoneAndCut);
    let digest = put(leader, &all).await;
    site.door
        .rule("GET", digest.as_str(), 1, Fault::Half(70_000));
    site.door
        .rule("GET", digest.as_str(), 1, Fault::Shorter(1_000));
    assert_eq!(read(leader, &digest, 0).await.unwrap(), all);
    site.door.no_rules();
}

async fn damage(site: &Site, leader: &BlobStore) {
    let digest = put(leader, b"as it should be").await;
    let list = manifest(&digest, 15);
    // Altered on its way once: that is no damage, and whoever reads is told to read again.
    site.door.rule("GET", digest.as_str(), 1, Fault::Altered);
    let error = read(leader, &digest, 0).await.unwrap_err();
    assert!(is_away(&error), "{error}");
    assert!(!leader.has_damaged());
    // Altered where it lies.
    let (_, key) = key_of(site, &digest).await;
    site.raw()
        .put(&key, vec![Bytes::from_static(b"as it should bE")])
        .await
        .unwrap();
    let error = read(leader, &digest, 0).await.unwrap_err();
    assert!(matches!(error, BlobError::Damaged { .. }), "{error}");
    let after_a_kill = site.leader().await;
    for store in [leader, &after_a_kill] {
        assert!(store.has_damaged() && is_missing(store, &digest).await);
        assert_eq!(store.damaged_among(&list), Some("model.bin"));
        let checked = store.check(&list).await.unwrap();
        assert!(checked.wrong[0].why.contains("set aside"), "{checked:?}");
        let error = store.read(digest.clone(), 0, None).await.unwrap_err();
        assert!(matches!(error, BlobError::Damaged { .. }), "{error}");
    }
    put(leader, b"as it should be").await;
    assert!(!leader.has_damaged() && !site.leader().await.has_damaged());
    assert_eq!(read(leader, &digest, 0).await.unwrap(), b"as it should be");
    // Shorter where it lies: told by the list that names it.
    site.raw()
        .put(&key, vec![Bytes::from_static(b"as it")])
        .await
        .unwrap();
    let checked = leader.check(&list).await.unwrap();
    assert!(
        checked.wrong[0].why.contains("is damaged here"),
        "{checked:?}"
    );
    put(leader, b"as it should be").await;
}

async fn key_of(site: &Site, digest: &Digest) -> (usize, String) {
    let keys = site.keys("blobs").await;
    let mine: Vec<String> = keys
        .into_iter()
        .filter(|key| key.contains(digest.as_str()))
        .collect();
    (mine.len(), mine[0].clone())
}

async fn two_clusters(site: &Site, leader: &BlobStore) {
    let (mine, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    leader.claim(mine).await.unwrap();
    // Its successor, and one that stands by.
    site.leader().await.claim(mine).await.unwrap();
    let error = site.leader().await.claim(other).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("s3.prefix") && text.contains(&mine.to_string()),
        "{text}"
    );
    let mut apart = site.place();
    apart.prefix = "another".into();
    let apart = BlobStore::in_bucket(Bucket::new(Store::open(&apart).unwrap(), PART));
    let fresh = Uuid::from_u128(8);
    assert_eq!(apart.storage(fresh).await.unwrap(), fresh);
    apart.claim(other).await.unwrap();
    assert!(
        apart
            .list_older(SystemClock.now() + TimeDelta::hours(1))
            .await
            .unwrap()
            .is_empty()
    );
}

/// The mark is gone: nothing may count as missing, or every job would be made again.
async fn another_bucket(site: &Site, leader: &BlobStore) {
    let digest = put(leader, b"lasting").await;
    let gone = Digest::of(b"gone");
    assert!(is_missing(leader, &gone).await);
    site.raw().delete(vec!["storage-id".into()]).await.unwrap();
    // What was seen of the mark counts for a moment.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let error = leader.missing(vec![gone]).await.unwrap_err();
    assert!(error.to_string().contains("storage-id"), "{error}");
    assert!(!is_missing(leader, &digest).await, "what is there is there");
    // A gateway that answers 404 to everything.
    site.door
        .rule("HEAD", "", 99, Fault::Answer(404, String::new()));
    site.door
        .rule("GET", "", 99, Fault::Answer(404, String::new()));
    assert!(leader.missing(vec![digest.clone()]).await.is_err());
    assert!(leader.check(&manifest(&digest, 7)).await.is_err());
    site.door.no_rules();
}
