//! Files that are there whole or not at all: the only place of this crate that knows how.
//!
//! Two strengths, since a sync costs milliseconds and a quick job would pay for ten of them:
//! [`replace`] holds whatever is killed, [`write`] and [`write_first`] also after a power cut. The
//! second is for what must be known after one: who this worker is, and that it holds a rank (the
//! spool, which syncs itself, has what was reported of it). Claims, exit statuses and a child's spec
//! speak of processes of this boot. After another boot a rank is given up without reading them, so
//! they are not synced.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

/// Replaces `path` by `bytes`: written aside and renamed. Not synced.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, bytes)?;
    fs::rename(&aside, path)
}

/// Replaces `path` by `value` as JSON. Not synced.
pub(crate) fn replace_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec_pretty(value)?)
}

/// Replaces `path` by `bytes`: written aside, synced, renamed, and the folder synced.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
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
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_parent(path)?;
    path.parent().map_or(Ok(()), sync_parent)
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a folder so that a crash half-way leaves nothing that looks whole: it first takes a
/// name that no reader looks for. A folder that is not there is no error.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(DOOMED_PREFIX);
    name.push(path.file_name().unwrap_or_default());
    let doomed = path.with_file_name(name);
    match fs::rename(path, &doomed) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    fs::remove_dir_all(&doomed)
}

/// First letters of the name of a folder that is being removed.
pub(crate) const DOOMED_PREFIX: &str = ".gone-";

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
    fn removing_a_folder_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("17-1-0");
        fs::create_dir_all(path.join("work")).unwrap();
        remove_folder(&path).unwrap();
        remove_folder(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
