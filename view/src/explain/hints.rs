//! What a person can do about a job, by its state and by the class of its failure.

use std::fmt;

use marquee_domain::failure::FailureClass;
use marquee_domain::job::JobStateName;
use marquee_proto::v1::{Failure, Job};

use super::{Explanation, is_waited_for};
use crate::{outcome, words};

/// Something that a person can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// A command to type, and what it does.
    Command {
        line: String,
        does: String,
    },
    Sentence(&'static str),
}

impl Hint {
    fn command(line: String, does: impl Into<String>) -> Self {
        Self::Command {
            line,
            does: does.into(),
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { line, does } => write!(f, "{line}   {does}"),
            Self::Sentence(sentence) => f.write_str(sentence),
        }
    }
}

impl Explanation<'_> {
    /// What a person can do, most helpful first.
    #[must_use]
    pub fn what_to_do(&self, job: &Job) -> Vec<Hint> {
        let id = job.id;
        match words::state_name(job) {
            Some(JobStateName::Waiting) => self
                .needs
                .iter()
                .filter(|need| is_waited_for(job, need))
                .map(|need| {
                    Hint::command(
                        format!("marquee explain {}", need.id),
                        format!("says more about {}", need.name),
                    )
                })
                .collect(),
            Some(JobStateName::Queued) => {
                let line = "marquee workers".to_owned();
                vec![Hint::command(line, "shows what each host has and does")]
            }
            Some(JobStateName::Running) => {
                let mut hints = Vec::new();
                if job.idle_since.is_some() {
                    hints.push(Hint::command(
                        format!("marquee metrics {id}"),
                        "shows what its GPUs did",
                    ));
                }
                // Before the log as a whole: the stacks are in that rank's own lines, which the
                // others' would bury.
                if let Some(rank) = outcome::hung_rank(self.detail) {
                    hints.push(Hint::command(
                        format!("marquee logs {id} --rank {rank}"),
                        "shows what the threads of the rank that hangs do",
                    ));
                }
                hints.push(Hint::command(
                    format!("marquee logs -f {id}"),
                    "follows what it prints",
                ));
                hints.push(Hint::command(
                    format!("marquee wait {id}"),
                    "follows its progress",
                ));
                hints
            }
            Some(JobStateName::Succeeded) => {
                let line = format!("marquee artifacts get {id}");
                vec![Hint::command(line, "fetches its result")]
            }
            Some(JobStateName::Failed) => {
                // The coordinator's own words tell that there is something to rescue: no field of
                // the message does.
                let rescue = format!("marquee artifacts rescue {id}");
                // With the closing quote: without it, the rescue of job 70 would be one of job 7.
                let quoted = format!("{rescue}\"");
                let names_it = |failure: &Failure| failure.message.contains(&quoted);
                let mut hints = Vec::new();
                if job.failure.as_ref().is_some_and(names_it) {
                    // The work is done and its result lies there: nothing has to be computed again, whatever
                    // the class of the failure would usually advise.
                    hints.push(Hint::command(
                        rescue,
                        "makes the output that was kept its result, once the cause is gone",
                    ));
                } else {
                    let class = job.failure.as_ref().and_then(words::failure_class);
                    hints.extend(class.map(advice).map(Hint::Sentence));
                }
                hints.push(Hint::command(
                    format!("marquee logs {id} --tail 50"),
                    "shows its last words",
                ));
                hints.push(Hint::command(
                    format!("marquee retry {id}"),
                    "tries again, with the jobs that waited for it",
                ));
                hints
            }
            // It ended as it was meant to, and a retry would do what its author wanted to happen in
            // case of a failure alone.
            Some(JobStateName::Cancelled) if job.not_needed => Vec::new(),
            Some(JobStateName::Cancelled) => {
                vec![Hint::command(
                    format!("marquee retry {id}"),
                    "queues it again",
                )]
            }
            None => Vec::new(),
        }
    }
}

/// What usually helps, by class of failure.
fn advice(class: FailureClass) -> &'static str {
    match class {
        FailureClass::UserError => {
            "Correct the job's settings or program and submit it again; a retry runs the old ones."
        }
        FailureClass::OutOfMemory => {
            "Lower batch_size, or ask for more ranks: each rank holds its share of the batch."
        }
        FailureClass::BadInput => "Look at the input it names; running again reads the same data.",
        FailureClass::DeviceFault => {
            "Look at the host's device (nvidia-smi, the kernel's log) before trying again there."
        }
        FailureClass::LostWorker => {
            "See \"marquee workers\": is the host up and marquee-worker running?"
        }
        FailureClass::Timeout => {
            "Raise the job's timeout, or give it more ranks, and submit it again."
        }
        FailureClass::Network => {
            "Check that the hosts reach each other and the service it names, then retry."
        }
        FailureClass::Crash => "The program died by itself: its last words in the log say most.",
        FailureClass::DiskFull => {
            "Make room on the host's disk (\"marquee-worker doctor\" there says how much is left), or let the job write less, then retry."
        }
        FailureClass::Hang => {
            "What each thread of its ranks did is in their logs (lines that begin with [marquee]); \"hang_after\" and \"step_timeout\" say how long a step may take."
        }
        FailureClass::Idle => {
            "Let it use its GPUs, ask for none (device = \"cpu\"), or say idle_ok = true in its document; \"marquee project set PROJECT --idle-stop 2h\" gives all of its project more time."
        }
        FailureClass::Collective => {
            "A peer was lost or did not answer: look at the other ranks' failures and logs, then at the network between their hosts; \"collective_timeout_s\" says how long a rank waits."
        }
    }
}
