//! A blob on its way into a bucket: as a whole where it is small, else in parts. Bytes are hashed on their way, and the
//! object appears when all of them were what was announced.
//!
//! After each part it is written down how far the upload is (`begun`), so that a broken one goes on there, whoever goes on.

use std::sync::Arc;

use bytes::Bytes;
use marquee_domain::artifact::Digest;
use marquee_objects::{Kind, Store};
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::begun::{Begun, Claim};
use super::{Bucket, HELD_MIB};
use crate::blobs::BlobError;
use crate::blobs::vouch::Vouch;

const MIB: u64 = 1024 * 1024;
/// Bytes of a part; a file that has no more is sent as a whole. Each part costs two requests, and a connection that breaks
/// costs a part.
pub const LEAST_PART_BYTES: u64 = 16 * MIB;
/// Parts of an upload, of which servers take 10,000: larger files have larger parts.
const PARTS_MAX: u64 = 9_000;
/// Bytes of an object, as servers have it.
const OBJECT_MAX_BYTES: u64 = 5 * 1024 * 1024 * MIB;

/// A blob on its way in.
#[derive(Debug)]
pub(in crate::blobs) struct Upload {
    bucket: Bucket,
    digest: Digest,
    size_bytes: u64,
    key: String,
    got: u64,
    hash: Sha256,
    /// Bytes that are not sent yet, and the memory that they may take.
    chunks: Vec<Bytes>,
    held: u64,
    room: Option<OwnedSemaphorePermit>,
    parts: Option<Parts>,
    /// The key stays this blob's until it is there: nothing of it can be condemned meanwhile.
    _vouch: Vouch,
}

#[derive(Debug)]
struct Parts {
    part_bytes: u64,
    way: Way,
    /// Whether it goes on with what somebody else sent, who may have sent something else.
    is_resumed: bool,
    owner: Owner,
}

#[derive(Debug)]
enum Way {
    Waits(Begun),
    Sends(JoinHandle<Result<Begun, BlobError>>),
    /// After an error.
    Lost,
}

/// What becomes of an upload that breaks.
#[derive(Debug)]
enum Owner {
    /// It is written down, and goes on.
    Written(Written),
    /// The same file comes twice at once: this one is given up.
    Alone(Alone),
}

#[derive(Debug)]
struct Written {
    bucket: Bucket,
    digest: Digest,
    claim: Arc<Claim>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.bucket.leave_upload(&self.digest, &self.claim);
    }
}

#[derive(Debug)]
struct Alone {
    store: Store,
    key: String,
    /// None: it is over.
    upload: Option<String>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let (Some(upload), Ok(runtime)) =
            (self.upload.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (store, key) = (self.store.clone(), self.key.clone());
        // Where it cannot be, the sweep finds it.
        runtime.spawn(async move { store.abort(&key, &upload).await });
    }
}

impl Bucket {
    pub(in crate::blobs) async fn write(
        &self,
        digest: Digest,
        size_bytes: u64,
        offset: u64,
    ) -> Result<Upload, BlobError> {
        if size_bytes > OBJECT_MAX_BYTES {
            let why = format!(
                "an object has {OBJECT_MAX_BYTES} bytes at most, and this file {size_bytes}; split it"
            );
            let trouble = self.store.trouble(Kind::Refused, "write an object", &why);
            return Err(trouble.into());
        }
        // Before the key is looked up: from here on it is not condemned.
        let vouch = self.vouches.vouch(vec![digest.clone()]);
        let mut upload = Upload {
            key: self.key(&digest),
            bucket: self.clone(),
            digest,
            size_bytes,
            got: offset,
            hash: Sha256::new(),
            chunks: Vec::new(),
            held: 0,
            room: None,
            parts: None,
            _vouch: vouch,
        };
        if size_bytes <= self.least_part_bytes {
            if offset > 0 {
                return Err(BlobError::Moved(upload.digest));
            }
            upload.room = Some(self.room(size_bytes).await?);
        } else {
            let (parts, hash) = self
                .parts(&upload.digest, &upload.key, size_bytes, offset)
                .await?;
            upload.parts = Some(parts);
            upload.hash = hash;
        }
        Ok(upload)
    }

