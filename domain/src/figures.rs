//! Figures in Prometheus' text format, version 0.0.4, as coordinator and workers give them.

use std::fmt::Write as _;

/// What the format is called.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Families of values, one behind the other.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
    name: &'static str,
}

impl Text {
    /// Begins a family; what follows belongs to it.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.text,
            // Before the first value: scrapers take a family without a type for one of unknown
            // kind.
            "# HELP {name} {help}\n# TYPE {name} {}",
            kind.word()
        );
    }

    /// A value of the family that was begun last.
    pub fn value(&mut self, labels: &[(&str, &str)], value: f64) {
        self.part("", labels, value);
    }

    /// A value whose name is the family's with something behind it.
    pub fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// All of it.
    #[must_use]
    pub fn into_string(self) -> String {
        self.text
    }
}

fn escaped(value: &str) -> String {
    value
        // Backslashes first, or those that the other two bring would be doubled.
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_behind_what_they_are_and_no_label_breaks_out_of_its_quotes() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "What it counts.");
        text.value(&[("x", "a\"b\\c\nd"), ("y", "")], 3.0);
        text.value(&[], 0.5);
        assert_eq!(
            text.into_string(),
            "# HELP a_total What it counts.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 3\na_total 0.5\n"
        );
    }
}
