//! From what a child wrote to the reports that say so.
//!
//! Invariant: a pure function of the files and a [`Cursor`]; the cursor is stored in the same
//! write as the reports, so that each line is reported exactly once whatever is killed.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use marquee_domain::Rank;
use marquee_domain::child::ChildEvent;
use marquee_domain::failure::Failure;
use marquee_domain::limits::{
    CHILD_LINE_MAX_BYTES, LOG_LINE_MAX_BYTES, LOG_RANK_MAX_BYTES, LOG_RANK_MAX_LINES,
};
use marquee_proto::v1::log_line::Stream;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::{RankLog, RankMetrics, RankProgress, RankRegrouped};
use serde::{Deserialize, Serialize};

use super::events;
use super::lines::{self, Cut, Line, Position};

/// Bytes of log lines in one report, about: many lines travel together, and none waits.
const LOG_REPORT_BYTES: usize = 64 * 1024;
/// Lines in one report: empty ones have no bytes, and each is a row for the coordinator.
const LOG_REPORT_LINES: usize = 1_000;
/// First word of lines that the worker itself puts into a rank's log.
pub const OWN_LINE: &str = "[marquee]";

/// How far a child's output was read and what it said so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    pub stdout: Position,
    pub stderr: Position,
    /// Of its channel for events.
    #[serde(default)]
    pub events: Position,
    /// Bytes of log reported, of both streams.
    pub log_bytes: u64,
    /// Lines of log reported, of both streams.
    #[serde(default)]
    pub log_lines: u64,
    /// Bytes of log dropped because of the limits, line ends among them.
    pub dropped_bytes: u64,
    /// The step of its newest metrics.
    #[serde(default)]
    pub step: u64,
    /// What it said last about how all went.
    pub word: Option<LastWord>,
    /// Checkpoints that are complete on disk and not stored yet, oldest first.
    pub checkpoints: Vec<LocalCheckpoint>,
    /// The ranks that go on, since others were lost.
    #[serde(default)]
    pub group: Option<Vec<u32>>,
    /// How it broke the child contract. Nothing that it says counts any more.
    #[serde(default)]
    pub breach: Option<String>,
    /// How often it came further: another step, phase or checkpoint.
    #[serde(default)]
    pub moves: u64,
    /// How far it said it was.
    #[serde(default)]
    pub reached: Option<Reached>,
}

/// How far a child is, as it said last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub phase: String,
    pub done: u64,
    pub bytes: Option<u64>,
}

impl Cursor {
    /// Whether rank `me` is the first of its gang: the one that writes what all have in common.
    #[must_use]
    pub fn is_first(&self, me: Rank) -> bool {
        match &self.group {
            Some(group) => group.first() == Some(&me.0),
            None => me.0 == 0,
        }
    }
}

/// A child's last word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastWord {
    Finished { summary: serde_json::Value },
    Failed(Failure),
}

/// A checkpoint in the rank's own folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCheckpoint {
    pub step: u64,
    pub path: PathBuf,
}

/// How stdout is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// [`ChildEvent`]s, one a line, and log: of a child that a daemon of version 0.1 started.
    Events,
    /// Log, like stderr.
    Log,
}

/// What one step gave.
#[derive(Debug, Default)]
pub struct Pumped {
    pub bodies: Vec<Body>,
    /// Nothing more to read until the child writes more.
    pub at_end: bool,
}

/// Reads on in the channel for events from `cursor`, and moves it. A last line without an end was never
/// sent: its writer died over it.
pub fn step_events(file: &File, cursor: &mut Cursor) -> io::Result<Pumped> {
    let read = lines::read(
        file,
        &mut cursor.events,
        CHILD_LINE_MAX_BYTES,
        false,
        Cut::LineFeeds,
    )?;
    let mut sink = Sink {
        cursor,
        bodies: Vec::new(),
    };
    for line in read.lines {
        match events::read(&line) {
            Ok(Some(event)) => sink.event(event),
            // A later version knows such events; they are logged, and nothing follows from them.
            Ok(None) => sink.log(Stream::Stdout, line),
            Err(why) => sink.break_contract(why),
        }
    }
    Ok(Pumped {
        bodies: sink.bodies,
        at_end: read.at_end,
    })
}

