//! Projects: making and changing them, and whether what somebody submits is within their quotas.

use std::collections::{BTreeMap, BTreeSet};

use marquee_domain::idle;
use marquee_domain::nearest::nearest;
use marquee_domain::pipeline::FieldError;
use marquee_domain::project::{self, PROJECTS_MAX, ProjectName, Quotas, Reset, Retention};
use marquee_domain::spec::{JobSpec, PipelineSpec};
use marquee_store::projects::{self, Project, ProjectChange, Set};
use marquee_store::{Conn, Tx};

use super::{LifecycleError, Result};
use crate::app::App;

/// What is to change of a project. None: it stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProjectUpdate {
    pub weight: Option<f64>,
    pub gpus: Option<Option<u32>>,
    pub cpu_slots: Option<Option<u32>>,
    pub queued: Option<Option<u32>>,
    pub gpu_hours_week: Option<Option<f64>>,
    pub reset: Option<Reset>,
    pub keep_days: Option<Option<u32>>,
    pub keep_log_days: Option<Option<u32>>,
    pub idle_stop_min: Option<Option<u32>>,
}

/// Makes a project, or changes what the update names, and notes who did so.
pub async fn set_project(
    app: &App,
    name: &ProjectName,
    update: &ProjectUpdate,
    caller: &str,
) -> Result<()> {
    let now = app.clock.now();
    let mut tx = app.db.write_as("set project", caller).await?;
    // Locked before it is read: of two that change it at once, each would note what both found as
    // what was there before its own.
    let before = if projects::lock_project(&mut tx, name).await? {
        let all = projects::list_projects(&mut tx).await?;
        all.into_iter().find(|project| project.name == *name)
    } else {
        if projects::count_projects(&mut tx).await? >= PROJECTS_MAX as u64 {
            let why = format!("there are {PROJECTS_MAX} projects, and no more fit");
            return Err(LifecycleError::BadSetting(why));
        }
        None
    };
    let weight = update
        .weight
        .or(before.as_ref().map(|project| project.weight));
    let weight = project::check_weight(weight.unwrap_or(1.0))
        .map_err(|why| LifecycleError::BadSetting(format!("weight: {why}")))?;
    let old = before
        .as_ref()
        .map(|project| project.quotas)
        .unwrap_or_default();
    let quotas = Quotas {
        gpus: update.gpus.unwrap_or(old.gpus),
        cpu_slots: update.cpu_slots.unwrap_or(old.cpu_slots),
        queued: update.queued.unwrap_or(old.queued),
        gpu_hours_week: update.gpu_hours_week.unwrap_or(old.gpu_hours_week),
        reset: update.reset.unwrap_or(old.reset),
    };
    check_quotas(&quotas)?;
    let kept = before
        .as_ref()
        .map(|project| project.retention)
        .unwrap_or_default();
    let retention = Retention {
        keep_days: update.keep_days.unwrap_or(kept.keep_days),
        keep_log_days: update.keep_log_days.unwrap_or(kept.keep_log_days),
    };
    retention.check().map_err(LifecycleError::BadSetting)?;
    let idle_stop_min = update
        .idle_stop_min
        .unwrap_or_else(|| before.as_ref()?.idle_stop_min);
    if let Some(minutes) = idle_stop_min {
        idle::check_stop(minutes).map_err(LifecycleError::BadSetting)?;
    }
    let set = Set {
        weight,
        quotas: &quotas,
        retention,
        idle_stop_min,
    };
    let text = change_text(before.as_ref(), &set);
    projects::upsert_project(&mut tx, name, &set, now).await?;
    if let Some(text) = text {
        let change = ProjectChange {
            text,
            caller: caller.to_owned(),
            at: now,
        };
        projects::insert_project_change(&mut tx, name, &change).await?;
        tracing::info!(project = %name, caller, change = change.text, "project set");
    }
    tx.commit().await?;
    // Only now that it is stored: a round that looked before would keep to the old figures.
    app.index.touch_projects();
    app.wake.notify_one();
    Ok(())
}

