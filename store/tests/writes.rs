//! Transactions: what is counted of them, and how callers are shown a lost answer.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::pipeline;
use marquee_store::pipelines::find_pipeline_by_request_id;
use marquee_store::testing::TestDatabase;
use marquee_store::{Db, StoreError, Tx, When};

async fn submit(db: &Db, request_id: &str) -> Result<(), StoreError> {
    let mut tx = db.write("submit").await?;
    pipeline(&mut tx, request_id).await;
    tx.commit().await
}

async fn is_stored(db: &Db, request_id: &str) -> bool {
    let mut conn = db.read().await.unwrap();
    find_pipeline_by_request_id(&mut conn, request_id)
        .await
        .unwrap()
        .is_some()
}

#[tokio::test]
async fn a_transaction_is_stored_by_its_commit_alone() {
    let database = TestDatabase::create().await;
    let db = &database.db;
    let mut tx = db.write("submit").await.unwrap();
    pipeline(&mut tx, "dropped").await;
    assert!(!is_stored(db, "dropped").await, "seen before its commit");
    drop(tx);
    assert!(!is_stored(db, "dropped").await);
    submit(db, "committed").await.unwrap();
    assert!(is_stored(db, "committed").await);
}

/// The two look the same to a caller, and only one of them has stored something: so it must ask again.
#[tokio::test]
async fn a_connection_that_breaks_at_the_commit_hides_whether_it_was_stored() {
    let database = TestDatabase::create().await;
    let db = &database.db;
    db.fail_next("submit", When::BeforeCommit);
    let error = submit(db, "before").await.unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert!(!is_stored(db, "before").await);

    db.fail_next("submit", When::AfterCommit);
    let error = submit(db, "after").await.unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert!(is_stored(db, "after").await);

    // Each was for one write, and for those of its name.
    db.fail_next("something else", When::BeforeCommit);
    submit(db, "next").await.unwrap();
}

/// A client that has waited long enough goes, and with it whoever would have told of what was stored.
#[tokio::test]
async fn a_commit_that_is_given_up_while_it_waits_is_in_doubt() {
    let database = TestDatabase::create().await;
    let db = &database.db;
    // Postgres takes two seconds for the COMMIT.
    database
        .execute(
            "CREATE TABLE slow (n int);
             CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_sleep(2); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER takes_time AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION take_time()",
        )
        .await;
    let mut tx = db.write("slow").await.unwrap();
    tx.execute_raw("INSERT INTO slow VALUES (1)").await.unwrap();
    assert_eq!(db.unanswered(), 0);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(200), tx.commit()).await;
    waited.unwrap_err();
    assert_eq!(db.unanswered(), 1);
}

#[tokio::test]
async fn statements_and_transactions_are_counted_by_what_they_are_for() {
    let database = TestDatabase::create().await;
    let db = &database.db;
    let before = db.stats();
    submit(db, "one").await.unwrap();
    submit(db, "two").await.unwrap();
    drop(db.write("nothing").await.unwrap());
    assert!(is_stored(db, "one").await);
    db.fail_next("submit", When::AfterCommit);
    submit(db, "three").await.unwrap_err();

    let stats = db.stats().since(&before);
    let submits = stats.writes["submit"];
    assert_eq!(
        (submits.begun, submits.committed, submits.rolled_back),
        (3, 2, 1)
    );
    // The third: whatever hears of it must look what has become of it. One that was given up before is in no doubt.
    assert_eq!((stats.unanswered, db.unanswered()), (1, 1));
    assert_eq!(submits.statements, 3);
    let nothing = stats.writes["nothing"];
    assert_eq!(
        (nothing.begun, nothing.rolled_back, nothing.statements),
        (1, 1, 0)
    );
    assert_eq!((stats.reads.begun, stats.reads.statements), (1, 1));
    assert_eq!((stats.statements(), stats.transactions()), (4, 4));
    assert!(submits.held > std::time::Duration::ZERO);
}

/// What runs often is planned once; what is asked with conditions that may be missing is not, and neither is what is
/// read outside of transactions.
#[tokio::test]
async fn a_transaction_keeps_its_plans_until_it_is_told_otherwise_and_leaves_nothing_behind() {
    let database = TestDatabase::create().await;
    for _ in 0..3 {
        let mut tx = database.db.write("plans").await.unwrap();
        plans_are(&mut tx, "force_generic_plan").await;
        tx.plan_anew().await.unwrap();
        plans_are(&mut tx, "force_custom_plan").await;
        tx.commit().await.unwrap();
        let mut outside = database.db.autocommit().await.unwrap();
        plans_are(&mut outside, "auto").await;
    }
}

/// A division by zero where the setting is another one.
async fn plans_are(tx: &mut Tx, mode: &str) {
    let statement = format!("SELECT 1 / (current_setting('plan_cache_mode') = '{mode}')::int");
    tx.execute_raw(&statement).await.unwrap();
}
