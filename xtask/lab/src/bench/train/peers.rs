//! Programs that train on a batch of their own and take turns: `marquee-trainer bench-step --serve`
//! and `train_peer.py step`. Both answer "go N" with a JSON line of N steps' times and losses.
//!
//! One that takes part may be several ranks: they are told to go together, and the slowest one's time
//! counts.

#![allow(clippy::cast_precision_loss, reason = "there are a few ranks")]

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bench::agent::Agent;

/// One that takes part, with all that it has said.
pub(in crate::bench) struct Trainee {
    pub(in crate::bench) name: &'static str,
    ranks: Vec<Agent>,
    /// Of each step, warm-up included.
    pub(in crate::bench) losses: Vec<f64>,
    /// Of each step that counts.
    wall_s: Vec<f64>,
    /// Of each step that counts, all ranks together.
    cpu_s: Vec<f64>,
    pub(in crate::bench) peak_memory_bytes: f64,
}

impl Trainee {
    /// Starts its ranks; they get ready while others do.
    pub(in crate::bench) fn start(
        name: &'static str,
        ranks: impl IntoIterator<Item = Command>,
    ) -> Result<Self> {
        let ranks = ranks.into_iter();
        Ok(Self {
            name,
            ranks: ranks
                .map(|mut command| Agent::start(&mut command))
                .collect::<Result<_>>()?,
            losses: Vec::new(),
            wall_s: Vec::new(),
            cpu_s: Vec::new(),
            peak_memory_bytes: 0.0,
        })
    }

    /// Takes so many steps.
    fn turn(&mut self, steps: usize, counts: bool) -> Result<()> {
        for rank in &mut self.ranks {
            rank.ask(&format!("go {steps}"))?;
        }
        // After all were told to go: a rank waits for its peers, and would not answer before they
        // have begun.
        let mut answers = Vec::new();
        for rank in &mut self.ranks {
            answers.push(rank.answer()?);
        }
        let lists = |key: &str| -> Result<Vec<Vec<f64>>> {
            answers.iter().map(|answer| numbers(answer, key)).collect()
        };
        let (wall, cpu, losses) = (lists("wall_s")?, lists("cpu_s")?, lists("losses")?);
        if losses.iter().any(|losses| losses.len() != steps) {
            bail!("{} was asked for {steps} steps, but took others", self.name);
        }
        for step in 0..steps {
            let at = |lists: &[Vec<f64>]| lists.iter().map(|list| list[step]).collect::<Vec<_>>();
            // Shares are of one size, so that the mean over ranks is that over the batch.
            self.losses
                .push(at(&losses).iter().sum::<f64>() / losses.len() as f64);
            if counts {
                // A step is over when its slowest rank is; CPU time is what all of them took.
                self.wall_s.push(at(&wall).into_iter().fold(0.0, f64::max));
                self.cpu_s.push(at(&cpu).iter().sum());
            }
        }
        let peaks = answers
            .iter()
            .filter_map(|answer| answer["peak_memory_bytes"].as_f64());
        self.peak_memory_bytes = peaks.fold(self.peak_memory_bytes, f64::max);
        Ok(())
    }

    /// Says something to each rank that has no answer.
    pub(in crate::bench) fn tell(&mut self, line: &str) -> Result<()> {
        self.ranks.iter_mut().try_for_each(|rank| rank.ask(line))
    }

    /// CPU seconds of each of so many more steps.
    pub(in crate::bench) fn cpu_s_of(&mut self, steps: usize) -> Result<Vec<f64>> {
        self.turn(steps, true)?;
        Ok(self.cpu_s[self.cpu_s.len() - steps..].to_vec())
    }

    /// Wall and CPU seconds of so many more steps together.
    pub(in crate::bench) fn times_of(&mut self, steps: usize) -> Result<(f64, f64)> {
        self.turn(steps, true)?;
        let sum = |all: &[f64]| all[all.len() - steps..].iter().sum();
        Ok((sum(&self.wall_s), sum(&self.cpu_s)))
    }

    pub(in crate::bench) fn wall_ms(&self) -> f64 {
        1e3 * median(&self.wall_s)
    }

    pub(in crate::bench) fn cpu_ms(&self) -> f64 {
        1e3 * median(&self.cpu_s)
    }

