//! What the terminal shows, for one state of the cluster after the other.

mod odd;
mod picture;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::convert::timestamp;
use marquee_proto::v1::{
    self, DeviceCount, Inventory, Job, JobKind, JobState, LogLine, Overview, Progress, QueueReason,
    StateCount, Worker, WorkerState,
};
use marquee_view::samples;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::facts::{Curves, Facts, Listing, Look, News};
use super::ink::Ink;
use super::screen;
use super::state::{App, Order, Place};

const PLAIN: Ink = Ink {
    colour: false,
    unicode: true,
};

fn now() -> DateTime<Utc> {
    samples::now()
}

fn app() -> App {
    App::new(Facts::new("http://127.0.0.1:7700".into()), PLAIN)
}

/// What stands on a terminal of this size, without blanks at the ends of lines.
fn drawn(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| screen::draw(app, frame.buffer_mut(), now()))
        .unwrap();
    super::as_text(terminal.backend().buffer())
}

fn press(app: &mut App, code: KeyCode) -> Option<Order> {
    app.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn typed(app: &mut App, text: &str) {
    for c in text.chars() {
        assert_eq!(press(app, KeyCode::Char(c)), None);
    }
}

fn ago(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(timestamp(now() - TimeDelta::seconds(seconds)))
}

fn training(id: i64, name: &str) -> Job {
    Job {
        attempt: 1,
        ranks: 2,
        started_at: ago(600),
        progress: Some(Progress {
            phase: "epoch 2/6".into(),
            done: 4_300,
            total: Some(6_000),
            unit: "images".into(),
            at: ago(0),
            phase_started_at: ago(14),
            ..Progress::default()
        }),
        ..samples::job(id, name, JobKind::Train, JobState::Running)
    }
}

fn count(state: JobState, jobs: u32) -> StateCount {
    StateCount {
        state: state.into(),
        jobs,
    }
}

fn overview() -> Overview {
    let fetch = Job {
        attempt: 1,
        started_at: ago(30),
        progress: Some(Progress {
            phase: "films".into(),
            done: 1_200,
            unit: "films".into(),
            at: ago(0),
            phase_started_at: ago(30),
            ..Progress::default()
        }),
        ..samples::job(21, "fetch", JobKind::Fetch, JobState::Running)
    };
    let done = Job {
        attempt: 1,
        started_at: ago(400),
        finished_at: ago(240),
        ..samples::job(15, "preprocess", JobKind::Preprocess, JobState::Succeeded)
    };
    let failed = Job {
        attempt: 3,
        started_at: ago(900),
        finished_at: ago(700),
        failure: Some(samples::failure()),
        ..samples::job(12, "train", JobKind::Train, JobState::Failed)
    };
    Overview {
        now: ago(0),
        version: "0.1.0".into(),
        jobs: vec![
            count(JobState::Running, 2),
            count(JobState::Queued, 14),
            count(JobState::Waiting, 3),
            count(JobState::Succeeded, 1_204),
            count(JobState::Failed, 1),
        ],
        queue: vec![
            QueueReason {
                text: "needs 4 GPUs at once; gpu-03 has 1 free".into(),
                jobs: 12,
                example_job_id: 22,
            },
            QueueReason {
                text: "its project has what it may have: vision uses 8 of 8 GPUs".into(),
                jobs: 2,
                example_job_id: 40,
            },
        ],
        queued: 14,
        workers_online: 1,
        workers_lost: 1,
        gpus: Some(DeviceCount {
            held: 1,
            all: 2,
            closed: 1,
        }),
        cpus: Some(DeviceCount {
            held: 1,
            all: 4,
            closed: 0,
        }),
        newest_job_id: 40,
        running: vec![fetch, training(17, "train")],
        ended: vec![done, failed],
        ..Overview::default()
    }
}

fn busy() -> App {
    let mut app = app();
    let loss = (0..32_i32)
        .map(|step| 2.3 * 0.93_f64.powi(step) + 0.1)
        .collect();
    let rate = (0..32_i32)
        .map(|step| 300.0 + f64::from(step % 7))
        .collect();
    app.take(News::Workers(samples::gpu_workers()), now());
    app.take(News::Curves(17, Curves { loss, rate }), now());
    app.take(News::Overview(Box::new(overview())), now());
    app
}

fn listing(app: &App, jobs: Vec<Job>, total: u32) -> News {
    let Place::Jobs(query) = app.wanted().place else {
        panic!("no list is shown")
    };
    News::Jobs(Listing { query, jobs, total })
}

#[test]
fn an_overview_on_the_smallest_terminal() {
    insta::assert_snapshot!(drawn(&mut busy(), 80, 24));
}

#[test]
fn an_overview_on_a_wide_terminal() {
    insta::assert_snapshot!(drawn(&mut busy(), 140, 30));
}

#[test]
fn a_terminal_without_unicode_is_sent_ascii_alone() {
    let mut app = busy();
    app.ink.unicode = false;
    app.facts.addr = "http://müller:7700".into();
    let text = drawn(&mut app, 80, 24);
    assert!(text.is_ascii(), "{text}");
    assert!(text.contains("m?ller") && text.contains("#..."), "{text}");
}

#[test]
fn a_cluster_without_anything_says_the_next_command() {
    let mut app = app();
    let text = drawn(&mut app, 80, 24);
    assert!(text.contains("Connecting"), "{text}");
    app.take(News::Overview(Box::default()), now());
    app.take(News::Workers(Vec::new()), now());
    assert!(drawn(&mut app, 80, 24).contains("marquee submit examples/command.toml"));
    typed(&mut app, "3");
    assert!(drawn(&mut app, 80, 24).contains("marquee-worker"));
    typed(&mut app, "4");
    assert!(drawn(&mut app, 80, 24).contains("No host has a GPU"));
    typed(&mut app, "2");
    let news = listing(&app, Vec::new(), 0);
    app.take(news, now());
    assert!(drawn(&mut app, 80, 24).contains("marquee submit FILE"));
}

#[test]
fn a_broken_connection_is_said_with_its_age_and_what_was_known_stays() {
    let mut app = app();
    app.take(News::Lost("Connection refused".into()), now());
    let text = drawn(&mut app, 80, 24);
    assert!(
        text.contains("not connected") && text.contains("Connection refused"),
        "{text}"
    );
    assert!(text.contains("Nothing has been heard yet"), "{text}");

    let mut app = busy();
    let then = now() - TimeDelta::seconds(12);
    app.facts.heard_at = Some(then);
    app.take(News::Lost("Connection refused".into()), then);
    app.take(News::Lost("Connection reset".into()), now());
    let text = drawn(&mut app, 80, 24);
    assert!(
        text.contains("not connected") && text.contains("epoch 2/6"),
        "{text}"
    );
    assert!(
        text.contains("for 12 s (Connection reset); trying again"),
        "{text}"
    );
    app.take(News::Overview(Box::new(overview())), now());
    let text = drawn(&mut app, 80, 24);
    assert!(
        text.contains("live") && !text.contains("trying again"),
        "{text}"
    );
}

#[test]
fn thousands_of_jobs_and_a_hundred_hosts_are_scrolled_through() {
    let mut app = busy();
    typed(&mut app, "2");
    let jobs: Vec<Job> = (0..500)
        .map(|n| samples::job(5_000 - n, "step", JobKind::Command, JobState::Queued))
        .collect();
    let news = listing(&app, jobs, 10_000);
    app.take(news, now());
    let text = drawn(&mut app, 80, 24);
    assert!(text.contains("the newest 500 of 10,000 or more"), "{text}");
    press(&mut app, KeyCode::End);
    let text = drawn(&mut app, 80, 24);
    assert!(
        text.contains("› ") && text.contains("4501"),
        "the last one: {text}"
    );
    press(&mut app, KeyCode::Home);
    assert!(drawn(&mut app, 80, 24).contains("5000"));

    let host = |n: u32| Worker {
        name: format!("gpu-{n:03}"),
        state: WorkerState::Online.into(),
        inventory: Some(Inventory {
            cpu_slots: 2,
            gpus: vec![v1::Gpu::default(); 8],
            ..Inventory::default()
        }),
        ..Worker::default()
    };
    app.take(News::Workers((0..100).map(host).collect()), now());
    typed(&mut app, "3");
    drawn(&mut app, 80, 24);
    for _ in 0..57 {
        press(&mut app, KeyCode::Down);
    }
    assert!(drawn(&mut app, 80, 24).contains("› gpu-057"));
    typed(&mut app, "1");
    let text = drawn(&mut app, 80, 24);
    assert!(
        text.contains("Hosts (100)") && text.contains("Running"),
        "{text}"
    );
}

#[test]
fn no_size_of_a_terminal_is_too_odd() {
    for (width, height) in [
        (1, 1),
        (0, 0),
        (19, 50),
        (300, 4),
        (20, 5),
        (31, 7),
        (40, 12),
        (59, 9),
        (500, 200),
    ] {
        for keys in ["", "2", "3", "4", "?", "c"] {
            let mut app = busy();
            drawn(&mut app, 80, 24);
            typed(&mut app, keys);
            drawn(&mut app, width, height);
        }
        let mut app = look_at_failed();
        drawn(&mut app, width, height);
    }
    assert!(drawn(&mut busy(), 19, 50).starts_with("too small"));
    let narrow = drawn(&mut busy(), 40, 14);
    assert!(
        narrow.contains("17") && narrow.contains("train"),
        "{narrow}"
    );
}

fn look_at_failed() -> App {
    let mut app = busy();
    drawn(&mut app, 80, 24);
    // The last of what can be chosen: the job that failed.
    press(&mut app, KeyCode::End);
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.wanted().place, Place::Job(12));
    let mut detail = samples::failed_train();
    if let Some(job) = &mut detail.job {
        job.id = 12;
    }
    let why = v1::ExplainResponse {
        why: vec!["It failed (out_of_memory): the host's memory ran out.".into()],
        what_to_do: vec![v1::Hint {
            command: "marquee retry 12".into(),
            text: "queues it again".into(),
        }],
        ..v1::ExplainResponse::default()
    };
    app.take(News::Look(Box::new(Look { detail, why })), now());
    let loss = vec![2.4, 1.1, 0.8, 0.7, 0.65];
    let rate = vec![310.0, 295.0, 305.0];
    app.take(News::Curves(12, Curves { loss, rate }), now());
    app
}

