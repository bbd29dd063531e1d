//! Small questions: whose project, which name, which worker; what is not there, is at the edge, or is damaged.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::bench::Bench;
use crate::support::{self, at, hello, pipeline, running_job, spec, success};
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, Rank, WorkerId};
use marquee_domain::job::JobStateName;
use marquee_store::artifacts::list_artifact_projects;
use marquee_store::audit::{self, Broken, Filter, insert_rehearsal, list_jobs_with_artifact};
use marquee_store::cluster::get_cluster_id;
use marquee_store::events::{insert_event_by, list_events};
use marquee_store::jobs::{
    get_job_spec, list_job_names, list_job_projects, list_pipeline_projects,
};
use marquee_store::ranks::RankKey;
use marquee_store::reports::{LogLine, LogStream, Metric, insert_log_lines, insert_metrics};
use marquee_store::steering::{find_worker_named, list_workers_named};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{list_open_elements, mark_jobs_succeeded};
use marquee_store::workers::{
    WhichWorkers, WorkerState, list_workers, mark_worker_gone, mark_worker_online, mark_worker_seen,
};
use marquee_store::{StoreError, Tx, removal, usage};
use serde_json::json;

fn one_file() -> Manifest {
    let file = FileEntry {
        path: "a.txt".into(),
        size_bytes: 1,
        digest: Digest::of(b"a"),
    };
    Manifest::new(vec![file]).unwrap()
}

/// Jobs of these projects in one pipeline.
async fn of_projects<const N: usize>(tx: &mut Tx, names: [&str; N]) -> (PipelineId, [JobId; N]) {
    let pipeline = pipeline(tx, "request").await;
    let mut n = 0;
    let specs = names.map(|project| {
        n += 1;
        let mut spec = spec(&format!("job-{n}"), 1);
        spec.sharing.project = project.parse().unwrap();
        spec
    });
    let jobs = support::jobs(
        tx,
        pipeline,
        specs.each_ref().map(|spec| (spec, [].as_slice())),
    );
    (pipeline, jobs.await)
}

#[tokio::test]
async fn projects_of_jobs_and_pipelines_are_told_each_once() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (of_all, [a, b, c]) = of_projects(&mut tx, ["vision", "audio", "vision"]).await;
    assert_eq!(
        list_pipeline_projects(&mut tx, of_all).await.unwrap(),
        ["audio", "vision"]
    );
    let nobody = list_pipeline_projects(&mut tx, PipelineId(i64::MAX)).await;
    assert_eq!(nobody.unwrap(), [""; 0]);

    let mut found = list_job_projects(&mut tx, &[c, JobId(i64::MAX), a, b, c])
        .await
        .unwrap();
    found.sort();
    let expected = [(a, "vision"), (b, "audio"), (c, "vision")];
    assert_eq!(found, expected.map(|(job, name)| (job, name.to_owned())));
    assert_eq!(list_job_projects(&mut tx, &[]).await.unwrap(), []);
}

#[tokio::test]
async fn the_same_contents_are_of_every_project_that_made_them() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let worker = hello(1, "w1");
    mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    let (_, jobs) = of_projects(&mut tx, ["vision", "audio", "vision", "other"]).await;
    let (same, other) = (one_file(), Manifest::default());
    for (n, job) in jobs.into_iter().enumerate() {
        let key = support::place(&mut tx, job, 0, worker.id).await;
        let manifest = if n < 3 { &same } else { &other };
        let done = success((job, key.attempt), manifest);
        mark_jobs_succeeded(&mut tx, &[done], at(2)).await.unwrap();
    }
    for (digest, projects) in [
        (same.digest(), vec!["audio", "vision"]),
        (other.digest(), vec!["other"]),
        (Digest::of(b"nobody's"), vec![]),
    ] {
        let found = list_artifact_projects(&mut tx, &digest).await.unwrap();
        assert_eq!(found, projects);
    }

    // Pages of those that have one, in order.
    let first = AttemptNumber(1);
    let all = jobs.map(|job| (job, first));
    for (after, limit, expected) in [
        (JobId(0), 9, &all[..]),
        (JobId(0), 2, &all[..2]),
        (jobs[1], 2, &all[2..]),
        (jobs[2], 1, &all[3..]),
        (jobs[3], 9, &[]),
        (JobId(i64::MAX), 9, &[]),
    ] {
        let page = list_jobs_with_artifact(&mut tx, after, limit).await;
        assert_eq!(page.unwrap(), expected, "after {after}");
    }
}

