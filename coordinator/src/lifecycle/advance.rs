//! Moves a job's live attempt to where its ranks are: start, commit, fail or cancel it.

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::end::{self, AfterEnd, AttemptBudget};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId, WorkerId};
use marquee_domain::job::RankState;
use marquee_domain::spec::{JobKind, JobSpec};
use marquee_store::artifacts::{self, NewArtifact};
use marquee_store::attempts::{self, Attempt, AttemptEnd};
use marquee_store::ranks::{self, RankKey, RankRow};
use marquee_store::transitions::{self, JobHead};
use marquee_store::{events, jobs, pipelines};
use sqlx::PgConnection;
use uuid::Uuid;

use super::verdict::{Situation, Verdict, judge};
use super::{Result, array, dependents};
use crate::app::App;

/// Looks at a job's live attempt and does what follows from its ranks. Without a live attempt,
/// nothing follows.
pub async fn advance(app: &App, job: JobId) -> Result<()> {
    let output = checked_output(app, job).await?;

    let mut tx = app.db.begin().await?;
    let pipeline = transitions::get_pipeline_of_job(&mut tx, job).await?;
    pipelines::lock_pipeline(&mut tx, pipeline).await?;
    let Some(live) = Live::read(&mut tx, job, app.clock.now()).await? else {
        return Ok(());
    };
    let verdict = match (live.judge(app.settings.settle), output) {
        // It finished between the two looks: the next one checks its files.
        (Verdict::Commit, None) => Verdict::Wait,
        (Verdict::Commit, Some(output)) if output.attempt != live.attempt.number => Verdict::Wait,
        (
            Verdict::Commit,
            Some(Output {
                files: Err(failure),
                ..
            }),
        ) => Verdict::Fail(failure),
        (
            Verdict::Commit,
            Some(Output {
                files: Ok(manifest),
                ..
            }),
        ) => {
            let changed = live.commit(&mut tx, &manifest).await?;
            tx.commit().await?;
            live.tell(app, &changed);
            return Ok(());
        }
        (verdict, _) => verdict,
    };
    let changed = match verdict {
        Verdict::Wait | Verdict::Commit => return Ok(()),
        Verdict::Start => live.start(&mut tx).await?,
        Verdict::GoOn(lost) => live.go_on(&mut tx, &lost).await?,
        Verdict::Fail(failure) => live.fail(&mut tx, &failure, jitter(Uuid::new_v4())).await?,
        Verdict::Cancel => live.cancel(&mut tx).await?,
    };
    tx.commit().await?;
    live.tell(app, &changed);
    Ok(())
}

/// What rank 0 of an attempt put forward, or why it cannot be committed.
struct Output {
    attempt: AttemptNumber,
    files: std::result::Result<Manifest, Failure>,
}

/// Reads rank 0's output and makes sure that each of its files is here, before any lock is taken.
/// None while the attempt's ranks have not all finished.
async fn checked_output(app: &App, job: JobId) -> Result<Option<Output>> {
    let mut conn = app.db.acquire().await?;
    let Some(attempt) = attempts::find_live_attempt(&mut conn, job).await? else {
        return Ok(None);
    };
    let ranks = ranks::list_ranks(&mut conn, job, Some(attempt.number)).await?;
    let mut members = ranks.iter().filter(|rank| rank.lost_at.is_none());
    if !members
        .clone()
        .all(|rank| rank.state == RankState::Finished)
    {
        return Ok(None);
    }
    // Of those that went on the first one wrote what all have in common.
    let Some(key) = members.next().map(|rank| rank.key) else {
        return Ok(None);
    };
    let first = key.rank;
    let lost = ranks.iter().find(|rank| rank.lost_at.is_some());
    let output = ranks::find_rank_output(&mut conn, key).await?;
    let kind = jobs::get_job_spec(&mut conn, job).await?.work.kind();
    drop(conn);

    let broken = |message| Failure {
        class: FailureClass::Crash,
        message,
    };
    let files = match (output, kind) {
        // A program that leaves no files has done its work all the same.
        (None, JobKind::Command) => Ok(Manifest::default()),
        (None, JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval) => {
            // It was lost so late that the others had finished, and none of them has a copy.
            let cause = lost.and_then(|rank| Some((rank.key.rank, rank.failure.clone()?)));
            Err(match cause {
                Some((number, failure)) => Failure {
                    class: failure.class,
                    message: format!(
                        "rank {number} was lost before its output was stored: {}",
                        failure.message
                    ),
                },
                None => broken(format!(
                    "rank {first} finished without putting forward its output"
                )),
            })
        }
        (Some(manifest), _) => {
            let digests = manifest
                .files
                .iter()
                .map(|file| file.digest.clone())
                .collect();
            let missing = app.blobs.missing(digests).await?;
            let path = manifest
                .files
                .iter()
                .find(|file| missing.first() == Some(&file.digest));
            match path {
                None => Ok(manifest),
                Some(file) => Err(broken(format!(
                    "rank {first} put forward {} files, but {} of them were not uploaded, among them {:?}",
                    manifest.files.len(),
                    missing.len(),
                    file.path
                ))),
            }
        }
    };
    Ok(Some(Output {
        attempt: attempt.number,
        files,
    }))
}

