//! How transactions begin and connections are opened: who asked, whose locks, which version, and what is refused.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use crate::support::{at, pipeline};
use marquee_domain::ids::PipelineId;
use marquee_store::pipelines::lock_pipelines;
use marquee_store::testing::{TestDatabase, migrate};
use marquee_store::users::{User, insert_user};
use marquee_store::{Db, Schema, StoreError};
use uuid::Uuid;

const ACTORS: [&str; 6] = [
    "",
    "ada",
    "O'Hara'); DROP TABLE audit; --",
    "größe 🗜️ \\ \" $1 %s",
    "two\nlines\ttab",
    "'{1,2}'",
];

#[tokio::test]
async fn whoever_asks_is_named_to_the_letter_and_in_no_other_transaction() {
    let database = TestDatabase::create().await;
    let add = async |mut tx: marquee_store::Tx, name: String| {
        let user = User {
            name: name.parse().unwrap(),
            grants: Default::default(),
            created_at: at(0),
            created_by: String::new(),
        };
        assert!(insert_user(&mut tx, &user).await.unwrap());
        tx.commit().await.unwrap();
    };
    let mut expected = Vec::new();
    for (n, actor) in ACTORS.into_iter().enumerate() {
        let tx = database.db.write_as("users", actor).await.unwrap();
        add(tx, format!("a{n}")).await;
        // The connection goes back to the pool; nobody asked for the next.
        let tx = database.db.write("users").await.unwrap();
        add(tx, format!("b{n}")).await;
        expected.extend([actor, ""]);
    }
    let said = "SELECT actor FROM audit WHERE kind = 'user_added' ORDER BY id";
    assert_eq!(database.words(said).await, expected);
}

#[tokio::test]
async fn a_transaction_that_begins_on_pipelines_has_their_locks_and_no_others() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut made = Vec::new();
    for request in ["a", "b", "c"] {
        made.push(pipeline(&mut tx, request).await);
    }
    // In any order, twice, and one that is not there.
    let on = [made[2], made[0], made[2], PipelineId(i64::MAX)];
    let first = database.db.write_on("judge", &on).await.unwrap();
    let takes = |pipeline: PipelineId| {
        let db = database.db.clone();
        tokio::spawn(async move {
            let mut tx = db.write("judge").await.unwrap();
            lock_pipelines(&mut tx, &[pipeline]).await.unwrap();
        })
    };
    takes(made[1]).await.unwrap();
    let (one, three) = (takes(made[0]), takes(made[2]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!one.is_finished() && !three.is_finished());
    drop(first);
    one.await.unwrap();
    three.await.unwrap();
    // Of none it takes none.
    let nothing = database.db.write_on("judge", &[]).await.unwrap();
    takes(made[0]).await.unwrap();
    nothing.commit().await.unwrap();
}

#[tokio::test]
async fn two_that_take_the_same_locks_in_other_orders_both_go_on() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (a, b) = (pipeline(&mut tx, "a").await, pipeline(&mut tx, "b").await);
    let turns = |pipelines: [PipelineId; 2]| {
        let db = database.db.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                let tx = db.write_on("judge", &pipelines).await.unwrap();
                tokio::task::yield_now().await;
                tx.commit().await.unwrap();
            }
        })
    };
    let (one, two) = (turns([a, b]), turns([b, a]));
    one.await.unwrap();
    two.await.unwrap();
}

#[tokio::test]
async fn a_deadlock_is_a_conflict_that_passes_and_stores_nothing() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    for request in ["a", "b"] {
        pipeline(&mut tx, request).await;
    }
    // Past the functions that take locks in one order.
    let touch = |request: &str| {
        format!("UPDATE pipelines SET created_at = created_at WHERE request_id = '{request}'")
    };
    let mut one = database.db.write("one").await.unwrap();
    let mut two = database.db.write("two").await.unwrap();
    one.execute_raw(&touch("a")).await.unwrap();
    two.execute_raw(&touch("b")).await.unwrap();
    let (crossed, crossing) = (touch("b"), touch("a"));
    let (one, two) = tokio::join!(one.execute_raw(&crossed), two.execute_raw(&crossing));
    let ((Err(ended), Ok(_)) | (Ok(_), Err(ended))) = (one, two) else {
        panic!("one of both is ended");
    };
    assert!(ended.is_conflict() && ended.may_pass(), "{ended}");
}

