//! Ranks, their reports and their workers on a real Postgres.

use crate::support::{at, hello, report, running_job};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId, Rank, WorkerId};
use marquee_domain::job::RankState;
use marquee_store::StoreError;
use marquee_store::open::{Which, list_held_ranks};
use marquee_store::ranks::{self, RankChange, RankKey};
use marquee_store::reports::{self, Cursor, LineEnd, LogLine, LogStream, Metric};
use marquee_store::testing::TestDatabase;
use marquee_store::workers::{self, WorkerHello, WorkerState};
use uuid::Uuid;

fn line(sequence: u64, line: u32, text: &str) -> LogLine {
    LogLine {
        sequence,
        line,
        left: 0,
        stream: LogStream::Stderr,
        text: text.into(),
        at: at(5),
        is_damaged: false,
    }
}

#[tokio::test]
async fn a_report_is_stored_once() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (worker, key) = running_job(&mut tx).await;
    let change = RankChange {
        state: Some(RankState::Running),
        ..RankChange::default()
    };
    report(&mut tx, key, 0, 3, &change).await.unwrap();
    let again = report(&mut tx, key, 0, 3, &change).await;
    assert!(
        matches!(again, Err(StoreError::StaleRank { .. })),
        "{again:?}"
    );
    let locked = ranks::lock_ranks(&mut tx, &[key]).await.unwrap();
    assert_eq!(
        (locked[0].worker, locked[0].state, locked[0].last_sequence),
        (worker.id, RankState::Running, 3)
    );
    // The rows' own keys refuse a repetition too.
    reports::insert_log_lines(&mut tx, &[(key, &[line(1, 0, "a")])])
        .await
        .unwrap();
    assert!(
        reports::insert_log_lines(&mut tx, &[(key, &[line(1, 0, "a")])])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_rank_is_known_to_its_own_worker_only() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let stranger = WorkerId(Uuid::from_u128(77));
    let nonsense = RankKey {
        job: JobId(-1),
        attempt: AttemptNumber(u32::MAX),
        rank: Rank(0),
    };
    let locked = ranks::lock_ranks(&mut tx, &[nonsense, key]).await.unwrap();
    assert_eq!(locked.len(), 1);
    assert_ne!(locked[0].worker, stranger);
    let held = ranks::list_worker_ranks(&mut tx, stranger, &[key, nonsense])
        .await
        .unwrap();
    assert_eq!(held, []);
}

#[tokio::test]
async fn an_ended_rank_holds_no_devices_and_takes_no_reports() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (worker, key) = running_job(&mut tx).await;
    assert_eq!(list_held_ranks(&mut tx, Which::All).await.unwrap().len(), 1);
    let failure = Failure {
        class: FailureClass::LostWorker,
        message: "gone".into(),
    };
    ranks::mark_rank_gone(&mut tx, key, Some(&failure), at(9))
        .await
        .unwrap();
    assert_eq!(list_held_ranks(&mut tx, Which::All).await.unwrap(), []);
    let late = report(&mut tx, key, 0, 1, &RankChange::default()).await;
    assert!(
        matches!(late, Err(StoreError::StaleRank { .. })),
        "{late:?}"
    );
    let rows = ranks::list_ranks(&mut tx, key.job, Some(key.attempt))
        .await
        .unwrap();
    assert_eq!(rows[0].failure, Some(failure));
    assert_eq!(rows[0].ended_at, Some(at(9)));
    // Its worker may still list it, and then learns that it has ended.
    let listed = ranks::list_worker_ranks(&mut tx, worker.id, &[key])
        .await
        .unwrap();
    assert_eq!(listed[0].state, RankState::Failed);
    assert_eq!(
        ranks::list_worker_ranks(&mut tx, worker.id, &[])
            .await
            .unwrap(),
        []
    );
}

#[tokio::test]
async fn lines_and_values_are_read_on_from_where_a_reader_is() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let lines = [line(1, 0, "a"), line(1, 1, "b"), line(4, 0, "c")];
    reports::insert_log_lines(&mut tx, &[(key, &lines[..])])
        .await
        .unwrap();
    let texts = async |sequence: u64, last: u32, limit: u32| {
        let mut conn = database.db.read().await.unwrap();
        let after = [Cursor {
            rank: Rank(0),
            sequence,
            last: LineEnd {
                line: last,
                left: 0,
            },
        }];
        let rows = reports::list_log_lines(&mut conn, key.job, key.attempt, &after, limit);
        rows.await
            .unwrap()
            .into_iter()
            .map(|(_, line)| line.text)
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(0, 0, 2).await, ["a", "b"]);
    assert_eq!(texts(1, 0, 9).await, ["b", "c"]);
    assert_eq!(texts(4, 0, 9).await, [] as [&str; 0]);
    let last = reports::list_last_log_lines(&mut tx, key.job, key.attempt, &[Rank(0)], 2).await;
    assert_eq!(
        last.unwrap()
            .into_iter()
            .map(|(_, l)| l.text)
            .collect::<Vec<_>>(),
        ["b", "c"]
    );

    let metric = |sequence, name: &str, value| Metric {
        sequence,
        name: name.into(),
        step: 7,
        value,
        at: at(5),
    };
    let values = [
        metric(2, "loss", 0.5),
        metric(2, "rate", 9.0),
        metric(3, "loss", f64::NAN),
    ];
    reports::insert_metrics(&mut tx, &[(key, &values[..])])
        .await
        .unwrap();
    let after = [Cursor {
        rank: Rank(0),
        sequence: 2,
        last: "loss".to_owned(),
    }];
    let names = Some(vec!["loss".to_owned()]);
    let read = reports::list_metrics(&mut tx, key.job, key.attempt, &after, names.as_deref(), 9);
    let read = read.await.unwrap();
    assert_eq!(read.len(), 1);
    assert!(read[0].1.value.is_nan());
}

