//! Blobs whose object is not what its digest says. The object stays where it is, since a bucket cannot move it; a mark
//! beside it says that nobody is given it, until it is stored again.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bytes::Bytes;
use futures::TryStreamExt as _;
use marquee_domain::artifact::Digest;
use marquee_objects::{Found, Kind};
use sha2::{Digest as _, Sha256};

use super::{Bucket, lock};
use crate::blobs::BlobError;

/// Bytes read at once of an object: few enough that a connection which froze costs little.
pub(super) const READ_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Damaged(Mutex<BTreeSet<Digest>>);

impl Damaged {
    pub(super) fn has(&self, digest: &Digest) -> bool {
        lock(&self.0).contains(digest)
    }

    pub(super) fn has_any(&self) -> bool {
        !lock(&self.0).is_empty()
    }
}

fn mark(digest: &Digest) -> String {
    format!("damaged/{digest}")
}

impl Bucket {
    pub(super) async fn read_damaged(&self) -> Result<(), BlobError> {
        let mut digests = BTreeSet::new();
        let mut listed = self.store.list("damaged");
        while let Some(listed) = listed.try_next().await? {
            let name = listed.key.rsplit('/').next().unwrap_or_default();
            digests.extend(name.parse::<Digest>());
        }
        *lock(&self.shared.damaged.0) = digests;
        Ok(())
    }

    /// Reads a whole object. What is wrong with it, in which case it is marked; None: it is what it should be.
    pub(super) async fn verify(
        &self,
        digest: &Digest,
        key: &str,
        found: &Found,
    ) -> Result<Option<String>, BlobError> {
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < found.size_bytes {
            let to = (at + READ_BYTES).min(found.size_bytes);
            match self.store.get_range(key, at..to, &found.etag).await? {
                Some(bytes) => hash.update(&bytes),
                None => return Err(self.changed()),
            }
            at = to;
        }
        let got = Digest::from_hash(&hash.finalize());
        if got == *digest {
            return Ok(None);
        }
        let problem = format!("its {} bytes have digest {}", found.size_bytes, got.short());
        tracing::error!(
            blob = %digest, problem, bucket = %self.store.place(),
            "a stored file is damaged; artifacts that need it are damaged until it is stored again"
        );
        // In memory first: nobody is given it while the mark is on its way.
        lock(&self.shared.damaged.0).insert(digest.clone());
        let text = Bytes::from(format!("{problem}\n"));
        self.store.put(&mark(digest), vec![text]).await?;
        // Whoever found the fault may have read what was stored anew in the meantime.
        let now = self.store.head(key).await?;
        if now.is_some_and(|now| now.etag != found.etag) {
            self.forget_damage(digest).await?;
            return Err(self.changed());
        }
        Ok(Some(problem))
    }

    /// Somebody has stored it anew in between: whoever reads begins again.
    pub(super) fn changed(&self) -> BlobError {
        let why = "the object was replaced or deleted in between; try again";
        self.store.trouble(Kind::Away, "read an object", why).into()
    }

    /// The blob is whole again.
    pub(super) async fn forget_damage(&self, digest: &Digest) -> Result<(), BlobError> {
        if !self.shared.damaged.has(digest) {
            return Ok(());
        }
        // The mark first: a killed process must not leave one that nobody can explain.
        self.store.delete(vec![mark(digest)]).await?;
        lock(&self.shared.damaged.0).remove(digest);
        tracing::info!(blob = %digest, "a damaged blob was stored again");
        Ok(())
    }
}
