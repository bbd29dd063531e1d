//! The keeper's program, as it was when the daemon started: an upgrade that replaces its file changes nothing for a
//! daemon that still runs.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use tokio::process::Command;
use tracing::warn;

use super::keeper;

const NAME: &str = "marquee-keeper";
/// Where it lies, seen from the folder of the daemon's program: beside it as it was built, or where packages put what
/// nobody starts by hand.
const PLACES: [&str; 2] = [NAME, "../libexec/marquee/marquee-keeper"];
/// The daemon's own program, even when its file was replaced by an upgrade.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What is started as a keeper.
#[derive(Debug)]
pub(super) enum Program {
    /// The small one; open, so that it stays the one that was found.
    Keeper(File),
    /// The daemon's own, which can do the same and takes longer to start.
    Daemon,
}

impl Program {
    /// Looks for the small program where the daemon's lies.
    pub(super) fn find() -> Self {
        let daemon = std::env::current_exe().unwrap_or_default();
        let folder = daemon.parent().unwrap_or(Path::new("/"));
        Self::find_from(folder)
    }

    fn find_from(folder: &Path) -> Self {
        let mut found = PLACES.iter().map(|place| folder.join(place));
        let Some(path) = found.find(|path| access(path, AccessFlags::X_OK).is_ok()) else {
            return Self::Daemon;
        };
        File::open(&path).map_or_else(
            |error| {
                warn!(?path, %error, "the keeper's program cannot be opened; the daemon's own, which takes longer to start, keeps children in its place");
                Self::Daemon
            },
            Self::Keeper,
        )
    }

    /// A command that starts it; what it is to keep comes behind.
    pub(super) fn command(&self) -> Command {
        match self {
            Self::Keeper(file) => {
                // By the open file: a path would start whatever an upgrade has put there since.
                let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
                command.arg0(NAME);
                command
            }
            Self::Daemon => {
                let mut command = Command::new(OWN_PROGRAM);
                command.arg0("marquee-worker").arg(keeper::COMMAND);
                command
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn put(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy("/bin/echo", path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn the_keeper_is_the_one_beside_the_daemon_else_the_packages_else_the_daemon_itself() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        assert!(matches!(Program::find_from(&bin), Program::Daemon));
        let is_file = |program: &Program, path: &Path| {
            use std::os::unix::fs::MetadataExt as _;
            let Program::Keeper(file) = program else {
                panic!("{program:?}");
            };
            file.metadata().unwrap().ino() == fs::metadata(path).unwrap().ino()
        };
        let packaged = dir.path().join("libexec/marquee/marquee-keeper");
        put(&packaged, 0o755);
        assert!(is_file(&Program::find_from(&bin), &packaged));
        let beside = bin.join(NAME);
        put(&beside, 0o755);
        let found = Program::find_from(&bin);
        assert!(is_file(&found, &beside));
        // It stays the same one when an upgrade takes its file away.
        fs::remove_file(&beside).unwrap();
        put(&beside, 0o644);
        let said = found.command().arg("still there").output().await.unwrap();
        assert_eq!(said.stdout, b"still there\n");
        // What may not be run is passed over.
        assert!(is_file(&Program::find_from(&bin), &packaged));
    }
}
