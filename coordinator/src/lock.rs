//! One coordinator on a data folder: two processes must not share a private Postgres and a blob folder.
//!
//! The lock ends with the process that holds it, however it dies. Which of several coordinators on one database leads
//! is another matter ([`crate::election`]).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use uuid::Uuid;

/// Takes the data folder, and makes it where there is none. The lock lives as long as the file.
pub fn data_folder(folder: &Path) -> anyhow::Result<File> {
    // Passable for the account that a private Postgres may run as, listed by nobody else.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .with_context(|| format!("could not create data_dir {folder:?}; choose another folder"))?;
    let path = folder.join("coordinator.lock");
    // Not emptied before it is locked: what stands there is the process that holds it, which a refusal names.
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("could not open {path:?}; is data_dir ours?"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            bail!(
                "data_dir {folder:?} is in use by another coordinator (process {}); stop that one, or give this one a folder of its own with --data-dir",
                holder.trim()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("could not lock {path:?}"));
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// What names a data folder, by the file that locks it, as no other folder is named while this host runs. Whoever holds
/// the lock knows that no other process with this name lives; a folder that was copied has another name.
pub fn seat(file: &File) -> anyhow::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("could not read the host's boot id")?;
    let found = file
        .metadata()
        .context("could not look at coordinator.lock")?;
    Ok(format!("{} {}:{}", boot.trim(), found.dev(), found.ino()))
}

/// Writes down which cluster the data folder is of, for whoever starts us and wants to know who answers.
pub fn note_cluster(folder: &Path, cluster: Uuid) -> anyhow::Result<()> {
    let path = folder.join("cluster-id");
    let aside = folder.join("cluster-id.new");
    std::fs::write(&aside, format!("{cluster}\n"))
        .and_then(|()| std::fs::rename(&aside, &path))
        .with_context(|| format!("could not write {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_has_one_coordinator() {
        let folder = tempfile::tempdir().unwrap();
        let first = data_folder(folder.path()).unwrap();
        let error = data_folder(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        data_folder(folder.path()).unwrap();
    }
}
