//! What was measured, beside what was promised.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use marquee_xtask::report;

/// One measured time.
#[derive(Debug)]
struct Time {
    what: String,
    took: Duration,
    goal: Option<Duration>,
}

/// How often something was, and how often it should be at most.
#[derive(Debug)]
struct Count {
    what: String,
    count: u32,
    goal: u32,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    times: Vec<Time>,
    counts: Vec<Count>,
}

impl Seen {
    /// A time, and what it should be at most.
    pub(super) fn took(&mut self, what: impl Into<String>, since: Instant, goal_s: Option<u64>) {
        self.lasted(what, since.elapsed(), goal_s);
    }

    /// The same of a time that somebody else has measured.
    pub(super) fn lasted(&mut self, what: impl Into<String>, took: Duration, goal_s: Option<u64>) {
        let time = Time {
            what: what.into(),
            took,
            goal: goal_s.map(Duration::from_secs),
        };
        // Told as it is measured, and again at the end: scenes take minutes, and some fail.
        report::note(&line(&time));
        self.times.push(time);
    }

    /// A number of things, and what it should be at most.
    pub(super) fn counted(&mut self, what: impl Into<String>, count: u32, goal: u32) {
        let count = Count {
            what: what.into(),
            count,
            goal,
        };
        report::note(&counted(&count));
        self.counts.push(count);
    }

    /// Whether all goals were met.
    pub(super) fn is_good(&self) -> bool {
        let in_time = |time: &Time| time.goal.is_none_or(|goal| time.took <= goal);
        // A time without a goal is told and judges nothing.
        self.times.iter().all(in_time) && self.counts.iter().all(|count| count.count <= count.goal)
    }

    pub(super) fn print(&self) -> Result<()> {
        let mut out = std::io::stdout();
        for time in &self.times {
            writeln!(out, "{}", line(time))?;
        }
        for count in &self.counts {
            writeln!(out, "{}", counted(count))?;
        }
        Ok(())
    }
}

fn line(time: &Time) -> String {
    let took = report::duration(time.took);
    match time.goal {
        None => format!("{}: {took}", time.what),
        Some(goal) => format!(
            "{}: {took} (goal {}{})",
            time.what,
            report::duration(goal),
            missed(time.took > goal)
        ),
    }
}

fn counted(count: &Count) -> String {
    let Count { what, count, goal } = count;
    format!("{what}: {count} (goal {goal}{})", missed(count > goal))
}

fn missed(is_missed: bool) -> &'static str {
    if is_missed { ", MISSED" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_that_was_missed_is_said_and_counts() {
        let mut seen = Seen::default();
        seen.took("quick", Instant::now(), Some(600));
        assert!(seen.is_good());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(20));
        seen.took("slow", long_ago.unwrap(), Some(15));
        assert!(!seen.is_good());
        assert_eq!(line(&seen.times[1]), "slow: 20 s (goal 15 s, MISSED)");

        let mut seen = Seen::default();
        seen.counted("commands", 6, 6);
        assert!(seen.is_good());
        seen.counted("commands", 7, 6);
        assert!(!seen.is_good());
        assert_eq!(counted(&seen.counts[1]), "commands: 7 (goal 6, MISSED)");
    }
}
