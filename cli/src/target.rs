//! How users name jobs and pipelines: `17` is a job, `p3` a pipeline, `p3/train` the job `train`
//! of pipeline 3, `posters/train` that of the newest pipeline called posters, and `train` the newest job of that
//! name, or else the newest pipeline of that name. `17[3]`, `p3/sweep[3]` and `sweep[3]` are elements of job arrays.

use std::str::FromStr;

use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::nearest::nearest;
use marquee_proto::error::{ErrorCode, PublicError};
use marquee_proto::v1;

use crate::client::{Remote, Repeat, quick};
use crate::error::{CliError, Result};
use crate::requests::jobs;
use marquee_view::words;

/// Newest jobs among which a name is looked for.
const NAME_SEARCH_MAX: u32 = 1_000;

/// One or several jobs, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Job(JobId),
    Pipeline(PipelineId),
    JobOfPipeline(PipelineId, JobName),
    /// The pipeline's name, then the job's.
    JobOfNamed(JobName, JobName),
    Named(JobName),
    /// An element of the array that is named.
    Element(Box<Self>, u32),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((array, index)) = text.strip_suffix(']').and_then(|t| t.split_once('[')) {
            let wrong = || {
                format!(
                    "{text:?} is no element of a job array; write 17[3] or sweep[3], counted from 0"
                )
            };
            let index = index.parse().map_err(|_| wrong())?;
            return match array.parse()? {
                Self::Pipeline(_) | Self::Element(..) => Err(wrong()),
                array @ (Self::Job(_)
                | Self::JobOfPipeline(..)
                | Self::JobOfNamed(..)
                | Self::Named(_)) => Ok(Self::Element(Box::new(array), index)),
            };
        }
        let pipeline = |text: &str| text.strip_prefix('p')?.parse::<PipelineId>().ok();
        if let Ok(id) = text.parse() {
            return Ok(Self::Job(id));
        }
        // Before names: who calls a job p3 can name it by its pipeline, as in p7/p3.
        if let Some(id) = pipeline(text) {
            return Ok(Self::Pipeline(id));
        }
        let parsed = match text.split_once('/') {
            Some((of, name)) => name.parse().ok().and_then(|name| match pipeline(of) {
                Some(id) => Some(Self::JobOfPipeline(id, name)),
                None => Some(Self::JobOfNamed(of.parse().ok()?, name)),
            }),
            None => text.parse().ok().map(Self::Named),
        };
        parsed.ok_or_else(|| {
            "write a job's number (17), a job's name (train), a pipeline (p3) or its name, a job of a \
             pipeline (p3/train, posters/train), or an element of an array (17[3])"
                .to_owned()
        })
    }
}

/// A pipeline, as options take it: one that is named as a [`Target`], and a bare number is a pipeline's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfPipeline(Target);

impl FromStr for OfPipeline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self(Target::Pipeline(id)));
        }
        text.parse().map(Self).map_err(|_| {
            "write a pipeline (p3), its name, or the name of a job of it (train)".to_owned()
        })
    }
}

impl OfPipeline {
    /// Looks names up; numbers are taken as they are.
    pub(crate) async fn resolve(&self, remote: &Remote) -> Result<i64> {
        self.0.resolve_pipeline(remote).await
    }
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
            Self::JobOfPipeline(id, name) => find_in(remote, *id, name).await.map(Resolved::Job),
            Self::JobOfNamed(pipeline, name) => {
                let id = find_pipeline(remote, pipeline).await?;
                find_in(remote, id, name).await.map(Resolved::Job)
            }
            Self::Named(name) => find_named(remote, name).await,
            Self::Element(array, index) => {
                let array = Box::pin(array.resolve_job(remote)).await?;
                find_element(remote, array, *index).await.map(Resolved::Job)
            }
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

    /// The same for commands that take several: all of them are found before anything is done to one.
    pub(crate) async fn resolve_jobs(targets: &[Self], remote: &Remote) -> Result<Vec<i64>> {
        let mut ids = Vec::with_capacity(targets.len());
        for target in targets {
            ids.push(target.resolve_job(remote).await?);
        }
        Ok(ids)
    }

    /// The same for commands that take a pipeline: that of a job, where one is named.
    pub(crate) async fn resolve_pipeline(&self, remote: &Remote) -> Result<i64> {
        match self {
            // Without a look for the job: what was asked for is its pipeline.
            Self::Pipeline(id) | Self::JobOfPipeline(id, _) => Ok(id.0),
            Self::JobOfNamed(name, _) => Ok(find_pipeline(remote, name).await?.0),
            Self::Job(_) | Self::Named(_) | Self::Element(..) => {
                match self.resolve(remote).await? {
                    Resolved::Pipeline(id) => Ok(id),
                    Resolved::Job(id) => {
                        let detail = jobs::get(remote, id).await?;
                        Ok(detail.job.map_or(0, |job| job.pipeline_id))
                    }
                }
            }
        }
    }
}

