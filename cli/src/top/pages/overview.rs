//! What runs and how far it is, what waits and why, the hosts, and what ended.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, Job};
use marquee_view::{Tone, jobs, progress, status, units, words};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{MARGIN, cluster, empty, indented, lines, marked, pending, window_of};
use crate::top::facts::Facts;
use crate::top::grid::{Col, Grid};
use crate::top::ink::Ink;
use crate::top::marks;
use crate::top::state::{App, Key};
use crate::top::text::said;

/// Columns of a figure before its curve.
const RATE: usize = 8;
const LOSS: usize = 6;
/// From this width on curves are drawn wider.
const WIDE: u16 = 110;

/// A part of the page: its title, its heads and its lines.
struct Section {
    title: String,
    head: Line<'static>,
    rows: Vec<Line<'static>>,
    keys: Vec<Key>,
}

impl Section {
    /// Lines that it would like, with title and heads.
    fn wants(&self) -> usize {
        self.rows.len() + HEAD
    }
}

/// The title of a section, which has the heads in its line.
const HEAD: usize = 1;
/// A section shows at least so many of its lines.
const LEAST: usize = 2;

pub(super) fn draw(app: &mut App, buf: &mut Buffer, area: Rect, now: DateTime<Utc>) {
    let Some(overview) = app.facts.overview.clone() else {
        pending(app, buf, area);
        return;
    };
    let room = usize::from(area.width).saturating_sub(MARGIN);
    let workers = app.facts.workers.clone().unwrap_or_default();
    let mut sections = vec![
        running(
            &app.facts,
            &overview.running,
            area.width,
            room,
            app.ink,
            now,
        ),
        waiting(&overview, room, app.ink),
        hosts(&workers, room, app.ink),
        ended(&overview.ended, room, app.ink, now),
    ];
    sections.retain(|section| !section.rows.is_empty());
    // Not by the lists: they are empty too where all jobs ended long ago.
    if overview.newest_job_id == 0 {
        let rest = [
            "A pipeline is a file of jobs. This one needs no data:",
            "",
            "marquee submit examples/command.toml --wait",
        ];
        empty(buf, area, app.ink, "Nothing has been submitted yet.", &rest);
        let below = area.y + 6;
        let area = Rect {
            y: below.min(area.bottom()),
            height: area.bottom().saturating_sub(below),
            ..area
        };
        paint(app, buf, area, sections);
        return;
    }
    paint(app, buf, area, sections);
}

fn paint(app: &mut App, buf: &mut Buffer, area: Rect, sections: Vec<Section>) {
    // One choice over all sections: up and down go through them as through one list.
    let keys = sections.iter().flat_map(|section| section.keys.clone());
    let mut chosen = app.offer(keys.collect());
    if app.is_still {
        chosen = None;
    }
    let wants: Vec<usize> = sections.iter().map(Section::wants).collect();
    let rooms = share(usize::from(area.height), &wants);
    // Where there is room for more than all of it, the sections stand apart.
    let spare = usize::from(area.height).saturating_sub(wants.iter().sum());
    let stand_apart = spare >= wants.len();
    let mut drawn = Vec::new();
    let mut before = 0;
    for (section, room) in sections.into_iter().zip(rooms) {
        let all = section.rows.len();
        let here = chosen
            .and_then(|chosen| chosen.checked_sub(before))
            .filter(|row| *row < all);
        before += all;
        if room == 0 {
            continue;
        }
        let shown = room.saturating_sub(HEAD);
        if stand_apart && !drawn.is_empty() {
            drawn.push(Line::raw(""));
        }
        drawn.push(title(&section, shown < all, app.ink));
        let top = window_of(all, shown, here);
        let rows = section.rows.into_iter().enumerate().skip(top).take(shown);
        drawn.extend(rows.map(|(place, row)| marked(row, here == Some(place), app.ink)));
    }
    lines(buf, area, drawn);
}

