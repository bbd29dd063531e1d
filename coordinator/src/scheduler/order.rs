//! In which order pending jobs are tried: by priority, then by what their projects used for their weight, then by
//! their positions, in which they were submitted.
//!
//! What a project uses grows as its jobs are placed, so the order of projects changes within a round. Jobs of one
//! priority and project always follow each other by position: a project has one heap of its lines, and moving the
//! project moves all of them.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::iter::Peekable;

use super::limits::Purses;
use super::queue::{Line, Position, Queue};
use super::shape::ProjectId;

/// The jobs of a line that have not been tried.
type Jobs<'q> = Peekable<std::iter::Copied<std::collections::btree_set::Iter<'q, Position>>>;
/// The first job of each line of one priority and project.
type Heads = BinaryHeap<Reverse<(Position, Line)>>;

/// What is left to try.
#[derive(Debug)]
pub(super) struct Order<'q> {
    lines: BTreeMap<Line, Jobs<'q>>,
    priorities: BTreeMap<Reverse<i32>, BTreeMap<ProjectId, Heads>>,
    /// The projects of the highest priority that is left, the next one first.
    next: BTreeSet<(Rank, Position, ProjectId)>,
}

/// What a project used for its weight: a number that is always one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rank(f64);

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl<'q> Order<'q> {
    pub(super) fn new(queue: &'q Queue) -> Self {
        let mut lines: BTreeMap<Line, Jobs<'q>> = queue
            .alike()
            .iter()
            .map(|(line, alike)| (*line, alike.jobs.iter().copied().peekable()))
            .collect();
        let mut priorities: BTreeMap<Reverse<i32>, BTreeMap<ProjectId, Heads>> = BTreeMap::new();
        for (line, jobs) in &mut lines {
            if let Some(job) = jobs.peek() {
                let projects = priorities.entry(Reverse(line.priority)).or_default();
                let heads = projects.entry(line.project).or_default();
                heads.push(Reverse((*job, *line)));
            }
        }
        Self {
            lines,
            priorities,
            next: BTreeSet::new(),
        }
    }

    /// The job to try next. It stays so until [`Self::placed`] or [`Self::leave`] is called.
    pub(super) fn head(&mut self, purses: &Purses) -> Option<(Line, Position)> {
        loop {
            // Priorities do not mix: whatever a project used, all jobs of a higher one are tried first.
            let projects = &self.priorities.first_key_value()?.1;
            if self.next.is_empty() {
                let first = projects.iter().filter_map(|(project, heads)| {
                    let Reverse((job, _)) = heads.peek()?;
                    Some((Rank(purses.rank(*project)), *job, *project))
                });
                self.next = first.collect();
            }
            let Some((_, _, project)) = self.next.first() else {
                self.priorities.pop_first();
                continue;
            };
            let Reverse((job, line)) = projects.get(project)?.peek()?;
            return Some((*line, *job));
        }
    }

    /// The head was placed: those behind it follow, and its project moves back by what it was charged.
    pub(super) fn placed(&mut self, purses: &Purses) {
        self.advance(purses, true);
    }

    /// The head does not fit, so none behind it in its line does.
    pub(super) fn leave(&mut self, purses: &Purses) {
        self.advance(purses, false);
    }

    fn advance(&mut self, purses: &Purses, goes_on: bool) {
        // Taken out and put in again below: what a project used has changed, and its place in the set is by that.
        let Some((_, _, project)) = self.next.pop_first() else {
            return;
        };
        let Some(mut first) = self.priorities.first_entry() else {
            return;
        };
        let Some(heads) = first.get_mut().get_mut(&project) else {
            return;
        };
        if let Some(Reverse((_, line))) = heads.pop()
            && goes_on
            && let Some(jobs) = self.lines.get_mut(&line)
        {
            jobs.next();
            if let Some(job) = jobs.peek() {
                heads.push(Reverse((*job, line)));
            }
        }
        match heads.peek() {
            Some(Reverse((job, _))) => {
                self.next
                    .insert((Rank(purses.rank(project)), *job, project));
            }
            None => {
                first.get_mut().remove(&project);
            }
        }
        if self.next.is_empty() {
            first.remove();
        }
    }
}
