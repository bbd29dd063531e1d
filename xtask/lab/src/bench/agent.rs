//! Programs that take turns: each does a round of work when it is told to and says what it cost.
//!
//! Invariant: those that are compared run their rounds in turn, so that what else the machine does
//! befalls all alike; the figure is the median over the rounds, without the first, which warms up.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use marquee_xtask::process;

/// A program that waits for rounds.
#[derive(Debug)]
pub(super) struct Agent {
    program: String,
    child: Child,
    asked: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What one item cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    /// Of all threads and worker processes.
    pub(super) cpu_ms: f64,
    pub(super) wall_ms: f64,
}

impl Agent {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let program = process::line(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        // Held as an Option, so that it can be closed while the child lives: the end of its stdin
        // is what ends it.
        let asked = child.stdin.take();
        let answers = child.stdout.take().context("it has no stdout")?;
        Ok(Self {
            program,
            child,
            asked,
            answers: BufReader::new(answers),
        })
    }

    /// The next line that it prints.
    pub(super) fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{} gave up: {line:?}", self.program))
    }

    /// Gives it a line to read.
    pub(super) fn ask(&mut self, line: &str) -> Result<()> {
        let asked = self.asked.as_mut().context("it was told to end")?;
        writeln!(asked, "{line}").with_context(|| format!("{} gave up", self.program))
    }

    /// Nothing more will be asked of it: it ends.
    pub(super) fn dismiss(&mut self) {
        drop(self.asked.take());
    }

    fn round(&mut self, items: usize) -> Result<Cost> {
        self.ask(&items.to_string())?;
        let answer = self.answer()?;
        let number = |key: &str| answer[key].as_f64().with_context(|| format!("no {key}"));
        // By the items that it says it did: the last round of a loader may have fewer.
        let each_ms = 1_000.0 / number("items")?;
        Ok(Cost {
            cpu_ms: number("cpu_s")? * each_ms,
            wall_ms: number("wall_s")? * each_ms,
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.dismiss();
        let _ = self.child.wait();
    }
}

/// One that takes part, and how many items its rounds have.
pub(super) struct Turn<'a> {
    pub(super) agent: &'a mut Agent,
    pub(super) items: usize,
}

/// Lets all take so many turns; the median cost of each.
pub(super) fn take_turns(turns: &mut [Turn<'_>], rounds: usize) -> Result<Vec<Cost>> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); turns.len()];
    // One round more than count: the first warms up caches and the processor's clock.
    for round in 0..=rounds {
        for (turn, costs) in turns.iter_mut().zip(&mut costs) {
            let cost = turn.agent.round(turn.items)?;
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    Ok(costs.iter().map(|costs| median(costs)).collect())
}

fn median(costs: &[Cost]) -> Cost {
    let middle = |pick: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        // The median and not the mean: one round beside something else on the machine must not move
        // the figure.
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Cost {
        cpu_ms: middle(|cost| cost.cpu_ms),
        wall_ms: middle(|cost| cost.wall_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costing(cpu_s: f64) -> Agent {
        let answer = format!(r#"{{"items":4,"cpu_s":{cpu_s},"wall_s":1}}"#);
        let script = format!("while read line; do echo '{answer}'; done");
        Agent::start(Command::new("sh").args(["-c", &script])).unwrap()
    }

    #[test]
    fn those_that_take_turns_say_what_an_item_cost() {
        let (mut one, mut other) = (costing(0.4), costing(0.8));
        let mut turns = [&mut one, &mut other].map(|agent| Turn { agent, items: 4 });
        let costs = take_turns(&mut turns, 3).unwrap();
        assert!((costs[0].cpu_ms - 100.0).abs() < 1e-9, "{costs:?}");
        assert!((costs[1].cpu_ms - 200.0).abs() < 1e-9, "{costs:?}");
        assert!((costs[1].wall_ms - 250.0).abs() < 1e-9, "{costs:?}");
    }

    #[test]
    fn one_that_dies_is_named() {
        let mut agent = Agent::start(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let error = agent.round(1).unwrap_err();
        assert!(!format!("{error:#}").is_empty());
    }

    #[test]
    fn the_median_shrugs_off_one_slow_round() {
        let cost = |cpu_ms| Cost {
            cpu_ms,
            wall_ms: cpu_ms,
        };
        let found = median(&[cost(1.0), cost(90.0), cost(2.0)]);
        assert!((found.cpu_ms - 2.0).abs() < 1e-9);
    }
}
