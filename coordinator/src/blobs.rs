//! Files by digest: in a folder (`folder`), or in a bucket of an object store (`bucket`, where it is built in).
//!
//! Invariant, of both: what stands under a digest is complete and holds what the digest says when it is put there. What
//! turns out to be something else is no blob any more, and may be stored again. One that somebody is about to name is not
//! removed (`vouch`).
//! Not here: who may refer to a blob (the artifacts table).

#[cfg(feature = "s3")]
mod bucket;
mod error;
mod folder;
mod room;
mod vouch;

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use marquee_domain::artifact::{Digest, Manifest};
use uuid::Uuid;

#[cfg(feature = "s3")]
pub use self::bucket::{Bucket, LEAST_PART_BYTES, Marks};
pub use self::error::{BlobError, ObjectTrouble};
use self::folder::Folder;
pub use self::vouch::Vouch;

/// Free bytes that an upload must leave on the blobs' file system: Postgres usually shares it, and
/// a full disk stops that too.
pub const FREE_FLOOR_BYTES: u64 = 256 * 1024 * 1024;

/// Where blobs are.
#[derive(Debug, Clone)]
pub struct BlobStore {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(Folder),
    #[cfg(feature = "s3")]
    Bucket(Bucket),
}

/// A file of a manifest that is not here as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub path: String,
    pub digest: Digest,
    /// Such as "was not uploaded, or is not here any more".
    pub why: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, digest, why } = self;
        write!(f, "{path:?} (blob {}), which {why}", digest.short())
    }
}

/// What a look at the files of a manifest found.
#[derive(Debug)]
pub struct Checked {
    pub wrong: Vec<Wrong>,
    /// Those that are right stay for as long as this is held.
    pub vouch: Vouch,
}

/// A blob on its way in. Dropped before [`finish`](Self::finish) it leaves nothing that anybody could read.
#[derive(Debug)]
pub struct BlobWriter(Writing);

#[derive(Debug)]
enum Writing {
    Folder(Box<folder::Writer>),
    #[cfg(feature = "s3")]
    Bucket(Box<bucket::Upload>),
}

/// A blob on its way out. Read from its beginning, it is verified on the way: who gets its last byte got what the digest
/// says.
#[derive(Debug)]
pub struct BlobReader(Reading);

#[derive(Debug)]
enum Reading {
    Folder(Box<folder::Reader>),
    #[cfg(feature = "s3")]
    Bucket(Box<bucket::Reader>),
}

/// Blobs that are to go. Ask for their names after this was made: what is named since then is not removed.
#[derive(Debug)]
pub struct Condemned(Condemning);

#[derive(Debug)]
enum Condemning {
    Folder(folder::Condemned),
    #[cfg(feature = "s3")]
    Bucket(bucket::Condemned),
}

/// Blobs that are out of their places. Those that are still there when this is dropped are put back.
#[derive(Debug)]
pub struct Going(Leaving);

#[derive(Debug)]
enum Leaving {
    Folder(folder::Going),
    #[cfg(feature = "s3")]
    Bucket(bucket::Going),
}

/// The same call, wherever blobs are.
macro_rules! both {
    ($of:expr, $kind:ident, $it:ident => $call:expr) => {
        match $of {
            $kind::Folder($it) => $call,
            #[cfg(feature = "s3")]
            $kind::Bucket($it) => $call,
        }
    };
}

impl BlobStore {
    /// Opens the store in a folder, and makes its folders.
    pub async fn open(root: PathBuf) -> Result<Self, BlobError> {
        let place = Place::Folder(Folder::open(root).await?);
        Ok(Self { place })
    }

    /// The store in a bucket.
    #[cfg(feature = "s3")]
    #[must_use]
    pub fn in_bucket(bucket: Bucket) -> Self {
        let place = Place::Bucket(bucket);
        Self { place }
    }

    /// The id of this store. The first who asks gives it `fresh`, and whoever asks at the same time takes over that.
    pub async fn storage(&self, fresh: Uuid) -> Result<Uuid, BlobError> {
        both!(&self.place, Place, it => it.storage(fresh).await)
    }