/// The newest job of a name; where there is none, the newest pipeline.
async fn find_named(remote: &Remote, name: &JobName) -> Result<Resolved> {
    let jobs = newest_jobs(remote, 0).await?;
    let named = jobs.iter().filter(|job| job.name == name.as_str());
    if let Some(id) = named.map(|job| job.id).max() {
        return Ok(Resolved::Job(id));
    }
    if let Some(id) = newest_pipeline(&jobs, name) {
        return Ok(Resolved::Pipeline(id.0));
    }
    let names = jobs
        .iter()
        .flat_map(|job| [job.name.as_str(), job.pipeline_name.as_str()]);
    let meant = meant(name, names);
    Err(not_found(format!(
        "there is no job or pipeline \"{name}\" among the newest {NAME_SEARCH_MAX} jobs; \
         {meant}\"marquee jobs\" lists them"
    )))
}

async fn find_pipeline(remote: &Remote, name: &JobName) -> Result<PipelineId> {
    let jobs = newest_jobs(remote, 0).await?;
    newest_pipeline(&jobs, name).ok_or_else(|| {
        let meant = meant(name, jobs.iter().map(|job| job.pipeline_name.as_str()));
        not_found(format!(
            "there is no pipeline \"{name}\" among the newest {NAME_SEARCH_MAX} jobs; \
             {meant}\"marquee jobs\" lists them"
        ))
    })
}

fn newest_pipeline(jobs: &[v1::Job], name: &JobName) -> Option<PipelineId> {
    let of_name = jobs.iter().filter(|job| job.pipeline_name == name.as_str());
    of_name.map(|job| PipelineId(job.pipeline_id)).max()
}

async fn find_in(remote: &Remote, pipeline: PipelineId, name: &JobName) -> Result<i64> {
    let jobs = newest_jobs(remote, pipeline.0).await?;
    let named = jobs.iter().filter(|job| job.name == name.as_str());
    named.map(|job| job.id).max().ok_or_else(|| {
        let meant = meant(name, jobs.iter().map(|job| job.name.as_str()));
        not_found(format!(
            "pipeline p{pipeline} has no job \"{name}\"; {meant}see \"marquee show p{pipeline}\""
        ))
    })
}

/// An element of an array. They are numbered one after the other, so that a page from the right place has it.
async fn find_element(remote: &Remote, array: i64, index: u32) -> Result<i64> {
    let answer = jobs::get(remote, array).await?;
    let size = answer.job.as_ref().and_then(|job| job.elements.as_ref());
    let Some(size) = size.map(words::element_count) else {
        return Err(not_found(format!(
            "job {array} is no array, so it has no element {index}; \"marquee show {array}\" shows it"
        )));
    };
    if index >= size {
        let last = size.saturating_sub(1);
        return Err(not_found(format!(
            "the elements of job {array} are {array}[0] to {array}[{last}]; there is no {array}[{index}]"
        )));
    }
    let request = v1::ListJobsRequest {
        array_job_id: array,
        array_index: Some(index),
        page_size: 1,
        ..v1::ListJobsRequest::default()
    };
    let page = remote
        .call(Repeat::Safe, async || {
            remote.jobs().list_jobs(quick(request.clone())).await
        })
        .await?;
    let element = page.jobs.first().filter(|job| {
        // A coordinator that does not know this question answers another one.
        job.element
            .as_ref()
            .is_some_and(|element| element.index == index)
    });
    element.map(|job| job.id).ok_or_else(|| {
        not_found(format!(
            "the coordinator does not find {array}[{index}]; \"marquee jobs --array {array}\" lists the elements, and one \
             that was cancelled with its array before its turn comes back with \"marquee retry {array}\""
        ))
    })
}

async fn newest_jobs(remote: &Remote, pipeline_id: i64) -> Result<Vec<v1::Job>> {
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
    Ok(page.jobs)
}

fn meant<'a>(name: &JobName, names: impl Iterator<Item = &'a str>) -> String {
    match nearest(name.as_str(), names) {
        Some(meant) => format!("did you mean \"{meant}\"? "),
        None => String::new(),
    }
}

fn not_found(message: String) -> CliError {
    CliError::Refused(PublicError {
        code: Some(ErrorCode::JobNotFound.as_str().to_owned()),
        message,
        fields: Vec::new(),
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
        assert_eq!(
            "posters/train".parse(),
            Ok(Target::JobOfNamed(name("posters"), name("train")))
        );
        assert_eq!("preprocess".parse(), Ok(Target::Named(name("preprocess"))));
        let element = |of| Ok(Target::Element(Box::new(of), 3));
        assert_eq!("17[3]".parse(), element(Target::Job(JobId(17))));
        assert_eq!("sweep[3]".parse(), element(Target::Named(name("sweep"))));
        assert_eq!(
            "p3/sweep[3]".parse(),
            element(Target::JobOfPipeline(PipelineId(3), name("sweep")))
        );
        for bad in ["17[]", "17[-1]", "p3[3]", "17[3][4]", "17[4294967296]"] {
            let told = bad.parse::<Target>().unwrap_err();
            assert!(told.contains("17[3]"), "{bad}: {told}");
        }
        for bad in ["", "p3/", "/train", "Train", "x/y/z", "-", "17[3", "[3]"] {
            assert!(
                bad.parse::<Target>().unwrap_err().contains("p3/train"),
                "{bad}"
            );
        }
        assert_eq!("p3".parse::<OfPipeline>(), "3".parse());
        assert_eq!("demo".parse(), Ok(OfPipeline(Target::Named(name("demo")))));
        assert!("Demo".parse::<OfPipeline>().is_err());
    }
}
