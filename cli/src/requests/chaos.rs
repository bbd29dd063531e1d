//! Faults on purpose.

use marquee_proto::v1::rehearse_request::Fault;
use marquee_proto::v1::{RehearseRequest, RehearseResponse};

use crate::client::{Remote, Repeat, quick};
use crate::error::Result;

/// Does a fault or, where it is a dry run, asks what it would do.
pub(crate) async fn rehearse(
    remote: &Remote,
    fault: &Fault,
    dry_run: bool,
) -> Result<RehearseResponse> {
    let request = RehearseRequest {
        fault: Some(fault.clone()),
        dry_run,
    };
    // Done twice it would break twice.
    let repeat = if dry_run {
        Repeat::Safe
    } else {
        Repeat::Unsafe
    };
    remote
        .call(repeat, async || {
            remote.chaos().rehearse(quick(request.clone())).await
        })
        .await
}
