//! What has had its time: which pipelines and logs, by whose days, and what keeps them all the same.

use crate::support::bench::{failure, succeed};
use crate::support::{self, at, hello, pipeline, place, spec};
use chrono::{DateTime, Duration, Utc};
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::end::AttemptEnd;
use marquee_domain::ids::{JobId, PipelineId, WorkerId};
use marquee_domain::job::JobStateName;
use marquee_domain::project::{Quotas, Retention};
use marquee_domain::spec::JobSpec;
use marquee_store::ranks::RankKey;
use marquee_store::reports::{self, LogLine, LogStream, Metric};
use marquee_store::retention::{self, Aged, AgedLogs, LogsOf, Stays};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{mark_job_failed, mark_jobs_cancelled, mark_jobs_revived};
use marquee_store::workers::mark_worker_online;
use marquee_store::{Tx, attempts, projects, transitions};

/// Everything here ends at this time.
fn ended() -> DateTime<Utc> {
    at(2)
}

fn days_later(days: i64) -> DateTime<Utc> {
    ended() + Duration::days(days)
}

/// A project that keeps pipelines and logs for so many days.
async fn project(tx: &mut Tx, name: &str, keep_days: Option<u32>, keep_log_days: Option<u32>) {
    let kept = Retention {
        keep_days,
        keep_log_days,
    };
    let name = name.parse().unwrap();
    let set = projects::Set {
        weight: 1.0,
        quotas: &Quotas::default(),
        retention: kept,
        idle_stop_min: None,
    };
    projects::upsert_project(tx, &name, &set, at(0))
        .await
        .unwrap();
}

fn spec_of(project: &str) -> JobSpec {
    let mut spec = spec("job", 1);
    spec.sharing.project = project.parse().unwrap();
    spec
}

async fn worker(tx: &mut Tx) -> WorkerId {
    let worker = hello(1, "w1");
    mark_worker_online(tx, &worker, at(0)).await.unwrap();
    worker.id
}

/// A queued job in a pipeline of its own.
async fn queued(tx: &mut Tx, request: &str, spec: &JobSpec) -> (PipelineId, JobId) {
    let pipeline = pipeline(tx, request).await;
    let [job] = support::jobs(tx, pipeline, [(spec, &[])]).await;
    (pipeline, job)
}

async fn cancel(tx: &mut Tx, job: JobId) {
    let done = mark_jobs_cancelled(tx, &[(job, 0)], "no", None, "test", ended()).await;
    assert_eq!(done.unwrap(), [job]);
}

async fn aged(tx: &mut Tx, now: DateTime<Utc>) -> Vec<Aged> {
    let (aged, _) = retention::list_aged(tx, PipelineId(0), now, 100)
        .await
        .unwrap();
    // One by one they are the same.
    for one in &aged {
        let found = retention::find_aged(tx, one.id, now).await.unwrap();
        assert_eq!(found.as_ref(), Some(one));
    }
    aged
}

async fn ids(tx: &mut Tx, now: DateTime<Utc>) -> Vec<PipelineId> {
    aged(tx, now)
        .await
        .into_iter()
        .map(|aged| aged.id)
        .collect()
}

