//! How far uploads in parts are, written beside them: with it whoever comes next goes on, in this process, in the one
//! after a kill, or in the coordinator that takes over.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use marquee_domain::artifact::Digest;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState as _, SerializedState};

use super::{Bucket, lock};
use crate::blobs::BlobError;

/// An upload that has taken nothing for as long is given to whoever wants to go on with it: a client that lost its
/// connection is back sooner than the connection is known to be broken.
const STALE: Duration = Duration::from_secs(5);

/// An upload in parts, as it stands after its last whole part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Begun {
    /// The server's name for it.
    pub(super) upload: String,
    pub(super) key: String,
    pub(super) size_bytes: u64,
    pub(super) part_bytes: u64,
    /// The server's tags of the parts that it has, in order.
    pub(super) tags: Vec<String>,
    /// The digest so far, in a form in which it can go on: nobody could read the parts again.
    hash: String,
}

impl Begun {
    pub(super) fn new(upload: String, key: String, size_bytes: u64, part_bytes: u64) -> Self {
        let mut begun = Self {
            upload,
            key,
            size_bytes,
            part_bytes,
            tags: Vec::new(),
            hash: String::new(),
        };
        begun.note(&<Sha256 as sha2::Digest>::new());
        begun
    }

    /// Bytes that the parts have.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = self.part_bytes.saturating_mul(self.tags.len() as u64);
        bytes.min(self.size_bytes)
    }

    pub(super) fn note(&mut self, hash: &Sha256) {
        let state = hash.serialize();
        self.hash = state.iter().map(|byte| format!("{byte:02x}")).collect();
    }

    pub(super) fn hash(&self) -> Option<Sha256> {
        let text = self.hash.as_bytes();
        let pair = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(text, 16).ok()
        };
        let bytes: Option<Vec<u8>> = text.chunks(2).map(pair).collect();
        let state = SerializedState::<Sha256>::try_from(bytes?.as_slice()).ok()?;
        Sha256::deserialize(&state).ok()
    }
}

/// Who goes on with an upload. One does at a time, in this process; no other takes uploads.
#[derive(Debug)]
pub(super) struct Claim {
    last: Mutex<Instant>,
}

impl Claim {
    pub(super) fn touch(&self) {
        *lock(&self.last) = Instant::now();
    }
}

fn key(digest: &Digest) -> String {
    format!("uploads/{digest}")
}

impl Bucket {
    /// Takes the upload of a blob. None: somebody is at work with it.
    pub(super) fn take_upload(&self, digest: &Digest) -> Option<Arc<Claim>> {
        let mut uploads = lock(&self.shared.uploads);
        if let Some(claim) = uploads.get(digest)
            && lock(&claim.last).elapsed() < STALE
        {
            return None;
        }
        let claim = Arc::new(Claim {
            last: Mutex::new(Instant::now()),
        });
        uploads.insert(digest.clone(), Arc::clone(&claim));
        Some(claim)
    }

    /// Whether nobody else has taken it since.
    pub(super) fn has_upload(&self, digest: &Digest, claim: &Arc<Claim>) -> bool {
        let uploads = lock(&self.shared.uploads);
        uploads
            .get(digest)
            .is_some_and(|now| Arc::ptr_eq(now, claim))
    }

    pub(super) fn leave_upload(&self, digest: &Digest, claim: &Arc<Claim>) {
        let mut uploads = lock(&self.shared.uploads);
        if uploads
            .get(digest)
            .is_some_and(|now| Arc::ptr_eq(now, claim))
        {
            uploads.remove(digest);
        }
    }

    pub(in crate::blobs) async fn begun(&self, digest: &Digest) -> Result<u64, BlobError> {
        let begun = self.read_begun(digest).await?;
        Ok(begun.map_or(0, |begun| begun.bytes()))
    }

    /// What was written down of an upload that can go on.
    pub(super) async fn read_begun(&self, digest: &Digest) -> Result<Option<Begun>, BlobError> {
        let Some((text, _)) = self.store.get(&key(digest)).await? else {
            return Ok(None);
        };
        // What cannot be read, such as that of a later version, is begun anew. The sweep gives its
        // upload up.
        let begun = serde_json::from_slice::<Begun>(&text).ok();
        // Under another key it is of a generation that has gone.
        Ok(begun.filter(|begun| begun.key == self.key(digest) && begun.hash().is_some()))
    }

    pub(super) async fn write_begun(
        &self,
        digest: &Digest,
        begun: &Begun,
    ) -> Result<(), BlobError> {
        let text = serde_json::to_vec(begun).expect("numbers and texts become JSON");
        Ok(self
            .store
            .put(&key(digest), vec![Bytes::from(text)])
            .await?)
    }

    /// Gives up an upload, and forgets it.
    pub(super) async fn give_up(&self, digest: &Digest, begun: &Begun) -> Result<(), BlobError> {
        // In this order: killed in between, what is written down leads to an upload that is over,
        // and whoever asks for that begins anew.
        self.store.abort(&begun.key, &begun.upload).await?;
        self.forget_begun(digest).await
    }

    pub(super) async fn forget_begun(&self, digest: &Digest) -> Result<(), BlobError> {
        Ok(self.store.delete(vec![key(digest)]).await?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn a_digest_goes_on_from_what_was_written_down() {
        let mut begun = Begun::new("u".into(), "k".into(), 100, 40);
        let mut hash = Sha256::new();
        hash.update([7; 40]);
        begun.note(&hash);
        begun.tags.push("t".into());
        let text = serde_json::to_vec(&begun).unwrap();
        let again: Begun = serde_json::from_slice(&text).unwrap();
        assert_eq!(again.bytes(), 40);
        let mut on = again.hash().unwrap();
        on.update([7; 60]);
        assert_eq!(Digest::from_hash(&on.finalize()), Digest::of(&[7; 100]));
        begun.tags.extend(["t".to_owned(), "t".to_owned()]);
        assert_eq!(begun.bytes(), 100, "the last part is shorter");
        for broken in ["", "zz", "00"] {
            let begun = Begun {
                hash: broken.into(),
                ..again.clone()
            };
            assert!(begun.hash().is_none(), "{broken}");
        }
    }
}
