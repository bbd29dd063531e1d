//! Who shares the cluster: projects with their weights, quotas and use.

use chrono::{DateTime, Utc};
use marquee_domain::project::{ProjectName, Reset};
use marquee_domain::users::Role;
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_store::projects::{self, Project, ProjectChange};
use tonic::{Request, Response, Status};

use super::scope;
use crate::app::App;
use crate::caller::Caller;
use crate::index::{Account, Open};
use crate::lifecycle::{self, LifecycleError, ProjectUpdate};

/// Changes that come with a project that was named.
const CHANGES_MAX: u32 = 20;

/// The service.
#[derive(Debug)]
pub(super) struct ProjectsService {
    app: App,
}

impl ProjectsService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    /// Every project, or the one of this name with its changes.
    async fn list(&self, name: Option<&ProjectName>) -> Result<Vec<v1::Project>, LifecycleError> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.read().await?;
        let mut stored = projects::list_projects(&mut conn).await?;
        if let Some(name) = name {
            stored.retain(|project| project.name == *name);
            if stored.is_empty() {
                return Err(LifecycleError::ProjectNotFound(name.to_string()));
            }
        }
        let mut answer = Vec::with_capacity(stored.len());
        let changes_max = if name.is_some() { CHANGES_MAX } else { 0 };
        for project in stored {
            let (queued, changes) =
                lifecycle::queued_and_changes(&mut conn, &project.name, changes_max).await?;
            // For each project anew: its lock must not be held while the database is waited for.
            let open = self.app.index.open();
            answer.push(encode(&open, project, queued, changes, now));
        }
        Ok(answer)
    }
}

#[tonic::async_trait]
impl v1::projects_server::Projects for ProjectsService {
    async fn list_projects(
        &self,
        request: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        let caller = Caller::of(&request);
        let name = request.into_inner().name;
        let name = if name.is_empty() {
            None
        } else {
            let name = project_name(&name)?;
            // Before it is looked up: who may not see a project does not learn whether there is one.
            scope::project(&caller, Role::Viewer, name.as_str(), &format!("\"{name}\""))?;
            Some(name)
        };
        let mut projects = self.list(name.as_ref()).await?;
        projects.retain(|project| caller.may(Role::Viewer, &project.name));
        Ok(Response::new(v1::ListProjectsResponse { projects }))
    }

    async fn set_project(
        &self,
        request: Request<v1::SetProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let name = project_name(&request.name)?;
        let update = update(&request)?;
        may_set(&caller, &name, &update)?;
        lifecycle::set_project(&self.app, &name, &update, &caller.to_string()).await?;
        let mut projects = self.list(Some(&name)).await?;
        let project = projects.pop();
        Ok(Response::new(project.ok_or(
            LifecycleError::ProjectNotFound(name.to_string()),
        )?))
    }
}

/// Administrators of a project say how long it keeps things and whether its idle jobs are stopped. What it may have
/// compared with other projects, and whether it exists, only administrators of everything say.
fn may_set(
    caller: &Caller,
    name: &ProjectName,
    update: &ProjectUpdate,
) -> Result<(), LifecycleError> {
    if caller.is_admin() {
        return Ok(());
    }
    let keeps_alone = ProjectUpdate {
        keep_days: update.keep_days,
        keep_log_days: update.keep_log_days,
        idle_stop_min: update.idle_stop_min,
        ..ProjectUpdate::default()
    };
    if *update == keeps_alone && caller.may(Role::Admin, name.as_str()) {
        return Ok(());
    }
    Err(LifecycleError::RoleTooLow(format!(
        "project {name}: weight, quotas and new projects take an administrator of all projects, --keep-days, \
         --keep-log-days and --idle-stop one of this project; \"marquee whoami\" says which roles you have"
    )))
}

fn project_name(text: &str) -> Result<ProjectName, BadField> {
    text.parse()
        .map_err(|why| BadField::invalid("name", format!("{:?} {why}", start_of(text))))
}

