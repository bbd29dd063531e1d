//! Blobs on their way to nowhere: those that no manifest names any more.

use std::fs;
use std::io;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;

use super::{BlobError, BlobStore, blocking, io_error};

impl BlobStore {
    /// Removes blobs. Returns how many there were, and their bytes.
    pub async fn remove(&self, digests: Vec<Digest>) -> Result<(u64, u64), BlobError> {
        let store = self.clone();
        blocking(move || {
            let (mut count, mut bytes) = (0, 0);
            for digest in digests {
                let Some(size) = store.size(&digest)? else {
                    continue;
                };
                let path = store.path(&digest);
                match fs::remove_file(&path) {
                    Ok(()) => {
                        count += 1;
                        bytes += size;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(io_error("remove", &path)(error)),
                }
            }
            Ok((count, bytes))
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
