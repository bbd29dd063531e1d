//! The folder for temporary files that each rank has of its own, as `TMPDIR`: it goes with the rank, and no other job
//! looks into it.
//!
//! It lies in the rank's folder, unless its path is too long there. An address of a unix socket has 107 bytes, and
//! Python's `multiprocessing` and PyTorch's loaders make sockets below `TMPDIR`: with a long path they could not start.
//! Then it lies in the worker's own temporary folder, under a name that follows from the rank's, so that a worker that
//! was started anew finds it and removes it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use tracing::warn;

use super::RankDir;
use crate::{files, remove};

/// Bytes of the path of a folder below which sockets can be made: 107, less the 40 that names such as
/// `/pymp-xxxxxxxx/listener-xxxxxxxx` need.
const PATH_MAX_BYTES: usize = 67;

/// Where a rank's temporary files go.
#[must_use]
pub(super) fn folder(dir: &RankDir) -> PathBuf {
    short(dir).filter(|path| is_own(path)).unwrap_or(dir.tmp())
}

/// Makes it, empty, for the worker's account alone.
pub(super) fn make(dir: &RankDir) -> io::Result<()> {
    if let Some(short) = short(dir) {
        match make_short(&short) {
            Ok(()) => return Ok(()),
            Err(error) => {
                warn!(?short, %error, "temporary files of a rank lie at a long path: sockets of Python's multiprocessing do not fit there");
            }
        }
    }
    files::make_new_folder(&dir.tmp())
}

/// Removes the one that does not lie in the rank's folder.
pub(crate) fn remove(dir: &RankDir) {
    let short = short(dir).filter(|path| is_own(path));
    if let Some(short) = short
        && let Err(error) = remove::all(&short)
    {
        warn!(?short, %error, "temporary files of a rank cannot be removed");
    }
}

fn make_short(path: &Path) -> io::Result<()> {
    // What an earlier worker left. What somebody else has put there stays, and is not used.
    if is_own(path) {
        remove::all(path)?;
    }
    // Fails where something is: in a folder that everybody may write to, nothing is used that others have
    // made.
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn short(dir: &RankDir) -> Option<PathBuf> {
    if dir.tmp().as_os_str().len() <= PATH_MAX_BYTES {
        return None;
    }
    let (attempts, name) = (dir.path().parent()?, dir.path().file_name()?);
    // Named after the worker: several may be on this host.
    let worker = crc32c::crc32c(attempts.as_os_str().as_encoded_bytes());
    Some(std::env::temp_dir().join(format!("mq-{worker:08x}-{}", name.to_string_lossy())))
}

fn is_own(path: &Path) -> bool {
    // Without following a link, which could lead to anything of this account's.
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use marquee_domain::RankKey;

    use super::*;

    #[test]
    fn a_folder_at_a_long_path_is_made_at_a_short_one_and_goes_with_the_rank() {
        let place = tempfile::tempdir().unwrap();
        let key = RankKey::new(17, 1, 0);
        let long = place
            .path()
            .join("a-folder-of-somebody".repeat(3))
            .join("attempts");
        let dir = RankDir::new(&long, key);
        fs::create_dir_all(dir.path()).unwrap();
        let short = short(&dir).unwrap();
        assert!(short.as_os_str().len() <= PATH_MAX_BYTES, "{short:?}");
        assert_eq!(folder(&dir), dir.tmp(), "it is not there yet");
        for _ in 0..2 {
            make(&dir).unwrap();
            assert_eq!(folder(&dir), short);
            let mode = fs::metadata(&short).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
            assert_eq!(fs::read_dir(&short).unwrap().count(), 0);
            fs::write(short.join("left"), "x").unwrap();
        }
        remove(&dir);
        assert!(!short.exists());
        // Somebody was faster, and waits for our files.
        symlink(place.path(), &short).unwrap();
        make(&dir).unwrap();
        assert_eq!(folder(&dir), dir.tmp());
        remove(&dir);
        assert!(fs::symlink_metadata(&short).is_ok());
        fs::remove_file(&short).unwrap();
    }

    #[test]
    fn a_usual_path_needs_no_other() {
        let usual = Path::new("/var/lib/marquee/worker/attempts");
        assert_eq!(
            short(&RankDir::new(usual, RankKey::new(1_234_567, 12, 63))),
            None
        );
    }
}