/// As much of a name as an error repeats.
fn start_of(text: &str) -> &str {
    &text[..text.floor_char_boundary(100)]
}

fn update(request: &v1::SetProjectRequest) -> Result<ProjectUpdate, BadField> {
    let quotas = request.quotas.clone().unwrap_or_default();
    let mut update = ProjectUpdate {
        weight: request.weight,
        gpus: quotas.gpus.map(Some),
        cpu_slots: quotas.cpu_slots.map(Some),
        queued: quotas.queued.map(Some),
        gpu_hours_week: quotas.gpu_hours_week.map(Some),
        reset: None,
        keep_days: request.keep_days.map(Some),
        keep_log_days: request.keep_log_days.map(Some),
        idle_stop_min: request.idle_stop_min.map(Some),
    };
    if !quotas.reset.is_empty() {
        let reset = Reset::from_word(&quotas.reset).ok_or_else(|| {
            let why = format!(
                "{:?} is no day; give \"rolling\", or \"mon\" to \"sun\"",
                start_of(&quotas.reset)
            );
            BadField::invalid("quotas.reset", why)
        })?;
        update.reset = Some(reset);
    }
    // After what is set: a limit that is named in both is lifted.
    for lifted in &request.lift {
        match lifted.as_str() {
            "gpus" => update.gpus = Some(None),
            "cpu_slots" => update.cpu_slots = Some(None),
            "queued" => update.queued = Some(None),
            "gpu_hours_week" => update.gpu_hours_week = Some(None),
            "keep_days" => update.keep_days = Some(None),
            "keep_log_days" => update.keep_log_days = Some(None),
            "idle_stop" => update.idle_stop_min = Some(None),
            other => {
                let why = format!(
                    "{:?} is no limit; give gpus, cpu_slots, queued, gpu_hours_week, keep_days, keep_log_days or \
                     idle_stop",
                    start_of(other)
                );
                return Err(BadField::invalid("lift", why));
            }
        }
    }
    Ok(update)
}

fn encode(
    open: &Open,
    project: Project,
    queued_jobs: u64,
    changes: Vec<ProjectChange>,
    now: DateTime<Utc>,
) -> v1::Project {
    let name = project.name.to_string();
    let account: Option<&Account> = open.accounts.get(&name);
    let quotas = project.quotas;
    let is_full = account.is_some_and(|account| {
        quotas.gpus.is_some_and(|quota| account.gpus >= quota)
            || quotas
                .cpu_slots
                .is_some_and(|quota| account.cpu_slots >= quota)
    });
    let devices_free_at = is_full.then(|| open.frees_at(&name, now)).flatten();
    let spent = account.and_then(|account| account.spent(now));
    let change = |change: ProjectChange| v1::ProjectChange {
        at: Some(timestamp(change.at)),
        text: change.text,
        caller: change.caller,
    };
    v1::Project {
        weight: project.weight,
        quotas: Some(v1::Quotas {
            gpus: quotas.gpus,
            cpu_slots: quotas.cpu_slots,
            queued: quotas.queued,
            gpu_hours_week: quotas.gpu_hours_week,
            reset: quotas.reset.as_str().to_owned(),
        }),
        gpus_used: account.map_or(0, |account| account.gpus),
        cpu_slots_used: account.map_or(0, |account| account.cpu_slots),
        queued_jobs,
        gpu_hours_used: account.map_or(0.0, |account| account.week_hours(now)),
        gpu_hours_free_at: spent.and_then(|spent| spent.frees_at).map(timestamp),
        devices_free_at: devices_free_at.map(timestamp),
        usage_gpu_seconds: account.map_or(0.0, |account| account.used(now)),
        changes: changes.into_iter().map(change).collect(),
        keep_days: project.retention.keep_days,
        keep_log_days: project.retention.keep_log_days,
        idle_stop_min: project.idle_stop_min,
        name,
    }
}
