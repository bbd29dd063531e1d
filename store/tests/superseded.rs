//! Reports of an attempt that ends, and the placement of the next one, in two transactions at once: either a report is
//! stored whole before the newer attempt is there, or nothing of it is stored.

use std::time::Duration;

use marquee_domain::end::{AttemptEnd, Interruption};
use marquee_domain::ids::{AttemptNumber, JobId, WorkerId};
use marquee_domain::job::RankState;
use marquee_store::attempts::mark_attempt_ended;
use marquee_store::open::{Which, list_held_ranks};
use marquee_store::ranks::{self, RankChange, RankKey};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{mark_job_requeued, mark_job_running_here};
use marquee_store::workers::mark_worker_online;
use marquee_store::{Db, StoreError};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{at, hello, place, report, running_job};

/// A job whose first attempt was interrupted: its rank was given out, and is with its worker still.
async fn interrupted(database: &TestDatabase) -> (RankKey, WorkerId) {
    let mut tx = database.db.write("test").await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let other = hello(2, "w2");
    mark_worker_online(&mut tx, &other, at(0)).await.unwrap();
    let end = AttemptEnd::Interrupted {
        cause: Interruption::Drained,
        message: "its worker was lost".into(),
    };
    mark_attempt_ended(&mut tx, key.job, key.attempt, &end, at(2))
        .await
        .unwrap();
    mark_job_requeued(&mut tx, (key.job, key.attempt), 3, None, None)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    (key, other.id)
}

fn started() -> RankChange {
    RankChange {
        state: Some(RankState::Running),
        pid: Some(7),
        ..RankChange::default()
    }
}

/// Who makes the attempt that comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Placed,
    /// Of a job that takes another one's artifact.
    Here,
}

async fn make_next(db: &Db, next: Next, job: JobId, worker: WorkerId) {
    let mut tx = db.write("place").await.unwrap();
    match next {
        Next::Placed => drop(place(&mut tx, job, 1, worker).await),
        Next::Here => {
            let number = mark_job_running_here(&mut tx, job, 1, at(3)).await.unwrap();
            assert_eq!(number, AttemptNumber(2));
        }
    }
    tx.commit().await.unwrap();
}

/// Waits until `task` has ended or waits for a lock.
async fn stands<T>(database: &TestDatabase, task: &JoinHandle<T>) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while !task.is_finished() && database.number(waiting).await == 0 {
        sleep(Duration::from_millis(5)).await;
    }
}

/// What the history says, in its order.
async fn history(database: &TestDatabase) -> Vec<String> {
    let lines = "SELECT kind || ' ' || attempt FROM audit
                 WHERE kind IN ('granted', 'rank_started', 'released') ORDER BY id";
    database.words(lines).await
}

#[tokio::test]
async fn a_report_that_was_judged_first_is_stored_before_the_next_attempt() {
    for next in [Next::Placed, Next::Here] {
        let database = TestDatabase::create().await;
        let (key, worker) = interrupted(&database).await;
        let mut tx = database.db.write("reports").await.unwrap();
        let locked = ranks::lock_ranks(&mut tx, &[key]).await.unwrap();
        assert_eq!(locked[0].newest_attempt, 1, "it is judged as welcome");
        let db = database.db.clone();
        let placing = tokio::spawn(async move { make_next(&db, next, key.job, worker).await });
        stands(&database, &placing).await;
        assert!(
            !placing.is_finished(),
            "{next:?} did not wait for the report"
        );
        report(&mut tx, key, 0, 1, &started()).await.unwrap();
        tx.commit().await.unwrap();
        placing.await.unwrap();
        let lines = history(&database).await;
        let expected = ["granted 1", "rank_started 1", "granted 2"];
        let count = if matches!(next, Next::Placed) { 3 } else { 2 };
        assert_eq!(lines, expected[..count], "{next:?}");
    }
}

#[tokio::test]
async fn a_report_that_was_judged_while_the_next_attempt_was_placed_is_refused() {
    for next in [Next::Placed, Next::Here] {
        let database = TestDatabase::create().await;
        let (key, worker) = interrupted(&database).await;
        // Placed, and not committed yet.
        let mut placing = database.db.write("place").await.unwrap();
        match next {
            Next::Placed => drop(place(&mut placing, key.job, 1, worker).await),
            Next::Here => {
                let made = mark_job_running_here(&mut placing, key.job, 1, at(3)).await;
                made.unwrap();
            }
        }
        let db = database.db.clone();
        let reporting = tokio::spawn(async move {
            let mut tx = db.write("reports").await.unwrap();
            // By what it sees here the report is welcome, whatever is committed meanwhile.
            ranks::lock_ranks(&mut tx, &[key]).await.unwrap();
            tx
        });
        stands(&database, &reporting).await;
        placing.commit().await.unwrap();
        let mut tx = reporting.await.unwrap();
        let refused = report(&mut tx, key, 0, 1, &started()).await;
        assert!(
            matches!(refused, Err(StoreError::StaleRank { .. })),
            "{next:?}: {refused:?}"
        );
        drop(tx);
        let lines = history(&database).await;
        assert!(!lines.contains(&"rank_started 1".to_owned()), "{lines:?}");

        // Refused is not freed: the device is given back on proof alone, and then it is.
        let mut tx = database.db.write("test").await.unwrap();
        let held = list_held_ranks(&mut tx, Which::All).await.unwrap();
        assert!(held.iter().any(|rank| rank.key == key), "{held:?}");
        ranks::mark_rank_gone(&mut tx, key, None, at(9))
            .await
            .unwrap();
        let held = list_held_ranks(&mut tx, Which::All).await.unwrap();
        assert!(!held.iter().any(|rank| rank.key == key), "{held:?}");
        tx.commit().await.unwrap();
        let mut conn = database.db.read().await.unwrap();
        let rows = ranks::list_ranks(&mut conn, key.job, Some(key.attempt));
        assert_eq!(rows.await.unwrap()[0].state, RankState::Stopped);
    }
}

#[tokio::test]
async fn a_report_of_the_newest_attempt_is_welcome_after_that_has_ended_too() {
    let database = TestDatabase::create().await;
    let (key, _) = interrupted(&database).await;
    let mut tx = database.db.write("reports").await.unwrap();
    let ended = RankChange {
        state: Some(RankState::Stopped),
        ended_at: Some(at(4)),
        ..RankChange::default()
    };
    report(&mut tx, key, 0, 1, &ended).await.unwrap();
    assert_eq!(list_held_ranks(&mut tx, Which::All).await.unwrap(), []);
    tx.commit().await.unwrap();
}