    /// The quickest step's CPU time.
    pub(in crate::bench) fn cpu_least_ms(&self) -> f64 {
        1e3 * self.cpu_s.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

impl Drop for Trainee {
    /// All ranks end together: one that leaves waits for the others to do so.
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            rank.dismiss();
        }
    }
}

/// How often, and how many steps at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns {
    pub(super) warmup: usize,
    pub(super) rounds: usize,
    pub(super) steps: usize,
}

/// Lets all warm up and then take turns.
pub(super) fn take_turns(trainees: &mut [Trainee], turns: Turns) -> Result<()> {
    for trainee in &mut *trainees {
        trainee.turn(turns.warmup, false)?;
    }
    for _ in 0..turns.rounds {
        for trainee in &mut *trainees {
            trainee.turn(turns.steps, true)?;
        }
    }
    Ok(())
}

/// How far later losses may drift apart, relative: rounding decides on which side of a ReLU's kink a
/// value falls, and a deep network with batch-norm makes much of that within a few steps.
const DRIFT: f64 = 0.1;

/// Fails if the first losses of two differ by more than `tolerance`, relative, for then they did not
/// start from the same weights and batch, or if later ones drift too far; returns how far the first are
/// apart.
pub(in crate::bench) fn require_same_losses(
    ours: &Trainee,
    theirs: &Trainee,
    tolerance: f64,
) -> Result<f64> {
    let mut first = f64::NAN;
    for (step, (a, b)) in ours.losses.iter().zip(&theirs.losses).enumerate() {
        let apart = (a - b).abs() / b.abs().max(f64::MIN_POSITIVE);
        let most = if step == 0 {
            tolerance
        } else {
            tolerance.max(DRIFT)
        };
        if apart.is_nan() || apart > most {
            bail!(
                "the losses of step {} are {a} ({}) and {b} ({}): that is not the same training",
                step + 1,
                ours.name,
                theirs.name
            );
        }
        if step == 0 {
            first = apart;
        }
    }
    Ok(first)
}

fn numbers(answer: &Value, key: &str) -> Result<Vec<f64>> {
    let list = answer[key]
        .as_array()
        .with_context(|| format!("no {key}"))?;
    let number = |value: &Value| {
        value
            .as_f64()
            .with_context(|| format!("{key} holds {value}"))
    };
    list.iter().map(number).collect()
}

pub(in crate::bench) fn median(values: &[f64]) -> f64 {
    quartile(values, 2)
}

/// The value below which so many quarters of all lie.
pub(in crate::bench) fn quartile(values: &[f64], quarters: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // No interpolation: with few values a value that was really measured says more.
    let place = sorted.len() * quarters / 4;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trainee(name: &'static str, answers: &[(f64, f64, f64)]) -> Trainee {
        let commands = answers.iter().map(|(wall, cpu, loss)| {
            let line = format!(r#"{{"wall_s":[{wall}],"cpu_s":[{cpu}],"losses":[{loss}]}}"#);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("while read line; do echo '{line}'; done")]);
            command
        });
        Trainee::start(name, commands).unwrap()
    }

    const TURNS: Turns = Turns {
        warmup: 1,
        rounds: 2,
        steps: 1,
    };

    #[test]
    fn ranks_go_together_and_the_slowest_counts() {
        let mut all = [trainee("two", &[(0.2, 0.1, 0.5), (0.3, 0.1, 0.7)])];
        take_turns(&mut all, TURNS).unwrap();
        let [two] = &all;
        assert!((two.wall_ms() - 300.0).abs() < 1e-9, "{}", two.wall_ms());
        assert!((two.cpu_ms() - 200.0).abs() < 1e-9, "{}", two.cpu_ms());
        assert_eq!(two.losses.len(), 3);
        assert!((two.losses[0] - 0.6).abs() < 1e-12);
    }

    #[test]
    fn other_losses_are_other_work() {
        let mut all = [
            trainee("ours", &[(0.2, 0.1, 0.6921)]),
            trainee("theirs", &[(0.2, 0.1, 0.6922)]),
        ];
        take_turns(&mut all, TURNS).unwrap();
        let [ours, theirs] = &all;
        assert!(require_same_losses(ours, theirs, 1e-3).is_ok());
        let message = require_same_losses(ours, theirs, 1e-5)
            .unwrap_err()
            .to_string();
        assert!(message.contains("step 1"), "{message}");
    }
}
