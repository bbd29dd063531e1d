//! What jobs leave: artifacts, checkpoints, steps that are used again, and what goes when they are removed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support;
use crate::support::{at, hello, pipeline, place, report, spec};
use chrono::NaiveDate;
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_domain::job::RankState;
use marquee_domain::spec::{InputRef, JobSpec};
use marquee_store::artifacts::{self, After};
use marquee_store::checkpoints::{self, CheckpointKey};
use marquee_store::ranks::{RankChange, RankKey};
use marquee_store::reports::{self, LogLine, LogStream};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    Success, list_open_elements, mark_jobs_cancelled, mark_jobs_succeeded,
};
use marquee_store::workers::mark_worker_online;
use marquee_store::{Tx, audit, jobs, removal, reuse};
use serde_json::{Value, json};

/// An artifact of one file for each word.
fn files(words: &[&str]) -> Manifest {
    let file = |word: &&str| FileEntry {
        path: format!("{word}.txt"),
        size_bytes: word.len() as u64,
        digest: Digest::of(word.as_bytes()),
    };
    Manifest::new(words.iter().map(file).collect()).unwrap()
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

struct Bench {
    worker: WorkerId,
    made: u32,
}

impl Bench {
    async fn new(tx: &mut Tx) -> Self {
        let worker = hello(1, "w1");
        mark_worker_online(tx, &worker, at(0)).await.unwrap();
        Self {
            worker: worker.id,
            made: 0,
        }
    }

    /// A job by itself in a pipeline of its own.
    async fn queued(&mut self, tx: &mut Tx, spec: &JobSpec) -> (PipelineId, JobId) {
        self.made += 1;
        let pipeline = pipeline(tx, &format!("request-{}", self.made)).await;
        let [job] = support::jobs(tx, pipeline, [(spec, &[])]).await;
        (pipeline, job)
    }

    /// One that has succeeded with `manifest`, as `code` and after a child that said `summary`.
    async fn succeeded(
        &mut self,
        tx: &mut Tx,
        manifest: &Manifest,
        code: &str,
        summary: Value,
    ) -> (PipelineId, JobId) {
        let (pipeline, job) = self.queued(tx, &spec("fetch", 1)).await;
        self.succeed(tx, job, manifest, code, summary).await;
        (pipeline, job)
    }

    async fn succeed(
        &self,
        tx: &mut Tx,
        job: JobId,
        manifest: &Manifest,
        code: &str,
        summary: Value,
    ) {
        let key = place(tx, job, 0, self.worker).await;
        let change = RankChange {
            state: Some(RankState::Finished),
            summary: Some(summary),
            output: Some(manifest.clone()),
            ended_at: Some(at(2)),
            ..RankChange::default()
        };
        report(tx, key, 0, 1, &change).await.unwrap();
        let success = Success {
            at: (job, key.attempt),
            name: "output",
            manifest,
            code,
            text: "succeeded",
        };
        let (done, _) = mark_jobs_succeeded(tx, &[success], at(job.0))
            .await
            .unwrap();
        assert_eq!(done, [job]);
    }
}

#[tokio::test]
async fn an_artifact_is_found_by_its_job_its_name_and_as_much_of_its_digest_as_is_unique() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (one, two) = (files(&["one"]), files(&["two"]));
    let (first, job) = bench.succeeded(&mut tx, &one, "c", json!({})).await;
    let (second, again) = bench.succeeded(&mut tx, &one, "c", json!({})).await;
    let (_, other) = bench.succeeded(&mut tx, &two, "c", json!({})).await;
    let (_, open) = bench.queued(&mut tx, &spec("fetch", 1)).await;

    let found = artifacts::find_artifact_of_job(&mut tx, job)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.digest, found.file_count, found.size_bytes),
        (one.digest(), 1, 3)
    );
    assert_eq!((found.pipeline, found.attempt), (first, AttemptNumber(1)));
    assert!(
        artifacts::find_artifact_of_job(&mut tx, open)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        artifacts::find_manifest_of_job(&mut tx, other)
            .await
            .unwrap(),
        Some(two.clone())
    );
    let name = "fetch".parse().unwrap();
    let by_name = artifacts::find_manifest_by_name(&mut tx, second, &name).await;
    assert_eq!(by_name.unwrap(), Some(one.clone()));
    let by_digest = artifacts::find_manifest_by_digest(&mut tx, &two.digest()).await;
    assert_eq!(by_digest.unwrap(), Some(two.clone()));
    assert_eq!(
        artifacts::find_manifest_by_digest(&mut tx, &Digest::of(b"none"))
            .await
            .unwrap(),
        None
    );

    // Two jobs with one digest are one artifact, the newest; two digests are two, and no prefix tells them apart.
    let whole = one.digest();
    let exact = artifacts::list_artifacts_by_digest(&mut tx, whole.as_str(), None)
        .await
        .unwrap();
    assert_eq!(
        exact.iter().map(|found| found.job).collect::<Vec<_>>(),
        [again]
    );
    let all = artifacts::list_artifacts_by_digest(&mut tx, "", None)
        .await
        .unwrap();
    assert_eq!(all.len(), 2);
    for odd in ["g", "%", "'", &"f".repeat(65)] {
        let found = artifacts::list_artifacts_by_digest(&mut tx, odd, None)
            .await
            .unwrap();
        assert_eq!(found, [], "{odd}");
    }

    // Page by page, none twice and none left out; a row that cannot be read hides no other.
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = artifacts::list_artifacts(&mut tx, None, None, None, after, 1)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(After {
            committed_at: last.committed_at,
            job: last.job,
        });
        seen.extend(page.iter().map(|found| found.job));
    }
    assert_eq!(seen, [other, again, job]);
    let damage = format!(
        "UPDATE artifacts SET size_bytes = -1 WHERE job_id = {}",
        again.0
    );
    tx.execute_raw(&damage).await.unwrap();
    let left = artifacts::list_artifacts(&mut tx, None, None, None, None, 10)
        .await
        .unwrap();
    assert_eq!(
        left.iter().map(|found| found.job).collect::<Vec<_>>(),
        [other, job]
    );
    let of = artifacts::list_artifacts(&mut tx, None, Some(first), Some(job), None, 10)
        .await
        .unwrap();
    assert_eq!(of.len(), 1);
}

