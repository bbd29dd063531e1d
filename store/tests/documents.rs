//! Documents in `jsonb` columns: each says its version, those of before versions are read as they are, and one of a
//! later version is not guessed at and costs nobody else.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::{self, at, report, running_job};
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_domain::job::RankState;
use marquee_domain::standing::Standing;
use marquee_store::checkpoints::{CheckpointKey, insert_checkpoint, list_checkpoints};
use marquee_store::jobs::get_job_spec;
use marquee_store::live::{list_live, list_outputs};
use marquee_store::ranks::{Progress, RankChange, RankKey, list_ranks, lock_ranks};
use marquee_store::steering::mark_standing;
use marquee_store::testing::TestDatabase;
use marquee_store::workers::{WhichWorkers, WorkerHello, list_workers};
use marquee_store::{StoreError, Tx};
use serde_json::{Value, json};

/// Table and column of each.
const ALL: [(&str, &str); 7] = [
    ("attempt_ranks", "output"),
    ("attempt_ranks", "progress"),
    ("attempt_ranks", "summary"),
    ("checkpoints", "manifest"),
    ("jobs", "spec"),
    ("workers", "inventory"),
    ("workers", "standing"),
];

fn manifest() -> Manifest {
    let file = FileEntry {
        path: "weights.bin".into(),
        size_bytes: 4,
        digest: Digest::of(b"data"),
    };
    Manifest::new(vec![file]).unwrap()
}

fn progress() -> Progress {
    Progress {
        phase: "train".into(),
        done: 7,
        total: None,
        unit: "steps".into(),
        at: at(4),
        phase_started_at: at(2),
        bytes: None,
        problems: Default::default(),
        phase_started_done: 0,
        phase_started_bytes: 0,
    }
}

fn summary() -> Value {
    json!({"code": "c1", "source": {"use_until": "2027-01-31"}})
}

/// One row of each kind with a document.
async fn filled(tx: &mut Tx) -> (WorkerHello, RankKey) {
    let (worker, key) = running_job(tx).await;
    let change = RankChange {
        state: Some(RankState::Finished),
        progress: Some(progress()),
        summary: Some(summary()),
        output: Some(manifest()),
        ..RankChange::default()
    };
    report(tx, key, 0, 1, &change).await.unwrap();
    let saved = CheckpointKey {
        attempt: key.attempt,
        step: 5,
    };
    insert_checkpoint(tx, key.job, saved, &manifest(), at(5))
        .await
        .unwrap();
    mark_standing(tx, worker.id, &Standing::default())
        .await
        .unwrap();
    (worker, key)
}

/// What is read of each, in the order of [`ALL`]; None: it is said that it cannot be read, or left out.
async fn read(tx: &mut Tx, key: RankKey) -> [Option<Value>; 7] {
    let ranks = list_ranks(tx, key.job, None).await.unwrap();
    let outputs = list_outputs(tx, &[key]).await.unwrap();
    let checkpoints = list_checkpoints(tx, key.job, 9).await.unwrap();
    let workers = list_workers(tx, WhichWorkers::Ever).await.unwrap();
    let spec = match get_job_spec(tx, key.job).await {
        Ok(spec) => Some(spec),
        Err(StoreError::Unreadable { .. }) => None,
        Err(other) => panic!("{other}"),
    };
    assert_eq!((ranks.len(), workers.len()), (1, 1), "no row is hidden");
    [
        outputs[0].1.as_ref().ok().and_then(value),
        ranks[0].progress.as_ref().and_then(value),
        ranks[0].summary.clone(),
        checkpoints.first().and_then(|found| value(&found.1)),
        spec.as_ref().and_then(value),
        workers[0].inventory.as_ref().ok().and_then(value),
        workers[0].standing.as_ref().ok().and_then(value),
    ]
}

fn value<T: serde::Serialize>(of: &T) -> Option<Value> {
    Some(serde_json::to_value(of).unwrap())
}

