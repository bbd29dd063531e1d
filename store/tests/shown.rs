//! What is read of attempts, checkpoints and specs, one row at a time: what is damaged costs itself alone.

use crate::support::bench::{Bench, failure};
use crate::support::{self, at, pipeline, place, spec};
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_domain::ids::{AttemptNumber, JobId};
use marquee_domain::job::{AttemptStateName, JobStateName};
use marquee_store::attempts::find_live_attempt;
use marquee_store::checkpoints::{
    CheckpointKey, find_checkpoint, insert_checkpoint, list_checkpoint_rows, list_checkpoints,
};
use marquee_store::open::list_specs;
use marquee_store::steering::list_saved_at;
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    list_elements_to_revive, list_open_elements, mark_job_failed, mark_jobs_cancelled,
};

fn key(attempt: u32, step: u64) -> CheckpointKey {
    CheckpointKey {
        attempt: AttemptNumber(attempt),
        step,
    }
}

/// A checkpoint of one file of so many bytes.
fn bytes(size_bytes: u64) -> Manifest {
    let file = FileEntry {
        path: "weights.safetensors".into(),
        size_bytes,
        digest: Digest::of(&size_bytes.to_le_bytes()),
    };
    Manifest::new(vec![file]).unwrap()
}

#[tokio::test]
async fn a_job_has_a_live_attempt_while_it_is_at_work_on_it() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for state in AttemptStateName::ALL {
        let rank = bench.attempt_in(&mut tx, state).await;
        let live = find_live_attempt(&mut tx, rank.job).await.unwrap();
        let is_live = matches!(
            state,
            AttemptStateName::Assigned | AttemptStateName::Running
        );
        let found = live.map(|attempt| (attempt.number, attempt.state));
        let expected = is_live.then_some((AttemptNumber(1), state));
        assert_eq!(found, expected, "{state:?}");
    }
    let nobody = find_live_attempt(&mut tx, JobId(i64::MAX)).await;
    assert_eq!(nobody.unwrap(), None);
}

#[tokio::test]
async fn checkpoints_come_by_their_steps_and_a_damaged_one_is_passed_over() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (pair, rank) = bench.running(&mut tx).await;
    let job = rank.job;
    for (step, size, second) in [(10, 100, 1), (30, 300, 3), (20, 200, 2)] {
        insert_checkpoint(&mut tx, job, key(1, step), &bytes(size), at(second))
            .await
            .unwrap();
    }
    // The same step once more, as after a restart of its rank: the newer takes its place.
    insert_checkpoint(&mut tx, job, key(1, 30), &bytes(333), at(9))
        .await
        .unwrap();
    let rows = list_checkpoint_rows(&mut tx, job, 10).await.unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| (row.key.step, row.size_bytes, row.created_at))
        .collect();
    assert_eq!(
        shown,
        [(30, 333, at(9)), (20, 200, at(2)), (10, 100, at(1))]
    );
    let newest = list_checkpoint_rows(&mut tx, job, 1).await.unwrap();
    assert_eq!(newest, rows[..1]);
    let saved = list_saved_at(&mut tx, &[pair.needed, job, JobId(i64::MAX)]).await;
    assert_eq!(
        saved.unwrap(),
        [(job, at(9))],
        "those without one are left out"
    );

    let damage = format!(
        "UPDATE checkpoints SET manifest = '{{\"files\": \"none\"}}' WHERE job_id = {job} AND step = 30"
    );
    tx.execute_raw(&damage).await.unwrap();
    let usable = list_checkpoints(&mut tx, job, 10).await.unwrap();
    let steps: Vec<u64> = usable.iter().map(|(key, _)| key.step).collect();
    assert_eq!(steps, [20, 10], "the job goes on from an earlier one");
    let rows = list_checkpoint_rows(&mut tx, job, 10).await.unwrap();
    assert_eq!(
        (rows.len(), rows[0].size_bytes),
        (3, 0),
        "it is shown, with nothing in it"
    );
    let found = find_checkpoint(&mut tx, job, key(1, 20)).await.unwrap();
    assert_eq!(found, Some(bytes(200)));
    for absent in [key(2, 20), key(1, 21)] {
        let found = find_checkpoint(&mut tx, job, absent).await.unwrap();
        assert_eq!(found, None, "{absent:?}");
    }
}

#[tokio::test]
async fn a_spec_that_cannot_be_read_says_so_in_its_place() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut many = spec("many", 1);
    many.array = Some(3);
    let good = spec("good", 1);
    let line = pipeline(&mut tx, "line").await;
    let [good, bad, array] = support::jobs(
        &mut tx,
        line,
        [(&good, &[]), (&spec("bad", 1), &[]), (&many, &[])],
    )
    .await;
    let damage = format!("UPDATE jobs SET spec = '{{\"name\": 7}}' WHERE id = {bad}");
    tx.execute_raw(&damage).await.unwrap();
    let elements = list_open_elements(&mut tx, array).await.unwrap();
    let asked = [good, bad, array, elements[0].id, JobId(i64::MAX)];
    let mut specs = list_specs(&mut tx, &asked).await.unwrap();
    specs.sort_by_key(|(job, _)| *job);
    let read: Vec<(JobId, bool)> = specs
        .iter()
        .map(|(job, spec)| (*job, spec.is_ok()))
        .collect();
    // An element has none of its own, and what is not there has none either.
    assert_eq!(read, [(good, true), (bad, false), (array, true)]);
    let why = specs[1].1.as_ref().unwrap_err();
    assert!(why.contains("jobs.spec"), "{why}");
}

#[tokio::test]
async fn a_retry_of_an_array_brings_back_what_did_not_succeed_and_nothing_else() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let bench = Bench::new(&mut tx).await;
    let mut many = spec("many", 1);
    many.array = Some(5);
    let line = pipeline(&mut tx, "line").await;
    let [array] = support::jobs(&mut tx, line, [(&many, &[])]).await;
    let ids: Vec<JobId> = list_open_elements(&mut tx, array)
        .await
        .unwrap()
        .iter()
        .map(|element| element.id)
        .collect();
    let mut keys = Vec::new();
    for id in &ids[..3] {
        keys.push(place(&mut tx, *id, 0, bench.worker.id).await);
    }
    support::bench::succeed(&mut tx, ids[0], keys[0].attempt).await;
    let running = [JobStateName::Running];
    mark_job_failed(&mut tx, ids[1], 1, &running, &failure(), at(2))
        .await
        .unwrap();
    mark_jobs_cancelled(&mut tx, &[(ids[3], 0)], "no", None, "test", at(2))
        .await
        .unwrap();
    // One runs, and one waits for its turn.
    let back = list_elements_to_revive(&mut tx, array).await.unwrap();
    assert_eq!(back, [(ids[1], 1), (ids[3], 0)]);
    assert_eq!(list_elements_to_revive(&mut tx, ids[1]).await.unwrap(), []);
}
