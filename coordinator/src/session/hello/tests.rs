use uuid::Uuid;

use super::*;

fn caller() -> Caller {
    Caller::of(&tonic::Request::new(()))
}

fn hello() -> v1::Hello {
    v1::Hello {
        worker_id: Uuid::from_u128(1).to_string(),
        name: "gpu-03".into(),
        boot_id: Uuid::from_u128(2).to_string(),
        instance_id: Uuid::from_u128(3).to_string(),
        version: "0.1.0".into(),
        inventory: Some(v1::Inventory {
            hostname: "gpu-03".into(),
            cpu_threads: 2,
            cpu_slots: 2,
            threads_per_slot: 1,
            address: "127.0.0.1".into(),
            ..v1::Inventory::default()
        }),
        ..v1::Hello::default()
    }
}

fn rank(job_id: i64, state: v1::RankState) -> v1::HeldRank {
    v1::HeldRank {
        job_id,
        attempt: 1,
        rank: 0,
        state: state.into(),
        last_sequence: 5,
        ..v1::HeldRank::default()
    }
}

#[test]
fn a_hello_says_who_it_is_and_what_it_holds() {
    let mut said = hello();
    said.held = vec![
        rank(7, v1::RankState::Running),
        rank(9, v1::RankState::Finished),
    ];
    let (worker, held) = read(said, &caller()).unwrap();
    assert_eq!(worker.name, "gpu-03");
    assert_eq!(worker.instance_id, Uuid::from_u128(3));
    // A worker of the first release says no code: nothing of its own is used again.
    assert_eq!((worker.prep_code.as_str(), worker.identity), ("", None));
    let jobs: Vec<i64> = held.keys().map(|key| key.job.0).collect();
    assert_eq!(jobs, [7, 9]);
    assert_eq!(held[&key(9, 1, 0)].last_sequence, 5);
}

#[test]
fn what_is_wrong_in_a_hello_is_named_and_not_repeated_whole() {
    type Change = fn(&mut v1::Hello);
    let cases: [(Change, &str); 14] = [
        (|h| h.name.clear(), "name"),
        (|h| h.name = "GPU".into(), "name"),
        (|h| h.name = "a/../b".into(), "name"),
        (|h| h.name = "x".repeat(NAME_MAX_BYTES + 1), "name"),
        (|h| h.name = "ü".repeat(1_000_000), "name"),
        (|h| h.worker_id.clear(), "worker_id"),
        (|h| h.worker_id = "x".repeat(100_000), "worker_id"),
        (|h| h.boot_id = "today".into(), "boot_id"),
        (|h| h.instance_id = "first".into(), "instance_id"),
        (|h| h.inventory = None, "inventory"),
        (|h| h.version = "1\0".into(), "version"),
        (
            |h| h.version = "1".repeat(HOST_TEXT_MAX_BYTES + 1),
            "version",
        ),
        (|h| h.prep_code = "c".repeat(1_000_000), "prep_code"),
        (
            |h| h.held = vec![v1::HeldRank::default(); HELD_MAX + 1],
            "held",
        ),
    ];
    for (change, field) in cases {
        let mut said = hello();
        change(&mut said);
        let error = read(said, &caller()).map(|_| ()).expect_err(field);
        assert_eq!(error.field, field);
        assert!(
            error.problem.len() < 500,
            "{field}: {} bytes",
            error.problem.len()
        );
    }
}

#[test]
fn a_rank_whose_state_is_unknown_is_no_rank_to_go_by() {
    for state in [v1::RankState::Unspecified as i32, 99, -1] {
        let odd = v1::HeldRank {
            state,
            ..rank(1, v1::RankState::Running)
        };
        assert!(
            held(vec![rank(2, v1::RankState::Running), odd]).is_err(),
            "{state}"
        );
    }
    assert_eq!(held(Vec::new()).unwrap().len(), 0);
}

#[test]
fn a_rank_that_is_named_twice_is_one_rank() {
    let newer = v1::HeldRank {
        last_sequence: 8,
        ..rank(1, v1::RankState::Stopped)
    };
    let held = held(vec![rank(1, v1::RankState::Running), newer]).unwrap();
    assert_eq!(held.len(), 1);
    let last = Held {
        state: RankState::Stopped,
        last_sequence: 8,
    };
    assert_eq!(held[&key(1, 1, 0)], last);
}

#[test]
fn nonsense_about_requests_counts_as_silence() {
    let sound = v1::RateUse {
        limit: 20.0,
        in_flight: 4,
        hosts: vec!["api.example.org".into()],
        ..v1::RateUse::default()
    };
    let asking = |rate: Option<v1::RateUse>| v1::HeldRank {
        rate,
        ..rank(1, v1::RankState::Running)
    };
    type Change = fn(&mut v1::RateUse);
    let odd: [Change; 8] = [
        |rate| rate.limit = 0.0,
        |rate| rate.limit = -1.0,
        |rate| rate.limit = f64::NAN,
        |rate| rate.limit = f64::INFINITY,
        |rate| rate.used = f64::NEG_INFINITY,
        |rate| rate.held = f64::NAN,
        |rate| rate.hosts = vec!["h".repeat(100_000)],
        |rate| rate.hosts = (0..100_000).map(|host| format!("h{host}")).collect(),
    ];
    for change in odd {
        let mut rate = sound.clone();
        change(&mut rate);
        assert!(rates(&[asking(Some(rate))]).is_empty());
    }
    let all = [asking(None), asking(Some(sound))];
    let found = rates(&all);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.in_flight, 4);
}