fn check_quotas(quotas: &Quotas) -> Result<()> {
    let most = i32::MAX.unsigned_abs();
    for (what, value) in [
        ("gpus", quotas.gpus),
        ("cpu_slots", quotas.cpu_slots),
        ("queued", quotas.queued),
    ] {
        if let Some(value) = value.filter(|value| *value > most) {
            let why = format!("{what}: {value} is out of range; give 0 to {most}, or \"none\"");
            return Err(LifecycleError::BadSetting(why));
        }
    }
    let is_bad = |hours: &f64| !hours.is_finite() || *hours < 0.0 || *hours > 1e9;
    if let Some(hours) = quotas.gpu_hours_week.filter(is_bad) {
        let why =
            format!("gpu_hours_week: {hours} is out of range; give 0 to 1000000000, or \"none\"");
        return Err(LifecycleError::BadSetting(why));
    }
    Ok(())
}

/// "weight 1 -> 2, gpus none -> 8"; None where nothing changes.
fn change_text(before: Option<&Project>, set: &Set<'_>) -> Option<String> {
    let words = |set: &Set<'_>| {
        let Set {
            weight,
            quotas,
            retention,
            idle_stop_min,
        } = *set;
        let number = |value: Option<u32>| value.map_or_else(|| "none".into(), |v| v.to_string());
        let hours = quotas.gpu_hours_week;
        [
            ("weight", weight.to_string()),
            ("gpus", number(quotas.gpus)),
            ("cpu_slots", number(quotas.cpu_slots)),
            ("queued", number(quotas.queued)),
            (
                "gpu_hours_week",
                hours.map_or_else(|| "none".into(), |hours| hours.to_string()),
            ),
            ("reset", quotas.reset.as_str().to_owned()),
            ("keep_days", number(retention.keep_days)),
            ("keep_log_days", number(retention.keep_log_days)),
            (
                "idle_stop",
                idle_stop_min.map_or_else(|| "none".into(), |minutes| format!("{minutes} min")),
            ),
        ]
    };
    let new = words(set);
    let Some(before) = before else {
        let set = new.into_iter().filter(|(_, value)| value != "none");
        let set: Vec<String> = set.map(|(what, value)| format!("{what} {value}")).collect();
        return Some(format!("made with {}", set.join(", ")));
    };
    let old = words(&Set {
        weight: before.weight,
        quotas: &before.quotas,
        retention: before.retention,
        idle_stop_min: before.idle_stop_min,
    });
    let changed: Vec<String> = old
        .into_iter()
        .zip(new)
        .filter(|(old, new)| old != new)
        .map(|((what, old), (_, new))| format!("{what} {old} -> {new}"))
        .collect();
    (!changed.is_empty()).then(|| changed.join(", "))
}

/// The quotas of the projects that a pipeline names, as far as they are there.
async fn quotas_of(app: &App, spec: &PipelineSpec) -> Result<Known> {
    let names: BTreeSet<&ProjectName> = spec.jobs.iter().map(|job| &job.sharing.project).collect();
    {
        let open = app.index.open();
        let accounts = &open.accounts;
        let of = |name: &&ProjectName| {
            let account = accounts.get(name.as_str())?;
            account.is_stored.then(|| ((*name).clone(), account.quotas))
        };
        let known: BTreeMap<ProjectName, Quotas> = names.iter().filter_map(of).collect();
        if accounts.is_loaded() && known.len() == names.len() {
            return Ok(Known {
                quotas: known,
                all: Vec::new(),
            });
        }
    }
    // Nobody has read them yet, or one was made just now.
    let mut conn = app.db.read().await?;
    let all = projects::list_projects(&mut conn).await?;
    let quotas = all
        .iter()
        .map(|project| (project.name.clone(), project.quotas));
    Ok(Known {
        quotas: quotas.collect(),
        all: all
            .into_iter()
            .map(|project| project.name.to_string())
            .collect(),
    })
}

struct Known {
    quotas: BTreeMap<ProjectName, Quotas>,
    /// Names of all projects, where one was missing.
    all: Vec<String>,
}

