//! What a backup reads: one moment, and every file that the jobs of that moment name.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::bench::Bench;
use crate::support::{at, pipeline, report, success};
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_domain::ids::PipelineId;
use marquee_store::backup::{
    export_snapshot, get_database_bytes, get_server_major, insert_backup, keep_snapshot,
    list_named_files,
};
use marquee_store::checkpoints::{CheckpointKey, insert_checkpoint};
use marquee_store::ranks::RankChange;
use marquee_store::testing::{Asker, TestDatabase};
use marquee_store::transitions::mark_jobs_succeeded;
use marquee_store::{Conn, Tx};

fn files(words: &[&str]) -> Manifest {
    let file = |word: &&str| FileEntry {
        path: format!("{word}.txt"),
        size_bytes: word.len() as u64,
        digest: Digest::of(word.as_bytes()),
    };
    Manifest::new(words.iter().map(file).collect()).unwrap()
}

/// A pipeline whose job saved `saved`, put `put` forward and committed `done`.
async fn made(tx: &mut Tx, bench: &mut Bench, saved: &[&str], put: &[&str], done: &[&str]) {
    let (_, key) = bench.running(tx).await;
    let checkpoint = CheckpointKey {
        attempt: key.attempt,
        step: 1,
    };
    insert_checkpoint(tx, key.job, checkpoint, &files(saved), at(3))
        .await
        .unwrap();
    let change = RankChange {
        output: Some(files(put)),
        ..RankChange::default()
    };
    report(tx, key, 0, 1, &change).await.unwrap();
    let manifest = files(done);
    mark_jobs_succeeded(tx, &[success((key.job, key.attempt), &manifest)], at(4))
        .await
        .unwrap();
}

/// All files named, in pages of so many pipelines, and how many pages there were.
async fn named(conn: &mut Conn, limit: u32) -> (Vec<Digest>, u32) {
    let (mut found, mut pages, mut after) = (Vec::new(), 0, PipelineId(0));
    while let Some((last, files)) = list_named_files(conn, after, limit).await.unwrap() {
        assert!(last > after, "it goes on");
        (after, pages) = (last, pages + 1);
        for file in &files {
            // Each file here is its own name.
            assert!(file.size_bytes > 2, "{file:?}");
        }
        found.extend(files.into_iter().map(|file| file.digest));
    }
    found.sort_unstable();
    found.dedup();
    (found, pages)
}

#[tokio::test]
async fn every_file_is_named_whatever_the_pages_are() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    assert_eq!(named(&mut tx, 5).await, (Vec::new(), 0));
    let mut bench = Bench::new(&mut tx).await;
    made(
        &mut tx,
        &mut bench,
        &["saved"],
        &["put"],
        &["done", "shared"],
    )
    .await;
    pipeline(&mut tx, "without jobs").await;
    made(&mut tx, &mut bench, &["saved-2"], &["shared"], &["done-2"]).await;
    let mut expected: Vec<Digest> = ["saved", "put", "done", "shared", "saved-2", "done-2"]
        .iter()
        .map(|word| Digest::of(word.as_bytes()))
        .collect();
    expected.sort_unstable();
    for (limit, pages) in [(1, 3), (2, 2), (3, 1), (u32::MAX, 1)] {
        assert_eq!(named(&mut tx, limit).await, (expected.clone(), pages));
    }
    let none = list_named_files(&mut tx, PipelineId(i64::MAX), 5).await;
    assert_eq!(none.unwrap(), None);
    let no_page = list_named_files(&mut tx, PipelineId(0), 0).await;
    assert_eq!(no_page.unwrap(), None);
}

#[tokio::test]
async fn a_manifest_that_names_no_files_stops_no_backup() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    made(&mut tx, &mut bench, &["saved"], &["put"], &["done"]).await;
    for damaged in [
        "{}",
        "{\"files\": 7}",
        "{\"files\": [{\"digest\": \"no digest\"}]}",
    ] {
        database
            .execute(&format!(
                "UPDATE attempt_ranks SET output = '{damaged}'; UPDATE artifacts SET manifest = '{damaged}'"
            ))
            .await;
        let saved = vec![Digest::of(b"saved")];
        assert_eq!(named(&mut tx, 5).await, (saved, 1), "{damaged}");
    }
}

