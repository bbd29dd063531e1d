//! Artifacts on this host, by digest: one folder each, verified when it came, read-only, shared by
//! all ranks that need it.
//!
//! Invariants: a folder in `artifacts/` is complete; what a held rank pins is never evicted; one
//! download serves all who wait for the same artifact, and an interrupted one goes on later.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use marquee_domain::artifact::{Digest, Manifest};
use marquee_proto::v1;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::durable;
use crate::fault::at;
use crate::files;
use crate::transfer::{TransferError, Transfers, parts_folder};

/// Bytes of the disk that inputs leave free: for the spools of ranks, and for what jobs write.
pub const DISK_RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// The artifacts of this host.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    max_bytes: u64,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    present: BTreeMap<Digest, Present>,
    /// How many ranks need an artifact, whether it is here or still to come.
    pins: BTreeMap<Digest, u32>,
    /// Bytes promised to downloads that are under way.
    reserved: BTreeMap<Digest, u64>,
    /// One download at a time for each artifact.
    gates: BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Debug, Clone, Copy)]
struct Present {
    bytes: u64,
    used: SystemTime,
}

/// What stands beside each artifact: its files as they were when they were verified.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    manifest: Manifest,
    /// Modification time of each file, nanoseconds since 1970, in the manifest's order.
    modified_ns: Vec<u128>,
}

/// What a cache holds.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub artifacts: usize,
    /// Artifacts that ranks need, here or still to come.
    pub pinned: usize,
    pub bytes: u64,
    pub max_bytes: u64,
    /// Bytes left on its disk. None where that does not say.
    pub disk_room: Option<u64>,
}

/// Keeps an artifact from eviction for as long as it lives.
#[derive(Debug)]
pub struct Pin {
    cache: Arc<Cache>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut index = self.cache.index();
        if let Some(count) = index.pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                index.pins.remove(&self.digest);
            }
        }
    }
}

/// Why an artifact is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(
        "an input of {needed} bytes does not fit: the cache may hold {max} bytes, and {pinned} of them are in use by ranks on this host; raise cache_max_bytes in the worker's settings"
    )]
    NoRoom { needed: u64, max: u64, pinned: u64 },
    #[error(
        "an input of {needed} bytes does not fit on the disk of {path:?}: {room} bytes are free there, of which {reserve} stay free and {promised} are promised to other inputs; make room, or send the job elsewhere",
        reserve = DISK_RESERVE_BYTES
    )]
    DiskFull {
        path: PathBuf,
        needed: u64,
        room: u64,
        promised: u64,
    },
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("the artifact cache at {path:?}: {source}")]
    Disk { path: PathBuf, source: io::Error },
}

