//! Maintenance windows, as sentences.

use super::sharing::placed;
use super::*;

#[test]
fn a_host_that_is_to_be_empty_takes_what_ends_before_and_says_so_to_others() {
    let hosts = [host("a").gpus(1).empty(3_600, 7_200)];
    let alone = |job: Pending| {
        let outcome = place(&[job], &hosts, at(0));
        outcome
            .waiting
            .first()
            .map(|waiting| waiting.reason.clone())
    };
    assert_eq!(alone(job(1, GPU, 1).limit(3_600)), None);
    assert_eq!(alone(job(1, GPU, 1).expected(3_600)), None);
    assert_eq!(
        alone(job(1, GPU, 1).limit(3_601)).unwrap(),
        "needs 1 gpu device; enough are free, but not for as long as it may run (its timeout is 3601 s); a has \
         maintenance window 1 from 15:13"
    );
    let unknown = alone(job(1, GPU, 1)).unwrap();
    assert!(
        unknown.contains("nobody knows; 4 h are kept free"),
        "{unknown}"
    );
    // Long before it, and afterwards, it is a host like others.
    let hours = |from: i64| [host("a").gpus(1).empty(from * 3_600, (from + 1) * 3_600)];
    assert_eq!(placed(&place(&[job(1, GPU, 1)], &hours(4), at(0))), [1]);
    assert_eq!(
        placed(&place(&[job(1, GPU, 1).limit(1)], &hours(0), at(0))),
        [] as [i64; 0]
    );
}

/// A reservation on a host that is to be empty before the gang would end is worth nothing: another one is chosen, or
/// none, and short jobs use the host until then.
#[test]
fn nothing_is_held_back_where_the_gang_would_run_into_a_window() {
    let busy = |name: &str, until| host(name).gpus(2).runs(9, &[gpu(0)]).until(until);
    let gang = job(1, GPU, 1).each(2).limit(100).queued(-60);
    let short = job(2, GPU, 1).limit(900);
    let reserved = |hosts: &[Host]| {
        let queue: Queue = [gang, short].into_iter().collect();
        let plan = plan(&queue, hosts, &Limits::default(), at(0));
        (
            plan.reservations.first().map(|held| held.until),
            plan.placements.len(),
        )
    };
    // It can start in second 50 and end in second 150.
    assert_eq!(
        reserved(&[busy("a", 50).empty(150, 999)]),
        (Some(Some(at(50))), 0)
    );
    assert_eq!(reserved(&[busy("a", 50).empty(149, 999)]), (None, 0));
    assert_eq!(
        reserved(&[busy("a", 50).empty(1_000, 1_001)]),
        (Some(Some(at(50))), 0)
    );
    let other = [busy("a", 50).empty(149, 999), busy("b", 70)];
    assert_eq!(reserved(&other), (Some(Some(at(70))), 0));
    // Where nothing is held back, whoever ends in time has the device.
    let gang_waits = [busy("a", 950).empty(1_000, 1_001)];
    assert_eq!(reserved(&gang_waits), (None, 1));
}
