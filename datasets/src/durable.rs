//! Files that are complete or absent.
//!
//! Invariant: a file under its own name holds everything that was meant for it and is on the disk.
//! It is written under another name, synced, and renamed; whoever dies in between leaves only a
//! `.partial` file, which the next try overwrites.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use marquee_domain::artifact::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Bytes gathered before a write reaches the system.
const BUFFER_BYTES: usize = 256 * 1024;

/// A file being written aside. Dropping it without [`AsideFile::commit`] removes it.
#[derive(Debug)]
pub(crate) struct AsideFile {
    writer: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
    aside: PathBuf,
    target: PathBuf,
    committed: bool,
}

/// What a committed file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

impl AsideFile {
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let aside = target.with_file_name(name);
        let file = File::create(&aside)?;
        Ok(Self {
            writer: BufWriter::with_capacity(BUFFER_BYTES, file),
            hash: Sha256::new(),
            bytes: 0,
            aside,
            target: target.to_owned(),
            committed: false,
        })
    }

    /// The name the file will have.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn commit(mut self) -> io::Result<Committed> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()?;
        fs::rename(&self.aside, &self.target)?;
        self.committed = true;
        if let Some(folder) = self.target.parent() {
            // The rename itself is durable only once its folder is.
            File::open(folder)?.sync_all()?;
        }
        let hash = std::mem::take(&mut self.hash);
        Ok(Committed {
            digest: Digest::from_hash(&hash.finalize()),
            bytes: self.bytes,
        })
    }
}

impl Write for AsideFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        // As it is written, so that nobody has to read the file once more for its digest.
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AsideFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing to tell anyone: the error that led here is already on its way.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

/// Writes `value` to `path` as indented JSON with a final newline.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut file = AsideFile::create(path)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    file.commit().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_file_has_its_digest_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.json");
        let mut file = AsideFile::create(&target).unwrap();
        file.write_all(b"abc").unwrap();
        assert!(!target.exists());
        let committed = file.commit().unwrap();
        assert_eq!(
            committed,
            Committed {
                digest: Digest::of(b"abc"),
                bytes: 3
            }
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_abandoned_file_is_absent_and_keeps_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.json");
        fs::write(&target, b"old").unwrap();
        let mut file = AsideFile::create(&target).unwrap();
        file.write_all(b"half of the new").unwrap();
        drop(file);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