#[tokio::test]
async fn each_document_says_its_version_and_it_is_none_of_what_is_read() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (worker, key) = filled(&mut tx).await;
    for (table, column) in ALL {
        let stored = format!("SELECT ({column} ->> 'document_version')::bigint FROM {table}");
        assert_eq!(database.number(&stored).await, 1, "{table}.{column}");
    }
    let expected = [
        value(&manifest()),
        value(&progress()),
        Some(summary()),
        value(&manifest()),
        value(&support::spec("fetch", 1)),
        value(&worker.inventory),
        value(&Standing::default()),
    ];
    assert_eq!(read(&mut tx, key).await, expected);
}

#[tokio::test]
async fn a_document_of_before_there_were_versions_is_read_as_it_is() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = filled(&mut tx).await;
    let expected = read(&mut tx, key).await;
    for (table, column) in ALL {
        database
            .execute(&format!(
                "UPDATE {table} SET {column} = {column} - 'document_version'"
            ))
            .await;
    }
    assert_eq!(read(&mut tx, key).await, expected);
}

#[tokio::test]
async fn a_document_of_a_later_version_says_nothing_and_hides_no_other() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = filled(&mut tx).await;
    let expected = read(&mut tx, key).await;
    for (n, (table, column)) in ALL.into_iter().enumerate() {
        let set = |version: u32| {
            format!(
                "UPDATE {table} SET {column} = jsonb_set({column}, '{{document_version}}', '{version}')"
            )
        };
        database.execute(&set(2)).await;
        let found = read(&mut tx, key).await;
        for (other, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let expected = (other != n).then_some(expected.as_ref()).flatten();
            assert_eq!(
                found.as_ref(),
                expected,
                "{table}.{column}, seen at {other}"
            );
        }
        database.execute(&set(1)).await;
    }
}

#[tokio::test]
async fn a_summary_is_whatever_json_the_rank_said() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = running_job(&mut tx).await;
    let said = [
        json!({}),
        json!({"größe": "🗜️", "nested": {"document_version": 7}, "big": u64::MAX, "small": 1e-300}),
        json!([1, "two", null]),
        json!("a word"),
        json!(false),
        json!(null),
    ];
    for (from, summary) in (0..).zip(&said) {
        let change = RankChange {
            summary: Some(summary.clone()),
            ..RankChange::default()
        };
        report(&mut tx, key, from, from + 1, &change).await.unwrap();
        let ranks = list_ranks(&mut tx, key.job, Some(key.attempt))
            .await
            .unwrap();
        assert_eq!(ranks[0].summary.as_ref(), Some(summary));
        let live = list_live(&mut tx, &[key.job]).await.unwrap();
        let live = live[0].as_ref().unwrap();
        assert_eq!(live.ranks[0].summary.as_ref(), Some(summary));
    }
    // A report that says nothing of it leaves it.
    let from = u64::try_from(said.len()).unwrap();
    report(&mut tx, key, from, from + 1, &RankChange::default())
        .await
        .unwrap();
    let ranks = list_ranks(&mut tx, key.job, None).await.unwrap();
    assert_eq!(ranks[0].summary.as_ref(), said.last());
}

#[tokio::test]
async fn a_rank_is_judged_and_takes_reports_whatever_its_documents_are() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, key) = filled(&mut tx).await;
    for damaged in [
        "7",
        "[]",
        "\"\"",
        "{\"document_version\": 2}",
        "{\"phase\": 1}",
    ] {
        database
            .execute(&format!(
                "UPDATE attempt_ranks SET progress = '{damaged}', output = '{damaged}', summary = '{damaged}'"
            ))
            .await;
        let live = list_live(&mut tx, &[key.job]).await.unwrap();
        let live = live[0].as_ref().unwrap();
        assert_eq!(live.ranks[0].progress, None, "{damaged}");
        assert_eq!(live.with_output, [key.rank], "{damaged}: it is there");
        let output = &list_outputs(&mut tx, &[key]).await.unwrap()[0].1;
        assert!(output.is_err(), "{damaged}");
        let locked = lock_ranks(&mut tx, &[key]).await.unwrap();
        assert_eq!(locked[0].progress, None, "{damaged}");
    }
}
