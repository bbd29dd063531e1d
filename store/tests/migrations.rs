//! Each migration is applied to tables that hold rows: what works on empty ones proves little.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use marquee_store::testing::TestDatabase;

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

#[tokio::test]
async fn every_migration_applies_to_filled_tables_and_loses_no_row() {
    let database = TestDatabase::create_empty().await;
    let fills = numbered("tests/fill");
    let mut before = BTreeMap::new();
    for (number, migration) in numbered("../migrations") {
        run(&database, &migration).await;
        let after = counts(&database).await;
        for (table, rows) in &before {
            assert_eq!(after.get(table), Some(rows), "{table} after {migration:?}");
        }
        if let Some(fill) = fills.get(&number) {
            run(&database, fill).await;
        }
        before = counts(&database).await;
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
    database.db.migrate().await.unwrap();
    database.db.migrate().await.unwrap();
}
