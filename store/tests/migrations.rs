//! Each migration is applied to tables that hold rows: what works on empty ones proves little.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use marquee_store::testing::TestDatabase;
use sqlx::{AssertSqlSafe, PgPool};

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

async fn run(pool: &PgPool, path: &Path) {
    let sql = fs::read_to_string(path).unwrap();
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{path:?}: {error}"));
}

/// Rows in each table.
async fn counts(pool: &PgPool) -> BTreeMap<String, i64> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut counts = BTreeMap::new();
    for table in tables {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let count: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
        counts.insert(table, count);
    }
    counts
}

#[tokio::test]
async fn every_migration_applies_to_filled_tables_and_loses_no_row() {
    let database = TestDatabase::create_empty().await;
    let fills = numbered("tests/fill");
    let mut before = BTreeMap::new();
    for (number, migration) in numbered("../migrations") {
        run(&database.pool, &migration).await;
        let after = counts(&database.pool).await;
        for (table, rows) in &before {
            assert_eq!(after.get(table), Some(rows), "{table} after {migration:?}");
        }
        if let Some(fill) = fills.get(&number) {
            run(&database.pool, fill).await;
        }
        before = counts(&database.pool).await;
        let empty: Vec<_> = before.iter().filter(|(_, rows)| **rows == 0).collect();
        assert!(
            empty.is_empty(),
            "no rows in {empty:?}: add tests/fill/{number}.sql"
        );
    }
    assert!(!before.is_empty());
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let database = TestDatabase::create_empty().await;
    marquee_store::migrate(&database.pool).await.unwrap();
    marquee_store::migrate(&database.pool).await.unwrap();
}
