//! The queue and its order, held against plain lists that do the same slowly.

use super::super::order::Order;
use super::*;
use crate::draw::Draw;

fn ids(queue: &Queue) -> Vec<i64> {
    let mut ids: Vec<i64> = queue.iter().map(|pending| pending.job.0).collect();
    ids.sort_unstable();
    ids
}

/// The jobs in the order in which a round tries them, where every one of them is placed.
fn tried(queue: &Queue, limits: &Limits) -> Vec<i64> {
    let mut purses = Purses::new(limits);
    let mut order = Order::new(queue);
    let mut tried = Vec::new();
    while let Some((line, job)) = order.head(&purses) {
        tried.push(job.job.0);
        purses.charge(line.project, Kind::Gpu, line.shape.devices());
        order.placed(&purses);
    }
    tried
}

/// The first job of each line, where none fits.
fn left(queue: &Queue, limits: &Limits) -> Vec<i64> {
    let purses = Purses::new(limits);
    let mut order = Order::new(queue);
    let mut left = Vec::new();
    while let Some((_, job)) = order.head(&purses) {
        left.push(job.job.0);
        order.leave(&purses);
    }
    left
}

#[test]
fn an_empty_queue_has_no_head_no_line_and_nobody_to_wake() {
    let mut queue = Queue::default();
    assert!(queue.is_empty());
    assert_eq!((queue.len(), queue.lines()), (0, 0));
    assert_eq!(queue.highest_priority(), None);
    assert_eq!(queue.wake(at(0)), None);
    assert_eq!(queue.remove(JobId(1)), None);
    assert_eq!(tried(&queue, &Limits::default()), [] as [i64; 0]);
    // Asked again after the end it says the same: a round must not loop for ever.
    let purses = Purses::new(&Limits::default());
    let mut order = Order::new(&queue);
    order.placed(&purses);
    order.leave(&purses);
    assert_eq!(order.head(&purses), None);
}

#[test]
fn a_job_that_is_put_in_again_stands_in_one_line_alone() {
    let mut queue = Queue::default();
    queue.insert(job(1, GPU, 1));
    queue.insert(job(1, GPU, 1).priority(3));
    assert_eq!((queue.len(), queue.lines()), (1, 1));
    assert_eq!(queue.highest_priority(), Some(3));
    // Now its time has not come, and then it has again.
    let later = Pending {
        not_before: Some(at(10)),
        ..job(1, GPU, 1)
    };
    queue.insert(later);
    assert_eq!((queue.len(), queue.lines()), (1, 0));
    assert_eq!(queue.highest_priority(), None);
    queue.insert(job(1, CPU, 2));
    assert_eq!(queue.wake(at(20)), None, "nobody waits for a time any more");
    assert_eq!((queue.len(), queue.lines()), (1, 1));
    assert_eq!(queue.remove(JobId(1)), Some(job(1, CPU, 2)));
    assert_eq!(queue, Queue::default());
}

#[test]
fn who_waits_for_a_time_is_woken_at_it_and_keeps_the_place_of_his_number() {
    let delayed = |id: i64, until: i64| Pending {
        not_before: Some(at(until)),
        ..job(id, GPU, 1)
    };
    let mut queue: Queue = [delayed(1, 5), job(2, GPU, 1), delayed(3, 7), delayed(4, 5)]
        .into_iter()
        .collect();
    let cases: &[(i64, Option<i64>, &[i64])] = &[
        (4, Some(5), &[2]),
        (5, Some(7), &[1, 2, 4]),
        (5, Some(7), &[1, 2, 4]),
        (1_000, None, &[1, 2, 3, 4]),
        // A clock that was put back wakes nobody twice.
        (0, None, &[1, 2, 3, 4]),
    ];
    for (second, next, expected) in cases {
        assert_eq!(queue.wake(at(*second)), next.map(at), "second {second}");
        assert_eq!(tried(&queue, &Limits::default()), *expected);
    }
    assert_eq!(queue.get(JobId(3)).unwrap().not_before, None);
}

#[test]
fn who_has_waited_longest_is_looked_for_behind_the_head_alone() {
    let queue: Queue = [
        job(1, GPU, 1).queued(-50),
        job(2, GPU, 1).queued(-10),
        job(3, GPU, 1).queued(-90),
        job(4, GPU, 1).queued(-90),
    ]
    .into_iter()
    .collect();
    let alike = queue.alike().values().next().unwrap();
    let from = |id| alike.longest_wait(job(id, GPU, 1).position());
    assert_eq!(from(1), Some((at(-90), JobId(3))));
    assert_eq!(from(4), Some((at(-90), JobId(4))));
    assert_eq!(from(5), None);
}

