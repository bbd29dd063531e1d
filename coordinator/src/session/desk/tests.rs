use std::sync::Arc;

use marquee_domain::ids::{AttemptNumber, Rank};
use marquee_domain::job::{AttemptStateName, RankState};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::*;

fn worker(number: u128) -> WorkerId {
    WorkerId(Uuid::from_u128(number))
}

fn key(job: i64, rank: u32) -> RankKey {
    RankKey {
        job: JobId(job),
        attempt: AttemptNumber(1),
        rank: Rank(rank),
    }
}

fn report(job_id: i64, rank: u32, sequence: u64) -> v1::Report {
    v1::Report {
        job_id,
        attempt: 1,
        rank,
        sequence,
        ..v1::Report::default()
    }
}

fn batch(number: u128, reports: Vec<v1::Report>) -> Batch {
    Batch {
        worker: worker(number),
        caller: Arc::from(format!("worker {number}").as_str()),
        reports,
        answer: oneshot::channel().0,
    }
}

fn locked(state: RankState, last_sequence: u64) -> LockedRank {
    LockedRank {
        key: key(1, 0),
        worker: worker(1),
        state,
        last_sequence,
        progress: None,
        attempt_state: AttemptStateName::Running,
        newest_attempt: 1,
        world_size: 2,
        is_lost: false,
    }
}

#[test]
fn what_came_at_the_same_time_is_sorted_by_rank_and_kept_apart_by_worker() {
    let batches = [
        batch(2, vec![report(9, 0, 1), report(1, 1, 4)]),
        batch(1, vec![report(1, 0, 2), report(9, 0, 7), report(1, 0, 3)]),
    ];
    let parcels = parcels(&batches);
    let shown: Vec<(RankKey, WorkerId, &str, Vec<u64>)> = parcels
        .iter()
        .map(|((key, worker), sent)| {
            let numbers = sent.reports.iter().map(|report| report.sequence);
            (*key, *worker, sent.caller, numbers.collect())
        })
        .collect();
    assert_eq!(
        shown,
        [
            (key(1, 0), worker(1), "worker 1", vec![2, 3]),
            (key(1, 1), worker(2), "worker 2", vec![4]),
            // Two workers that say they have the same rank are two, each judged by itself.
            (key(9, 0), worker(1), "worker 1", vec![7]),
            (key(9, 0), worker(2), "worker 2", vec![1]),
        ]
    );
    assert_eq!(super::parcels(&[]).len(), 0);
    assert_eq!(super::parcels(&[batch(1, Vec::new())]).len(), 0);
}

#[test]
fn a_batch_knows_each_of_its_ranks_once() {
    let batch = batch(1, vec![report(1, 0, 1), report(1, 1, 1), report(1, 0, 2)]);
    assert_eq!(keys(&batch), BTreeSet::from([key(1, 0), key(1, 1)]));
}

#[test]
fn who_looks_after_a_crash_reads_what_the_desk_was_at() {
    let batches = [batch(
        1,
        vec![report(1, 0, 1), report(2, 0, 1), report(3, 1, 1)],
    )];
    let parcels = parcels(&batches);
    assert_eq!(under_way(&[]), "reports of nobody");
    let one = under_way(&parcels[..1]);
    assert!(
        one.starts_with("reports of rank ") && !one.contains("others"),
        "{one}"
    );
    assert!(under_way(&parcels).ends_with("and of 2 others"));
}

#[test]
fn what_a_rank_is_answered_follows_from_where_it_is_and_what_it_sends() {
    let run = |rank: Option<&LockedRank>, sequences: &[u64]| {
        let reports: Vec<v1::Report> = sequences.iter().map(|at| report(1, 0, *at)).collect();
        let reports: Vec<&v1::Report> = reports.iter().collect();
        let (answer, next) = answer(rank, key(1, 0), &reports);
        (
            answer,
            next.iter()
                .map(|report| report.sequence)
                .collect::<Vec<_>>(),
        )
    };
    let running = locked(RankState::Running, 5);
    let stored = |sequence, state| Answer::Stored { sequence, state };
    let as_it_is = || stored(5, RankState::Running);

    // Somebody else's, or one that never was.
    let (unknown, next) = run(None, &[6]);
    assert!(matches!(unknown, Answer::Refused { .. }) && next.is_empty());

    assert_eq!(run(Some(&running), &[6, 7]), (as_it_is(), vec![6, 7]));
    // Sent again, since the answer was lost: it is told what is stored.
    assert_eq!(run(Some(&running), &[1, 5]), (as_it_is(), vec![]));
    assert_eq!(run(Some(&running), &[]), (as_it_is(), vec![]));
    // What stands behind a gap waits for what is missing.
    assert_eq!(run(Some(&running), &[7, 8]), (as_it_is(), vec![]));
    assert_eq!(run(Some(&running), &[u64::MAX]), (as_it_is(), vec![]));

    let ended = locked(RankState::Finished, 5);
    let (refused, next) = run(Some(&ended), &[6]);
    assert_eq!(
        refused,
        Answer::Refused {
            reason: "the rank has ended"
        }
    );
    assert!(next.is_empty());
    // The end itself, sent again, is no refusal: its worker would keep it for ever.
    assert_eq!(
        run(Some(&ended), &[5]),
        (stored(5, RankState::Finished), vec![])
    );

    let old = LockedRank {
        newest_attempt: 2,
        ..locked(RankState::Running, 5)
    };
    let (refused, _) = run(Some(&old), &[6]);
    assert!(matches!(refused, Answer::Refused { reason } if reason.contains("newer attempt")));

    let lost = LockedRank {
        is_lost: true,
        ..locked(RankState::Running, 5)
    };
    assert_eq!(run(Some(&lost), &[6]).0, Answer::Lost);
    assert_eq!(run(Some(&lost), &[5]).0, as_it_is());
}
