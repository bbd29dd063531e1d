//! Schedules: set, paused, removed, and what follows from their due times.
//!
//! Invariant: what becomes of a due time is written in the transaction that does it, under the key (schedule, due time)
//! and under the guard that the schedule is as it was read. Whoever does it a second time, after a crash or because
//! another coordinator leads by now, changes nothing.

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobName;
use marquee_domain::pipeline::{DocumentText, Override};
use marquee_domain::schedule::{self, Does, Missed, Outcome, Overlap, Progress, Step};
use marquee_store::StoreError;
use marquee_store::schedules::{self, Document, NewSchedule, Run, Schedule, Which};

use super::submit::{Due, Submission, Submitted, check, submit};
use super::{LifecycleError, Result};
use crate::app::App;
use crate::caller::Caller;
use crate::cron::Cron;

/// Schedules of a cluster: each is looked at when it is due, and listed whole.
const SCHEDULES_MAX: u64 = 1_000;
/// Steps of one schedule in one round: after an absence of whatever length a handful do.
const STEPS_MAX: u32 = 100;
/// Bytes of a refusal that are kept with a run.
const REFUSAL_MAX_BYTES: usize = 2_000;

/// A schedule as somebody asks for it.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub name: &'a JobName,
    pub cron: &'a str,
    pub time_zone: &'a str,
    pub document: &'a Document,
    pub overlap: Overlap,
    pub missed: Missed,
    pub replace: bool,
    pub caller: &'a str,
}

/// Stores a schedule whose pattern, zone and document are such.
pub async fn add_schedule(app: &App, wanted: &Wanted<'_>) -> Result<()> {
    let now = app.clock.now();
    let cron = Cron::parse(wanted.cron, wanted.time_zone).map_err(LifecycleError::BadSetting)?;
    let next_due = cron.after(now).ok_or_else(|| {
        let pattern = wanted.cron;
        LifecycleError::BadSetting(format!("cron: {pattern:?} is not due within nine years"))
    })?;
    let overrides = overrides(wanted.document);
    let caller = Caller::of_schedule(wanted.name.as_str());
    check(
        app,
        &submission("schedule", wanted.document, &overrides, &caller, None),
    )
    .await?;
    let name = wanted.name.as_str();
    let new = NewSchedule {
        name,
        cron: wanted.cron,
        time_zone: wanted.time_zone,
        document: wanted.document,
        progress: Progress {
            overlap: wanted.overlap,
            missed: wanted.missed,
            next_due: Some(next_due),
            waiting_due: None,
        },
        caller: wanted.caller,
    };
    let mut tx = app.db.write("schedule").await?;
    // Not under a lock: of two that are added at once one may be one too many, which harms nobody.
    // One that takes another's place needs no room of its own.
    let before = schedules::list_schedules(&mut tx, Which::Named(name)).await?;
    if before.is_empty() && schedules::count_schedules(&mut tx).await? >= SCHEDULES_MAX {
        return Err(LifecycleError::BadSetting(format!(
            "there are {SCHEDULES_MAX} schedules, the most that fit; remove some first"
        )));
    }
    if !schedules::upsert_schedule(&mut tx, &new, wanted.replace, now).await? {
        return Err(LifecycleError::ScheduleExists(name.to_owned()));
    }
    tx.commit().await?;
    tracing::info!(schedule = name, cron = wanted.cron, zone = wanted.time_zone, %next_due, caller = wanted.caller, "schedule set");
    Ok(())
}

/// Pauses a schedule, or lets it go on with the next due time.
pub async fn pause_schedule(app: &App, name: &str, resume: bool, caller: &str) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write("schedule").await?;
    let not_found = || LifecycleError::ScheduleNotFound(name.to_owned());
    let stored = schedules::list_schedules(&mut tx, Which::Named(name)).await?;
    let stored = stored.first().ok_or_else(not_found)?;
    if resume != stored.paused.is_some() {
        // It is as it is wanted: whoever paused it first is who paused it.
        return Ok(());
    }
    // From now on: what was due while it was paused is not made up for.
    let next_due = Cron::parse(&stored.cron, &stored.time_zone)
        .map_err(LifecycleError::BadSetting)?
        .after(now);
    let by = (!resume).then_some(caller);
    if !schedules::mark_paused(&mut tx, name, by, next_due, now).await? {
        return Err(not_found());
    }
    tx.commit().await?;
    tracing::info!(
        schedule = name,
        resume,
        caller,
        "schedule paused or resumed"
    );
    Ok(())
}

