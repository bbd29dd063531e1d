//! Each migration is applied to tables that hold rows: what works on empty ones proves little.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::ids::AttemptNumber;
use marquee_domain::job::JobStateName;
use marquee_domain::spec::{Ended, NeedOn};
use marquee_store::jobs::{self, JobFilter};
use marquee_store::needs;
use marquee_store::open::{self, Which};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{self, Success};
use marquee_store::workers::{self, WhichWorkers};

/// The `.sql` files of a folder by their number.
fn numbered(folder: &str) -> BTreeMap<String, PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let sql = files.filter(|path| path.extension().is_some_and(|e| e == "sql"));
    sql.map(|path| {
        (
            path.file_name().unwrap().to_str().unwrap()[..4].to_owned(),
            path,
        )
    })
    .collect()
}

async fn run(database: &TestDatabase, path: &Path) {
    database.execute(&fs::read_to_string(path).unwrap()).await;
}

/// Rows in each table.
async fn counts(database: &TestDatabase) -> BTreeMap<String, i64> {
    let tables = database
        .words(
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'",
        )
        .await;
    let mut counts = BTreeMap::new();
    for table in tables {
        let rows = database
            .number(&format!("SELECT count(*) FROM {table}"))
            .await;
        counts.insert(table, rows);
    }
    counts
}

/// Migrations that throw rows away on purpose: what they said is said elsewhere since.
const SHRINKS: [(&str, &str); 1] = [
    // An array needed each of its elements: a counter says so now.
    ("0005", "job_needs"),
];

/// Applies the migrations, and fills the tables after each up to that with this number.
async fn migrate_filled(database: &TestDatabase, filled_up_to: &str) {
    let fills = numbered("tests/fill");
    let mut before: BTreeMap<String, i64> = BTreeMap::new();
    for (number, migration) in numbered("../migrations") {
        run(database, &migration).await;
        let after = counts(database).await;
        for (table, rows) in &before {
            if SHRINKS.contains(&(number.as_str(), table.as_str())) {
                assert!(after[table] <= *rows, "{table} after {migration:?}");
            } else {
                assert_eq!(after.get(table), Some(rows), "{table} after {migration:?}");
            }
        }
        if number.as_str() <= filled_up_to
            && let Some(fill) = fills.get(&number)
        {
            run(database, fill).await;
        }
        before = counts(database).await;
    }
}

#[tokio::test]
async fn a_database_of_each_version_comes_to_this_one_without_losing_a_row() {
    for filled_up_to in numbered("tests/fill").into_keys() {
        let database = TestDatabase::create_empty().await;
        migrate_filled(&database, &filled_up_to).await;
        // What is there can be read, each row by itself.
        let mut conn = database.db.read().await.unwrap();
        let all = jobs::list_jobs(&mut conn, &JobFilter::default(), 100)
            .await
            .unwrap();
        assert!(!all.is_empty(), "filled up to {filled_up_to}");
        workers::list_workers(&mut conn, WhichWorkers::Ever)
            .await
            .unwrap();
        open::list_open_jobs(&mut conn, Which::All).await.unwrap();
    }
}

#[tokio::test]
async fn each_table_is_filled_when_the_last_migration_runs() {
    let database = TestDatabase::create_empty().await;
    migrate_filled(&database, "9999").await;
    let counts = counts(&database).await;
    let empty: Vec<_> = counts.iter().filter(|(_, rows)| **rows == 0).collect();
    assert!(empty.is_empty(), "no rows in {empty:?}: add to tests/fill");
}

