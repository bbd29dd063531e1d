//! `migrate --dry-run` on databases of every kind: it says what will be, and changes nothing.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::time::Duration;

use marquee_coordinator::Settings;
use marquee_coordinator::config::{Config, DatabaseUrl};
use marquee_coordinator::migrate::dry_run;
use marquee_store::testing::TestDatabase;

fn config(data_dir: &Path, url: Option<&str>) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        address: None,
        data_dir: data_dir.to_owned(),
        artifacts_dir: data_dir.join("blobs"),
        object_store: None,
        leader_lease: Duration::from_secs(3),
        database_url: url.map(|url| DatabaseUrl(url.to_owned())),
        postgres_bin: None,
        secrets_key: None,
        tls: None,
        access: marquee_coordinator::access::Rule::default(),
        settings: Settings::default(),
        listing: Vec::new(),
    }
}

async fn tried(url: &str) -> (String, bool) {
    let folder = tempfile::tempdir().unwrap();
    dry_run(&config(folder.path(), Some(url))).await.unwrap()
}

/// As a version before the rotation of authorities left them.
const BEFORE_36: &str = "DROP TABLE authority_rotations; DROP FUNCTION audit_authority;
    ALTER TABLE members DROP COLUMN believes, DROP COLUMN certified_by;
    DELETE FROM _sqlx_migrations WHERE version = 36";

#[tokio::test]
async fn what_is_up_to_date_newer_or_altered_is_told_apart() {
    let database = TestDatabase::create().await;
    let (told, is_well) = tried(&database.url).await;
    assert!(is_well && told.contains("nothing is to come"), "{told}");
    // Of a later version: that is for whoever goes back to decide, and no fault.
    let later =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9001, 'of later', true, '\\x01', 1), (9002, 'of later', true, '\\x01', 1)";
    database.execute(later).await;
    let (told, is_well) = tried(&database.url).await;
    assert!(is_well, "{told}");
    for words in [
        "up to 9002",
        "of a later version than this program: 9001, 9002",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // Another build was at work: no coordinator of this one will start.
    database
        .execute("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version IN (3, 5)")
        .await;
    let (told, is_well) = tried(&database.url).await;
    assert!(
        !is_well && told.contains("refuse to start: 0003, 0005"),
        "{told}"
    );
}

#[tokio::test]
async fn tables_that_are_not_there_yet_are_all_to_come() {
    let database = TestDatabase::create_empty().await;
    let (told, is_well) = tried(&database.url).await;
    assert!(is_well, "{told}");
    assert!(told.starts_with("there are no tables yet\n"), "{told}");
    assert!(
        told.contains("0001 applies") && told.contains("0036 applies"),
        "{told}"
    );
    assert!(told.ends_with("nothing was changed\n"), "{told}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(database.number(tables).await, 0);
}

#[tokio::test]
async fn tables_that_somebody_is_at_work_with_are_not_waited_for_without_end() {
    let database = TestDatabase::create().await;
    database.execute(BEFORE_36).await;
    let (told, is_well) = tried(&database.url).await;
    assert!(is_well && told.contains("0036 applies"), "{told}");
    let mut held = database.db.write("a test's own").await.unwrap();
    held.execute_raw("LOCK TABLE members IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let (told, is_well) = tried(&database.url).await;
    assert!(!is_well, "{told}");
    assert!(
        told.contains("0036 does not apply") && told.contains("lock timeout"),
        "{told}"
    );
    // It has left nothing, above all no lock of its own.
    held.commit().await.unwrap();
    let (told, is_well) = tried(&database.url).await;
    assert!(is_well && told.contains("0036 applies"), "{told}");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_and_its_password_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = dry_run(&config(folder.path(), None)).await.unwrap_err();
    let text = format!("{nowhere:#}");
    assert!(
        text.contains("there are no jobs in data_dir") && text.contains("--config"),
        "{text}"
    );
    let database = TestDatabase::create().await;
    let (at, _) = database.url.split_once('?').unwrap();
    let (_, name) = at.rsplit_once('/').unwrap();
    let missing = database.url.replace(name, "no_such_database");
    let refused = dry_run(&config(folder.path(), Some(&missing))).await;
    let text = format!("{:#}", refused.unwrap_err());
    assert!(text.contains("no_such_database"), "{text}");
    // No Postgres at all.
    let away = format!(
        "postgres://postgres:hunter2@localhost/x?host={}",
        folder.path().display()
    );
    let refused = dry_run(&config(folder.path(), Some(&away))).await;
    let text = format!("{:#}", refused.unwrap_err());
    assert!(!text.contains("hunter2"), "{text}");
}
