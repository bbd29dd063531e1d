use std::collections::BTreeSet;

use marquee_domain::spec::{Backend, GradientCompression, LrSchedule, Optimizer, Precision};

use super::super::request::scoring_requests;
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
        .map(|rank| StepPlan::new(settings, rows, rank, world_size).request(step))
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
            .map(|rank| StepPlan::new(&settings, 19, rank, world_size).request(step))
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
    let plan = StepPlan::new(&settings, 1_300, 0, 2);
    let all: Vec<Request> = plan.requests_from(0).collect();
    assert_eq!(plan.requests_from(170).collect::<Vec<_>>(), all[170..]);
    assert_ne!(
        all,
        StepPlan::new(&self::settings(), 1_300, 0, 2)
            .requests_from(0)
            .collect::<Vec<_>>()
    );
}

#[test]
fn what_a_rank_reads_is_announced_a_part_ahead_in_the_order_of_the_disk() {
    let settings = by_shards(600);
    for (rank, world_size) in [(0, 1), (1, 3)] {
        let plan = StepPlan::new(&settings, 1_300, rank, world_size);
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
    let plan = StepPlan::new(&settings(), 19, 0, 2);
    let all: Vec<Request> = plan.requests_from(0).collect();
    assert_eq!(all.len(), 9);
    assert_eq!(plan.requests_from(4).collect::<Vec<_>>(), all[4..]);
}

#[test]
fn a_rank_without_pictures_stands_in_and_counts_nothing() {
    // 19 rows in steps of 8: the third step has 3 for 5 ranks.
    let requests: Vec<Request> = (0..5)
        .map(|rank| StepPlan::new(&settings(), 19, rank, 5).request(2))
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
    let plan = StepPlan::new(&settings(), 19, 0, 1);
    assert_eq!((plan.steps_per_epoch(), plan.total_steps()), (3, 9));
    assert_eq!(
        (1..=3)
            .map(|steps| plan.pictures_in_epoch(steps))
            .collect::<Vec<_>>(),
        [8, 16, 19]
    );
    let short = StepPlan::new(
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
