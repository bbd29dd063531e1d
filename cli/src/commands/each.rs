//! One thing done to each of several jobs, in the order in which they were named.

use marquee_proto::v1::Job;
use marquee_view::jobs::Jobs;

use crate::clock;
use crate::error::{CliError, Result};
use crate::session::Session;

/// What was done, and what kept the rest from being done.
#[derive(Debug)]
pub(super) struct Done {
    jobs: Vec<Job>,
    refused: Option<CliError>,
}

/// Asks for each, until one is refused.
pub(super) async fn each<T>(
    things: Vec<T>,
    mut ask: impl AsyncFnMut(T) -> Result<Vec<Job>>,
) -> Done {
    let mut jobs = Vec::with_capacity(things.len());
    for thing in things {
        match ask(thing).await {
            Ok(done) => jobs.extend(done),
            Err(error) => {
                return Done {
                    jobs,
                    refused: Some(error),
                };
            }
        }
    }
    Done {
        jobs,
        refused: None,
    }
}

impl Done {
    /// Shows what was done, also where it was not all: who reads the refusal alone would do it again.
    pub(super) fn show(self, session: &Session) -> Result<Vec<Job>> {
        if self.refused.is_none() || !self.jobs.is_empty() {
            session.output.show(&Jobs(&self.jobs), clock::now())?;
        }
        match self.refused {
            Some(error) => Err(error),
            None => Ok(self.jobs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: i64) -> Job {
        Job {
            id,
            ..Job::default()
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_done_before_a_refusal_is_known_and_nothing_is_done_after_it() {
        let mut asked = Vec::new();
        let done = each(vec![1, 2, 3, 4], async |id| {
            asked.push(id);
            if id == 3 {
                return Err(CliError::Usage("no".into()));
            }
            // As a pipeline, of which every job is one.
            Ok(vec![job(id), job(id * 10)])
        })
        .await;
        let ids: Vec<i64> = done.jobs.iter().map(|job| job.id).collect();
        assert_eq!(ids, [1, 10, 2, 20]);
        assert_eq!(done.refused.unwrap().to_string(), "no");
        assert_eq!(asked, [1, 2, 3]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nothing_to_do_is_done() {
        let done = each(Vec::<i64>::new(), async |_| {
            Err(CliError::Usage("nobody asked".into()))
        })
        .await;
        assert!(done.jobs.is_empty() && done.refused.is_none());
    }
}
