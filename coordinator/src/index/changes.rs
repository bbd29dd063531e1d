//! What rows and rounds change of the index: jobs come, line up, are placed and go.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::JobId;
use marquee_store::open::{HeldRank, OpenJob};

use super::{Known, Open, Step};
use crate::scheduler::{Pending, RulesId, Shape};

impl Open {
    /// Forgets `jobs`, with the elements of those that are arrays, and takes in what was read of them.
    /// Returns the queued jobs that had waited for a twin which is no longer at its step.
    pub fn replace(&mut self, jobs: &BTreeSet<JobId>, read: Vec<OpenJob>) -> Vec<JobId> {
        let mut elements = Vec::new();
        for job in jobs {
            // Before anything is forgotten, since with its last element an array's list goes too.
            let of_array = self.elements.get(job);
            elements.extend(of_array.into_iter().flat_map(|of| of.all.iter().copied()));
            // What is read of its elements says it anew.
            self.to_come.remove(job);
        }
        let mut freed = Vec::new();
        for job in jobs.iter().copied().chain(elements) {
            freed.extend(self.forget(job));
        }
        for job in read {
            self.take_in(job);
        }
        let elements = &self.elements;
        // After what was read is taken in: an array whose last known element was only replaced keeps its spec.
        self.specs.retain(|array, _| elements.contains_key(array));
        if freed.is_empty() {
            return Vec::new();
        }
        // The step may have gone on with the job that had it.
        freed.retain(|step| !self.steps.contains_key(step));
        let waiting = self.jobs.iter().filter(|(_, known)| {
            known.twin.is_some() && known.step.as_ref().is_some_and(|step| freed.contains(step))
        });
        let mut waiting: Vec<JobId> = waiting.map(|(job, _)| *job).collect();
        waiting.sort_unstable();
        waiting
    }

    /// Takes down how long those of `jobs` ran that are known here and have succeeded.
    pub fn learn_lengths(&mut self, jobs: &BTreeSet<JobId>, now: DateTime<Utc>) {
        for job in jobs {
            let Some(known) = self.jobs.get(job) else {
                continue;
            };
            if let Some(started_at) = known.started_at {
                self.lengths.learn(Step::of(&known.spec), now - started_at);
            }
        }
    }

    /// Returns the step that the job was at.
    fn forget(&mut self, job: JobId) -> Option<Digest> {
        self.leave_queue(job);
        self.running.remove(&job);
        self.preemptible.remove(&job);
        self.saved_at.remove(&job);
        let known = self.jobs.remove(&job)?;
        if let Some(deadline) = known.spec.sharing.deadline {
            self.deadlines.remove(&(deadline, job));
        }
        self.rules.leave(known.shape.rules.0);
        self.turns
            // While something of it is left on a host its turn is not over: the next job of its key must not meet it
            // there.
            .leave(known.group, job, self.held_by.contains_key(&job));
        if let Some((array, _)) = known.element {
            self.element_goes(array, job, known.is_running);
        }
        let step = known.step?;
        (self.steps.get(&step) == Some(&job)).then(|| {
            self.steps.remove(&step);
            step
        })
    }

    fn take_in(&mut self, job: OpenJob) {
        let spec = match (job.spec, job.element) {
            (Some(Ok(spec)), _) => Some(Arc::new(spec)),
            (None, Some((array, _))) => self.specs.get(&array).map(Arc::clone),
            (Some(Err(_)) | None, _) => None,
        };
        let Some(spec) = spec else {
            // Queued, it fails for it, or its array does. Running, its time still counts, and its end.
            if job.is_running {
                self.running.insert(job.id);
            }
            return;
        };
        let obstacle = job.obstacle.as_ref().and_then(|obstacle| {
            let class = obstacle.get("class")?.as_str()?;
            Some(class.to_owned())
        });
        if let Some((array, _)) = job.element {
            self.element_comes(array, job.id, job.is_running);
            self.set_to_come(array, job.to_come);
        }
        let rules = match &spec.sharing.hosts {
            rules if rules.is_empty() => RulesId::NONE,
            rules => RulesId(self.rules.take(rules)),
        };
        let group = self.turns.join(&spec, job.element.map(|(array, _)| array));
        if job.is_running {
            self.turns.run(group, job.id);
            if spec.sharing.preemptible {
                self.preemptible.insert(job.id);
            }
        } else if let Some(deadline) = spec.sharing.deadline {
            self.deadlines.insert((deadline, job.id));
        }
        let known = Known {
            pipeline: job.pipeline_id,
            shape: Shape::of(&spec, rules, self.expected_s(&spec)),
            group,
            started_at: job.started_at,
            held: job.held,
            is_leaving: job.is_leaving,
            idle_since: job.idle_since.filter(|_| job.is_running),
            preempted: job.preempted,
            element: job.element,
            attempt: job.attempt,
            is_running: job.is_running,
            spec,
            priority: job.priority,
            queued_at: job.queued_at,
            not_before: job.not_before,
            step: job.step,
            obstacle,
            twin: None,
        };
        if known.is_running {
            self.running.insert(job.id);
        }
        self.jobs.insert(job.id, known);
        self.line_up(job.id);
    }

