//! The audit as the database writes it, and what it keeps from being written.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::{at, hello, jobs, pipeline, place, report, spec};
use marquee_domain::artifact::Manifest;
use marquee_domain::end::AttemptEnd;
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId};
use marquee_domain::job::{JobStateName, RankState};
use marquee_domain::rank::RankKey;
use marquee_history::{Checker, Report, Rule};
use marquee_store::attempts::mark_attempt_ended;
use marquee_store::audit::{self, Filter, Line};
use marquee_store::ranks::RankChange;
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    Success, mark_cancels_requested, mark_job_requeued, mark_jobs_cancelled, mark_jobs_revived,
    mark_jobs_succeeded,
};
use marquee_store::workers::{WorkerState, mark_worker_gone, mark_worker_online, mark_worker_seen};
use marquee_store::{Tx, removal};

async fn lines(database: &TestDatabase, filter: &Filter) -> Vec<Line> {
    let mut conn = database.db.snapshot().await.unwrap();
    let page = audit::list_lines(&mut conn, filter, 1_000).await.unwrap();
    assert_eq!(page.next, None);
    page.lines
}

async fn kinds(database: &TestDatabase, filter: &Filter) -> Vec<String> {
    let lines = lines(database, filter).await;
    lines.into_iter().map(|line| line.kind).collect()
}

async fn check(database: &TestDatabase) -> Report {
    let mut checker = Checker::default();
    let mut conn = database.db.snapshot().await.unwrap();
    let page = audit::list_lines(&mut conn, &Filter::default(), 1_000)
        .await
        .unwrap();
    for line in &page.lines {
        checker.event(&audit::event(line).unwrap_or_else(|| panic!("{line:?} is no event")));
    }
    for stored in audit::list_stored_pipelines(&mut conn, PipelineId(0), 100)
        .await
        .unwrap()
    {
        checker.pipeline(&stored);
    }
    for stored in audit::list_stored_jobs(&mut conn, JobId(0), 100)
        .await
        .unwrap()
    {
        checker.job(&stored);
    }
    let first = RankKey::new(0, 0, 0);
    for stored in audit::list_stored_ranks(&mut conn, first, 100)
        .await
        .unwrap()
    {
        checker.rank(&stored);
    }
    checker.finish(at(0), false)
}

fn ended(state: RankState) -> RankChange {
    RankChange {
        state: Some(state),
        ended_at: Some(at(9)),
        ..RankChange::default()
    }
}

async fn succeed(tx: &mut Tx, key: RankKey) {
    report(tx, key, 0, 1, &ended(RankState::Finished))
        .await
        .unwrap();
    let manifest = Manifest::new(vec![]).unwrap();
    let success = Success {
        at: (key.job, key.attempt),
        name: "output",
        manifest: &manifest,
        code: "",
        text: "succeeded",
    };
    let (done, _) = mark_jobs_succeeded(tx, &[success], at(10)).await.unwrap();
    assert_eq!(done, [key.job]);
}

