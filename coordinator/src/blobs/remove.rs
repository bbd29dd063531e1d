//! Blobs on their way to nowhere: those that no manifest names any more.

use std::fs;
use std::io;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;

use super::vouch::Turn;
use super::{BlobError, BlobStore, blocking, io_error};

/// Blobs that are to go. Ask for their names after this was made: what is named since then is not removed.
#[derive(Debug)]
pub struct Condemned {
    store: BlobStore,
    turn: Turn,
}

impl Condemned {
    /// Removes those of the condemned that nobody names, nor has begun to count on since. Returns how many there
    /// were, and their bytes.
    pub async fn remove(self, unnamed: Vec<Digest>) -> Result<(u64, u64), BlobError> {
        blocking(move || {
            let Self { store, turn } = self;
            let (mut count, mut bytes) = (0, 0);
            for digest in unnamed {
                let path = store.path(&digest);
                let removed = turn.if_condemned(&digest, || {
                    let size = fs::metadata(&path)?.len();
                    fs::remove_file(&path).map(|()| size)
                });
                match removed {
                    Some(Ok(size)) => {
                        count += 1;
                        bytes += size;
                    }
                    None => {}
                    Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    Some(Err(error)) => return Err(io_error("remove", &path)(error)),
                }
            }
            Ok((count, bytes))
        })
        .await
    }
}

impl BlobStore {
    /// Begins to remove blobs. Those that somebody counts on without a row that names them stay.
    pub async fn condemn(&self, digests: &[Digest]) -> Condemned {
        Condemned {
            turn: self.vouches.condemn(digests).await,
            store: self.clone(),
        }
    }

    /// Bytes of those of these blobs that are here.
    pub async fn bytes_of(&self, digests: Vec<Digest>) -> Result<u64, BlobError> {
        let store = self.clone();
        blocking(move || {
            let mut bytes = 0_u64;
            for digest in &digests {
                bytes = bytes.saturating_add(store.size(digest)?.unwrap_or(0));
            }
            Ok(bytes)
        })
        .await
    }

    /// Blobs that were stored before `before`.
    pub async fn list_older(&self, before: DateTime<Utc>) -> Result<Vec<Digest>, BlobError> {
        let store = self.clone();
        blocking(move || {
            let mut older = Vec::new();
            for folder in fs::read_dir(&store.root).map_err(io_error("list", &store.root))? {
                let folder = folder.map_err(io_error("list", &store.root))?;
                // Those of blobs have two digits; `tmp` and `damaged` are others.
                if folder.file_name().len() != 2 {
                    continue;
                }
                let folder = folder.path();
                for file in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
                    let file = file.map_err(io_error("list", &folder))?;
                    let name = file.file_name();
                    let Some(digest) = name.to_str().and_then(|name| name.parse().ok()) else {
                        continue;
                    };
                    let modified = file.metadata().and_then(|found| found.modified());
                    if modified.is_ok_and(|at| DateTime::<Utc>::from(at) < before) {
                        older.push(digest);
                    }
                }
            }
            Ok(older)
        })
        .await
    }
}
