//! What the times of a train job's ranks come to, in plain words: what holds it up.
//!
//! The verdict is about the whole job. Where most of it is not steps (features of frozen networks that are
//! computed first, validation, the start of a short job), that is what holds it up; else it is what holds
//! its steps up.
//!
//! A pure function of the ranks' own summaries. All-reduce time contains the wait for slower peers,
//! so a slow rank is told from a slow exchange by who waits: if one rank alone hardly does, the
//! others wait for it; if all wait, it is the exchange. A rank's wait for a checkpoint of rank 0 is
//! booked as all-reduce by the others, and taken off before ranks are compared.

use crate::report::{PhaseTimes, TrainSummary};

mod parts;
pub use parts::JobParts;

/// Shares of a step from which a part of it is worth a word. Below them the gain would be lost in
/// the noise from run to run.
const INPUT_SHARE: f64 = 0.05;
const COMMUNICATION_SHARE: f64 = 0.15;
const CHECKPOINT_SHARE: f64 = 0.05;
/// A straggler makes the others wait for this share of their step, and works so much longer.
const STRAGGLER_SHARE: f64 = 0.10;
const STRAGGLER_FACTOR: f64 = 1.25;

/// What holds a train job up most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bottleneck {
    /// Steps wait for pictures.
    Input {
        share: f64,
        /// Whether pictures are decoded from JPEG, which raw shards would spare.
        decodes: bool,
    },
    /// All ranks wait for the exchange of gradients.
    Communication { share: f64 },
    /// The others wait for one rank.
    Straggler {
        rank: u32,
        /// Its own work over that of the others.
        factor: f64,
        /// Share of their step that the others wait.
        share: f64,
        /// The part of its work in which it is slower.
        part: &'static str,
    },
    /// Steps wait until the checkpoint before is on disk.
    Checkpoint { share: f64 },
    /// Nothing but the computation itself.
    Compute { share: f64 },
    /// Most of the job computes features of frozen networks, before its first step.
    Features {
        /// Of the whole job.
        share: f64,
        seconds: f64,
        /// Pictures that the networks were run on; 0 where an earlier job's features were read.
        passes: u64,
    },
    /// Most of the job validates.
    Validation {
        /// Of the whole job.
        share: f64,
    },
    /// The job is so short that its start and end are most of it.
    Start {
        /// Of the whole job.
        share: f64,
        seconds: f64,
    },
}

impl Bottleneck {
    /// One word for scripts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Communication { .. } => "communication",
            Self::Straggler { .. } => "straggler",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Compute { .. } => "compute",
            Self::Features { .. } => "features",
            Self::Validation { .. } => "validation",
            Self::Start { .. } => "start",
        }
    }

    /// The verdict with its figure and the way out, as a line for people.
    #[must_use]
    pub fn words(&self) -> String {
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        // Were the wait gone, the same steps would take so much less.
        // Never more than a hundred times: a job that only waited would else be promised infinity.
        let gain = |share: f64| format!("{:.1}x", 1.0 / (1.0 - share.min(0.99)));
        match *self {
            Self::Input {
                share,
                decodes: true,
            } => format!(
                "input-bound: {} of the step waits for data; raw shards (encoding = \"raw\") would \
                 give about {}",
                percent(share),
                gain(share)
            ),
            Self::Input {
                share,
                decodes: false,
            } => format!(
                "input-bound: {} of the step waits for data; more input_threads, less augmentation or \
                 a faster disk would give up to {}",
                percent(share),
                gain(share)
            ),
            Self::Communication { share } => format!(
                "communication-bound: {} of the step waits for the exchange of gradients; a larger \
                 batch_size, gradient_compression = \"bf16\" or fewer ranks would give up to {}",
                percent(share),
                gain(share)
            ),
            Self::Straggler {
                rank,
                factor,
                share,
                part,
            } => format!(
                "straggler: rank {rank} takes {factor:.1}x as long as the others, most of it in \
                 {part}, and they wait {} of the step for it; see what else runs on its host",
                percent(share)
            ),
            Self::Checkpoint { share } => format!(
                "checkpoint-bound: {} of the step waits for the disk; write checkpoints more rarely \
                 (checkpoint_every_steps) or onto a faster disk",
                percent(share)
            ),
            Self::Compute { share } => format!(
                "compute-bound: {} of the step computes; only faster devices, more ranks or a lower \
                 precision would help",
                percent(share)
            ),
            Self::Features {
                share, passes: 0, ..
            } => format!(
                "features-bound: {} of the job reads features that an earlier job kept; a faster disk \
                 would help",
                percent(share)
            ),
            Self::Features {
                share,
                seconds,
                passes,
            } => format!(
                "features-bound: {} of the job computes features of frozen networks ({passes} passes, \
                 {:.0} a second); more ranks or faster devices would help, and feature_cache spares it to \
                 later jobs",
                percent(share),
                passes as f64 / seconds.max(f64::MIN_POSITIVE)
            ),
            Self::Validation { share } => format!(
                "validation-bound: {} of the job validates at the ends of epochs; a smaller validation \
                 split would help",
                percent(share)
            ),
            Self::Start { share, seconds } => format!(
                "too short to judge: {} of the job's {seconds:.1} s is its start and end (reading weights \
                 and shards, meeting the other ranks, writing the model)",
                percent(share)
            ),
        }
    }
}

