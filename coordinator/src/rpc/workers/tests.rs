use marquee_domain::ids::{AttemptNumber, Rank};
use marquee_domain::resources::Device;
use marquee_domain::standing::Window;
use marquee_store::ranks::RankKey;
use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

fn decision(reason: &str) -> Decision {
    Decision {
        by: "anna".into(),
        at: at(0),
        reason: reason.into(),
    }
}

fn stored(standing: Result<Standing, String>) -> Worker {
    Worker {
        id: WorkerId(Uuid::from_u128(7)),
        name: "gpu-03".into(),
        state: WorkerState::Online,
        version: "0.1.0".into(),
        inventory: Err("gpus: missing field".into()),
        prep_code: String::new(),
        last_seen_at: at(-5),
        standing,
    }
}

fn shown(worker: Worker) -> v1::Worker {
    encode(worker, Vec::new(), Vec::new(), at(0))
}

#[test]
fn a_window_is_taken_as_far_as_anybody_can_mean_it() {
    type Case<'a> = (Option<i64>, Option<i64>, Result<(), &'a str>);
    let cases: &[Case<'_>] = &[
        (Some(HOUR), Some(2 * HOUR), Ok(())),
        // It took a moment to type it.
        (Some(-60), Some(HOUR), Ok(())),
        (Some(-61), Some(HOUR), Err("from")),
        (None, Some(HOUR), Err("from")),
        (Some(HOUR), None, Err("until")),
        (None, None, Err("from")),
        (Some(HOUR), Some(HOUR), Err("until")),
        (Some(2 * HOUR), Some(HOUR), Err("until")),
        (Some(0), Some(30 * DAY), Ok(())),
        (Some(0), Some(30 * DAY + 1), Err("until")),
        (Some(366 * DAY), Some(367 * DAY), Ok(())),
        (Some(366 * DAY + 1), Some(367 * DAY), Err("from")),
        (Some(100_000 * DAY), Some(100_001 * DAY), Err("from")),
    ];
    for (from, until, expected) in cases {
        let found = window_of(from.map(at), until.map(at), at(0));
        match expected {
            Ok(()) => {
                let wanted = (at(from.unwrap()), at(until.unwrap()));
                assert_eq!(found.unwrap(), wanted);
            }
            Err(field) => {
                let error = found.expect_err(field).to_string();
                assert!(error.contains(field), "{from:?} {until:?}: {error}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_of_a_worker_is_said_and_keeps_work_away_from_it() {
    let odd = shown(stored(Err("drain: invalid type".into())));
    assert_eq!(odd.unreadable, "gpus: missing field");
    assert!(odd.inventory.is_none());
    assert_eq!(
        odd.closed,
        "takes no work, for what was decided about it cannot be read: drain: invalid type"
    );
    assert!(odd.quarantined_gpus.is_empty() && odd.windows.is_empty());
}

#[test]
fn each_state_of_a_worker_has_its_word() {
    let cases = [
        (WorkerState::Online, v1::WorkerState::Online),
        (WorkerState::Lost, v1::WorkerState::Lost),
        (WorkerState::Left, v1::WorkerState::Left),
    ];
    for (state, name) in cases {
        let worker = Worker {
            state,
            ..stored(Ok(Standing::default()))
        };
        let worker = shown(worker);
        assert_eq!(worker.state(), name);
        assert_eq!(worker.closed, "", "nobody closed it");
        assert_eq!(worker.last_seen_at, Some(timestamp(at(-5))));
    }
}

#[test]
fn what_an_operator_decided_comes_with_who_and_why() {
    let mut standing = Standing {
        drain: Some(Drain {
            decision: decision("new power supply"),
            deadline: Some(at(HOUR)),
        }),
        ..Standing::default()
    };
    standing.quarantine_gpu(0, None, decision(""));
    standing.quarantine_gpu(3, None, decision("Xid 79"));
    let worker = shown(stored(Ok(standing)));
    assert!(
        worker.closed.contains("new power supply"),
        "{}",
        worker.closed
    );
    assert_eq!(worker.drain_deadline, Some(timestamp(at(HOUR))));
    let gpus: Vec<(u32, &str)> = worker
        .quarantined_gpus
        .iter()
        .map(|gpu| (gpu.index, gpu.by.as_str()))
        .collect();
    assert_eq!(gpus, [(0, "anna"), (3, "anna")]);
    assert!(worker.quarantined_gpus[1].reason.contains("Xid 79"));
    assert!(
        !worker.quarantined_gpus[0].reason.is_empty(),
        "no reason given is said too"
    );
}

#[test]
fn windows_that_are_over_are_not_shown() {
    let window = |number, from, until| Window {
        number,
        decision: decision("firmware"),
        from: at(from),
        until: at(until),
    };
    let standing = Standing {
        windows: vec![
            window(1, -9, -1),
            window(2, -9, 0),
            window(3, -9, 1),
            window(4, 5, 9),
        ],
        ..Standing::default()
    };
    let worker = shown(stored(Ok(standing)));
    let numbers: Vec<u32> = worker.windows.iter().map(|window| window.number).collect();
    assert_eq!(numbers, [3, 4]);
    assert!(
        worker.windows[0]
            .words
            .starts_with("is in maintenance window 3")
    );
    assert!(
        worker.windows[1]
            .words
            .starts_with("has maintenance window 4")
    );
    assert!(worker.windows[1].words.ends_with("set by anna: firmware"));
}

#[test]
fn a_rank_that_runs_there_is_named_by_job_attempt_and_devices() {
    let held = HeldRank {
        key: RankKey {
            job: JobId(12),
            attempt: AttemptNumber(2),
            rank: Rank(1),
        },
        worker: WorkerId(Uuid::from_u128(7)),
        devices: vec![Device::Gpu { index: 3 }, Device::Gpu { index: 4 }],
        project: "vision".into(),
    };
    let rank = encode_rank(&held, "train".into());
    assert_eq!((rank.job_id, rank.attempt, rank.rank), (12, 2, 1));
    assert_eq!((rank.job_name.as_str(), rank.devices.len()), ("train", 2));
}
