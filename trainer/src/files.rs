//! Files and folders that are complete or absent.
//!
//! Invariant: what has its final name is whole and on the disk: written aside, synced, renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::RunError;
use crate::tensors::ALIGNMENT;

/// Smaller files go through the page cache: for them the delay of a direct write costs more than the copy.
const DIRECT_MIN_BYTES: usize = 1 << 20;

fn failed(path: &Path, error: &io::Error) -> RunError {
    RunError::host(format!(
        "cannot write {}: {error}; check that the folder exists and has space",
        path.display()
    ))
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    let written = write_past_cache(&mut file, bytes)?;
    file.write_all(&bytes[written..])?;
    file.sync_all()
}

/// Writes the beginning of `bytes` directly to the disk, past the page cache, if it is long and aligned as
/// direct writes need it. Returns how many bytes that were: 0 on a file system without direct writes.
///
/// A checkpoint is written once and rarely read. Copying it through the page cache would take processor
/// time from the training that goes on meanwhile.
fn write_past_cache(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    let whole = bytes.len() - bytes.len() % ALIGNMENT;
    let is_worth_it = whole >= DIRECT_MIN_BYTES && bytes.as_ptr().align_offset(ALIGNMENT) == 0;
    if !is_worth_it || fcntl(&*file, FcntlArg::F_SETFL(OFlag::O_DIRECT)).is_err() {
        return Ok(0);
    }
    let mut written = 0;
    while written < whole {
        match file.write(&bytes[written..whole]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Some file systems accept O_DIRECT when a file is opened and then refuse the write.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    // The end of the file is shorter than a block, which direct writes refuse.
    fcntl(&*file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(written)
}

/// Writes one file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let aside = path.with_file_name(name);
    let written = write_synced(&aside, bytes)
        .and_then(|()| fs::rename(&aside, path))
        .and_then(|()| path.parent().map_or(Ok(()), sync_folder));
    written.map_err(|error| failed(path, &error))
}

/// Writes one JSON file, indented.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RunError> {
    write(path, &json(value)?)
}

/// Indented JSON with a final newline.
pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>, RunError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| RunError::host(format!("a value has no form in JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads one JSON file of an input.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RunError> {
    let damaged =
        |problem: String| RunError::input(format!("{} cannot be read: {problem}", path.display()));
    let bytes = fs::read(path).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
}

/// Writes a folder `name` with `files` into `parent`, and returns its path. If there is such a
/// folder already it stays as it is, and the new one gets a number behind its name.
pub(crate) fn write_folder(
    parent: &Path,
    name: &str,
    files: &[(&str, &[u8])],
) -> Result<PathBuf, RunError> {
    let aside = parent.join(format!(".{name}.partial"));
    let written = || -> io::Result<PathBuf> {
        // A run that was killed while it wrote left this; what is in it is of no use to anybody.
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::create_dir_all(&aside)?;
        for (file, bytes) in files {
            write_synced(&aside.join(file), bytes)?;
        }
        sync_folder(&aside)?;
        // Never in place of one that is there: it may be the one that was reported, and that a
        // resume would ask for.
        let target = free_name(parent, name);
        fs::rename(&aside, &target)?;
        sync_folder(parent)?;
        Ok(target)
    };
    written().map_err(|error| failed(&parent.join(name), &error))
}

fn free_name(parent: &Path, name: &str) -> PathBuf {
    let plain = parent.join(name);
    let numbered = (2_u32..).map(|number| parent.join(format!("{name}-{number}")));
    std::iter::once(plain.clone())
        .chain(numbered)
        .find(|path| !path.exists())
        .unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_whole_and_an_older_one_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        // Left behind by a process that was killed while it wrote.
        fs::create_dir(parent.path().join(".step-1.partial")).unwrap();
        fs::write(parent.path().join(".step-1.partial/stale"), b"x").unwrap();

        let first = write_folder(parent.path(), "step-1", &[("a", b"1")]).unwrap();
        let second = write_folder(parent.path(), "step-1", &[("a", b"2")]).unwrap();
        assert_eq!(fs::read(first.join("a")).unwrap(), b"1");
        assert_eq!(fs::read(second.join("a")).unwrap(), b"2");
        assert!(!first.join("stale").exists());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_large_file_is_whole_wherever_its_bytes_lie_and_whatever_the_disk_can() {
        let memory: Vec<u8> = (0..251).cycle().take(3 * DIRECT_MIN_BYTES).collect();
        let aligned = memory.as_ptr().align_offset(ALIGNMENT);
        // The second is a file system in memory.
        for parent in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
            let folder = tempfile::tempdir_in(parent).unwrap();
            let path = folder.path().join("large");
            for start in [aligned, aligned + 1] {
                for len in [
                    DIRECT_MIN_BYTES,
                    DIRECT_MIN_BYTES + 5,
                    2 * DIRECT_MIN_BYTES - 1,
                ] {
                    let bytes = &memory[start..start + len];
                    write(&path, bytes).unwrap();
                    assert!(fs::read(&path).unwrap() == bytes, "{start} {len}");
                }
            }
        }
    }
}
