//! Blobs on their way to nowhere: those that no manifest names any more.
//!
//! Files know no fence: a coordinator that was stopped in the middle of a removal, and goes on after another one has
//! taken over, finds out at its next statement and not at its next file. So a file is unlinked only where nobody looks
//! for it. It is first moved out of its place, into a folder of this removal's own, and then its names are asked for
//! once more, by a transaction that only the one that leads can begin. Whoever misses a blob in its place looks for it
//! in those folders and moves it back before anybody is told that it is here. Of that and the unlink one comes first,
//! and either is right: what was moved back is not found any more by whoever would unlink it.
//!
//! What a killed process had moved is put back by the coordinator that leads next ([`Folder::remove_leftovers`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;

use super::{BlobError, Folder, blocking, io_error, sync_folder};
use crate::blobs::vouch::Turn;

/// Blobs that are to go. Ask for their names after this was made: what is named since then is not removed.
#[derive(Debug)]
pub(in crate::blobs) struct Condemned {
    store: Folder,
    turn: Turn,
}

/// Blobs that are out of their places. Those that are still there when this is dropped are put back.
#[derive(Debug)]
pub(in crate::blobs) struct Going {
    store: Folder,
    folder: PathBuf,
    digests: Vec<Digest>,
    /// One removes at a time.
    turn: Turn,
}

impl Condemned {
    /// Moves those of the condemned out of their places that nobody names, nor has begun to count on since.
    pub(in crate::blobs) async fn take_out(self, unnamed: Vec<Digest>) -> Result<Going, BlobError> {
        blocking(move || {
            let Self { store, turn } = self;
            let folder = tempfile::Builder::new()
                .prefix("")
                .tempdir_in(store.going())
                .map_err(io_error("create a folder in", &store.going()))?;
            let mut going = Going {
                store,
                folder: folder.keep(),
                digests: Vec::new(),
                turn,
            };
            for digest in unnamed {
                let place = going.store.path(&digest);
                let aside = going.folder.join(digest.as_str());
                let moved = going
                    .turn
                    .if_condemned(&digest, || fs::rename(&place, &aside));
                match moved {
                    Some(Ok(())) => going.digests.push(digest),
                    None => {}
                    Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    Some(Err(error)) => return Err(io_error("move away", &place)(error)),
                }
            }
            Ok(going)
        })
        .await
    }
}

impl Going {
    /// What was moved away.
    #[must_use]
    pub(in crate::blobs) fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// Removes those that are `unnamed` still, as the coordinator that leads has found since they were moved away, and
    /// puts the others back. Returns how many there were, and their bytes.
    pub(in crate::blobs) async fn remove(
        self,
        unnamed: Vec<Digest>,
    ) -> Result<(u64, u64), BlobError> {
        blocking(move || {
            let (mut count, mut bytes) = (0, 0);
            for digest in unnamed {
                let aside = self.folder.join(digest.as_str());
                let removed = fs::metadata(&aside).and_then(|found| {
                    fs::remove_file(&aside)?;
                    Ok(found.len())
                });
                match removed {
                    Ok(size) => {
                        count += 1;
                        bytes += size;
                    }
                    // Somebody needed it, and has it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(io_error("remove", &aside)(error)),
                }
            }
            Ok((count, bytes))
        })
        .await
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if let Err(error) = self.store.put_back(&self.folder) {
            tracing::warn!(%error, "blobs that were to go are not back in their places; they are found all the same");
        }
    }
}

impl Folder {
    /// Begins to remove blobs. Those that somebody counts on without a row that names them stay.
    pub(in crate::blobs) async fn condemn(&self, digests: &[Digest]) -> Condemned {
        Condemned {
            turn: self.vouches.condemn(digests).await,
            store: self.clone(),
        }
    }

    /// Bytes of those of these blobs that are here.
    pub(in crate::blobs) async fn bytes_of(&self, digests: Vec<Digest>) -> Result<u64, BlobError> {
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

    /// The folder of the folders of removals that are under way.
    pub(super) fn going(&self) -> PathBuf {
        self.root.join("going")
    }

    /// Puts a blob back into its place that somebody has moved away. Whether there was one.
    pub(super) fn recall(&self, digest: &Digest) -> Result<bool, BlobError> {
        let place = self.path(digest);
        let going = self.going();
        for folder in fs::read_dir(&going).map_err(io_error("list", &going))? {
            let folder = folder.map_err(io_error("list", &going))?.path();
            match fs::rename(folder.join(digest.as_str()), &place) {
                Ok(()) => {
                    tracing::info!(blob = %digest, "a blob that was to go is needed, and stays");
                    sync_folder(place.parent().unwrap_or(&self.root))?;
                    return Ok(true);
                }
                // Not in this one, or put back by somebody else.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("put back", &place)(error)),
            }
        }
        // Somebody else may have put it back since it was missed.
        Ok(place.exists())
    }

    /// Puts all blobs of a removal's folder back into their places, and removes it.
    fn put_back(&self, folder: &Path) -> Result<(), BlobError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // Another coordinator has done it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("list", folder)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(io_error("list", folder))?;
            let Some(digest) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let place = self.path(&digest);
            // One that was stored anew meanwhile is as good.
            let done = if place.exists() {
                fs::remove_file(entry.path())
            } else {
                fs::rename(entry.path(), &place)
            };
            match done {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("put back", &place)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        // Not gone where somebody still moves files into it, who puts them back as well.
        let _is_gone = fs::remove_dir(folder);
        Ok(())
    }

    /// Puts back what the removals of killed processes had moved away.
    pub(super) fn put_all_back(&self) -> Result<(), BlobError> {
        let going = self.going();
        for folder in fs::read_dir(&going).map_err(io_error("list", &going))? {
            self.put_back(&folder.map_err(io_error("list", &going))?.path())?;
        }
        Ok(())
    }

    /// Blobs that were stored before `before`.
    pub(in crate::blobs) async fn list_older(
        &self,
        before: DateTime<Utc>,
    ) -> Result<Vec<Digest>, BlobError> {
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