/// Removes a schedule. Its pipelines stay.
pub async fn remove_schedule(app: &App, name: &str, caller: &str) -> Result<()> {
    let mut tx = app.db.write("schedule").await?;
    if !schedules::delete_schedule(&mut tx, name).await? {
        return Err(LifecycleError::ScheduleNotFound(name.to_owned()));
    }
    tx.commit().await?;
    tracing::info!(schedule = name, caller, "schedule removed");
    Ok(())
}

/// Does what is due. One schedule that cannot go on keeps no other one.
pub async fn run_due(app: &App) -> Result<()> {
    let now = app.clock.now();
    let mut conn = app.db.read().await?;
    let due = schedules::list_schedules(&mut conn, Which::Due(now)).await?;
    drop(conn);
    for stored in due {
        match advance(app, &stored, now).await {
            Ok(()) => {}
            // Somebody set, paused or removed it meanwhile, or did this before: the next round reads it anew.
            Err(LifecycleError::Store(StoreError::Vanished(_))) => {}
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                tracing::error!(schedule = stored.name, %error, "a schedule cannot go on");
            }
        }
    }
    Ok(())
}

async fn advance(app: &App, stored: &Schedule, now: DateTime<Utc>) -> Result<()> {
    let cron = Cron::parse(&stored.cron, &stored.time_zone).map_err(LifecycleError::BadSetting)?;
    let mut progress = stored.progress;
    for _ in 0..STEPS_MAX {
        let mut conn = app.db.read().await?;
        let is_open = schedules::is_open(&mut conn, stored.id).await?;
        drop(conn);
        let Some(step) = schedule::step(&progress, now, is_open, |time| cron.after(time)) else {
            return Ok(());
        };
        take(app, stored, &progress, &step, now).await?;
        // As the row is now, so that the next step is guarded by it.
        progress.next_due = step.next_due;
        progress.waiting_due = step.waiting_due;
    }
    Ok(())
}

async fn take(
    app: &App,
    stored: &Schedule,
    before: &Progress,
    step: &Step,
    now: DateTime<Utc>,
) -> Result<()> {
    let then = (step.next_due, step.waiting_due);
    let run = match &step.does {
        // A clock that was set back comes by the same due time again.
        Does::Submit { due, .. } | Does::Leave { due, .. }
            if is_known(app, stored, *due).await? =>
        {
            None
        }
        Does::Submit { due, note } => {
            match submit_due(app, stored, before, then, (*due, note)).await {
                Err(error) if error.may_pass() || is_vanished(&error) => return Err(error),
                Ok(submitted) if submitted.jobs.is_some() => return Ok(()),
                // Somebody has sent the very request, which only this loop should.
                Ok(submitted) => Some(Run {
                    due_at: *due,
                    outcome: Outcome::Submitted,
                    pipeline: Some(submitted.pipeline),
                    text: note.clone(),
                    at: now,
                }),
                // Whatever is wrong with it now: the next due time may find it well.
                Err(error) => Some(refused(*due, &error, now)),
            }
        }
        Does::Leave { due, outcome, note } => {
            tracing::warn!(schedule = stored.name, %due, outcome = outcome.as_str(), note, "a due time passes without a run");
            Some(Run {
                due_at: *due,
                outcome: *outcome,
                pipeline: None,
                text: note.clone(),
                at: now,
            })
        }
        Does::Wait => None,
    };
    let mut tx = app.db.write("schedule").await?;
    schedules::mark_progress(&mut tx, stored.id, before, then).await?;
    if let Some(run) = run {
        schedules::insert_run(&mut tx, stored.id, &run).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn is_known(app: &App, stored: &Schedule, due: DateTime<Utc>) -> Result<bool> {
    let mut conn = app.db.read().await?;
    Ok(schedules::has_run(&mut conn, stored.id, due).await?)
}

fn is_vanished(error: &LifecycleError) -> bool {
    matches!(error, LifecycleError::Store(StoreError::Vanished(_)))
}

fn refused(due: DateTime<Utc>, error: &LifecycleError, now: DateTime<Utc>) -> Run {
    let mut text = error.to_string();
    if let LifecycleError::InvalidDocument(fields) = error {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        text = format!("{text}: {}", fields.join("; "));
    }
    text.truncate(text.floor_char_boundary(REFUSAL_MAX_BYTES));
    tracing::error!(%due, text, "a scheduled pipeline was refused");
    Run {
        due_at: due,
        outcome: Outcome::Refused,
        pipeline: None,
        text,
        at: now,
    }
}

/// Submits the pipeline of a due time, with the note of it in the same transaction.
async fn submit_due(
    app: &App,
    stored: &Schedule,
    before: &Progress,
    then: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
    (due, note): (DateTime<Utc>, &str),
) -> Result<Submitted> {
    let mut conn = app.db.read().await?;
    let document = schedules::find_document(&mut conn, stored.id).await?;
    drop(conn);
    let document = document.ok_or(StoreError::Vanished("schedule"))?;
    let overrides = overrides(&document);
    // The same for whoever submits this due time: a second line of defence behind the key of its run.
    let request_id = format!("schedule-{}-{}", stored.id, due.timestamp());
    let of_due = Due {
        schedule: stored.id,
        due_at: due,
        note,
        before,
        then,
    };
    let caller = Caller::of_schedule(&stored.name);
    let submission = submission(&request_id, &document, &overrides, &caller, Some(&of_due));
    let submitted = submit(app, &submission).await?;
    tracing::info!(schedule = stored.name, %due, pipeline = %submitted.pipeline, note, "scheduled pipeline submitted");
    Ok(submitted)
}

fn overrides(document: &Document) -> Vec<Override> {
    let overrides = document.overrides.iter().cloned();
    overrides
        .map(|(path, value)| Override { path, value })
        .collect()
}

fn submission<'a>(
    request_id: &'a str,
    document: &'a Document,
    overrides: &'a [Override],
    caller: &'a Caller,
    due: Option<&'a Due<'a>>,
) -> Submission<'a> {
    Submission {
        request_id,
        job_name: None,
        document: if document.is_json {
            DocumentText::Json(&document.text)
        } else {
            DocumentText::Toml(&document.text)
        },
        overrides,
        caller,
        due,
    }
}

