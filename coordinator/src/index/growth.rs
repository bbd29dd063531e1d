//! Gangs that go on with fewer ranks than they asked for, and which of them may take new ones now.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use marquee_domain::ids::JobId;

use super::Open;
use crate::scheduler::{ENDS_SOON, GROWS_AFTER, GROWS_AFTER_LOSS, Shape, Short};

impl Open {
    /// Running jobs that may have lost ranks: whoever wants to know looks at their rows.
    #[must_use]
    pub fn may_be_short(&self) -> Vec<JobId> {
        let elastic = |job: &JobId| {
            let known = self.jobs.get(job);
            known.is_some_and(|known| known.spec.resources.min_ranks.is_some() && !known.is_leaving)
        };
        self.running().filter(elastic).collect()
    }

    /// Gangs that may be asked to take new ranks now.
    #[must_use]
    pub fn may_grow(&self, now: DateTime<Utc>) -> Vec<Short> {
        let short = self.short.iter().filter_map(|short| {
            let known = self.jobs.get(&short.job)?;
            // Which gangs are short was read a while ago: by now the job may be at another attempt.
            let is_it = known.is_running && !known.is_leaving && known.attempt == short.attempt.0;
            let has_run = now - known.started_at? >= GROWS_AFTER;
            let is_settled = now - short.lost_at >= GROWS_AFTER_LOSS;
            let ends = self.planned_end(short.job, now);
            let goes_on = ends.is_none_or(|(end, _)| end - now > ENDS_SOON);
            let project = known.spec.sharing.project.as_str();
            let grown = Short {
                job: short.job,
                shape: known.shape,
                priority: known.priority,
                project: self.accounts.known_id(project)?,
                unproven: short.unproven.clone(),
            };
            (is_it && has_run && is_settled && goes_on).then_some(grown)
        });
        short.collect()
    }

    /// Gangs that were asked to and have not left yet.
    pub(super) fn growing(&self) -> BTreeMap<JobId, Shape> {
        let claims = self.claims.iter().filter(|(_, claim)| claim.is_growth());
        let leaving = claims.filter_map(|(job, _)| {
            let known = self.jobs.get(job)?;
            (known.is_running && known.is_leaving).then_some((*job, known.shape))
        });
        leaving.collect()
    }
}
