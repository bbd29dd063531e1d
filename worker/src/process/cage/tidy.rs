//! Opens what a job left to the worker, which is another account: it is read into artifacts, and removed.
//!
//! Runs as the job's user, when nothing of the job does. Only this account can do it without root's rights, and
//! nothing that it could be led astray to is anybody's but its own. Neither depth nor number of the folders costs
//! stack or descriptors.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, statat};

/// A folder: to be listed and emptied by whoever gets there. The rank's folder lets in the job's user and the worker.
const FOLDER: u32 = 0o777;
/// A file: to be read besides.
const FILE: u32 = 0o444;
/// What a file may allow at all: no set-user-ID of a job's account outlives the job.
const FILE_MOST: u32 = 0o777;

const OPEN: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// All below a folder of the worker's. What cannot be opened is told with the first error, and does not keep the rest.
pub(super) fn open_up(top: &Path) -> io::Result<()> {
    open_up_as(top, FILE)
}

/// The same with what its files are to allow at least.
pub(super) fn open_up_as(top: &Path, file: u32) -> io::Result<()> {
    let mut here = openat(CWD, top, OPEN, Mode::empty())?;
    let mut first_error = None;
    let mut levels = vec![open_entries(&here, file, &mut first_error)];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop() {
            match openat(&here, &name, OPEN, Mode::empty()) {
                Ok(folder) => {
                    levels.push(open_entries(&folder, file, &mut first_error));
                    here = folder;
                }
                Err(error) => note(&mut first_error, error),
            }
        } else {
            levels.pop();
            if !levels.is_empty() {
                // Nothing of the job runs any more that could move a folder to another place
                // meanwhile.
                here = openat(&here, c"..", OPEN, Mode::empty())?;
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Opens a folder's entries, and gives those that are folders.
fn open_entries(folder: &OwnedFd, file: u32, first_error: &mut Option<io::Error>) -> Vec<CString> {
    let mut inside = Vec::new();
    let entries = match Dir::read_from(folder) {
        Ok(entries) => entries,
        Err(error) => {
            note(first_error, error);
            return inside;
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(found) = statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        let wanted = if kind == FileType::Directory {
            FOLDER
        } else if kind == FileType::RegularFile {
            (found.st_mode & FILE_MOST) | file
        } else {
            continue;
        };
        if found.st_mode & 0o7777 != wanted
            && let Err(error) =
                chmodat(folder, &name, Mode::from_raw_mode(wanted), AtFlags::empty())
        {
            note(first_error, error);
        }
        if kind == FileType::Directory {
            inside.push(name);
        }
    }
    inside
}

fn note(first_error: &mut Option<io::Error>, error: rustix::io::Errno) {
    first_error.get_or_insert(error.into());
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn close(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_was_closed_is_open_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("top/closed/deep")).unwrap();
        fs::create_dir_all(at("beside")).unwrap();
        fs::write(at("top/closed/deep/file"), "x").unwrap();
        fs::write(at("top/program"), "x").unwrap();
        fs::write(at("beside/key"), "x").unwrap();
        close(&at("beside/key"), 0o600);
        close(&at("top/closed/deep/file"), 0o000);
        close(&at("top/program"), 0o4700);
        symlink(at("beside"), at("top/folder")).unwrap();
        symlink(at("beside/key"), at("top/file")).unwrap();
        symlink("nowhere", at("top/broken")).unwrap();
        close(&at("top/closed/deep"), 0o1000);
        close(&at("top/closed"), 0o1500);
        open_up(&at("top")).unwrap();
        let seen = ["top/closed", "top/closed/deep", "top/closed/deep/file"];
        assert_eq!(seen.map(|name| mode(&at(name))), [0o777, 0o777, 0o444]);
        assert_eq!(mode(&at("top/program")), 0o744, "it becomes nobody");
        assert_eq!(mode(&at("beside/key")), 0o600);
        assert!(open_up(&at("top/folder")).is_err(), "a link is no folder");
    }

    #[test]
    fn any_depth_is_opened_without_descriptors_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut inside = openat(CWD, dir.path(), OPEN, Mode::empty()).unwrap();
        for _ in 0..400 {
            rustix::fs::mkdirat(&inside, "d", Mode::RWXU).unwrap();
            inside = openat(&inside, "d", OPEN, Mode::empty()).unwrap();
        }
        open_up(dir.path()).unwrap();
        let deepest = rustix::fs::fstat(&inside).unwrap().st_mode;
        assert_eq!(deepest & 0o7777, FOLDER);
        crate::remove::all(&dir.path().join("d")).unwrap();
    }
}
