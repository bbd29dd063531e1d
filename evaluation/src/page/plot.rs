//! A small line chart as inline SVG: axes with round ticks, one or two lines told apart by dashes.

use maud::{Markup, html};

/// Size in the SVG's own units; about a phone's width, so that text stays readable there.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// About this many intervals between ticks.
const INTERVALS: f64 = 4.0;

/// Points get a mark of their own up to this many; beyond, marks would hide the line.
const MARKS_AT_MOST: usize = 30;

pub(super) struct Line {
    pub(super) name: &'static str,
    /// CSS class: how it is drawn.
    pub(super) style: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart of `lines` over a whole-numbered axis `x_name`; `title` is read out in its place.
pub(super) fn chart(title: &str, x_name: &str, lines: &[Line]) -> Markup {
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_range = range(points().map(|point| point.0));
    let y_ticks = ticks(range(points().map(|point| point.1)));
    let y_range = (y_ticks[0], y_ticks[y_ticks.len() - 1]);
    let x = |value: f64| LEFT + share(value, x_range) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - share(value, y_range) * (HEIGHT - TOP - BOTTOM);
    let decimals = decimals_of(y_ticks[1] - y_ticks[0]);
    html! {
        svg.chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(title) {
            @for &tick in &y_ticks {
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(px(y(tick))) y2=(px(y(tick))) {}
                text.tick-y x=(LEFT - 6.0) y=(px(y(tick) + 4.0)) { (format!("{tick:.decimals$}")) }
            }
            @for tick in ticks(x_range).into_iter().filter(|tick| is_whole_within(*tick, x_range)) {
                text.tick-x x=(px(x(tick))) y=(HEIGHT - BOTTOM + 16.0) { (tick) }
            }
            text.axis x=(LEFT + (WIDTH - LEFT - RIGHT) / 2.0) y=(HEIGHT - 3.0) { (x_name) }
            @for line in lines {
                polyline.(line.style) points=(polyline(&line.points, x, y)) {}
                @if line.points.len() <= MARKS_AT_MOST {
                    @for point in &line.points {
                        circle.(line.style) cx=(px(x(point.0))) cy=(px(y(point.1))) r="3" {}
                    }
                }
            }
        }
    }
}

/// Which line is which, in words beside a sample of it.
pub(super) fn legend(lines: &[Line]) -> Markup {
    html! {
        ul.legend {
            @for line in lines {
                li {
                    svg.sample viewBox="0 0 28 10" aria-hidden="true" {
                        polyline.(line.style) points="1,5 27,5" {}
                        circle.(line.style) cx="14" cy="5" r="3" {}
                    }
                    (line.name)
                }
            }
        }
    }
}

/// A tenth of a unit is finer than any screen shows.
pub(super) fn px(value: f64) -> String {
    format!("{value:.1}")
}

pub(super) fn polyline(
    points: &[(f64, f64)],
    x: impl Fn(f64) -> f64,
    y: impl Fn(f64) -> f64,
) -> String {
    points
        .iter()
        .map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1)))
        .collect::<Vec<_>>()
        .join(" ")
}

// Values that are all the same lie in the middle.
fn share(value: f64, (low, high): (f64, f64)) -> f64 {
    if high > low {
        (value - low) / (high - low)
    } else {
        0.5
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let range = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    if range.0.is_finite() && range.1.is_finite() {
        range
    } else {
        (0.0, 1.0)
    }
}

/// Round numbers (1, 2 or 5 times a power of ten apart) that enclose `range`; at least two.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let span = if high > low {
        high - low
    } else {
        low.abs().max(1.0)
    };
    let raw = span / INTERVALS;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0]
        .map(|s| s * power)
        .into_iter()
        // A little less than `raw`, so that a rounding error does not choose the next larger step.
        .find(|s| *s >= raw * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).floor();
    // Two ticks at least: the axis takes its range and its decimals from them.
    let last = (high / step).ceil().max(first + 1.0);
    std::iter::successors(Some(first), |tick| Some(tick + 1.0))
        .take_while(|tick| *tick <= last)
        .map(|tick| tick * step)
        .collect()
}

// The axis counts epochs, of which there are no halves.
fn is_whole_within(tick: f64, (low, high): (f64, f64)) -> bool {
    tick.fract() == 0.0 && (low..=high).contains(&tick)
}

/// Enough decimals to write a round `step`, up to six.
fn decimals_of(step: f64) -> usize {
    const NEARLY_ONE: f64 = 0.999;
    let mut decimals = 0;
    let mut scaled = step;
    while scaled < NEARLY_ONE && decimals < 6 {
        scaled *= 10.0;
        decimals += 1;
    }
    decimals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_range() {
        let close = |found: Vec<f64>, expected: &[f64]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-9, "{found} {expected}");
            }
        };
        close(ticks((0.0, 1.0)), &[0.0, 0.5, 1.0]);
        close(ticks((0.31, 0.69)), &[0.3, 0.4, 0.5, 0.6, 0.7]);
        close(ticks((1.0, 12.0)), &[0.0, 5.0, 10.0, 15.0]);
        close(ticks((0.4, 0.4)), &[0.0, 0.5]);
        assert_eq!(
            (decimals_of(0.5), decimals_of(0.02), decimals_of(5.0)),
            (1, 2, 0)
        );
    }
}