/// A job's live attempt, read under the pipeline's lock.
struct Live {
    head: JobHead,
    spec: JobSpec,
    attempt: Attempt,
    ranks: Vec<RankRow>,
    now: DateTime<Utc>,
}

impl Live {
    /// Reports are stored without the pipeline's lock, so each query here may see more than the one before.
    /// The attempt is read after its ranks: a rank that is seen prepared wrote, in the same transaction,
    /// where the ranks meet, and must not be judged by an attempt that does not have it yet.
    async fn read(conn: &mut PgConnection, job: JobId, now: DateTime<Utc>) -> Result<Option<Self>> {
        let head = transitions::get_job_head(conn, job).await?;
        let spec = jobs::get_job_spec(conn, job).await?;
        // The live attempt is the newest, and stays so while the pipeline is locked.
        let ranks = ranks::list_ranks(conn, job, Some(AttemptNumber(head.attempt))).await?;
        let attempt = attempts::find_live_attempt(conn, job).await?;
        Ok(attempt.map(|attempt| Self {
            head,
            spec,
            attempt,
            ranks,
            now,
        }))
    }

    fn judge(&self, settle: std::time::Duration) -> Verdict {
        judge(&Situation {
            attempt: &self.attempt,
            ranks: &self.ranks,
            cancel_requested: self.head.cancel_requested,
            min_ranks: self.spec.resources.min_ranks,
            timeout: self
                .spec
                .timeout_s
                .map(|s| std::time::Duration::from_secs(s.into())),
            settle,
            now: self.now,
        })
    }

    /// The store takes note; the sessions see it and send Start.
    async fn start(&self, conn: &mut PgConnection) -> Result<Vec<JobId>> {
        let (job, number) = (self.head.id, self.attempt.number);
        attempts::mark_attempt_running(conn, job, number, self.now).await?;
        self.event(conn, "every rank is prepared; started").await?;
        tracing::info!(%job, attempt = %number, ranks = self.ranks.len(), "attempt started");
        Ok(vec![job])
    }

    async fn commit(&self, conn: &mut PgConnection, manifest: &Manifest) -> Result<Vec<JobId>> {
        let (job, number, now) = (self.head.id, self.attempt.number, self.now);
        // The fence: refused when a newer attempt exists.
        transitions::mark_job_succeeded(conn, job, number, now).await?;
        attempts::mark_attempt_ended(conn, job, number, &AttemptEnd::Succeeded, now).await?;
        let name = self.spec.work.kind().output();
        let new = NewArtifact {
            job,
            attempt: number,
            name,
            manifest,
            code: self.code(),
            committed_at: now,
        };
        artifacts::insert_artifact(conn, &new).await?;
        let digest = manifest.digest();
        self.event(
            conn,
            &format!("succeeded; committed {name} {}", digest.short()),
        )
        .await?;
        tracing::info!(%job, attempt = %number, artifact = digest.short(), "job succeeded");
        let mut changed = dependents::release(conn, job, now).await?;
        changed.push(job);
        Ok(changed)
    }

    /// The version of the code that did the work, as the first rank that is left said.
    fn code(&self) -> &str {
        let rank = self.ranks.iter().find(|rank| rank.lost_at.is_none());
        let summary = rank.and_then(|rank| rank.summary.as_ref());
        summary
            .and_then(|summary| summary.get("code")?.as_str())
            .unwrap_or_default()
    }

