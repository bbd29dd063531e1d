//! Whose jobs a request is about: what the table of methods (`methods`) cannot know. A job's project never changes, so that
//! it is asked before the request is carried out. Who may do everything costs nothing here.

use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::users::Role;
use marquee_store::{Conn, StoreError, artifacts, jobs};

use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;

/// Refuses a caller who does not have the role in the project. `what` names the thing that was asked for. A caller who
/// may not even look at the project is not told its name.
pub(in crate::rpc) fn project(
    caller: &Caller,
    role: Role,
    project: &str,
    what: &str,
) -> Result<(), LifecycleError> {
    if caller.may(role, project) {
        return Ok(());
    }
    let whose = match caller.may(Role::Viewer, project) {
        true => format!("is of project {project:?}"),
        false => "is of another project".to_owned(),
    };
    let who = caller.user().unwrap_or_else(|| caller.known_as());
    Err(LifecycleError::RoleTooLow(format!(
        "{what} {whose}, where {who} is no {role}; \"marquee whoami\" says which roles you have"
    )))
}

/// Refuses unless the caller has the role in the project of this job.
pub(in crate::rpc) async fn job(
    app: &App,
    caller: &Caller,
    role: Role,
    id: JobId,
) -> Result<(), LifecycleError> {
    jobs_of(app, caller, role, &[id]).await
}

/// The same of several jobs. Those that are not there are for the request to refuse.
pub(in crate::rpc) async fn jobs_of(
    app: &App,
    caller: &Caller,
    role: Role,
    ids: &[JobId],
) -> Result<(), LifecycleError> {
    if caller.projects(role).is_none() {
        return Ok(());
    }
    let mut conn = app.db.read().await?;
    for (id, of) in jobs::list_job_projects(&mut conn, ids).await? {
        project(caller, role, &of, &format!("job {id}"))?;
    }
    Ok(())
}

/// Refuses unless the caller has the role in all projects of this pipeline's jobs.
pub(in crate::rpc) async fn pipeline(
    app: &App,
    caller: &Caller,
    role: Role,
    id: PipelineId,
) -> Result<(), LifecycleError> {
    if caller.projects(role).is_none() {
        return Ok(());
    }
    let mut conn = app.db.read().await?;
    for of in jobs::list_pipeline_projects(&mut conn, id).await? {
        project(caller, role, &of, &format!("pipeline p{id}"))?;
    }
    Ok(())
}

/// Refuses unless the caller has the role in all projects whose jobs committed this artifact.
pub(in crate::rpc) async fn artifact(
    conn: &mut Conn,
    caller: &Caller,
    role: Role,
    digest: &Digest,
) -> Result<(), LifecycleError> {
    if caller.projects(role).is_none() {
        return Ok(());
    }
    for of in artifacts::list_artifact_projects(conn, digest).await? {
        project(caller, role, &of, &format!("artifact {digest}"))?;
    }
    Ok(())
}

/// Of these jobs those that the caller may look at.
pub(in crate::rpc) async fn visible(
    conn: &mut Conn,
    caller: &Caller,
    ids: &[JobId],
) -> Result<Vec<JobId>, StoreError> {
    if caller.projects(Role::Viewer).is_none() {
        return Ok(ids.to_vec());
    }
    let all = jobs::list_job_projects(conn, ids).await?;
    let seen = all
        .into_iter()
        .filter(|(_, of)| caller.may(Role::Viewer, of));
    Ok(seen.map(|(id, _)| id).collect())
}
