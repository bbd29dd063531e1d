//! Numbers as people read them.

/// Keeps a number and its unit on one line.
const NO_BREAK: char = '\u{a0}';

/// A figure between 0 and 1.
pub(super) fn figure(value: f64) -> String {
    format!("{value:.3}")
}

/// A dash where the definition has no value.
pub(super) fn maybe_figure(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), figure)
}

pub(super) fn interval((low, high): (f64, f64)) -> String {
    format!("{low:.3}–{high:.3}")
}

/// A share of 1 as a whole percentage.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}{NO_BREAK}%", share * 100.0)
}

/// A share of 1 as a CSS length.
pub(super) fn css_percent(share: f64) -> String {
    format!("{:.2}%", share.clamp(0.0, 1.0) * 100.0)
}

/// Thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn rate(per_second: f64) -> String {
    if per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

/// Seconds as "41 s" or "3 min 5 s".
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return if seconds < 10.0 {
            format!("{seconds:.1} s")
        } else {
            format!("{seconds:.0} s")
        };
    }
    format!(
        "{:.0} min {:.0} s",
        // Floored: rounded, 119.7 s would read as 1 min 60 s.
        (seconds / 60.0).floor(),
        (seconds % 60.0).floor()
    )
}

/// A threshold rule in words.
pub(super) fn rule(name: &str) -> String {
    match name {
        "global" => "One tuned for all".to_owned(),
        "shrunk" => "Per class, shrunk".to_owned(),
        "per_class" => "Tuned per class".to_owned(),
        "fixed" => "Fixed by the job".to_owned(),
        value => format!("Threshold {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0.25, 41.4, 185.9].map(duration),
            ["0.2 s", "41 s", "3 min 5 s"]
        );
        assert_eq!(
            (figure(0.71249), maybe_figure(None)),
            ("0.712".to_owned(), "–".to_owned())
        );
        assert_eq!(interval((0.69, 0.735)), "0.690–0.735");
    }
}