#[test]
fn a_job_says_why_it_is_where_it_is_its_curves_and_its_attempts() {
    let mut app = look_at_failed();
    insta::assert_snapshot!(drawn(&mut app, 80, 40));
    let first = drawn(&mut app, 80, 24);
    press(&mut app, KeyCode::PageDown);
    let second = drawn(&mut app, 80, 24);
    assert_ne!(first, second);
    press(&mut app, KeyCode::End);
    press(&mut app, KeyCode::Home);
    assert_eq!(drawn(&mut app, 80, 24), first);
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.wanted().place, Place::Overview);
}

#[test]
fn hosts_and_gpus() {
    let mut app = busy();
    typed(&mut app, "4");
    insta::assert_snapshot!(drawn(&mut app, 100, 12));
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.wanted().place, Place::Host("gpu-03".into()));
    let text = drawn(&mut app, 100, 40);
    assert!(text.contains("nvidia-smi --gpu-reset"), "the cure: {text}");
}

#[test]
fn a_cancel_is_asked_for_by_name_and_hits_what_was_chosen_wherever_it_moved() {
    let mut app = busy();
    drawn(&mut app, 80, 24);
    press(&mut app, KeyCode::Down);
    // Another job starts, and stands above the chosen one now.
    let mut later = overview();
    later.running.insert(0, training(41, "newest"));
    app.take(News::Overview(Box::new(later)), now());
    drawn(&mut app, 80, 24);
    assert_eq!(press(&mut app, KeyCode::Char('c')), None);
    let asked = drawn(&mut app, 80, 24);
    assert!(asked.contains("Cancel job 17 train?"), "{asked}");
    assert_eq!(
        press(&mut app, KeyCode::Enter),
        None,
        "Enter alone is no yes"
    );
    assert!(!drawn(&mut app, 80, 24).contains("Cancel job"));
    press(&mut app, KeyCode::Char('c'));
    assert_eq!(press(&mut app, KeyCode::Char('y')), Some(Order::Cancel(17)));
    // One that has ended is not asked about.
    press(&mut app, KeyCode::End);
    press(&mut app, KeyCode::Char('c'));
    let text = drawn(&mut app, 80, 24);
    assert!(text.contains("job 12 has ended: failed"), "{text}");
}