/// Reads on from `cursor`, and moves it. `show`: a line of log that is written over and over counts as it
/// stands now.
pub fn step(
    (stdout, stderr): (&File, &File),
    cursor: &mut Cursor,
    kind: Stdout,
    child_is_gone: bool,
    show: bool,
) -> io::Result<Pumped> {
    let log = Cut::Terminal { show };
    let (line_max, cut) = match kind {
        Stdout::Events => (CHILD_LINE_MAX_BYTES, Cut::LineFeeds),
        Stdout::Log => (LOG_LINE_MAX_BYTES, log),
    };
    let out = lines::read(stdout, &mut cursor.stdout, line_max, child_is_gone, cut)?;
    let (line_max, position) = (LOG_LINE_MAX_BYTES, &mut cursor.stderr);
    let err = lines::read(stderr, position, line_max, child_is_gone, log)?;
    let mut sink = Sink {
        cursor,
        bodies: Vec::new(),
    };
    for line in out.lines {
        match (kind, event(&line)) {
            (Stdout::Events, Some(event)) => match events::check(&event) {
                Ok(()) => sink.event(event),
                Err(why) => sink.break_contract(why),
            },
            (Stdout::Events, None) | (Stdout::Log, _) => sink.log(Stream::Stdout, line),
        }
    }
    for line in err.lines {
        sink.log(Stream::Stderr, line);
    }
    Ok(Pumped {
        bodies: sink.bodies,
        at_end: out.at_end && err.at_end,
    })
}

/// A line of the worker's own for a rank's log.
#[must_use]
pub fn own_line(text: &str) -> Body {
    Body::Log(RankLog {
        stream: Stream::Stderr.into(),
        lines: vec![format!("{OWN_LINE} {text}")],
    })
}

fn event(line: &Line) -> Option<ChildEvent> {
    // What was cut is not what the child said, even where it happens to read as an event.
    if line.cut {
        None
    } else {
        serde_json::from_slice(&line.bytes).ok()
    }
}

struct Sink<'a> {
    cursor: &'a mut Cursor,
    bodies: Vec<Body>,
}

impl Sink<'_> {
    /// The first time counts.
    fn break_contract(&mut self, why: String) {
        self.cursor.breach.get_or_insert(why);
    }

    fn event(&mut self, event: ChildEvent) {
        if self.cursor.breach.is_some() {
            return;
        }
        match event {
            ChildEvent::Progress {
                phase,
                done,
                total,
                unit,
                bytes,
                problems,
            } => {
                let reached = Reached {
                    phase: phase.clone(),
                    done,
                    bytes,
                };
                // A child that says the same again and again does not get on.
                if self.cursor.reached.as_ref() != Some(&reached) {
                    self.cursor.moves += 1;
                    self.cursor.reached = Some(reached);
                }
                // Where several come in one step, only the newest of each phase matters.
                if let Some(Body::Progress(last)) = self.bodies.last()
                    && last.phase == phase
                {
                    self.bodies.pop();
                }
                self.bodies.push(Body::Progress(RankProgress {
                    phase,
                    done,
                    total,
                    unit,
                    bytes,
                    problems: problems.into_iter().collect(),
                }));
            }
            ChildEvent::Metrics { step, values } => {
                self.cursor.moves += u64::from(self.cursor.step != step);
                self.cursor.step = step;
                self.bodies
                    .push(Body::Metrics(RankMetrics { step, values }));
            }
            ChildEvent::Checkpoint { step, path } => {
                self.cursor.moves += 1;
                self.cursor.checkpoints.push(LocalCheckpoint { step, path });
            }
            ChildEvent::Regrouped {
                step,
                ranks,
                steps_lost,
                seconds,
            } => {
                self.cursor.moves += 1;
                self.cursor.group = Some(ranks.clone());
                self.bodies.push(Body::Regrouped(RankRegrouped {
                    step,
                    ranks,
                    steps_lost,
                    seconds,
                }));
            }
            ChildEvent::Finished { summary } => {
                self.cursor.word = Some(LastWord::Finished { summary })
            }
            ChildEvent::Failed { class, message } => {
                let message = events::cut(message);
                self.cursor.word = Some(LastWord::Failed(Failure { class, message }));
            }
        }
    }

    fn log(&mut self, stream: Stream, line: Line) {
        let text = log_text(line);
        let bytes = text.len() as u64;
        let limit = if self.cursor.log_bytes + bytes > LOG_RANK_MAX_BYTES {
            Some(format!("{} MiB", LOG_RANK_MAX_BYTES / (1024 * 1024)))
        } else if self.cursor.log_lines >= LOG_RANK_MAX_LINES {
            Some(format!("{LOG_RANK_MAX_LINES} lines"))
        } else {
            None
        };
        if let Some(limit) = limit {
            if self.cursor.dropped_bytes == 0 {
                self.bodies.push(own_line(&format!(
                    "this rank's log has reached {limit}; what follows is dropped"
                )));
            }
            // With its end: a flood of empty lines is dropped bytes too.
            self.cursor.dropped_bytes += bytes + 1;
            return;
        }
        self.cursor.log_bytes += bytes;
        self.cursor.log_lines += 1;
        match self.bodies.last_mut() {
            Some(Body::Log(last)) if last.stream() == stream && has_room(last, text.len()) => {
                last.lines.push(text);
            }
            Some(_) | None => {
                self.bodies.push(Body::Log(RankLog {
                    stream: stream.into(),
                    lines: vec![text],
                }));
            }
        }
    }
}

