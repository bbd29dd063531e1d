//! Schedules, as clients set and see them.

use marquee_domain::ids::JobName;
use marquee_domain::schedule::{Missed, Overlap};
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_proto::v1::document::Format;
use marquee_store::schedules::{self, Document, Run, Schedule, Which};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::{self, LifecycleError, Wanted};

/// Runs that come with a schedule in a listing, and with one that was named.
const RUNS_LISTED: u32 = 5;
const RUNS_SHOWN: u32 = 100;

/// The service.
#[derive(Debug)]
pub(super) struct SchedulesService {
    app: App,
}

impl SchedulesService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    async fn list(&self, which: Which<'_>, runs: u32) -> Result<Vec<v1::Schedule>, LifecycleError> {
        let mut conn = self.app.db.read().await?;
        let mut answer = Vec::new();
        for schedule in schedules::list_schedules(&mut conn, which).await? {
            let runs = schedules::list_runs(&mut conn, schedule.id, runs).await?;
            answer.push(encode(schedule, runs));
        }
        Ok(answer)
    }

    /// One schedule, with what it submits.
    async fn get(&self, name: &str) -> Result<v1::Schedule, LifecycleError> {
        let not_found = || LifecycleError::ScheduleNotFound(name.to_owned());
        let mut schedule = self
            .list(Which::Named(name), RUNS_SHOWN)
            .await?
            .pop()
            .ok_or_else(not_found)?;
        let mut conn = self.app.db.read().await?;
        let stored = schedules::list_schedules(&mut conn, Which::Named(name)).await?;
        let id = stored
            .first()
            .map(|stored| stored.id)
            .ok_or_else(not_found)?;
        let document = schedules::find_document(&mut conn, id).await?;
        let document = document.ok_or_else(not_found)?;
        let overrides = document.overrides.into_iter();
        schedule.overrides = overrides
            .map(|(path, value)| v1::Override { path, value })
            .collect();
        schedule.document = Some(v1::Document {
            format: Some(if document.is_json {
                Format::Json(document.text)
            } else {
                Format::Toml(document.text)
            }),
        });
        Ok(schedule)
    }
}

#[tonic::async_trait]
impl v1::schedules_server::Schedules for SchedulesService {
    async fn add_schedule(
        &self,
        request: Request<v1::AddScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let caller = Caller::of(&request).to_string();
        let request = request.into_inner();
        let name = name_of(&request.name)?;
        let document = document_of(request.document, request.overrides)?;
        let overlap = word(
            "overlap",
            &request.overlap,
            Overlap::from_word,
            "skip or queue",
        )?;
        let missed = word("missed", &request.missed, Missed::from_word, "one or none")?;
        let time_zone = match request.time_zone.as_str() {
            "" => "UTC",
            zone => zone,
        };
        let wanted = Wanted {
            name: &name,
            cron: &request.cron,
            time_zone,
            document: &document,
            overlap,
            missed,
            replace: request.replace,
            caller: &caller,
        };
        lifecycle::add_schedule(&self.app, &wanted).await?;
        Ok(Response::new(self.get(name.as_str()).await?))
    }

    async fn list_schedules(
        &self,
        _: Request<v1::ListSchedulesRequest>,
    ) -> Result<Response<v1::ListSchedulesResponse>, Status> {
        let schedules = self.list(Which::All, RUNS_LISTED).await?;
        Ok(Response::new(v1::ListSchedulesResponse { schedules }))
    }

    async fn get_schedule(
        &self,
        request: Request<v1::GetScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let name = name_of(&request.into_inner().name)?;
        Ok(Response::new(self.get(name.as_str()).await?))
    }

    async fn pause_schedule(
        &self,
        request: Request<v1::PauseScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let caller = Caller::of(&request).to_string();
        let v1::PauseScheduleRequest { name, resume } = request.into_inner();
        let name = name_of(&name)?;
        lifecycle::pause_schedule(&self.app, name.as_str(), resume, &caller).await?;
        Ok(Response::new(self.get(name.as_str()).await?))
    }

    async fn remove_schedule(
        &self,
        request: Request<v1::RemoveScheduleRequest>,
    ) -> Result<Response<v1::RemoveScheduleResponse>, Status> {
        let caller = Caller::of(&request).to_string();
        let name = name_of(&request.into_inner().name)?;
        lifecycle::remove_schedule(&self.app, name.as_str(), &caller).await?;
        Ok(Response::new(v1::RemoveScheduleResponse {}))
    }
}

fn name_of(text: &str) -> Result<JobName, BadField> {
    text.parse().map_err(|why| {
        let start = &text[..text.floor_char_boundary(100)];
        BadField::invalid("name", format!("{start:?} {why}"))
    })
}

fn word<T: Default>(
    field: &'static str,
    text: &str,
    from_word: impl Fn(&str) -> Option<T>,
    known: &str,
) -> Result<T, BadField> {
    if text.is_empty() {
        return Ok(T::default());
    }
    from_word(text).ok_or_else(|| {
        let start = &text[..text.floor_char_boundary(100)];
        BadField::invalid(field, format!("{start:?}; give {known}"))
    })
}

fn document_of(
    document: Option<v1::Document>,
    overrides: Vec<v1::Override>,
) -> Result<Document, BadField> {
    let format = document.and_then(|document| document.format);
    let (is_json, text) = match format.ok_or_else(|| BadField::missing("document"))? {
        Format::Toml(text) => (false, text),
        Format::Json(text) => (true, text),
    };
    // Postgres stores none, and no document has any.
    let has_nul = text.contains('\0')
        || overrides
            .iter()
            .any(|set| set.path.contains('\0') || set.value.contains('\0'));
    if has_nul {
        return Err(BadField::invalid("document", "it has a NUL in it"));
    }
    Ok(Document {
        is_json,
        text,
        overrides: overrides
            .into_iter()
            .map(|v1::Override { path, value }| (path, value))
            .collect(),
    })
}

fn encode(schedule: Schedule, runs: Vec<Run>) -> v1::Schedule {
    let is_paused = schedule.paused.is_some();
    let progress = schedule.progress;
    let (paused_by, paused_at) = schedule.paused.unzip();
    v1::Schedule {
        name: schedule.name,
        cron: schedule.cron,
        time_zone: schedule.time_zone,
        overlap: progress.overlap.as_str().to_owned(),
        missed: progress.missed.as_str().to_owned(),
        // While it is paused it is due at no time, though the next one stays noted.
        next_due: progress.next_due.filter(|_| !is_paused).map(timestamp),
        waiting_due: progress.waiting_due.map(timestamp),
        paused_by: paused_by.unwrap_or_default(),
        paused_at: paused_at.map(timestamp),
        set_by: schedule.set_by,
        set_at: Some(timestamp(schedule.set_at)),
        runs: runs.into_iter().map(encode_run).collect(),
        document: None,
        overrides: Vec::new(),
    }
}

fn encode_run(run: Run) -> v1::ScheduleRun {
    v1::ScheduleRun {
        due_at: Some(timestamp(run.due_at)),
        outcome: run.outcome.as_str().to_owned(),
        pipeline_id: run.pipeline.map_or(0, |pipeline| pipeline.0),
        text: run.text,
        at: Some(timestamp(run.at)),
    }
}
