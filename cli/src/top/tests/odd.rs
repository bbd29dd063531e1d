//! A hand that presses any key, a terminal of any size, and a coordinator that says what none of today does: the screen
//! is drawn each time, and nothing of what was said is obeyed by the terminal.

use marquee_proto::v1;

use super::*;
use crate::tests::odd::{Draw, message, messages};

const KEYS: [KeyCode; 30] = [
    KeyCode::Char('1'),
    KeyCode::Char('2'),
    KeyCode::Char('3'),
    KeyCode::Char('4'),
    KeyCode::Tab,
    KeyCode::Up,
    KeyCode::Down,
    KeyCode::PageUp,
    KeyCode::PageDown,
    KeyCode::Home,
    KeyCode::End,
    KeyCode::Enter,
    KeyCode::Enter,
    KeyCode::Enter,
    KeyCode::Esc,
    KeyCode::Backspace,
    KeyCode::Left,
    KeyCode::Right,
    KeyCode::Char('/'),
    KeyCode::Char('s'),
    KeyCode::Char('l'),
    KeyCode::Char('c'),
    KeyCode::Char('f'),
    KeyCode::Char('n'),
    KeyCode::Char('N'),
    KeyCode::Char('r'),
    KeyCode::Char('?'),
    KeyCode::Char('\u{e9}'),
    KeyCode::F(5),
    KeyCode::Null,
];

/// Something that was heard, drawn by a seed.
fn news(app: &App, seed: u64) -> News {
    match seed % 9 {
        0 => News::Overview(Box::new(message("Overview", seed))),
        1 => News::Workers(messages("Worker", seed)),
        2 => News::Lost("\u{1b}[2Jgone\u{202e}".into()),
        3 => News::Curves(
            17,
            Curves {
                loss: vec![f64::NAN, 1e300, f64::NEG_INFINITY, 0.0, -0.0],
                rate: vec![f64::INFINITY; 200],
            },
        ),
        4 => News::Trouble("no\nto\tthat\u{7}".into()),
        5 => News::Look(Box::new(Look {
            detail: message("JobDetail", seed),
            why: message("ExplainResponse", seed),
        })),
        6 => {
            let line: v1::LogLine = message("LogLine", seed);
            app.facts.log.push(line);
            News::Log
        }
        7 => News::Said(String::new()),
        _ => match app.wanted().place {
            Place::Jobs(query) => News::Jobs(Listing {
                query,
                jobs: messages("Job", seed),
                total: u32::MAX,
            }),
            Place::Overview
            | Place::Hosts
            | Place::Gpus
            | Place::Host(_)
            | Place::Job(_)
            | Place::Log(_) => News::Overview(Box::default()),
        },
    }
}

#[test]
fn whatever_is_pressed_and_heard_the_screen_is_drawn_and_steers_no_terminal() {
    let sizes = [(80, 24), (20, 5), (1, 1), (200, 3), (5, 60), (0, 0)];
    for seed in 0..4 {
        let mut draw = Draw(seed);
        let mut app = busy();
        for step in 0..60 {
            let heard = news(&app, draw.next() % 10_000);
            app.take(heard, now());
            for _ in 0..3 {
                press(&mut app, draw.one_of(&KEYS));
            }
            let (width, height) = draw.one_of(&sizes);
            let text = drawn(&mut app, width, height);
            let obeyed =
                |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
            assert!(!text.contains(obeyed), "seed {seed}, step {step}: {text:?}");
        }
    }
}

#[test]
fn a_hand_that_only_goes_back_or_on_ends_where_there_is_something_to_see() {
    let mut app = busy();
    for key in [KeyCode::Esc, KeyCode::Left, KeyCode::Backspace] {
        for _ in 0..20 {
            assert_eq!(press(&mut app, key), None);
        }
        assert_eq!(app.trail().len(), 1);
    }
    // Page after page opened above the others: each way back leads home.
    for _ in 0..50 {
        press(&mut app, KeyCode::Down);
        press(&mut app, KeyCode::Enter);
        press(&mut app, KeyCode::Char('l'));
    }
    let deep = app.trail().len();
    assert!(deep < 120, "{deep}");
    for _ in 0..deep {
        press(&mut app, KeyCode::Esc);
    }
    assert_eq!(app.trail().len(), 1);
    assert!(!drawn(&mut app, 80, 24).trim().is_empty());
}

#[test]
fn a_search_has_an_end_and_takes_letters_of_any_script() {
    let mut app = busy();
    press(&mut app, KeyCode::Char('2'));
    press(&mut app, KeyCode::Char('/'));
    for _ in 0..5_000 {
        press(&mut app, KeyCode::Char('\u{4e2d}'));
    }
    assert!(app.search().len() < 1_000, "{}", app.search().len());
    assert!(
        app.search().chars().all(|c| c == '\u{4e2d}'),
        "none is cut in the middle"
    );
    let control = KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL);
    assert_eq!(app.press(control), None);
    assert_eq!(app.search(), "");
    // What would quit anywhere else is a letter here.
    assert_eq!(press(&mut app, KeyCode::Char('q')), None);
    assert_eq!(app.search(), "q");
    assert_eq!(press(&mut app, KeyCode::Esc), None);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Some(Order::Quit));
}
