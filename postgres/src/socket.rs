//! A private folder for the server's socket, short enough for a socket's address.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::PostgresError;
use crate::rights::Rights;

/// Bytes of a socket's path: `sun_path` has 108 with its end mark (104 on macOS).
pub(crate) const PATH_MAX_BYTES: usize = if cfg!(target_os = "macos") { 103 } else { 107 };
/// The longest name that PostgreSQL adds: the socket's lock file is longer, but is no address.
const SOCKET_NAME: &str = "/.s.PGSQL.5432";

/// A folder that nobody else may enter: in the data folder where that is short enough, else in the
/// user's runtime folder or the system's folder for temporary files.
pub(crate) fn folder(data_dir: &Path, rights: &Rights) -> Result<PathBuf, PostgresError> {
    // The same data folder always gives the same name, so a restart finds what it left.
    let mark = mark_of(data_dir.as_os_str().as_encoded_bytes());
    let name = format!("marquee-pg-{mark:016x}");
    let named_by = |variable| std::env::var_os(variable).map(|dir| PathBuf::from(dir).join(&name));
    let candidates: Vec<PathBuf> = [
        Some(data_dir.join("socket")),
        // The service manager's, and the login session's.
        named_by("RUNTIME_DIRECTORY"),
        named_by("XDG_RUNTIME_DIR"),
        Some(std::env::temp_dir().join(&name)),
        Some(Path::new("/tmp").join(&name)),
    ]
    .into_iter()
    .flatten()
    .collect();
    // The first that is short enough: the kernel cuts no address, it refuses it.
    for folder in &candidates {
        if folder.as_os_str().len() + SOCKET_NAME.len() <= PATH_MAX_BYTES {
            make_private(folder, rights)?;
            return Ok(folder.clone());
        }
    }
    Err(PostgresError::NoSocketFolder {
        tried: candidates,
        max_bytes: PATH_MAX_BYTES,
    })
}

fn make_private(folder: &Path, rights: &Rights) -> Result<(), PostgresError> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(PostgresError::io("create", folder)(error)),
    }
    // Somebody else may have put a folder, or a link, of that name into a shared place.
    let owner = match rights {
        Rights::Account(user) => user.uid,
        Rights::Keep | Rights::Namespace => geteuid(),
    };
    let meta = fs::symlink_metadata(folder).map_err(PostgresError::io("look at", folder))?;
    let is_ours =
        meta.is_dir() && (meta.uid() == owner.as_raw() || meta.uid() == geteuid().as_raw());
    if !is_ours {
        let error = std::io::Error::other("it belongs to somebody else");
        return Err(PostgresError::io("use", folder)(error));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .map_err(PostgresError::io("protect", folder))?;
    rights.give(folder)
}

/// Tells data folders apart: FNV-1a, 64 bits. Nobody gains by two that share a mark, for each folder is
/// also looked at for whose it is.
fn mark_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |mark, byte| {
        (mark ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_data_folder_gets_a_short_socket_folder_elsewhere() {
        let short = crate::fresh_folder().unwrap();
        assert_eq!(folder(&short, &Rights::Keep).unwrap(), short.join("socket"));

        let long = short.join("x".repeat(120));
        let elsewhere = folder(&long, &Rights::Keep).unwrap();
        assert!(elsewhere.as_os_str().len() + SOCKET_NAME.len() <= PATH_MAX_BYTES);
        let mode = fs::metadata(&elsewhere).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(
            folder(&long, &Rights::Keep).unwrap(),
            elsewhere,
            "the same each time"
        );
        fs::remove_dir(elsewhere).unwrap();
        fs::remove_dir_all(short).unwrap();
    }
}
