//! Whether a worker is trusted still, in the words that it gets.

use marquee_proto::error::ErrorCode;
use marquee_store::trust::Member;
use tonic::Status;

/// Whether a worker still belongs to the cluster. The error says why not, and how it comes back.
pub(crate) fn verdict(member: Option<&Member>) -> Result<(), Status> {
    let why = match member {
        None => "the worker that this certificate was made for is not known here: it was forgotten, or the coordinator's database is another one".to_owned(),
        Some(member) => match &member.revoked {
            None => return Ok(()),
            Some(revoked) => revocation(&member.name, &revoked.reason),
        },
    };
    Err(ErrorCode::WorkerRevoked.status(format!(
        "{why}; to let it in again, make a token on the coordinator's host (\"marquee-coordinator token create --name NAME\") and run \"marquee-worker join\" with it"
    )))
}

/// That a worker was revoked.
pub(crate) fn revocation(name: &str, reason: &str) -> String {
    let because = if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    };
    format!("worker {name:?} was revoked{because}")
}
