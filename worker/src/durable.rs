//! Files that are there whole or not at all: the only place of this crate that knows how.
//!
//! Two strengths, since a sync costs milliseconds and a quick job would pay for ten of them:
//! [`replace`] holds whatever is killed, [`write`] and [`write_first`] also after a power cut. The
//! second is for what must be known after one: who this worker is, and that it holds a rank (the
//! spool, which syncs itself, has what was reported of it). Claims, exit statuses and a child's spec
//! speak of processes of this boot. After another boot a rank is given up without reading them, so
//! they are not synced.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use serde::Serialize;
use tracing::warn;

use crate::fault::at;
use crate::{files, remove};

/// Room kept for a small file: a block of every usual file system.
const SMALL_BYTES: u64 = 4_096;
/// Names tried for a folder that is to be removed.
const DOOMED_NAMES: u32 = 1_000;

/// Replaces `path` by `bytes`: written aside and renamed. Not synced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = files::make(&aside)?;
    file.write_all(bytes).map_err(|e| at(&aside, e))?;
    put(&aside, path)
}

/// Replaces `path` by `value` as JSON. Not synced.
pub(crate) fn replace_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec_pretty(value)?)
}

/// The same for a rank's child to read, which may run under another account: only who gets to its folder gets to it.
pub(crate) fn replace_json_for_child<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let aside = path.with_extension("new");
    let mut file = files::make(&aside)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))
        .and_then(|()| file.write_all(&serde_json::to_vec_pretty(value)?))
        .map_err(|e| at(&aside, e))?;
    put(&aside, path)
}

/// Replaces `path` by `bytes`: written aside, synced, renamed, and the folder synced.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = files::make(&aside)?;
    file.write_all(bytes).map_err(|e| at(&aside, e))?;
    file.sync_all().map_err(|e| at(&aside, e))?;
    put(&aside, path)?;
    sync_parent(path)
}

/// Replaces `path` by `value` as JSON.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write(path, &serde_json::to_vec_pretty(value)?)
}

/// Writes a file into a folder that is new itself, and makes file, folder and the folder's own entry
/// durable. After a power cut half-way the file may be there in part: its reader takes that for not
/// there. In return all of it goes to the disk in one turn, where a rename would take a second.
pub(crate) fn write_first(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = files::make(path)?;
    file.write_all(bytes).map_err(|e| at(path, e))?;
    file.sync_all().map_err(|e| at(path, e))?;
    sync_parent(path)?;
    path.parent().map_or(Ok(()), sync_parent)
}

/// Renames a file that was written aside to its place, whatever a job put there.
fn put(aside: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(aside, path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            remove::all(path)?;
            fs::rename(aside, path).map_err(|e| at(path, e))
        }
        done => done.map_err(|e| at(path, e)),
    }
}

/// Room on the disk for a small file that has to be written later, whatever the disk is like then.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
    /// None where the disk is full already.
    kept: Option<File>,
}

impl Room {
    /// Keeps room for `path`.
    pub(crate) fn keep(path: &Path) -> Self {
        let file = files::make(&Self::aside(path)).and_then(|file| {
            // Some file systems, such as NFS, cannot keep room. Then nothing is promised, which is no error.
            match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, SMALL_BYTES) {
                Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => Ok(file),
                Err(error) => Err(error.into()),
            }
        });
        Self {
            path: path.to_owned(),
            kept: file.ok(),
        }
    }

    /// Writes the file in the room that was kept for it; where there is none, like [`replace_json`].
    pub(crate) fn fill_json<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let aside = Self::aside(&self.path);
        if let Some(mut file) = self.kept.take() {
            let written = file.write_all(&serde_json::to_vec_pretty(value)?);
            if written.and_then(|()| put(&aside, &self.path)).is_ok() {
                return Ok(());
            }
        }
        replace_json(&self.path, value)
    }

    fn aside(path: &Path) -> PathBuf {
        path.with_extension("room")
    }
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| at(parent, e)),
        None => Ok(()),
    }
}

/// Removes a folder so that a crash half-way leaves nothing that looks whole: it first takes a
/// name that no reader looks for. A folder that is not there is no error. What cannot be removed stays
/// under that name, and the error says which.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match doom(path) {
        Some(doomed) => remove::all(&doomed),
        None => Ok(()),
    }
}

/// Gives a folder or file a name that no reader looks for, under which it is to be removed, and says which; its own where
/// no other is to be had. None: it is not there.
pub(crate) fn doom(path: &Path) -> Option<PathBuf> {
    // The name may be taken by what an earlier removal could not finish.
    for n in 0..DOOMED_NAMES {
        let mut name = OsString::from(DOOMED_PREFIX);
        name.push(path.file_name().unwrap_or_default());
        if n > 0 {
            name.push(format!(".{n}"));
        }
        let doomed = path.with_file_name(name);
        match fs::rename(path, &doomed) {
            Ok(()) => return Some(doomed),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            // Something that could not be removed has the name.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty
                        | io::ErrorKind::AlreadyExists
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::IsADirectory
                ) => {}
            Err(_) => break,
        }
    }
    Some(path.to_owned())
}

/// Tries again to remove what an earlier removal left in `folder`. What still stays is named in the log,
/// and is no reason to stop.
pub(crate) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| at(folder, e))? {
        let entry = entry.map_err(|e| at(folder, e))?;
        if is_doomed(&entry.file_name()) {
            remove_or_leave(&entry.path());
        }
    }
    Ok(())
}

/// Removes what is of no use any more. What cannot be removed is set aside and named in the log.
pub(crate) fn remove_or_leave(path: &Path) {
    let removed = if path.file_name().is_some_and(is_doomed) {
        remove::all(path)
    } else {
        remove_folder(path)
    };
    if let Err(error) = removed {
        warn!(?path, %error, "cannot be removed and is left aside; remove it by hand to get its room back");
    }
}

/// Whether a name says that what has it is being removed.
pub(crate) fn is_doomed(name: &OsStr) -> bool {
    name.as_encoded_bytes()
        .starts_with(DOOMED_PREFIX.as_bytes())
}

/// First letters of the name of a folder that is being removed.
const DOOMED_PREFIX: &str = ".gone-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_json(&path, &1).unwrap();
        write_json(&path, &2).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        replace_json(&path, &3).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"3");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_small_file_is_written_in_the_room_that_was_kept_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit-1.json");
        let mut room = Room::keep(&path);
        assert!(!path.exists());
        room.fill_json(&7).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"7");
        room.fill_json(&8).unwrap();
        assert_eq!(
            fs::read(&path).unwrap(),
            b"8",
            "a second time without room of its own"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_stands_under_the_name_of_a_doomed_folder_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("17-1-0");
        fs::create_dir_all(dir.path().join(".gone-17-1-0/left")).unwrap();
        fs::write(dir.path().join(".gone-17-1-0.1"), "left").unwrap();
        fs::create_dir_all(path.join("work")).unwrap();
        remove_folder(&path).unwrap();
        assert!(!path.exists());
        sweep(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn removing_a_folder_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("17-1-0");
        fs::create_dir_all(path.join("work")).unwrap();
        remove_folder(&path).unwrap();
        remove_folder(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