    /// Makes sure that no other cluster has this store. A folder is a host's, and has no such mark.
    pub async fn claim(&self, cluster: Uuid) -> Result<(), BlobError> {
        match &self.place {
            Place::Folder(_) => {
                let _is_not_marked = cluster;
                Ok(())
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.claim(cluster).await,
        }
    }

    /// Removes what unfinished uploads left that cannot go on, of whatever process, and puts back what unfinished
    /// removals moved away. For the coordinator that leads, when it begins to.
    pub async fn remove_leftovers(&self) -> Result<(), BlobError> {
        both!(&self.place, Place, it => it.remove_leftovers().await)
    }

    /// Blobs of which a killed process may have begun to delete the object. Those that something names have to be put
    /// back ([`settle_going`](Self::settle_going)). A folder knows by itself.
    #[must_use]
    pub fn going(&self) -> Vec<Digest> {
        match &self.place {
            Place::Folder(_) => Vec::new(),
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.going(),
        }
    }

    /// Puts those back that are named: see [`going`](Self::going).
    pub async fn settle_going(&self, named: Vec<Digest>) -> Result<(), BlobError> {
        match &self.place {
            Place::Folder(_) => {
                let _none = named;
                Ok(())
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.settle_going(named).await,
        }
    }

    /// Gives up uploads that were begun before and have not gone on since, and removes what removals left. Returns how
    /// many uploads there were.
    pub async fn sweep(&self, before: DateTime<Utc>) -> Result<u64, BlobError> {
        match &self.place {
            Place::Folder(_) => {
                let _is_done_at_start = before;
                Ok(0)
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.sweep(before).await,
        }
    }

    /// Which of `digests` are not here, in the same order. The others stay for a while: whoever asks will not send
    /// them, and is about to name them.
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        both!(&self.place, Place, it => it.missing(digests).await)
    }

    /// The files of a manifest that are not here as it says: missing, of another size, or damaged. Sizes are
    /// looked at; only a file of another size is read as a whole, to tell a broken file from a wrong list.
    ///
    /// Whoever makes a row name them holds the vouch until that is committed.
    pub async fn check(&self, manifest: &Manifest) -> Result<Checked, BlobError> {
        both!(&self.place, Place, it => it.check(manifest).await)
    }

    /// Where a blob lies, or would lie; of a bucket the object's key.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        both!(&self.place, Place, it => it.path(digest))
    }

    /// The first file of a manifest whose blob was found damaged. Nothing is read for it.
    #[must_use]
    pub fn damaged_among<'a>(&self, manifest: &'a Manifest) -> Option<&'a str> {
        both!(&self.place, Place, it => it.damaged_among(manifest))
    }

    /// Whether any blob was found damaged and has not been stored again.
    #[must_use]
    pub fn has_damaged(&self) -> bool {
        both!(&self.place, Place, it => it.has_damaged())
    }

    /// Bytes of a blob that an upload which broke has left here, from which on another one can go on; 0: none.
    pub async fn begun(&self, digest: &Digest) -> Result<u64, BlobError> {
        match &self.place {
            Place::Folder(_) => {
                let _begins_anew = digest;
                Ok(0)
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => bucket.begun(digest).await,
        }
    }

    /// Begins to store a blob whose digest and size are announced. In a folder room for all of it is kept from here on.
    pub async fn write(&self, digest: Digest, size_bytes: u64) -> Result<BlobWriter, BlobError> {
        self.write_from(digest, size_bytes, 0).await
    }

    /// Goes on with an upload that broke, of which `offset` bytes are here ([`begun`](Self::begun)).
    pub async fn write_from(
        &self,
        digest: Digest,
        size_bytes: u64,
        offset: u64,
    ) -> Result<BlobWriter, BlobError> {
        Ok(BlobWriter(match &self.place {
            // Whoever begins there was told so by a bucket that artifacts do not lie in any more.
            // He asks again, and hears that nothing is here.
            Place::Folder(_) if offset > 0 => return Err(BlobError::Moved(digest)),
            Place::Folder(folder) => {
                Writing::Folder(Box::new(folder.write(digest, size_bytes).await?))
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => {
                let upload = bucket.write(digest, size_bytes, offset).await?;
                Writing::Bucket(Box::new(upload))
            }
        }))
    }

    /// Opens a blob for reading from `offset` on. Where the reader says how many bytes it expects in all, a blob of
    /// another size is refused at once.
    pub async fn read(
        &self,
        digest: Digest,
        offset: u64,
        expected_bytes: Option<u64>,
    ) -> Result<BlobReader, BlobError> {
        Ok(BlobReader(match &self.place {
            Place::Folder(folder) => {
                Reading::Folder(Box::new(folder.read(digest, offset, expected_bytes).await?))
            }
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => {
                let reader = bucket.read(digest, offset, expected_bytes).await?;
                Reading::Bucket(Box::new(reader))
            }
        }))
    }

    /// Begins to remove blobs. Those that somebody counts on without a row that names them stay.
    pub async fn condemn(&self, digests: &[Digest]) -> Condemned {
        Condemned(match &self.place {
            Place::Folder(folder) => Condemning::Folder(folder.condemn(digests).await),
            #[cfg(feature = "s3")]
            Place::Bucket(bucket) => Condemning::Bucket(bucket.condemn(digests).await),
        })
    }

    /// Bytes of those of these blobs that are here.
    pub async fn bytes_of(&self, digests: Vec<Digest>) -> Result<u64, BlobError> {
        both!(&self.place, Place, it => it.bytes_of(digests).await)
    }

    /// Blobs that were stored before `before`.
    pub async fn list_older(&self, before: DateTime<Utc>) -> Result<Vec<Digest>, BlobError> {
        both!(&self.place, Place, it => it.list_older(before).await)
    }
}

impl BlobWriter {
    /// Adds bytes. More than were announced are refused at once.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        both!(&mut self.0, Writing, it => it.push(chunk).await)
    }

    /// Makes the blob visible, durably, if it is what was announced.
    pub async fn finish(self) -> Result<(), BlobError> {
        both!(self.0, Writing, it => it.finish().await)
    }
}

impl BlobReader {
    /// The next chunk, at most `CHUNK_BYTES`; None at the end. A blob that is not what its digest says ends with
    /// an error instead, and is set aside.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        both!(&mut self.0, Reading, it => it.next().await)
    }
}

impl Condemned {
    /// Moves those of the condemned out of their places that nobody names, nor has begun to count on since.
    pub async fn take_out(self, unnamed: Vec<Digest>) -> Result<Going, BlobError> {
        Ok(Going(match self.0 {
            Condemning::Folder(it) => Leaving::Folder(it.take_out(unnamed).await?),
            #[cfg(feature = "s3")]
            Condemning::Bucket(it) => Leaving::Bucket(it.take_out(unnamed).await?),
        }))
    }
}

impl Going {
    /// What was moved away.
    #[must_use]
    pub fn digests(&self) -> &[Digest] {
        both!(&self.0, Leaving, it => it.digests())
    }

    /// Removes those that are `unnamed` still, as the coordinator that leads has found since they were moved away, and
    /// puts the others back. Returns how many there were, and their bytes.
    pub async fn remove(self, unnamed: Vec<Digest>) -> Result<(u64, u64), BlobError> {
        both!(self.0, Leaving, it => it.remove(unnamed).await)
    }
}
