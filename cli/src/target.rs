//! How users name jobs and pipelines: `17` is a job, `p3` a pipeline, `p3/train` the job `train`
//! of pipeline 3, and `train` the newest job of that name.

use std::str::FromStr;

use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::nearest::nearest;
use marquee_proto::error::{ErrorCode, PublicError};
use marquee_proto::v1;

use crate::client::{Remote, Repeat, quick};
use crate::error::{CliError, Result};

/// Newest jobs among which a name is looked for.
const NAME_SEARCH_MAX: u32 = 1_000;

/// One or several jobs, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Job(JobId),
    Pipeline(PipelineId),
    JobOfPipeline(PipelineId, JobName),
    Named(JobName),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pipeline = |text: &str| text.strip_prefix('p')?.parse::<PipelineId>().ok();
        if let Ok(id) = text.parse() {
            return Ok(Self::Job(id));
        }
        if let Some(id) = pipeline(text) {
            return Ok(Self::Pipeline(id));
        }
        let parsed = match text.split_once('/') {
            Some((id, name)) => pipeline(id)
                .zip(name.parse().ok())
                .map(|(id, name)| Self::JobOfPipeline(id, name)),
            None => text.parse().ok().map(Self::Named),
        };
        parsed.ok_or_else(|| {
            "write a job's number (17), a job's name (train), a pipeline (p3), or a job of a \
             pipeline (p3/train)"
                .to_owned()
        })
    }
}

/// Reads a pipeline, with or without its `p`.
pub(crate) fn parse_pipeline(text: &str) -> Result<PipelineId, String> {
    let digits = text.strip_prefix('p').unwrap_or(text);
    digits
        .parse()
        .map_err(|_| "write a pipeline's number, as in p3".to_owned())
}

/// The job or pipeline that a target names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    Job(i64),
    Pipeline(i64),
}

impl Target {
    /// Looks names up; numbers are taken as they are.
    pub(crate) async fn resolve(&self, remote: &Remote) -> Result<Resolved> {
        match self {
            Self::Job(id) => Ok(Resolved::Job(id.0)),
            Self::Pipeline(id) => Ok(Resolved::Pipeline(id.0)),
            Self::JobOfPipeline(id, name) => find(remote, id.0, name).await.map(Resolved::Job),
            Self::Named(name) => find(remote, 0, name).await.map(Resolved::Job),
        }
    }

    /// The same for commands that take one job.
    pub(crate) async fn resolve_job(&self, remote: &Remote) -> Result<i64> {
        match self.resolve(remote).await? {
            Resolved::Job(id) => Ok(id),
            Resolved::Pipeline(id) => Err(CliError::Usage(format!(
                "p{id} is a pipeline and this command takes one job; \"marquee show p{id}\" lists \
                 its jobs, and p{id}/NAME is one of them"
            ))),
        }
    }
}

async fn find(remote: &Remote, pipeline_id: i64, name: &JobName) -> Result<i64> {
    let request = v1::ListJobsRequest {
        pipeline_id,
        page_size: NAME_SEARCH_MAX,
        ..v1::ListJobsRequest::default()
    };
    let page = remote
        .call(Repeat::Safe, async || {
            remote.jobs().list_jobs(quick(request.clone())).await
        })
        .await?;
    let found = page
        .jobs
        .iter()
        .filter(|job| job.name == name.as_str())
        .map(|job| job.id)
        .max();
    found.ok_or_else(|| {
        let names = page.jobs.iter().map(|job| job.name.as_str());
        let meant = match nearest(name.as_str(), names) {
            Some(meant) => format!("did you mean \"{meant}\"? "),
            None => String::new(),
        };
        let message = if pipeline_id == 0 {
            format!(
                "there is no job \"{name}\" among the newest {NAME_SEARCH_MAX}; {meant}\"marquee \
                 jobs\" lists them"
            )
        } else {
            format!(
                "pipeline p{pipeline_id} has no job \"{name}\"; {meant}see \"marquee show \
                 p{pipeline_id}\""
            )
        };
        let code = Some(ErrorCode::JobNotFound.as_str().to_owned());
        CliError::Refused(PublicError {
            code,
            message,
            fields: Vec::new(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_pipelines_and_names_are_told_apart() {
        let name = |text: &str| text.parse::<JobName>().unwrap();
        assert_eq!("17".parse(), Ok(Target::Job(JobId(17))));
        assert_eq!("p3".parse(), Ok(Target::Pipeline(PipelineId(3))));
        assert_eq!(
            "p3/train".parse(),
            Ok(Target::JobOfPipeline(PipelineId(3), name("train")))
        );
        assert_eq!("preprocess".parse(), Ok(Target::Named(name("preprocess"))));
        for bad in ["", "p3/", "/train", "Train", "x/y/z", "-"] {
            assert!(
                bad.parse::<Target>().unwrap_err().contains("p3/train"),
                "{bad}"
            );
        }
        assert_eq!(parse_pipeline("p3"), parse_pipeline("3"));
    }
}