#[tokio::test]
async fn elements_bring_their_parts_in_order_and_a_damaged_one_is_named() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let mut many = spec("many", 1);
    many.array = Some(3);
    let (pipeline, array) = bench.queued(&mut tx, &many).await;
    let mut elements: Vec<JobId> = list_open_elements(&mut tx, array)
        .await
        .unwrap()
        .iter()
        .map(|e| e.id)
        .collect();
    // Whoever ends first.
    elements.reverse();
    for (place, element) in elements.iter().enumerate() {
        let part = files(&[["c", "b", "a"][place]]);
        bench
            .succeed(&mut tx, *element, &part, "c", json!({}))
            .await;
    }
    let damage = format!(
        "UPDATE artifacts SET manifest = '{{\"files\": 7}}' WHERE job_id = {}",
        elements[1].0
    );
    tx.execute_raw(&damage).await.unwrap();
    let parts = artifacts::list_element_manifests(&mut tx, array)
        .await
        .unwrap();
    assert_eq!(parts[0], (0, Ok(files(&["a"]))));
    assert!(parts[1].0 == 1 && parts[1].1.is_err(), "{parts:?}");
    assert_eq!(parts[2], (2, Ok(files(&["c"]))));
    // The name is the array's: no element passes for it.
    let name = "many".parse().unwrap();
    assert_eq!(
        artifacts::find_manifest_by_name(&mut tx, pipeline, &name)
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn the_checkpoint_with_the_most_steps_goes_first_and_a_damaged_one_is_passed_over() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (_, job) = bench.queued(&mut tx, &spec("train", 1)).await;
    place(&mut tx, job, 0, bench.worker).await;
    let key = |step| CheckpointKey {
        attempt: AttemptNumber(1),
        step,
    };
    for step in [10, 30, 20] {
        let saved = files(&[&format!("step-{step}")]);
        checkpoints::insert_checkpoint(&mut tx, job, key(step), &saved, at(1))
            .await
            .unwrap();
    }
    // Said again after a cut, with other bytes: the last word counts.
    checkpoints::insert_checkpoint(&mut tx, job, key(20), &files(&["again"]), at(2))
        .await
        .unwrap();
    let steps = async |tx: &mut Tx, limit| -> Vec<u64> {
        let listed = checkpoints::list_checkpoints(tx, job, limit).await.unwrap();
        listed.iter().map(|(key, _)| key.step).collect()
    };
    assert_eq!(steps(&mut tx, 9).await, [30, 20, 10]);
    assert_eq!(steps(&mut tx, 1).await, [30]);
    let found = checkpoints::find_checkpoint(&mut tx, job, key(20))
        .await
        .unwrap();
    assert_eq!(found, Some(files(&["again"])));
    assert_eq!(
        checkpoints::find_checkpoint(&mut tx, job, key(21))
            .await
            .unwrap(),
        None
    );
    tx.execute_raw(
        "UPDATE checkpoints SET manifest = '{\"document_version\": 99}' WHERE step = 30",
    )
    .await
    .unwrap();
    assert_eq!(steps(&mut tx, 9).await, [20, 10]);
    let beyond =
        checkpoints::insert_checkpoint(&mut tx, job, key(u64::MAX), &files(&["x"]), at(1)).await;
    assert!(beyond.is_err(), "a step that no column holds");
}

