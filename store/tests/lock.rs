//! The lock of versions that knew no leader's row: tables of such a version are brought to this one under it.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use marquee_store::lock::{DatabaseLock, LockError};
use marquee_store::testing::TestDatabase;

#[tokio::test]
async fn a_coordinator_of_an_earlier_version_that_works_is_named() {
    let database = TestDatabase::create().await;
    let first = DatabaseLock::take(&database.url).await.unwrap();
    let second = DatabaseLock::take(&database.url).await;
    let error = second.unwrap_err();
    assert!(matches!(error, LockError::InUse(_)), "{error}");
    let pid = "SELECT l.pid::bigint FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()";
    let pid = database.number(pid).await;
    let expected = format!("Postgres process {pid}, connected from this host since 2");
    assert!(error.to_string().contains(&expected), "{error}");
    drop(first);
    DatabaseLock::take(&database.url).await.unwrap();
}
