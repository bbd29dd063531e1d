//! Curves, bars and bulbs of characters.

use super::ink::Ink;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PLAIN: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// Values brought to as many as there is room for: means of neighbours. NaN where none is a finite number.
fn gathered(values: &[f64], room: usize) -> Vec<f64> {
    if values.len() <= room || room == 0 {
        return values.to_vec();
    }
    let part = |place: usize| place * values.len() / room;
    (0..room)
        .map(|place| mean(&values[part(place)..part(place + 1)]))
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    finite.iter().sum::<f64>() / finite.len() as f64
}

/// Least and greatest of the finite ones.
pub(super) fn range(values: &[f64]) -> Option<(f64, f64)> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let least = finite().reduce(f64::min)?;
    Some((least, finite().reduce(f64::max)?))
}

/// From 0 to `steps` - 1; None where a value is no number. What never changes stands in the middle.
fn level(value: f64, (least, greatest): (f64, f64), steps: usize) -> Option<usize> {
    if !value.is_finite() {
        return None;
    }
    // Halves, since the range of two large numbers may be too large for one.
    let span = greatest / 2.0 - least / 2.0;
    if span <= 0.0 {
        return Some(steps / 2);
    }
    let share = (value / 2.0 - least / 2.0) / span;
    let top = steps - 1;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the share is from 0 to 1"
    )]
    let level = (share * top as f64).round() as usize;
    Some(level.min(top))
}

/// A curve in one line of at most `room` columns.
pub(super) fn spark(values: &[f64], room: usize, ink: Ink) -> String {
    let values = gathered(values, room);
    let Some(range) = range(&values) else {
        return String::new();
    };
    // Eight steps either way, so that a curve has the same course on every terminal.
    let levels = if ink.unicode { BLOCKS } else { PLAIN };
    values
        .iter()
        .map(|value| level(*value, range, levels.len()).map_or(' ', |level| levels[level]))
        .collect()
}

/// A curve in `height` lines, the topmost first, over nearly all of `room` columns.
pub(super) fn chart(values: &[f64], room: usize, height: usize, ink: Ink) -> Vec<String> {
    // A job that has just begun has few values: each is drawn wide, and the chart keeps its width
    // while they grow.
    let wide = room.checked_div(values.len()).unwrap_or(1).max(1);
    let values: Vec<f64> = gathered(values, room)
        .into_iter()
        .flat_map(|value| std::iter::repeat_n(value, wide))
        .collect();
    let Some(range) = range(&values) else {
        return Vec::new();
    };
    let full = if ink.unicode { BLOCKS.len() } else { 1 };
    let mark = |value: f64, row: usize| {
        // Eighths of a line from the ground on; at least one, so that the least is seen too.
        let Some(level) = level(value, range, height * full) else {
            return ' ';
        };
        let filled = (level + 1).saturating_sub(row * full).min(full);
        match (filled, ink.unicode) {
            (0, _) => ' ',
            (filled, true) => BLOCKS[filled - 1],
            (_, false) => '#',
        }
    };
    (0..height)
        .rev()
        .map(|row| values.iter().map(|value| mark(*value, row)).collect())
        .collect()
}

/// How much of a whole is done, in `room` columns.
pub(super) fn bar(done: u64, whole: u64, room: usize, ink: Ink) -> String {
    let share = u128::from(done.min(whole)) * room as u128;
    let filled = share.checked_div(u128::from(whole)).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(room);
    let (on, off) = (ink.mark("█", "#"), ink.mark("░", "."));
    format!("{}{}", on.repeat(filled), off.repeat(room - filled))
}

/// Bulbs: lit where a device is held, and crossed where nobody may have it.
pub(super) fn bulbs(held: u32, closed: u32, all: u32, ink: Ink) -> String {
    let of = |count: u32, mark: &str| mark.repeat(count as usize);
    // A device can be both, as one whose job goes on under a quarantine: it counts as held, and
    // there are never more bulbs than devices.
    let held = held.min(all);
    let closed = closed.min(all - held);
    let (lit, dark, shut) = (ink.mark("●", "#"), ink.mark("○", "."), ink.mark("×", "x"));
    format!(
        "{}{}{}",
        of(held, lit),
        of(all - held - closed, dark),
        of(closed, shut)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const INK: Ink = Ink {
        colour: false,
        unicode: true,
    };
    const ASCII: Ink = Ink {
        unicode: false,
        ..INK
    };

    #[test]
    fn a_curve_shows_its_course_whatever_its_values() {
        assert_eq!(
            spark(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8, INK),
            "▁▂▃▄▅▆▇█"
        );
        assert_eq!(spark(&[7.0, 0.0], 8, ASCII), "#_");
        assert_eq!(spark(&[1.0, 1.0, 5.0, 5.0], 2, INK), "▁█");
        assert_eq!(
            spark(&[2.0, 2.0], 4, INK),
            "▅▅",
            "what does not change is not at the ground"
        );
        assert_eq!(spark(&[0.0, f64::NAN, 1.0], 3, INK), "▁ █");
        assert_eq!(spark(&[f64::NAN, f64::INFINITY], 3, INK), "");
        assert_eq!(spark(&[], 3, INK), "");
        assert_eq!(spark(&[f64::MIN, f64::MAX], 3, INK), "▁█", "no overflow");
    }

    #[test]
    fn a_chart_fills_its_lines_from_the_ground() {
        assert_eq!(chart(&[0.0, 7.0, 15.0], 3, 2, INK), ["  █", "▁██"]);
        assert_eq!(chart(&[0.0, 1.0, 2.0], 3, 3, ASCII), ["  #", " ##", "###"]);
        assert_eq!(
            chart(&[0.0, 1.0], 5, 1, ASCII),
            ["####"],
            "as wide as there is room"
        );
        assert!(chart(&[f64::NAN], 3, 2, INK).is_empty());
        assert!(chart(&[], 3, 2, INK).is_empty());
    }

    #[test]
    fn bars_and_bulbs_never_show_more_than_there_is() {
        assert_eq!(bar(1, 2, 4, INK), "██░░");
        assert_eq!(bar(9, 2, 4, ASCII), "####");
        assert_eq!(bar(1, 0, 4, ASCII), "....");
        assert_eq!(bar(u64::MAX, u64::MAX, 4, ASCII), "####");
        assert_eq!(bulbs(2, 1, 4, INK), "●●○×");
        assert_eq!(bulbs(9, 9, 2, ASCII), "##");
    }
}