#[tokio::test]
async fn names_are_told_of_jobs_that_are_there_and_one_that_is_none_is_named() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, [a, b]) = of_projects(&mut tx, ["vision", "vision"]).await;
    let mut names = list_job_names(&mut tx, &[b, a, JobId(-1)]).await.unwrap();
    names.sort();
    let named: Vec<_> = names
        .iter()
        .map(|(job, name)| (*job, name.as_str()))
        .collect();
    assert_eq!(named, [(a, "job-1"), (b, "job-2")]);
    database
        .execute("UPDATE jobs SET name = '' WHERE position = 1")
        .await;
    let damaged = list_job_names(&mut tx, &[a, b]).await.unwrap_err();
    assert!(damaged.to_string().contains("jobs.name"), "{damaged}");
    assert_eq!(list_job_names(&mut tx, &[a]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_spec_is_the_arrays_with_the_elements_place_or_its_own_of_an_older_version() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pipeline = pipeline(&mut tx, "request").await;
    let mut many = spec("many", 1);
    many.array = Some(3);
    let [array] = support::jobs(&mut tx, pipeline, [(&many, &[])]).await;
    let elements = list_open_elements(&mut tx, array).await.unwrap();
    assert_eq!(get_job_spec(&mut tx, array).await.unwrap(), many);
    for (index, element) in (0..).zip(&elements) {
        let found = get_job_spec(&mut tx, element.id).await.unwrap();
        let place = found.element.unwrap();
        assert_eq!((place.index, place.size), (index, 3));
    }
    // As version 0.1 stored it: with an element's place in its own spec.
    let own = serde_json::to_string(&many.element_at(2)).unwrap();
    let last = elements[0].id;
    database
        .execute(&format!("UPDATE jobs SET spec = '{own}' WHERE id = {last}"))
        .await;
    let found = get_job_spec(&mut tx, last).await.unwrap();
    assert_eq!(found.element.unwrap().index, 2);
    let absent = get_job_spec(&mut tx, JobId(i64::MAX)).await;
    assert!(matches!(absent, Err(StoreError::JobNotFound(_))));
}

#[tokio::test]
async fn of_workers_of_one_name_the_one_that_is_here_goes_first_and_who_left_is_none() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    assert_eq!(find_worker_named(&mut tx, "w1").await.unwrap(), None);
    let workers = [1, 2, 3, 4].map(|number| hello(number, "w1"));
    for (seen, worker) in (0..).zip(&workers) {
        mark_worker_online(&mut tx, worker, at(seen)).await.unwrap();
        let state = match seen {
            3 => WorkerState::Left,
            _ => WorkerState::Lost,
        };
        assert!(mark_worker_gone(&mut tx, worker.id, state).await.unwrap());
    }
    let ids = |tx: &[usize]| tx.iter().map(|n| workers[*n].id).collect::<Vec<WorkerId>>();
    let mut check = async |expected: &[usize]| {
        let named = list_workers_named(&mut tx, "w1").await.unwrap();
        let named: Vec<WorkerId> = named.into_iter().map(|(id, _)| id).collect();
        assert_eq!(named, ids(expected));
        let found = find_worker_named(&mut tx, "w1").await.unwrap();
        assert_eq!(
            found,
            named.first().copied(),
            "who is shown would be changed"
        );
    };
    // The one that was heard last, then the one that is online again.
    check(&[2, 1, 0]).await;
    let mut other = database.db.autocommit().await.unwrap();
    mark_worker_seen(&mut other, workers[0].id, "w1", at(1))
        .await
        .unwrap();
    check(&[0, 2, 1]).await;
    for state in [WorkerState::Left, WorkerState::Lost] {
        let gone = mark_worker_gone(&mut other, workers[0].id, state).await;
        assert_eq!(gone.unwrap(), state == WorkerState::Left, "once");
    }
    check(&[2, 1]).await;
    // A goodbye is not taken back by a heartbeat that was under way.
    mark_worker_seen(&mut other, workers[0].id, "w1", at(9))
        .await
        .unwrap();
    check(&[2, 1]).await;
}

