//! Text from elsewhere as it may be shown. What a job prints, and names, reasons and errors, are stored as they came
//! and may hold what a terminal obeys: colours and titles, but also what fills the clipboard, moves the cursor over
//! lines above, or turns the order of letters round.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Stands in place of what was left out.
const LEFT_OUT: &str = "\u{fffd}";

/// Whether a terminal or a browser does something at this character instead of showing it.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        // Line and paragraph separators; the order of letters; what is not seen at all.
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
}

/// Text without what a terminal would obey. Line ends and tabs stay.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| is_obeyed(c) && c != '\n' && c != '\t';
    if text.contains(obeyed) {
        text.replace(obeyed, LEFT_OUT).into()
    } else {
        text.into()
    }
}

/// One line of a program's output. A program that writes `\r\n`, or draws a line again and again as progress bars do,
/// is shown with the last that it drew.
#[must_use]
pub fn harmless_line(text: &str) -> Cow<'_, str> {
    // The end of a line in files from Windows, which draws nothing over anything.
    let text = text.trim_end_matches('\r');
    harmless(text.rsplit('\r').next().unwrap_or(text))
}

/// JSON that reads the same, in which everything that a terminal would obey is written as an escape.
#[must_use]
pub fn harmless_json(json: &str) -> Cow<'_, str> {
    let obeyed = |c: char| is_obeyed(c) && c != '\n';
    if !json.contains(obeyed) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if obeyed(c) {
            // All of them are of the first plane; outside of a string JSON has none.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clipboard, screen, title, colour, an eight-bit introducer, a bell, and letters in another order.
    const ATTACKS: [&str; 9] = [
        "\u{1b}]52;c;ZXZpbA==\u{7}",
        "\u{1b}[2J\u{1b}[H",
        "\u{1b}]0;title\u{1b}\\",
        "\u{1b}[31mred",
        "\u{9b}2J",
        "a\u{7}\u{8}b",
        "evil\u{202e}gnp.exe",
        "\u{2066}x\u{2069}",
        "\u{7f}",
    ];

    #[test]
    fn nothing_that_a_terminal_obeys_is_left_in_any_form() {
        for attack in ATTACKS {
            for shown in [harmless(attack), harmless_line(attack)] {
                assert!(!shown.chars().any(is_obeyed), "{shown:?}");
            }
            let json = serde_json::json!({ "text": attack }).to_string();
            let shown = harmless_json(&json);
            assert!(!shown.chars().any(is_obeyed), "{shown:?}");
            let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(read["text"], attack, "programs get what was stored");
        }
        let plain = "épochs 1/2\t█ 50 %\n— 表";
        assert!(matches!(harmless(plain), Cow::Borrowed(same) if same == plain));
        assert!(
            matches!(harmless_json(plain), Cow::Owned(_)),
            "a tab is an escape in JSON"
        );
    }

    #[test]
    fn a_line_that_is_drawn_again_and_again_is_shown_as_it_was_last() {
        assert_eq!(harmless_line("10 %\r20 %\r30 %"), "30 %");
        assert_eq!(harmless_line("from Windows\r"), "from Windows");
        assert_eq!(harmless_line("fake\rreal"), "real");
        assert_eq!(harmless_line("\r\r"), "");
    }
}
