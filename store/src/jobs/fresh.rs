//! Jobs as they are read right after they were stored, without reading them.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound as _, Utc};
use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::job::JobState;
use marquee_domain::spec::NeedOn;

use super::{ElementCounts, Job, NewJob};

/// What [`list_pipeline_jobs`](super::list_pipeline_jobs) gives of jobs that [`insert_jobs`](super::insert_jobs) has just
/// stored under `ids`: who stores one job after the other is spared the most expensive statement of it.
#[must_use]
pub fn as_stored(
    (pipeline, name): (PipelineId, &JobName),
    ids: &[JobId],
    new: &[NewJob<'_>],
    now: DateTime<Utc>,
) -> Vec<Job> {
    let job = |(id, of): (&JobId, &NewJob<'_>)| {
        // By their places, as they are read.
        let mut needs = of.needs.clone();
        needs.sort_unstable_by_key(|(place, _)| *place);
        let needs: Vec<(JobName, NeedOn)> = needs
            .into_iter()
            .filter_map(|(place, on)| {
                let needed = new.get(usize::try_from(place).ok()?)?;
                Some((needed.spec.name.clone(), on))
            })
            .collect();
        let waits = !needs.is_empty();
        let state = if waits || of.spec.array.is_some() {
            JobState::Waiting {
                reason: String::new(),
            }
        } else {
            JobState::Queued {
                reason: String::new(),
                not_before: None,
            }
        };
        let elements = of.spec.array.map(|size| ElementCounts {
            waiting: if waits { size } else { 0 },
            queued: if waits { 0 } else { size },
            ..ElementCounts::default()
        });
        Job {
            id: *id,
            pipeline_id: pipeline,
            pipeline_name: name.clone(),
            name: of.spec.name.clone(),
            kind: of.spec.work.kind(),
            state,
            attempt: 0,
            max_attempts: of.spec.max_attempts,
            ranks: of.spec.resources.ranks,
            priority: of.spec.priority,
            // Postgres keeps no more of it.
            created_at: now.trunc_subsecs(6),
            started_at: None,
            failure: None,
            progress: None,
            artifact: None,
            waits_for: needs.clone(),
            needs,
            is_not_needed: false,
            obstacle: None,
            elements,
            element: None,
            values: BTreeMap::new(),
            reused_from: None,
            project: of.spec.sharing.project.to_string(),
            held: None,
            makes_room: None,
        }
    };
    ids.iter().zip(new).map(job).collect()
}