    /// An upload in parts that stands at `offset`, and the digest up to there.
    async fn parts(
        &self,
        digest: &Digest,
        key: &str,
        size_bytes: u64,
        offset: u64,
    ) -> Result<(Parts, Sha256), BlobError> {
        let moved = || BlobError::Moved(digest.clone());
        let part_bytes = part_bytes(size_bytes, self.least_part_bytes);
        let begin = async || {
            let upload = self.store.begin(key).await?;
            Ok::<_, BlobError>(Begun::new(upload, key.to_owned(), size_bytes, part_bytes))
        };
        let Some(claim) = self.take_upload(digest) else {
            if offset > 0 {
                // Whoever is at work with it may be a connection that is broken and does not know it yet.
                return Err(moved());
            }
            let begun = begin().await?;
            let alone = Alone {
                store: self.store.clone(),
                key: key.to_owned(),
                upload: Some(begun.upload.clone()),
            };
            let parts = Parts {
                part_bytes,
                way: Way::Waits(begun),
                is_resumed: false,
                owner: Owner::Alone(alone),
            };
            return Ok((parts, Sha256::new()));
        };
        let owner = Owner::Written(Written {
            bucket: self.clone(),
            digest: digest.clone(),
            claim,
        });
        let known = self.read_begun(digest).await?;
        let fits = |begun: &Begun| begun.size_bytes == size_bytes && begun.bytes() == offset;
        let (begun, hash) = match known {
            Some(begun) if offset > 0 && fits(&begun) => {
                let hash = begun.hash().ok_or_else(moved)?;
                // Asked before a part is sent: some servers answer to one of an upload that they gave up as to a fault of
                // their own, which would be tried for ever.
                if !self.store.is_unfinished(key, &begun.upload).await? {
                    self.forget_begun(digest).await?;
                    return Err(moved());
                }
                (begun, hash)
            }
            _ if offset > 0 => return Err(moved()),
            known => {
                if let Some(earlier) = known {
                    self.give_up(digest, &earlier).await?;
                }
                let begun = begin().await?;
                // Before the first part: an upload that is written down nowhere would stay on the server until the sweep.
                self.write_begun(digest, &begun).await?;
                (begun, Sha256::new())
            }
        };
        let parts = Parts {
            part_bytes: begun.part_bytes,
            way: Way::Waits(begun),
            is_resumed: offset > 0,
            owner,
        };
        Ok((parts, hash))
    }

    /// Memory for so many bytes. Whoever has it needs no more of it to go on, so that nobody waits for ever.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, BlobError> {
        let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
        let most = u32::try_from(HELD_MIB).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.shared.held)
            .acquire_many_owned(mib.clamp(1, most))
            .await;
        room.map_err(|_| {
            let why = "this coordinator stops";
            self.store
                .trouble(Kind::Away, "write an object", why)
                .into()
        })
    }
}