#[tokio::test]
async fn a_step_is_used_again_only_while_its_data_may_be_and_an_odd_word_stops_nobody() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let step = Digest::of(b"the same work");
    let until = |word: Value| json!({ "source": { "use_until": word } });
    // What a child said, and the days on which its result may stand for another's.
    let said = [
        (json!({}), [true, true]),
        (Value::Null, [true, true]),
        (json!({ "source": 7 }), [true, true]),
        (until(json!("2026-11-30")), [true, false]),
        (until(json!("2026-12-31")), [true, true]),
        // None of them is a date: what may not be known is not used.
        (until(json!("soon")), [false, false]),
        (until(json!("2026-02-31x")), [false, false]),
        (until(json!("")), [false, false]),
        (until(json!({ "year": 2026 })), [false, false]),
    ];
    let mut expected = [Vec::new(), Vec::new()];
    for (number, (summary, usable)) in said.into_iter().enumerate() {
        let (_, job) = bench.queued(&mut tx, &spec("prep", 1)).await;
        reuse::mark_step(&mut tx, job, &step).await.unwrap();
        let code = if number == 1 { "other code" } else { "code" };
        bench
            .succeed(&mut tx, job, &files(&["x"]), code, summary)
            .await;
        for (day, usable) in usable.into_iter().enumerate() {
            if usable && code == "code" {
                expected[day].insert(0, job);
            }
        }
    }
    for (place, today) in ["2026-11-30", "2026-12-01"].into_iter().enumerate() {
        let found = reuse::list_reusable(&mut tx, &step, "code", day(today), 99).await;
        let found: Vec<JobId> = found.unwrap().iter().map(|one| one.job).collect();
        assert_eq!(found, expected[place], "{today}");
    }
    let none =
        reuse::list_reusable(&mut tx, &Digest::of(b"other"), "code", day("2026-11-30"), 9).await;
    assert_eq!(none.unwrap(), []);
    // The day after its last: gone from there on, and what is no date never.
    let expired = removal::list_expired(&mut tx, day("2027-01-01"), 99)
        .await
        .unwrap();
    assert_eq!(expired.len(), 2, "{expired:?}");
    // A job that has ended takes no other step.
    let ended = expired[0].0;
    reuse::mark_step(&mut tx, ended, &Digest::of(b"other"))
        .await
        .unwrap();
    let none =
        reuse::list_reusable(&mut tx, &Digest::of(b"other"), "code", day("2026-11-30"), 9).await;
    assert_eq!(none.unwrap(), []);
}