impl Cache {
    /// Opens the cache under `root`.
    pub fn open(root: &Path, max_bytes: u64) -> io::Result<Arc<Self>> {
        let cache = Self {
            root: root.to_owned(),
            max_bytes,
            index: Mutex::default(),
        };
        for folder in ["artifacts", "incoming"] {
            files::make_folder(&root.join(folder))?;
        }
        let artifacts = root.join("artifacts");
        // What an earlier removal could not finish goes first, so that nothing below is taken for an artifact
        // by its name alone.
        durable::sweep(&artifacts)?;
        let mut present = BTreeMap::new();
        for entry in fs::read_dir(&artifacts).map_err(|e| at(&artifacts, e))? {
            let entry = entry.map_err(|e| at(&artifacts, e))?;
            let Some(digest) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<Digest>().ok())
            else {
                continue;
            };
            match cache.note(&digest) {
                Ok(note) => {
                    let used =
                        fs::metadata(cache.note_path(&digest)).and_then(|note| note.modified());
                    let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
                    present.insert(
                        digest,
                        Present {
                            bytes: note.manifest.size_bytes(),
                            used,
                        },
                    );
                }
                Err(error) => {
                    // Without its note nobody could tell later whether somebody changed it.
                    warn!(%digest, %error, "an artifact without its note leaves the cache");
                    durable::remove_or_leave(&entry.path());
                }
            }
        }
        cache.index().present = present;
        Ok(Arc::new(cache))
    }

    /// Keeps the artifact of `digest` from eviction, whether it is here yet or not.
    #[must_use]
    pub fn pin(self: &Arc<Self>, digest: Digest) -> Pin {
        *self.index().pins.entry(digest.clone()).or_default() += 1;
        Pin {
            cache: Arc::clone(self),
            digest,
        }
    }

    /// Removes begun downloads that no held rank waits for. To be called when all are pinned.
    pub fn sweep(&self) {
        let incoming = self.root.join("incoming");
        let entries = match fs::read_dir(&incoming) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(?incoming, %error, "begun downloads cannot be looked through");
                return;
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let digest = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<Digest>().ok());
            if !digest.is_some_and(|digest| self.index().pins.contains_key(&digest)) {
                durable::remove_or_leave(&path);
            }
        }
    }

    /// The folder of an artifact, brought here if it is not. `now` orders evictions.
    pub async fn ensure(
        &self,
        manifest: &Manifest,
        transfers: &Transfers,
        now: SystemTime,
    ) -> Result<PathBuf, CacheError> {
        let digest = manifest.digest();
        let gate = {
            let mut index = self.index();
            // Only those that somebody waits at: there would be one for each artifact of the worker's life.
            index.gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            Arc::clone(index.gates.entry(digest.clone()).or_default())
        };
        let _alone = gate.lock().await;
        // Looked at behind the gate: whoever had it before may just have brought the artifact.
        if self.use_present(&digest, now)? {
            return Ok(self.artifact_path(&digest));
        }
        // Before the first byte comes: two downloads that fit one by one could fill the disk together.
        let _reservation = self.reserve(&digest, manifest.size_bytes())?;
        info!(%digest, bytes = manifest.size_bytes(), files = manifest.files.len(), "fetching an artifact");
        let incoming = self.root.join("incoming").join(digest.as_str());
        transfers.download(manifest, &incoming).await?;
        self.take_in(&digest, manifest, &incoming, now)
            .map_err(|source| CacheError::Disk {
                path: incoming,
                source,
            })?;
        Ok(self.artifact_path(&digest))
    }

    /// Whether the artifact is here and as it was. One that someone changed is thrown away.
    fn use_present(&self, digest: &Digest, now: SystemTime) -> Result<bool, CacheError> {
        let disk = |source| CacheError::Disk {
            path: self.artifact_path(digest),
            source,
        };
        if !self.index().present.contains_key(digest) {
            return Ok(false);
        }
        if !self.is_unchanged(digest) {
            warn!(%digest, "an artifact in the cache was changed by someone; it is fetched again");
            // Its files stay until the new ones take their place: other ranks may be reading them.
            self.index().present.remove(digest);
            return Ok(false);
        }
        // The note's own time says when the artifact was last used: an order of use that outlives the daemon.
        files::open(&self.note_path(digest))
            .and_then(|file| file.set_modified(now))
            .map_err(disk)?;
        if let Some(present) = self.index().present.get_mut(digest) {
            present.used = now;
        }
        Ok(true)
    }

    fn is_unchanged(&self, digest: &Digest) -> bool {
        let Ok(note) = self.note(digest) else {
            return false;
        };
        let folder = self.artifact_path(digest);
        note.manifest
            .files
            .iter()
            .zip(&note.modified_ns)
            // By size and time, not by digest: reading tens of gigabytes at each use would cost more than the
            // fetch that it saves.
            .all(|(file, modified)| {
                fs::symlink_metadata(folder.join(&file.path)).is_ok_and(|found| {
                    found.is_file()
                        && found.len() == file.size_bytes
                        && modified_ns(&found) == *modified
                })
            })
    }

    /// Moves a complete download to its place.
    fn take_in(
        &self,
        digest: &Digest,
        manifest: &Manifest,
        incoming: &Path,
        now: SystemTime,
    ) -> io::Result<()> {
        let modified = manifest
            .files
            .iter()
            .map(|file| fs::metadata(incoming.join(&file.path)).map(|found| modified_ns(&found)));
        let modified_ns = modified.collect::<io::Result<_>>()?;
        // The note first: an artifact that is in place without one is thrown away with the next start.
        durable::write_json(
            &self.note_path(digest),
            &Note {
                manifest: manifest.clone(),
                modified_ns,
            },
        )?;
        files::open(&self.note_path(digest))?.set_modified(now)?;
        let target = self.artifact_path(digest);
        // In place of one that somebody changed: in one step, so that a rank which reads it finds the one or the other.
        if exchange(incoming, &target) {
            durable::remove_or_leave(incoming);
        } else {
            durable::remove_or_leave(&target);
            fs::rename(incoming, &target).map_err(|e| at(&target, e))?;
        }
        durable::sync_parent(&target)?;
        durable::remove_or_leave(&parts_folder(incoming));
        let present = Present {
            bytes: manifest.size_bytes(),
            used: now,
        };
        // Last, so that nobody finds an artifact in the index that a power cut could still take away.
        self.index().present.insert(digest.clone(), present);
        Ok(())
    }

    /// Makes room, oldest use first, and keeps it for the download of `digest`: room that the settings
    /// allow, and room that the disk has.
    fn reserve(&self, digest: &Digest, needed: u64) -> Result<Reservation<'_>, CacheError> {
        // What an earlier try brought is on the disk already.
        let missing = needed.saturating_sub(self.begun_bytes(digest));
        loop {
            // Outside of the lock: a disk that is slow to answer must not hold up ranks that only look.
            let room = self.disk_room();
            let (victim, doomed) = {
                let mut index = self.index();
                let held: u64 = index.present.values().map(|p| p.bytes).sum();
                let promised: u64 = index.reserved.values().sum();
                let is_allowed =
                    held.saturating_add(promised).saturating_add(needed) <= self.max_bytes;
                let wanted = promised
                    .saturating_add(missing)
                    .saturating_add(DISK_RESERVE_BYTES);
                let fits = room.is_none_or(|room| wanted <= room) || missing == 0;
                if is_allowed && fits {
                    index.reserved.insert(digest.clone(), needed);
                    return Ok(Reservation {
                        cache: self,
                        digest: digest.clone(),
                    });
                }
                // What a rank uses stays, however full the disk is: its files would vanish under a program
                // that reads them.
                let unpinned = index
                    .present
                    .iter()
                    .filter(|(d, _)| !index.pins.contains_key(*d));
                match unpinned.min_by_key(|(_, present)| present.used) {
                    // Out of sight under the same lock: a rank that pins it an instant later finds that it is not here,
                    // and not a folder that goes under its hands.
                    Some((victim, _)) => {
                        let victim = victim.clone();
                        index.present.remove(&victim);
                        let doomed = [self.artifact_path(&victim), self.note_path(&victim)];
                        (victim, doomed.map(|path| durable::doom(&path)))
                    }
                    None if is_allowed => {
                        return Err(CacheError::DiskFull {
                            path: self.root.clone(),
                            needed,
                            room: room.unwrap_or(0),
                            promised,
                        });
                    }
                    None => {
                        let (max, pinned) = (self.max_bytes, held + promised);
                        return Err(CacheError::NoRoom {
                            needed,
                            max,
                            pinned,
                        });
                    }
                }
            };
            info!(digest = %victim, "evicting the artifact that was not used for longest");
            // Not under the lock: a million files take some seconds.
            for path in doomed.into_iter().flatten() {
                durable::remove_or_leave(&path);
            }
        }
    }

    /// What is here, and how much room there is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let disk_room = self.disk_room();
        let index = self.index();
        Usage {
            artifacts: index.present.len(),
            pinned: index.pins.len(),
            bytes: index.present.values().map(|present| present.bytes).sum(),
            max_bytes: self.max_bytes,
            disk_room,
        }
    }

    /// The same for the coordinator, without a look at the disk.
    #[must_use]
    pub fn to_wire(&self) -> v1::CacheUse {
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let index = self.index();
        v1::CacheUse {
            bytes: index.present.values().map(|present| present.bytes).sum(),
            max_bytes: self.max_bytes,
            artifacts: count(index.present.len()),
            pinned: count(index.pins.len()),
        }
    }

    /// Bytes that the disk has left. None where it does not say.
    fn disk_room(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.root).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Bytes that a download has brought so far.
    fn begun_bytes(&self, digest: &Digest) -> u64 {
        let incoming = self.root.join("incoming").join(digest.as_str());
        let mut folders = vec![parts_folder(&incoming), incoming];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(found) if found.is_dir() => folders.push(entry.path()),
                    Ok(found) => bytes += found.len(),
                    Err(_) => {}
                }
            }
        }
        bytes
    }

    fn note(&self, digest: &Digest) -> io::Result<Note> {
        Ok(serde_json::from_slice(&files::read(
            &self.note_path(digest),
        )?)?)
    }

    fn artifact_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("artifacts").join(digest.as_str())
    }

    fn note_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("artifacts").join(format!("{digest}.json"))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that a download may use.
struct Reservation<'a> {
    cache: &'a Cache,
    digest: Digest,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.cache.index().reserved.remove(&self.digest);
    }
}

/// Lets two folders change places. False: one is not there, or the file system cannot.
fn exchange(one: &Path, other: &Path) -> bool {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).is_ok()
}

fn modified_ns(metadata: &fs::Metadata) -> u128 {
    let since = metadata
        .modified()
        .ok()
        .and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests;