#[test]
fn a_log_follows_stands_still_and_is_searched() {
    let mut app = busy();
    drawn(&mut app, 80, 24);
    press(&mut app, KeyCode::Down);
    typed(&mut app, "l");
    assert_eq!(app.wanted().place, Place::Log(17));
    for number in 0..100_u32 {
        app.facts.log.push(LogLine {
            rank: number % 2,
            text: format!("\u{1b}[32mstep {number}\u{1b}[0m"),
            ..LogLine::default()
        });
    }
    let text = drawn(&mut app, 80, 24);
    assert!(
        text.contains("follows") && text.contains("  1 step 99"),
        "{text}"
    );
    assert!(!text.contains("[32m"), "colours are left out whole: {text}");
    press(&mut app, KeyCode::Up);
    let still = drawn(&mut app, 80, 24);
    app.facts.log.push(LogLine::default());
    let later = drawn(&mut app, 80, 24);
    let lines = |text: &str| text.lines().skip(5).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        lines(&still)[..15],
        lines(&later)[..15],
        "what is read stays where it is"
    );
    typed(&mut app, "/STEP 4");
    press(&mut app, KeyCode::Enter);
    let hit = drawn(&mut app, 80, 24);
    assert!(hit.contains("step 49") && !hit.contains("step 50"), "{hit}");
    typed(&mut app, "n");
    typed(&mut app, "f");
    assert!(drawn(&mut app, 80, 24).contains("; follows"));
    typed(&mut app, "r");
    assert_eq!(app.wanted().rank, Some(0));
}