#[tokio::test]
async fn a_pipeline_that_is_removed_takes_all_of_its_own_and_nothing_of_others() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (shared, own) = (files(&["shared"]), files(&["shared", "own"]));
    let (kept, kept_job) = bench.succeeded(&mut tx, &shared, "c", json!({})).await;
    let (gone, gone_job) = bench.succeeded(&mut tx, &own, "c", json!({})).await;
    let key = RankKey {
        job: gone_job,
        attempt: AttemptNumber(1),
        rank: marquee_domain::ids::Rank(0),
    };
    let line = LogLine {
        sequence: 1,
        line: 0,
        left: 0,
        stream: LogStream::Stdout,
        text: "hello".into(),
        at: at(1),
        is_damaged: false,
    };
    reports::insert_log_lines(&mut tx, &[(key, &[line])])
        .await
        .unwrap();
    // A job of somebody else needs it by its digest, and one took its result.
    let mut user = spec("user", 1);
    user.inputs
        .insert("dataset".into(), InputRef::Artifact(own.digest()));
    let (_, user) = bench.queued(&mut tx, &user).await;
    tx.execute_raw(&format!(
        "UPDATE jobs SET reused_from = {} WHERE id = {}",
        gone_job.0, kept_job.0
    ))
    .await
    .unwrap();

    let users = |outside| removal_users(&own, outside);
    assert_eq!(users(None)(&mut tx).await, [user]);
    assert_eq!(removal::list_open(&mut tx, gone).await.unwrap(), []);
    assert_eq!(removal::list_held(&mut tx, gone).await.unwrap(), []);
    let going = removal::list_going(&mut tx, Some(gone), None)
        .await
        .unwrap();
    assert_eq!(going.len(), 1);
    assert_eq!(
        (going[0].job, going[0].digest.clone(), going[0].size_bytes),
        (gone_job, own.digest(), 9)
    );
    assert_eq!(
        removal::list_going(&mut tx, None, Some(&shared.digest()))
            .await
            .unwrap()[0]
            .job,
        kept_job
    );
    assert_eq!(
        removal::list_going(&mut tx, None, None).await.unwrap(),
        [],
        "nothing asked for is nothing"
    );
    mark_jobs_cancelled(&mut tx, &[(user, 0)], "no", None, "test", at(3))
        .await
        .unwrap();
    assert_eq!(
        users(None)(&mut tx).await,
        [],
        "one that has ended needs nothing"
    );

    let of_it = removal::list_all_jobs(&mut tx, gone).await.unwrap();
    let mut named = removal::list_files(&mut tx, &of_it).await.unwrap();
    named.sort();
    let mut both = vec![Digest::of(b"shared"), Digest::of(b"own")];
    both.sort();
    assert_eq!(named, both);
    // In one transaction: the audit's lines go with what they are about, and not by themselves.
    let mut whole = database.db.write("remove").await.unwrap();
    audit::forget_pipeline(&mut whole, gone).await.unwrap();
    while removal::delete_some_rows(&mut whole, &of_it).await.unwrap() {}
    removal::delete_pipeline(&mut whole, gone).await.unwrap();
    whole.commit().await.unwrap();
    // The file that the other one names too stays.
    assert_eq!(
        removal::list_unnamed(&mut tx, &named).await.unwrap(),
        [Digest::of(b"own")]
    );
    assert!(jobs::get_job(&mut tx, gone_job).await.is_err());
    let left = jobs::get_job(&mut tx, kept_job).await.unwrap();
    assert_eq!(left.pipeline_id, kept);
    assert_eq!(
        database
            .number(&format!(
                "SELECT count(*) FROM job_events WHERE job_id = {}",
                gone_job.0
            ))
            .await,
        0
    );

    // An artifact by itself: its job keeps its history, and the rank's word of it goes too.
    removal::delete_artifacts(&mut tx, &[kept_job])
        .await
        .unwrap();
    assert!(
        artifacts::find_artifact_of_job(&mut tx, kept_job)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        removal::list_unnamed(&mut tx, &[Digest::of(b"shared")])
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(
        !marquee_store::events::list_events(&mut tx, kept_job, 9)
            .await
            .unwrap()
            .is_empty()
    );
}

/// Who needs an artifact, as a question that can be asked again.
fn removal_users(
    manifest: &Manifest,
    outside: Option<PipelineId>,
) -> impl AsyncFn(&mut Tx) -> Vec<JobId> {
    let digest = manifest.digest();
    async move |tx: &mut Tx| {
        removal::list_users(tx, std::slice::from_ref(&digest), outside)
            .await
            .unwrap()
    }
}
