//! Words to the user, on stderr.
//!
//! Nobody may read stderr any more (`marquee up 2>&1 | head -1`, a terminal that was closed). Then
//! `eprintln!` panics, and `up` would end without stopping its daemons in order. [`say!`] goes on.

use std::fmt;
use std::io::Write as _;

/// Writes a line to stderr, as `eprintln!` does, whether anybody reads it or not.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}

pub(crate) use say;

/// What [`say!`] calls.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes text that has its own line ends.
pub(crate) fn page(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
