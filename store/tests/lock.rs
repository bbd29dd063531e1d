//! The lock of the database, and whose connection holds it.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use std::time::Duration;

use marquee_store::Tx;
use marquee_store::lock::{DatabaseLock, LockError};
use marquee_store::testing::TestDatabase;
use uuid::Uuid;

/// Far more than anything here takes.
const SOON: Duration = Duration::from_secs(60);
const HOLDERS: &str = "FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()";

async fn holder(database: &TestDatabase) -> i64 {
    let query = format!("SELECT COALESCE(max(a.pid), 0)::bigint {HOLDERS}");
    database.number(&query).await
}

/// Takes the lock as `name`, as soon as the process that holds it now has lost its connection.
async fn follow(database: &TestDatabase, name: &str) -> Tx {
    let key = database
        .number(&format!(
            "SELECT max((l.classid::bigint << 32) | l.objid::bigint) {HOLDERS}"
        ))
        .await;
    let first = holder(database).await;
    let mut other = database.db.autocommit().await.unwrap();
    other
        .execute_raw(&format!("SET application_name = '{name}'"))
        .await
        .unwrap();
    // It stands in the queue before the connection ends, so nobody can come between.
    let waits = tokio::spawn(async move {
        other
            .execute_raw(&format!("SELECT pg_advisory_lock({key})"))
            .await
            .unwrap();
        other
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while database.number(waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    database
        .execute(&format!("SELECT pg_terminate_backend({first})"))
        .await;
    waits.await.unwrap()
}

#[tokio::test]
async fn a_second_coordinator_is_told_who_has_the_database() {
    let database = TestDatabase::create().await;
    let _first = DatabaseLock::take(&database.url, Uuid::from_u128(1))
        .await
        .unwrap();
    let second = DatabaseLock::take(&database.url, Uuid::from_u128(2)).await;
    let error = second.unwrap_err();
    assert!(matches!(error, LockError::InUse(_)), "{error}");
    let pid = holder(&database).await;
    let expected = format!("Postgres process {pid}, connected from this host since 2");
    assert!(error.to_string().contains(&expected), "{error}");
}

#[tokio::test]
async fn a_lost_lock_that_another_coordinator_has_taken_ends_this_one() {
    let database = TestDatabase::create().await;
    let lock = DatabaseLock::take(&database.url, Uuid::from_u128(1))
        .await
        .unwrap();
    let _other = follow(&database, "marquee of another host").await;
    let error = tokio::time::timeout(SOON, lock.keep()).await.unwrap();
    assert!(matches!(error, LockError::TakenOver(_)), "{error}");
}

/// As when Postgres stood still: the connection that we gave up still has the lock.
#[tokio::test]
async fn a_lost_lock_that_our_own_old_connection_has_is_taken_again() {
    let database = TestDatabase::create().await;
    let process = Uuid::from_u128(1);
    let lock = DatabaseLock::take(&database.url, process).await.unwrap();
    let first = holder(&database).await;
    let _old = follow(&database, &format!("marquee {}", process.simple())).await;
    let old = holder(&database).await;
    assert_ne!(old, first);

    let keep = tokio::spawn(lock.keep());
    let taken_again = async {
        loop {
            let now = holder(&database).await;
            if now != old && now != 0 {
                break;
            }
            assert!(!keep.is_finished(), "it gave up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, taken_again).await.unwrap();
    assert!(!keep.is_finished());
    keep.abort();
}
