//! Reading a bench back from the jobs that did it.

use marquee_domain::report::TrainSummary;
use marquee_domain::spec::{JobSpec, Work};
use marquee_proto::v1::{self, Job, JobState};
use marquee_view::{units, words};

use super::case::Case;
use super::results::{Measured, Outcome, Results, Run};
use crate::client::Remote;
use crate::error::{CliError, Result};
use crate::report::summaries;
use crate::requests::{jobs, metrics};

/// What a rank reports every ten steps.
const RATE: &str = "train/images_per_second";
/// Reported once an epoch, at whose end a checkpoint is stored.
const EPOCH: &str = "epoch/seconds";

/// Reads what the jobs of a bench's pipeline measured.
pub(crate) async fn gather(remote: &Remote, pipeline_id: i64) -> Result<Results> {
    let pipeline = jobs::get_pipeline(remote, pipeline_id).await?;
    let cases: Vec<(Case, &Job)> = pipeline
        .jobs
        .iter()
        .filter_map(|job| Some((Case::of_job(&job.name)?, job)))
        .collect();
    let Some((_, first)) = cases.first() else {
        return Err(CliError::Usage(format!(
            "pipeline p{pipeline_id} {} is no bench; \"marquee jobs\" lists jobs with their pipelines",
            pipeline.name
        )));
    };
    let settings = settings_of(remote, first.id).await?;
    let mut runs = Vec::with_capacity(cases.len());
    for (case, job) in &cases {
        let outcome = match job.state() {
            JobState::Succeeded => Outcome::Measured(measured(remote, job.id).await?),
            JobState::Unspecified
            | JobState::Waiting
            | JobState::Queued
            | JobState::Running
            | JobState::Failed
            | JobState::Cancelled => Outcome::Missing(why_not(job)),
        };
        runs.push(Run {
            case: case.clone(),
            job_id: job.id,
            outcome,
        });
    }
    let size = size_of(remote, &pipeline.jobs, &cases[0].0).await?;
    let (rows, missing) = Results::rows_of(&runs);
    Ok(Results {
        pipeline_id,
        model: settings.0,
        batch_size: settings.1,
        size,
        precision: precision_of(&runs),
        rows,
        missing,
    })
}

fn why_not(job: &Job) -> String {
    let state = words::job_state(job);
    match (&job.failure, job.reason.as_str()) {
        (Some(failure), _) => format!("{state}: {}", units::first_line(&failure.message)),
        (None, "") => state.to_owned(),
        (None, reason) => format!("{state}: {reason}"),
    }
}

async fn work_of(remote: &Remote, job_id: i64) -> Result<Work> {
    let detail = jobs::get(remote, job_id).await?;
    let spec: JobSpec = serde_json::from_str(&detail.spec_json)
        .map_err(|error| anyhow::anyhow!("the spec of job {job_id} cannot be read: {error}"))?;
    Ok(spec.work)
}

/// The model and the global batch of a train job.
async fn settings_of(remote: &Remote, job_id: i64) -> Result<(String, u32)> {
    match work_of(remote, job_id).await? {
        Work::Train(settings) => Ok((settings.model, settings.batch_size)),
        Work::Fetch(_) | Work::Preprocess(_) | Work::Eval(_) | Work::Command(_) => Err(
            anyhow::anyhow!("job {job_id} is named as one of a bench, but trains nothing").into(),
        ),
    }
}

/// Pixels of the pictures that a case trained on.
async fn size_of(remote: &Remote, jobs: &[Job], case: &Case) -> Result<(u32, u32)> {
    let Some(job) = jobs.iter().find(|job| job.name == case.input.word()) else {
        return Ok((0, 0));
    };
    match work_of(remote, job.id).await? {
        Work::Preprocess(settings) => Ok((settings.width, settings.height)),
        Work::Fetch(_) | Work::Train(_) | Work::Eval(_) | Work::Command(_) => Ok((0, 0)),
    }
}

async fn measured(remote: &Remote, job_id: i64) -> Result<Measured> {
    let ranks: Vec<TrainSummary> = summaries(remote, job_id).await?;
    let request = v1::MetricsRequest {
        job_id,
        names: vec![RATE.to_owned(), EPOCH.to_owned()],
        ..v1::MetricsRequest::default()
    };
    let (mut windows, mut ends) = (Vec::new(), Vec::new());
    metrics::each(remote, request, |point| {
        if point.name == RATE {
            windows.push(point.value);
        } else {
            ends.push(point.step);
        }
        Ok(())
    })
    .await?;
    let first = ranks
        .first()
        .ok_or_else(|| anyhow::anyhow!("job {job_id} has no ranks"))?;
    let share = |read: fn(&TrainSummary) -> f64| {
        let shares = ranks
            .iter()
            // A run that timed no step has a share of 0: NaN would be null in the JSON.
            .map(|rank| read(rank) / rank.phases.step_s.max(f64::MIN_POSITIVE));
        shares.sum::<f64>() / f64::from(first.world_size.max(1))
    };
    Ok(Measured {
        // A run of less than two windows has only warmed up. The whole run's mean is then all that
        // there is.
        images_per_second: steady(&windows).unwrap_or(first.images_per_second),
        input_share: share(|rank| rank.phases.input_s),
        exposed_share: share(|rank| rank.phases.all_reduce_s),
        // The last epoch's checkpoint is written after the last step that was measured: it slows
        // nothing down.
        checkpoints: ends.iter().filter(|step| **step < first.steps).count(),
        loss: first.final_loss,
        seconds: first.seconds,
        backend: first.backend.clone(),
        precision: first.precision.clone(),
    })
}

/// The mean rate over windows of as many steps each, without the first, in which buffers are
/// allocated and caches filled; None where there is no other.
fn steady(windows: &[f64]) -> Option<f64> {
    let windows = windows.get(1..).filter(|windows| !windows.is_empty())?;
    // Windows are of as many pictures each, not of as long: the mean of their rates would weigh the fast ones too
    // much.
    let seconds: f64 = windows.iter().map(|rate| 1.0 / rate).sum();
    #[allow(clippy::cast_precision_loss, reason = "a run has few windows")]
    let count = windows.len() as f64;
    Some(count / seconds)
}

fn precision_of(runs: &[Run]) -> String {
    let mut words: Vec<&str> = runs
        .iter()
        .filter_map(|run| match &run.outcome {
            Outcome::Measured(measured) => Some(measured.precision.as_str()),
            Outcome::Missing(_) => None,
        })
        .collect();
    words.sort_unstable();
    words.dedup();
    words.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_rate_leaves_the_first_window_out_and_is_pictures_over_time() {
        // 10 pictures in 1 s and 10 in 0.5 s are 20 in 1.5 s.
        let rate = steady(&[2.0, 10.0, 20.0]).unwrap();
        assert!((rate - 20.0 / 1.5).abs() < 1e-12, "{rate}");
        assert_eq!(steady(&[2.0]), None);
        assert_eq!(steady(&[]), None);
    }
}
