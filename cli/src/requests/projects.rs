//! Questions about projects, and changes of them.

use marquee_proto::v1::{ListProjectsRequest, Project, SetProjectRequest};

use crate::client::{Remote, Repeat, quick};
use crate::error::Result;

/// Every project, or the one of this name.
pub(crate) async fn list(remote: &Remote, name: Option<&str>) -> Result<Vec<Project>> {
    let request = ListProjectsRequest {
        name: name.unwrap_or_default().to_owned(),
    };
    let answer = remote
        .call(Repeat::Safe, async || {
            remote
                .projects()
                .list_projects(quick(request.clone()))
                .await
        })
        .await?;
    Ok(answer.projects)
}

/// Makes or changes a project. Sent twice it does the same as sent once.
pub(crate) async fn set(remote: &Remote, request: SetProjectRequest) -> Result<Project> {
    remote
        .call(Repeat::Safe, async || {
            remote.projects().set_project(quick(request.clone())).await
        })
        .await
}