#[tokio::test]
async fn a_host_that_cannot_be_read_is_listed_with_why() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    for number in 1..=3 {
        let worker = hello(number, &format!("w{number}"));
        mark_worker_online(&mut tx, &worker, at(0)).await.unwrap();
    }
    database
        .execute(
            "UPDATE workers SET inventory = inventory - 'hostname' WHERE name = 'w1';
             UPDATE workers SET standing = '7' WHERE name = 'w2';
             UPDATE workers SET state = 'left' WHERE name = 'w3'",
        )
        .await;
    let known = list_workers(&mut tx, WhichWorkers::Known).await.unwrap();
    let read: Vec<_> = known
        .iter()
        .map(|worker| {
            (
                worker.name.as_str(),
                worker.inventory.is_ok(),
                worker.standing.is_ok(),
            )
        })
        .collect();
    assert_eq!(read, [("w1", false, true), ("w2", true, false)]);
    let why = known[0].inventory.as_ref().unwrap_err();
    assert!(
        why.contains("workers.inventory") && why.contains("hostname"),
        "{why}"
    );
    assert_eq!(
        list_workers(&mut tx, WhichWorkers::Ever)
            .await
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn a_rehearsal_is_written_down_with_what_it_breaks_and_who_wanted_it() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (worker, key) = running_job(&mut tx).await;
    let detail = json!({"kind": "größe", "seconds": 3});
    let mut asked = database.db.write_as("rehearse", "ada").await.unwrap();
    for broken in [
        Broken::Rank(key, worker.id),
        Broken::Worker(worker.id),
        Broken::Leader,
    ] {
        insert_rehearsal(&mut asked, broken, &detail).await.unwrap();
    }
    asked.commit().await.unwrap();
    let filter = Filter {
        actor: Some("ada".into()),
        ..Filter::default()
    };
    let lines = audit::list_lines(&mut tx, &filter, 9).await.unwrap().lines;
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line.job, line.attempt, line.rank, line.worker))
        .collect();
    let rank = (
        Some(key.job),
        Some(key.attempt),
        Some(key.rank),
        Some(worker.id),
    );
    assert_eq!(
        told,
        [
            rank,
            (None, None, None, Some(worker.id)),
            (None, None, None, None)
        ]
    );
    assert!(
        lines
            .iter()
            .all(|line| line.kind == "rehearsed" && line.detail == detail)
    );
    // No rule speaks of them.
    assert!(lines.iter().all(|line| audit::event(line).is_none()));

    let beyond = RankKey {
        rank: Rank(u32::MAX),
        ..key
    };
    let refused = insert_rehearsal(&mut tx, Broken::Rank(beyond, worker.id), &detail).await;
    assert!(matches!(refused, Err(StoreError::OutOfRange { .. })));
}

#[tokio::test]
async fn logs_and_metrics_go_some_at_a_time_and_those_of_others_stay() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let ((_, one), (_, two)) = (bench.running(&mut tx).await, bench.running(&mut tx).await);
    for key in [one, two] {
        let lines: Vec<LogLine> = (0..3)
            .map(|line| LogLine {
                sequence: 1,
                line,
                left: 2 - line,
                stream: LogStream::Stdout,
                text: "größe \u{fffd}".into(),
                at: at(3),
                is_damaged: false,
            })
            .collect();
        insert_log_lines(&mut tx, &[(key, &lines[..])])
            .await
            .unwrap();
        let metric = Metric {
            sequence: 1,
            name: "loss".into(),
            step: i64::MAX.unsigned_abs(),
            value: f64::MIN_POSITIVE,
            at: at(3),
        };
        insert_metrics(&mut tx, &[(key, &[metric])]).await.unwrap();
    }
    assert!(!removal::delete_some_rows(&mut tx, &[]).await.unwrap());
    assert!(
        removal::delete_some_rows(&mut tx, &[one.job])
            .await
            .unwrap()
    );
    assert!(
        !removal::delete_some_rows(&mut tx, &[one.job])
            .await
            .unwrap()
    );
    for (table, left) in [("log_lines", 3), ("metrics", 1)] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(database.number(&count).await, left);
    }
}

