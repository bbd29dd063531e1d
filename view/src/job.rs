//! One job: its facts, its attempts and what happened to it.

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use serde_json::Value;

use crate::page::{Cell, Page, Tone, View, toned};
use crate::{history, jobs, json, outcome, progress, status, trained, units, words};

/// A job with its history.
#[derive(Debug)]
pub struct Job<'a>(pub &'a v1::JobDetail);

impl View for Job<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if let Some(job) = &self.0.job {
            let mut fields = facts(self.0, job, now);
            fields.extend(outcome::result(self.0).map(|words| ("result", words.into())));
            fields.extend(
                outcome::eval_warnings(self.0)
                    .into_iter()
                    .map(|words| ("WARNING", toned(words, Tone::Warn))),
            );
            if let Some([first, ..]) = outcome::trained(self.0).as_deref() {
                let told = trained::lines(first).into_iter();
                fields.extend(told.map(|(label, line)| (label, line.into())));
            }
            fields.extend(outcome::bottleneck(self.0).map(|words| ("speed", words.into())));
            page.fields(fields);
        }
        if !self.0.attempts.is_empty() {
            page.heading("Attempts");
            history::attempts(page, &self.0.attempts, now);
        }
        if !self.0.events.is_empty() {
            page.heading("Events (UTC)");
            history::events(page, &self.0.events);
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json::job_detail(self.0)
    }

    fn ids(&self) -> Vec<String> {
        self.0.job.iter().map(|job| job.id.to_string()).collect()
    }
}

/// How many attempts were made; those that made room at no fault of the job are told apart.
fn attempts(detail: &v1::JobDetail, job: &v1::Job) -> String {
    let interrupted = |attempt: &&v1::Attempt| attempt.state() == v1::AttemptState::Interrupted;
    let (made, most) = (job.attempt, job.max_attempts);
    match detail.attempts.iter().filter(interrupted).count() {
        // After a retry by hand numbers go on beyond the limit, since they are the fence: "5 of at
        // most 3" would read as a fault.
        0 if made > most => made.to_string(),
        0 => format!("{made} of at most {most}"),
        free => format!(
            "{made}, of which {free} were interrupted and are not counted; at most {most} count"
        ),
    }
}

/// The project, unless it is the one of whoever names none.
fn project(job: &v1::Job) -> String {
    if job.project == marquee_domain::project::DEFAULT {
        String::new()
    } else {
        job.project.clone()
    }
}

fn facts(detail: &v1::JobDetail, job: &v1::Job, now: DateTime<Utc>) -> Vec<(&'static str, Cell)> {
    let at = |time: &Option<_>| {
        units::time(time.as_ref())
            .map(units::rfc3339)
            .unwrap_or_default()
    };
    let artifact = if job.artifact_digest.is_empty() {
        String::new()
    } else {
        format!(
            "{} (marquee artifacts get {})",
            units::short_digest(&job.artifact_digest),
            job.id
        )
    };
    // The command in place of the rows: an array may have 100,000.
    let elements = if job.elements.is_some() {
        format!("marquee jobs --array {}", job.id)
    } else {
        String::new()
    };
    let progress = job.progress.as_ref();
    // All of them here, where there is room; a listing names the most frequent alone.
    let problems = progress.and_then(|progress| progress::problems_text(progress, usize::MAX));
    let problems = problems.unwrap_or_default();
    let attempts = match job.elements {
        Some(_) => String::new(),
        None => attempts(detail, job),
    };
    vec![
        (
            "job",
            toned(format!("{} {}", job.id, words::job_name(job)), Tone::Strong),
        ),
        ("kind", words::job_kind(job).into()),
        (
            "pipeline",
            format!("p{} {}", job.pipeline_id, job.pipeline_name).into(),
        ),
        ("state", jobs::state(job)),
        ("detail", status::detail(job, now).into()),
        ("problems", problems.into()),
        ("needs", words::needs(job).into()),
        ("values", words::values(job).into()),
        ("attempts", attempts.into()),
        ("elements", elements.into()),
        ("ranks", job.ranks.to_string().into()),
        ("priority", job.priority.to_string().into()),
        ("project", project(job).into()),
        ("created", at(&job.created_at).into()),
        ("started", at(&job.started_at).into()),
        ("finished", at(&job.finished_at).into()),
        ("artifact", artifact.into()),
    ]
}