#[tokio::test]
async fn a_pipeline_goes_when_the_days_of_all_its_projects_are_over() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    assert!(!retention::is_wanted(&mut tx).await.unwrap());
    project(&mut tx, "ever", None, None).await;
    assert!(!retention::is_wanted(&mut tx).await.unwrap());
    project(&mut tx, "month", Some(30), None).await;
    project(&mut tx, "week", Some(7), None).await;
    assert!(retention::is_wanted(&mut tx).await.unwrap());
    // With the one that every database has.
    assert_eq!(projects::count_projects(&mut tx).await.unwrap(), 4);

    let mut one_of = Vec::new();
    for name in ["ever", "month", "week"] {
        let (pipeline, job) = queued(&mut tx, name, &spec_of(name)).await;
        cancel(&mut tx, job).await;
        one_of.push(pipeline);
    }
    // Of a project that is not there, and of two: the longer time counts.
    let (_, job) = queued(&mut tx, "gone", &spec_of("gone")).await;
    cancel(&mut tx, job).await;
    let both = pipeline(&mut tx, "both").await;
    let (mut first, second) = (spec_of("week"), spec_of("month"));
    first.name = "first".parse().unwrap();
    let jobs = support::jobs(&mut tx, both, [(&first, &[]), (&second, &[])]).await;
    for job in jobs {
        cancel(&mut tx, job).await;
    }
    // One that is open, and one without jobs.
    queued(&mut tx, "open", &spec_of("week")).await;
    pipeline(&mut tx, "empty").await;

    for (days, expected) in [
        (0, vec![]),
        (7, vec![]),
        (8, vec![one_of[2]]),
        (30, vec![one_of[2]]),
        (31, vec![one_of[1], one_of[2], both]),
        (10_000, vec![one_of[1], one_of[2], both]),
    ] {
        assert_eq!(
            ids(&mut tx, days_later(days)).await,
            expected,
            "{days} days"
        );
    }
    // A retry makes it young again, however old it is.
    let back = mark_jobs_revived(&mut tx, &[(jobs[0], 0)], "back", "test", at(5)).await;
    assert_eq!(back.unwrap(), [jobs[0]]);
    assert_eq!(ids(&mut tx, days_later(31)).await, [one_of[1], one_of[2]]);
    let now = days_later(31);
    assert_eq!(
        retention::find_aged(&mut tx, both, now).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn pages_of_pipelines_go_through_all_of_them() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    project(&mut tx, "week", Some(7), None).await;
    let mut all = Vec::new();
    for n in 0..5 {
        let (pipeline, job) = queued(&mut tx, &format!("request-{n}"), &spec_of("week")).await;
        // Young ones between the old ones: a page may have none to show, and is not the last for it.
        if n != 1 {
            cancel(&mut tx, job).await;
            all.push(pipeline);
        }
    }
    let (mut after, mut seen, mut pages) = (PipelineId(0), Vec::new(), 0);
    loop {
        let (aged, last) = retention::list_aged(&mut tx, after, days_later(8), 1)
            .await
            .unwrap();
        let Some(last) = last else { break };
        assert!(last > after);
        after = last;
        pages += 1;
        seen.extend(aged.into_iter().map(|aged| aged.id));
    }
    assert_eq!((seen, pages), (all, 5));
}

#[tokio::test]
async fn what_somebody_keeps_or_has_taken_from_stays_and_says_why() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    project(&mut tx, "week", Some(7), None).await;
    let worker = worker(&mut tx).await;
    let (source_pipeline, source) = queued(&mut tx, "source", &spec_of("week")).await;
    let key = place(&mut tx, source, 0, worker).await;
    succeed(&mut tx, source, key.attempt).await;
    let digest = Manifest::default().digest();
    let stays = async |tx: &mut Tx| {
        let found = retention::find_aged(tx, source_pipeline, days_later(8)).await;
        found.unwrap().map(|aged| aged.stays)
    };
    // Of one whose rank may still hold devices nothing is known to be over.
    assert_eq!(stays(&mut tx).await, None);
    let gone = marquee_store::ranks::mark_rank_gone(&mut tx, key, None, at(2)).await;
    gone.unwrap();
    assert_eq!(stays(&mut tx).await, Some(None));

    // A job of its own pipeline is nobody else.
    let (taker_pipeline, taker) = queued(&mut tx, "taker", &spec_of("week")).await;
    let missing = retention::insert_inputs(&mut tx, &[(taker, digest.clone())])
        .await
        .unwrap();
    assert_eq!(missing, []);
    let taken = Some(Some(Stays::TakenBy(taker, taker_pipeline)));
    assert_eq!(stays(&mut tx).await, taken);
    // Whoever takes it as its own does so, too; and a keeper is named before a taker.
    let (other_pipeline, other) = queued(&mut tx, "other", &spec_of("week")).await;
    transitions::mark_job_reused(&mut tx, other, source)
        .await
        .unwrap();
    let taken = stays(&mut tx).await.flatten().unwrap();
    let takers = [
        Stays::TakenBy(taker, taker_pipeline),
        Stays::TakenBy(other, other_pipeline),
    ];
    assert!(takers.contains(&taken), "{taken:?}");
    let keep = async |tx: &mut Tx, by: Option<&str>| {
        retention::mark_kept(tx, source_pipeline, by, at(7))
            .await
            .unwrap()
    };
    assert!(keep(&mut tx, Some("ada")).await);
    assert_eq!(
        stays(&mut tx).await,
        Some(Some(Stays::KeptBy("ada".into())))
    );
    let keeper = retention::find_keeper(&mut tx, source_pipeline).await;
    assert_eq!(keeper.unwrap(), Some(("ada".into(), at(7))));
    assert!(keep(&mut tx, None).await);
    let keeper = retention::find_keeper(&mut tx, source_pipeline).await;
    assert_eq!(keeper.unwrap(), None);
    assert_eq!(stays(&mut tx).await, Some(Some(taken)));
    let nobody = PipelineId(i64::MAX);
    let kept = retention::mark_kept(&mut tx, nobody, Some("ada"), at(7)).await;
    assert!(!kept.unwrap(), "there is no such pipeline");
    let keeper = retention::find_keeper(&mut tx, nobody).await;
    assert_eq!(keeper.unwrap(), None);
}

