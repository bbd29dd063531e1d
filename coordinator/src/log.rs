//! The log: on stderr, for people or for programs.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// The variable that says what is logged, as in the worker: a level, or levels by module.
const FILTER: &str = "MARQUEE_LOG";
/// What is logged without it: the statements of sqlx only where they are slow.
const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// Form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log of this process. Called once.
pub fn start(format: Format) {
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| DEFAULT_FILTER.into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        Format::Text => log.init(),
        Format::Json => log.json().init(),
    }
}