impl Upload {
    pub(in crate::blobs) async fn push(&mut self, mut chunk: Bytes) -> Result<(), BlobError> {
        self.got += chunk.len() as u64;
        if self.got > self.size_bytes {
            return Err(self.wrong_size());
        }
        let Some(parts) = &self.parts else {
            self.hash.update(&chunk);
            self.chunks.push(chunk);
            return Ok(());
        };
        if let Owner::Written(written) = &parts.owner {
            written.claim.touch();
        }
        let part_bytes = parts.part_bytes;
        while !chunk.is_empty() {
            if self.room.is_none() {
                self.room = Some(self.bucket.room(part_bytes).await?);
            }
            // At the boundary of a part the digest is written down, so none may go beyond it.
            let fits = usize::try_from(part_bytes - self.held).unwrap_or(usize::MAX);
            let some = chunk.split_to(chunk.len().min(fits));
            self.hash.update(&some);
            self.held += some.len() as u64;
            self.chunks.push(some);
            if self.held == part_bytes {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Sends what is held as a part, when the one before has arrived. It is not waited for.
    async fn send(&mut self) -> Result<(), BlobError> {
        let mut begun = self.arrived().await?;
        let Some(parts) = &mut self.parts else {
            return Ok(());
        };
        let is_written = match &parts.owner {
            Owner::Alone(_) => false,
            Owner::Written(written) if self.bucket.has_upload(&self.digest, &written.claim) => true,
            // Somebody goes on with it, since nothing came here for a while.
            Owner::Written(_) => return Err(BlobError::Moved(self.digest.clone())),
        };
        let chunks = std::mem::take(&mut self.chunks);
        self.held = 0;
        let (bucket, digest, room) = (self.bucket.clone(), self.digest.clone(), self.room.take());
        // As of the end of this part: more is added to the other one while it is on its way.
        let hash = self.hash.clone();
        parts.way = Way::Sends(tokio::spawn(async move {
            let sent = bucket
                .store
                .put_part(&begun.key, &begun.upload, begun.tags.len(), chunks)
                .await?;
            // The server has the bytes: another part may take their place in memory.
            drop(room);
            let Some(tag) = sent else {
                // The server gave it up, by a rule of its own or by somebody's hand: it begins anew.
                if is_written {
                    bucket.forget_begun(&digest).await?;
                }
                return Err(BlobError::Moved(digest));
            };
            begun.tags.push(tag);
            begun.note(&hash);
            if is_written {
                bucket.write_begun(&digest, &begun).await?;
            }
            Ok(begun)
        }));
        Ok(())
    }

    /// The upload with all parts that were sent so far.
    async fn arrived(&mut self) -> Result<Begun, BlobError> {
        let lost = || BlobError::Moved(self.digest.clone());
        let Some(parts) = &mut self.parts else {
            return Err(lost());
        };
        match std::mem::replace(&mut parts.way, Way::Lost) {
            Way::Waits(begun) => Ok(begun),
            Way::Sends(sends) => sends.await.map_err(|_| lost())?,
            Way::Lost => Err(lost()),
        }
    }

    pub(in crate::blobs) async fn finish(mut self) -> Result<(), BlobError> {
        if self.parts.is_none() {
            return self.finish_whole().await;
        }
        if self.held > 0 {
            self.send().await?;
        }
        let begun = self.arrived().await?;
        if self.got != self.size_bytes {
            return Err(self.wrong_size());
        }
        let got = Digest::from_hash(&std::mem::take(&mut self.hash).finalize());
        let Some(Parts {
            is_resumed, owner, ..
        }) = self.parts.take()
        else {
            return Ok(());
        };
        let is_written = matches!(owner, Owner::Written(_));
        if got != self.digest {
            if is_written {
                self.bucket.give_up(&self.digest, &begun).await?;
            }
            // What came before may be what is wrong, and that was not this client's.
            return Err(match is_resumed {
                true => BlobError::Moved(self.digest.clone()),
                false => self.wrong_digest(got),
            });
        }
        let (key, store) = (&begun.key, &self.bucket.store);
        let done = store.complete(key, &begun.upload, &begun.tags).await;
        // Whatever it answered: a server that was heard and whose answer was lost has the object.
        if !self.is_there(key).await? {
            if !done? && is_written {
                self.bucket.forget_begun(&self.digest).await?;
            }
            return Err(BlobError::Moved(self.digest.clone()));
        }
        match owner {
            Owner::Alone(mut alone) => alone.upload = None,
            // Held until here: nobody else may begin while it is put together.
            Owner::Written(_) => self.bucket.forget_begun(&self.digest).await?,
        }
        self.bucket.forget_damage(&self.digest).await
    }

    async fn finish_whole(mut self) -> Result<(), BlobError> {
        if self.got != self.size_bytes {
            return Err(self.wrong_size());
        }
        let got = Digest::from_hash(&std::mem::take(&mut self.hash).finalize());
        if got != self.digest {
            return Err(self.wrong_digest(got));
        }
        let chunks = std::mem::take(&mut self.chunks);
        let store = &self.bucket.store;
        store.put(&self.key, chunks).await?;
        // Seen before it is said to be here: rows will name it.
        if !self.is_there(&self.key).await? {
            return Err(BlobError::Moved(self.digest.clone()));
        }
        self.bucket.forget_damage(&self.digest).await
    }

    /// Whether the server shows what it was given. False: it is not there.
    async fn is_there(&self, key: &str) -> Result<bool, BlobError> {
        let store = &self.bucket.store;
        match store.head(key).await? {
            None => Ok(false),
            Some(found) if found.size_bytes == self.size_bytes => Ok(true),
            Some(found) => {
                let why = format!(
                    "it says that it has {} bytes of {} that were sent",
                    found.size_bytes, self.size_bytes
                );
                Err(store.trouble(Kind::Refused, "write an object", &why).into())
            }
        }
    }

    fn wrong_digest(&self, got: Digest) -> BlobError {
        BlobError::WrongDigest {
            announced: self.digest.clone(),
            got,
        }
    }

    fn wrong_size(&self) -> BlobError {
        BlobError::WrongSize {
            digest: self.digest.clone(),
            announced: self.size_bytes,
            got: self.got,
        }
    }
}

/// Bytes of a part: whole MiB, and so many that a file has no more parts than servers take.
fn part_bytes(size_bytes: u64, least: u64) -> u64 {
    let wanted = size_bytes.div_ceil(PARTS_MAX).div_ceil(MIB) * MIB;
    wanted.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_has_more_parts_than_servers_take() {
        for size in [
            LEAST_PART_BYTES + 1,
            20 * 1024 * MIB,
            150 * 1024 * MIB,
            OBJECT_MAX_BYTES - 1,
            OBJECT_MAX_BYTES,
        ] {
            let part = part_bytes(size, LEAST_PART_BYTES);
            assert!(size.div_ceil(part) <= PARTS_MAX, "{size}");
            // A part has 5 GiB at most.
            assert!((LEAST_PART_BYTES..1024 * MIB).contains(&part), "{part}");
        }
        assert_eq!(
            part_bytes(20 * 1024 * MIB, LEAST_PART_BYTES),
            LEAST_PART_BYTES
        );
    }
}
