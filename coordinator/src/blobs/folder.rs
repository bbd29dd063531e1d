//! Files by digest, in a folder: `<root>/<aa>/<digest>`, where `aa` are the digest's first digits.
//!
//! Invariant: a file under its digest is complete and holds what the digest says. It is written
//! aside in the same file system, hashed on the way, fsynced, renamed into place, and its folder
//! fsynced before anybody is told (`write`). One that turns out to be something else is no blob any more: it is
//! set aside in `<root>/damaged`, and may be stored again (`damaged`). A writer that is dropped leaves nothing;
//! what a killed process leaves lies in `<root>/tmp`, which the coordinator that leads empties when it begins to: several
//! may have this folder, and only that one writes. One that somebody is about to name is
//! not removed (`vouch`), and one that is needed after all, whoever began to remove it, is put back (`remove`).

mod damaged;
mod read;
mod remove;
mod storage;
mod write;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marquee_domain::artifact::{Digest, Manifest};

use self::damaged::Damaged;
pub(super) use self::read::Reader;
pub(super) use self::remove::{Condemned, Going};
pub(super) use self::write::Writer;
use super::error::io_error;
use super::room::Room;
use super::vouch::Vouches;
use super::{BlobError, Checked, Wrong};

/// The folder of blobs.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: Arc<Path>,
    room: Room,
    damaged: Damaged,
    vouches: Vouches,
}

impl Folder {
    /// Opens the store at `root`, and makes its folders.
    pub(super) async fn open(root: PathBuf) -> Result<Self, BlobError> {
        blocking(move || {
            let tmp = root.join("tmp");
            // Results are for those whom the coordinator gives them to.
            let mut private = fs::DirBuilder::new();
            let private = private.recursive(true).mode(0o700);
            private.create(&tmp).map_err(io_error("create", &tmp))?;
            let going = root.join("going");
            private.create(&going).map_err(io_error("create", &going))?;
            let damaged = Damaged::open(&root)?;
            sync_folder(&root)?;
            Ok(Self {
                room: Room::of(&root),
                damaged,
                vouches: Vouches::default(),
                root: root.into(),
            })
        })
        .await
    }

    /// Removes what unfinished uploads left, of whatever process, and puts back what unfinished removals moved away.
    pub(super) async fn remove_leftovers(&self) -> Result<(), BlobError> {
        let tmp = self.root.join("tmp");
        let store = self.clone();
        blocking(move || {
            store.put_all_back()?;
            for entry in fs::read_dir(&tmp).map_err(io_error("list", &tmp))? {
                let leftover = entry.map_err(io_error("list", &tmp))?.path();
                match fs::remove_file(&leftover) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(io_error("remove", &leftover)(error));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            Ok(())
        })
        .await
    }

    /// Which of `digests` are not here, in the same order. The others stay for a while: whoever asks will not send
    /// them, and is about to name them.
    pub(super) async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        let store = self.clone();
        blocking(move || {
            // Before the look: what is here then cannot go between the look and the answer.
            store.vouches.answer(&digests);
            let mut missing = Vec::new();
            for digest in digests {
                if store.size(&digest)?.is_none() {
                    missing.push(digest);
                }
            }
            store.vouches.settle_answers(&missing);
            Ok(missing)
        })
        .await
    }

    /// The files of a manifest that are not here as it says: missing, of another size, or damaged. Sizes are
    /// looked at; only a file of another size is read as a whole, to tell a broken file from a wrong list.
    ///
    /// Whoever makes a row name them holds the vouch until that is committed.
    pub(super) async fn check(&self, manifest: &Manifest) -> Result<Checked, BlobError> {
        let mut files: BTreeMap<Digest, (String, u64)> = BTreeMap::new();
        for file in &manifest.files {
            let wanted = (file.path.clone(), file.size_bytes);
            files.entry(file.digest.clone()).or_insert(wanted);
        }
        let store = self.clone();
        blocking(move || {
            // Vouched for before the look: what is here then stays.
            let vouch = store.vouches.vouch(files.keys().cloned().collect());
            let mut wrong = Vec::new();
            for (digest, (path, size_bytes)) in files {
                let why = match store.size(&digest)? {
                    Some(size) if size == size_bytes => continue,
                    Some(size) => match store.verify(&digest)? {
                        None => format!("has {size} bytes here, not {size_bytes}"),
                        Some(problem) => format!("is damaged here: {problem}"),
                    },
                    None if store.is_damaged(&digest) => {
                        "was damaged here and set aside".to_owned()
                    }
                    None => "was not uploaded, or is not here any more".to_owned(),
                };
                wrong.push(Wrong { path, digest, why });
            }
            Ok(Checked { wrong, vouch })
        })
        .await
    }

    /// Where a blob lies, or would lie.
    #[must_use]
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(&digest.as_str()[..2]).join(digest.as_str())
    }

    /// Bytes of a blob; None where it is not here.
    fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        // One that is on its way out is put back and looked for once more: it is needed.
        let path = self.path(digest);
        loop {
            match fs::metadata(&path) {
                Ok(found) => return Ok(Some(found.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("look for", &path)(error)),
            }
            if !self.recall(digest)? {
                return Ok(None);
            }
        }
    }
}

fn sync_folder(folder: &Path) -> Result<(), BlobError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(io_error("fsync", folder))
}

/// Runs file work off the async threads: an fsync may take seconds on a busy disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match crate::blocking::blocking(work).await {
        Ok(result) => result,
        // Only a panic in `work` or the runtime's end comes here.
        Err(error) => Err(io_error("work in", Path::new("the blob folder"))(
            io::Error::other(error),
        )),
    }
}

#[cfg(test)]
mod tests;
