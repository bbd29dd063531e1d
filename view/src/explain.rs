//! Why a job is where it is, and what a person can do about it.
//!
//! Not here: finding out. The reason of a waiting job is the coordinator's, and so is the class of a
//! failure. Here they are put together with what follows from them.

use std::fmt;

use chrono::{DateTime, Utc};
use marquee_domain::failure::FailureClass;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::NeedOn;
use marquee_proto::v1::{Attempt, AttemptRank, Failure, Job, JobDetail};
use serde_json::{Value, json};

use crate::page::{Page, View};
use crate::{forecast, history, jobs, json, outcome, status, units, words};

/// A job, what it needs, and what can be said about both.
#[derive(Debug)]
pub struct Explanation<'a> {
    pub detail: &'a JobDetail,
    /// The jobs that it needs.
    pub needs: &'a [Job],
}

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
    /// Why the job is where it is, one sentence a line.
    #[must_use]
    pub fn why(&self, job: &Job, now: DateTime<Utc>) -> Vec<String> {
        let detail = status::detail(job, now);
        let mut why = match words::state_name(job) {
            Some(JobStateName::Waiting) => {
                let reason = or(&job.reason, "waits for the jobs it needs");
                let mut why = vec![format!("It {reason}.")];
                why.extend(
                    self.needs
                        .iter()
                        .filter(|need| is_waited_for(job, need))
                        .map(|need| waits_for(job, need)),
                );
                why
            }
            Some(JobStateName::Queued) => {
                let mut why = vec![format!(
                    "It could run and does not yet: {}.",
                    or(&detail, "the scheduler has not looked at it yet")
                )];
                why.extend(forecast::expected(self.detail, now));
                why.extend(forecast::accuracy(self.detail));
                why
            }
            Some(JobStateName::Running) => {
                let mut why = vec![format!("It runs: {detail}.")];
                why.extend(forecast::looking_back(self.detail));
                why.extend(outcome::losses(self.detail));
                why.extend(outcome::hangs(self.detail));
                why
            }
            Some(JobStateName::Succeeded) if job.reused_from_job_id != 0 => {
                let from = job.reused_from_job_id;
                vec![format!(
                    "It did not run: job {from} did the same before, with the same code, settings and \
                     inputs, and its result was taken. \"marquee submit --fresh\" or \"reuse = false\" \
                     runs it all the same."
                )]
            }
            Some(JobStateName::Succeeded) => {
                let mut why = vec![format!("It succeeded {detail}.")];
                why.extend(forecast::looking_back(self.detail));
                why.extend(outcome::losses(self.detail));
                why.extend(
                    outcome::bottleneck(self.detail).map(|words| format!("Its speed: {words}.")),
                );
                why
            }
            Some(JobStateName::Failed) => {
                let mut why = self.why_failed(job);
                why.extend(forecast::looking_back(self.detail));
                why
            }
            Some(JobStateName::Cancelled) => {
                let last = self
                    .detail
                    .events
                    .last()
                    .map_or("", |event| event.text.as_str());
                // Where no reason is stored, the last event says it.
                let cause = or(&job.reason, or(last, "by a user"));
                if job.not_needed {
                    return vec![
                        "It did not have to run, and nothing is wrong with that.".to_owned(),
                        format!("It was {cause}."),
                    ];
                }
                vec![format!("It was cancelled: {cause}.")]
            }
            None => {
                vec!["Its state is one that only a newer marquee knows; update this one.".into()]
            }
        };
        // Of a job that had succeeded no state tells why it waits or runs once more.
        let mut events = self.detail.events.iter().rev();
        let again = events.find(|event| event.text.starts_with("made again,"));
        why.extend(again.map(|event| format!("It was {}.", event.text)));
        why
    }

    fn why_failed(&self, job: &Job) -> Vec<String> {
        let Some(failure) = &job.failure else {
            return vec!["It failed, and no cause is stored.".into()];
        };
        let mut why = vec![format!(
            "It failed ({}): {}",
            words::failure_word(failure),
            failure.message
        )];
        if let Some(rank) = self.detail.attempts.last().and_then(to_blame) {
            why.push(format!(
                "It was rank {} on {}.",
                rank.rank, rank.worker_name
            ));
        }
        let retryable = words::failure_class(failure).is_some_and(FailureClass::is_worth_a_retry);
        why.push(if retryable {
            let times = units::plural(job.attempt as usize, "time");
            format!("It was tried {times}, as often as it may be.")
        } else {
            "Another attempt would end the same way, so none was made.".to_owned()
        });
        why
    }

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
                let rescue = format!("marquee artifacts rescue {id}");
                let names_it = |failure: &Failure| failure.message.contains(&rescue);
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
        FailureClass::Collective => {
            "A peer was lost or did not answer: look at the other ranks' failures and logs, then at the network between their hosts; \"collective_timeout_s\" says how long a rank waits."
        }
    }
}