#[tokio::test]
async fn time_on_devices_is_counted_for_what_can_be_read() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for state in [
        JobStateName::Running,
        JobStateName::Failed,
        JobStateName::Succeeded,
    ] {
        bench.job_in(&mut tx, state).await;
    }
    let held = usage::list_held(&mut tx, at(0), 9).await.unwrap();
    let told: Vec<_> = held
        .iter()
        .map(|held| (held.to.is_some(), held.is_lost, held.cpus, held.gpus))
        .collect();
    // The newest first.
    assert_eq!(
        told,
        [
            (true, false, 1, 0),
            (true, true, 1, 0),
            (false, false, 1, 0)
        ]
    );
    // Ended before, it is not counted; what still holds devices is, however long.
    for (since, count) in [(2, 3), (3, 1)] {
        let held = usage::list_held(&mut tx, at(since), 9).await.unwrap();
        assert_eq!(held.len(), count, "since {since}");
    }
    assert_eq!(usage::list_held(&mut tx, at(0), 1).await.unwrap().len(), 1);
    for (devices, cpus, gpus) in [
        (
            r#"[{"kind": "gpu", "index": 0}, {"kind": "gpu", "index": 1}]"#,
            0,
            2,
        ),
        (r#"[{"kind": "tpu"}, 7]"#, 2, 0),
        (r#"{"kind": "gpu"}"#, 0, 0),
        ("[]", 0, 0),
    ] {
        database
            .execute(&format!("UPDATE attempt_ranks SET devices = '{devices}'"))
            .await;
        let held = usage::list_held(&mut tx, at(0), 1).await.unwrap();
        assert_eq!((held[0].cpus, held[0].gpus), (cpus, gpus), "{devices}");
    }
    database
        .execute("UPDATE pipelines SET name = 'no name!'")
        .await;
    assert_eq!(usage::list_held(&mut tx, at(0), 9).await.unwrap(), []);
}

#[tokio::test]
async fn the_newest_lines_of_a_history_are_told_oldest_first() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, [job, other]) = of_projects(&mut tx, ["vision", "vision"]).await;
    for (attempt, text) in [(0, "one"), (u32::MAX / 2, "größe 🗜️"), (1, "")] {
        // All of one time: their order is that in which they were written.
        insert_event_by(&mut tx, job, attempt, text, "ada", at(1))
            .await
            .unwrap();
    }
    let texts = async |tx: &mut Tx, job: JobId, limit: u32| -> Vec<String> {
        let events = list_events(tx, job, limit).await.unwrap();
        events.into_iter().map(|event| event.text).collect()
    };
    assert_eq!(texts(&mut tx, job, 2).await, ["größe 🗜️", ""]);
    assert_eq!(
        texts(&mut tx, job, 9).await,
        ["submitted", "one", "größe 🗜️", ""]
    );
    assert_eq!(texts(&mut tx, other, 9).await, ["submitted"]);
    assert_eq!(texts(&mut tx, job, 0).await, [""; 0]);
    let beyond = insert_event_by(&mut tx, job, u32::MAX, "", "", at(1)).await;
    assert!(matches!(beyond, Err(StoreError::OutOfRange { .. })));
    let nobody = insert_event_by(&mut tx, JobId(i64::MAX), 0, "", "", at(1)).await;
    assert!(matches!(nobody, Err(StoreError::Postgres(_))));
}

#[tokio::test]
async fn two_databases_are_two_clusters_and_each_stays_the_one_it_is() {
    let (one, two) = (
        TestDatabase::create_empty().await,
        TestDatabase::create_empty().await,
    );
    let mut ids = Vec::new();
    for database in [&one, &two] {
        database.db.migrate().await.unwrap();
        let mut conn = database.db.read().await.unwrap();
        let id = get_cluster_id(&mut conn).await.unwrap();
        database.db.migrate().await.unwrap();
        assert_eq!(get_cluster_id(&mut conn).await.unwrap(), id);
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
}
