//! Files of this machine that a source names: only plain ones are opened, and they are read up to a
//! limit, with the same misses as what comes over the network.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use super::miss::{Miss, MissClass};

/// Why something that is there is not opened.
const NOT_PLAIN: &str = "it is no plain file but a folder, a pipe, a socket or a device";

/// A file's or folder's name without its extension.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What to say of links that lead out of a folder: what they bring is in nobody's backup of it.
pub(super) fn note_of_links(count: u64, link: &str, target: &Path, whose: &str) -> String {
    let (lead, were) = match count {
        1 => ("1 link leads".to_owned(), "was"),
        more => (format!("{more} links lead"), "were"),
    };
    let target = target.display().to_string();
    format!("{lead} out of {whose} and {were} followed, such as {link:?} to {target:?}")
}

/// Opens a plain file. A pipe that nobody writes to would be waited for, a device may never end.
pub(super) fn open_plain(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        // Or opening a pipe would wait for a writer, before anybody can see that it is a pipe.
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // What opening a socket comes to.
            Some(number) if number == nix::errno::Errno::ENXIO as i32 => not_plain(),
            Some(_) | None => error,
        })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_plain())
    }
}

fn not_plain() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, NOT_PLAIN)
}

/// Reads at most `limit` bytes, whatever size the file claims to have.
pub(super) fn read_up_to(file: impl Read, limit: usize) -> Result<Vec<u8>, Miss> {
    read_or(file, limit, miss_of_io)
}

/// Reads at most `limit` bytes; `miss_of` says what an error of reading is.
pub(super) fn read_or(
    file: impl Read,
    limit: usize,
    miss_of: impl Fn(&io::Error) -> Miss,
) -> Result<Vec<u8>, Miss> {
    let mut bytes = Vec::new();
    // One more byte than is allowed tells a file that is too large from one that just fits.
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| miss_of(&error))?;
    if bytes.len() > limit {
        let detail = format!("it has more than {limit} bytes");
        return Err(Miss::rejected(MissClass::TooLarge, detail));
    }
    Ok(bytes)
}

/// Why a file cannot be read.
pub(super) fn miss_of_io(error: &io::Error) -> Miss {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        no_such_file()
    } else if kind == io::ErrorKind::InvalidInput {
        Miss::rejected(MissClass::NotAFile, error.to_string())
    } else {
        Miss::failed(MissClass::Unreadable, error.to_string())
    }
}

pub(super) fn no_such_file() -> Miss {
    Miss::Gone {
        detail: "there is no such file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_plain_files_are_opened_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("plain"), "x").unwrap();
        std::os::unix::fs::symlink(path("plain"), path("link")).unwrap();
        mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        assert!(open_plain(&path("plain")).is_ok() && open_plain(&path("link")).is_ok());
        for name in [
            "pipe",
            "folder",
            "socket",
            "../../../../../../../../dev/zero",
        ] {
            let error = open_plain(&path(name)).unwrap_err();
            assert_eq!(miss_of_io(&error).class(), "not_a_file", "{name}: {error}");
        }
        let error = open_plain(&path("nothing")).unwrap_err();
        assert_eq!(miss_of_io(&error), no_such_file());
    }
}