/// Whether a waiting job still waits for this one of its needs.
fn is_waited_for(job: &Job, need: &Job) -> bool {
    match words::needs_of(job, &need.name) {
        NeedOn::Succeeded => !succeeded(need),
        // An array has ended with its last element.
        NeedOn::Finished | NeedOn::Failed => {
            let open = need
                .elements
                .as_ref()
                .is_some_and(|counts| counts.waiting + counts.queued + counts.running > 0);
            open || !words::has_ended(need)
        }
    }
}

fn waits_for(job: &Job, need: &Job) -> String {
    let (name, id, state) = (&need.name, need.id, words::job_state(need));
    match words::needs_of(job, name) {
        NeedOn::Succeeded => format!("It needs {name} (job {id}), which is {state}."),
        NeedOn::Finished => {
            format!("It runs when {name} (job {id}) has ended, however it does; that is {state}.")
        }
        NeedOn::Failed => {
            format!("It runs only if {name} (job {id}) fails; that is {state}.")
        }
    }
}

fn succeeded(job: &Job) -> bool {
    words::state_name(job) == Some(JobStateName::Succeeded)
}

/// `text` without its full stop, or what stands for nothing.
fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() {
        otherwise
    } else {
        text.trim_end_matches('.')
    }
}

impl View for Explanation<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let Some(job) = &self.detail.job else { return };
        page.fields(vec![
            (
                "job",
                format!(
                    "{} {} of p{} {}",
                    job.id, job.name, job.pipeline_id, job.pipeline_name
                )
                .into(),
            ),
            ("state", jobs::state(job)),
            ("values", words::values(job).into()),
        ]);
        page.heading("Why");
        for line in self.why(job, now) {
            page.line(line);
        }
        if !self.detail.attempts.is_empty() && !succeeded(job) {
            page.gap();
            history::attempts(page, &self.detail.attempts, now);
        }
        let hints = self.what_to_do(job);
        if !hints.is_empty() {
            page.heading("What to do");
            for hint in hints {
                page.line(hint.to_string());
            }
        }
    }

    fn json(&self, now: DateTime<Utc>) -> Value {
        let Some(job) = &self.detail.job else {
            return Value::Null;
        };
        let hints = self.what_to_do(job);
        json!({
            "job": json::job_detail(self.detail),
            "needs": self.needs.iter().map(json::job).collect::<Vec<_>>(),
            "why": self.why(job, now),
            "what_to_do": hints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    fn ids(&self) -> Vec<String> {
        self.detail
            .job
            .iter()
            .map(|job| job.id.to_string())
            .collect()
    }
}

/// The rank whose failure was the cause, as the coordinator chose it: its peers only lost their connection to it,
/// and may have failed of that.
fn to_blame(attempt: &Attempt) -> Option<&AttemptRank> {
    let precedence =
        |failure: &Failure| words::failure_class(failure).map_or(0, FailureClass::precedence);
    let failed = attempt.ranks.iter().filter(|rank| rank.failure.is_some());
    // The lowest rank among equals; `max_by_key` keeps the last one.
    failed
        .rev()
        .max_by_key(|rank| rank.failure.as_ref().map(precedence))
}

#[cfg(test)]
mod tests {
    use marquee_domain::report::{TrainSummary, WentOn};
    use marquee_proto::v1::{JobKind, JobState};

    use crate::samples;

    use super::*;

    #[test]
    fn a_job_that_goes_on_without_a_rank_says_so() {
        let mut detail = samples::still_running();
        let attempt = detail.attempts.last_mut().unwrap();
        attempt.ranks[0].summary_json = serde_json::to_string(&TrainSummary {
            went_on: vec![WentOn {
                step: 120,
                ranks: 1,
                of: 2,
                steps_lost: 1,
                seconds: 3.2,
            }],
            ..TrainSummary::default()
        })
        .unwrap();
        attempt.ranks[1].lost_at = attempt.started_at;
        let why = Explanation {
            detail: &detail,
            needs: &[],
        }
        .why(detail.job.as_ref().unwrap(), samples::now());
        insta::assert_snapshot!(why[1..].join("\n"), @r"
        It went on with 1 of 2 ranks: rank 1 on worker-2 was lost (out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size).
        It went on with 1 of 2 ranks from step 120 after 3.2 s; 1 step was lost.
        ");
    }

    #[test]
    fn of_two_ranks_that_failed_the_one_that_was_the_cause_is_named() {
        let mut detail = samples::failed_train();
        let attempt = detail.attempts.last_mut().unwrap();
        attempt.ranks[0].failure = Some(Failure {
            class: marquee_proto::v1::FailureClass::Collective.into(),
            message: "Connection closed by peer [10.0.0.7]:3512".into(),
        });
        let why = Explanation {
            detail: &detail,
            needs: &[],
        }
        .why(detail.job.as_ref().unwrap(), samples::now());
        assert!(
            why.contains(&"It was rank 1 on worker-2.".to_owned()),
            "{why:?}"
        );
    }

    #[test]
    fn a_job_that_hangs_says_which_rank_does_and_which_only_waits() {
        let mut detail = samples::still_running();
        let attempt = detail.attempts.last_mut().unwrap();
        attempt.ranks[0].stall = Some(marquee_proto::v1::Stall {
            idle_ms: 45_000,
            step: Some(12),
            phase: "all-reduce".into(),
            waits_for_peers: true,
            ..Default::default()
        });
        attempt.ranks[1].stall = Some(marquee_proto::v1::Stall {
            idle_ms: 46_200,
            step: Some(12),
            phase: "forward".into(),
            is_stopped: true,
            ..Default::default()
        });
        let explanation = Explanation {
            detail: &detail,
            needs: &[],
        };
        let job = detail.job.as_ref().unwrap();
        let why = explanation.why(job, samples::now());
        insta::assert_snapshot!(why[1..].join("\n"), @r#"
        Rank 1 on worker-2 hangs: it is stopped by a signal (state T) at step 12, for 46 s; "kill -CONT" lets it go on.
        Rank 0 on worker-1 waits in all-reduce at step 12, for 45 s.
        "#);
        let hints = explanation.what_to_do(job);
        assert!(hints[0].to_string().contains("--rank 1"), "{hints:?}");
    }

    #[test]
    fn what_only_a_newer_coordinator_knows_is_said_to_be_unknown() {
        let failed = Job {
            state: JobState::Failed.into(),
            failure: Some(marquee_proto::v1::Failure {
                class: 99,
                message: "the moon was in the way".into(),
            }),
            ..Job::default()
        };
        let newer = Job {
            state: 99,
            kind: 99,
            ..Job::default()
        };
        for (job, says) in [
            (failed, "It failed (unknown): the moon was in the way"),
            (newer, "only a newer marquee knows"),
        ] {
            let detail = JobDetail {
                job: Some(job.clone()),
                ..JobDetail::default()
            };
            let explanation = Explanation {
                detail: &detail,
                needs: &[],
            };
            let why = explanation.why(&job, samples::now()).join(" ");
            assert!(why.contains(says), "{why}");
            let json = explanation.json(samples::now());
            assert_eq!(json["job"]["kind"], "unknown");
            assert!(!Page::of(&explanation, samples::now()).blocks().is_empty());
        }
    }

    #[test]
    fn an_answer_without_a_job_is_nothing_and_no_panic() {
        let explanation = Explanation {
            detail: &JobDetail::default(),
            needs: &[],
        };
        assert!(Page::of(&explanation, samples::now()).blocks().is_empty());
        assert_eq!(explanation.json(samples::now()), Value::Null);
        assert!(explanation.ids().is_empty());
    }

    #[test]
    fn a_kept_output_is_to_be_rescued_and_not_made_again() {
        let failed = |message: &str| Job {
            id: 7,
            state: JobState::Failed.into(),
            failure: Some(marquee_proto::v1::Failure {
                class: marquee_proto::v1::FailureClass::UserError.into(),
                message: message.into(),
            }),
            ..Job::default()
        };
        let first = |job: &Job| {
            let detail = JobDetail {
                job: Some(job.clone()),
                ..JobDetail::default()
            };
            let explanation = Explanation {
                detail: &detail,
                needs: &[],
            };
            let hints = explanation.what_to_do(job);
            let all: Vec<String> = hints.iter().map(ToString::to_string).collect();
            (all[0].clone(), all.join("\n"))
        };
        let kept =
            "latest.pt leads outside; kept for 7 days: \"marquee artifacts rescue 7\" stores it";
        let (hint, all) = first(&failed(kept));
        assert!(hint.starts_with("marquee artifacts rescue 7"), "{hint}");
        assert!(!all.contains("submit it again"), "{all}");
        // Another job's number is no rescue of this one.
        let other = "see \"marquee artifacts rescue 70\" of another job";
        let (hint, all) = first(&failed(&other.replace("70", "8")));
        assert!(hint.contains("submit it again"), "{hint}");
        assert!(!all.contains("rescue"), "{all}");
    }

    #[test]
    fn a_job_has_a_sentence_and_a_hint_in_every_state() {
        for state in JobStateName::ALL {
            let job = samples::job(7, "train", JobKind::Train, state.into());
            let detail = JobDetail {
                job: Some(job.clone()),
                ..JobDetail::default()
            };
            let explanation = Explanation {
                detail: &detail,
                needs: &[],
            };
            let why = explanation.why(&job, samples::now());
            assert!(why[0].starts_with("It "), "{state:?}: {why:?}");
            // A job that waits for nothing that is known has nobody to be sent to.
            let hints = explanation.what_to_do(&job);
            assert_eq!(
                hints.is_empty(),
                state == JobStateName::Waiting,
                "{state:?}"
            );
        }
    }
}
