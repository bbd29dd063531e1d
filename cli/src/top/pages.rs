//! What stands between the head and the foot.

mod cluster;
mod job;
mod jobs;
mod log;
mod overview;

use chrono::{DateTime, Utc};
use marquee_view::Tone;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::facts::Link;
use super::ink::Ink;
use super::state::{App, Place};
use super::text::put;

/// Columns before each line of a list, for the mark of what is chosen.
const MARGIN: usize = 2;

pub(super) fn draw(app: &mut App, buf: &mut Buffer, area: Rect, now: DateTime<Utc>) {
    match app.seat().place.clone() {
        Place::Overview => overview::draw(app, buf, area, now),
        Place::Jobs(query) => jobs::draw(app, buf, area, now, &query),
        Place::Hosts => cluster::hosts(app, buf, area, now),
        Place::Gpus => cluster::gpus(app, buf, area, now),
        Place::Host(name) => cluster::host(app, buf, area, now, &name),
        Place::Job(id) => job::draw(app, buf, area, now, id),
        Place::Log(id) => log::draw(app, buf, area, id),
    }
}

/// Lines below each other, as far as there is room.
fn lines(buf: &mut Buffer, area: Rect, lines: impl IntoIterator<Item = Line<'static>>) {
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        put(buf, area, y, line);
    }
}

/// A list with its heads, of which as much is shown as there is room, what is chosen among it.
fn list(
    app: &mut App,
    buf: &mut Buffer,
    area: Rect,
    head: Line<'static>,
    rows: Vec<Line<'static>>,
    chosen: Option<usize>,
) {
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    let top = window_of(rows.len(), room, chosen);
    let shown = rows.into_iter().enumerate().skip(top).take(room);
    let ink = app.ink;
    let shown = shown.map(|(place, row)| marked(row, chosen == Some(place), ink));
    lines(buf, area, std::iter::once(indented(head)).chain(shown));
}

/// The first line of a window that has the chosen one in its middle, where it can.
fn window_of(all: usize, room: usize, chosen: Option<usize>) -> usize {
    let wanted = chosen.unwrap_or(0).saturating_sub(room / 2);
    wanted.min(all.saturating_sub(room))
}

fn indented(mut line: Line<'static>) -> Line<'static> {
    line.spans.insert(0, Span::raw(" ".repeat(MARGIN)));
    line
}

/// A line of a list, with a mark and turned round where it is chosen.
fn marked(line: Line<'static>, is_chosen: bool, ink: Ink) -> Line<'static> {
    if !is_chosen {
        return indented(line);
    }
    let mut line = line;
    // As wide as the margin, so that no line moves when another one is chosen.
    line.spans.insert(0, Span::raw(ink.mark("› ", "> ")));
    line.style = line.style.add_modifier(Modifier::REVERSED);
    line
}

/// Words where there is nothing else: what is missing, and what to do about it.
fn empty(buf: &mut Buffer, area: Rect, ink: Ink, title: &str, rest: &[&str]) {
    let title = Line::styled(format!("  {title}"), ink.tone(Tone::Strong));
    let rest = rest.iter().map(|line| Line::raw(format!("  {line}")));
    let all = [Line::raw(""), title].into_iter().chain(rest);
    lines(buf, area, all);
}

/// While nothing has been heard of what belongs here.
fn pending(app: &App, buf: &mut Buffer, area: Rect) {
    let text = match &app.facts.link {
        Link::Lost { .. } => "Nothing has been heard yet.",
        Link::Connecting => "Connecting ...",
        Link::Live => "Asking ...",
    };
    empty(buf, area, app.ink, text, &[]);
}
