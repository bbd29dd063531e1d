//! What a run prints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::Options;
use super::faults::{Fault, Kind, Tally};
use super::judge::{Ends, History};

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    options: Options,
    pub took: Duration,
    /// From the last fault until every job had ended.
    pub rest: Duration,
    pub faults: BTreeMap<Kind, Tally>,
    /// Each fault, with its time.
    pub done: Vec<Fault>,
    /// Daemons that left without being told to, and were started again.
    pub left_by_themselves: usize,
    /// What did not come back in time.
    pub not_well: Vec<String>,
    /// Submissions by kind.
    pub kinds: BTreeMap<&'static str, usize>,
    pub ends: Ends,
    /// Accepted twice, or committed twice.
    pub doubled: Vec<String>,
    /// What the jobs' own lines say against the audit.
    pub side: Vec<String>,
    pub side_lines: usize,
    /// What `marquee audit verify` said.
    pub verified: Value,
    /// From a host's loss until each of its ranks' jobs was placed again.
    pub replaced: Vec<Duration>,
}

impl Outcome {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            took: Duration::ZERO,
            rest: Duration::ZERO,
            faults: BTreeMap::new(),
            done: Vec::new(),
            left_by_themselves: 0,
            not_well: Vec::new(),
            kinds: BTreeMap::new(),
            ends: Ends::default(),
            doubled: Vec::new(),
            side: Vec::new(),
            side_lines: 0,
            verified: Value::Null,
            replaced: Vec::new(),
        }
    }

    /// Whether nothing was lost, doubled, or left in disorder.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems().is_empty()
    }

    /// Everything that is wrong, one line each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |title: &str, lines: &[String]| {
            all.extend(lines.iter().map(|line| format!("{title}: {line}")));
        };
        add("lost", &self.ends.lost);
        add("doubled", &self.doubled);
        add("wrong result", &self.ends.wrong_results);
        add("jobs' own lines", &self.side);
        add("not well", &self.not_well);
        if self.verified["clean"] != true {
            let findings = self.verified["findings"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let lines: Vec<String> = findings.iter().map(Value::to_string).collect();
            add("history", &lines);
            if lines.is_empty() {
                add("history", &["audit verify gave no verdict".to_owned()]);
            }
        }
        all
    }

    /// The table, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let options = &self.options;
        let work = match options.training {
            true => "scripts and training with the real trainer",
            false => "scripts alone, gangs of two ranks among them",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "chaos: seed {}, {:.1} min of faults, {} coordinator(s), {} workers, one Postgres; {work}",
            options.seed,
            options.time.as_secs_f64() / 60.0,
            options.coordinators,
            options.workers,
        );
        let _ = writeln!(
            text,
            "\n{:<36} {:>5} {:>9} {:>9}",
            "FAULT", "TIMES", "MEDIAN", "LONGEST"
        );
        for (kind, tally) in &self.faults {
            let _ = writeln!(
                text,
                "{:<36} {:>5} {:>9} {:>9}",
                kind.words(),
                tally.count,
                seconds(tally.median()),
                seconds(tally.longest())
            );
        }
        let all: usize = self.faults.values().map(|tally| tally.count).sum();
        let _ = writeln!(
            text,
            "{:<36} {all:>5}   (recovery: from its mending until all workers were heard)",
            "all"
        );
        let mut replaced = self.replaced.clone();
        replaced.sort_unstable();
        let _ = writeln!(
            text,
            "{:<36} {:>5} {:>9} {:>9}   (from a host's loss until its job was placed again)",
            "placed again",
            replaced.len(),
            seconds(replaced.get(replaced.len() / 2).copied()),
            seconds(replaced.last().copied())
        );
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let ends = &self.ends;
        let _ = writeln!(text, "\nsubmissions  {}", kinds.join(", "));
        let _ = writeln!(
            text,
            "jobs         {}: {} succeeded, {} failed as meant, {} cancelled as asked, in {} attempts",
            ends.jobs, ends.succeeded, ends.failed_as_meant, ends.cancelled_as_asked, ends.attempts
        );
        let _ = writeln!(
            text,
            "history      {} lines, {} grants, {} commits, files of {} artifacts: {} findings",
            self.verified["lines"],
            self.verified["grants"],
            self.verified["commits"],
            self.verified["artifacts"],
            self.verified["findings_count"]
        );
        let _ = writeln!(
            text,
            "own lines    {} written by the jobs themselves: {} against the history",
            self.side_lines,
            self.side.len()
        );
        let _ = writeln!(
            text,
            "quiet        {:.1} s after the last fault; {} daemons had left by themselves",
            self.rest.as_secs_f64(),
            self.left_by_themselves
        );
        let _ = writeln!(
            text,
            "result       {} lost, {} doubled, {} wrong results; seed {}",
            ends.lost.len(),
            self.doubled.len(),
            ends.wrong_results.len(),
            options.seed
        );
        for problem in self.problems() {
            let _ = writeln!(text, "PROBLEM  {problem}");
        }
        text
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let faults = self.faults.iter().map(|(kind, tally)| {
            json!({
                "fault": kind.words(),
                "count": tally.count,
                "median_s": tally.median().map(|time| time.as_secs_f64()),
                "longest_s": tally.longest().map(|time| time.as_secs_f64()),
            })
        });
        json!({
            "seed": self.options.seed,
            "clean": self.is_clean(),
            "faults": faults.collect::<Vec<_>>(),
            "jobs": self.ends.jobs,
            "attempts": self.ends.attempts,
            "lost": self.ends.lost,
            "doubled": self.doubled,
            "wrong_results": self.ends.wrong_results,
            "placed_again_s": self.replaced.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
            "problems": self.problems(),
            "seconds": self.took.as_secs_f64(),
        })
    }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format!("{:.2} s", time.as_secs_f64()),
    )
}

/// For each rank that a lost host held: from the loss until the next attempt of its job was granted.
pub(super) fn placed_again(done: &[Fault], history: &History) -> Vec<Duration> {
    let mut times = Vec::new();
    for fault in done.iter().filter(|fault| fault.kind == Kind::HostLost) {
        let mut jobs: BTreeMap<i64, u64> = BTreeMap::new();
        for ((job, attempt, _), rank) in &history.ranks {
            let held = rank.worker == fault.name
                && rank.granted.is_some_and(|at| at < fault.at)
                && rank.released.is_none_or(|at| at > fault.at);
            if held {
                jobs.insert(*job, *attempt);
            }
        }
        for (job, attempt) in jobs {
            let later = history
                .ranks
                .range((job, attempt + 1, 0)..(job, u64::MAX, 0));
            let next = later.filter_map(|(_, rank)| rank.granted).min();
            times.extend(next.and_then(|at| (at - fault.at).to_std().ok()));
        }
    }
    times
}