#[cfg(test)]
mod tests {
    use marquee_domain::pipeline::FieldError;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_refusal_is_kept_with_its_fields_and_within_bounds() {
        let field = |name: String| FieldError {
            field: name,
            message: "is missing".into(),
        };
        let fields = vec![field("jobs.a.argv".into()), field("name".into())];
        let run = refused(at(0), &LifecycleError::InvalidDocument(fields), at(5));
        assert_eq!((run.due_at, run.at, run.pipeline), (at(0), at(5), None));
        assert_eq!(run.outcome, Outcome::Refused);
        assert!(
            run.text.contains("jobs.a.argv") && run.text.contains("; name"),
            "{}",
            run.text
        );
        let many = (0..1_000)
            .map(|number| field(format!("jobs.\u{e9}{number}.argv")))
            .collect();
        let run = refused(at(0), &LifecycleError::InvalidDocument(many), at(5));
        assert!(run.text.len() <= REFUSAL_MAX_BYTES);
        let run = refused(at(0), &LifecycleError::OverQuota("too many".into()), at(5));
        assert_eq!(run.text, "too many");
    }

    #[test]
    fn what_a_schedule_submits_is_its_document_in_its_name() {
        let document = |is_json| Document {
            is_json,
            text: "{}".into(),
            overrides: vec![("jobs.a.priority".into(), "3".into())],
        };
        let caller = Caller::of_schedule("nightly");
        for is_json in [false, true] {
            let document = document(is_json);
            let overrides = overrides(&document);
            assert_eq!(
                (overrides[0].path.as_str(), overrides[0].value.as_str()),
                ("jobs.a.priority", "3")
            );
            let sent = submission("schedule-1-5", &document, &overrides, &caller, None);
            assert_eq!(matches!(sent.document, DocumentText::Json(_)), is_json);
            assert_eq!((sent.request_id, sent.job_name), ("schedule-1-5", None));
        }
    }

    #[test]
    fn a_schedule_that_changed_meanwhile_is_told_from_one_that_cannot_go_on() {
        assert!(is_vanished(&StoreError::Vanished("schedule").into()));
        assert!(!is_vanished(&LifecycleError::Stopping));
        assert!(!is_vanished(
            &StoreError::JobNotFound(marquee_domain::ids::JobId(1)).into()
        ));
    }
}
