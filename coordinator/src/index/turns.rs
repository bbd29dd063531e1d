//! Groups of which only some jobs may run at a time: elements of an array with `at_once`, and jobs of one
//! concurrency key.
//!
//! Invariant: a job has its turn from its placement until it runs no more and nothing of it is left on a host:
//! two of one key never meet, not even while the first is being stopped.

use std::collections::{BTreeSet, HashMap};

use marquee_domain::ids::JobId;
use marquee_domain::project::ProjectName;
use marquee_domain::spec::JobSpec;

use super::names::Names;
use crate::scheduler::Group;

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Turns {
    keys: Names<(ProjectName, String)>,
    groups: HashMap<Group, Members>,
    /// Jobs that have their turn.
    having: HashMap<JobId, Group>,
}

#[derive(Debug, Default)]
struct Members {
    limit: u32,
    /// Open jobs of it.
    open: usize,
    running: BTreeSet<JobId>,
}

impl Turns {
    /// A job is open: gives its group. `array` is the one that it is an element of.
    pub(super) fn join(&mut self, spec: &JobSpec, array: Option<JobId>) -> Group {
        let sharing = &spec.sharing;
        // A key goes first: whoever gives one wants it to hold for all jobs that have it, elements included.
        let (group, limit) = match (&sharing.concurrency_key, sharing.at_once, array) {
            (Some(key), _, _) => {
                let key = self.keys.take(&(sharing.project.clone(), key.clone()));
                (Group::Key(key), 1)
            }
            (None, Some(at_once), Some(array)) => (Group::Array(array), at_once),
            (None, _, _) => return Group::None,
        };
        let is_new = !self.groups.contains_key(&group);
        let members = self.groups.entry(group).or_default();
        members.limit = limit;
        members.open += 1;
        // A key has its number for as long as its group is there.
        if let (Group::Key(key), false) = (group, is_new) {
            self.keys.leave(key);
        }
        group
    }

    /// A job has its turn.
    pub(super) fn run(&mut self, group: Group, job: JobId) {
        if let Some(members) = self.groups.get_mut(&group) {
            members.running.insert(job);
            self.having.insert(job, group);
        }
    }

    /// A job is not open any more, or is read anew. While it `holds` devices it keeps its turn.
    pub(super) fn leave(&mut self, group: Group, job: JobId, holds: bool) {
        if let Some(members) = self.groups.get_mut(&group) {
            members.open = members.open.saturating_sub(1);
            if !holds {
                members.running.remove(&job);
                self.having.remove(&job);
            }
        }
        self.tidy(group);
    }

    /// Nothing of a job that does not run is left on any host.
    pub(super) fn free(&mut self, job: JobId) {
        let Some(group) = self.having.remove(&job) else {
            return;
        };
        if let Some(members) = self.groups.get_mut(&group) {
            members.running.remove(&job);
        }
        self.tidy(group);
    }

    /// Forgets a group without members.
    fn tidy(&mut self, group: Group) {
        let is_empty = |members: &Members| members.open == 0 && members.running.is_empty();
        if self.groups.get(&group).is_some_and(is_empty) {
            self.groups.remove(&group);
            if let Group::Key(key) = group {
                self.keys.leave(key);
            }
        }
    }

    /// How many more of each group may start.
    pub(super) fn left(&self) -> HashMap<Group, u32> {
        let left = |members: &Members| {
            let running = u32::try_from(members.running.len()).unwrap_or(u32::MAX);
            members.limit.saturating_sub(running)
        };
        self.groups
            .iter()
            .map(|(group, members)| (*group, left(members)))
            .collect()
    }

    /// At most `max` jobs of a group that have their turn.
    pub(super) fn running_of(&self, group: Group, max: usize) -> Vec<JobId> {
        let members = self.groups.get(&group);
        let running = members.into_iter().flat_map(|members| &members.running);
        running.take(max).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use marquee_domain::pipeline::{DocumentText, parse_job};

    use super::*;

    fn spec(keys: &str) -> JobSpec {
        let text = format!("kind = \"command\"\nargv = [\"true\"]\n{keys}");
        let spec = parse_job("job", DocumentText::Toml(&text), &[], None).unwrap();
        spec.jobs.into_iter().next().unwrap()
    }

    #[test]
    fn one_of_a_key_has_its_turn_until_nothing_of_it_is_left() {
        let mut turns = Turns::default();
        let key = spec("concurrency_key = \"nightly\"");
        let group = turns.join(&key, None);
        assert_eq!(turns.join(&key, None), group);
        assert_eq!(turns.left()[&group], 1);
        turns.run(group, JobId(1));
        assert_eq!(turns.left()[&group], 0);
        assert_eq!(turns.running_of(group, 9), [JobId(1)]);
        // It has ended, and its last rank is still being stopped: a newcomer meets the same group.
        turns.leave(group, JobId(1), true);
        turns.leave(group, JobId(2), false);
        assert_eq!(turns.join(&key, None), group);
        assert_eq!(turns.left()[&group], 0);
        turns.free(JobId(1));
        assert_eq!(turns.left()[&group], 1);
        turns.leave(group, JobId(3), false);
        assert!(
            turns.left().is_empty(),
            "nothing is kept of a group without members"
        );
        // Another project's key of the same name is another one.
        let other = spec("concurrency_key = \"nightly\"\nproject = \"vision\"");
        assert_ne!(turns.join(&other, None), turns.join(&key, None));
    }

    #[test]
    fn so_many_elements_of_an_array_run_at_once() {
        let mut turns = Turns::default();
        let array = spec("array = 5\nat_once = 2");
        let groups: Vec<Group> = (0..5)
            .map(|index| turns.join(&array.element_at(index), Some(JobId(7))))
            .collect();
        assert_eq!(groups, [Group::Array(JobId(7)); 5]);
        turns.run(groups[0], JobId(8));
        turns.run(groups[1], JobId(9));
        assert_eq!(turns.left()[&groups[0]], 0);
        assert_eq!(turns.join(&spec("array = 5"), Some(JobId(7))), Group::None);
        assert_eq!(turns.join(&spec(""), None), Group::None);
    }
}
