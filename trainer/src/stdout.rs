//! Lines for whoever started this process and reads its stdout.

use std::io::Write;

/// Writes a line at once. If nobody reads it, there is nobody to tell.
pub fn say(line: &str) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