fn title(section: &Section, is_cut: bool, ink: Ink) -> Line<'static> {
    let rule = ink.mark("─", "-");
    let count = if is_cut {
        format!(" ({})", section.rows.len())
    } else {
        String::new()
    };
    let title = Span::styled(
        format!("{rule} {}{count} ", section.title),
        ink.tone(Tone::Strong),
    );
    let mut spans = vec![title];
    // The heads stand above their columns where the title leaves room.
    let begun: usize = spans.iter().map(Span::width).sum();
    let head = indented(section.head.clone()).to_string();
    let mut at = 0;
    let rest: String = head
        .chars()
        .map(|c| {
            at += 1;
            (at, c)
        })
        .filter(|(at, _)| *at > begun)
        .map(|(_, c)| c)
        .collect();
    // A head that the title covers in part says nothing.
    let covered = head
        .chars()
        .nth(begun.saturating_sub(1))
        .is_some_and(|c| c != ' ');
    let rest = if covered {
        let cut = rest.find(' ').unwrap_or(rest.len());
        format!("{}{}", " ".repeat(cut), &rest[cut..])
    } else {
        rest
    };
    spans.push(Span::styled(rest, ink.tone(Tone::Faint)));
    Line::from(spans)
}

/// Deals lines out: each section its least, then the rest in turn, the first ones first. What has no room for a line
/// of its own is left out.
fn share(height: usize, wants: &[usize]) -> Vec<usize> {
    let mut rooms = vec![0; wants.len()];
    let mut left = height;
    for (room, wanted) in rooms.iter_mut().zip(wants) {
        let least = (*wanted).min(HEAD + LEAST);
        if left < HEAD + 1 {
            break;
        }
        *room = least.min(left);
        left -= *room;
    }
    while left > 0 {
        let before = left;
        for (room, wanted) in rooms.iter_mut().zip(wants) {
            if left > 0 && *room > 0 && *room < *wanted {
                *room += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    rooms
}

fn col(head: &'static str, min: usize, max: usize, keep: u8) -> Col {
    Col {
        head,
        min,
        max,
        right: false,
        keep,
    }
}

fn id_col() -> Col {
    Col {
        right: true,
        ..col("ID", 3, 8, 9)
    }
}

fn running(
    facts: &Facts,
    all: &[Job],
    width: u16,
    room: usize,
    ink: Ink,
    now: DateTime<Utc>,
) -> Section {
    let curve = if width >= WIDE { 16 } else { 7 };
    let bar = if width >= WIDE { 14 } else { 6 };
    let row = |job: &Job| {
        vec![
            Line::styled(job.id.to_string(), ink.tone(Tone::Strong)),
            Line::raw(said(&words::job_name(job))),
            done(job, bar, ink, now),
            rate(facts, job, curve, ink),
            loss(facts.loss(job.id), curve, ink),
            Line::raw(left(job, now)),
            Line::styled(pipeline(job), ink.tone(Tone::Faint)),
        ]
    };
    let grid = Grid {
        cols: vec![
            id_col(),
            col("NAME", 6, 24, 8),
            col("PROGRESS", 20, 60, 7),
            // A curve that is cut off shows another course: its column is as wide as it, or goes.
            col("RATE", RATE + curve, 40, 4),
            col("LOSS", LOSS + curve, 40, 5),
            col("LEFT", 4, 8, 6),
            col("PIPELINE", 6, 24, 1),
        ],
        rows: all.iter().map(row).collect(),
    };
    let (head, rows) = grid.lines(room, ink);
    Section {
        title: "Running".into(),
        head,
        rows,
        keys: all.iter().map(|job| Key::Job(job.id)).collect(),
    }
}

/// `epoch 2/6 ███░░░ 62 %`, or what else can be said of how far it is.
fn done(job: &Job, bar: usize, ink: Ink, now: DateTime<Utc>) -> Line<'static> {
    let Some(progress) = job
        .progress
        .as_ref()
        // Of a job that is to stop it matters why, and no longer how far it is.
        .filter(|_| !job.cancel_requested && job.makes_room.is_empty())
    else {
        return Line::raw(said(&status::detail(job, now)));
    };
    let mut spans = vec![Span::raw(format!("{} ", said(&progress.phase)))];
    match progress::percent(progress) {
        Some(percent) => {
            spans.push(Span::styled(
                marks::bar(percent, 100, bar, ink),
                ink.tone(Tone::Busy),
            ));
            spans.push(Span::raw(format!(" {percent} %")));
        }
        None if progress.done > 0 => {
            spans.push(Span::raw(format!(
                "{} {}",
                units::count(progress.done),
                said(&progress.unit)
            )));
        }
        None => {}
    }
    Line::from(spans)
}

pub(super) fn rate(facts: &Facts, job: &Job, room: usize, ink: Ink) -> Line<'static> {
    let curve = facts.rate(job.id);
    // Newer than the last point of the curve, which is asked for more seldom.
    let now = job.progress.as_ref().and_then(progress::rate);
    match now
        .or(curve.last().copied())
        .filter(|rate| rate.is_finite())
    {
        Some(rate) => Line::from(vec![
            Span::raw(format!("{:>5}/s ", units::rate(rate))),
            Span::styled(marks::spark(&curve, room, ink), ink.tone(Tone::Good)),
        ]),
        None => Line::default(),
    }
}

pub(super) fn loss(curve: &[f64], room: usize, ink: Ink) -> Line<'static> {
    match curve.iter().rev().find(|value| value.is_finite()) {
        Some(last) => Line::from(vec![
            Span::raw(format!("{} ", figure(*last))),
            Span::styled(marks::spark(curve, room, ink), ink.tone(Tone::Warn)),
        ]),
        None => Line::default(),
    }
}

