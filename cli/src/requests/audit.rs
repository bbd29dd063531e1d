//! Questions about the cluster's history.

use marquee_proto::v1::verify_audit_response::Body;
use marquee_proto::v1::{
    AuditFinding, AuditLine, AuditProgress, AuditSummary, ListAuditRequest, VerifyAuditRequest,
};

use crate::client::{Remote, Repeat};
use crate::error::Result;

/// Has the history checked; `progress` is told how far it is.
pub(crate) async fn verify(
    remote: &Remote,
    request: VerifyAuditRequest,
    mut progress: impl FnMut(&AuditProgress),
) -> Result<(Vec<AuditFinding>, AuditSummary)> {
    let mut answers = remote
        .call(Repeat::Safe, async || remote.audit().verify(request).await)
        .await?;
    let mut findings = Vec::new();
    loop {
        let answer = answers.message().await;
        let answer =
            answer.map_err(|status| remote.error(&status, 1, std::time::Duration::ZERO))?;
        match answer.and_then(|answer| answer.body) {
            Some(Body::Progress(step)) => progress(&step),
            Some(Body::Finding(finding)) => findings.push(finding),
            Some(Body::Summary(summary)) => return Ok((findings, summary)),
            // Half a check must not look like a clean one.
            None => {
                let text = "the check ended without a summary; is the coordinator stopping? Run this again";
                return Err(anyhow::anyhow!(text).into());
            }
        }
    }
}

/// Lines of the audit, each given to `take` as it comes.
pub(crate) async fn lines(
    remote: &Remote,
    request: &ListAuditRequest,
    mut take: impl FnMut(AuditLine) -> Result<()>,
) -> Result<()> {
    // Only the beginning is tried again: a stream that breaks later is an error, since `take` would
    // be given its first lines twice.
    let mut lines = remote
        .call(Repeat::Safe, async || {
            remote.audit().list(request.clone()).await
        })
        .await?;
    loop {
        let line = lines.message().await;
        match line.map_err(|status| remote.error(&status, 1, std::time::Duration::ZERO))? {
            Some(line) => take(line)?,
            None => return Ok(()),
        }
    }
}
