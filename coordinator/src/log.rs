//! The log: on stderr, for people or for programs.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = tracing_subscriber::fmt()
        // The filter below says what is logged.
        .with_max_level(LevelFilter::TRACE)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !is_plain);
    match format {
        Format::Text => log.finish().with(filter()).init(),
        Format::Json => log.json().finish().with(filter()).init(),
    }
}

fn filter() -> Targets {
    let asked_for = std::env::var(FILTER).ok();
    filter_of(asked_for.as_deref())
}

/// What cannot be read counts as not said: a daemon that keeps quiet about its log would be worse.
fn filter_of(text: Option<&str>) -> Targets {
    let read = |text: &str| text.parse().ok();
    // "=" alone reads as a module without a name, of which there is none.
    text.filter(|text| *text != "=")
        .and_then(read)
        .or_else(|| read(DEFAULT_FILTER))
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn levels_are_given_for_all_and_by_module() {
        let debug = filter_of(Some("debug"));
        assert!(debug.would_enable("marquee_coordinator", &Level::DEBUG));
        let one = filter_of(Some("info,marquee_store=trace"));
        assert!(one.would_enable("marquee_store::jobs", &Level::TRACE));
        assert!(!one.would_enable("marquee_coordinator", &Level::DEBUG));
        for nothing in [None, Some("="), Some("a=b=c")] {
            let default = filter_of(nothing);
            assert!(default.would_enable("marquee_coordinator", &Level::INFO));
            assert!(
                !default.would_enable("sqlx::postgres", &Level::INFO),
                "{nothing:?}"
            );
        }
    }
}
