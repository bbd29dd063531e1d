//! Which pictures belong to which step and rank.

use std::ops::Range;
use std::sync::Arc;

use marquee_domain::spec::{Shuffle, TrainSettings};

use super::mixing::Mixing;
use super::order::{EpochOrder, dice, is_flipped, mixing_dice, share};
use super::{Sampler, mixing};

/// One row as a step sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) row: u64,
    pub(crate) is_flipped: bool,
    /// Random bits for what else happens to it.
    pub(crate) dice: u64,
}

/// One picture of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) view: View,
    /// What it is mixed with, and random bits that say how.
    pub(crate) partner: Option<(View, u64)>,
}

impl Picture {
    /// A row as it lies in the shards.
    pub(crate) fn plain(row: u64, is_flipped: bool) -> Self {
        let dice = 0;
        Self {
            view: View {
                row,
                is_flipped,
                dice,
            },
            partner: None,
        }
    }
}

/// The pictures of one batch of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// At least one.
    pub(crate) pictures: Vec<Picture>,
    /// The rank has no picture in this step: the one above is there only so that it can take part
    /// in the exchange of gradients, and counts nothing.
    pub(crate) is_stand_in: bool,
    /// Pictures of the step over all ranks.
    pub(crate) global: u64,
    /// Place of this rank's first picture in the step.
    pub(crate) first: u64,
    /// Rows that this rank will read in the next steps, as they lie on disk. Empty but where a new
    /// part of a shuffle by shards begins.
    pub(crate) ahead: Vec<u64>,
}

impl Request {
    /// Rows to read for themselves, each mirrored or not.
    pub(crate) fn of_rows(rows: impl Iterator<Item = (u64, bool)>) -> Self {
        let pictures: Vec<Picture> = rows
            .map(|(row, is_flipped)| Picture::plain(row, is_flipped))
            .collect();
        Self {
            global: pictures.len() as u64,
            pictures,
            is_stand_in: false,
            first: 0,
            ahead: Vec::new(),
        }
    }
}

/// The plan of a training run, for one rank.
///
/// Step s of an epoch takes the positions `s * batch_size ..` of the epoch's order; the last step
/// takes what is left. Ranks share each step's positions evenly, so that the same pictures make up a
/// step however many ranks there are.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
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