fn has_room(log: &RankLog, more: usize) -> bool {
    // Their number first: adding up their bytes costs as much as there are of them.
    log.lines.len() < LOG_REPORT_LINES
        && log.lines.iter().map(String::len).sum::<usize>() + more <= LOG_REPORT_BYTES
}

/// The text of a log line as a terminal would have shown it: valid UTF-8, and after the last
/// carriage return, with which progress bars write over themselves.
fn log_text(line: Line) -> String {
    let mut text = String::from_utf8_lossy(&line.bytes).into_owned();
    if let Some(at) = text.rfind('\r') {
        text.drain(..=at);
    }
    // Postgres stores no NUL in text.
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if !line.cut && text.len() <= LOG_LINE_MAX_BYTES {
        return text;
    }
    let mark = format!(" {OWN_LINE} line cut, it was too long");
    text.truncate(text.floor_char_boundary(LOG_LINE_MAX_BYTES - mark.len()));
    text + &mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::FailureClass;
    use std::io::Write as _;

    fn files(stdout: &[u8], stderr: &[u8]) -> (File, File) {
        let make = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        (make(stdout), make(stderr))
    }

    fn pump(stdout: &[u8], stderr: &[u8], kind: Stdout) -> (Vec<Body>, Cursor) {
        let (out, err) = files(stdout, stderr);
        let (mut cursor, mut bodies) = (Cursor::default(), Vec::new());
        loop {
            let pumped = step((&out, &err), &mut cursor, kind, true, false).unwrap();
            bodies.extend(pumped.bodies);
            if pumped.at_end {
                return (bodies, cursor);
            }
        }
    }

    fn log_lines(bodies: &[Body]) -> Vec<String> {
        let mut lines = Vec::new();
        for body in bodies {
            if let Body::Log(log) = body {
                lines.extend(log.lines.clone());
            }
        }
        lines
    }

    #[test]
    fn events_become_reports_and_other_lines_log() {
        let stdout = concat!(
            r#"{"event":"progress","phase":"posters","done":1,"total":9,"unit":"images"}"#,
            "\n",
            r#"{"event":"progress","phase":"posters","done":2,"total":9,"unit":"images"}"#,
            "\n",
            r#"{"event":"metrics","step":5,"values":{"train/loss":0.5}}"#,
            "\n",
            "a stray print\n",
            r#"{"event":"invented later"}"#,
            "\n",
            r#"{"event":"checkpoint","step":5,"path":"/c/5"}"#,
            "\n",
            r#"{"event":"failed","class":"bad_input","message":"no labels"}"#,
            "\n",
        );
        let (bodies, cursor) = pump(stdout.as_bytes(), b"", Stdout::Events);
        assert_eq!(bodies.len(), 3, "{bodies:?}");
        assert!(matches!(&bodies[0], Body::Progress(p) if p.done == 2));
        assert!(matches!(&bodies[1], Body::Metrics(m) if m.values["train/loss"] == 0.5));
        assert_eq!(cursor.step, 5);
        assert_eq!(
            cursor.moves, 4,
            "two looks at posters, a step, a checkpoint"
        );
        assert_eq!(
            log_lines(&bodies),
            ["a stray print", r#"{"event":"invented later"}"#]
        );
        assert_eq!(
            cursor.checkpoints,
            [LocalCheckpoint {
                step: 5,
                path: "/c/5".into()
            }]
        );
        let failure = Failure {
            class: FailureClass::BadInput,
            message: "no labels".into(),
        };
        assert_eq!(cursor.word, Some(LastWord::Failed(failure)));
    }

    #[test]
    fn after_a_breach_nothing_counts_and_what_was_not_finished_was_not_said() {
        let mut cursor = Cursor::default();
        let (events, _) = files(
            concat!(
                r#"{"event":"metrics","step":1,"values":{"a":1}}"#,
                "\n",
                r#"{"event":"metrics","step":18446744073709551615,"values":{"a":1}}"#,
                "\n",
                r#"{"event":"finished","summary":{}}"#,
                "\n"
            )
            .as_bytes(),
            b"",
        );
        let pumped = step_events(&events, &mut cursor).unwrap();
        assert!(pumped.at_end && pumped.bodies.len() == 1, "{pumped:?}");
        assert!(cursor.breach.unwrap().contains("step is 1844"));
        assert_eq!((cursor.word, cursor.step), (None, 1));
        let mut cursor = Cursor::default();
        let (events, _) = files(br#"{"event":"finished","summ"#, b"");
        let pumped = step_events(&events, &mut cursor).unwrap();
        assert!(pumped.at_end && pumped.bodies.is_empty());
        assert_eq!(cursor, Cursor::default());
    }

    #[test]
    fn the_first_of_those_that_go_on_writes_for_all() {
        let stdout = concat!(
            r#"{"event":"regrouped","step":7,"ranks":[1,2],"steps_lost":0,"seconds":3.5}"#,
            "\n"
        );
        assert!(Cursor::default().is_first(Rank(0)) && !Cursor::default().is_first(Rank(1)));
        let (bodies, cursor) = pump(stdout.as_bytes(), b"", Stdout::Events);
        assert!(matches!(&bodies[0], Body::Regrouped(r) if r.ranks == [1, 2] && r.step == 7));
        assert!(cursor.is_first(Rank(1)) && !cursor.is_first(Rank(0)) && !cursor.is_first(Rank(2)));
    }

    #[test]
    fn a_command_may_print_what_it_likes() {
        let (bodies, cursor) = pump(
            b"{\"event\":\"finished\",\"summary\":1}\n\xff\0\n",
            b"10%\r20%\n",
            Stdout::Log,
        );
        let expected = [
            "{\"event\":\"finished\",\"summary\":1}",
            "\u{fffd}\u{fffd}",
            "20%",
        ];
        assert_eq!(log_lines(&bodies), expected);
        assert_eq!(cursor.word, None);
    }

    #[test]
    fn a_log_line_that_is_too_long_is_cut_and_says_so() {
        let long = vec![b'x'; 3 * LOG_LINE_MAX_BYTES];
        let (bodies, _) = pump(&[&long, &b"\nnext\n"[..]].concat(), &long, Stdout::Log);
        let lines = log_lines(&bodies);
        assert_eq!(lines.len(), 3);
        assert!(lines[0].ends_with("line cut, it was too long"));
        assert!(lines.iter().all(|line| line.len() <= LOG_LINE_MAX_BYTES));
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn a_log_beyond_its_limit_is_dropped_and_a_line_says_so_once() {
        let line = [vec![b'y'; 16_000], vec![b'\n']].concat();
        let (out, err) = files(&line.repeat(20), b"");
        let mut cursor = Cursor {
            log_bytes: LOG_RANK_MAX_BYTES - 40_000,
            ..Cursor::default()
        };
        let mut lines = Vec::new();
        loop {
            let pumped = step((&out, &err), &mut cursor, Stdout::Log, true, false).unwrap();
            lines.extend(log_lines(&pumped.bodies));
            if pumped.at_end {
                break;
            }
        }
        assert_eq!(lines.len(), 3, "two lines fit");
        assert!(lines[2].contains("64 MiB"), "{}", lines[2]);
        assert_eq!(cursor.dropped_bytes, 18 * 16_001);
    }

    #[test]
    fn a_flood_of_empty_lines_ends_at_its_limit_and_no_report_has_more_than_its_share() {
        let mut cursor = Cursor {
            log_lines: LOG_RANK_MAX_LINES - 2_500,
            ..Cursor::default()
        };
        let (out, err) = files(&b"\n".repeat(9_000), b"");
        let mut reports: Vec<usize> = Vec::new();
        let mut said = Vec::new();
        loop {
            let pumped = step((&out, &err), &mut cursor, Stdout::Log, true, false).unwrap();
            for body in &pumped.bodies {
                let lines = log_lines(std::slice::from_ref(body));
                said.extend(lines.iter().filter(|line| !line.is_empty()).cloned());
                reports.push(lines.len());
            }
            if pumped.at_end {
                break;
            }
        }
        assert!(
            reports.iter().all(|lines| *lines <= LOG_REPORT_LINES),
            "{reports:?}"
        );
        assert_eq!(reports.iter().sum::<usize>(), 2_500 + 1);
        assert!(
            said.len() == 1 && said[0].contains("1000000 lines"),
            "{said:?}"
        );
        assert_eq!(
            (cursor.log_lines, cursor.dropped_bytes),
            (LOG_RANK_MAX_LINES, 6_500)
        );
        // What an earlier version wrote of a rank that it left running.
        let mut earlier = serde_json::to_value(&cursor).unwrap();
        earlier
            .as_object_mut()
            .unwrap()
            .remove("log_lines")
            .unwrap();
        assert_eq!(
            serde_json::from_value::<Cursor>(earlier).unwrap().log_lines,
            0
        );
    }
}