/// Two jobs: the first fails once and succeeds, the second is cancelled, brought back and left running.
async fn history(database: &TestDatabase) -> [JobId; 2] {
    let mut tx = database.db.write("history").await.unwrap();
    let worker = hello(1, "gpu-1");
    mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    // A sign of life is no event.
    mark_worker_seen(&mut tx, worker.id, "gpu-1", at(1))
        .await
        .unwrap();
    let of = pipeline(&mut tx, "r").await;
    let ids = jobs(&mut tx, of, [(&spec("a", 1), &[]), (&spec("b", 1), &[])]).await;
    let [first, second] = ids;

    let key = place(&mut tx, first, 0, worker.id).await;
    report(&mut tx, key, 0, 1, &ended(RankState::Failed))
        .await
        .unwrap();
    let failure = Failure {
        class: FailureClass::Crash,
        message: "broke".into(),
    };
    let end = AttemptEnd::Failed(failure.clone());
    mark_attempt_ended(&mut tx, first, key.attempt, &end, at(9))
        .await
        .unwrap();
    mark_job_requeued(&mut tx, (first, key.attempt), 3, Some(&failure), None)
        .await
        .unwrap();
    let key = place(&mut tx, first, 1, worker.id).await;
    succeed(&mut tx, key).await;

    let key = place(&mut tx, second, 0, worker.id).await;
    let started = RankChange {
        state: Some(RankState::Running),
        ..RankChange::default()
    };
    report(&mut tx, key, 0, 1, &started).await.unwrap();
    audit::act_as(&mut tx, "ada via certificate").await.unwrap();
    mark_cancels_requested(&mut tx, &[(second, key.attempt)])
        .await
        .unwrap();
    audit::act_as(&mut tx, "").await.unwrap();
    report(&mut tx, key, 1, 2, &ended(RankState::Stopped))
        .await
        .unwrap();
    mark_attempt_ended(&mut tx, second, key.attempt, &AttemptEnd::Cancelled, at(9))
        .await
        .unwrap();
    mark_jobs_cancelled(&mut tx, &[(second, 1)], "by a user", None, "", at(9))
        .await
        .unwrap();
    mark_jobs_revived(&mut tx, &[(second, 1)], "again", "ada", at(9))
        .await
        .unwrap();
    place(&mut tx, second, 1, worker.id).await;
    tx.commit().await.unwrap();
    ids
}

#[tokio::test]
async fn the_database_writes_down_what_happens_and_the_checker_agrees() {
    let database = TestDatabase::create().await;
    let [first, second] = history(&database).await;
    let of = |job| Filter {
        job: Some(job),
        ..Filter::default()
    };
    assert_eq!(
        kinds(&database, &of(first)).await,
        [
            "granted",
            "released",
            "attempt_ended",
            "granted",
            "released",
            "committed"
        ]
    );
    assert_eq!(
        kinds(&database, &of(second)).await,
        [
            "granted",
            "rank_started",
            "cancel_asked",
            "released",
            "attempt_ended",
            "job_ended",
            "revived",
            "granted"
        ]
    );
    let whole = kinds(&database, &Filter::default()).await;
    assert_eq!(whole[..4], ["began", "worker_online", "submitted", "added"]);
    let report = check(&database).await;
    assert_eq!(report.findings, []);
    assert_eq!((report.jobs, report.grants, report.commits), (2, 4, 1));

    let asked = lines(
        &database,
        &Filter {
            actor: Some("ada".into()),
            ..Filter::default()
        },
    )
    .await;
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].kind.as_str(), asked[0].job),
        ("cancel_asked", Some(second))
    );
    let elsewhere = Filter {
        worker: Some("gpu-2".into()),
        ..Filter::default()
    };
    assert_eq!(kinds(&database, &elsewhere).await, [] as [&str; 0]);
    let there = Filter {
        worker: Some("gpu-1".into()),
        ..Filter::default()
    };
    assert_eq!(lines(&database, &there).await.len(), 9);
}

