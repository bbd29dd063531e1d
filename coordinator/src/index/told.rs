//! Which class of obstacle is stored for the jobs of each line, so that a round writes only what has changed.

use std::collections::BTreeMap;

use marquee_domain::ids::JobId;

use super::Open;
use crate::scheduler::Line;

/// What is stored of why the jobs of a line wait: of an array once for all its elements.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By job, or array with the number of its elements in the line: the class that is stored.
    pub(super) classes: BTreeMap<JobId, (usize, Option<String>)>,
    /// The class that all have; None: they differ, or nobody has looked.
    pub(super) all: Option<&'static str>,
}

impl Open {
    /// At most `max` jobs and arrays of a line whose stored class is another one.
    #[must_use]
    pub fn unlike(&self, line: Line, class: &'static str, max: usize) -> Vec<JobId> {
        let Some(told) = self.told.get(&line).filter(|told| told.all != Some(class)) else {
            return Vec::new();
        };
        let unlike = told
            .classes
            .iter()
            .filter(|(_, (_, stored))| stored.as_deref() != Some(class));
        unlike.map(|(job, _)| *job).take(max).collect()
    }

    /// Takes down that the class of what keeps these jobs and arrays of a line waiting was stored.
    pub fn told(&mut self, line: Line, class: &'static str, jobs: &[JobId]) {
        if let Some(told) = self.told.get_mut(&line) {
            for job in jobs {
                if let Some((_, stored)) = told.classes.get_mut(job) {
                    *stored = Some(class.to_owned());
                }
            }
            let all = told.classes.values();
            let alike = |(_, stored): &(usize, Option<String>)| stored.as_deref() == Some(class);
            told.all = all.clone().all(alike).then_some(class);
        }
    }
}