/// What is wrong with a pipeline's projects: names that no project has, and jobs that no quota of theirs would ever
/// let start.
pub(super) async fn check_projects(app: &App, spec: &PipelineSpec) -> Result<Vec<FieldError>> {
    let known = quotas_of(app, spec).await?;
    let check = |job: &JobSpec| {
        let project = &job.sharing.project;
        let error = |key: &str, message: String| {
            Some(FieldError {
                field: format!("jobs.{}.{key}", job.name),
                message,
            })
        };
        let Some(quotas) = known.quotas.get(project) else {
            let meant = nearest(project.as_str(), known.all.iter().map(String::as_str));
            let way = match meant {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("\"marquee project set {project}\" makes it"),
            };
            return error(
                "project",
                format!("there is no project {:?}; {way}", project.as_str()),
            );
        };
        let resources = &job.resources;
        let devices = resources.ranks.saturating_mul(resources.devices_per_rank);
        let quota = quotas.never_fits(resources.device, devices)?;
        error(
            "ranks",
            format!(
                "{} ranks need {devices} devices, and project {project} may have {quota}: it would never start; ask \
                 for fewer, or raise the quota (\"marquee quota {project}\")",
                resources.ranks
            ),
        )
    };
    Ok(spec.jobs.iter().filter_map(check).collect())
}

/// Refuses jobs that are more than their projects may have queued, whole arrays as one decision. Holds the lock of
/// each project that has such a quota, so that of two who come at once each counts the other.
pub(super) async fn check_queued(app: &App, tx: &mut Tx, spec: &PipelineSpec) -> Result<()> {
    let mut new: BTreeMap<&ProjectName, u64> = BTreeMap::new();
    for job in &spec.jobs {
        *new.entry(&job.sharing.project).or_default() += u64::from(job.array.unwrap_or(1));
    }
    // A quota that is being changed at this moment counts from the next submission on.
    let limits: Vec<(&ProjectName, u64, u64)> = {
        let open = app.index.open();
        let limits = new.into_iter().filter_map(|(name, more)| {
            let quota = open.accounts.get(name.as_str())?.quotas.queued?;
            Some((name, more, u64::from(quota)))
        });
        limits.collect()
    };
    // In the order of names: two pipelines of the same projects never wait for each other.
    for (name, more, quota) in limits {
        projects::lock_project(tx, name).await?;
        let queued = projects::count_queued(tx, name).await?;
        if queued + more > quota {
            return Err(LifecycleError::OverQuota(format!(
                "project {name} may have {quota} jobs queued, has {queued}, and this submission has {more} more; \
                 nothing was stored. Wait until some have run, submit fewer, or raise the quota (\"marquee quota \
                 {name}\")"
            )));
        }
    }
    Ok(())
}

