//! Whose bucket this is: objects that are written once. A coordinator knows by `storage-id` whether it has the same one as
//! the coordinator that leads, and by `cluster-id` that no other cluster has it. A bucket without its marks is another one,
//! in which nothing is taken for missing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use marquee_objects::{Kind, Store};
use tokio::time::sleep;
use uuid::Uuid;

use super::{Bucket, MARK_HOLDS, is_fresh, lock};
use crate::blobs::{BlobError, ObjectTrouble};

/// Whether a start waits for a server that does not answer: a host whose network comes up late needs nobody.
const START_WAITS: Duration = Duration::from_secs(30);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The marks of a bucket, for whoever needs no more of it.
#[derive(Debug)]
pub struct Marks<'a>(pub &'a Bucket);

impl Bucket {
    pub(in crate::blobs) async fn storage(&self, fresh: Uuid) -> Result<Uuid, BlobError> {
        let began = Instant::now();
        let storage = loop {
            match mark(&self.store, "storage-id", fresh).await {
                Ok(id) => break id,
                Err(BlobError::Objects {
                    trouble: ObjectTrouble::Away,
                    text,
                }) if began.elapsed() < START_WAITS => {
                    tracing::warn!("{text}; trying again");
                    sleep(AGAIN_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        };
        *lock(&self.shared.storage) = Some(storage);
        self.read_damaged().await?;
        self.read_going().await?;
        Ok(storage)
    }

    /// Refuses a bucket that another cluster has.
    pub(in crate::blobs) async fn claim(&self, cluster: Uuid) -> Result<(), BlobError> {
        let owner = mark(&self.store, "cluster-id", cluster).await?;
        if owner == cluster {
            return Ok(());
        }
        let why = format!(
            "it is cluster {owner}'s, and this is cluster {cluster}, which would delete the other one's files; give each cluster a prefix of its own (s3.prefix)"
        );
        Err(self.store.trouble(Kind::Refused, "begin", &why).into())
    }

    /// Whether the bucket still has the mark that it had at the start. A gateway that answers "not found" to everything,
    /// and a bucket that was emptied or exchanged, would make every artifact seem lost, and be made again.
    pub(super) async fn is_the_same(&self) -> Result<(), BlobError> {
        if is_fresh(&self.shared.mark_seen, MARK_HOLDS) {
            return Ok(());
        }
        let known = *lock(&self.shared.storage);
        let there = self.store.get("storage-id").await?;
        let there = there.and_then(|(text, _)| parse(&text));
        // One that only reads takes what is there when it begins.
        if there.is_some() && (known.is_none() || there == known) {
            *lock(&self.shared.storage) = there;
            *lock(&self.shared.mark_seen) = Some(Instant::now());
            return Ok(());
        }
        let why = "its object \"storage-id\" is gone or another one: somebody emptied or exchanged the bucket, or something else answers in its place; nothing counts as missing until it is back";
        Err(self
            .store
            .trouble(Kind::Refused, "look for an object", why)
            .into())
    }
}

impl Marks<'_> {
    /// The bucket's id, if it has one.
    pub async fn storage(&self) -> Result<Option<Uuid>, BlobError> {
        let there = self.0.store.get("storage-id").await?;
        Ok(there.and_then(|(text, _)| parse(&text)))
    }

    /// Whether the files of this folder were copied here.
    pub async fn has_copied(&self, folder: Uuid) -> Result<bool, BlobError> {
        let found = self.0.store.head(&copied(folder)).await?;
        Ok(found.is_some())
    }

    /// The files of this folder are all here.
    pub async fn note_copied(&self, folder: Uuid) -> Result<(), BlobError> {
        let text = Bytes::from_static(b"all files of this folder were copied here\n");
        Ok(self.0.store.put(&copied(folder), vec![text]).await?)
    }
}

fn copied(folder: Uuid) -> String {
    format!("copied/{folder}")
}

/// The id in an object; the first who asks writes it.
async fn mark(store: &Store, key: &str, fresh: Uuid) -> Result<Uuid, BlobError> {
    let wrong = |why: &str| BlobError::from(store.trouble(Kind::Refused, "begin", why));
    // Read first: a server that knows no condition would write over the mark of another cluster.
    if store.get(key).await?.is_none() {
        // Whether it was written or somebody was faster: what is there then counts. So it also does where the server
        // knows no condition and both have written.
        store.create(key, Bytes::from(format!("{fresh}\n"))).await?;
    }
    let text = store.get(key).await?;
    let (text, _) = text.ok_or_else(|| {
        wrong(
            "what was written just now is not there: the server does not show at once what it has",
        )
    })?;
    parse(&text).ok_or_else(|| {
        wrong(&format!(
            "its object {key:?} holds no id; something else keeps files there: use another bucket, or a prefix (s3.prefix)"
        ))
    })
}

fn parse(text: &[u8]) -> Option<Uuid> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}
