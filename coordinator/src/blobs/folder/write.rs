//! A blob on its way in.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;
use marquee_domain::artifact::Digest;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{BlobError, Folder, blocking, io_error, sync_folder};
use crate::blobs::room::Promise;

/// A blob on its way in. Dropped before [`finish`](Self::finish), it leaves nothing.
#[derive(Debug)]
pub(in crate::blobs) struct Writer {
    store: Folder,
    digest: Digest,
    size_bytes: u64,
    /// None only while a blocking thread has it, or after an error.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: NamedTempFile,
    hash: Sha256,
    got: u64,
    room: Promise,
}

impl Folder {
    /// Begins to store a blob whose digest and size are announced. Room for all of it is kept from here on.
    pub(in crate::blobs) async fn write(
        &self,
        digest: Digest,
        size_bytes: u64,
    ) -> Result<Writer, BlobError> {
        let store = self.clone();
        blocking(move || {
            let room = store.room.promise(size_bytes)?;
            let tmp = store.root.join("tmp");
            let file = NamedTempFile::new_in(&tmp).map_err(io_error("create a file in", &tmp))?;
            let open = Open {
                file,
                hash: Sha256::new(),
                got: 0,
                room,
            };
            Ok(Writer {
                store,
                digest,
                size_bytes,
                open: Some(open),
            })
        })
        .await
    }
}

impl Writer {
    /// Adds bytes. More than were announced are refused at once.
    pub(in crate::blobs) async fn push(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        let mut open = self.take()?;
        open.got += chunk.len() as u64;
        if open.got > self.size_bytes {
            return Err(self.wrong_size(open.got));
        }
        let open = blocking(move || {
            let path = open.file.path().to_owned();
            open.file
                .write_all(&chunk)
                .map_err(io_error("write", &path))?;
            open.room.used(chunk.len() as u64);
            open.hash.update(&chunk);
            Ok(open)
        })
        .await?;
        self.open = Some(open);
        Ok(())
    }

    /// Makes the blob visible, durably, if it is what was announced.
    pub(in crate::blobs) async fn finish(mut self) -> Result<(), BlobError> {
        let open = self.take()?;
        if open.got != self.size_bytes {
            return Err(self.wrong_size(open.got));
        }
        blocking(move || {
            // Hashed as it came in, so that no second reading is needed.
            let got = Digest::from_hash(&open.hash.finalize());
            if got != self.digest {
                return Err(BlobError::WrongDigest {
                    announced: self.digest,
                    got,
                });
            }
            let place = self.store.path(&self.digest);
            // Spared before it is in place: a removal that had condemned the name would otherwise take the
            // new file.
            self.store.vouches.spare(&self.digest);
            put_in_place(open.file, &place)?;
            // Only now: until here whoever asks must hear that it is missing.
            self.store.damaged.forget(&self.digest);
            Ok(())
        })
        .await
    }

    fn take(&mut self) -> Result<Open, BlobError> {
        // Reached only by a caller that goes on after an error.
        self.open.take().ok_or_else(|| {
            io_error("go on with", &self.store.path(&self.digest))(io::ErrorKind::BrokenPipe.into())
        })
    }

    fn wrong_size(&self, got: u64) -> BlobError {
        BlobError::WrongSize {
            digest: self.digest.clone(),
            announced: self.size_bytes,
            got,
        }
    }
}

/// Renames a complete file to `place`. Two uploads of one blob may both come here: each holds the
/// same bytes, and a rename replaces the name in one step.
fn put_in_place(file: NamedTempFile, place: &Path) -> Result<(), BlobError> {
    let folder = place.parent().expect("a blob's path has a folder");
    file.as_file()
        .sync_all()
        .map_err(io_error("fsync", file.path()))?;
    if !folder.is_dir() {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        sync_folder(folder.parent().expect("a blob's folder lies in the root"))?;
    }
    file.persist(place)
        .map_err(|e| io_error("rename a blob to", place)(e.error))?;
    sync_folder(folder)
}
