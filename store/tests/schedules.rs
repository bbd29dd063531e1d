//! Schedules: what is stored of them, and that each due time is dealt with once.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::{at, jobs, pipeline, spec};
use chrono::{DateTime, Utc};
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::schedule::{Missed, Outcome, Overlap, Progress};
use marquee_store::schedules::{
    Document, NewSchedule, Run, Schedule, Which, count_schedules, delete_schedule, find_document,
    has_run, insert_run, is_open, list_runs, list_schedules, mark_paused, mark_progress,
    upsert_schedule,
};
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::mark_jobs_cancelled;
use marquee_store::{StoreError, Tx, removal};

fn document(text: &str) -> Document {
    Document {
        is_json: false,
        text: text.into(),
        overrides: Vec::new(),
    }
}

fn progress(next_due: Option<i64>, waiting_due: Option<i64>) -> Progress {
    Progress {
        overlap: Overlap::Skip,
        missed: Missed::One,
        next_due: next_due.map(at),
        waiting_due: waiting_due.map(at),
    }
}

fn new<'a>(name: &'a str, document: &'a Document, progress: Progress) -> NewSchedule<'a> {
    NewSchedule {
        name,
        cron: "0 3 * * *",
        time_zone: "Europe/Berlin",
        document,
        progress,
        caller: "ada",
    }
}

/// Stores a schedule that is due at `next_due`.
async fn stored(tx: &mut Tx, name: &str, next_due: Option<i64>) -> Schedule {
    let document = document("name = \"posters\"");
    let new = new(name, &document, progress(next_due, None));
    assert!(upsert_schedule(tx, &new, false, at(0)).await.unwrap());
    named(tx, name).await.unwrap()
}

async fn named(tx: &mut Tx, name: &str) -> Option<Schedule> {
    list_schedules(tx, Which::Named(name)).await.unwrap().pop()
}

async fn names(tx: &mut Tx, which: Which<'_>) -> Vec<String> {
    let listed = list_schedules(tx, which).await.unwrap();
    listed.into_iter().map(|schedule| schedule.name).collect()
}

fn run(due: i64, outcome: Outcome, pipeline: Option<PipelineId>) -> Run {
    Run {
        due_at: at(due),
        outcome,
        pipeline,
        text: "said".into(),
        at: at(due + 1),
    }
}

fn is_vanished(result: Result<(), StoreError>) -> bool {
    matches!(result, Err(StoreError::Vanished(_)))
}

#[tokio::test]
async fn a_schedule_is_read_as_it_was_stored_whatever_its_policies_are() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let document = document("");
    for (n, (overlap, missed)) in Overlap::ALL
        .into_iter()
        .flat_map(|overlap| Missed::ALL.map(|missed| (overlap, missed)))
        .enumerate()
    {
        let name = format!("nightly-{n}");
        let progress = Progress {
            overlap,
            missed,
            next_due: (n > 0).then(|| at(100)),
            waiting_due: (n > 1).then(|| at(50)),
        };
        let new = new(&name, &document, progress);
        assert!(upsert_schedule(&mut tx, &new, false, at(7)).await.unwrap());
        let found = named(&mut tx, &name).await.unwrap();
        let expected = Schedule {
            id: found.id,
            name,
            cron: "0 3 * * *".into(),
            time_zone: "Europe/Berlin".into(),
            progress,
            paused: None,
            set_by: "ada".into(),
            set_at: at(7),
        };
        assert_eq!(found, expected);
    }
    assert_eq!(count_schedules(&mut tx).await.unwrap(), 4);
}

#[tokio::test]
async fn a_document_comes_back_to_the_byte_with_its_overrides_in_their_order() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let pair = |path: &str, value: &str| (path.to_owned(), value.to_owned());
    let documents = [
        document(""),
        Document {
            is_json: true,
            text: "{\"name\": \"größer\",\r\n\t\"jobs\": []}\n".into(),
            overrides: vec![
                pair("b", "1"),
                pair("a", ""),
                pair("b", "'; DROP TABLE jobs"),
            ],
        },
        document(&"x".repeat(1 << 20)),
    ];
    for (n, document) in documents.iter().enumerate() {
        let name = format!("s{n}");
        let new = new(&name, document, progress(None, None));
        upsert_schedule(&mut tx, &new, false, at(0)).await.unwrap();
        let id = named(&mut tx, &name).await.unwrap().id;
        let found = find_document(&mut tx, id).await.unwrap();
        assert_eq!(found.as_ref(), Some(document));
    }
    assert_eq!(find_document(&mut tx, i64::MAX).await.unwrap(), None);
}