#[tokio::test]
async fn what_is_written_past_the_code_is_found() {
    // Somebody, or a fault, writes rows by hand. Each is found by its rule.
    let tampered = [
        (Rule::StoredAsItHappened, "UPDATE jobs SET attempt = 7 WHERE name = 'a'"),
        (Rule::NothingLost, "DELETE FROM open_jobs WHERE job_id = (SELECT id FROM jobs WHERE name = 'c');
             DELETE FROM job_events WHERE job_id = (SELECT id FROM jobs WHERE name = 'c');
             DELETE FROM jobs WHERE name = 'c'"),
        (Rule::FreeOnProof, "DELETE FROM held_ranks"),
        (Rule::OneEnd, "UPDATE jobs SET state = 'failed' WHERE name = 'a'"),
        (Rule::DeviceOnce, "UPDATE open_jobs SET attempt = 1, state = 'running';
             INSERT INTO attempts (job_id, number, state, created_at)
             SELECT id, 1, 'assigned', now() FROM jobs WHERE name = 'c';
             INSERT INTO attempt_ranks (job_id, attempt, rank, worker_id, local_rank, devices, state)
             SELECT c.id, 1, 0, r.worker_id, 0, r.devices, 'assigned'
             FROM jobs c, attempt_ranks r JOIN jobs b ON b.id = r.job_id
             WHERE c.name = 'c' AND b.name = 'b' AND r.attempt = 2"),
        (Rule::ReportsOnce, "INSERT INTO metrics (job_id, attempt, rank, sequence, name, step, value, at)
             SELECT id, 2, 0, 99, 'loss', 1, 1, now() FROM jobs WHERE name = 'a'"),
    ];
    for (rule, statements) in tampered {
        let database = TestDatabase::create().await;
        history(&database).await;
        let mut tx = database.db.write("more").await.unwrap();
        let of = pipeline(&mut tx, "other").await;
        jobs(&mut tx, of, [(&spec("c", 1), &[])]).await;
        tx.commit().await.unwrap();
        assert_eq!(check(&database).await.findings, []);
        database.execute(statements).await;
        let found: Vec<Rule> = check(&database)
            .await
            .findings
            .iter()
            .map(|f| f.rule)
            .collect();
        assert!(found.contains(&rule), "{statements}: {found:?}");
    }
}

#[tokio::test]
async fn lines_are_only_added() {
    let database = TestDatabase::create().await;
    history(&database).await;
    let mut tx = database.db.autocommit().await.unwrap();
    for statement in [
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit WHERE kind = 'committed'",
        "TRUNCATE audit",
    ] {
        let refused = tx.execute_raw(statement).await.unwrap_err().to_string();
        assert!(refused.contains("only added to"), "{statement}: {refused}");
    }
}

#[tokio::test]
async fn a_removed_pipeline_leaves_one_line() {
    let database = TestDatabase::create().await;
    let [first, second] = history(&database).await;
    let mut tx = database.db.write("end").await.unwrap();
    let key = RankKey {
        job: second,
        attempt: AttemptNumber(2),
        rank: marquee_domain::ids::Rank(0),
    };
    succeed(&mut tx, key).await;
    mark_worker_gone(&mut tx, hello(1, "gpu-1").id, WorkerState::Left)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let all = Filter {
        pipeline: Some(PipelineId(1)),
        ..Filter::default()
    };
    let before = kinds(&database, &all).await;
    assert_eq!(before[..2], ["submitted", "added"]);
    assert_eq!(before.len(), 2 + 6 + 10);

    let mut tx = database.db.write("remove").await.unwrap();
    audit::act_as(&mut tx, "ada").await.unwrap();
    removal::delete_pipeline(&mut tx, PipelineId(1))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let left = lines(&database, &Filter::default()).await;
    let words: Vec<&str> = left.iter().map(|line| line.kind.as_str()).collect();
    assert_eq!(words, ["began", "worker_online", "worker_left", "removed"]);
    assert_eq!(
        (left[3].actor.as_str(), left[3].pipeline),
        ("ada", Some(PipelineId(1)))
    );
    assert_eq!(left[3].detail["jobs"], 2);
    assert_eq!(check(&database).await.findings, []);
    let _ = first;
    // And the wall stands again.
    let mut tx = database.db.autocommit().await.unwrap();
    assert!(tx.execute_raw("DELETE FROM audit").await.is_err());
}

#[tokio::test]
async fn a_search_goes_on_where_it_was_and_finds_a_time() {
    let database = TestDatabase::create().await;
    history(&database).await;
    let mut conn = database.db.snapshot().await.unwrap();
    let mut filter = Filter::default();
    let mut pages = Vec::new();
    loop {
        let page = audit::list_lines(&mut conn, &filter, 5).await.unwrap();
        pages.extend(page.lines);
        match page.next {
            Some(next) => filter.after = next,
            None => break,
        }
    }
    assert_eq!(pages, lines(&database, &Filter::default()).await);
    for line in &pages {
        let before = audit::find_line_before(&mut conn, line.at).await.unwrap();
        assert_eq!(before, line.number - 1);
    }
    let now = pages.last().unwrap().at + chrono::TimeDelta::seconds(1);
    let last = audit::find_line_before(&mut conn, now).await.unwrap();
    assert_eq!(last, pages.last().unwrap().number);
}

/// A reader that takes its time sees one moment, whatever is committed meanwhile.
#[tokio::test]
async fn a_snapshot_is_of_one_moment() {
    let database = TestDatabase::create().await;
    let mut conn = database.db.snapshot().await.unwrap();
    let before = audit::list_lines(&mut conn, &Filter::default(), 100)
        .await
        .unwrap();
    history(&database).await;
    let after = audit::list_lines(&mut conn, &Filter::default(), 100)
        .await
        .unwrap();
    assert_eq!(before, after);
    assert_eq!(
        audit::list_stored_jobs(&mut conn, JobId(0), 10)
            .await
            .unwrap(),
        []
    );
    drop(conn);
    let jobs = audit::list_stored_jobs(&mut database.db.read().await.unwrap(), JobId(0), 10).await;
    assert_eq!(jobs.unwrap()[0].state, JobStateName::Succeeded);
}

/// Every line, page by page from one end.
async fn paged(
    database: &TestDatabase,
    filter: &Filter,
    newest_first: bool,
    size: u32,
) -> Vec<Line> {
    let mut conn = database.db.read().await.unwrap();
    let (mut filter, mut all) = (filter.clone(), Vec::new());
    loop {
        let page = match newest_first {
            true => audit::list_lines_back(&mut conn, &filter, size)
                .await
                .unwrap(),
            false => audit::list_lines(&mut conn, &filter, size).await.unwrap(),
        };
        assert!(page.lines.len() <= size as usize);
        all.extend(page.lines);
        match (page.next, newest_first) {
            (None, _) => return all,
            (Some(next), true) => filter.before = Some(next),
            (Some(next), false) => filter.after = next,
        }
    }
}

#[tokio::test]
async fn from_either_end_and_in_pages_of_any_size_the_lines_are_the_same() {
    let database = TestDatabase::create().await;
    let jobs = history(&database).await;
    let everything = paged(&database, &Filter::default(), false, 1_000).await;
    assert!(everything.len() > 10);
    let pipelines: Vec<PipelineId> = everything.iter().filter_map(|line| line.pipeline).collect();
    let worker = everything.iter().find_map(|line| line.worker).unwrap();
    let mut counts = Vec::new();
    for (what, filter) in [
        ("all", Filter::default()),
        (
            "a job",
            Filter {
                job: Some(jobs[0]),
                ..Filter::default()
            },
        ),
        (
            "a pipeline",
            Filter {
                pipeline: Some(pipelines[0]),
                ..Filter::default()
            },
        ),
        (
            "a job of its pipeline",
            Filter {
                job: Some(jobs[0]),
                pipeline: Some(pipelines[0]),
                ..Filter::default()
            },
        ),
        (
            "a job of no pipeline of its own",
            Filter {
                job: Some(jobs[0]),
                pipeline: Some(PipelineId(i64::MAX)),
                ..Filter::default()
            },
        ),
        (
            "a worker by its id",
            Filter {
                worker: Some(worker.0.to_string()),
                ..Filter::default()
            },
        ),
        (
            "a worker of a job",
            Filter {
                job: Some(jobs[0]),
                worker: Some("gpu-1".into()),
                ..Filter::default()
            },
        ),
        (
            "nobody",
            Filter {
                actor: Some("%".into()),
                ..Filter::default()
            },
        ),
        (
            "the later half",
            Filter {
                after: everything[everything.len() / 2].number,
                ..Filter::default()
            },
        ),
    ] {
        let all = paged(&database, &filter, false, 1_000).await;
        assert!(all.is_sorted_by_key(|line| line.number), "{what}");
        for size in [1, 3, 1_000] {
            assert_eq!(paged(&database, &filter, false, size).await, all, "{what}");
            let mut back = paged(&database, &filter, true, size).await;
            back.reverse();
            assert_eq!(back, all, "{what}, backwards in pages of {size}");
        }
        counts.push((what, all.len()));
    }
    let count = |what: &str| counts.iter().find(|(name, _)| *name == what).unwrap().1;
    assert!(count("a job") > 0 && count("a worker of a job") > 0);
    assert_eq!(count("a job of its pipeline"), count("a job"));
    assert_eq!(count("a job of no pipeline of its own"), 0);
    assert_eq!(count("nobody"), 0, "what a user typed is text");
    assert!(count("a pipeline") > count("a job"));
}
