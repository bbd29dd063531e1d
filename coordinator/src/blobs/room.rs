//! Room on the disk: promised to an upload before it sends anything, so that uploads that begin at the same time
//! cannot take together what each of them alone would leave.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::io_error;
use super::{BlobError, FREE_FLOOR_BYTES};

/// The file system of a folder, and what is promised of it.
#[derive(Debug, Clone)]
pub(super) struct Room {
    folder: Arc<Path>,
    promised: Arc<Mutex<u64>>,
}

/// Bytes that one upload may still write. What is left of it when it is dropped is free again.
#[derive(Debug)]
pub(super) struct Promise {
    left: u64,
    promised: Arc<Mutex<u64>>,
}

impl Room {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            promised: Arc::default(),
        }
    }

    /// Keeps room for `size_bytes`.
    pub(super) fn promise(&self, size_bytes: u64) -> Result<Promise, BlobError> {
        // Measured under the lock: two that measure at once must not both count the same bytes.
        let mut promised = lock(&self.promised);
        let free_bytes = self.free_bytes()?;
        let wanted = size_bytes.saturating_add(FREE_FLOOR_BYTES);
        if free_bytes < wanted {
            let folder = self.folder.to_path_buf();
            return Err(BlobError::DiskFull {
                size_bytes,
                free_bytes,
                folder,
            });
        }
        if free_bytes - wanted < *promised {
            return Err(BlobError::Promised {
                size_bytes,
                free_bytes,
                promised_bytes: *promised,
                folder: self.folder.to_path_buf(),
            });
        }
        *promised += size_bytes;
        Ok(Promise {
            left: size_bytes,
            promised: self.promised.clone(),
        })
    }

    fn free_bytes(&self) -> Result<u64, BlobError> {
        let stat = nix::sys::statvfs::statvfs(&*self.folder)
            .map_err(|errno| io_error("measure the free space of", &self.folder)(errno.into()))?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

impl Promise {
    /// Bytes were written: the disk counts them now.
    pub(super) fn used(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        *lock(&self.promised) -= bytes;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        *lock(&self.promised) -= self.left;
    }
}

fn lock(promised: &Mutex<u64>) -> MutexGuard<'_, u64> {
    // Each change is one step: a panic elsewhere leaves nothing half done.
    promised.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_free_again_when_its_upload_ends() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::of(folder.path());
        let mut one = room.promise(1_000).unwrap();
        let two = room.promise(500).unwrap();
        assert_eq!(*lock(&room.promised), 1_500);
        one.used(400);
        assert_eq!(*lock(&room.promised), 1_100);
        one.used(u64::MAX);
        assert_eq!(*lock(&room.promised), 500);
        drop(one);
        drop(two);
        assert_eq!(*lock(&room.promised), 0);
    }

    #[test]
    fn ten_at_once_get_no_more_than_the_disk_has_above_the_floor() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::of(folder.path());
        let free = room.free_bytes().unwrap();
        // Each alone fits; what others write to this disk meanwhile is far less than the rest.
        let each = (free - FREE_FLOOR_BYTES) / 4;
        let promises: Vec<_> = (0..10).map(|_| room.promise(each)).collect();
        let kept = promises.iter().filter(|promise| promise.is_ok()).count();
        assert!((1..=4).contains(&kept), "{kept}");
        let refused = promises.iter().filter_map(|promise| promise.as_ref().err());
        for error in refused {
            assert!(matches!(error, BlobError::Promised { .. }), "{error}");
        }
        drop(promises);
        assert!(room.promise(each).is_ok());
        for endless in [u64::MAX, free, 1 << 63] {
            let error = room.promise(endless).unwrap_err();
            assert!(matches!(error, BlobError::DiskFull { .. }), "{error}");
        }
    }
}