#[tokio::test]
async fn overrides_of_before_versions_are_read_and_those_of_a_later_one_are_not_guessed_at() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "nightly", None).await.id;
    database
        .execute(r#"UPDATE schedules SET overrides = '[["a", "1"]]'"#)
        .await;
    let found = find_document(&mut tx, id).await.unwrap().unwrap();
    assert_eq!(found.overrides, [("a".to_owned(), "1".to_owned())]);
    for damaged in ["{\"document_version\": 99}", "7", "[[\"a\"]]"] {
        database
            .execute(&format!("UPDATE schedules SET overrides = '{damaged}'"))
            .await;
        let refused = find_document(&mut tx, id).await;
        let refused = matches!(refused, Err(StoreError::Unreadable { .. }));
        assert!(refused, "{damaged}");
    }
}

#[tokio::test]
async fn a_name_is_given_once_unless_it_is_to_be_replaced() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let before = stored(&mut tx, "nightly", Some(100)).await;
    mark_paused(&mut tx, "nightly", Some("bob"), None, at(5))
        .await
        .unwrap();
    insert_run(&mut tx, before.id, &run(1, Outcome::Missed, None))
        .await
        .unwrap();
    let other = document("name = \"other\"");
    let new = NewSchedule {
        cron: "*/5 * * * *",
        caller: "cid",
        ..new("nightly", &other, progress(Some(200), Some(150)))
    };
    let paused = named(&mut tx, "nightly").await;
    assert!(!upsert_schedule(&mut tx, &new, false, at(9)).await.unwrap());
    assert_eq!(named(&mut tx, "nightly").await, paused);

    assert!(upsert_schedule(&mut tx, &new, true, at(9)).await.unwrap());
    let after = named(&mut tx, "nightly").await.unwrap();
    assert_eq!(
        (after.id, after.cron.as_str(), after.set_by.as_str()),
        (before.id, "*/5 * * * *", "cid")
    );
    assert_eq!((after.paused, after.progress), (None, new.progress));
    let document = find_document(&mut tx, before.id).await.unwrap();
    assert_eq!(document, Some(other));
    // What became of earlier due times is still known.
    assert!(has_run(&mut tx, before.id, at(1)).await.unwrap());
}

#[tokio::test]
async fn due_are_those_that_are_not_paused_and_have_something_to_do() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    for (name, next_due) in [
        ("c-now", Some(100)),
        ("b-past", Some(1)),
        ("later", Some(101)),
        ("never", None),
        ("paused", Some(1)),
    ] {
        stored(&mut tx, name, next_due).await;
    }
    mark_paused(&mut tx, "paused", Some("bob"), None, at(5))
        .await
        .unwrap();
    let document = document("");
    let waits = new("a-waits", &document, progress(None, Some(500)));
    upsert_schedule(&mut tx, &waits, false, at(0))
        .await
        .unwrap();

    let due = names(&mut tx, Which::Due(at(100))).await;
    assert_eq!(due, ["a-waits", "b-past", "c-now"]);
    assert_eq!(names(&mut tx, Which::All).await.len(), 6);
    for name in ["", "nobody", "C-NOW"] {
        assert_eq!(
            names(&mut tx, Which::Named(name)).await,
            [""; 0],
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn a_word_of_a_later_version_lets_a_schedule_rest_and_keeps_no_other_from_its_time() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    for name in ["a", "b", "c"] {
        stored(&mut tx, name, Some(1)).await;
    }
    database
        .execute(
            "ALTER TABLE schedules DROP CONSTRAINT schedules_overlap_check, DROP CONSTRAINT schedules_missed_check;
             UPDATE schedules SET overlap = 'replace' WHERE name = 'a';
             UPDATE schedules SET missed = 'all' WHERE name = 'c'",
        )
        .await;
    assert_eq!(names(&mut tx, Which::Due(at(5))).await, ["b"]);
    assert_eq!(names(&mut tx, Which::All).await, ["b"]);
    // It is still there, and counted.
    assert_eq!(count_schedules(&mut tx).await.unwrap(), 3);
}

#[tokio::test]
async fn a_pause_names_who_made_it_and_going_on_begins_with_the_next_due_time() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let document = document("");
    let waits = new("nightly", &document, progress(Some(100), Some(50)));
    upsert_schedule(&mut tx, &waits, false, at(0))
        .await
        .unwrap();
    assert!(
        mark_paused(&mut tx, "nightly", Some("bob"), Some(at(999)), at(5))
            .await
            .unwrap()
    );
    let paused = named(&mut tx, "nightly").await.unwrap();
    assert_eq!(paused.paused, Some(("bob".to_owned(), at(5))));
    // What waited is dropped, and the due time given is for going on alone.
    assert_eq!(paused.progress, progress(Some(100), None));

    for next in [Some(200), None] {
        let resumed = mark_paused(&mut tx, "nightly", None, next.map(at), at(9)).await;
        assert!(resumed.unwrap());
        let found = named(&mut tx, "nightly").await.unwrap();
        assert_eq!((found.paused, found.progress), (None, progress(next, None)));
    }
    let nobody = mark_paused(&mut tx, "weekly", Some("bob"), None, at(5)).await;
    assert!(!nobody.unwrap());
}