#[test]
fn an_element_stands_where_its_array_was_submitted_whatever_its_number() {
    let of = |array: i64, id: i64| Pending {
        array: Some(JobId(array)),
        ..job(id, GPU, 1)
    };
    // Its last two became jobs when 20 and the array 30 had been submitted.
    let queue: Queue = [
        job(5, GPU, 1),
        of(10, 11),
        job(20, GPU, 1),
        of(10, 41),
        of(30, 31),
        of(10, 42),
        of(30, 50),
    ]
    .into_iter()
    .collect();
    assert_eq!(
        tried(&queue, &Limits::default()),
        [5, 11, 41, 42, 20, 31, 50]
    );
    // And leaves it again.
    let mut left = queue.clone();
    assert!(left.remove(JobId(41)).is_some());
    assert_eq!(tried(&left, &Limits::default()), [5, 11, 42, 20, 31, 50]);
}

#[test]
fn the_lowest_and_highest_priorities_that_fit_in_a_number_are_in_order() {
    let queue: Queue = [
        job(1, GPU, 1).priority(i32::MIN),
        job(2, GPU, 1).priority(i32::MAX),
        job(3, GPU, 1),
        job(4, GPU, 1).priority(-1),
    ]
    .into_iter()
    .collect();
    assert_eq!(tried(&queue, &Limits::default()), [2, 3, 4, 1]);
    assert_eq!(queue.highest_priority(), Some(i32::MAX));
}

#[test]
fn within_one_project_jobs_of_all_lines_follow_each_other_by_number() {
    let queue: Queue = [
        job(6, GPU, 1),
        job(1, CPU, 1),
        job(4, GPU, 2),
        job(2, GPU, 1),
        job(5, CPU, 1),
        job(3, GPU, 2),
    ]
    .into_iter()
    .collect();
    assert_eq!(queue.lines(), 3);
    assert_eq!(tried(&queue, &Limits::default()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(left(&queue, &Limits::default()), [1, 2, 3]);
}

#[test]
fn a_project_moves_back_as_its_jobs_are_placed() {
    let of_one = |id| job(id, GPU, 1).of(0);
    let of_two = |id| job(id, GPU, 1).of(1);
    let queue: Queue = [of_one(1), of_one(2), of_one(3), of_two(4), of_two(5)]
        .into_iter()
        .collect();
    let with = |one: f64, two: f64, weight: f64| Limits {
        projects: vec![
            ProjectShare {
                used: one,
                ..ProjectShare::default()
            },
            ProjectShare {
                used: two,
                weight,
                ..ProjectShare::default()
            },
        ],
        ..Limits::default()
    };
    assert_eq!(tried(&queue, &with(0.0, 0.0, 1.0)), [1, 4, 2, 5, 3]);
    // Whoever used next to nothing is far ahead for one round.
    assert_eq!(tried(&queue, &with(1e12, 0.0, 1.0)), [4, 5, 1, 2, 3]);
    // Twice the weight, twice the turns.
    assert_eq!(tried(&queue, &with(0.0, 0.0, 2.0)), [1, 4, 5, 2, 3]);
    // Figures that are no numbers stop nobody: all are tried, each once.
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut all = tried(&queue, &with(odd, 0.0, 1.0));
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5], "{odd}");
        let mut all = tried(&queue, &with(1.0, 1.0, odd));
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5], "weight {odd}");
    }
}

#[test]
fn whatever_is_put_in_taken_out_and_woken_the_queue_says_what_a_list_would() {
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let mut queue = Queue::default();
        let mut list: BTreeMap<i64, Pending> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..120 {
            let id = 1 + i64::from(draw.below(25));
            match draw.below(5) {
                0 => {
                    assert_eq!(queue.remove(JobId(id)), list.remove(&id), "seed {seed}");
                }
                1 => {
                    now += i64::from(draw.below(4));
                    for pending in list.values_mut() {
                        pending.not_before = pending.not_before.filter(|until| *until > at(now));
                    }
                    let next = list.values().filter_map(|pending| pending.not_before).min();
                    assert_eq!(queue.wake(at(now)), next, "seed {seed}");
                }
                _ => {
                    let kind = DeviceKind::ALL[draw.below(3) as usize];
                    let mut pending = job(id, kind, 1 + draw.below(2))
                        .priority(i32::try_from(draw.below(3)).unwrap())
                        .queued(i64::from(draw.below(50)));
                    pending.not_before =
                        (draw.below(3) == 0).then(|| at(now + 1 + i64::from(draw.below(6))));
                    list.insert(id, pending);
                    queue.insert(pending);
                }
            }
            assert_eq!(ids(&queue), list.keys().copied().collect::<Vec<_>>());
            // Priority first, then the number; those whose time has not come are left out.
            let mut expected: Vec<&Pending> = list
                .values()
                .filter(|pending| pending.not_before.is_none())
                .collect();
            expected.sort_by_key(|pending| (Reverse(pending.priority), pending.job));
            let expected: Vec<i64> = expected.iter().map(|pending| pending.job.0).collect();
            assert_eq!(tried(&queue, &Limits::default()), expected, "seed {seed}");
        }
    }
}
