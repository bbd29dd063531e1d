//! The frame around every page: where one is, how the cluster is, how the connection is, and which keys help.
//!
//! Everything is drawn into a buffer from what is known and the time, so that tests look at what a terminal would show.

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use marquee_view::{Tone, harmless, units};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::facts::Link;
use super::ink::Ink;
use super::marks;
use super::pages;
use super::state::{App, Place, Seat};
use super::text::{clip, columns, fill, put, said, wrap};

/// Smaller than this nothing can be read.
const SMALLEST: (u16, u16) = (20, 5);
/// With fewer lines the figures of the cluster make room for the page.
const FIGURES_FROM: u16 = 12;
/// Bulbs stand one by one where there are few devices.
const BULBS_MAX: u32 = 16;
const TABS: [&str; 4] = ["Overview", "Jobs", "Hosts", "GPUs"];

/// Draws everything.
pub(super) fn draw(app: &mut App, buf: &mut Buffer, now: DateTime<Utc>) {
    let area = buf.area;
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        put(buf, area, 0, Line::raw("too small"));
        return;
    }
    let mut head = vec![title(app, now, area.width)];
    if area.height >= FIGURES_FROM
        && let Some(overview) = &app.facts.overview
    {
        head.extend(figures(overview, app.ink));
    }
    if !app.is_still {
        head.push(tabs(app));
    }
    head.extend(banner(app, now, usize::from(area.width)));
    let mut y = area.y;
    for line in head {
        put(buf, area, y, line);
        y += 1;
    }
    let foot = u16::from(!app.is_still);
    let body = Rect {
        y,
        height: area.bottom().saturating_sub(y + foot),
        ..area
    };
    app.height = usize::from(body.height);
    pages::draw(app, buf, body, now);
    if !app.is_still {
        put(buf, area, area.bottom() - 1, footer(app));
        if app.helps {
            window(buf, area, app.ink, "Keys", &help());
        }
        if let Some(question) = &app.question {
            let text = [
                format!("Cancel job {} {}?", question.job, said(&question.name)),
                String::new(),
                "A running job gets time to write a checkpoint; what needs it is cancelled with it.".to_owned(),
                String::new(),
                "y  cancel it        any other key  leave it".to_owned(),
            ];
            window(buf, area, app.ink, "Are you sure?", &text);
        }
    }
    sweep(buf, app.ink);
}

fn title(app: &App, now: DateTime<Utc>, width: u16) -> Line<'static> {
    let ink = app.ink;
    let (mark, word, tone) = match &app.facts.link {
        Link::Live => (ink.mark("●", "*"), "live", Tone::Good),
        Link::Connecting => (ink.mark("○", "o"), "connecting", Tone::Warn),
        Link::Lost { .. } => (ink.mark("○", "o"), "not connected", Tone::Bad),
    };
    let mut right = vec![Span::styled(format!("{mark} {word}"), ink.tone(tone))];
    if width >= 60 {
        let time = format!("  {} UTC", units::clock_time(now));
        right.push(Span::styled(time, ink.tone(Tone::Faint)));
    }
    let right = Line::from(right);
    let brand = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
    let left = Line::from(vec![
        Span::styled(" MARQUEE ", brand),
        Span::raw(format!(" {}", said(&app.facts.addr))),
    ]);
    let room = usize::from(width).saturating_sub(right.width() + 1);
    let mut line = fill(left, room, false, ink);
    line.spans.push(Span::raw(" "));
    line.spans.extend(right.spans);
    line
}