#[tokio::test]
async fn a_schedule_moves_on_only_from_where_it_was_read() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "nightly", Some(100)).await.id;
    let to = |next: Option<i64>, waiting: Option<i64>| -> (Option<DateTime<Utc>>, _) {
        (next.map(at), waiting.map(at))
    };
    // Each of these was read some time before, or never.
    for wrong in [
        progress(Some(99), None),
        progress(None, None),
        progress(Some(100), Some(50)),
    ] {
        let moved = mark_progress(&mut tx, id, &wrong, to(Some(200), None)).await;
        assert!(is_vanished(moved), "{wrong:?}");
    }
    let mut before = progress(Some(100), None);
    for (next, waiting) in [(Some(200), Some(100)), (None, Some(100)), (None, None)] {
        mark_progress(&mut tx, id, &before, to(next, waiting))
            .await
            .unwrap();
        before = progress(next, waiting);
        let found = named(&mut tx, "nightly").await.unwrap().progress;
        assert_eq!(found, before);
    }
    mark_paused(&mut tx, "nightly", Some("bob"), None, at(5))
        .await
        .unwrap();
    let moved = mark_progress(&mut tx, id, &before, to(Some(300), None)).await;
    assert!(is_vanished(moved));
    let moved = mark_progress(&mut tx, i64::MAX, &before, to(Some(300), None)).await;
    assert!(is_vanished(moved));
}

#[tokio::test]
async fn a_due_time_is_dealt_with_once() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "nightly", None).await.id;
    let other = stored(&mut tx, "weekly", None).await.id;
    let pipeline = pipeline(&mut tx, "request").await;
    let runs = [
        run(4, Outcome::Submitted, Some(pipeline)),
        run(3, Outcome::Refused, None),
        run(2, Outcome::Skipped, None),
        run(1, Outcome::Missed, None),
    ];
    for run in &runs {
        assert!(!has_run(&mut tx, id, run.due_at).await.unwrap());
        insert_run(&mut tx, id, run).await.unwrap();
        assert!(has_run(&mut tx, id, run.due_at).await.unwrap());
        assert!(!has_run(&mut tx, other, run.due_at).await.unwrap());
    }
    let again = insert_run(&mut tx, id, &run(3, Outcome::Submitted, None)).await;
    assert!(is_vanished(again));
    // The same time of another schedule is another due time.
    insert_run(&mut tx, other, &runs[1]).await.unwrap();

    for (limit, count) in [(0, 0), (1, 1), (3, 3), (4, 4), (u32::MAX, 4)] {
        let listed = list_runs(&mut tx, id, limit).await.unwrap();
        assert_eq!(listed, runs[..count], "{limit}");
    }
    assert_eq!(list_runs(&mut tx, i64::MAX, 5).await.unwrap(), []);
}

#[tokio::test]
async fn of_two_leaders_that_deal_with_one_due_time_the_second_is_told_and_does_nothing() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "nightly", Some(1)).await.id;
    let before = progress(Some(1), None);
    let mut first = database.db.write("schedules").await.unwrap();
    let submitted = pipeline(&mut first, "first").await;
    insert_run(&mut first, id, &run(1, Outcome::Submitted, Some(submitted)))
        .await
        .unwrap();
    mark_progress(&mut first, id, &before, (Some(at(2)), None))
        .await
        .unwrap();
    let db = database.db.clone();
    let second = tokio::spawn(async move {
        let mut tx = db.write("schedules").await.unwrap();
        let submitted = pipeline(&mut tx, "second").await;
        // Waits for the first one's row, and then finds it.
        insert_run(&mut tx, id, &run(1, Outcome::Submitted, Some(submitted))).await
    });
    first.commit().await.unwrap();
    assert!(is_vanished(second.await.unwrap()));
    let pipelines = "SELECT count(*) FROM pipelines";
    assert_eq!(database.number(pipelines).await, 1);
}