/// The migration that took what is open out of `jobs` is the one that could lose the most.
#[tokio::test]
async fn what_was_open_before_open_jobs_is_open_after_it() {
    let database = TestDatabase::create_empty().await;
    migrate_filled(&database, "0004").await;
    let mut conn = database.db.read().await.unwrap();
    let all = jobs::list_jobs(&mut conn, &JobFilter::default(), 100)
        .await
        .unwrap();
    let by_name = |name: &str| {
        all.iter()
            .find(|job| job.name.as_str() == name)
            .unwrap_or_else(|| panic!("no job {name:?}"))
    };
    for (name, state, attempt, max_attempts) in [
        ("gang", JobStateName::Running, 1, 2),
        ("done", JobStateName::Succeeded, 1, 3),
        ("waits", JobStateName::Waiting, 0, 3),
        ("again", JobStateName::Queued, 1, 3),
        ("failed", JobStateName::Failed, 3, 3),
        ("cancelled", JobStateName::Cancelled, 0, 3),
        // Its spec does not say how many: as many as it might still have had.
        ("broken", JobStateName::Queued, 0, 5),
        // It waits, for elements of which one runs.
        ("elements", JobStateName::Running, 0, 3),
    ] {
        let job = by_name(name);
        assert_eq!(
            (job.state.name(), job.attempt, job.max_attempts),
            (state, attempt, max_attempts),
            "{name}"
        );
    }
    let waits = by_name("waits");
    assert_eq!(
        waits.waits_for,
        [("gang".parse().unwrap(), NeedOn::Succeeded)]
    );
    assert_eq!(waits.needs.len(), 2);
    assert!(by_name("again").failure.is_some());
    let counts = by_name("elements").elements.unwrap();
    assert_eq!(
        (
            counts.succeeded,
            counts.failed,
            counts.cancelled,
            counts.running
        ),
        (1, 1, 1, 1)
    );
    let array = by_name("elements").id;
    assert_eq!(
        transitions::get_elements_left(&mut conn, array)
            .await
            .unwrap(),
        3
    );
    // Devices are free only where nothing is left.
    let gang = by_name("gang").id;
    let held = open::list_held_ranks(&mut conn, Which::Of(&[gang]))
        .await
        .unwrap();
    let ranks: Vec<u32> = held.iter().map(|held| held.key.rank.0).collect();
    assert_eq!(ranks, [0, 1], "one that was lost holds its device too");
    // The attempt goes on: it may still be cancelled, and it may still commit.
    let head = transitions::get_job_head(&mut conn, gang).await.unwrap();
    assert!(head.cancel_requested);
    drop(conn);
    let mut tx = database.db.write("test").await.unwrap();
    let manifest = Manifest::default();
    let done = [Success {
        at: (gang, AttemptNumber(1)),
        name: "output",
        manifest: &manifest,
        code: "",
        text: "succeeded",
    }];
    let now = any_time();
    let (succeeded, _) = transitions::mark_jobs_succeeded(&mut tx, &done, now)
        .await
        .unwrap();
    assert_eq!(succeeded, [gang]);
    let released = needs::release(&mut tx, &[(gang, Ended::Succeeded)], now)
        .await
        .unwrap();
    assert_eq!(released.queued, [waits.id]);
}

fn any_time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let database = TestDatabase::create_empty().await;
    database.db.migrate().await.unwrap();
    database.db.migrate().await.unwrap();
}

#[tokio::test]
async fn what_is_to_come_is_tried_and_taken_back() {
    use marquee_store::rehearse::rehearse;

    let database = TestDatabase::create().await;
    let well = rehearse(&database.url).await.unwrap();
    assert!(well.steps.is_empty() && well.failed.is_none(), "{well:?}");
    assert!(well.altered.is_empty() && well.unknown.is_empty());
    // As a version without 0036 left them.
    let before = "DROP TABLE authority_rotations; DROP FUNCTION audit_authority;
        ALTER TABLE members DROP COLUMN believes, DROP COLUMN certified_by;
        DELETE FROM _sqlx_migrations WHERE version = 36";
    database.execute(before).await;
    let tables = || async { counts(&database).await.into_keys().collect::<Vec<_>>() };
    let there = tables().await;
    let tried = rehearse(&database.url).await.unwrap();
    assert_eq!(tried.steps.len(), 1, "{tried:?}");
    assert_eq!((tried.steps[0].number, &tried.failed), (36, &None));
    assert_eq!(tables().await, there, "it was taken back");
    // One that does not apply is named, and changes nothing either.
    database
        .execute("CREATE TABLE authority_rotations ()")
        .await;
    let tried = rehearse(&database.url).await.unwrap();
    let (number, why) = tried.failed.unwrap();
    assert_eq!(number, 36);
    assert!(why.contains("already exists"), "{why}");
    database
        .execute("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1")
        .await;
    let tried = rehearse(&database.url).await.unwrap();
    assert_eq!(tried.altered, [1]);
}

/// Postgres looks at each row that may name a row which goes. Without an index that is a look at all of them, for each.
#[tokio::test]
async fn what_names_a_row_of_another_table_is_found_by_an_index() {
    let database = TestDatabase::create().await;
    let query = "SELECT c.conrelid::regclass || ': ' || c.conname FROM pg_constraint c
                 JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
                 WHERE c.contype = 'f' AND NOT EXISTS (
                     SELECT FROM pg_index i
                     WHERE i.indrelid = c.conrelid
                       AND split_part(i.indkey::text, ' ', 1)::int2 = ANY (c.conkey)
                       -- One of those rows that name something serves as well; one of other rows does not.
                       AND (i.indpred IS NULL OR
                            pg_get_expr(i.indpred, i.indrelid) = format('(%I IS NOT NULL)', a.attname)))
                 ORDER BY 1";
    assert_eq!(database.words(query).await, [""; 0]);
    // The look itself: without one of them it finds what lacks it.
    database.execute("DROP INDEX jobs_cancelled_for").await;
    let lacking = database.words(query).await;
    assert_eq!(lacking, ["jobs: jobs_cancelled_for_fkey"]);
}