#[test]
fn what_jobs_wrote_steers_no_terminal_on_any_page() {
    let attack = "\u{1b}]52;c;ZXZpbA==\u{7}\u{9b}2J\u{202e}evil\nsecond\tline";
    let mut hostile = overview();
    let mut job = training(17, attack);
    job.pipeline_name = attack.into();
    if let Some(progress) = &mut job.progress {
        progress.phase = attack.into();
        progress.unit = attack.into();
    }
    hostile.running = vec![job.clone()];
    hostile.queue[0].text = attack.into();
    hostile.ended[1].failure = Some(v1::Failure {
        message: attack.into(),
        ..v1::Failure::default()
    });
    hostile.safe_mode = attack.into();
    let mut workers = samples::gpu_workers();
    workers[0].name = attack.into();
    workers[0].closed = attack.into();
    workers[0].gpus[1].fault = attack.into();
    let why = v1::ExplainResponse {
        why: vec![attack.into()],
        warnings: vec![attack.into()],
        what_to_do: vec![v1::Hint {
            command: attack.into(),
            text: attack.into(),
        }],
        ..v1::ExplainResponse::default()
    };
    let mut detail = samples::failed_train();
    detail.job = Some(job.clone());
    detail.events[0].text = attack.into();
    detail.attempts[0].ranks[0].worker_name = attack.into();
    for keys in ["", "2", "3", "4", "3\n", "\n", "l", "c", "/x"] {
        let mut app = app();
        app.take(News::Overview(Box::new(hostile.clone())), now());
        app.take(News::Workers(workers.clone()), now());
        app.take(News::Trouble(attack.into()), now());
        drawn(&mut app, 80, 24);
        for key in keys.chars() {
            let code = if key == '\n' {
                KeyCode::Enter
            } else {
                KeyCode::Char(key)
            };
            press(&mut app, code);
            drawn(&mut app, 80, 24);
        }
        if matches!(app.wanted().place, Place::Jobs(_)) {
            let news = listing(&app, vec![job.clone()], 1);
            app.take(news, now());
        }
        let look = Look {
            detail: detail.clone(),
            why: why.clone(),
        };
        app.take(News::Look(Box::new(look)), now());
        app.facts.log.push(LogLine {
            text: attack.into(),
            ..LogLine::default()
        });
        let text = drawn(&mut app, 120, 60);
        let obeyed =
            |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.contains(obeyed), "{keys:?}: {text:?}");
        assert!(text.contains("evil"), "{keys:?}: {text}");
    }
}

#[test]
fn without_colour_nothing_is_lost_and_with_it_only_colour_is_added() {
    let mut app = busy();
    let plain = drawn(&mut app, 80, 24);
    app.ink.colour = true;
    assert_eq!(drawn(&mut app, 80, 24), plain);
    let mut colours = |colour: bool| {
        app.ink.colour = colour;
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal
            .draw(|frame| screen::draw(&mut app, frame.buffer_mut(), now()))
            .unwrap();
        let cells = terminal.backend().buffer().content.clone();
        let is_coloured =
            |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
        let turned = cells
            .iter()
            .any(|cell| cell.modifier.contains(Modifier::REVERSED));
        (cells.iter().any(is_coloured), turned)
    };
    assert_eq!(colours(true), (true, true));
    assert_eq!(
        colours(false),
        (false, true),
        "what is chosen is seen without colours"
    );
}

#[test]
fn one_picture_for_a_pipe_has_neither_keys_nor_a_choice() {
    let mut app = busy();
    app.is_still = true;
    insta::assert_snapshot!(drawn(&mut app, 100, 400));
}

#[test]
fn a_search_is_typed_and_asked_for_as_it_grows() {
    let mut app = busy();
    typed(&mut app, "2/pos");
    let Place::Jobs(query) = app.wanted().place else {
        panic!()
    };
    assert_eq!(query.text, "pos");
    typed(&mut app, &"é".repeat(200));
    let Place::Jobs(query) = app.wanted().place else {
        panic!()
    };
    assert!(query.text.len() <= 128, "as long as the coordinator takes");
    press(&mut app, KeyCode::Esc);
    typed(&mut app, "ss");
    let Place::Jobs(query) = app.wanted().place else {
        panic!()
    };
    assert_eq!((query.text.as_str(), query.filter.word()), ("", "running"));
    assert_eq!(press(&mut app, KeyCode::Char('q')), Some(Order::Quit));
}