#[tokio::test]
async fn another_connection_reads_what_a_snapshot_reads_for_as_long_as_it_is_held() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    pipeline(&mut tx, "before").await;
    let mut snapshot = database.db.snapshot().await.unwrap();
    let name = export_snapshot(&mut snapshot).await.unwrap();
    pipeline(&mut tx, "after").await;
    keep_snapshot(&mut snapshot).await.unwrap();

    let mut other = Asker::connect(&database.url).await;
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'");
    other.execute(&begin).await;
    let count = "SELECT count(*) FROM pipelines";
    assert_eq!(other.number(count).await, 1);
    assert_eq!(database.number(count).await, 2);
    let (_, files) = named(&mut snapshot, 1).await;
    assert_eq!(files, 1, "one pipeline");
    // Whoever has it keeps it, also without the first.
    drop(snapshot);
    assert_eq!(other.number(count).await, 1);
    other.execute("COMMIT").await;
    assert_eq!(other.number(count).await, 2);
    other.close().await;
}

#[tokio::test]
async fn a_database_is_empty_without_tables_of_whomever() {
    let database = TestDatabase::create_empty().await;
    let db = &database.db;
    assert!(db.is_empty().await.unwrap());
    for (thing, kind) in [
        ("s", "SEQUENCE"),
        ("t (n int)", "TABLE"),
        ("v AS SELECT 1", "VIEW"),
    ] {
        database.execute(&format!("CREATE {kind} {thing}")).await;
        assert!(!db.is_empty().await.unwrap(), "{kind}");
        let name = thing.split(' ').next().unwrap();
        database.execute(&format!("DROP {kind} {name}")).await;
        assert!(db.is_empty().await.unwrap(), "{kind}");
    }
    // Of another schema: nothing of ours would meet it.
    database
        .execute("CREATE SCHEMA other; CREATE TABLE other.t (n int)")
        .await;
    assert!(db.is_empty().await.unwrap());
    db.migrate().await.unwrap();
    assert!(!db.is_empty().await.unwrap());
}

#[tokio::test]
async fn a_size_that_is_none_is_nought_and_of_two_the_larger_counts() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    made(&mut tx, &mut bench, &["saved"], &["put"], &["done"]).await;
    let digest = Digest::of(b"done");
    for (sizes, expected) in [
        (["4", "4"], 4),
        (["4", "7"], 7),
        (["\"many\"", "5"], 5),
        (["null", "-3"], 0),
        (["99999999999999999999", "1.5"], 0),
    ] {
        let files =
            sizes.map(|size| format!("{{\"digest\": \"{digest}\", \"size_bytes\": {size}}}"));
        let files = files.join(", ");
        database
            .execute(&format!(
                "UPDATE artifacts SET manifest = '{{\"files\": [{files}]}}'"
            ))
            .await;
        let (_, files) = list_named_files(&mut tx, PipelineId(0), 5)
            .await
            .unwrap()
            .unwrap();
        let found = files.iter().find(|file| file.digest == digest).unwrap();
        assert_eq!(found.size_bytes, expected, "{sizes:?}");
    }
}

#[tokio::test]
async fn who_takes_a_backup_is_written_down_and_the_database_says_how_large_and_how_old_it_is() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.write_as("backup", "ada").await.unwrap();
    insert_backup(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let lines = "SELECT count(*) FROM audit WHERE kind = 'backed_up' AND actor = 'ada'";
    assert_eq!(database.number(lines).await, 1);
    let mut conn = database.db.read().await.unwrap();
    assert!(get_database_bytes(&mut conn).await.unwrap() > 1_000_000);
    assert!((14..100).contains(&get_server_major(&mut conn).await.unwrap()));
}