#[tokio::test]
async fn what_a_statement_is_refused_for_is_no_conflict_and_does_not_pass() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    for (statement, passes) in [
        ("SELECT no_such_column FROM jobs", false),
        ("INSERT INTO pipelines DEFAULT VALUES", false),
        ("SELECT 1 / 0", false),
        // As if the server were going down, or its disk full.
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57P01'; END $$", true),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$", true),
    ] {
        let refused = tx.execute_raw(statement).await.unwrap_err();
        assert!(!refused.is_conflict(), "{statement}");
        assert_eq!(refused.may_pass(), passes, "{statement}: {refused}");
    }
    let full = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$";
    let refused = tx.execute_raw(full).await.unwrap_err().to_string();
    assert!(refused.contains("make room there"), "{refused}");
}

#[tokio::test]
async fn nothing_is_written_before_somebody_leads_and_everything_can_be_read() {
    let database = TestDatabase::create().await;
    let db = Db::connect(&database.url, Uuid::from_u128(7)).await.unwrap();
    for epoch in [None, Some(99)] {
        db.lead(epoch);
        let refused = db.write("submit").await.unwrap_err();
        let StoreError::NotLeading { mine, .. } = &refused else {
            panic!("{refused}");
        };
        assert_eq!(*mine, epoch);
        assert!(!refused.may_pass() && !refused.is_conflict());
        db.read().await.unwrap();
        db.snapshot().await.unwrap();
    }
    assert_eq!(db.stats().transactions(), 0, "what is refused was none");
    let open = db.clone().without_election();
    let mut tx = open.write("submit").await.unwrap();
    pipeline(&mut tx, "request").await;
    tx.commit().await.unwrap();
    assert_eq!((db.stats().transactions(), db.stats().committed()), (1, 1));

    // By the name of its process, so that a successor can end what it left open.
    let name = "SELECT count(*) FROM pg_stat_activity
                WHERE application_name = 'marquee 00000000000000000000000000000007'";
    assert!(database.number(name).await > 0);
    db.close().await;
    assert!(db.read().await.is_err(), "it said goodbye");
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_told_apart_from_one_that_is_none() {
    // Nothing listens there.
    let away = Db::connect("postgres://nobody@127.0.0.1:1/x", Uuid::nil()).await;
    assert!(away.unwrap_err().may_pass());
    let wrong = Db::connect("no address", Uuid::nil()).await;
    assert!(!wrong.unwrap_err().may_pass());
}

#[tokio::test]
async fn tables_are_of_no_version_of_an_older_or_of_this_one() {
    let database = TestDatabase::create_empty().await;
    let db = &database.db;
    assert_eq!(db.schema().await.unwrap(), Schema::BeforeLeaders);
    // A table of that name in somebody else's program.
    database.execute("CREATE TABLE leader (n int)").await;
    assert_eq!(db.schema().await.unwrap(), Schema::BeforeLeaders);
    database.execute("DROP TABLE leader").await;

    migrate(&database.url).await.unwrap();
    assert_eq!(db.schema().await.unwrap(), Schema::Ours);
    let newest = "SELECT max(version) FROM _sqlx_migrations";
    let newest = database.number(newest).await;
    for (change, expected) in [
        (format!("UPDATE _sqlx_migrations SET success = false WHERE version = {newest}"), Schema::Older),
        (format!("DELETE FROM _sqlx_migrations WHERE version = {newest}"), Schema::Older),
        (
            "INSERT INTO _sqlx_migrations SELECT 9999, 'later', now(), true, '', 0".to_owned(),
            Schema::Ours,
        ),
        ("DELETE FROM _sqlx_migrations".to_owned(), Schema::Older),
        ("DROP TABLE _sqlx_migrations".to_owned(), Schema::BeforeLeaders),
    ] {
        database.execute(&change).await;
        assert_eq!(db.schema().await.unwrap(), expected, "{change}");
    }
}