/// A project with what it has queued and its newest changes, for whoever looks.
pub async fn queued_and_changes(
    conn: &mut Conn,
    name: &ProjectName,
    changes_max: u32,
) -> Result<(u64, Vec<ProjectChange>)> {
    let queued = projects::count_queued(conn, name).await?;
    let changes = projects::list_project_changes(conn, name, changes_max).await?;
    Ok((queued, changes))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use marquee_domain::project::Usage;

    use super::*;

    #[test]
    fn a_change_says_what_was_and_what_is() {
        let before = Project {
            name: ProjectName::default(),
            weight: 1.0,
            quotas: Quotas::default(),
            retention: Retention::default(),
            idle_stop_min: Some(30),
            usage: Usage::new(0.0, DateTime::UNIX_EPOCH),
        };
        let quotas = Quotas {
            gpus: Some(8),
            gpu_hours_week: Some(41.5),
            ..Quotas::default()
        };
        let same = Set {
            weight: 1.0,
            quotas: &Quotas::default(),
            retention: Retention::default(),
            idle_stop_min: Some(30),
        };
        let set = Set {
            weight: 2.0,
            quotas: &quotas,
            ..same
        };
        assert_eq!(
            change_text(Some(&before), &set).unwrap(),
            "weight 1 -> 2, gpus none -> 8, gpu_hours_week none -> 41.5"
        );
        let month = Set {
            retention: Retention {
                keep_days: Some(30),
                ..Retention::default()
            },
            idle_stop_min: None,
            ..same
        };
        assert_eq!(
            change_text(Some(&before), &month).unwrap(),
            "keep_days none -> 30, idle_stop 30 min -> none"
        );
        assert_eq!(change_text(Some(&before), &same), None);
        let new = Set {
            weight: 1.0,
            idle_stop_min: None,
            ..set
        };
        assert_eq!(
            change_text(None, &new).unwrap(),
            "made with weight 1, gpus 8, gpu_hours_week 41.5, reset rolling"
        );
    }

    #[test]
    fn quotas_that_are_none_are_refused_by_name() {
        for hours in [f64::NAN, f64::INFINITY, -1.0] {
            let quotas = Quotas {
                gpu_hours_week: Some(hours),
                ..Quotas::default()
            };
            let error = check_quotas(&quotas).unwrap_err().to_string();
            assert!(error.contains("gpu_hours_week"), "{error}");
        }
        let quotas = Quotas {
            gpus: Some(u32::MAX),
            ..Quotas::default()
        };
        assert!(
            check_quotas(&quotas)
                .unwrap_err()
                .to_string()
                .contains("gpus")
        );
    }

    #[test]
    fn quotas_are_taken_up_to_what_a_column_holds() {
        let most = i32::MAX.unsigned_abs();
        type Set = fn(&mut Quotas, u32);
        let sets: [(&str, Set); 3] = [
            ("gpus", |quotas, value| quotas.gpus = Some(value)),
            ("cpu_slots", |quotas, value| quotas.cpu_slots = Some(value)),
            ("queued", |quotas, value| quotas.queued = Some(value)),
        ];
        for (name, set) in sets {
            for (value, is_fine) in [
                (0, true),
                (most, true),
                (most + 1, false),
                (u32::MAX, false),
            ] {
                let mut quotas = Quotas::default();
                set(&mut quotas, value);
                let checked = check_quotas(&quotas);
                assert_eq!(checked.is_ok(), is_fine, "{name} {value}");
                if let Err(error) = checked {
                    let text = error.to_string();
                    assert!(
                        text.starts_with(name) && text.contains("or \"none\""),
                        "{text}"
                    );
                }
            }
        }
        for (hours, is_fine) in [
            (0.0, true),
            (-0.0, true),
            (1e9, true),
            (1e9 + 1.0, false),
            (f64::MIN, false),
        ] {
            let quotas = Quotas {
                gpu_hours_week: Some(hours),
                ..Quotas::default()
            };
            assert_eq!(check_quotas(&quotas).is_ok(), is_fine, "{hours}");
        }
        assert!(check_quotas(&Quotas::default()).is_ok());
    }

    #[test]
    fn a_quota_that_is_lifted_or_set_to_nothing_is_said_so() {
        let before = Project {
            name: ProjectName::default(),
            weight: 2.5,
            quotas: Quotas {
                gpus: Some(8),
                queued: Some(100),
                ..Quotas::default()
            },
            retention: Retention {
                keep_days: Some(30),
                ..Retention::default()
            },
            idle_stop_min: Some(30),
            usage: Usage::new(0.0, DateTime::UNIX_EPOCH),
        };
        let after = Quotas {
            gpus: None,
            queued: Some(0),
            ..before.quotas
        };
        let same = Set {
            weight: before.weight,
            quotas: &before.quotas,
            retention: before.retention,
            idle_stop_min: before.idle_stop_min,
        };
        let change = |set: &Set<'_>| change_text(Some(&before), set);
        assert_eq!(change(&same), None);
        let other_quotas = Set {
            quotas: &after,
            ..same
        };
        assert_eq!(
            change(&other_quotas).unwrap(),
            "gpus 8 -> none, queued 100 -> 0"
        );
        let for_ever = Set {
            retention: Retention::default(),
            idle_stop_min: None,
            ..same
        };
        assert_eq!(
            change(&for_ever).unwrap(),
            "keep_days 30 -> none, idle_stop 30 min -> none"
        );
    }
}
