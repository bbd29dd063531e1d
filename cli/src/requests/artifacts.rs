//! Questions about artifacts.

use marquee_proto::v1::{self, Artifact, get_artifact_request::Which};

use super::pages;
use crate::client::{Remote, Repeat, quick};
use crate::error::{CliError, Result};
use crate::target::Target;

/// Least number of digits by which a digest may be named.
const DIGEST_PREFIX_MIN: usize = 12;

/// The first `limit` artifacts, newest first, and whether there are more.
pub(crate) async fn list(
    remote: &Remote,
    request: v1::ListArtifactsRequest,
    limit: usize,
) -> Result<(Vec<Artifact>, bool)> {
    pages::first(limit, async |page_size, page_token| {
        let request = v1::ListArtifactsRequest {
            page_size,
            page_token,
            ..request.clone()
        };
        let page = remote
            .call(Repeat::Safe, async || {
                remote
                    .artifacts()
                    .list_artifacts(quick(request.clone()))
                    .await
            })
            .await?;
        Ok((page.artifacts, page.next_page_token))
    })
    .await
}

/// What a text names: a digest, or the artifact of a job.
pub(crate) async fn which(text: &str, remote: &Remote) -> Result<Which> {
    let is_hex = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    // No cluster will ever have a job whose number has twelve digits.
    if is_hex && text.len() >= DIGEST_PREFIX_MIN {
        return Ok(Which::Digest(text.to_owned()));
    }
    let target: Target = text.parse().map_err(|_| {
        CliError::Usage(format!(
            "\"{text}\" is neither a digest (its first {DIGEST_PREFIX_MIN} digits or more) nor a job"
        ))
    })?;
    target.resolve_job(remote).await.map(Which::JobId)
}

/// Makes the output that a worker kept the artifact of its job. As long as an upload takes.
pub(crate) async fn rescue(remote: &Remote, job_id: i64) -> Result<Artifact> {
    let request = v1::RescueOutputRequest { job_id };
    remote
        .call(Repeat::Safe, async || {
            // Without the deadline of quick questions. Sent again it finds what the first one
            // committed.
            remote.artifacts().rescue_output(request).await
        })
        .await
}

/// One artifact with its files.
pub(crate) async fn find(remote: &Remote, which: Which) -> Result<Artifact> {
    let request = v1::GetArtifactRequest { which: Some(which) };
    remote
        .call(Repeat::Safe, async || {
            remote
                .artifacts()
                .get_artifact(quick(request.clone()))
                .await
        })
        .await
}
