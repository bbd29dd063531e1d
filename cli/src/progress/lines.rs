//! Plain lines for logs and pipes: each change of state at once, progress now and then.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_proto::v1::Job;
use marquee_view::{harmless, status, words};

/// Least time between two lines about a job whose state stays the same, so that the log of a run
/// that takes a day can still be read.
const EVERY: TimeDelta = TimeDelta::seconds(5);

/// What was said about each job.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    jobs: BTreeMap<i64, Said>,
}

#[derive(Debug)]
struct Said {
    /// State and attempt of the last line; a change of these is told at once.
    about: (i32, u32),
    text: String,
    at: DateTime<Utc>,
    /// A newer state of the job that has not been told yet.
    pending: Option<Job>,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The lines that a job's present state asks for: at most one.
    pub(crate) fn job(&mut self, job: &Job, now: DateTime<Utc>) -> Vec<String> {
        let about = (job.state, job.attempt);
        if let Some(said) = self.jobs.get_mut(&job.id)
            && said.about == about
            && now - said.at < EVERY
        {
            // Kept and not dropped: if nothing follows, the newest state is still told once its
            // time has come.
            said.pending = Some(job.clone());
            return Vec::new();
        }
        let text = line(job, now);
        let last = self.jobs.get(&job.id).map(|said| said.text.as_str());
        let news = last != Some(text.as_str());
        let lines = if news { vec![text.clone()] } else { Vec::new() };
        self.jobs.insert(
            job.id,
            Said {
                about,
                text,
                at: now,
                pending: None,
            },
        );
        lines
    }

    /// The lines that became due.
    pub(crate) fn tick(&mut self, now: DateTime<Utc>) -> Vec<String> {
        let due = self.jobs.values_mut().filter(|said| now - said.at >= EVERY);
        let due: Vec<Job> = due.filter_map(|said| said.pending.take()).collect();
        due.iter().flat_map(|job| self.job(job, now)).collect()
    }
}

/// One line about a job, such as `train: running, epoch 2/8 ...`.
fn line(job: &Job, now: DateTime<Utc>) -> String {
    let detail = status::detail(job, now);
    let detail = harmless(&detail);
    let state = words::job_state(job);
    if detail.is_empty() {
        format!("{}: {state}", job.name)
    } else {
        format!("{}: {state}, {detail}", job.name)
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;
    use marquee_proto::v1::{Failure, FailureClass, JobState, Progress};

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn job(id: i64, name: &str, state: JobState) -> Job {
        Job {
            id,
            name: name.into(),
            state: state.into(),
            attempt: u32::from(state != JobState::Waiting && state != JobState::Queued),
            max_attempts: 3,
            ..Job::default()
        }
    }

    fn step(done: u64, second: i64) -> Job {
        Job {
            progress: Some(Progress {
                phase: "epoch 1/2".into(),
                done,
                total: Some(100),
                unit: "steps".into(),
                at: Some(timestamp(at(second))),
                phase_started_at: Some(timestamp(at(10))),
                ..Progress::default()
            }),
            ..job(2, "train", JobState::Running)
        }
    }

    /// A run as a coordinator would tell it.
    fn script() -> Vec<(i64, Option<Job>)> {
        let waiting = Job {
            reason: "waits for fetch".into(),
            ..job(2, "train", JobState::Waiting)
        };
        let fetched = Job {
            started_at: Some(timestamp(at(1))),
            finished_at: Some(timestamp(at(9))),
            ..job(1, "fetch", JobState::Succeeded)
        };
        let lost = Failure {
            class: FailureClass::LostWorker.into(),
            message: "worker \"gpu-03\" was not heard from for 10 s\nmore".into(),
        };
        let retry = Job {
            reason: "tries again in 1 s".into(),
            failure: Some(lost.clone()),
            attempt: 1,
            ..job(2, "train", JobState::Queued)
        };
        let failed = Job {
            failure: Some(lost),
            attempt: 3,
            ..job(2, "train", JobState::Failed)
        };
        vec![
            (0, Some(job(1, "fetch", JobState::Running))),
            (0, Some(waiting)),
            (9, Some(fetched)),
            (10, Some(job(2, "train", JobState::Running))),
            (11, Some(step(10, 11))),
            (12, Some(step(20, 12))),
            (13, Some(step(30, 13))),
            (14, None),
            (15, None),
            (16, Some(step(60, 16))),
            (17, Some(retry)),
            (
                18,
                Some(Job {
                    attempt: 2,
                    ..step(60, 18)
                }),
            ),
            (19, Some(failed.clone())),
            (40, Some(failed)),
        ]
    }

    #[test]
    fn states_are_told_at_once_and_progress_every_five_seconds() {
        let mut lines = Lines::new();
        let mut all = Vec::new();
        for (second, update) in script() {
            let said = match update {
                Some(job) => lines.job(&job, at(second)),
                None => lines.tick(at(second)),
            };
            all.extend(said.into_iter().map(|line| format!("{second:>2} {line}")));
        }
        insta::assert_snapshot!(all.join("\n"), @r#"
         0 fetch: running, starting
         0 train: waiting, waits for fetch
         9 fetch: succeeded, in 8.0 s
        10 train: running, starting
        15 train: running, epoch 1/2 30/100 steps (15 %), 10 steps/s, 15 s left
        17 train: queued, tries again in 1 s (the last attempt failed, lost_worker: worker "gpu-03" was not heard from for 10 s)
        18 train: running, attempt 2/3, epoch 1/2 60/100 steps (30 %), 7.5 steps/s, 18 s left
        19 train: failed, attempt 3/3, lost_worker: worker "gpu-03" was not heard from for 10 s
        "#);
    }
}
