//! Files by digest, in a bucket of an object store: `blobs/<aa>/<digest>`, behind the prefix of the settings.
//!
//! Invariant: an object under its digest is complete and holds what the digest says. Its bytes are hashed on their way
//! in, and an object is there as a whole or not at all. A bucket cannot rename, and a delete takes whatever is there when
//! it comes: so no key is used again once its object was to go. A blob that is stored anew gets a key of the next
//! *generation* (`<digest>.1`), which no delete of a coordinator that has lost the lead can mean (`generations`, `remove`).
//!
//! Beside them: `storage-id` and `cluster-id` (`marks`), `uploads/<digest>` (how far an upload in parts is, `begun`),
//! `going/<id>` (blobs that are to go), `damaged/<digest>`, `copied/<id>` (folders whose files were copied here) and
//! `probe/<id>`.
//! Not here: requests and what their errors mean (`marquee-objects`).

mod begun;
mod damaged;
mod generations;
mod marks;
mod read;
mod remove;
mod sweep;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use marquee_domain::artifact::{Digest, Manifest};
use marquee_objects::{Found, Kind, Store, Trouble};
use tokio::sync::Semaphore;
use uuid::Uuid;

use self::begun::Claim;
use self::damaged::Damaged;
use self::generations::Generations;
pub use self::marks::Marks;
pub(super) use self::read::Reader;
pub(super) use self::remove::{Condemned, Going};
pub use self::upload::LEAST_PART_BYTES;
pub(super) use self::upload::Upload;
use super::vouch::Vouches;
use super::{BlobError, Checked, ObjectTrouble, Wrong};

/// Objects that are looked for at once.
const LOOKS_AT_ONCE: usize = 64;
/// Bytes of files on their way in that are held in memory, of all uploads together: a part is sent as one, and again where
/// the server did not take it.
const HELD_MIB: usize = 512;
/// How long a look at the bucket's own mark counts. Only then is an object that is not there taken for missing.
const MARK_HOLDS: Duration = Duration::from_secs(1);

/// A bucket of blobs. A cheap handle.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Store,
    vouches: Vouches,
    shared: Arc<Shared>,
    /// Bytes of a part, but for files of more than 9,000 of them.
    least_part_bytes: u64,
}

#[derive(Debug)]
struct Shared {
    damaged: Damaged,
    generations: Mutex<Generations>,
    /// Whether this process leads: then nobody else changes what is in memory here.
    leads: AtomicBool,
    storage: Mutex<Option<Uuid>>,
    mark_seen: Mutex<Option<Instant>>,
    going_seen: Mutex<Option<Instant>>,
    uploads: Mutex<HashMap<Digest, Arc<Claim>>>,
    held: Arc<Semaphore>,
}

impl From<Trouble> for BlobError {
    fn from(trouble: Trouble) -> Self {
        Self::Objects {
            trouble: match trouble.kind {
                Kind::Away => ObjectTrouble::Away,
                Kind::Refused => ObjectTrouble::Refused,
                Kind::Full => ObjectTrouble::Full,
            },
            text: trouble.to_string(),
        }
    }
}

impl Bucket {
    /// Makes ready; nothing is asked yet. Parts of uploads have `least_part_bytes` or more, of which servers want 5 MiB.
    #[must_use]
    pub fn new(store: Store, least_part_bytes: u64) -> Self {
        Self {
            store,
            vouches: Vouches::default(),
            shared: Arc::new(Shared {
                damaged: Damaged::default(),
                generations: Mutex::default(),
                leads: AtomicBool::new(false),
                storage: Mutex::default(),
                mark_seen: Mutex::default(),
                going_seen: Mutex::default(),
                uploads: Mutex::default(),
                held: Arc::new(Semaphore::new(HELD_MIB)),
            }),
            least_part_bytes,
        }
    }

    /// From here on this process leads: what others wrote down before is read, and nobody writes any more.
    pub(super) async fn remove_leftovers(&self) -> Result<(), BlobError> {
        // First: a look of the time before, which is still under way, must not replace what is read now.
        self.shared.leads.store(true, Ordering::SeqCst);
        self.read_damaged().await?;
        self.read_going().await
    }

