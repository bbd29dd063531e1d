//! Where a world is.

use std::path::{Path, PathBuf};

/// Where a world is.
#[derive(Debug, Clone)]
pub struct Place {
    /// Empty, and gone afterwards.
    pub folder: PathBuf,
    /// The folder of the server's socket.
    pub postgres: PathBuf,
    /// A migrated and empty database of that server.
    pub database: String,
}

impl Place {
    /// The database, without a relay.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.postgres, &self.database)
    }
}

pub(crate) fn url(socket: &Path, database: &str) -> String {
    format!(
        "postgres://marquee@localhost/{database}?host={}&sslmode=disable",
        socket.display()
    )
}

/// Where the coordinators keep artifacts.
pub(crate) fn artifacts_folder(place: &Place) -> PathBuf {
    place.folder.join("artifacts")
}
