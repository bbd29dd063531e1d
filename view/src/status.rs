//! What can be said about one job in one line.

use chrono::{DateTime, Utc};
use marquee_domain::job::JobStateName;
use marquee_proto::v1::Job;

use crate::progress::progress_text;
use crate::{units, words};

/// What follows the state: the reason, the progress, the time taken or the failure.
#[must_use]
pub fn detail(job: &Job, now: DateTime<Utc>) -> String {
    let reused = job.reused_from_job_id != 0;
    // An array has no attempts of its own, and a job whose result was taken from another made none.
    let attempt = if job.attempt > 1 && job.elements.is_none() && !reused {
        format!("attempt {}", words::attempt_of(job))
    } else {
        String::new()
    };
    let text = match words::state_name(job) {
        // Its reason alone would read as if it had not been tried yet.
        Some(JobStateName::Waiting | JobStateName::Queued) => match &job.failure {
            Some(failure) => format!(
                "{} (the last attempt failed, {}: {})",
                job.reason,
                words::failure_word(failure),
                units::first_line(&failure.message)
            ),
            None => job.reason.clone(),
        },
        // That it is about to stop says more than how far it got.
        Some(JobStateName::Running) if job.cancel_requested => "is being cancelled".to_owned(),
        Some(JobStateName::Running) if !job.makes_room.is_empty() => {
            format!("makes room: {}", job.makes_room)
        }
        Some(JobStateName::Running) if !job.held_by.is_empty() && job.elements.is_some() => {
            job.reason.clone()
        }
        Some(JobStateName::Running) => match &job.progress {
            Some(progress) => progress_text(progress, now),
            None => match words::ran_for(job, now) {
                Some(length) => format!("for {}", units::duration(length)),
                None => "starting".to_owned(),
            },
        },
        Some(JobStateName::Succeeded) => match words::ran_for(job, now) {
            _ if job.reused_from_job_id != 0 => {
                format!("reused from job {}", job.reused_from_job_id)
            }
            Some(length) => format!("in {}", units::duration(length)),
            None => String::new(),
        },
        Some(JobStateName::Failed) => job.failure.as_ref().map_or_else(String::new, |failure| {
            format!(
                "{}: {}",
                words::failure_word(failure),
                units::first_line(&failure.message)
            )
        }),
        Some(JobStateName::Cancelled) => job.reason.clone(),
        None => String::new(),
    };
    // Beside the progress and not in place of it: a job may report steps and still leave its GPUs
    // alone.
    let idle = units::time(job.idle_since.as_ref())
        .map(|since| units::about((now - since).to_std().unwrap_or_default()))
        .map(|length| format!("GPUs idle for {length}"));
    let elements = job.elements.as_ref().map(words::element_states);
    [
        elements.unwrap_or_default(),
        attempt,
        idle.unwrap_or_default(),
        text,
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect::<Vec<_>>()
    .join(", ")
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_reused_step_says_whose_result_it_has() {
        let job = Job {
            state: marquee_proto::v1::JobState::Succeeded.into(),
            attempt: 1,
            started_at: Some(timestamp(at(0))),
            finished_at: Some(timestamp(at(0))),
            reused_from_job_id: 12,
            ..Job::default()
        };
        assert_eq!(detail(&job, at(1)), "reused from job 12");
    }
}