    /// The store takes note; the sessions see it, end what is left of the lost ranks and tell the
    /// others.
    async fn go_on(
        &self,
        conn: &mut PgConnection,
        lost: &[(RankKey, Failure)],
    ) -> Result<Vec<JobId>> {
        let (job, number) = (self.head.id, self.attempt.number);
        let all = self.ranks.len();
        let before = self.ranks.iter().filter(|rank| rank.lost_at.is_some());
        let mut left = all - before.count();
        for (key, failure) in lost {
            if !ranks::mark_rank_lost(conn, *key, failure, self.now).await? {
                continue;
            }
            left -= 1;
            let (rank, class) = (key.rank, failure.class.as_str());
            let text = format!(
                "rank {rank} was lost ({class}): {}; {left} of {all} ranks are left and go on",
                failure.message
            );
            self.event(conn, &text).await?;
            tracing::warn!(%job, attempt = %number, %rank, class, message = failure.message, "rank lost; the others go on");
        }
        Ok(vec![job])
    }

    async fn fail(
        &self,
        conn: &mut PgConnection,
        failure: &Failure,
        jitter: f64,
    ) -> Result<Vec<JobId>> {
        let (job, number, now) = (self.head.id, self.attempt.number, self.now);
        let end = AttemptEnd::Failed(failure.clone());
        attempts::mark_attempt_ended(conn, job, number, &end, now).await?;
        let (class, message) = (failure.class.as_str(), &failure.message);
        let mut changed = vec![job];
        let budget = AttemptBudget {
            newest: number.0,
            last: self.head.last_attempt,
            granted: self.head.max_attempts,
        };
        let failed = end::AttemptEnd::Failed(failure.clone());
        match end::after_end(&failed, budget, jitter) {
            AfterEnd::Requeue { after, .. } => {
                let text = format!(
                    "attempt {number} failed ({class}): {message}; the next one starts in {:.1} s",
                    after.as_secs_f64()
                );
                transitions::mark_job_requeued(conn, job, number, failure, &text, now + after)
                    .await?;
                self.event(conn, &text).await?;
                tracing::warn!(%job, attempt = %number, class, message, "attempt failed; queued again");
            }
            AfterEnd::Succeed | AfterEnd::Cancel | AfterEnd::GiveUp => {
                transitions::mark_job_failed(conn, job, number, failure, now).await?;
                self.event(conn, &format!("failed ({class}): {message}"))
                    .await?;
                tracing::warn!(%job, attempt = %number, class, message, "job failed");
                changed.extend(match self.head.array_job {
                    Some(array) => array::element_failed(conn, array, job, failure, now).await?,
                    None => dependents::cancel(conn, job, "failed", now).await?,
                });
            }
        }
        Ok(changed)
    }

    async fn cancel(&self, conn: &mut PgConnection) -> Result<Vec<JobId>> {
        let (job, number, now) = (self.head.id, self.attempt.number, self.now);
        attempts::mark_attempt_ended(conn, job, number, &AttemptEnd::Cancelled, now).await?;
        transitions::mark_job_cancelled(conn, job, number.0, super::cancel::BY_USER, None, now)
            .await?;
        self.event(conn, "cancelled; nothing of it is left").await?;
        tracing::info!(%job, attempt = %number, "job cancelled");
        let mut changed = dependents::cancel(conn, job, "was cancelled", now).await?;
        changed.push(job);
        Ok(changed)
    }

    async fn event(&self, conn: &mut PgConnection, text: &str) -> Result<()> {
        events::insert_event(conn, self.head.id, self.attempt.number.0, text, self.now).await?;
        Ok(())
    }

    /// Wakes whoever has something to do or to show now.
    fn tell(&self, app: &App, changed: &[JobId]) {
        for job in changed {
            app.job_changed(*job);
        }
        let workers: Vec<WorkerId> = self.ranks.iter().map(|rank| rank.worker).collect();
        app.sessions.nudge(&workers);
    }
}

/// A number in [0, 1) from the random bits of `id`.
fn jitter(id: Uuid) -> f64 {
    // The first four bytes of a version 4 UUID are all random.
    f64::from(id.as_fields().0) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_below_one() {
        assert_eq!(jitter(Uuid::from_fields(0, 0, 0, &[0; 8])), 0.0);
        let most = jitter(Uuid::from_fields(u32::MAX, 0, 0, &[0; 8]));
        assert!(most < 1.0 && most > 0.99, "{most}");
    }
}