/// Devices, workers and jobs in two lines.
fn figures(overview: &v1::Overview, ink: Ink) -> [Line<'static>; 2] {
    let mut devices = vec![Span::raw(" ")];
    for (name, count) in [("GPU", overview.gpus), ("CPU", overview.cpus)] {
        let count = count.unwrap_or_default();
        if count.all == 0 {
            continue;
        }
        let picture = if count.all <= BULBS_MAX {
            marks::bulbs(count.held, count.closed, count.all, ink)
        } else {
            marks::bar(count.held.into(), count.all.into(), BULBS_MAX as usize, ink)
        };
        devices.push(Span::styled(format!("{name} "), ink.tone(Tone::Faint)));
        devices.push(Span::styled(picture, ink.tone(Tone::Busy)));
        let closed = if count.closed > 0 {
            format!(" ({} closed)", count.closed)
        } else {
            String::new()
        };
        devices.push(Span::raw(format!(
            " {}/{}{closed}   ",
            count.held, count.all
        )));
    }
    let hosts = units::plural(overview.workers_online as usize, "host");
    devices.push(Span::raw(format!("{hosts} online")));
    if overview.workers_lost > 0 {
        devices.push(Span::styled(
            format!(", {} lost", overview.workers_lost),
            ink.tone(Tone::Bad),
        ));
    }
    if overview.idle_gpus > 0 {
        let gpus = units::plural(overview.idle_gpus as usize, "GPU");
        devices.push(Span::styled(
            format!(", {gpus} held idle"),
            ink.tone(Tone::Warn),
        ));
    }
    let jobs = |state: v1::JobState| {
        let of = overview.jobs.iter().filter(|count| count.state() == state);
        of.map(|count| u64::from(count.jobs)).sum::<u64>()
    };
    let mut counts = vec![Span::raw(" ")];
    for (state, word, tone) in [
        (v1::JobState::Running, "running", Tone::Busy),
        (v1::JobState::Queued, "queued", Tone::Warn),
        (v1::JobState::Waiting, "waiting", Tone::Plain),
        (v1::JobState::Succeeded, "succeeded", Tone::Good),
        (v1::JobState::Failed, "failed", Tone::Bad),
    ] {
        // Of those that have ended the coordinator counts one day's.
        if state == v1::JobState::Succeeded {
            counts.push(Span::styled("last 24 h: ", ink.tone(Tone::Faint)));
        }
        let count = jobs(state);
        // A red 0 would look like a failure.
        let tone = if count > 0 { tone } else { Tone::Faint };
        counts.push(Span::styled(units::count(count), ink.tone(tone)));
        counts.push(Span::raw(format!(" {word}   ")));
    }
    [Line::from(devices), Line::from(counts)]
}

fn tabs(app: &App) -> Line<'static> {
    let ink = app.ink;
    let mut spans = vec![Span::raw(" ")];
    for (place, name) in TABS.iter().enumerate() {
        let style = if place == app.tab() {
            Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
        } else {
            ink.tone(Tone::Faint)
        };
        spans.push(Span::styled(format!("{} {name}", place + 1), style));
        spans.push(Span::raw("  "));
    }
    // The way to where one is.
    for seat in app.trail().iter().skip(1) {
        spans.push(Span::raw(format!(
            "{} {}  ",
            ink.mark("›", ">"),
            crumb(seat)
        )));
    }
    Line::from(spans)
}

fn crumb(seat: &Seat) -> String {
    match &seat.place {
        Place::Overview => "overview".to_owned(),
        Place::Jobs(query) if query.array != 0 => format!("elements of {}", query.array),
        Place::Jobs(_) => "jobs".to_owned(),
        Place::Hosts => "hosts".to_owned(),
        Place::Gpus => "gpus".to_owned(),
        Place::Host(name) => said(name),
        Place::Job(id) => format!("job {id}"),
        Place::Log(id) => format!("log of {id}"),
    }
}

/// What everybody must know before he reads the rest.
fn banner(app: &App, now: DateTime<Utc>, width: usize) -> Vec<Line<'static>> {
    let text = match (&app.facts.link, &app.facts.overview) {
        // Before all else: whatever the overview says may be old.
        (Link::Lost { since, cause }, _) => {
            let lost_for = units::about(units::between(*since, now));
            let old = match app.facts.heard_at {
                Some(at) => format!(
                    " What you see is {} old; the jobs go on.",
                    units::about(units::between(at, now))
                ),
                None => String::new(),
            };
            format!("The coordinator does not answer for {lost_for} ({cause}); trying again.{old}")
        }
        (_, Some(overview)) if !overview.safe_mode.is_empty() => {
            format!("Safe mode: {}", overview.safe_mode)
        }
        (_, Some(overview)) if overview.stands_by => {
            let leader = match overview.leader.as_str() {
                "" => "which is not known now".to_owned(),
                leader => format!("{leader}; give it as --addr"),
            };
            format!(
                "This coordinator stands by; queue and workers are known to the one that leads, {leader}."
            )
        }
        _ => return Vec::new(),
    };
    let style = app.ink.tone(Tone::Bad);
    wrap(&said(&text), width.saturating_sub(1))
        .into_iter()
        .map(|line| Line::styled(format!(" {line}"), style))
        .collect()
}