#[tokio::test]
async fn a_name_belongs_to_one_worker_that_is_online() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (first, second) = (hello(1, "gpu"), hello(2, "gpu"));
    workers::mark_worker_online(&mut tx, &first, at(0))
        .await
        .unwrap();
    workers::mark_worker_online(&mut tx, &first, at(1))
        .await
        .unwrap();
    let taken = workers::mark_worker_online(&mut tx, &second, at(2)).await;
    assert!(
        matches!(taken, Err(StoreError::WorkerNameTaken(_))),
        "{taken:?}"
    );
    assert!(
        workers::mark_worker_gone(&mut tx, first.id, WorkerState::Lost)
            .await
            .unwrap()
    );
    assert!(
        !workers::mark_worker_gone(&mut tx, first.id, WorkerState::Lost)
            .await
            .unwrap()
    );
    workers::mark_worker_online(&mut tx, &second, at(3))
        .await
        .unwrap();
    // The first one comes back, and its name is gone.
    let back = workers::mark_worker_seen(&mut tx, first.id, "gpu", at(4)).await;
    assert!(
        matches!(back, Err(StoreError::WorkerNameTaken(_))),
        "{back:?}"
    );
}

#[tokio::test]
async fn a_worker_belongs_to_the_first_certificate_that_it_shows() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let shows = |number, name: &str, identity: Option<&str>| WorkerHello {
        identity: identity.map(str::to_owned),
        ..hello(number, name)
    };
    let mut online = async |hello: &WorkerHello| {
        let done = workers::mark_worker_online(&mut tx, hello, at(0)).await;
        match done {
            Ok(()) => None,
            Err(StoreError::WorkerOwned { what, owner, .. }) => Some((what, owner)),
            Err(other) => panic!("{other}"),
        }
    };
    let owned = |what| Some((what, "host-a".to_owned()));
    // Before the cluster asked for certificates; then the first one takes it.
    assert_eq!(online(&shows(1, "a", None)).await, None);
    assert_eq!(online(&shows(1, "a", Some("host-a"))).await, None);
    assert_eq!(online(&shows(1, "a", Some("host-b"))).await, owned("id"));
    assert_eq!(online(&shows(1, "b", Some("host-b"))).await, owned("id"));
    assert_eq!(online(&shows(2, "a", Some("host-b"))).await, owned("name"));
    assert_eq!(online(&shows(2, "b", Some("host-b"))).await, None);
    // One owner may have several.
    assert_eq!(online(&shows(3, "c", Some("host-a"))).await, None);
    // Without certificates nobody is asked, and the owner stays.
    assert_eq!(online(&shows(1, "a", None)).await, None);
    assert_eq!(online(&shows(1, "a", Some("host-b"))).await, owned("id"));
}

#[tokio::test]
async fn a_line_that_is_not_what_was_stored_is_told_from_the_others() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let lines: Vec<LogLine> = (0..6).map(|n| line(1, n, &format!("line {n}"))).collect();
    reports::insert_log_lines(&mut tx, &[(key, &lines[..])])
        .await
        .unwrap();
    for (n, change) in [
        (1, "text = 'line 7'"),
        (2, "stream = 'stdout'"),
        (3, "at = at + interval '1 second'"),
        (4, "lines_left = 3"),
        // As lines of before have it.
        (5, "checksum = NULL, lines_left = NULL, text = 'older'"),
    ] {
        let change = format!("UPDATE log_lines SET {change} WHERE line = {n}");
        database.execute(&change).await;
    }
    let rows = reports::list_last_log_lines(&mut tx, key.job, key.attempt, &[Rank(0)], 9).await;
    let damaged: Vec<bool> = rows
        .unwrap()
        .iter()
        .map(|(_, line)| line.is_damaged)
        .collect();
    assert_eq!(damaged, [false, true, true, true, true, false]);
}
