//! Where a job's inputs came from, who took what it made, and what was said of its start.

use crate::support::bench::{Bench, succeed};
use crate::support::{self, at, pipeline, place, spec};
use chrono::TimeDelta;
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::JobId;
use marquee_domain::job::JobStateName;
use marquee_store::forecasts::{Forecast, find_forecast, insert_forecast, list_lengths};
use marquee_store::relatives::{Relative, list_sources, list_takers};
use marquee_store::reuse::mark_step;
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    list_open_elements, list_pipelines_of_jobs, mark_job_reused, mark_job_running_here,
    mark_jobs_cancelled,
};
use marquee_store::{StoreError, pipelines, transitions};

/// Job, state, whether its artifact is there, and whether it was taken as the other one's own.
fn seen(relatives: &[Relative]) -> Vec<(JobId, JobStateName, bool, bool)> {
    let row = |one: &Relative| (one.job, one.state, one.digest.is_some(), one.is_reuse);
    relatives.iter().map(row).collect()
}

#[tokio::test]
async fn sources_and_takers_are_the_two_ends_of_one_artifact() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let bench = Bench::new(&mut tx).await;
    let (first, second) = (spec("first", 1), spec("second", 1));
    let mut many = spec("many", 1);
    many.array = Some(2);
    let line = pipeline(&mut tx, "line").await;
    let jobs = [(&first, [].as_slice()), (&second, &[0]), (&many, &[0])];
    let [first, second, array] = support::jobs(&mut tx, line, jobs).await;
    let element = list_open_elements(&mut tx, array).await.unwrap()[0].id;
    let waiting = [(first, JobStateName::Queued, false, false)];
    for job in [second, array, element] {
        let sources = list_sources(&mut tx, job, &[], 10).await.unwrap();
        assert_eq!(seen(&sources), waiting, "of {job}");
    }
    let step = Digest::of(b"the same step");
    mark_step(&mut tx, first, &step).await.unwrap();
    let key = place(&mut tx, first, 0, bench.worker.id).await;
    succeed(&mut tx, first, key.attempt).await;
    let digest = Manifest::default().digest();

    // By its digest, from another pipeline; a second artifact of the same contents is not where it came from.
    let other = pipeline(&mut tx, "other").await;
    let copy = spec("copy", 1);
    let [copy] = support::jobs(&mut tx, other, [(&copy, &[])]).await;
    let key = place(&mut tx, copy, 0, bench.worker.id).await;
    succeed(&mut tx, copy, key.attempt).await;
    let named = pipeline(&mut tx, "named").await;
    let reader = spec("reader", 1);
    let [reader] = support::jobs(&mut tx, named, [(&reader, &[])]).await;
    let absent = Digest::of(b"nobody made this");
    let digests = [digest.clone(), absent];
    let sources = list_sources(&mut tx, reader, &digests, 10).await.unwrap();
    let made = [(first, JobStateName::Succeeded, true, false)];
    assert_eq!(seen(&sources), made);
    assert_eq!(sources[0].digest.as_ref(), Some(&digest));
    assert_eq!(
        (sources[0].pipeline, sources[0].job_name.as_str()),
        (line, "first")
    );

    // One that took the artifact for its own, found by the digest of the step.
    mark_step(&mut tx, reader, &step).await.unwrap();
    mark_job_reused(&mut tx, reader, first).await.unwrap();
    let sources = list_sources(&mut tx, reader, &[], 10).await.unwrap();
    assert_eq!(
        seen(&sources),
        [(first, JobStateName::Succeeded, true, true)]
    );
    let takers = list_takers(&mut tx, first, 10).await.unwrap();
    assert_eq!(
        seen(&takers),
        [
            (second, JobStateName::Waiting, true, false),
            // An array stands for its elements.
            (array, JobStateName::Waiting, true, false),
            (reader, JobStateName::Queued, true, true),
        ]
    );
    assert_eq!(list_takers(&mut tx, first, 1).await.unwrap(), takers[..1]);
    assert_eq!(list_takers(&mut tx, reader, 10).await.unwrap(), []);
    let nobody = JobId(i64::MAX);
    assert_eq!(list_sources(&mut tx, nobody, &[], 10).await.unwrap(), []);
    assert_eq!(list_takers(&mut tx, nobody, 10).await.unwrap(), []);
}