impl Plan {
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
        let order = EpochOrder::new(self.shuffle, self.seed, epoch, self.rows);
        let first = step % self.steps_per_epoch() * self.batch_size;
        let global = self.batch_size.min(self.rows - first);
        let mine = share(global, self.rank, self.world_size);
        let (is_stand_in, first_of_mine) = (mine.is_empty(), mine.start);
        let positions = if is_stand_in { 0..1 } else { mine };
        let view = |position| {
            let row = match &self.sampler {
                Some(sampler) => sampler.row(self.seed, epoch, position),
                None => order.row(position),
            };
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

    /// What this rank reads in the part that follows the one that begins within `step`, the positions
    /// of one step; with the first part of an epoch, what it reads in that one too.
    fn ahead(&self, order: &EpochOrder, step: Range<u64>) -> Vec<u64> {
        let EpochOrder::Shards(shards) = order else {
            return Vec::new();
        };
        if self.sampler.is_some() {
            return Vec::new();
        }
        // Up to here the steps up to and with the one that ends there have announced all.
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
    plan: Plan,
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

/// Batches in which one rank scores its share of a split's rows, in order and unmirrored.
pub(crate) fn scoring_requests(
    rows: u64,
    batch_size: u32,
    rank: u32,
    world_size: u32,
) -> impl Iterator<Item = Request> + Clone + use<> {
    let mine = share(rows, rank, world_size);
    let batch_size = u64::from(batch_size.max(1));
    (0..(mine.end - mine.start).div_ceil(batch_size)).map(move |batch| {
        let first = mine.start + batch * batch_size;
        let rows = first..(first + batch_size).min(mine.end);
        let global = rows.end - rows.start;
        let pictures = rows.map(|row| Picture::plain(row, false)).collect();
        Request {
            pictures,
            is_stand_in: false,
            global,
            first: 0,
            ahead: Vec::new(),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use marquee_domain::spec::{Backend, GradientCompression, LrSchedule, Optimizer, Precision};

    use super::*;

    fn settings() -> TrainSettings {
        TrainSettings {
            model: "simple-cnn".into(),
            epochs: 3,
            batch_size: 8,
            optimizer: Optimizer::Sgd {
                lr: 0.1,
                momentum: 0.0,
                nesterov: false,
                weight_decay: 0.0,
            },
            lr_schedule: LrSchedule::Constant,
            warmup: None,
            clip_norm: None,
            accumulate: 1,
            ema_decay: None,
            precision: Precision::Fp32,
            channels_last: true,
            deterministic: false,
            backend: Backend::Auto,
            gradient_compression: GradientCompression::None,
            seed: 5,
            flip: true,
            dropout: 0.0,
            drop_path: 0.0,
            crop: None,
            colour: None,
            input_threads: 0,
            checkpoint_every_steps: 0,
            max_steps: None,
            learning: marquee_domain::spec::Learning::default(),
            transfer: marquee_domain::spec::Transfer::default(),
            tensorboard: false,
            collective_timeout_s: 10,
        }
    }

    fn by_shards(buffer: u32) -> TrainSettings {
        let mut settings = settings();
        settings.learning.shuffle = Shuffle::Shards { buffer };
        settings
    }

    fn step_of(rows: u64, world_size: u32, step: u64) -> Vec<Picture> {
        step_with(&settings(), rows, world_size, step)
    }

    fn step_with(settings: &TrainSettings, rows: u64, world_size: u32, step: u64) -> Vec<Picture> {
        (0..world_size)
            .map(|rank| Plan::new(settings, rows, rank, world_size).request(step))
            .filter(|request| !request.is_stand_in)
            .flat_map(|request| request.pictures)
            .collect()
    }

    #[test]
    fn a_step_holds_the_same_pictures_however_many_ranks_there_are() {
        for step in 0..9 {
            let alone = step_of(19, 1, step);
            for world_size in 2..=5 {
                assert_eq!(
                    step_of(19, world_size, step),
                    alone,
                    "step {step}, {world_size} ranks"
                );
            }
        }
    }

    #[test]
    fn partners_are_the_same_however_many_ranks_there_are_and_others_in_each_epoch() {
        let mix = |share| {
            let alpha = 1.0;
            Some(marquee_domain::spec::Mix { alpha, share })
        };
        let mut settings = settings();
        settings.learning.mixup = mix(0.5);
        settings.learning.cutmix = mix(0.3);
        let step_of = |world_size, step| -> Vec<Picture> {
            (0..world_size)
                .map(|rank| Plan::new(&settings, 19, rank, world_size).request(step))
                .filter(|request| !request.is_stand_in)
                .flat_map(|request| request.pictures)
                .collect()
        };
        for step in 0..9 {
            for world_size in 2..=5 {
                assert_eq!(step_of(world_size, step), step_of(1, step), "step {step}");
            }
        }
        let partners = |epoch: u64| -> Vec<Option<u64>> {
            (epoch * 3..epoch * 3 + 3)
                .flat_map(|step| step_of(1, step))
                .map(|picture| picture.partner.map(|(view, _)| view.row))
                .collect()
        };
        assert_ne!(partners(0), partners(1));
        let all: Vec<_> = [partners(0), partners(1), partners(2)].concat();
        let mixed = all.iter().flatten().count();
        assert!((35..=55).contains(&mixed), "{mixed} of 57");
        // A partner is shown as the epoch shows that row.
        for step in 0..3 {
            for (view, _) in step_of(1, step).iter().filter_map(|p| p.partner) {
                let own = (0..3).flat_map(|step| step_of(1, step));
                assert!(own.into_iter().any(|picture| picture.view == view));
            }
        }
    }

    #[test]
    fn every_epoch_sees_every_row_once_in_an_order_of_its_own() {
        let epoch = |epoch: u64| -> Vec<u64> {
            (0..3)
                .flat_map(|step| step_of(19, 2, epoch * 3 + step))
                .map(|picture| picture.view.row)
                .collect()
        };
        assert_eq!(
            epoch(0).into_iter().collect::<BTreeSet<_>>(),
            (0..19).collect()
        );
        assert_ne!(epoch(0), epoch(1));
    }

    #[test]
    fn a_shuffle_by_shards_has_the_same_steps_however_many_ranks_there_are() {
        let settings = by_shards(600);
        for step in [0, 1, 99, 162, 163, 250] {
            let alone = step_with(&settings, 1_300, 1, step);
            for world_size in 2..=5 {
                let together = step_with(&settings, 1_300, world_size, step);
                assert_eq!(together, alone, "step {step}, {world_size} ranks");
            }
        }
        let plan = Plan::new(&settings, 1_300, 0, 2);
        let all: Vec<Request> = plan.requests_from(0).collect();
        assert_eq!(plan.requests_from(170).collect::<Vec<_>>(), all[170..]);
        assert_ne!(
            all,
            Plan::new(&self::settings(), 1_300, 0, 2)
                .requests_from(0)
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_a_rank_reads_is_announced_a_part_ahead_in_the_order_of_the_disk() {
        let settings = by_shards(600);
        for (rank, world_size) in [(0, 1), (1, 3)] {
            let plan = Plan::new(&settings, 1_300, rank, world_size);
            let mut announced = BTreeSet::new();
            let mut times = 0;
            for step in 0..plan.steps_per_epoch() {
                let request = plan.request(step);
                assert!(request.ahead.is_sorted());
                times += usize::from(!request.ahead.is_empty());
                announced.extend(request.ahead);
                if !request.is_stand_in {
                    let rows = request.pictures.iter().map(|picture| picture.view.row);
                    assert!(
                        rows.clone().all(|row| announced.contains(&row)),
                        "step {step}"
                    );
                }
            }
            // 1,300 rows in three parts: the first two at once, then the third.
            assert_eq!(times, 2);
            let seen = (0..plan.steps_per_epoch())
                .map(|step| plan.request(step))
                .filter(|request| !request.is_stand_in)
                .flat_map(|request| request.pictures)
                .map(|picture| picture.view.row);
            assert_eq!(announced, seen.collect());
        }
    }

    #[test]
    fn a_run_that_goes_on_sees_what_an_undisturbed_one_would_have() {
        let plan = Plan::new(&settings(), 19, 0, 2);
        let all: Vec<Request> = plan.requests_from(0).collect();
        assert_eq!(all.len(), 9);
        assert_eq!(plan.requests_from(4).collect::<Vec<_>>(), all[4..]);
    }

    #[test]
    fn a_rank_without_pictures_stands_in_and_counts_nothing() {
        // 19 rows in steps of 8: the third step has 3 for 5 ranks.
        let requests: Vec<Request> = (0..5)
            .map(|rank| Plan::new(&settings(), 19, rank, 5).request(2))
            .collect();
        assert!(
            requests
                .iter()
                .all(|request| request.global == 3 && request.pictures.len() == 1)
        );
        assert_eq!(
            requests
                .iter()
                .filter(|request| !request.is_stand_in)
                .count(),
            3
        );
    }

    #[test]
    fn steps_are_counted_with_the_short_one_and_stop_at_the_limit() {
        let plan = Plan::new(&settings(), 19, 0, 1);
        assert_eq!((plan.steps_per_epoch(), plan.total_steps()), (3, 9));
        assert_eq!(
            (1..=3)
                .map(|steps| plan.pictures_in_epoch(steps))
                .collect::<Vec<_>>(),
            [8, 16, 19]
        );
        let short = Plan::new(
            &TrainSettings {
                max_steps: Some(4),
                ..settings()
            },
            19,
            0,
            1,
        );
        assert_eq!(short.total_steps(), 4);
        assert!(short.ends_epoch(3) && short.ends_epoch(4) && !short.ends_epoch(2));
    }

    #[test]
    fn ranks_score_every_row_once() {
        let rows: Vec<u64> = (0..3)
            .flat_map(|rank| scoring_requests(10, 2, rank, 3))
            .flat_map(|request| request.pictures)
            .map(|picture| picture.view.row)
            .collect();
        assert_eq!(rows, (0..10).collect::<Vec<_>>());
        assert_eq!(scoring_requests(1, 2, 0, 2).count(), 0);
    }
}