    /// Puts a queued job into the queue, unless another one is at the same step.
    pub(super) fn line_up(&mut self, id: JobId) {
        // Without one code for all, nobody's result can stand for another's.
        let shares = self.common_code().is_some();
        let Some(known) = self.jobs.get_mut(&id) else {
            return;
        };
        let shares = shares && known.spec.reuse;
        if let Some(step) = known.step.clone().filter(|_| shares) {
            let first = *self.steps.entry(step).or_insert(id);
            known.twin = (first != id && !known.is_running).then_some(first);
        }
        // Only what could start stands in the queue. One that is held, or waits for its twin, is known here
        // all the same.
        if known.is_running || known.twin.is_some() || known.held.is_some() {
            return;
        }
        let pending = Pending {
            job: id,
            array: known.element.map(|(array, _)| array),
            shape: known.shape,
            priority: known.priority,
            project: self.accounts.id(known.spec.sharing.project.as_str()),
            group: known.group,
            queued_at: known.queued_at,
            not_before: known.not_before.max(known.spec.sharing.start_after),
        };
        let owner = known.element.map_or(id, |(array, _)| array);
        let told = self.told.entry(pending.line()).or_default();
        let (jobs, class) = told
            .classes
            .entry(owner)
            .or_insert_with(|| (0, known.obstacle.clone()));
        *jobs += 1;
        if class.as_deref() != told.all {
            told.all = None;
        }
        self.queue.insert(pending);
    }

    pub(super) fn leave_queue(&mut self, job: JobId) {
        let Some(pending) = self.queue.remove(job) else {
            return;
        };
        let element = self.jobs.get(&job).and_then(|known| known.element);
        let owner = element.map_or(job, |(array, _)| array);
        let line = pending.line();
        if let Some(told) = self.told.get_mut(&line) {
            if let Some((jobs, _)) = told.classes.get_mut(&owner) {
                *jobs -= 1;
                if *jobs == 0 {
                    told.classes.remove(&owner);
                }
            }
            if told.classes.is_empty() {
                self.told.remove(&line);
            }
        }
    }

    /// Takes down that running jobs were asked to make room.
    pub fn asked_to_leave(&mut self, jobs: &[JobId]) {
        for job in jobs {
            if let Some(known) = self.jobs.get_mut(job) {
                known.is_leaving = true;
            }
        }
    }

    /// Takes a job out that has ended, before its end is read.
    pub fn settled(&mut self, job: JobId) {
        self.forget(job);
    }

    /// Takes down what a queued job does, now that somebody has looked.
    pub fn learn_step(&mut self, job: JobId, step: Digest) {
        self.leave_queue(job);
        if let Some(known) = self.jobs.get_mut(&job) {
            known.step = Some(step);
        }
        self.line_up(job);
    }

    /// Keeps a queued job out of the line for a while. Nothing of that is stored: whoever reads its row anew lines it up.
    pub fn put_off(&mut self, job: JobId, until: DateTime<Utc>) {
        let Some(known) = self.jobs.get(&job).filter(|known| !known.is_running) else {
            return;
        };
        let until = known.not_before.max(Some(until));
        self.leave_queue(job);
        if let Some(known) = self.jobs.get_mut(&job) {
            known.not_before = until;
        }
        self.line_up(job);
    }

    /// Tries again to line up a job that had waited for a twin.
    pub fn without_twin(&mut self, job: JobId) {
        if let Some(known) = self.jobs.get_mut(&job) {
            known.twin = None;
        }
        self.line_up(job);
    }

    /// Takes down that a placement was committed.
    pub fn placed(
        &mut self,
        job: JobId,
        ranks: impl IntoIterator<Item = HeldRank>,
        now: DateTime<Utc>,
    ) {
        // Not left to the next reading of rows: a plan that is made before that would give these devices away
        // again.
        self.leave_queue(job);
        self.claims.remove(&job);
        let queued = self.jobs.get(&job).filter(|known| !known.is_running);
        if let Some((array, _)) = queued.and_then(|known| known.element) {
            self.element_runs(array);
        }
        if let Some(known) = self.jobs.get_mut(&job) {
            self.running.insert(job);
            self.turns.run(known.group, job);
            if known.spec.sharing.preemptible {
                self.preemptible.insert(job);
            }
            if let Some(deadline) = known.spec.sharing.deadline {
                self.deadlines.remove(&(deadline, job));
            }
            known.started_at = Some(now);
            known.is_leaving = false;
            known.idle_since = None;
            known.is_running = true;
            known.attempt += 1;
            known.not_before = None;
            known.obstacle = None;
        }
        for rank in ranks {
            self.hold(rank);
        }
    }
}
