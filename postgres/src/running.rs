//! The cluster of a data folder whose server somebody else runs: how to reach it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster;

/// Where the server of the cluster in `data_dir` listens, as its own file says; None where none runs, or where this
/// account may not know. The URL holds the password: not for logs.
#[must_use]
pub fn running(data_dir: &Path) -> Option<String> {
    let about = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
    let password = fs::read_to_string(data_dir.join("postgres.password")).ok()?;
    let socket = socket_folder(&about)?;
    Some(cluster::url(&socket, password.trim()))
}

/// Whether there is a cluster in `data_dir`.
#[must_use]
pub fn is_made(data_dir: &Path) -> bool {
    data_dir.join("postgres/PG_VERSION").is_file()
}

/// The fifth line, as PostgreSQL has written it since its version 9.1.
fn socket_folder(about: &str) -> Option<PathBuf> {
    let line = about.lines().nth(4)?.trim();
    (!line.is_empty()).then(|| PathBuf::from(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_stands_in_the_fifth_line() {
        let about = "42\n/d/postgres\n1700000000\n5432\n/d/socket\n\n  5432001  3\nready   \n";
        assert_eq!(socket_folder(about), Some(PathBuf::from("/d/socket")));
        // A server that has just begun has not written it yet.
        assert_eq!(socket_folder("42\n/d/postgres\n"), None);
        assert_eq!(socket_folder("42\n/d\n1\n5432\n\n"), None);
    }
}