/// What holds the job of these ranks up most; None where nothing was measured.
#[must_use]
pub fn diagnose(ranks: &[TrainSummary]) -> Option<Bottleneck> {
    let of_steps = diagnose_steps(ranks)?;
    let parts = JobParts::of(ranks)?;
    let whole = parts.whole_s();
    let passes = ranks.iter().find_map(|rank| rank.features.as_ref());
    let others = [
        (
            parts.features_s,
            Bottleneck::Features {
                share: parts.features_s / whole,
                seconds: parts.features_s,
                passes: passes.map_or(0, |features| features.passes),
            },
        ),
        (
            parts.validation_s,
            Bottleneck::Validation {
                share: parts.validation_s / whole,
            },
        ),
        (
            parts.rest_s,
            Bottleneck::Start {
                share: parts.rest_s / whole,
                seconds: whole,
            },
        ),
    ];
    let largest = others
        .into_iter()
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        // Steps are what people mean by training: something else is named only where it takes longer than all of
        // them.
        .filter(|(seconds, _)| *seconds > parts.steps_s);
    Some(largest.map_or(of_steps, |(_, bottleneck)| bottleneck))
}

/// What holds the steps of these ranks up most, whatever share of the job they are; None where nothing
/// was measured.
#[must_use]
pub fn diagnose_steps(ranks: &[TrainSummary]) -> Option<Bottleneck> {
    let times: Vec<&PhaseTimes> = ranks.iter().map(|rank| &rank.phases).collect();
    // A rank without steps, as of a job that ended before its first, would make every share infinite.
    if times.is_empty() || times.iter().any(|times| times.step_s <= 0.0) {
        return None;
    }
    let input = mean(times.iter().map(|times| times.input_s / times.step_s));
    let written = times.iter().map(|times| times.checkpoint_s);
    // The most of any rank and not the mean: one rank alone writes, and all wait for it.
    let checkpoint_s = written.fold(0.0, f64::max);
    let step_s = mean(times.iter().map(|times| times.step_s));
    let checkpoint = checkpoint_s / step_s;
    // What the others wait while rank 0 waits for its disk is no exchange.
    let wait_s =
        |times: &PhaseTimes| (times.all_reduce_s - (checkpoint_s - times.checkpoint_s)).max(0.0);
    let exposed = times
        .iter()
        .map(|times| wait_s(times) / times.step_s)
        // The least over the ranks: what even the slowest rank waits is the exchange itself, the rest is waiting
        // for others.
        .fold(f64::INFINITY, f64::min);
    let decodes = ranks.iter().any(|rank| rank.encoding == "jpeg");

    let candidates = [
        (input >= INPUT_SHARE).then_some((
            input,
            Bottleneck::Input {
                share: input,
                decodes,
            },
        )),
        (exposed >= COMMUNICATION_SHARE)
            .then_some((exposed, Bottleneck::Communication { share: exposed })),
        (checkpoint >= CHECKPOINT_SHARE)
            .then_some((checkpoint, Bottleneck::Checkpoint { share: checkpoint })),
        straggler(ranks, wait_s),
    ];
    let worst = candidates
        .into_iter()
        .flatten()
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    Some(worst.map_or_else(
        || {
            let computes = |times: &&PhaseTimes| {
                (times.forward_s + times.backward_s + times.optimizer_s) / times.step_s
            };
            Bottleneck::Compute {
                share: mean(times.iter().map(computes)),
            }
        },
        |(_, bottleneck)| bottleneck,
    ))
}

