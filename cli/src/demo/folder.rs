//! Where the demo keeps its data, and where its report goes.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::error::Result;

/// The demo's folders.
#[derive(Debug)]
pub(crate) enum Folder {
    /// The user's own: everything stays there.
    Given(PathBuf),
    /// One that goes with the demo; the report is put into the user's cache.
    Temporary(TempDir),
}

impl Folder {
    /// The given folder, or a new temporary one.
    pub(crate) fn choose(given: Option<PathBuf>) -> Result<Self> {
        match given {
            Some(folder) => {
                let folder =
                    std::path::absolute(folder).context("cannot tell the folder's path")?;
                Ok(Self::Given(folder))
            }
            None => {
                let folder = tempfile::Builder::new().prefix("marquee-demo-").tempdir();
                Ok(Self::Temporary(folder.context(
                    "cannot make a temporary folder; choose a folder with --data-dir",
                )?))
            }
        }
    }

    /// Where the daemons keep everything.
    pub(crate) fn data(&self) -> &Path {
        match self {
            Self::Given(folder) => folder,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// Where the report goes.
    pub(crate) fn report(&self) -> Result<PathBuf> {
        match self {
            Self::Given(folder) => Ok(folder.join("report")),
            Self::Temporary(_) => Ok(cache()?.join("marquee/demo-report")),
        }
    }
}

fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(cache.context("there is no HOME to put the report in; choose a folder with --data-dir")?)
}
