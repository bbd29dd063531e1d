//! A blob on its way out of a bucket: read piece by piece, the next one while the one before is sent on.

use std::collections::VecDeque;

use bytes::Bytes;
use marquee_domain::artifact::Digest;
use marquee_domain::limits::CHUNK_BYTES;
use marquee_objects::{Found, Kind, Trouble};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::Bucket;
use super::damaged::READ_BYTES;
use crate::blobs::BlobError;

/// A blob on its way out.
#[derive(Debug)]
pub(in crate::blobs) struct Reader {
    bucket: Bucket,
    digest: Digest,
    key: String,
    found: Found,
    /// The bytes so far; None where the reader began in the middle.
    hash: Option<Sha256>,
    /// Up to where pieces were asked for.
    asked: u64,
    coming: Option<Coming>,
    chunks: VecDeque<Bytes>,
    is_over: bool,
}

/// A piece that is being read.
#[derive(Debug)]
struct Coming(JoinHandle<Result<Option<Bytes>, Trouble>>);

impl Drop for Coming {
    fn drop(&mut self) {
        // Whoever wanted it is gone.
        self.0.abort();
    }
}

impl Bucket {
    pub(in crate::blobs) async fn read(
        &self,
        digest: Digest,
        offset: u64,
        expected_bytes: Option<u64>,
    ) -> Result<Reader, BlobError> {
        let Some((key, found)) = self.find(&digest).await? else {
            return Err(match self.shared.damaged.has(&digest) {
                true => {
                    let problem = "it was not what its digest says".to_owned();
                    BlobError::Damaged { digest, problem }
                }
                false => BlobError::NotFound(digest),
            });
        };
        let size_bytes = found.size_bytes;
        let is_other = expected_bytes.is_some_and(|asked| asked != size_bytes);
        if is_other || offset > size_bytes {
            // Either the object is damaged or the list that names it is wrong. The bytes decide.
            return Err(match self.verify(&digest, &key, &found).await? {
                Some(problem) => BlobError::Damaged { digest, problem },
                None => match expected_bytes.filter(|_| is_other) {
                    Some(asked) => BlobError::OtherSize {
                        digest,
                        size_bytes,
                        asked,
                    },
                    None => BlobError::OffsetTooLarge {
                        digest,
                        offset,
                        size_bytes,
                    },
                },
            });
        }
        let mut reader = Reader {
            bucket: self.clone(),
            digest,
            key,
            found,
            hash: (offset == 0).then(Sha256::new),
            asked: offset,
            coming: None,
            chunks: VecDeque::new(),
            is_over: false,
        };
        reader.ask();
        Ok(reader)
    }
}

impl Reader {
    fn ask(&mut self) {
        let (from, size) = (self.asked, self.found.size_bytes);
        if from >= size {
            return;
        }
        let to = (from + READ_BYTES).min(size);
        self.asked = to;
        let (store, key) = (self.bucket.store.clone(), self.key.clone());
        let etag = self.found.etag.clone();
        self.coming = Some(Coming(tokio::spawn(async move {
            store.get_range(&key, from..to, &etag).await
        })));
    }

    pub(in crate::blobs) async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.is_over {
            return Ok(None);
        }
        let next = self.try_next().await;
        self.is_over = !matches!(next, Ok(Some(_)));
        next
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Ok(Some(chunk));
        }
        let Some(coming) = &mut self.coming else {
            return self.end().await.map(|()| None);
        };
        let piece = (&mut coming.0).await.map_err(|_| {
            let place = &self.bucket.store;
            place.trouble(Kind::Away, "read an object", "this coordinator stops")
        })?;
        self.coming = None;
        let mut piece = piece?.ok_or_else(|| self.bucket.changed())?;
        // Before this one is handed on: the next comes while the client takes it.
        self.ask();
        if let Some(hash) = &mut self.hash {
            hash.update(&piece);
        }
        while piece.len() > CHUNK_BYTES {
            self.chunks.push_back(piece.split_to(CHUNK_BYTES));
        }
        self.chunks.push_back(piece);
        Ok(self.chunks.pop_front())
    }

    /// All of it was read: is it what it should be?
    async fn end(&mut self) -> Result<(), BlobError> {
        let Some(hash) = self.hash.take() else {
            return Ok(());
        };
        if Digest::from_hash(&hash.finalize()) == self.digest {
            return Ok(());
        }
        // Once more before it counts as damaged: it may have been the way, and not the object.
        let (digest, bucket) = (self.digest.clone(), &self.bucket);
        match bucket.verify(&digest, &self.key, &self.found).await? {
            Some(problem) => Err(BlobError::Damaged { digest, problem }),
            None => {
                let why = "it arrived other than it is stored; try again";
                Err(bucket
                    .store
                    .trouble(Kind::Away, "read an object", why)
                    .into())
            }
        }
    }
}