#[cfg(test)]
mod tests {
    use crate::samples;

    use super::*;

    #[test]
    fn json_is_complete() {
        insta::assert_snapshot!(format!("{:#}", Job(&samples::failed_train()).json(samples::now())), @r#"
        {
          "artifact_digest": null,
          "attempt": 2,
          "attempts": [
            {
              "created_at": null,
              "failure": {
                "class": "lost_worker",
                "message": "worker \"worker-2\" was not heard from for 10 s"
              },
              "finished_at": "2027-01-15T07:57:30.000Z",
              "number": 1,
              "ranks": [
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": null,
                  "lost_at": null,
                  "progress": null,
                  "rank": 0,
                  "state": "stopped",
                  "summary": null,
                  "worker_name": "worker-1"
                },
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": null,
                  "lost_at": null,
                  "progress": null,
                  "rank": 1,
                  "state": "running",
                  "summary": null,
                  "worker_name": "worker-2"
                }
              ],
              "resumed_from_step": null,
              "started_at": "2027-01-15T07:56:40.000Z",
              "state": "failed",
              "waited_for": null
            },
            {
              "created_at": null,
              "failure": {
                "class": "out_of_memory",
                "message": "rank 1 was killed: the host's memory ran out; lower batch_size"
              },
              "finished_at": "2027-01-15T07:58:45.000Z",
              "number": 2,
              "ranks": [
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": null,
                  "lost_at": null,
                  "progress": null,
                  "rank": 0,
                  "state": "stopped",
                  "summary": null,
                  "worker_name": "worker-1"
                },
                {
                  "devices": [
                    "cpu 0"
                  ],
                  "failure": {
                    "class": "out_of_memory",
                    "message": "rank 1 was killed: the host's memory ran out; lower batch_size"
                  },
                  "lost_at": null,
                  "progress": null,
                  "rank": 1,
                  "state": "failed",
                  "summary": null,
                  "worker_name": "worker-2"
                }
              ],
              "resumed_from_step": 1200,
              "started_at": "2027-01-15T07:57:40.000Z",
              "state": "failed",
              "waited_for": null
            }
          ],
          "cancel_requested": false,
          "created_at": "2027-01-15T07:55:00.000Z",
          "element": null,
          "elements": null,
          "events": [
            {
              "at": "2027-01-15T07:55:00.000Z",
              "attempt": 0,
              "caller": null,
              "text": "submitted"
            },
            {
              "at": "2027-01-15T07:56:39.000Z",
              "attempt": 1,
              "caller": null,
              "text": "placed on worker-1 and worker-2"
            },
            {
              "at": "2027-01-15T07:57:30.000Z",
              "attempt": 1,
              "caller": null,
              "text": "failed (lost_worker): worker \"worker-2\" was not heard from for 10 s"
            },
            {
              "at": "2027-01-15T07:57:39.000Z",
              "attempt": 2,
              "caller": null,
              "text": "placed on worker-1 and worker-2"
            },
            {
              "at": "2027-01-15T07:58:45.000Z",
              "attempt": 2,
              "caller": null,
              "text": "failed (out_of_memory): rank 1 was killed"
            }
          ],
          "failure": {
            "class": "out_of_memory",
            "message": "rank 1 was killed: the host's memory ran out; lower batch_size"
          },
          "finished_at": "2027-01-15T07:58:45.000Z",
          "held_at": null,
          "held_by": null,
          "id": 17,
          "idle_since": null,
          "kind": "train",
          "makes_room": null,
          "max_attempts": 2,
          "name": "train",
          "needs": [
            "preprocess"
          ],
          "needs_on": {},
          "not_needed": false,
          "pipeline_id": 3,
          "pipeline_name": "posters",
          "priority": 0,
          "progress": null,
          "project": null,
          "ranks": 2,
          "reason": null,
          "reused_from_job_id": null,
          "spec": {
            "name": "train"
          },
          "started_at": "2027-01-15T07:57:40.000Z",
          "state": "failed",
          "values": {}
        }
        "#);
    }
}
