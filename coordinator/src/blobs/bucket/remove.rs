//! Blobs on their way out of a bucket. A coordinator that was stopped in the middle of a removal goes on with it after
//! another one has taken over, and no condition of ours holds a delete back. So what is to go gets a new generation
//! first, which is written down (`going/<id>`); then its names are asked for, by a transaction that only the one that
//! leads can begin; and only then its object is deleted. Whoever leads next reads what is written there, takes those blobs
//! for missing, and stores them under another key: a delete that comes late finds the old one.
//!
//! What was written down by one that was refused at that transaction is named still, and put back at the next start
//! ([`Bucket::settle_going`]).

use std::collections::HashMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use marquee_domain::artifact::Digest;
use marquee_objects::Listed;
use uuid::Uuid;

use super::generations::{self, Batch, Generations};
use super::{Bucket, LOOKS_AT_ONCE, MARK_HOLDS, is_fresh, lock};
use crate::blobs::BlobError;
use crate::blobs::vouch::Turn;

/// Blobs that are to go.
#[derive(Debug)]
pub(in crate::blobs) struct Condemned {
    bucket: Bucket,
    turn: Turn,
}

/// Blobs of which the next generation has begun.
#[derive(Debug)]
pub(in crate::blobs) struct Going {
    bucket: Bucket,
    /// What is written down.
    batch: String,
    digests: Vec<Digest>,
    /// The generation that goes, and its bytes.
    old: HashMap<Digest, (u32, u64)>,
    /// One removes at a time.
    _turn: Turn,
}

impl Bucket {
    pub(in crate::blobs) async fn condemn(&self, digests: &[Digest]) -> Condemned {
        Condemned {
            turn: self.vouches.condemn(digests).await,
            bucket: self.clone(),
        }
    }

