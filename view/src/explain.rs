//! Why a job is where it is, and what a person can do about it.
//!
//! Not here: finding out. The reason of a waiting job is the coordinator's, and so is the class of a
//! failure. Here they are put together with what follows from them.

use chrono::{DateTime, Utc};
use marquee_domain::failure::FailureClass;
use marquee_domain::idle::BUSY_PERCENT_MAX;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::NeedOn;
use marquee_proto::v1::{Attempt, AttemptRank, Failure, Job, JobDetail};
use serde_json::{Value, json};

use crate::page::{Page, View};
use crate::{forecast, history, jobs, json, outcome, status, units, words};

mod hints;

pub use hints::Hint;

/// A job, what it needs, and what can be said about both.
#[derive(Debug)]
pub struct Explanation<'a> {
    pub detail: &'a JobDetail,
    /// The jobs that it needs.
    pub needs: &'a [Job],
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
                why.extend(idles(job, now));
                why.extend(forecast::looking_back(self.detail));
                why.extend(outcome::losses(self.detail));
                why.extend(grows(self.detail, job));
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
        // A class that only a newer coordinator knows counts as one that is not tried again:
        // nothing is promised for it.
        let retryable = words::failure_class(failure).is_some_and(FailureClass::is_worth_a_retry);
        why.push(if retryable {
            let times = units::plural(job.attempt as usize, "time");
            format!("It was tried {times}, as often as it may be.")
        } else {
            "Another attempt would end the same way, so none was made.".to_owned()
        });
        why
    }
}

/// When a gang that lost ranks takes new ones.
fn grows(detail: &JobDetail, job: &Job) -> Option<String> {
    let attempt = detail.attempts.last()?;
    let is_short = attempt.ranks.iter().any(|rank| rank.lost_at.is_some());
    // One that makes room for others is about to be stopped, and takes no new ranks first.
    (is_short && job.makes_room.is_empty()).then(|| {
        format!(
            "It takes new ranks, at a checkpoint, once devices for all {} are free for which nobody waits who goes before \
             it or is its equal; at the earliest 5 minutes after a loss, and 10 minutes after its start.",
            attempt.ranks.len()
        )
    })
}

/// That its GPUs do nothing.
fn idles(job: &Job, now: DateTime<Utc>) -> Option<String> {
    let since = units::time(job.idle_since.as_ref())?;
    // This machine's clock may be behind the coordinator's: then it has idled for no time yet.
    let length = units::duration((now - since).to_std().unwrap_or_default());
    Some(format!(
        "It holds GPUs and uses none of them: in no reading of the last {length} was one more than {BUSY_PERCENT_MAX} % \
         busy. Its project may have such jobs stopped (\"marquee quota {}\"); one with idle_ok = true goes on.",
        job.project
    ))
}

/// Whether a waiting job still waits for this one of its needs.
fn is_waited_for(job: &Job, need: &Job) -> bool {
    match words::needs_of(job, &need.name) {
        NeedOn::Succeeded => !succeeded(need),
        // An array has ended with its last element.
        NeedOn::Finished | NeedOn::Failed => {
            let open = need.elements.as_ref().is_some_and(|counts| {
                [counts.waiting, counts.queued, counts.running]
                    .iter()
                    .any(|count| *count > 0)
            });
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
mod tests;
