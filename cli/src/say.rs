//! Words to the user, on stderr.
//!
//! Nobody may read stderr any more (`marquee up 2>&1 | head -1`, a terminal that was closed). Then
//! `eprintln!` panics, and `up` would end without stopping its daemons in order. [`say!`] goes on.

use std::fmt;
use std::io::Write as _;

use marquee_view::harmless;

/// Writes a line to stderr, as `eprintln!` does, whether anybody reads it or not.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}

pub(crate) use say;

/// What [`say!`] calls.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut line = Vec::new();
    write(&mut line, text);
    let _ = std::io::stderr().lock().write_all(&line);
}

/// Half of what is said is somebody else's: names, reasons, a coordinator's words. The terminal obeys none of it.
fn write(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let text = text.to_string();
    out.extend_from_slice(harmless(&text).as_bytes());
    out.push(b'\n');
}

/// Writes text that has its own line ends.
pub(crate) fn page(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_said_and_steers_no_terminal() {
        let said = |text: &str| {
            let mut out = Vec::new();
            write(&mut out, format_args!("the rank {text} is gone"));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            said("gpu-1/0\n\tof é"),
            "the rank gpu-1/0\n\tof é is gone\n"
        );
        for odd in [
            "\u{1b}]52;c;ZXZpbA==\u{7}",
            "\u{9b}2J",
            "a\rb",
            "\u{202e}abc",
            "\0",
        ] {
            let line = said(odd);
            let obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!line.contains(obeyed), "{line:?}");
            assert!(line.ends_with(" is gone\n"), "{line:?}");
        }
    }
}
