//! Who this worker is: an id that stays with the data directory, the kernel's boot id, and an id
//! of this start of the daemon. Holds the lock that keeps a second daemon out of the directory.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use marquee_domain::{BootId, WorkerId};
use tracing::warn;
use uuid::Uuid;

use crate::durable;
use crate::env::Env;
use crate::files;

/// Who this worker is.
#[derive(Debug)]
pub struct Identity {
    pub worker: WorkerId,
    pub boot: BootId,
    pub instance: Uuid,
    /// Held for as long as the daemon lives; the kernel lets go of it even after kill -9.
    _lock: File,
}

/// Why a worker cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("data folder {path:?} cannot be used: {source}; choose another with --data-dir")]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "another marquee-worker uses the data folder {path:?}; stop it, or give this one its own --data-dir"
    )]
    InUse { path: PathBuf },
    #[error(
        "{path:?} holds no UUID; it names this worker for ever: restore it, or delete it to join as a new worker"
    )]
    WorkerId { path: PathBuf },
    #[error(
        "{path:?} holds no UUID; it names the cluster that this worker belongs to: restore it, or delete it to join the next coordinator's"
    )]
    ClusterId { path: PathBuf },
    #[error("the kernel's boot id cannot be read: {source}")]
    BootId { source: io::Error },
}

impl Identity {
    /// Locks `data_dir`, making it if needed, and reads who this worker is.
    pub fn claim(data_dir: &Path, env: &Env) -> Result<Self, IdentityError> {
        let folder_error = |source| IdentityError::Folder {
            path: data_dir.to_owned(),
            source,
        };
        files::make_folder(data_dir).map_err(folder_error)?;
        // Before anything is put there: keys and jobs' documents would be open to all for a moment.
        close_to_others(data_dir);
        // A lock, not a file with a number in it: the kernel takes it back from a daemon that was killed.
        let lock = files::open_or_make(&data_dir.join("lock")).map_err(folder_error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(IdentityError::InUse {
                    path: data_dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(folder_error(source)),
        }
        Ok(Self {
            worker: worker_id(data_dir, env)?,
            boot: env
                .machine
                .boot_id()
                .map_err(|source| IdentityError::BootId { source })?,
            instance: env.random.uuid(),
            _lock: lock,
        })
    }
}

/// Which cluster the worker's data folder belongs to: the first that welcomed it. Ranks are named alike in all
/// clusters, so that in another one it would report for jobs that are not its own.
#[derive(Debug, Clone)]
pub struct Membership {
    path: PathBuf,
    cluster: Option<Uuid>,
}

impl Membership {
    /// What earlier daemons noted.
    pub fn read(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = data_dir.join("cluster-id");
        let cluster = match files::read(&path) {
            Ok(text) => {
                let id = String::from_utf8_lossy(&text).trim().parse();
                Some(id.map_err(|_| IdentityError::ClusterId { path: path.clone() })?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(IdentityError::Folder { path, source }),
        };
        Ok(Self { path, cluster })
    }

    /// The cluster's id, as Hello carries it; empty before the first welcome.
    #[must_use]
    pub fn to_wire(&self) -> String {
        self.cluster.map(|id| id.to_string()).unwrap_or_default()
    }

    /// Whether a coordinator is of this worker's cluster. The first one is, from then on. One of an older
    /// version does not say what it is.
    pub fn admits(&mut self, cluster_id: &str) -> io::Result<bool> {
        let Ok(theirs) = cluster_id.parse::<Uuid>() else {
            return Ok(true);
        };
        match self.cluster {
            Some(ours) => Ok(ours == theirs),
            None => {
                // On the disk before the coordinator counts as ours: a daemon that is started anew must not
                // follow another one.
                durable::write(&self.path, format!("{theirs}\n").as_bytes())?;
                self.cluster = Some(theirs);
                Ok(true)
            }
        }
    }
}

/// Keeps other accounts out of all that is in the folder: jobs' files, and what they were started with.
fn close_to_others(folder: &Path) {
    let closed = fs::metadata(folder).and_then(|found| {
        let mode = found.permissions().mode();
        // Passing through is for jobs that run under accounts of their own; nothing in it is open to them.
        if mode & 0o066 == 0 {
            return Ok(());
        }
        fs::set_permissions(folder, Permissions::from_mode(mode & 0o700))
    });
    if let Err(error) = closed {
        warn!(?folder, %error, "other accounts of this host can look into the data folder");
    }
}

fn worker_id(data_dir: &Path, env: &Env) -> Result<WorkerId, IdentityError> {
    let path = data_dir.join("worker-id");
    match files::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text)
            .trim()
            .parse()
            .map_err(|_| IdentityError::WorkerId { path }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let id = WorkerId(env.random.uuid());
            durable::write(&path, format!("{id}\n").as_bytes()).map_err(|source| {
                IdentityError::Folder {
                    path: data_dir.to_owned(),
                    source,
                }
            })?;
            Ok(id)
        }
        Err(source) => Err(IdentityError::Folder {
            path: data_dir.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_id_stays_and_the_instance_id_changes() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::claim(dir.path(), &Env::real()).unwrap();
        let (worker, instance) = (first.worker, first.instance);
        drop(first);
        let second = Identity::claim(dir.path(), &Env::real()).unwrap();
        assert_eq!(second.worker, worker);
        assert_ne!(second.instance, instance);
    }

    #[test]
    fn a_second_daemon_is_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Identity::claim(dir.path(), &Env::real()).unwrap();
        let error = Identity::claim(dir.path(), &Env::real()).unwrap_err();
        assert!(matches!(error, IdentityError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_data_folder_belongs_to_the_cluster_that_welcomed_it_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut membership = Membership::read(dir.path()).unwrap();
        assert_eq!(membership.to_wire(), "");
        assert!(membership.admits("").unwrap(), "an older coordinator");
        let [ours, theirs] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        assert!(membership.admits(&ours.to_string()).unwrap());
        let mut again = Membership::read(dir.path()).unwrap();
        assert_eq!(again.to_wire(), ours.to_string());
        assert!(!again.admits(&theirs.to_string()).unwrap());
        assert!(again.admits(&ours.to_string()).unwrap());
        assert!(again.admits("").unwrap());
        fs::write(dir.path().join("cluster-id"), "x").unwrap();
        assert!(Membership::read(dir.path()).is_err());
    }

    #[test]
    fn a_damaged_worker_id_is_not_silently_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("worker-id"), "gpu-03").unwrap();
        let error = Identity::claim(dir.path(), &Env::real()).unwrap_err();
        assert!(error.to_string().contains("worker-id"), "{error}");
    }
}
