//! What the user sees while a task works: one line as a step starts, one with its duration.
//!
//! Everything goes to stderr. A line that is redrawn in place appears on a terminal only; a log
//! gets a plain line now and then instead.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a line on a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a log that is no terminal gets a line: often enough to see life, rarely enough to read.
const LOG_LINE: Duration = Duration::from_secs(10);

const MEGABYTE: u64 = 1_000_000;

/// Runs one step between its announcement and the time it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let result = work()?;
    eprintln!("    done in {}", duration(start.elapsed()));
    Ok(result)
}

/// A note below the step that is running.
pub fn note(text: &str) {
    eprintln!("    {text}");
}

/// `0.4 s`, `12 s` or `3 min 05 s`.
pub fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", elapsed.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// Bytes as people compare them with their disk and their line: whole megabytes.
pub fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(MEGABYTE))
}

/// Progress of a download whose size is known.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total_bytes: u64,
    start: Instant,
    last_line: Option<Instant>,
    on_terminal: bool,
}

impl Progress {
    pub fn new(what: &str, total_bytes: u64) -> Self {
        Self {
            what: what.to_owned(),
            total_bytes,
            start: Instant::now(),
            last_line: None,
            on_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows that `bytes` have arrived, unless the last line is recent enough.
    pub fn show(&mut self, bytes: u64) {
        let pause = if self.on_terminal { REDRAW } else { LOG_LINE };
        let since = self.last_line.unwrap_or(self.start);
        if since.elapsed() < pause {
            return;
        }
        self.last_line = Some(Instant::now());
        let line = progress_line(
            &self.what,
            // pip moves the file from one folder to the other, and for a moment it may count in
            // both.
            bytes.min(self.total_bytes),
            self.total_bytes,
            self.start.elapsed(),
        );
        if self.on_terminal {
            eprint!("\r\x1b[K    {line}");
            // A progress line that cannot be drawn is no reason to stop a download.
            std::io::stderr().flush().ok();
        } else {
            eprintln!("    {line}");
        }
    }

    /// Leaves the terminal's line clean for what comes next.
    pub fn finish(self) {
        if self.on_terminal && self.last_line.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn progress_line(what: &str, bytes: u64, total_bytes: u64, elapsed: Duration) -> String {
    let percent = bytes * 100 / total_bytes.max(1);
    let seconds = elapsed.as_secs_f64().max(0.001);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate shown to a person in whole megabytes"
    )]
    let rate = (bytes as f64 / seconds) as u64;
    let left = match (total_bytes - bytes).checked_div(rate) {
        // Of the first bytes no rate follows, and a guess of hours would make people give up.
        _ if bytes < MEGABYTE => "starting".to_owned(),
        Some(0) if bytes == total_bytes => "checking its hash".to_owned(),
        Some(left_seconds) => format!("{} left", duration(Duration::from_secs(left_seconds))),
        None => "waiting".to_owned(),
    };
    format!(
        "{what}: {percent:>3} %, {} of {}, {}/s, {left}",
        megabytes(bytes),
        megabytes(total_bytes),
        megabytes(rate)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_line_gives_share_rate_and_time_left() {
        let line = progress_line(
            "torch",
            100 * MEGABYTE,
            400 * MEGABYTE,
            Duration::from_secs(4),
        );
        assert_eq!(line, "torch:  25 %, 100 MB of 400 MB, 25 MB/s, 12 s left");
        let nothing_yet = progress_line("torch", 0, 400 * MEGABYTE, Duration::from_secs(4));
        assert!(nothing_yet.ends_with("starting"), "{nothing_yet}");
        let all = progress_line("torch", 9 * MEGABYTE, 9 * MEGABYTE, Duration::from_secs(3));
        assert!(all.ends_with("checking its hash"), "{all}");
    }

    #[test]
    fn durations_are_short_to_read() {
        assert_eq!(duration(Duration::from_millis(420)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(185)), "3 min 05 s");
    }
}
