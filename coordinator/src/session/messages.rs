//! What a worker is told, as messages.

use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::limits::MESSAGE_MAX_BYTES;
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as Out;
use marquee_store::ranks::RankKey;
use prost::Message as _;

/// Bytes of an assignment: one message, with room for its envelope.
pub(super) const ASSIGN_MAX_BYTES: usize = MESSAGE_MAX_BYTES - 1024;

/// Why an assignment that does not fit into a message ends its attempt.
pub(super) fn too_large(assign: &v1::Assign) -> Failure {
    let inputs = assign
        .inputs
        .iter()
        .filter_map(|input| input.manifest.as_ref());
    let files: usize = inputs.map(|manifest| manifest.files.len()).sum();
    Failure {
        class: FailureClass::BadInput,
        message: format!(
            "its inputs have {files} files, whose names alone take {} bytes; at most {ASSIGN_MAX_BYTES} can be sent: pack them into fewer files",
            assign.encoded_len()
        ),
    }
}

/// Ends a rank without a moment to leave in order, in which it would ask its peers to stop with it.
pub(super) fn kill(key: RankKey, reason: &str) -> Out {
    Out::Stop(v1::Stop {
        job_id: key.job.0,
        attempt: key.attempt.0,
        rank: key.rank.0,
        grace_ms: 0,
        reason: reason.into(),
        forget: true,
    })
}

pub(super) fn rescue(key: RankKey, committed: bool) -> Out {
    Out::Rescue(v1::Rescue {
        job_id: key.job.0,
        attempt: key.attempt.0,
        rank: key.rank.0,
        committed,
    })
}

pub(super) fn ack(key: RankKey, sequence: u64) -> Out {
    let (job_id, attempt, rank) = (key.job.0, key.attempt.0, key.rank.0);
    Out::Ack(v1::Ack {
        job_id,
        attempt,
        rank,
        sequence,
    })
}
