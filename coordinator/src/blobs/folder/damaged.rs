//! Blobs that are not what their digest says: set aside, so that nobody is given them, and known, so that the
//! artifacts that need them can be named.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use marquee_domain::artifact::{Digest, Manifest};
use sha2::{Digest as _, Sha256};

use super::{BlobError, Folder, io_error, sync_folder};

/// Bytes read at once of a file that is verified.
const READ_BYTES: usize = 1024 * 1024;

/// What was set aside and has not been stored again since.
#[derive(Debug, Clone)]
pub(super) struct Damaged {
    folder: Arc<Path>,
    digests: Arc<Mutex<BTreeSet<Digest>>>,
}

impl Damaged {
    /// Makes the folder, and reads what lies there from before.
    pub(super) fn open(root: &Path) -> Result<Self, BlobError> {
        let folder = root.join("damaged");
        let mut private = fs::DirBuilder::new();
        let private = private.recursive(true).mode(0o700);
        private
            .create(&folder)
            .map_err(io_error("create", &folder))?;
        let mut digests = BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let name = entry.map_err(io_error("list", &folder))?.file_name();
            // Anything else was put there by somebody else.
            digests.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
        }
        Ok(Self {
            folder: folder.into(),
            digests: Arc::new(Mutex::new(digests)),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.as_str())
    }

    /// The blob is whole again.
    pub(super) fn forget(&self, digest: &Digest) {
        if self.digests().remove(digest) {
            let path = self.path(digest);
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(blob = %digest, "a damaged blob was stored again"),
                Err(error) => tracing::warn!(?path, %error, "a damaged file cannot be removed"),
            }
        }
    }

    fn digests(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Folder {
    /// The first file of a manifest whose blob was set aside. Nothing is read for it.
    #[must_use]
    pub(in crate::blobs) fn damaged_among<'a>(&self, manifest: &'a Manifest) -> Option<&'a str> {
        let damaged = self.damaged.digests();
        let mut files = manifest.files.iter();
        let first = files.find(|file| damaged.contains(&file.digest))?;
        Some(&first.path)
    }

    /// Whether any blob was set aside and has not been stored again.
    #[must_use]
    pub(in crate::blobs) fn has_damaged(&self) -> bool {
        !self.damaged.digests().is_empty()
    }

    pub(super) fn is_damaged(&self, digest: &Digest) -> bool {
        self.damaged.digests().contains(digest)
    }

    /// Reads a whole blob. What is wrong with it, in which case it is set aside; None: it is what it should be, or
    /// not here any more.
    pub(super) fn verify(&self, digest: &Digest) -> Result<Option<String>, BlobError> {
        let Some((found, size)) = hash_of(&self.path(digest))? else {
            return Ok(None);
        };
        if found == *digest {
            return Ok(None);
        }
        let problem = problem(size, &found);
        self.set_aside(digest, &problem)?;
        Ok(Some(problem))
    }

    /// Takes a blob that is not what its digest says out of its place.
    pub(super) fn set_aside(&self, digest: &Digest, problem: &str) -> Result<(), BlobError> {
        let (place, aside) = (self.path(digest), self.damaged.path(digest));
        match fs::rename(&place, &aside) {
            Ok(()) => {}
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("set aside", &place)(error)),
        }
        // Whoever found the fault may have had the file open while it was stored anew, by this process or by another
        // coordinator on the same folder.
        if let Some((found, _)) = hash_of(&aside)?
            && found == *digest
        {
            return fs::rename(&aside, &place).map_err(io_error("put back", &place));
        }
        tracing::error!(
            blob = %digest, problem, ?aside,
            "a stored file is damaged and was set aside; artifacts that need it are damaged until it is stored again"
        );
        self.damaged.digests().insert(digest.clone());
        sync_folder(&self.damaged.folder)
    }
}

/// Digest and bytes of a file; None where it is not there.
fn hash_of(path: &Path) -> Result<Option<(Digest, u64)>, BlobError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error("read", path)(error)),
        };
        hash.update(&buffer[..count]);
        size += count as u64;
    }
    Ok(Some((Digest::from_hash(&hash.finalize()), size)))
}

/// What is wrong with a file that has another digest than its name.
pub(super) fn problem(size: u64, found: &Digest) -> String {
    format!("its {size} bytes have digest {}", found.short())
}
