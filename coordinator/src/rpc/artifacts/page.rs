//! A page of a listing of artifacts.

use marquee_domain::ids::{JobId, PipelineId};
use marquee_proto::convert::{BadField, datetime, timestamp};
use marquee_proto::v1::{ListArtifactsRequest, ListArtifactsResponse};
use marquee_store::{Conn, artifacts as table};
use tonic::Status;

use super::to_wire;
use crate::lifecycle::LifecycleError;

const PAGE_SIZE_DEFAULT: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1_000;

/// A listing that was asked for.
pub(super) struct Page {
    pipeline: Option<PipelineId>,
    job: Option<JobId>,
    after: Option<table::After>,
    size: u32,
}

impl TryFrom<ListArtifactsRequest> for Page {
    type Error = BadField;

    fn try_from(request: ListArtifactsRequest) -> Result<Self, BadField> {
        let size = match request.page_size {
            0 => PAGE_SIZE_DEFAULT,
            size @ 1..=PAGE_SIZE_MAX => size,
            size => {
                let problem = format!("{size} is more than {PAGE_SIZE_MAX}");
                return Err(BadField::invalid("page_size", problem));
            }
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(parse_token(token).ok_or_else(|| {
                BadField::invalid("page_token", "take next_page_token of the previous page")
            })?),
        };
        let pipeline = (request.pipeline_id != 0).then_some(PipelineId(request.pipeline_id));
        let job = (request.job_id != 0).then_some(JobId(request.job_id));
        Ok(Self {
            pipeline,
            job,
            after,
            size,
        })
    }
}

impl Page {
    /// One row more than the page holds, where there is one.
    pub(super) async fn read(
        &self,
        conn: &mut Conn,
        seen: Option<&[String]>,
    ) -> Result<Vec<table::Artifact>, Status> {
        table::list_artifacts(
            conn,
            seen,
            self.pipeline,
            self.job,
            self.after,
            self.size + 1,
        )
        .await
        .map_err(|error| LifecycleError::from(error).into())
    }

    pub(super) fn answer(&self, mut rows: Vec<table::Artifact>) -> ListArtifactsResponse {
        let has_more = rows.len() > self.size as usize;
        rows.truncate(self.size as usize);
        let last = rows.last().filter(|_| has_more);
        let next_page_token = last.map(token_after).unwrap_or_default();
        ListArtifactsResponse {
            artifacts: rows.into_iter().map(to_wire).collect(),
            next_page_token,
        }
    }
}

/// Microseconds, which is how exactly Postgres keeps a time, and the job.
fn token_after(artifact: &table::Artifact) -> String {
    format!(
        "{}-{}",
        artifact.committed_at.timestamp_micros(),
        artifact.job
    )
}

fn parse_token(token: &str) -> Option<table::After> {
    let (micros, job) = token.split_once('-')?;
    let committed_at = chrono::DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    // A time that no column holds stands in no token of ours.
    let committed_at = datetime(&timestamp(committed_at)).ok()?;
    Some(table::After {
        committed_at,
        job: job.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_goes_both_ways_and_anything_else_is_refused() {
        let committed_at = chrono::DateTime::from_timestamp_micros(1_790_000_000_123_456).unwrap();
        let after = table::After {
            committed_at,
            job: JobId(42),
        };
        assert_eq!(parse_token("1790000000123456-42"), Some(after));
        for bad in [
            "",
            "x",
            "1-",
            "-1",
            "1-2-3",
            "99999999999999999999-1",
            "9000000000000000000-1",
        ] {
            assert_eq!(parse_token(bad), None, "{bad:?}");
        }
    }
}