/// A value in five or six columns.
pub(super) fn figure(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(0.001..10_000.0).contains(&size) {
        format!("{value:.0e}")
    } else if size < 10.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.1}")
    }
}

fn left(job: &Job, now: DateTime<Utc>) -> String {
    let left = job.progress.as_ref();
    let left = left.and_then(|progress| progress::time_left(progress, now));
    left.map(units::about).unwrap_or_default()
}

fn pipeline(job: &Job) -> String {
    format!("p{} {}", job.pipeline_id, said(&job.pipeline_name))
}

fn waiting(overview: &v1::Overview, room: usize, ink: Ink) -> Section {
    let row = |reason: &v1::QueueReason| {
        vec![
            Line::styled(units::count(reason.jobs.into()), ink.tone(Tone::Strong)),
            Line::raw(said(&reason.text)),
            Line::styled(
                format!("job {}", reason.example_job_id),
                ink.tone(Tone::Faint),
            ),
        ]
    };
    let grid = Grid {
        cols: vec![
            Col {
                right: true,
                ..col("JOBS", 3, 8, 9)
            },
            col("WHY", 16, 200, 8),
            col("ONE OF THEM", 6, 14, 1),
        ],
        rows: overview.queue.iter().map(row).collect(),
    };
    let (head, rows) = grid.lines(room, ink);
    let keys = overview.queue.iter();
    Section {
        title: "Queued".into(),
        head,
        rows,
        keys: keys
            .map(|reason| Key::Reason(reason.text.clone(), reason.example_job_id))
            .collect(),
    }
}

fn hosts(workers: &[v1::Worker], room: usize, ink: Ink) -> Section {
    let grid = cluster::short(workers, ink);
    let (head, rows) = grid.lines(room, ink);
    Section {
        title: "Hosts".into(),
        head,
        rows,
        keys: workers
            .iter()
            .map(|worker| Key::Host(worker.name.clone()))
            .collect(),
    }
}

fn ended(all: &[Job], room: usize, ink: Ink, now: DateTime<Utc>) -> Section {
    let row = |job: &Job| {
        let state = jobs::state(job);
        let at = units::time(job.finished_at.as_ref());
        let at = at.map(|at| format!("{} ago", units::about(units::between(at, now))));
        vec![
            Line::styled(job.id.to_string(), ink.tone(Tone::Strong)),
            Line::raw(said(&words::job_name(job))),
            Line::styled(state.text, ink.tone(state.tone)),
            Line::raw(at.unwrap_or_default()),
            Line::raw(said(&status::detail(job, now))),
        ]
    };
    let grid = Grid {
        cols: vec![
            id_col(),
            col("NAME", 6, 24, 8),
            col("STATE", 6, 9, 7),
            col("ENDED", 4, 9, 3),
            col("DETAIL", 8, 120, 4),
        ],
        rows: all.iter().map(row).collect(),
    };
    let (head, rows) = grid.lines(room, ink);
    Section {
        title: "Ended".into(),
        head,
        rows,
        keys: all.iter().map(|job| Key::Job(job.id)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_dealt_out_until_there_are_none() {
        assert_eq!(share(20, &[4, 3, 5]), [4, 3, 5], "room for all");
        assert_eq!(
            share(10, &[21, 2, 21]),
            [4, 2, 4],
            "what is left goes in turn"
        );
        assert_eq!(
            share(4, &[21, 21, 21]),
            [4, 0, 0],
            "no title without a line"
        );
        assert_eq!(share(0, &[21]), [0]);
        assert_eq!(share(5, &[]), [0_usize; 0]);
    }

    #[test]
    fn figures_stay_short() {
        let all = [0.0, 0.412_34, 12.345, 0.000_01, -3_000_000.0].map(figure);
        assert_eq!(all, ["0.000", "0.412", "12.3", "1e-5", "-3e6"]);
    }
}
