//! Files that a job can reach: everything in a rank's folder, and in the artifact cache. The job runs
//! under the daemon's account, so that what lies there may be anything by the time it is opened: a link
//! into somebody else's file, a FIFO at which an open waits for ever, a file without an end.
//!
//! Invariant: what is opened here is a plain file and no link, opening never waits, and reading has a
//! limit. What is made here is new.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::de::DeserializeOwned;

use crate::fault::at;
use crate::remove;

/// Bytes of the largest file that is read whole: an assignment with the manifests of some inputs.
const READ_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// For the daemon's account alone.
const OWN: Mode = Mode::RUSR.union(Mode::WUSR);
/// Never follow, never wait, never inherit.
const SAFE: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Opens a plain file for reading.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDONLY)
}

/// Opens a plain file for reading and writing.
pub(crate) fn open_both(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDWR)
}

/// Opens a plain file for appending, making it if it is not there.
pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
}

/// Opens a plain file for reading and writing, making it if it is not there.
pub(crate) fn open_or_make(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDWR | OFlags::CREATE)
}

/// Opens a plain file for reading, and for writing at its end, making it if it is not there.
pub(crate) fn open_to_go_on(path: &Path) -> io::Result<File> {
    open_as(path, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)
}

/// Makes a file, in place of whatever has its name.
pub(crate) fn make(path: &Path) -> io::Result<File> {
    let flags = SAFE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    match openat(CWD, path, flags, OWN) {
        Ok(file) => Ok(File::from(file)),
        Err(rustix::io::Errno::EXIST) => {
            // Whatever a job has put there goes, and is never written through: it may be a link, or a pipe.
            remove::all(path)?;
            let made = openat(CWD, path, flags, OWN).map_err(|e| at(path, e.into()))?;
            Ok(File::from(made))
        }
        Err(error) => Err(at(path, error.into())),
    }
}

fn open_as(path: &Path, how: OFlags) -> io::Result<File> {
    let file = openat(CWD, path, how | SAFE, OWN).map_err(|errno| match errno {
        // ELOOP: it is a link (O_NOFOLLOW). ENXIO: it is a FIFO that nobody reads (O_NONBLOCK).
        rustix::io::Errno::LOOP => odd(path, "a symbolic link"),
        rustix::io::Errno::NXIO => odd(path, "a FIFO or socket"),
        other => at(path, other.into()),
    })?;
    let file = File::from(file);
    // Asked of the open file, not of its name: another file may have that name by now.
    let kind = file.metadata().map_err(|e| at(path, e))?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(odd(
        path,
        if kind.is_dir() {
            "a folder"
        } else {
            "a device, FIFO or socket"
        },
    ))
}

/// All of a plain file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    // One byte more than allowed, to tell a file of just that size from a longer one.
    file.take(READ_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| at(path, e))?;
    if bytes.len() as u64 > READ_MAX_BYTES {
        return Err(odd(path, "larger than anything that the worker writes"));
    }
    Ok(bytes)
}

/// A file of JSON; None where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|e| at(path, e.into()))
}

/// Makes a folder that the daemon's account alone can enter, with those above it. One that is there stays.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let make = || {
        let mut folders = fs::DirBuilder::new();
        folders.recursive(true).mode(0o700).create(path)
    };
    match make() {
        // A job can close the folder above.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            remove::open_up_parent(path)?;
            make().map_err(|e| at(path, e))
        }
        made => made.map_err(|e| at(path, e)),
    }
}

/// Makes an empty folder, in place of whatever has its name.
pub(crate) fn make_new_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Mostly nothing is there.
    if fs::DirBuilder::new().mode(0o700).create(path).is_ok() {
        return Ok(());
    }
    remove::all(path)?;
    make_folder(path)
}

fn odd(path: &Path, what: &str) -> io::Error {
    let text = format!("{} is {what}, and no plain file any more", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode as NixMode;
    use nix::unistd::mkfifo;
    use std::io::Write as _;

    #[test]
    fn what_is_no_plain_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        mkfifo(&path("fifo"), NixMode::S_IRWXU).unwrap();
        fs::write(path("secret"), "key").unwrap();
        std::os::unix::fs::symlink(path("secret"), path("link")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for name in ["fifo", "link", "folder", "socket"] {
            for open in [open, open_both, open_append, open_or_make] {
                let error = open(&path(name)).unwrap_err().to_string();
                assert!(error.contains(name), "{name}: {error}");
            }
        }
        assert_eq!(fs::read(path("secret")).unwrap(), b"key");
        assert!(read_json::<u32>(&path("nothing")).unwrap().is_none());
    }

    #[test]
    fn a_new_folder_is_empty_whatever_had_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("secret"), "key").unwrap();
        fs::create_dir_all(path("full/deep")).unwrap();
        fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), path("link")).unwrap();
        for name in ["new", "full", "file", "link"] {
            make_new_folder(&path(name)).unwrap();
            let found = fs::symlink_metadata(path(name)).unwrap();
            assert!(found.is_dir(), "{name}");
            assert_eq!(fs::read_dir(path(name)).unwrap().count(), 0, "{name}");
        }
        assert_eq!(fs::read(path("secret")).unwrap(), b"key");
    }

    #[test]
    fn what_is_made_takes_the_place_of_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("secret"), "key").unwrap();
        mkfifo(&path("a"), NixMode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(path("secret"), path("b")).unwrap();
        fs::create_dir_all(path("c/deep")).unwrap();
        for name in ["a", "b", "c"] {
            make(&path(name)).unwrap().write_all(b"new").unwrap();
            assert_eq!(read(&path(name)).unwrap(), b"new");
        }
        assert_eq!(fs::read(path("secret")).unwrap(), b"key");
    }
}
