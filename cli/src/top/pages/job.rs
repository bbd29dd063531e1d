//! One job: why it is where it is, its curves, its attempts and what happened to it.

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use marquee_view::{Page, Tone, harmless, job, units};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::cluster::scrolled;
use super::overview::figure;
use super::pending;
use crate::top::facts::{Facts, Look};
use crate::top::grid::prose;
use crate::top::ink::Ink;
use crate::top::marks;
use crate::top::state::App;
use crate::top::text::{said, wrap};

/// Lines of a curve.
const CURVE_LINES: usize = 4;
/// Columns of a curve, and between two.
const CURVE_WIDE: usize = 36;
const CURVE_GAP: usize = 3;

pub(super) fn draw(app: &mut App, buf: &mut Buffer, area: Rect, now: DateTime<Utc>, id: i64) {
    // What was asked about the job before this one may come in late.
    let Some(look) = app.facts.look.clone().filter(|look| is_of(look, id)) else {
        pending(app, buf, area);
        return;
    };
    let room = usize::from(area.width).saturating_sub(2);
    let ink = app.ink;
    let mut text = why(&look.why, room, ink);
    text.extend(curves(&app.facts, id, room, ink));
    text.push(Line::raw(""));
    text.extend(prose(&Page::of(&job::Job(&look.detail), now), room, ink));
    scrolled(app, buf, area, text);
}

fn is_of(look: &Look, id: i64) -> bool {
    look.detail.job.as_ref().is_some_and(|job| job.id == id)
}

fn why(said: &v1::ExplainResponse, room: usize, ink: Ink) -> Vec<Line<'static>> {
    let mut text = Vec::new();
    for sentence in &said.why {
        // Names and messages in it were chosen by others: a terminal must obey nothing in them.
        let parts = wrap(&harmless(sentence), room);
        text.extend(
            parts
                .into_iter()
                .map(|part| Line::styled(part, ink.tone(Tone::Strong))),
        );
    }
    for warning in &said.warnings {
        let parts = wrap(&harmless(warning), room);
        text.extend(
            parts
                .into_iter()
                .map(|part| Line::styled(part, ink.tone(Tone::Warn))),
        );
    }
    for hint in &said.what_to_do {
        text.push(hint_line(hint, ink));
    }
    text
}

fn hint_line(hint: &v1::Hint, ink: Ink) -> Line<'static> {
    let arrow = ink.mark("→", "->");
    if hint.command.is_empty() {
        return Line::raw(format!("{arrow} {}", said(&hint.text)));
    }
    Line::from(vec![
        Span::raw(format!("{arrow} ")),
        Span::styled(said(&hint.command), ink.tone(Tone::Busy)),
        Span::styled(format!("   {}", said(&hint.text)), ink.tone(Tone::Faint)),
    ])
}

/// Loss and rate beside each other, where there is room for both.
fn curves(facts: &Facts, id: i64, room: usize, ink: Ink) -> Vec<Line<'static>> {
    let rate = facts.rate(id);
    let named: Vec<(&str, &[f64], Tone)> = [
        ("loss", facts.loss(id), Tone::Warn),
        ("rate, a second", rate.as_slice(), Tone::Good),
    ]
    .into_iter()
    // A single value is no course.
    .filter(|(_, values, _)| values.len() > 1)
    .collect();
    let side_by_side = room >= 2 * CURVE_WIDE + CURVE_GAP;
    let wide = CURVE_WIDE.min(room);
    let blocks: Vec<Vec<Line<'static>>> = named
        .into_iter()
        .filter_map(|(name, values, tone)| curve(name, values, tone, wide, ink))
        .collect();
    let mut text = Vec::new();
    if blocks.is_empty() {
        return text;
    }
    if side_by_side && let [left, right] = blocks.as_slice() {
        text.push(Line::raw(""));
        for (left, right) in left.iter().zip(right) {
            let blanks = wide.saturating_sub(left.width()) + CURVE_GAP;
            let mut spans = left.spans.clone();
            spans.push(Span::raw(" ".repeat(blanks)));
            spans.extend(right.spans.clone());
            text.push(Line::from(spans));
        }
        return text;
    }
    for block in blocks {
        text.push(Line::raw(""));
        text.extend(block);
    }
    text
}

fn curve(
    name: &str,
    values: &[f64],
    tone: Tone,
    wide: usize,
    ink: Ink,
) -> Option<Vec<Line<'static>>> {
    let (least, greatest) = marks::range(values)?;
    let last = values.iter().rev().find(|value| value.is_finite())?;
    let number = |value: f64| {
        if name == "loss" {
            figure(value)
        } else {
            units::rate(value)
        }
    };
    let title = Line::from(vec![
        Span::styled(format!("{name} "), ink.tone(Tone::Faint)),
        Span::styled(number(*last), ink.tone(Tone::Strong)),
        Span::styled(
            format!("  {} to {}", number(least), number(greatest)),
            ink.tone(Tone::Faint),
        ),
    ]);
    let rows = marks::chart(values, wide, CURVE_LINES, ink);
    let rows = rows
        .into_iter()
        .map(|row| Line::from(Span::styled(row, ink.tone(tone))));
    Some(std::iter::once(title).chain(rows).collect())
}
