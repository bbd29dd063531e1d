//! How the screen is written: with colours where the user has not said no, with blocks and bulbs where the terminal
//! has them.
//!
//! Invariant: a colour only repeats what words or marks say.

use std::ffi::OsString;

use marquee_view::Tone;
use ratatui::style::{Color, Modifier, Style};

/// What a terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ink {
    pub colour: bool,
    /// Characters beyond ASCII.
    pub unicode: bool,
}

impl Ink {
    /// `env` gives the value of an environment variable.
    pub(super) fn of(colour: bool, env: impl Fn(&str) -> Option<OsString>) -> Self {
        Self {
            colour,
            unicode: has_unicode(env),
        }
    }

    pub(super) fn tone(self, tone: Tone) -> Style {
        // The terminal's own colours, readable on light and on black.
        let coloured = |colour| {
            if self.colour {
                Style::new().fg(colour)
            } else {
                Style::new()
            }
        };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Good => coloured(Color::Green),
            // Bold as well: it stands out without colours too.
            Tone::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Busy => coloured(Color::Cyan),
            Tone::Warn => coloured(Color::Yellow),
            Tone::Faint => Style::new().add_modifier(Modifier::DIM),
            Tone::Strong => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    /// One of two marks, for terminals with and without Unicode.
    pub(super) fn mark(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }
}

/// Whether the locale is one of UTF-8. Where none is named it is taken for one, as terminals are today; Linux' own
/// console has a font without blocks.
fn has_unicode(env: impl Fn(&str) -> Option<OsString>) -> bool {
    if env("TERM").is_some_and(|term| term == "linux") {
        return false;
    }
    // In the order in which the C library looks: the first that is set decides.
    let named = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(env)
        .find(|value| !value.is_empty());
    let is_utf8 = |locale: OsString| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    };
    named.is_none_or(is_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_and_the_terminal_say_what_can_be_shown() {
        for (set, expected) in [
            (&[][..], true),
            (&[("LANG", "de_DE.UTF-8")], true),
            (&[("LANG", "en_US.utf8"), ("LC_ALL", "")], true),
            (&[("LANG", "C.UTF-8"), ("LC_ALL", "C")], false),
            (&[("LC_CTYPE", "en_US.ISO-8859-1")], false),
            (&[("LANG", "C.UTF-8"), ("TERM", "linux")], false),
        ] {
            let env = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value))
            };
            assert_eq!(has_unicode(env), expected, "{set:?}");
        }
    }
}
