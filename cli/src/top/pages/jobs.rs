//! The list of all jobs, or of the elements of an array.

use chrono::{DateTime, Utc};
use marquee_proto::v1::Job;
use marquee_view::{Tone, jobs, status, units, words};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{MARGIN, empty, lines, list, pending};
use crate::top::facts::{Filter, Query};
use crate::top::grid::{Col, Grid};
use crate::top::ink::Ink;
use crate::top::state::{App, Key};
use crate::top::text::said;

/// The coordinator counts no further.
const COUNTED_MAX: u32 = 10_000;

pub(super) fn draw(app: &mut App, buf: &mut Buffer, area: Rect, now: DateTime<Utc>, query: &Query) {
    let listing = app.facts.listing.clone();
    // The newest answer may be one to the question before, as while somebody types: its jobs below
    // the new words would be wrong.
    let Some(listing) = listing.filter(|listing| listing.query == *query) else {
        pending(app, buf, area);
        return;
    };
    let shown = listing.jobs.len();
    let total = usize::try_from(listing.total)
        .unwrap_or(usize::MAX)
        .max(shown);
    lines(buf, area, [about(app, query, shown, total)]);
    let area = Rect {
        y: area.y + 1,
        height: area.height.saturating_sub(1),
        ..area
    };
    if listing.jobs.is_empty() {
        nothing(app, buf, area, query);
        return;
    }
    let room = usize::from(area.width).saturating_sub(MARGIN);
    let (head, rows) = grid(&listing.jobs, app.ink, now).lines(room, app.ink);
    let chosen = app.offer(listing.jobs.iter().map(|job| Key::Job(job.id)).collect());
    list(app, buf, area, head, rows, chosen);
}

/// What is listed, and how much of it.
fn about(app: &App, query: &Query, shown: usize, total: usize) -> Line<'static> {
    let ink = app.ink;
    let mut words = vec![Span::raw(format!("  {}", app.filter().word()))];
    if query.array != 0 {
        words.push(Span::raw(format!(", elements of job {}", query.array)));
    }
    if !query.text.is_empty() {
        words.push(Span::styled(
            format!(", with \"{}\" in the name", said(&query.text)),
            ink.tone(Tone::Busy),
        ));
    }
    // Exactly at the limit it is not known whether there are more.
    let count = if total >= COUNTED_MAX as usize {
        format!("{} or more", units::count(COUNTED_MAX.into()))
    } else {
        units::count(total as u64)
    };
    let count = if shown < total {
        format!(
            ": the newest {} of {count}; / narrows it down",
            units::count(shown as u64)
        )
    } else {
        format!(": {count}")
    };
    words.push(Span::raw(count));
    Line::from(words)
}

fn nothing(app: &App, buf: &mut Buffer, area: Rect, query: &Query) {
    if query.text.is_empty() && query.filter == Filter::All {
        empty(
            buf,
            area,
            app.ink,
            "Nothing has been submitted yet.",
            &["\"marquee submit FILE\" makes jobs."],
        );
    } else {
        let rest = ["s goes on to the next state, / searches for something else."];
        empty(buf, area, app.ink, "No such jobs.", &rest);
    }
}

fn grid(all: &[Job], ink: Ink, now: DateTime<Utc>) -> Grid {
    let col = |head, min, max, keep| Col {
        head,
        min,
        max,
        right: false,
        keep,
    };
    let row = |job: &Job| {
        let state = jobs::state(job);
        let age = units::time(job.created_at.as_ref());
        let age = age.map(|at| units::about(units::between(at, now)));
        vec![
            Line::styled(job.id.to_string(), ink.tone(Tone::Strong)),
            Line::raw(said(&words::job_name(job))),
            Line::styled(state.text, ink.tone(state.tone)),
            Line::raw(words::job_kind(job)),
            Line::styled(
                format!("p{} {}", job.pipeline_id, said(&job.pipeline_name)),
                ink.tone(Tone::Faint),
            ),
            Line::raw(age.unwrap_or_default()),
            Line::raw(said(&status::detail(job, now))),
        ]
    };
    Grid {
        cols: vec![
            Col {
                right: true,
                ..col("ID", 3, 8, 9)
            },
            col("NAME", 6, 24, 8),
            col("STATE", 9, 9, 7),
            col("KIND", 5, 10, 2),
            col("PIPELINE", 6, 22, 3),
            Col {
                right: true,
                ..col("AGE", 4, 6, 4)
            },
            col("DETAIL", 10, 160, 6),
        ],
        rows: all.iter().map(row).collect(),
    }
}