#[tokio::test]
async fn the_newest_runs_are_remembered() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "hourly", None).await.id;
    let other = stored(&mut tx, "weekly", None).await.id;
    let many = |id: i64, count: u32| {
        format!(
            "INSERT INTO schedule_runs (schedule_id, due_at, outcome, at)
             SELECT {id}, to_timestamp(n), 'skipped', now() FROM generate_series(1, {count}) n"
        )
    };
    database.execute(&many(id, 5_000)).await;
    database.execute(&many(other, 1)).await;
    let count = format!("SELECT count(*) FROM schedule_runs WHERE schedule_id = {id}");
    let oldest = format!(
        "SELECT extract(epoch FROM min(due_at))::bigint FROM schedule_runs WHERE schedule_id = {id}"
    );
    for gone in 1..=2 {
        insert_run(&mut tx, id, &run(gone, Outcome::Missed, None))
            .await
            .unwrap();
        assert_eq!(database.number(&count).await, 5_000);
        assert_eq!(database.number(&oldest).await, gone + 1);
    }
    assert_eq!(list_runs(&mut tx, other, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_run_whose_word_nobody_knows_is_said_to_be_unreadable() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "nightly", None).await.id;
    insert_run(&mut tx, id, &run(1, Outcome::Missed, None))
        .await
        .unwrap();
    database
        .execute(
            "ALTER TABLE schedule_runs DROP CONSTRAINT schedule_runs_outcome_check;
             UPDATE schedule_runs SET outcome = 'postponed'",
        )
        .await;
    let refused = list_runs(&mut tx, id, 5).await.unwrap_err();
    assert!(refused.to_string().contains("postponed"), "{refused}");
    // That something became of it is known all the same.
    assert!(has_run(&mut tx, id, at(1)).await.unwrap());
}

#[tokio::test]
async fn a_schedule_is_open_while_its_newest_pipeline_is() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "nightly", None).await.id;
    assert!(!is_open(&mut tx, id).await.unwrap());
    let mut submitted: Vec<(PipelineId, JobId)> = Vec::new();
    for due in [1, 2] {
        let pipeline = pipeline(&mut tx, &format!("request-{due}")).await;
        let [job] = jobs(&mut tx, pipeline, [(&spec("fetch", 1), &[])]).await;
        insert_run(&mut tx, id, &run(due, Outcome::Submitted, Some(pipeline)))
            .await
            .unwrap();
        submitted.push((pipeline, job));
    }
    // Times that nothing was submitted at do not count.
    insert_run(&mut tx, id, &run(3, Outcome::Skipped, None))
        .await
        .unwrap();
    assert!(is_open(&mut tx, id).await.unwrap());
    let (newest, job) = submitted[1];
    mark_jobs_cancelled(&mut tx, &[(job, 0)], "cancelled", None, "ada", at(9))
        .await
        .unwrap();
    // That of the time before is open still, and does not hold up the next.
    assert!(!is_open(&mut tx, id).await.unwrap());

    // Removed, the run stays, and names none.
    let mut gone = database.db.write("remove").await.unwrap();
    removal::delete_pipeline(&mut gone, newest).await.unwrap();
    gone.commit().await.unwrap();
    let runs = list_runs(&mut tx, id, 9).await.unwrap();
    let pipelines: Vec<_> = runs.iter().map(|run| run.pipeline).collect();
    assert_eq!(pipelines, [None, None, Some(submitted[0].0)]);
    assert!(is_open(&mut tx, id).await.unwrap());
}

#[tokio::test]
async fn a_deleted_schedule_leaves_its_pipelines_and_nothing_else() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let id = stored(&mut tx, "nightly", None).await.id;
    let pipeline = pipeline(&mut tx, "request").await;
    insert_run(&mut tx, id, &run(1, Outcome::Submitted, Some(pipeline)))
        .await
        .unwrap();
    assert!(delete_schedule(&mut tx, "nightly").await.unwrap());
    assert!(!delete_schedule(&mut tx, "nightly").await.unwrap());
    assert_eq!(count_schedules(&mut tx).await.unwrap(), 0);
    assert!(!has_run(&mut tx, id, at(1)).await.unwrap());
    assert_eq!(database.number("SELECT count(*) FROM pipelines").await, 1);
    // What was read of it before cannot be gone on with.
    let run = insert_run(&mut tx, id, &run(2, Outcome::Missed, None)).await;
    assert!(matches!(run, Err(StoreError::Postgres(_))));
    // One of the same name is another one, which knows nothing of the runs.
    let again = stored(&mut tx, "nightly", None).await.id;
    assert_ne!(again, id);
    assert_eq!(list_runs(&mut tx, again, 9).await.unwrap(), []);
}