/// The same bytes made twice: whoever names them needs one of the two, the first.
#[tokio::test]
async fn of_the_same_contents_the_first_is_what_a_taker_keeps() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    project(&mut tx, "week", Some(7), None).await;
    let worker = worker(&mut tx).await;
    let mut made = Vec::new();
    for request in ["first", "second"] {
        let (pipeline, job) = queued(&mut tx, request, &spec_of("week")).await;
        let key = place(&mut tx, job, 0, worker).await;
        succeed(&mut tx, job, key.attempt).await;
        marquee_store::ranks::mark_rank_gone(&mut tx, key, None, at(2))
            .await
            .unwrap();
        made.push(pipeline);
    }
    let (taker_pipeline, taker) = queued(&mut tx, "taker", &spec("job", 1)).await;
    let digest = Manifest::default().digest();
    // One that is not there is named once, whoever asks for it; the others are noted all the same, and the
    // caller gives all of it up.
    let absent = Digest::of(b"nobody made this");
    let inputs = [
        (taker, digest.clone()),
        (taker, absent.clone()),
        (taker, digest),
    ];
    let missing = retention::insert_inputs(&mut tx, &inputs).await.unwrap();
    assert_eq!(missing, [absent]);
    assert_eq!(retention::insert_inputs(&mut tx, &[]).await.unwrap(), []);
    let stays: Vec<_> = aged(&mut tx, days_later(8))
        .await
        .into_iter()
        .map(|aged| (aged.id, aged.stays))
        .collect();
    let taken = Stays::TakenBy(taker, taker_pipeline);
    assert_eq!(stays, [(made[0], Some(taken)), (made[1], None)]);
}

/// Whoever would take an artifact away and whoever begins to name it see each other, in either order.
#[tokio::test]
async fn an_artifact_is_not_named_while_somebody_takes_it_away() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = worker(&mut tx).await;
    let (_, source) = queued(&mut tx, "source", &spec("job", 1)).await;
    let key = place(&mut tx, source, 0, worker).await;
    succeed(&mut tx, source, key.attempt).await;
    let (_, taker) = queued(&mut tx, "taker", &spec("job", 1)).await;
    drop(tx);

    let mut removing = database.db.write("test").await.unwrap();
    retention::lock_artifacts(&mut removing, &[source, JobId(i64::MAX)])
        .await
        .unwrap();
    let digest = Manifest::default().digest();
    let naming = async {
        let mut tx = database.db.write("test").await.unwrap();
        let missing = retention::insert_inputs(&mut tx, &[(taker, digest.clone())])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        missing
    };
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let remove = async {
        // It waits for the removal, and then sees what that has left.
        while database.number(waits).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        removing.execute_raw("DELETE FROM artifacts").await.unwrap();
        removing.commit().await.unwrap();
    };
    let (missing, ()) = tokio::join!(naming, remove);
    assert_eq!(missing, [digest]);
}