#[tokio::test]
async fn pipelines_of_jobs_are_each_named_once_and_those_that_are_not_there_left_out() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let job = spec("job", 1);
    let mut all = Vec::new();
    for request in ["one", "two"] {
        let pipeline = pipeline(&mut tx, request).await;
        let other = spec("other", 1);
        let jobs = support::jobs(&mut tx, pipeline, [(&job, &[]), (&other, &[])]).await;
        let stored = pipelines::get_pipeline(&mut tx, pipeline).await.unwrap();
        assert_eq!(stored.name.as_str(), "posters");
        assert_eq!(stored.document_digest, Digest::of(request.as_bytes()));
        all.push((pipeline, jobs));
    }
    let nobody = JobId(i64::MAX);
    let mut jobs: Vec<JobId> = all.iter().rev().flat_map(|(_, jobs)| *jobs).collect();
    jobs.push(nobody);
    let found = list_pipelines_of_jobs(&mut tx, &jobs).await.unwrap();
    assert_eq!(
        found,
        [all[0].0, all[1].0],
        "always in the same order, as locks must be taken"
    );
    let heads = transitions::list_job_heads(&mut tx, &jobs).await.unwrap();
    let heads: Vec<JobId> = heads.iter().map(|head| head.id).collect();
    assert_eq!(heads.len(), 4);
    assert!(heads.is_sorted());
    let found = transitions::get_pipeline_of_job(&mut tx, all[1].1[0]).await;
    assert_eq!(found.unwrap(), all[1].0);
    let absent = transitions::get_pipeline_of_job(&mut tx, nobody).await;
    assert!(matches!(absent, Err(StoreError::JobNotFound(job)) if job == nobody));
    let absent = pipelines::get_pipeline(&mut tx, marquee_domain::ids::PipelineId(i64::MAX)).await;
    assert!(matches!(absent, Err(StoreError::PipelineNotFound(_))));
}

fn forecast(second: i64) -> Forecast {
    Forecast {
        said_at: at(second),
        expected_at: at(second + 100),
        likely_by: at(second + 300),
        basis: "3 jobs like it".into(),
    }
}

#[tokio::test]
async fn the_first_word_on_a_start_is_kept_and_none_is_said_too_late() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for state in JobStateName::ALL {
        let (pair, attempt) = bench.job_in(&mut tx, state).await;
        insert_forecast(&mut tx, pair.job, &forecast(5))
            .await
            .unwrap();
        let said = find_forecast(&mut tx, pair.job).await.unwrap();
        let is_time = attempt == 0 && !state.is_final();
        assert_eq!(said, is_time.then(|| forecast(5)), "{state:?}");
        insert_forecast(&mut tx, pair.job, &forecast(9))
            .await
            .unwrap();
        let again = find_forecast(&mut tx, pair.job).await.unwrap();
        assert_eq!(again, said, "{state:?}: said once");
    }
}

#[tokio::test]
async fn only_what_a_job_did_itself_tells_how_long_such_jobs_take() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let bench = Bench::new(&mut tx).await;
    let mut made = Vec::new();
    for n in 0..3 {
        let mut own = spec("own", 1);
        own.sharing.project = "vision".parse().unwrap();
        let id = pipeline(&mut tx, &format!("own-{n}")).await;
        let [job] = support::jobs(&mut tx, id, [(&own, &[])]).await;
        let key = place(&mut tx, job, 0, bench.worker.id).await;
        if n < 2 {
            succeed(&mut tx, job, key.attempt).await;
            made.push(job);
        }
    }
    let id = pipeline(&mut tx, "taken").await;
    let taken = spec("taken", 1);
    let [taken] = support::jobs(&mut tx, id, [(&taken, &[])]).await;
    mark_job_reused(&mut tx, taken, made[0]).await.unwrap();
    let number = mark_job_running_here(&mut tx, taken, 0, at(1)).await;
    succeed(&mut tx, taken, number.unwrap()).await;
    let id = pipeline(&mut tx, "cancelled").await;
    let cancelled = spec("cancelled", 1);
    let [cancelled] = support::jobs(&mut tx, id, [(&cancelled, &[])]).await;
    mark_jobs_cancelled(&mut tx, &[(cancelled, 0)], "no", None, "test", at(3))
        .await
        .unwrap();

    let lengths = list_lengths(&mut tx, 100).await.unwrap();
    assert_eq!(lengths.len(), 2, "{lengths:?}");
    for took in &lengths {
        assert_eq!(
            (took.name.as_str(), took.project.as_str()),
            ("own", "vision")
        );
        assert_eq!((took.ranks, took.length), (1, TimeDelta::seconds(1)));
    }
    // Of so many jobs looked at, the newest: none of these two are by themselves.
    assert_eq!(list_lengths(&mut tx, 2).await.unwrap(), []);
    assert_eq!(list_lengths(&mut tx, 0).await.unwrap(), []);
}
