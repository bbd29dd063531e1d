//! What a job prints, as it comes.

use marquee_proto::v1::{LogLine, log_line::Stream};
use marquee_view::{Tone, harmless_line, units};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::{lines, pending};
use crate::top::facts::Link;
use crate::top::ink::Ink;
use crate::top::state::App;
use crate::top::text::clip;

pub(super) fn draw(app: &mut App, buf: &mut Buffer, area: Rect, id: i64) {
    let room = usize::from(area.height.saturating_sub(1));
    let ink = app.ink;
    let seat = app.seat().clone();
    let ranks = app.facts.job(id).map_or(1, |job| job.ranks);
    let log = app.facts.log.lock();
    if log.lines.is_empty() && log.end.is_none() {
        drop(log);
        match app.facts.link {
            Link::Live => super::empty(buf, area, ink, "Nothing is printed yet.", &[]),
            Link::Connecting | Link::Lost { .. } => pending(app, buf, area),
        }
        return;
    }
    let kept = log.lines.len();
    // Up to and with this line of those that are kept.
    let until = seat.until.map_or(kept, |until| {
        let place = until.saturating_sub(log.passed);
        usize::try_from(place)
            .unwrap_or(kept)
            .saturating_add(1)
            .clamp(1, kept.max(1))
    });
    // Never fewer lines than fit: at the beginning of a log the page would else be half empty.
    let until = until.max(room.min(kept));
    let shown = log
        .lines
        .iter()
        .take(until)
        .skip(until.saturating_sub(room));
    let width = usize::from(area.width).saturating_sub(1);
    let with_rank = ranks > 1 && seat.rank.is_none();
    let drawn: Vec<Line<'static>> = shown
        .map(|line| indented(clip(row(line, with_rank, &seat.search, ink), width, ink)))
        .collect();
    let rank = seat
        .rank
        .map(|rank| format!("rank {rank}, "))
        .unwrap_or_default();
    let first = log.passed + until.saturating_sub(drawn.len()) as u64;
    let state = match (&log.end, seat.until) {
        (_, Some(_)) => "stands still; f follows".to_owned(),
        (Some(end), None) => end.clone(),
        (None, None) => "follows".to_owned(),
    };
    let about = format!(
        " {rank}lines {} to {} of the last {}; {state}",
        units::count(first + 1),
        units::count(log.passed + until as u64),
        units::count(kept as u64)
    );
    drop(log);
    let about = Line::styled(
        marquee_view::harmless(&about).into_owned(),
        ink.tone(Tone::Faint),
    );
    lines(buf, area, std::iter::once(about).chain(drawn));
}

fn indented(mut line: Line<'static>) -> Line<'static> {
    line.spans.insert(0, Span::raw(" "));
    line
}

fn row(line: &LogLine, with_rank: bool, search: &str, ink: Ink) -> Line<'static> {
    // Colours that a program wrote would only be seen as their codes.
    let plain = console::strip_ansi_codes(&line.text).into_owned();
    let text = harmless_line(&plain).replace('\t', "    ");
    let tone = match line.stream() {
        Stream::Stderr => Tone::Warn,
        Stream::Stdout | Stream::Unspecified => Tone::Plain,
    };
    let mut spans = Vec::new();
    if with_rank {
        spans.push(Span::styled(
            format!("{:>3} ", line.rank),
            ink.tone(Tone::Faint),
        ));
    }
    let lost = line.lost_before + line.lost_after;
    if lost > 0 || line.damaged {
        spans.push(Span::styled("[not whole] ", ink.tone(Tone::Bad)));
    }
    let style = ink.tone(tone);
    // Byte offsets of the lower-case text are those of the text itself only where nothing changed its length.
    let lower = text.to_lowercase();
    let hit = (!search.is_empty() && lower.len() == text.len())
        .then(|| lower.find(&search.to_lowercase()))
        .flatten()
        .filter(|at| text.is_char_boundary(*at) && text.is_char_boundary(at + search.len()));
    match hit {
        Some(at) => {
            let (before, rest) = text.split_at(at);
            let (hit, after) = rest.split_at(search.len());
            spans.push(Span::styled(before.to_owned(), style));
            spans.push(Span::styled(
                hit.to_owned(),
                style.add_modifier(Modifier::REVERSED),
            ));
            spans.push(Span::styled(after.to_owned(), style));
        }
        None => spans.push(Span::styled(text, style)),
    }
    Line::from(spans)
}
