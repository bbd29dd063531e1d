//! Live progress of a set of jobs, as bars on a terminal and as plain lines elsewhere.
//!
//! Invariant: everything here goes to stderr, and what it says is a pure function of the jobs seen
//! and the time given.

mod bars;
mod lines;
mod reporter;

use std::io::{IsTerminal as _, Write as _};

use chrono::{DateTime, Utc};
use marquee_proto::v1::Job;
use marquee_view::harmless;

use bars::Bars;
use lines::Lines;
pub(crate) use reporter::Reporter;

/// The reporter that fits stderr.
pub(crate) fn to_stderr() -> Box<dyn Reporter> {
    if std::io::stderr().is_terminal() {
        Box::new(Bars::new())
    } else {
        Box::new(PlainStderr(Lines::new()))
    }
}

/// Plain lines, written to stderr.
#[derive(Debug)]
struct PlainStderr(Lines);

impl PlainStderr {
    /// A reader that left is no reason to stop following: what counts is the exit code.
    fn write(lines: &[String]) {
        let mut out = std::io::stderr().lock();
        for line in lines {
            let _ = writeln!(out, "{}", harmless(line));
        }
    }
}

impl Reporter for PlainStderr {
    fn job(&mut self, job: &Job, now: DateTime<Utc>) {
        Self::write(&self.0.job(job, now));
    }

    fn tick(&mut self, now: DateTime<Utc>) {
        Self::write(&self.0.tick(now));
    }

    fn note(&mut self, text: &str) {
        Self::write(&[text.to_owned()]);
    }

    fn finish(&mut self, _now: DateTime<Utc>) {}
}