/// A part's name and how to read it out of the times.
type Part = (&'static str, fn(&PhaseTimes) -> f64);

/// The parts of a rank's own work.
const PARTS: [Part; 4] = [
    ("input", |times| times.input_s),
    ("forward", |times| times.forward_s),
    ("backward", |times| times.backward_s),
    ("optimizer", |times| times.optimizer_s),
];

fn work_s(times: &PhaseTimes) -> f64 {
    PARTS.iter().map(|(_, read)| read(times)).sum()
}

/// The rank that the others wait for, with the share of their step that they wait at all: whatever
/// slows a rank slows its part of the exchange too, which cannot be judged until that is cured.
fn straggler(
    ranks: &[TrainSummary],
    wait_s: impl Fn(&PhaseTimes) -> f64,
) -> Option<(f64, Bottleneck)> {
    // By its own work: the rank that waits least would name the right one only where nothing else
    // makes ranks wait.
    let slowest = ranks
        .iter()
        .max_by(|a, b| work_s(&a.phases).total_cmp(&work_s(&b.phases)))?;
    let others: Vec<&PhaseTimes> = ranks
        .iter()
        .filter(|rank| rank.rank != slowest.rank)
        .map(|rank| &rank.phases)
        .collect();
    if others.is_empty() {
        return None;
    }
    let theirs = mean(others.iter().map(|times| work_s(times)));
    // Against the others' mean and not against all: in a gang of two the slow rank would be half of its own
    // measure.
    let factor = work_s(&slowest.phases) / theirs.max(f64::MIN_POSITIVE);
    let waiting = |times: &PhaseTimes| wait_s(times) / times.step_s;
    let in_all = mean(others.iter().map(|times| waiting(times)));
    let share = in_all - waiting(&slowest.phases);
    // Both must show: a rank with more work that nobody waits for costs nothing, and a wait without more work is
    // the network.
    if share < STRAGGLER_SHARE || factor < STRAGGLER_FACTOR {
        return None;
    }
    let excess = |read: fn(&PhaseTimes) -> f64| {
        read(&slowest.phases) - mean(others.iter().map(|times| read(times)))
    };
    let (part, _) = PARTS
        .into_iter()
        .max_by(|(_, a), (_, b)| excess(*a).total_cmp(&excess(*b)))?;
    Some((
        in_all,
        Bottleneck::Straggler {
            rank: slowest.rank,
            factor,
            share,
            part,
        },
    ))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "there are at most a few thousand ranks"
)]
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rank whose step of 100 s has so much of each; the rest is forward and backward.
    fn rank(rank: u32, input_s: f64, all_reduce_s: f64, checkpoint_s: f64) -> TrainSummary {
        let computes = 100.0 - input_s - all_reduce_s - checkpoint_s;
        TrainSummary {
            rank,
            encoding: "raw".into(),
            phases: PhaseTimes {
                step_s: 100.0,
                input_s,
                forward_s: computes * 0.35,
                backward_s: computes * 0.65,
                all_reduce_s,
                checkpoint_s,
                ..PhaseTimes::default()
            },
            ..TrainSummary::default()
        }
    }

    fn words(ranks: &[TrainSummary]) -> String {
        diagnose(ranks).unwrap().words()
    }

    #[test]
    fn each_bottleneck_is_named_with_its_figure_and_the_way_out() {
        let jpeg = TrainSummary {
            encoding: "jpeg".into(),
            ..rank(0, 38.0, 0.0, 0.0)
        };
        insta::assert_snapshot!([
            words(&[jpeg]),
            words(&[rank(0, 20.0, 0.0, 0.0)]),
            words(&[rank(0, 1.0, 31.0, 0.0), rank(1, 1.0, 33.0, 0.0)]),
            words(&[rank(0, 1.0, 35.0, 0.0), rank(1, 1.0, 5.0, 0.0), rank(2, 1.0, 33.0, 0.0)]),
            words(&[rank(0, 0.0, 2.0, 20.0), rank(1, 0.0, 22.0, 0.0)]),
            words(&[rank(0, 1.0, 4.0, 0.1), rank(1, 1.0, 4.0, 0.0)]),
        ]
        .join("\n"), @r#"
        input-bound: 38 % of the step waits for data; raw shards (encoding = "raw") would give about 1.6x
        input-bound: 20 % of the step waits for data; more input_threads, less augmentation or a faster disk would give up to 1.2x
        communication-bound: 31 % of the step waits for the exchange of gradients; a larger batch_size, gradient_compression = "bf16" or fewer ranks would give up to 1.4x
        straggler: rank 1 takes 1.4x as long as the others, most of it in backward, and they wait 29 % of the step for it; see what else runs on its host
        checkpoint-bound: 20 % of the step waits for the disk; write checkpoints more rarely (checkpoint_every_steps) or onto a faster disk
        compute-bound: 95 % of the step computes; only faster devices, more ranks or a lower precision would help
        "#);
    }

    #[test]
    fn a_straggler_that_waits_for_its_own_input_is_one() {
        let ranks = [rank(0, 1.0, 50.0, 0.0), rank(1, 51.0, 0.0, 0.0)];
        match diagnose(&ranks) {
            Some(Bottleneck::Straggler {
                rank: 1,
                part: "input",
                ..
            }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_verdict_is_about_the_whole_job_and_not_about_the_steps_alone() {
        // A job of 48 s that computes features for 45 s, and whose steps wait for checkpoints.
        let steps = TrainSummary {
            seconds: 48.0,
            features: Some(crate::report::FeaturesReport {
                pictures: 2_145,
                passes: 3_921,
                seconds: 45.0,
                ..Default::default()
            }),
            images_per_second: 47_324.0,
            phases: PhaseTimes {
                step_s: 0.9,
                forward_s: 0.7,
                checkpoint_s: 0.15,
                validation_s: 0.2,
                features_s: 45.0,
                ..PhaseTimes::default()
            },
            ..TrainSummary::default()
        };
        assert!(matches!(
            diagnose_steps(std::slice::from_ref(&steps)),
            Some(Bottleneck::Checkpoint { .. })
        ));
        let rate = steps.whole_images_per_second();
        assert!((rate - 47_324.0 * 0.9 / 45.9).abs() < 1e-9, "{rate}");
        let short = TrainSummary {
            seconds: 400.0,
            ..rank(0, 1.0, 4.0, 0.0)
        };
        let mut validates = rank(0, 1.0, 4.0, 0.0);
        validates.phases.validation_s = 150.0;
        let parts = JobParts::of(std::slice::from_ref(&steps)).unwrap().words();
        insta::assert_snapshot!([
            words(&[steps]),
            parts,
            words(&[short]),
            words(&[validates]),
        ]
        .join("\n"), @"
        features-bound: 94 % of the job computes features of frozen networks (3921 passes, 87 a second); more ranks or faster devices would help, and feature_cache spares it to later jobs
        48.0 s in all: 94 % features of frozen networks, 2 % steps, 4 % start and end
        too short to judge: 75 % of the job's 400.0 s is its start and end (reading weights and shards, meeting the other ranks, writing the model)
        validation-bound: 60 % of the job validates at the ends of epochs; a smaller validation split would help
        ");
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(diagnose(&[]), None);
        assert_eq!(diagnose(&[TrainSummary::default()]), None);
    }
}