    pub(in crate::blobs) async fn bytes_of(&self, digests: Vec<Digest>) -> Result<u64, BlobError> {
        let sizes: Vec<u64> = stream::iter(digests)
            .map(|digest| {
                let bucket = self.clone();
                async move {
                    let found = bucket.find(&digest).await?;
                    Ok::<_, BlobError>(found.map_or(0, |(_, found)| found.size_bytes))
                }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(sizes.into_iter().fold(0, u64::saturating_add))
    }

    pub(in crate::blobs) async fn list_older(
        &self,
        before: DateTime<Utc>,
    ) -> Result<Vec<Digest>, BlobError> {
        let mut older = Vec::new();
        let mut listed = self.store.list("blobs");
        while let Some(Listed { key, modified, .. }) = listed.try_next().await? {
            let Some((digest, generation)) = generations::read_key(&key) else {
                continue;
            };
            // Those of earlier generations go with what is written down of them.
            if modified < before && generation == self.generations().of(&digest) {
                older.push(digest);
            }
        }
        Ok(older)
    }

    /// Reads all that is written down of removals.
    pub(super) async fn read_going(&self) -> Result<(), BlobError> {
        let batches = self.read_batches().await?;
        self.take_over(batches, &mut self.generations());
        Ok(())
    }

    /// The same for one that stands by, now and then.
    pub(super) async fn read_going_if_old(&self) -> Result<(), BlobError> {
        if is_fresh(&self.shared.going_seen, MARK_HOLDS) {
            return Ok(());
        }
        let batches = self.read_batches().await?;
        let mut all = self.generations();
        if !self.leads() {
            self.take_over(batches, &mut all);
        }
        Ok(())
    }

    fn take_over(&self, batches: Vec<(String, Batch)>, all: &mut Generations) {
        all.clear();
        for (key, batch) in batches {
            all.learn(&batch);
            all.batches.insert(key);
        }
        *lock(&self.shared.going_seen) = Some(std::time::Instant::now());
    }

    async fn read_batches(&self) -> Result<Vec<(String, Batch)>, BlobError> {
        let listed: Vec<Listed> = self.store.list("going").try_collect().await?;
        let read: Vec<(String, Option<Batch>)> = stream::iter(listed)
            .map(|one| {
                let bucket = self.clone();
                async move {
                    let batch = bucket.read_batch(&one.key).await?;
                    Ok::<_, BlobError>((one.key, batch))
                }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        let there = read
            .into_iter()
            .filter_map(|(key, batch)| Some((key, batch?)));
        Ok(there.collect())
    }

    async fn read_batch(&self, key: &str) -> Result<Option<Batch>, BlobError> {
        let Some((text, _)) = self.store.get(key).await? else {
            return Ok(None);
        };
        match serde_json::from_slice(&text) {
            Ok(batch) => Ok(Some(batch)),
            Err(error) => {
                tracing::error!(key, %error, "what is written of a removal cannot be read and is passed over: files of it that were stored again count as missing");
                Ok(None)
            }
        }
    }

    async fn write_batch(&self, key: &str, batch: &Batch) -> Result<(), BlobError> {
        let text = serde_json::to_vec(batch).expect("digests and numbers become JSON");
        Ok(self.store.put(key, vec![Bytes::from(text)]).await?)
    }

    pub(in crate::blobs) fn going(&self) -> Vec<Digest> {
        self.generations().digests()
    }

    /// Of these blobs something names each: those that have no object of the newest generation are put back.
    pub(in crate::blobs) async fn settle_going(&self, named: Vec<Digest>) -> Result<(), BlobError> {
        let looked: Vec<Option<(Digest, u32)>> = stream::iter(named)
            .map(|digest| {
                let bucket = self.clone();
                async move { bucket.newest(digest).await }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        let mut put_back = 0;
        for (digest, earlier) in looked.into_iter().flatten() {
            self.generations().set(&digest, earlier);
            put_back += 1;
        }
        if put_back > 0 {
            self.rewrite_batches().await?;
            tracing::info!(
                files = put_back,
                "files that were to go are named, and stay"
            );
        }
        Ok(())
    }

    /// The newest generation of a blob that has an object, where that is an earlier one than is known.
    async fn newest(&self, digest: Digest) -> Result<Option<(Digest, u32)>, BlobError> {
        let generation = self.generations().of(&digest);
        for earlier in (0..=generation).rev() {
            let key = generations::key(&digest, earlier);
            if self.store.head(&key).await?.is_some() {
                return Ok((earlier < generation).then_some((digest, earlier)));
            }
        }
        Ok(None)
    }

    /// Makes what is written down say what is known here.
    async fn rewrite_batches(&self) -> Result<(), BlobError> {
        let keys: Vec<String> = self.generations().batches.iter().cloned().collect();
        for key in keys {
            let Some(mut batch) = self.read_batch(&key).await? else {
                continue;
            };
            let before = batch.next.len();
            batch
                .next
                .retain(|digest, next| *next <= self.generations().of(digest));
            if batch.next.len() < before {
                self.write_batch(&key, &batch).await?;
            }
        }
        Ok(())
    }

    /// Ends what was written down of removals before, so long ago that none of their deletes can come any more. Where a blob
    /// was stored again, that it has another key has to stay.
    pub(super) async fn forget_going(&self, before: DateTime<Utc>) -> Result<(), BlobError> {
        let listed: Vec<Listed> = self.store.list("going").try_collect().await?;
        for one in listed.into_iter().filter(|one| one.modified < before) {
            let Some(mut batch) = self.read_batch(&one.key).await? else {
                continue;
            };
            let before = batch.next.len();
            let (mut over, mut void) = (Vec::new(), Vec::new());
            // Before the looks: whoever stores one of these in between keeps its generation.
            let named: Vec<Digest> = batch.next.keys().cloned().collect();
            let turn = self.vouches.condemn(&named).await;
            for (digest, next) in &batch.next {
                if *next > self.generations().of(digest) {
                    // Written by one that did not lead any more: it was refused, and nothing of it was to go.
                    void.push(digest.clone());
                    continue;
                }
                // Its own delete may not have come through.
                let old = (0..*next).map(|earlier| generations::key(digest, earlier));
                self.store.delete(old.collect()).await?;
                let key = generations::key(digest, *next);
                if self.store.head(&key).await?.is_none() {
                    over.push((digest.clone(), *next));
                }
            }
            for (digest, next) in &over {
                let begin_anew = || {
                    let mut all = self.generations();
                    // A later removal has its own batch.
                    if all.of(digest) == *next {
                        all.set(digest, 0);
                    }
                };
                if turn.if_condemned(digest, begin_anew).is_some() {
                    batch.next.remove(digest);
                }
            }
            drop(turn);
            for digest in &void {
                batch.next.remove(digest);
            }
            if batch.next.is_empty() {
                self.store.delete(vec![one.key.clone()]).await?;
                self.generations().batches.remove(&one.key);
            } else if batch.next.len() < before {
                self.write_batch(&one.key, &batch).await?;
            }
        }
        Ok(())
    }
}

impl Condemned {
    pub(in crate::blobs) async fn take_out(self, unnamed: Vec<Digest>) -> Result<Going, BlobError> {
        let Self { bucket, turn } = self;
        // What is not there has nothing to go.
        let found: Vec<(Digest, Option<u64>)> = stream::iter(unnamed)
            .map(|digest| {
                let bucket = bucket.clone();
                async move {
                    let found = bucket.store.head(&bucket.key(&digest)).await?;
                    Ok::<_, BlobError>((digest, found.map(|found| found.size_bytes)))
                }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        let mut going = Going {
            batch: format!("going/{}", Uuid::new_v4().simple()),
            bucket,
            digests: Vec::new(),
            old: HashMap::new(),
            _turn: turn,
        };
        let mut batch = Batch::default();
        for (digest, size) in found {
            let Some(size) = size else { continue };
            // At once with the question whether it is condemned still: whoever asks for it from here on hears that it is
            // missing, and whoever stores it has another key.
            let taken = going._turn.if_condemned(&digest, || {
                let mut all = going.bucket.generations();
                let old = all.of(&digest);
                all.set(&digest, old + 1);
                old
            });
            if let Some(old) = taken {
                batch.next.insert(digest.clone(), old + 1);
                going.old.insert(digest.clone(), (old, size));
                going.digests.push(digest);
            }
        }
        if !going.digests.is_empty() {
            // Where this fails nothing has gone: `going` is dropped, and puts all of it back.
            going.bucket.write_batch(&going.batch, &batch).await?;
            let mut all = going.bucket.generations();
            all.batches.insert(going.batch.clone());
        }
        Ok(going)
    }
}

impl Going {
    pub(in crate::blobs) fn digests(&self) -> &[Digest] {
        &self.digests
    }

    pub(in crate::blobs) async fn remove(
        mut self,
        unnamed: Vec<Digest>,
    ) -> Result<(u64, u64), BlobError> {
        let (mut count, mut bytes) = (0, 0);
        let mut keys = Vec::new();
        for digest in unnamed {
            // Out of the list first: once its delete is sent, it is not put back whatever becomes of the others.
            if let Some((old, size)) = self.old.remove(&digest) {
                keys.push(generations::key(&digest, old));
                count += 1;
                bytes += size;
            }
        }
        self.bucket.store.delete(keys).await?;
        Ok((count, bytes))
    }
}

impl Drop for Going {
    /// Puts back what was not removed.
    fn drop(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let left = std::mem::take(&mut self.old);
        let (bucket, batch) = (self.bucket.clone(), self.batch.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = bucket.put_back(&batch, left).await {
                tracing::warn!(%error, "files that were to go are not back in their places; they are at the next start");
            }
        });
    }
}

impl Bucket {
    async fn put_back(
        &self,
        key: &str,
        left: HashMap<Digest, (u32, u64)>,
    ) -> Result<(), BlobError> {
        let mut batch = self.read_batch(key).await?.unwrap_or_default();
        for (digest, (old, _)) in left {
            // Stored again in between: then that one counts.
            let next = generations::key(&digest, old + 1);
            if self.store.head(&next).await?.is_none() {
                batch.next.remove(&digest);
                self.generations().set(&digest, old);
            }
        }
        if batch.next.is_empty() {
            self.store.delete(vec![key.to_owned()]).await?;
            self.generations().batches.remove(key);
            return Ok(());
        }
        self.write_batch(key, &batch).await
    }
}
