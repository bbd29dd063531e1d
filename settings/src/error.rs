//! Why settings cannot be used.

use std::path::PathBuf;

use crate::Origin;

/// Why settings cannot be used; each names the key or the file, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the settings file {path:?} cannot be read: {source}")]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// `problem` is without the line itself, which may hold a password.
    #[error("{}, line {line}: {problem}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        problem: String,
    },
    #[error("{origin}: unknown key {key:?}; {hint}")]
    UnknownKey {
        key: String,
        origin: Origin,
        hint: String,
    },
    #[error("key {key:?} {origin} holds a list; write one value")]
    List { key: String, origin: Origin },
    #[error("key {key:?} {origin} is a section; write its keys, such as {such_as:?}")]
    Section {
        key: String,
        origin: Origin,
        such_as: &'static str,
    },
    #[error("key {key:?} on the command line is the path {path:?}, which is not UTF-8; rename it")]
    NotText { key: &'static str, path: PathBuf },
    #[error("key {key:?} is {value:?} ({origin}): {problem}")]
    Value {
        key: &'static str,
        value: String,
        origin: Origin,
        problem: String,
    },
}
