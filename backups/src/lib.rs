//! The folder of a backup, as `marquee-coordinator backup` and `marquee admin backup` make it and `marquee-coordinator
//! restore` reads it: a dump of the database, every file that it names by its digest, and a manifest of both.
//!
//! Invariant: a folder with a manifest can be restored. The manifest is written last and replaced in one step; what an
//! earlier one names goes after that ([`tidy`]), and what a try that came to no manifest left goes with it ([`Taken`]).
//! Not here: where dump and files come from (the coordinator's `backup`, the command line's `requests::backup`).

mod manifest;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

pub use manifest::{Absent, Dump, Files, Manifest};

/// Moments that are tried: each is missing what was removed while the one before was copied.
pub const MOMENTS_MAX: u32 = 5;
/// Folder of the files, by digest.
pub const ARTIFACTS: &str = "artifacts";

/// Where a file lies below a folder, here as in a coordinator's own.
#[must_use]
pub fn path_of(root: &Path, digest: &Digest) -> PathBuf {
    root.join(&digest.as_str()[..2]).join(digest.as_str())
}

/// How a dump begins and ends its name while it is being written.
pub const DUMP_PARTIAL: (&str, &str) = ("database-", ".partial");

/// The name of a dump of this moment.
#[must_use]
pub fn dump_name(now: DateTime<Utc>, moment: u32) -> String {
    format!("database-{}-{moment}.dump", stamp(now))
}

/// The name of the list of files of a backup that was done now.
#[must_use]
pub fn files_name(now: DateTime<Utc>) -> String {
    format!("files-{}.txt", stamp(now))
}

/// The time as part of a file's name. To the millisecond: a second backup within the same second must not write over what the
/// manifest of the first one names.
fn stamp(now: DateTime<Utc>) -> String {
    now.format("%Y%m%dT%H%M%S%3fZ").to_string()
}

/// Results and jobs are for nobody but whoever makes the backup.
pub fn private_folder(folder: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("could not create {folder:?}"))
}

/// The right to write to a folder. However a backup ends, what it leaves of a database is the manifest's or goes: each failed
/// try would otherwise leave a dump more on a disk that is full already.
#[derive(Debug)]
pub struct Taken {
    folder: PathBuf,
    _lock: File,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // The next one tries it again.
        let _ = sweep(&self.folder);
    }
}

/// One backup at a time writes to a folder. What one that was killed has left there of a database goes.
pub fn take(folder: &Path) -> anyhow::Result<Taken> {
    let path = folder.join("backup.lock");
    let file = File::create(&path).with_context(|| format!("could not write {path:?}"))?;
    match file.try_lock() {
        Ok(()) => {
            sweep(folder)?;
            Ok(Taken {
                folder: folder.to_owned(),
                _lock: file,
            })
        }
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another backup is being written to {folder:?}; wait for it")
        }
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("could not lock {path:?}"))
        }
    }
}

/// Whether a backup of this cluster may go into the folder: another one's would be replaced by it.
pub fn is_free_for(folder: &Path, cluster: Uuid) -> anyhow::Result<()> {
    match Manifest::find(folder)? {
        Some(there) if there.cluster_id != cluster => bail!(
            "{folder:?} holds a backup of another cluster ({}, of {}), which this one would replace; name another folder",
            there.cluster_id,
            there.made_at.format("%Y-%m-%d %H:%M UTC")
        ),
        Some(_) | None => Ok(()),
    }
}

/// Removes dumps and lists that the folder's manifest does not name.
fn sweep(folder: &Path) -> anyhow::Result<()> {
    let Ok(manifest) = Manifest::find(folder) else {
        // What it names cannot be told: nothing here may be missed.
        return Ok(());
    };
    let named: Vec<&str> = match &manifest {
        Some(manifest) => vec![&manifest.dump.file, &manifest.files.file],
        None => Vec::new(),
    };
    let entries =
        fs::read_dir(folder).with_context(|| format!("could not look into {folder:?}"))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_ours(&name) && !named.contains(&name.as_str()) && entry.file_type()?.is_file() {
            let path = entry.path();
            fs::remove_file(&path).with_context(|| format!("could not remove {path:?}"))?;
        }
    }
    Ok(())
}

/// Whether a file is called as a backup calls its dumps and lists. The folder may be somebody's, with files of his own.
fn is_ours(name: &str) -> bool {
    let between = |begin: &str, end: &str| name.strip_prefix(begin)?.strip_suffix(end);
    let is_stamp = |text: &str| {
        let is_part = |byte: u8| byte.is_ascii_digit() || b"TZ-".contains(&byte);
        !text.is_empty() && text.bytes().all(is_part)
    };
    between("database-", ".dump").is_some_and(is_stamp)
        || between("files-", ".txt").is_some_and(is_stamp)
        || between(DUMP_PARTIAL.0, DUMP_PARTIAL.1).is_some()
}

/// Removes what this manifest does not name: of earlier backups, and of one that was killed.
pub fn tidy(folder: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    sweep(folder)?;
    let named: BTreeSet<String> = manifest
        .files
        .read(folder)?
        .into_iter()
        .map(|digest| digest.to_string())
        .collect();
    let parts = match fs::read_dir(folder.join(ARTIFACTS)) {
        // Nothing was ever copied: the cluster has no artifacts yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        parts => parts?,
    };
    for part in parts {
        let part = part?;
        // What else somebody put there is none of ours.
        if !part.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(part.path())? {
            let entry = entry?;
            let is_named = named.contains(&*entry.file_name().to_string_lossy());
            if !is_named && entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Hashes what is written.
#[derive(Debug)]
pub struct Hashed<W> {
    to: W,
    hash: Sha256,
}

impl<W> Hashed<W> {
    pub fn new(to: W) -> Self {
        Self {
            to,
            hash: Sha256::new(),
        }
    }

    /// What was written to, and the digest of what was written.
    pub fn finish(self) -> (W, Digest) {
        (self.to, Digest::from_hash(&self.hash.finalize()))
    }
}

impl<W: io::Write> io::Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The digest of a file, and its bytes.
pub fn digest_of(file: &Path) -> io::Result<(Digest, u64)> {
    let mut hashed = Hashed::new(io::sink());
    let bytes = io::copy(&mut File::open(file)?, &mut hashed)?;
    Ok((hashed.finish().1, bytes))
}

#[cfg(test)]
mod tests;
