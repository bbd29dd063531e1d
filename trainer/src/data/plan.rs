//! Which pictures belong to which step and rank.

use std::ops::Range;
use std::sync::Arc;

use marquee_domain::spec::{Shuffle, TrainSettings};

use super::mixing;
use super::mixing::Mixing;
use super::order::EpochOrder;
use super::random::{dice, is_flipped, mixing_dice};
use super::request::{Picture, Request, View};
use super::sampler::Sampler;
use super::share::share;

/// The plan of a training run, for one rank.
///
/// Step s of an epoch takes the positions `s * batch_size ..` of the epoch's order; the last step
/// takes what is left. Ranks share each step's positions evenly, so that the same pictures make up a
/// step however many ranks there are.
#[derive(Debug, Clone)]
pub(crate) struct StepPlan {
    pub(crate) rows: u64,
    batch_size: u64,
    epochs: u32,
    max_steps: Option<u64>,
    seed: u64,
    shuffle: Shuffle,
    flip: bool,
    /// None: every row comes once in an epoch.
    sampler: Option<Arc<Sampler>>,
    mixing: Mixing,
    rank: u32,
    world_size: u32,
}

impl StepPlan {
    pub(crate) fn new(settings: &TrainSettings, rows: u64, rank: u32, world_size: u32) -> Self {
        Self {
            rows,
            batch_size: u64::from(settings.batch_size.max(1)),
            epochs: settings.epochs,
            max_steps: settings.max_steps,
            seed: settings.seed,
            shuffle: settings.learning.shuffle,
            flip: settings.flip,
            sampler: None,
            mixing: Mixing::of(&settings.learning),
            rank,
            world_size,
        }
    }

    /// The same plan with rows drawn by `sampler`.
    pub(crate) fn with_sampler(self, sampler: Option<Sampler>) -> Self {
        let sampler = sampler.map(Arc::new);
        Self { sampler, ..self }
    }

    /// The same plan for another rank, or among another number of them.
    pub(crate) fn of_rank(&self, rank: u32, world_size: u32) -> Self {
        Self {
            rank,
            world_size,
            ..self.clone()
        }
    }

    /// Epochs that are trained, the last perhaps in part.
    pub(crate) fn epochs(&self) -> u64 {
        self.total_steps().div_ceil(self.steps_per_epoch())
    }

    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch_size)
    }

    /// Steps of the whole run.
    pub(crate) fn total_steps(&self) -> u64 {
        let all = self.steps_per_epoch() * u64::from(self.epochs);
        self.max_steps.map_or(all, |most| most.min(all))
    }

    /// The epoch of `step`, from 0.
    pub(crate) fn epoch_of(&self, step: u64) -> u32 {
        u32::try_from(step / self.steps_per_epoch())
            .expect("epochs are u32, and so is the epoch of a step")
    }

    /// Whether an epoch, or the whole run, is over once `steps` steps are done.
    pub(crate) fn ends_epoch(&self, steps: u64) -> bool {
        steps.is_multiple_of(self.steps_per_epoch()) || steps == self.total_steps()
    }

    /// Pictures over all ranks that the current epoch has had once `steps` steps are done.
    pub(crate) fn pictures_in_epoch(&self, steps: u64) -> u64 {
        match steps % self.steps_per_epoch() {
            0 if steps > 0 => self.rows,
            within => within * self.batch_size,
        }
    }

    /// What this rank sees in `step`, counted from 0 over the whole run.
    pub(crate) fn request(&self, step: u64) -> Request {
        let epoch = self.epoch_of(step);
        // Made anew for each step: it is a few numbers, and a step then depends on no step before
        // it.
        let order = EpochOrder::new(self.shuffle, self.seed, epoch, self.rows);
        let first = step % self.steps_per_epoch() * self.batch_size;
        let global = self.batch_size.min(self.rows - first);
        let mine = share(global, self.rank, self.world_size);
        let (is_stand_in, first_of_mine) = (mine.is_empty(), mine.start);
        // A rank without a picture takes part in the step's exchanges all the same, with one that does not count.
        let positions = if is_stand_in { 0..1 } else { mine };
        let view = |position| {
            let row = match &self.sampler {
                Some(sampler) => sampler.row(self.seed, epoch, position),
                None => order.row(position),
            };
            // By row and epoch alone: whichever rank shows it, and in whichever attempt, a picture looks the
            // same.
            View {
                row,
                is_flipped: self.flip && is_flipped(self.seed, epoch, row),
                dice: dice(self.seed, epoch, row),
            }
        };
        let picture = |place| {
            let position = first + place;
            let mixing_dice = mixing_dice(self.seed, epoch, position);
            // Any picture of the epoch, as the epoch shows it: the same on every rank.
            let partner = self
                .mixing
                .happens(mixing_dice)
                .then(|| view(mixing::partner(mixing_dice, self.rows)));
            Picture {
                view: view(position),
                partner: partner.map(|partner| (partner, mixing_dice)),
            }
        };
        Request {
            pictures: positions.map(picture).collect(),
            is_stand_in,
            global,
            first: first_of_mine,
            ahead: self.ahead(&order, first..first + global),
        }
    }

    /// Rows that should be read into memory now, because this rank needs them soon. `step` are the
    /// positions of the step at hand.
    ///
    /// A shuffle by shards goes through the set part by part. When a step enters a part, the rows of the
    /// *next* part are asked for, so that the disk has the time of a whole part to read them. The first
    /// step of an epoch asks for its own part too, since nobody has.
    fn ahead(&self, order: &EpochOrder, step: Range<u64>) -> Vec<u64> {
        let EpochOrder::Shards(shards) = order else {
            return Vec::new();
        };
        // Drawn rows lie anywhere: there is no part that comes next.
        if self.sampler.is_some() {
            return Vec::new();
        }
        // The position up to which all rows have been asked for by the steps before `end`.
        let announced = |end: u64| match end.checked_sub(1) {
            Some(last) => {
                let next = (shards.part_of(last) + 1).min(shards.parts() - 1);
                shards.part(next).end
            }
            None => 0,
        };
        let (from, to) = (announced(step.start), announced(step.end));
        let mut rows: Vec<u64> = (from..to)
            .filter(|position| self.is_mine(*position))
            .map(|position| shards.row(position))
            .collect();
        // As they lie on the disk: a hint to read ahead is worth most in one direction.
        rows.sort_unstable();
        rows
    }

    /// Whether this rank sees the picture at a position of an epoch.
    fn is_mine(&self, position: u64) -> bool {
        let first = position - position % self.batch_size;
        let global = self.batch_size.min(self.rows - first);
        share(global, self.rank, self.world_size).contains(&(position - first))
    }

    /// All that this rank sees from `step` on.
    pub(crate) fn requests_from(&self, step: u64) -> Requests {
        Requests {
            steps: step..self.total_steps(),
            plan: self.clone(),
        }
    }
}

/// The requests of many steps. Skipping some costs nothing, so that several threads can share them.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    plan: StepPlan,
    steps: Range<u64>,
}

impl Iterator for Requests {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        self.steps.next().map(|step| self.plan.request(step))
    }

    fn nth(&mut self, skipped: usize) -> Option<Request> {
        self.steps.nth(skipped).map(|step| self.plan.request(step))
    }
}

#[cfg(test)]
mod tests;
