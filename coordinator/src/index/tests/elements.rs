//! Which arrays are to have further elements in line, and what stands for those that are no jobs yet.

use super::*;

fn of(array: i64, ids: std::ops::Range<i64>, to_come: u32) -> Vec<OpenJob> {
    let element = |(index, id): (u32, i64)| OpenJob {
        to_come,
        ..element(id, array, index)
    };
    (0..).zip(ids).map(element).collect()
}

#[test]
fn an_array_wants_elements_in_line_when_few_are_left_and_as_many_as_there_are_devices() {
    let mut open = Open::default();
    open.learn_spec(JobId(1), spec());
    open.learn_spec(JobId(50), spec());
    open.replace(
        &ids(&[1, 50]),
        [of(1, 2..6, 90), of(50, 51..55, 0)].concat(),
    );
    // Four of four stand in line, and of the other array none is to come.
    assert_eq!(open.elements_wanted(4), []);
    assert_eq!(open.elements_wanted(10), [(JobId(1), 6)]);
    open.placed(JobId(2), [], at(0));
    open.placed(JobId(3), [], at(0));
    assert_eq!(open.elements_wanted(4), []);
    open.placed(JobId(4), [], at(0));
    assert_eq!(open.elements_wanted(4), [(JobId(1), 3)]);
    // It does not run any more, and stands in line again.
    open.replace(&ids(&[4]), of(1, 4..5, 90));
    assert_eq!(open.elements_wanted(4), []);
    // Ended, and read anew: what is left of it is more than is to come.
    open.replace(&ids(&[2, 3, 4, 5]), Vec::new());
    assert_eq!(open.elements_wanted(4), [(JobId(1), 4)]);
    assert_eq!(open.elements_wanted(1_000), [(JobId(1), 90)]);
    // With the array itself it is forgotten, unless it is said again.
    open.replace(&ids(&[1]), Vec::new());
    assert_eq!(open.elements_wanted(4), []);
    open.set_to_come(JobId(1), 3);
    assert_eq!(open.elements_wanted(4), [(JobId(1), 3)]);
    open.set_all_to_come(Vec::new());
    assert_eq!(open.elements_wanted(4), []);

    // Whatever comes free goes to them, so that as many stand in line as there are devices.
    with_code(&mut open, &["v1"]);
    open.workers[0].inventory = Ok(serde_json::from_value(json!({
        "hostname": "h", "cpu_threads": 8, "memory_bytes": 1, "cpu_slots": 20, "threads_per_slot": 1,
        "gpus": [], "address": "10.0.0.1", "flavour": "",
    }))
    .unwrap());
    open.set_to_come(JobId(1), 900);
    assert_eq!(open.elements_wanted(2), [(JobId(1), 21)]);
    open.workers[0].state = WorkerState::Lost;
    assert_eq!(open.elements_wanted(2), [(JobId(1), 2)]);
}

#[test]
fn what_is_to_come_of_an_array_stands_in_the_queue_by_one_that_does() {
    let mut open = Open::default();
    open.learn_spec(JobId(1), spec());
    open.replace(&ids(&[1]), of(1, 2..4, 7));
    let said = |open: &Open| -> Vec<(i64, u32)> {
        let queued = open.queued_to_come();
        queued
            .map(|(pending, left)| (pending.job.0, left))
            .collect()
    };
    assert_eq!(said(&open), [(2, 7)]);
    open.placed(JobId(2), [], at(0));
    assert_eq!(said(&open), [(3, 7)]);
    // Nobody of it stands there: as where somebody holds it.
    open.placed(JobId(3), [], at(0));
    assert_eq!(said(&open), []);
}

#[test]
fn many_arrays_share_what_stands_in_line_and_those_that_start_first_are_in_front() {
    let mut open = Open::default();
    assert_eq!(open.elements_ahead(1_000), 1_000);
    for array in 1..=1_000 {
        open.set_to_come(JobId(array), 5_000);
    }
    assert_eq!(open.elements_ahead(1_000), 32);
    assert_eq!(open.elements_ahead(2), 2);
    let in_line: u32 = open
        .elements_wanted(1_000)
        .iter()
        .map(|(_, count)| count)
        .sum();
    assert_eq!(in_line, 32_000);

    // As many as there are devices of the first ones alone, and the higher priority is first.
    let mut open = Open::default();
    with_code(&mut open, &["v1"]);
    open.workers[0].inventory = Ok(serde_json::from_value(json!({
        "hostname": "h", "cpu_threads": 8, "memory_bytes": 1, "cpu_slots": 500, "threads_per_slot": 1,
        "gpus": [], "address": "10.0.0.1", "flavour": "",
    }))
    .unwrap());
    for array in [100, 200, 300] {
        open.learn_spec(JobId(array), spec());
        let mut read = of(array, array + 1..array + 2, 300);
        read[0].priority = if array == 300 { 7 } else { 0 };
        open.replace(&ids(&[array]), read);
    }
    assert_eq!(
        open.elements_wanted(4),
        [(JobId(300), 300), (JobId(100), 200), (JobId(200), 3)]
    );
}