    pub(super) async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        // Before the look: what is here then cannot go between the look and the answer.
        self.vouches.answer(&digests);
        let found: Result<Vec<bool>, BlobError> = stream::iter(digests.clone())
            .map(|digest| {
                let bucket = self.clone();
                async move { Ok(bucket.find(&digest).await?.is_some()) }
            })
            // In the order of the digests, beside which the answers are put below.
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                // Nobody hears an answer, so nobody counts on these.
                self.vouches.settle_answers(&digests);
                return Err(error);
            }
        };
        let missing = digests.into_iter().zip(found);
        let missing: Vec<Digest> = missing
            .filter_map(|(digest, is_here)| (!is_here).then_some(digest))
            .collect();
        self.vouches.settle_answers(&missing);
        Ok(missing)
    }

    pub(super) async fn check(&self, manifest: &Manifest) -> Result<Checked, BlobError> {
        let mut files: BTreeMap<Digest, (String, u64)> = BTreeMap::new();
        for file in &manifest.files {
            let wanted = (file.path.clone(), file.size_bytes);
            files.entry(file.digest.clone()).or_insert(wanted);
        }
        // Vouched for before the look: what is here then stays.
        let vouch = self.vouches.vouch(files.keys().cloned().collect());
        let wrong: Vec<Option<Wrong>> = stream::iter(files)
            .map(|(digest, (path, size_bytes))| {
                let bucket = self.clone();
                async move {
                    let why = bucket.wrong_with(&digest, size_bytes).await?;
                    Ok::<_, BlobError>(why.map(|why| Wrong { path, digest, why }))
                }
            })
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        let wrong = wrong.into_iter().flatten().collect();
        Ok(Checked { wrong, vouch })
    }

    async fn wrong_with(
        &self,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<Option<String>, BlobError> {
        Ok(match self.find(digest).await? {
            Some((_, found)) if found.size_bytes == size_bytes => None,
            Some((key, found)) => match self.verify(digest, &key, &found).await? {
                None => Some(format!(
                    "has {} bytes here, not {size_bytes}",
                    found.size_bytes
                )),
                Some(problem) => Some(format!("is damaged here: {problem}")),
            },
            None if self.shared.damaged.has(digest) => {
                Some("was damaged here and set aside".to_owned())
            }
            None => Some("was not uploaded, or is not here any more".to_owned()),
        })
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        PathBuf::from(self.key(digest))
    }

    pub(super) fn damaged_among<'a>(&self, manifest: &'a Manifest) -> Option<&'a str> {
        let mut files = manifest.files.iter();
        let first = files.find(|file| self.shared.damaged.has(&file.digest))?;
        Some(&first.path)
    }

    pub(super) fn has_damaged(&self) -> bool {
        self.shared.damaged.has_any()
    }

    /// The key under which a blob is, or would be stored now.
    fn key(&self, digest: &Digest) -> String {
        generations::key(digest, self.generations().of(digest))
    }

    /// The object of a blob; None: it is not here, which is said only while the bucket is the one that it was.
    async fn find(&self, digest: &Digest) -> Result<Option<(String, Found)>, BlobError> {
        if self.shared.damaged.has(digest) {
            return Ok(None);
        }
        let key = self.key(digest);
        if let Some(found) = self.store.head(&key).await? {
            return Ok(Some((key, found)));
        }
        self.is_the_same().await?;
        if self.leads() {
            return Ok(None);
        }
        // The one that leads may have stored it under another key since this process has looked.
        self.read_going_if_old().await?;
        let now = self.key(digest);
        if now == key {
            return Ok(None);
        }
        let found = self.store.head(&now).await?;
        Ok(found.map(|found| (now, found)))
    }

    fn leads(&self) -> bool {
        self.shared.leads.load(Ordering::SeqCst)
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        lock(&self.shared.generations)
    }
}

/// Each change under these locks is one step: a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something was seen within that time, after which it is to be looked at again.
fn is_fresh(seen: &Mutex<Option<Instant>>, within: Duration) -> bool {
    lock(seen).is_some_and(|at| at.elapsed() < within)
}
