//! Questions about workers.

use marquee_proto::v1::{
    ListCoordinatorsRequest, ListCoordinatorsResponse, ListWorkersRequest, Worker,
};

use crate::client::{Remote, Repeat, quick};
use crate::error::Result;

/// All workers, and what they do now.
pub(crate) async fn list(remote: &Remote) -> Result<Vec<Worker>> {
    let answer = remote
        .call(Repeat::Safe, async || {
            remote
                .workers()
                .list_workers(quick(ListWorkersRequest {}))
                .await
        })
        .await?;
    Ok(answer.workers)
}

/// The coordinators that live, and which of them leads. Every one of them can say.
pub(crate) async fn coordinators(remote: &Remote) -> Result<ListCoordinatorsResponse> {
    remote
        .call(Repeat::Safe, async || {
            remote
                .workers()
                .list_coordinators(quick(ListCoordinatorsRequest {}))
                .await
        })
        .await
}
