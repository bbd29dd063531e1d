//! Removing folders that somebody else filled: read-only ones, deep ones, ones full of links.
//!
//! Invariant: nothing outside is touched, since no link is followed, and neither depth nor number of the
//! entries costs stack or descriptors: a folder that is found inside another is moved to the top first, so
//! that nothing is ever deeper than one level.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::fault::at;

/// Names read from a folder at once.
const NAMES: usize = 4_096;
/// Tries to find a free name at the top. A job may have taken some.
const FREE_NAMES: u64 = 100_000;
/// Read, write and enter: what its owner needs to empty a folder.
const OWNER: u32 = 0o700;

/// Removes whatever has this name, all that is in it included. Nothing there is no error. What cannot be
/// removed is named in the error, and all else is gone.
pub(crate) fn all(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ACCESS) => open_up_parent(path)?,
        Err(_) => {}
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Of a folder Linux says the first, and POSIX the second.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(at(path, error.into())),
    }
    let top = open(CWD, &name).map_err(|e| at(path, e.into()))?;
    let mut emptying = Emptying {
        top: &top,
        path,
        done: 0,
        first_error: None,
    };
    emptying.run().map_err(|e| at(path, e.into()))?;
    if let Some(error) = emptying.first_error {
        return Err(error);
    }
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(at(path, error.into())),
    }
}

/// A job that reaches the folder above may have closed it.
pub(crate) fn open_up_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let name = CString::new(parent.as_os_str().as_bytes())?;
    open(CWD, &name).map(drop).map_err(|e| at(parent, e.into()))
}

/// Opens a folder, and lets its owner in where the owner was kept out.
fn open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let folder = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(parent, name, folder | OFlags::PATH, Mode::empty())?;
    let mode = fstat(&handle)?.st_mode & 0o7777;
    if mode & OWNER != OWNER {
        // By its descriptor: a name could lead somewhere else by now.
        let by_descriptor = format!("/proc/self/fd/{}", handle.as_raw_fd());
        chmodat(
            CWD,
            by_descriptor,
            Mode::from_raw_mode(mode | OWNER),
            AtFlags::empty(),
        )?;
    }
    openat(&handle, c".", folder | OFlags::RDONLY, Mode::empty())
}

struct Emptying<'a> {
    top: &'a OwnedFd,
    path: &'a Path,
    /// Entries removed or moved so far.
    done: u64,
    first_error: Option<io::Error>,
}

impl Emptying<'_> {
    /// Goes over the top again and again, until nothing more can be removed.
    fn run(&mut self) -> rustix::io::Result<()> {
        loop {
            let before = self.done;
            self.first_error = None;
            for name in names(self.top.as_fd())? {
                if let Err(error) = self.entry(&name) {
                    self.note(&name, error);
                }
            }
            if self.done == before {
                return Ok(());
            }
        }
    }

    fn note(&mut self, name: &CStr, error: Errno) {
        let path = self.path.join(OsStr::from_bytes(name.to_bytes()));
        self.first_error
            .get_or_insert_with(|| at(&path, error.into()));
    }

    /// Removes an entry of the top. A folder is emptied first: what it holds goes, or moves to the top.
    fn entry(&mut self, name: &CStr) -> rustix::io::Result<()> {
        if self.remove(self.top.as_fd(), name)? {
            return Ok(());
        }
        let folder = open(self.top.as_fd(), name)?;
        loop {
            let found = names(folder.as_fd())?;
            let is_last = found.len() < NAMES;
            let mut failed = None;
            for inner in found {
                let gone = match self.remove(folder.as_fd(), &inner) {
                    Ok(true) => Ok(()),
                    Ok(false) => self.move_up(folder.as_fd(), &inner),
                    Err(error) => Err(error),
                };
                failed = failed.or(gone.err());
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if is_last {
                break;
            }
        }
        unlinkat(self.top, name, AtFlags::REMOVEDIR)?;
        self.done += 1;
        Ok(())
    }

    /// Moves a folder to the top under a name of its own.
    fn move_up(&mut self, from: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        // A folder that changes its parent has to be writable itself.
        drop(open(from, name)?);
        for n in self.done..self.done + FREE_NAMES {
            match renameat(from, name, self.top, format!("~{n}")) {
                Ok(()) => {
                    self.done += 1;
                    return Ok(());
                }
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EXIST)
    }

    /// Removes a file, a link or an empty folder. False: it is a folder that holds something.
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<bool> {
        let as_file = match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                self.done += 1;
                return Ok(true);
            }
            Err(error) => error,
        };
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                self.done += 1;
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            // No folder: what stood in the file's way counts.
            Err(Errno::NOTDIR) => Err(as_file),
            Err(error) => Err(error),
        }
    }
}

/// Some of a folder's names, from the first on.
fn names(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    // A descriptor of its own, with a place in the folder of its own.
    let mut entries = Dir::read_from(folder)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.read() {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
        if names.len() == NAMES {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn links_are_removed_and_what_they_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, doomed) = (dir.path().join("kept"), dir.path().join("doomed"));
        fs::create_dir_all(kept.join("inner")).unwrap();
        fs::write(kept.join("inner/file"), "x").unwrap();
        fs::set_permissions(kept.join("inner"), fs::Permissions::from_mode(0o500)).unwrap();
        fs::create_dir_all(doomed.join("a/b")).unwrap();
        symlink(&kept, doomed.join("a/b/folder")).unwrap();
        symlink(kept.join("inner/file"), doomed.join("file")).unwrap();
        symlink("nowhere", doomed.join("broken")).unwrap();
        all(&doomed).unwrap();
        assert!(!doomed.exists());
        assert_eq!(fs::read(kept.join("inner/file")).unwrap(), b"x");
        let mode = fs::metadata(kept.join("inner"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o500, "modes behind links stay");
        symlink(&kept, &doomed).unwrap();
        all(&doomed).unwrap();
        assert!(kept.exists() && !doomed.exists());
        all(&doomed).unwrap();
    }

    #[test]
    fn a_folder_of_any_depth_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let doomed = dir.path().join("doomed");
        fs::create_dir(&doomed).unwrap();
        let mut inside = openat(
            CWD,
            &doomed,
            OFlags::DIRECTORY | OFlags::RDONLY,
            Mode::empty(),
        )
        .unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&inside, "d", Mode::RWXU).unwrap();
            inside = openat(
                &inside,
                "d",
                OFlags::DIRECTORY | OFlags::RDONLY,
                Mode::empty(),
            )
            .unwrap();
        }
        // Names that this module would like to have itself.
        for n in 1..=3 {
            fs::write(doomed.join(format!("~{n}")), "taken").unwrap();
        }
        fs::create_dir_all(doomed.join("~4/full")).unwrap();
        let small_stack = std::thread::Builder::new().stack_size(64 * 1024);
        let path = doomed.clone();
        small_stack
            .spawn(move || all(&path))
            .unwrap()
            .join()
            .unwrap()
            .unwrap();
        assert!(!doomed.exists());
    }

    #[test]
    fn more_entries_than_are_read_at_once_go_too() {
        let dir = tempfile::tempdir().unwrap();
        let doomed = dir.path().join("doomed");
        fs::create_dir_all(doomed.join("many")).unwrap();
        for n in 0..NAMES + 10 {
            fs::write(doomed.join(format!("many/{n}")), "").unwrap();
        }
        all(&doomed).unwrap();
        assert!(!doomed.exists());
    }
}
