//! The open elements of arrays, and how many of each array are no jobs yet: those stand behind the ones that are.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use marquee_domain::ids::JobId;
use marquee_domain::limits::{ELEMENTS_AHEAD_MIN, ELEMENTS_IN_LINE};
use marquee_store::workers::WorkerState;

use super::Open;
use crate::scheduler::Pending;

/// Those of one array that are open and known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    pub(super) all: BTreeSet<JobId>,
    /// How many of them run.
    pub(super) running: usize,
}

impl Open {
    /// How many elements of one array stand in line, where as many as `most` may: fewer where there are many arrays.
    #[must_use]
    pub fn elements_ahead(&self, most: u32) -> u32 {
        let arrays = self.elements.len().max(self.to_come.len());
        let arrays = u32::try_from(arrays).unwrap_or(u32::MAX);
        let share = ELEMENTS_IN_LINE / arrays.saturating_add(1);
        most.min(share.max(ELEMENTS_AHEAD_MIN))
    }

    /// How many elements of which arrays are to become jobs, those that start first in front. Of each at least half of what
    /// [`elements_ahead`](Self::elements_ahead) says stands in line, and of those in front as many as there are devices:
    /// whatever comes free goes to them, and not to who was submitted later.
    #[must_use]
    pub fn elements_wanted(&self, most: u32) -> Vec<(JobId, u32)> {
        if self.to_come.is_empty() {
            return Vec::new();
        }
        let half = self.elements_ahead(most).div_ceil(2);
        let mut devices = self.devices();
        let mut wanted = Vec::new();
        for (array, left) in self.in_order() {
            let of_array = self.elements.get(&array);
            let waiting = of_array.map_or(0, |of| of.all.len().saturating_sub(of.running));
            let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
            let least = half.max(devices);
            // Those behind it get what it cannot fill.
            devices = devices.saturating_sub(waiting.saturating_add(left));
            // Many at a time: made one by one, each would cost a transaction.
            if waiting < least {
                wanted.push((array, (least + half - waiting).min(left)));
            }
        }
        wanted
    }

    /// The arrays of which elements are to come, the higher priority first and then the older.
    fn in_order(&self) -> Vec<(JobId, u32)> {
        let mut arrays: Vec<(JobId, u32)> = self
            .to_come
            .iter()
            .map(|(array, left)| (*array, *left))
            .collect();
        arrays.sort_by_key(|(array, _)| {
            let of_array = self.elements.get(array);
            let one = of_array.and_then(|of| self.jobs.get(of.all.first()?));
            // Of one of which nobody stands in line nobody knows: it is soon known.
            Reverse(one.map_or(i32::MAX, |known| known.priority))
        });
        arrays
    }

    /// Devices of all workers that are here.
    fn devices(&self) -> u32 {
        let online = self.workers.iter().filter(|worker| match worker.state {
            WorkerState::Online => true,
            WorkerState::Lost | WorkerState::Left => false,
        });
        let devices = online.filter_map(|worker| {
            let inventory = worker.inventory.as_ref().ok()?;
            let gpus = u32::try_from(inventory.gpus.len()).unwrap_or(u32::MAX);
            Some(inventory.cpu_slots.saturating_add(gpus))
        });
        devices.fold(0, u32::saturating_add)
    }

    /// Takes down how many elements of an array are to come.
    pub fn set_to_come(&mut self, array: JobId, left: u32) {
        if left == 0 {
            self.to_come.remove(&array);
        } else {
            self.to_come.insert(array, left);
        }
    }

    /// The same of all arrays.
    pub fn set_all_to_come(&mut self, arrays: Vec<(JobId, u32)>) {
        self.to_come = arrays.into_iter().collect();
    }

    /// Of each array that stands in the queue and has elements that are to come: one that stands there for them, and
    /// their number.
    pub fn queued_to_come(&self) -> impl Iterator<Item = (&Pending, u32)> {
        self.to_come.iter().filter_map(|(array, left)| {
            let mut of_array = self.elements.get(array)?.all.iter();
            let pending = of_array.find_map(|element| self.queue.get(*element))?;
            Some((pending, *left))
        })
    }

    pub(super) fn element_comes(&mut self, array: JobId, element: JobId, runs: bool) {
        let of_array = self.elements.entry(array).or_default();
        let is_new = of_array.all.insert(element);
        of_array.running += usize::from(runs && is_new);
    }

    pub(super) fn element_runs(&mut self, array: JobId) {
        if let Some(of_array) = self.elements.get_mut(&array) {
            of_array.running += 1;
        }
    }

    pub(super) fn element_goes(&mut self, array: JobId, element: JobId, ran: bool) {
        let Some(of_array) = self.elements.get_mut(&array) else {
            return;
        };
        let was_there = of_array.all.remove(&element);
        of_array.running -= usize::from(ran && was_there);
        if of_array.all.is_empty() {
            self.elements.remove(&array);
        }
    }
}
