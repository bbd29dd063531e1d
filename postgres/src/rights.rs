//! How a PostgreSQL program gets rid of root's rights, without which it does not start.

use std::os::unix::fs::chown;
use std::path::Path;

use nix::unistd::User;

use crate::PostgresError;

/// How a PostgreSQL program gets rid of root's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rights {
    /// We are not root.
    Keep,
    /// Into a user namespace of its own.
    Namespace,
    /// By becoming this user; the cluster's files are this user's.
    Account(User),
}

impl Rights {
    /// How to be named on the launcher's command line.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Keep => "keep".into(),
            Self::Namespace => "namespace".into(),
            Self::Account(user) => format!("account:{}", user.name),
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        match word {
            "keep" => Some(Self::Keep),
            "namespace" => Some(Self::Namespace),
            other => {
                let name = other.strip_prefix("account:")?;
                User::from_name(name).ok().flatten().map(Self::Account)
            }
        }
    }

    /// Takes them away from this very process, which must have one thread only.
    pub(crate) fn leave_root(&self) -> nix::Result<()> {
        match self {
            Self::Keep => Ok(()),
            #[cfg(target_os = "linux")]
            Self::Namespace => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER),
            // This system has no user namespaces.
            #[cfg(not(target_os = "linux"))]
            Self::Namespace => Err(nix::errno::Errno::ENOSYS),
            Self::Account(user) => {
                // The group first: without root's rights it could not be changed any more.
                nix::unistd::setgid(user.gid)?;
                nix::unistd::setuid(user.uid)
            }
        }
    }

    /// Gives a file to the account that the server runs as, where that is another than ours.
    pub(crate) fn give(&self, path: &Path) -> Result<(), PostgresError> {
        match self {
            Self::Keep | Self::Namespace => Ok(()),
            Self::Account(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(PostgresError::io("give away", path)),
        }
    }
}
