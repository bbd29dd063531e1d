//! Expected starts, as sentences.

use super::*;
use crate::scheduler::forecast::{STARTS_MAX, starts};

fn play(pending: &[Pending], hosts: &[Host], length: Option<i64>) -> Vec<(i64, i64)> {
    let queue: Queue = pending.iter().copied().collect();
    let found = starts(queue, hosts.to_vec(), Limits::default(), at(0), |_| {
        length.map(TimeDelta::seconds)
    });
    let seconds = |start: DateTime<Utc>| (start - at(0)).num_seconds();
    found
        .iter()
        .map(|(job, start)| (job.0, seconds(*start)))
        .collect()
}

#[test]
fn a_queue_on_one_device_starts_one_after_the_other() {
    let hosts = [host("a").gpus(1).runs(9, &[gpu(0)]).until(100)];
    let pending = [job(1, GPU, 1), job(2, GPU, 1), job(3, GPU, 1)];
    assert_eq!(
        play(&pending, &hosts, Some(60)),
        [(1, 100), (2, 160), (3, 220)]
    );
    // Nobody knows how long the first one runs: of those behind it nothing can be said.
    assert_eq!(play(&pending, &hosts, None), [(1, 100)]);
    // Nor of any where what runs says nothing.
    let silent = [host("a").gpus(1).runs(9, &[gpu(0)])];
    assert_eq!(play(&pending, &silent, Some(60)), []);
}

#[test]
fn what_starts_at_once_is_not_forecast_and_what_waits_for_its_time_is() {
    let hosts = [host("a").gpus(1)];
    let mut later = job(2, GPU, 1);
    later.not_before = Some(at(500));
    assert_eq!(play(&[job(1, GPU, 1), later], &hosts, Some(60)), [(2, 500)]);
    // What no host could ever run never starts, and the play ends.
    assert_eq!(play(&[job(1, GPU, 9)], &hosts, Some(60)), []);
}

/// The play is the planner: a gang for which devices are held back starts when it would.
#[test]
fn a_gang_is_expected_when_the_planner_would_start_it() {
    let hosts = [host("a").gpus(2).runs(9, &[gpu(0)]).until(100)];
    let gang = job(1, GPU, 2).queued(-60);
    let short = job(2, GPU, 1).limit(50);
    let found = play(&[gang, short], &hosts, Some(50));
    assert_eq!(
        found,
        [(1, 100)],
        "the short one starts at once, in the gap"
    );
}

#[test]
fn a_long_queue_is_cut_and_costs_no_more() {
    let hosts = [host("a").gpus(1).runs(9, &[gpu(0)]).until(10)];
    let pending: Vec<Pending> = (1..=5_000).map(|id| job(id, GPU, 1)).collect();
    assert_eq!(play(&pending, &hosts, Some(1)).len(), STARTS_MAX);
}

#[test]
fn who_waits_for_a_maintenance_window_is_expected_at_its_end() {
    let hosts = [host("a").gpus(1).empty(60, 300)];
    let pending = [job(1, GPU, 1).limit(60), job(2, GPU, 1).limit(100)];
    assert_eq!(play(&pending, &hosts, Some(60)), [(2, 300)]);
}