fn footer(app: &App) -> Line<'static> {
    let ink = app.ink;
    if app.types {
        return Line::from(vec![
            Span::styled(" search: ", ink.tone(Tone::Strong)),
            Span::raw(said(app.search())),
            Span::styled(ink.mark("▏", "_"), ink.tone(Tone::Busy)),
            Span::styled("  Enter keeps it, Esc clears it", ink.tone(Tone::Faint)),
        ]);
    }
    if let Some((text, tone)) = &app.flash {
        return Line::styled(format!(" {}", said(text)), ink.tone(*tone));
    }
    let keys: &[(&str, &str)] = match app.seat().place {
        Place::Overview => &[("Enter", "open"), ("l", "log"), ("c", "cancel")],
        Place::Jobs(_) => &[
            ("Enter", "open"),
            ("/", "search"),
            ("s", "state"),
            ("l", "log"),
            ("c", "cancel"),
        ],
        Place::Hosts | Place::Gpus => &[("Enter", "open")],
        Place::Host(_) => &[("Esc", "back"), ("PgDn", "down")],
        Place::Job(_) => &[
            ("Esc", "back"),
            ("l", "log"),
            ("c", "cancel"),
            ("PgDn", "down"),
        ],
        Place::Log(_) => &[
            ("Esc", "back"),
            ("/", "search"),
            ("n N", "next"),
            ("f", "follow"),
            ("r", "rank"),
        ],
    };
    let mut spans = vec![Span::raw(" ")];
    for (key, does) in keys.iter().chain(&[("?", "keys"), ("q", "quit")]) {
        spans.push(Span::styled(*key, ink.tone(Tone::Strong)));
        spans.push(Span::styled(format!(" {does}   "), ink.tone(Tone::Faint)));
    }
    Line::from(spans)
}

fn help() -> Vec<String> {
    let rows = [
        ("1 2 3 4, Tab", "overview, jobs, hosts, GPUs"),
        ("arrows, j k", "up and down; PgUp PgDn, g G"),
        ("Enter, right", "open what is chosen"),
        ("Esc, left", "back"),
        ("l", "log of the job"),
        ("c", "cancel the job (asks first)"),
        ("/", "search in names, or in a log"),
        ("n N", "next and previous hit in a log"),
        ("f", "follow the log"),
        ("r", "one rank of the log after another"),
        ("s", "jobs of another state"),
        ("Ctrl-L", "draw anew"),
        ("Ctrl-Z", "suspend"),
        ("q, Ctrl-C", "quit"),
    ];
    rows.iter()
        .map(|(key, does)| format!("{key:<14}{does}"))
        .collect()
}

/// Text in a frame over everything else, as large as it needs or as there is room.
fn window(buf: &mut Buffer, area: Rect, ink: Ink, title: &str, text: &[String]) {
    let room = usize::from(area.width).saturating_sub(4);
    let lines: Vec<String> = text.iter().flat_map(|line| wrap(line, room)).collect();
    let widest = lines.iter().map(|line| columns(line)).max().unwrap_or(0);
    let inner = widest.max(columns(title) + 2).min(room);
    let lines: Vec<String> = lines
        .into_iter()
        .take(usize::from(area.height).saturating_sub(2))
        .collect();
    let (width, height) = (inner + 4, lines.len() + 2);
    let x = area.x + (area.width - narrow(width)) / 2;
    let y = area.y + (area.height - narrow(height)) / 2;
    let flat = ink.mark("─", "-");
    let edge = |left: &str, middle: String, right: &str| format!("{left}{middle}{right}");
    let top = format!(
        "{flat} {title} {}",
        flat.repeat(inner.saturating_sub(columns(title) + 1))
    );
    let mut rows = vec![edge(ink.mark("┌", "+"), top, ink.mark("┐", "+"))];
    let side = ink.mark("│", "|");
    for line in lines {
        let line = fill(Line::raw(line), inner, false, ink).to_string();
        rows.push(edge(side, format!(" {line} "), side));
    }
    rows.push(edge(
        ink.mark("└", "+"),
        flat.repeat(inner + 2),
        ink.mark("┘", "+"),
    ));
    for (row, text) in (y..area.bottom()).zip(rows) {
        for column in x..(x + narrow(width)).min(area.right()) {
            // Emptied first: colours of what lies below would show through the blanks.
            buf[(column, row)].reset();
        }
        let line = clip(Line::raw(text), width, ink);
        buf.set_line(x, row, &line, narrow(width));
    }
}

fn narrow(columns: usize) -> u16 {
    u16::try_from(columns).unwrap_or(u16::MAX)
}

/// The last look at all that goes to the terminal, wherever it came from: nothing that it would obey, and nothing
/// that it cannot show.
fn sweep(buf: &mut Buffer, ink: Ink) {
    for cell in &mut buf.content {
        let symbol = cell.symbol();
        if !ink.unicode && !symbol.is_ascii() {
            cell.set_symbol("?");
        } else if let std::borrow::Cow::Owned(harmless) = harmless(symbol) {
            cell.set_symbol(&harmless);
        }
    }
}