/// Stores a line and a value of a rank.
async fn says_something(tx: &mut Tx, key: RankKey, line: bool, value: bool) {
    if line {
        let line = LogLine {
            sequence: 1,
            line: 0,
            left: 0,
            stream: LogStream::Stdout,
            text: "hello".into(),
            at: at(1),
            is_damaged: false,
        };
        reports::insert_log_lines(tx, &[(key, &[line])])
            .await
            .unwrap();
    }
    if value {
        let value = Metric {
            sequence: 2,
            name: "loss".into(),
            step: 40,
            value: 0.5,
            at: at(1),
        };
        reports::insert_metrics(tx, &[(key, &[value])])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn logs_go_by_their_own_days_where_there_are_any() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    project(&mut tx, "logs", None, Some(3)).await;
    project(&mut tx, "ever", Some(1), None).await;
    assert!(retention::is_wanted(&mut tx).await.unwrap());
    let worker = worker(&mut tx).await;
    let mut all = Vec::new();
    for (n, (project, line, value)) in [
        ("logs", true, false),
        ("logs", false, true),
        ("logs", false, false),
        ("ever", true, true),
        ("default", true, true),
    ]
    .into_iter()
    .enumerate()
    {
        let (pipeline, job) = queued(&mut tx, &format!("request-{n}"), &spec_of(project)).await;
        let key = place(&mut tx, job, 0, worker).await;
        says_something(&mut tx, key, line, value).await;
        let last = reports::find_last_step(&mut tx, job, key.attempt).await;
        assert_eq!(last.unwrap(), value.then_some(40));
        let end = AttemptEnd::Failed(failure());
        attempts::mark_attempt_ended(&mut tx, job, key.attempt, &end, ended())
            .await
            .unwrap();
        let running = [JobStateName::Running];
        mark_job_failed(&mut tx, job, 1, &running, &failure(), ended())
            .await
            .unwrap();
        all.push((pipeline, job, key));
    }
    let every = LogsOf::Pipelines(PipelineId(0), PipelineId(i64::MAX));
    let aged = async |tx: &mut Tx, of: LogsOf<'_>, days: i64| {
        let aged = retention::list_aged_logs(tx, of, days_later(days), 100).await;
        aged.unwrap()
    };
    // A rank that may still be at work may still say something.
    assert_eq!(aged(&mut tx, every, 4).await, []);
    for (_, _, key) in &all {
        marquee_store::ranks::mark_rank_gone(&mut tx, *key, None, at(2))
            .await
            .unwrap();
    }
    let of = |n: usize| AgedLogs {
        job: all[n].1,
        pipeline: all[n].0,
        attempt: 1,
        keep_log_days: 3,
    };
    assert_eq!(aged(&mut tx, every, 3).await, []);
    assert_eq!(aged(&mut tx, every, 4).await, [of(0), of(1)]);
    let first = LogsOf::Pipelines(PipelineId(0), all[0].0);
    assert_eq!(aged(&mut tx, first, 4).await, [of(0)]);
    let rest = LogsOf::Pipelines(all[0].0, PipelineId(i64::MAX));
    assert_eq!(aged(&mut tx, rest, 4).await, [of(1)]);
    let jobs = [all[1].1, all[3].1];
    assert_eq!(aged(&mut tx, LogsOf::Jobs(&jobs), 4).await, [of(1)]);
    assert_eq!(aged(&mut tx, LogsOf::Jobs(&[]), 4).await, []);
    let limited = retention::list_aged_logs(&mut tx, every, days_later(4), 1).await;
    assert_eq!(limited.unwrap(), [of(0)]);
    // Whoever keeps a pipeline keeps what it said.
    retention::mark_kept(&mut tx, all[0].0, Some("ada"), at(7))
        .await
        .unwrap();
    assert_eq!(aged(&mut tx, every, 4).await, [of(1)]);
}
