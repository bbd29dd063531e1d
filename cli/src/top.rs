//! `marquee top`: the cluster on a full screen, live.
//!
//! `feed` asks and follows, `facts` is what is known, `state` says where the user is and what a key does, `screen` and
//! `pages` draw both into a buffer. None of the last three does any I/O. The words are those of the crate `view`.

mod facts;
mod feed;
mod grid;
mod ink;
mod marks;
mod pages;
#[cfg(test)]
#[path = "../tests/pty/mod.rs"]
mod pty;
mod screen;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use marquee_proto::v1;
use marquee_view::json;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event};
use ratatui::layout::Rect;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::client::{Remote, Repeat, quick};
use crate::error::{CliError, Result};
use crate::signals::Signals;
use crate::{clock, output, requests};
use facts::{Facts, News};
use feed::Feed;
use ink::Ink;
use state::{App, Order};
use terminal::Screen;

/// Between two pictures, however much happens: ten a second are as live as an eye can see, over any line.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Ages and times left go on by themselves.
const TICK: Duration = Duration::from_secs(1);
/// Keys that wait while a picture is drawn.
const KEYS_MAX: usize = 64;
/// Columns of one picture for a pipe, where nothing says how many there are.
const STILL_WIDTH: u16 = 100;
/// Lines of one: room for all that an overview lists.
const STILL_HEIGHT: u16 = 400;

fn ink() -> Ink {
    // A full screen is on a terminal; what is printed for a pipe has no colours at all.
    Ink::of(output::colour_wanted(true), |name| std::env::var_os(name))
}

/// Shows the cluster until the user leaves.
pub(crate) async fn run(remote: &Remote) -> Result<()> {
    LocalSet::new().run_until(shown(remote)).await
}

async fn shown(remote: &Remote) -> Result<()> {
    // Before the terminal is taken: a signal that comes between would leave it as it is then.
    let mut signals = Signals::catch()?;
    let mut screen = Screen::take().context("cannot take the terminal")?;
    let mut app = App::new(Facts::new(remote.addr()), ink());
    let mut feed = Feed::start(remote);
    let mut keys = read_keys();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draw_at = Instant::now();
    let mut is_stale = true;
    loop {
        // Looked at each time round: a task that panicked leaves the picture standing as if all
        // were well.
        if terminal::has_panicked() {
            return Err(
                anyhow!("a part of the program panicked; the words above say where").into(),
            );
        }
        if is_stale && Instant::now() >= draw_at {
            let drawn = screen.terminal.draw(|frame| {
                screen::draw(&mut app, frame.buffer_mut(), clock::now());
            });
            drawn.context("cannot draw on the terminal")?;
            is_stale = false;
            // From the end of the drawing: over a slow line the next picture waits, in place of
            // queueing behind this one.
            draw_at = Instant::now() + DRAW_EVERY;
        }
        let order = tokio::select! {
            // Signals and keys first: a cluster in uproar must not keep its user from leaving.
            biased;
            () = signals.next() => return Err(CliError::Interrupted { hint: None }),
            event = keys.recv() => match event {
                Some(Ok(Event::Key(key))) => app.press(key),
                // A new size is seen when it is drawn.
                Some(Ok(_)) => None,
                Some(Err(error)) => return Err(anyhow!(error).context("cannot read from the terminal").into()),
                None => return Ok(()),
            },
            Some(news) = feed.news.recv() => {
                app.facts.addr = remote.addr();
                app.take(news, clock::now());
                None
            }
            _ = ticks.tick() => None,
            // What came meanwhile is drawn in one go, however much it was.
            () = sleep_until(draw_at), if is_stale => continue,
        };
        is_stale = true;
        feed.want(app.wanted(), &app.facts.log);
        match order {
            Some(Order::Quit) => return Ok(()),
            Some(Order::Suspend) => screen.suspend().context("cannot give the terminal away")?,
            Some(Order::Redraw) => screen
                .terminal
                .clear()
                .context("cannot draw on the terminal")?,
            Some(Order::Cancel(job)) => feed.cancel(job),
            None => {}
        }
    }
}

/// Keys and new sizes, read by a thread of its own: reading blocks.
fn read_keys() -> mpsc::Receiver<std::io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if sender.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    receiver
}

/// All that the overview shows, asked for once.
async fn facts_once(remote: &Remote) -> Result<Facts> {
    let request = v1::GetOverviewRequest {};
    let overview = remote.call(Repeat::Safe, async || {
        remote.cluster().get_overview(quick(request)).await
    });
    let overview = overview.await?;
    let workers = requests::workers::list(remote).await?;
    let mut facts = Facts::new(remote.addr());
    let now = clock::now();
    for job in &overview.running {
        if let Some(curves) = feed::curves(remote, job).await? {
            facts.take(News::Curves(job.id, curves), now);
        }
    }
    facts.take(News::Workers(workers), now);
    facts.take(News::Overview(Box::new(overview)), now);
    Ok(facts)
}

/// One picture as text.
pub(crate) async fn picture(remote: &Remote, width: Option<u16>) -> Result<String> {
    let ink = Ink {
        colour: false,
        ..ink()
    };
    let mut app = App::new(facts_once(remote).await?, ink);
    app.is_still = true;
    let area = Rect::new(0, 0, width.unwrap_or(STILL_WIDTH), STILL_HEIGHT);
    let mut buf = Buffer::empty(area);
    screen::draw(&mut app, &mut buf, clock::now());
    Ok(as_text(&buf))
}

/// What the picture shows, for programs.
pub(crate) async fn figures(remote: &Remote) -> Result<serde_json::Value> {
    let facts = facts_once(remote).await?;
    let overview = facts.overview.unwrap_or_default();
    let workers = facts.workers.unwrap_or_default();
    let mut value = json::overview(&overview);
    value["workers"] = workers.iter().map(json::worker).collect();
    Ok(value)
}

/// The lines of a buffer without the blanks behind them, and without empty lines at the end.
fn as_text(buf: &Buffer) -> String {
    let width = usize::from(buf.area.width).max(1);
    let mut text = String::new();
    for row in buf.content.chunks(width) {
        let mut line = String::new();
        let mut hidden = 0;
        for cell in row {
            // The cell behind a wide character is no blank of its own.
            if hidden > 0 {
                hidden -= 1;
                continue;
            }
            line.push_str(cell.symbol());
            hidden = text::columns(cell.symbol()).saturating_sub(1);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    format!("{}\n", text.trim_end_matches('\n'))
}
