//! Which jobs a person finds: by state, words, worker, project and page.

use std::collections::BTreeMap;

use crate::support::bench::Bench;
use crate::support::{self, at, pipeline, place, spec};
use marquee_domain::end::AttemptEnd;
use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::spec::{Ended, JobKind, JobSpec};
use marquee_store::elements;
use marquee_store::jobs::{self, JobFilter};
use marquee_store::listing::{self, Wanted};
use marquee_store::needs::release;
use marquee_store::testing::TestDatabase;
use marquee_store::transitions::{
    list_open_elements, mark_job_failed, mark_job_requeued, mark_jobs_cancelled, mark_jobs_revived,
};
use marquee_store::workers::mark_worker_online;
use marquee_store::{Tx, attempts};

async fn found(tx: &mut Tx, filter: &JobFilter, wanted: &Wanted) -> Vec<JobId> {
    listing::list_job_ids(tx, filter, wanted, 100)
        .await
        .unwrap()
}

/// A job by itself.
async fn lone(tx: &mut Tx, request: &str, spec: &JobSpec) -> (PipelineId, JobId) {
    let pipeline = pipeline(tx, request).await;
    let [job] = support::jobs(tx, pipeline, [(spec, &[])]).await;
    (pipeline, job)
}

#[tokio::test]
async fn a_state_lists_the_jobs_that_it_counts_and_that_say_they_are_in_it() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    for state in JobStateName::ALL {
        for _ in 0..2 {
            bench.job_in(&mut tx, state).await;
        }
    }
    // Arrays, which have no state of their own that says how far they are: one waits, one is queued, of one an
    // element runs, of one an element has succeeded, of one an element was placed and is back in the queue.
    let mut many = spec("many", 1);
    many.array = Some(3);
    let first = spec("first", 1);
    let waits = pipeline(&mut tx, "waits").await;
    support::jobs(&mut tx, waits, [(&first, &[]), (&many, &[0])]).await;
    lone(&mut tx, "queued", &many).await;
    for ends in [false, true] {
        let (_, array) = lone(&mut tx, &format!("begun-{ends}"), &many).await;
        let elements = list_open_elements(&mut tx, array).await.unwrap();
        let key = place(&mut tx, elements[0].id, 0, bench.worker.id).await;
        if ends {
            support::bench::succeed(&mut tx, key.job, key.attempt).await;
        }
    }
    let (_, array) = lone(&mut tx, "back", &many).await;
    let elements = list_open_elements(&mut tx, array).await.unwrap();
    let key = place(&mut tx, elements[0].id, 0, bench.worker.id).await;
    let end = support::bench::interrupted();
    attempts::mark_attempt_ended(&mut tx, key.job, key.attempt, &end, at(3))
        .await
        .unwrap();
    mark_job_requeued(&mut tx, (key.job, key.attempt), 4, None, None)
        .await
        .unwrap();

    let counted: BTreeMap<&str, u32> = listing::count_jobs(&mut tx, at(0))
        .await
        .unwrap()
        .into_iter()
        .map(|(state, count)| (state.as_str(), count))
        .collect();
    for state in JobStateName::ALL {
        let filter = JobFilter {
            states: Some(vec![state]),
            ..JobFilter::default()
        };
        let ids = found(&mut tx, &filter, &Wanted::default()).await;
        assert!(ids.is_sorted_by(|a, b| a > b), "{state:?}: newest first");
        let full = jobs::list_jobs(&mut tx, &filter, 100).await.unwrap();
        let full: Vec<JobId> = full.iter().map(|job| job.id).collect();
        assert_eq!(ids, full, "{state:?}: two ways to look");
        for id in &ids {
            let job = jobs::get_job(&mut tx, *id).await.unwrap();
            assert_eq!(job.state.name(), state, "{job:?}");
        }
        let count = counted.get(state.as_str()).copied().unwrap_or_default();
        assert_eq!(ids.len(), count as usize, "{state:?} of {counted:?}");
    }
}

#[tokio::test]
async fn words_are_text_and_no_pattern() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut ids = BTreeMap::new();
    for name in ["fetch_all", "fetch-all", "fetchxall", "train"] {
        let (_, job) = lone(&mut tx, name, &spec(name, 1)).await;
        ids.insert(name, job);
    }
    for (text, names) in [
        ("fetch_all", &["fetch_all"][..]),
        ("FETCH", &["fetchxall", "fetch-all", "fetch_all"]),
        ("fetch%all", &[]),
        ("_rain", &[]),
        ("%", &[]),
        (r"\", &[]),
        (r"\_", &[]),
        ("'; DROP TABLE jobs; --", &[]),
        // The pipeline's name counts, too.
        ("poster", &["train", "fetchxall", "fetch-all", "fetch_all"]),
        ("", &["train", "fetchxall", "fetch-all", "fetch_all"]),
    ] {
        let wanted = Wanted {
            text: Some(text.into()),
            ..Wanted::default()
        };
        let expected: Vec<JobId> = names.iter().map(|name| ids[name]).collect();
        let found = found(&mut tx, &JobFilter::default(), &wanted).await;
        assert_eq!(found, expected, "{text:?}");
    }
}

#[tokio::test]
async fn a_worker_has_the_jobs_whose_newest_attempt_has_a_rank_there() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (one, two) = (support::hello(1, "one"), support::hello(2, "two"));
    for worker in [&one, &two] {
        mark_worker_online(&mut tx, worker, at(0)).await.unwrap();
    }
    let (_, stays) = lone(&mut tx, "stays", &spec("stays", 1)).await;
    place(&mut tx, stays, 0, one.id).await;
    let (_, moved) = lone(&mut tx, "moved", &spec("moved", 1)).await;
    let key = place(&mut tx, moved, 0, one.id).await;
    let end = support::bench::interrupted();
    attempts::mark_attempt_ended(&mut tx, moved, key.attempt, &end, at(2))
        .await
        .unwrap();
    mark_job_requeued(&mut tx, (moved, key.attempt), 4, None, None)
        .await
        .unwrap();
    let on = async |tx: &mut Tx, name: &str| {
        let wanted = Wanted {
            worker_name: Some(name.into()),
            ..Wanted::default()
        };
        found(tx, &JobFilter::default(), &wanted).await
    };
    assert_eq!(
        on(&mut tx, "one").await,
        [moved, stays],
        "queued again, it is where it was last"
    );
    place(&mut tx, moved, 1, two.id).await;
    assert_eq!(on(&mut tx, "one").await, [stays]);
    assert_eq!(on(&mut tx, "two").await, [moved]);
    assert_eq!(on(&mut tx, "ONE").await, [], "a name is a name");
    assert_eq!(on(&mut tx, "nobody").await, []);
}

#[tokio::test]
async fn pages_go_through_all_jobs_once_and_leave_elements_to_their_array() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    assert_eq!(listing::find_newest_id(&mut tx).await.unwrap(), None);
    let mut many = spec("many", 1);
    many.array = Some(4);
    many.sharing.project = "vision".parse().unwrap();
    let mut all = Vec::new();
    for n in 0..5 {
        let spec = if n == 2 {
            many.clone()
        } else {
            spec(&format!("job{n}"), 1)
        };
        all.push(lone(&mut tx, &format!("request-{n}"), &spec).await);
    }
    let (array_pipeline, array) = all[2];
    let elements: Vec<JobId> = list_open_elements(&mut tx, array)
        .await
        .unwrap()
        .iter()
        .map(|element| element.id)
        .collect();
    let newest = listing::find_newest_id(&mut tx).await.unwrap();
    assert_eq!(newest, Some(all[4].1));

    let mut seen = Vec::new();
    let mut filter = JobFilter::default();
    loop {
        let page = listing::list_job_ids(&mut tx, &filter, &Wanted::default(), 2)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(*last);
        seen.extend(page);
    }
    let expected: Vec<JobId> = all.iter().rev().map(|(_, job)| *job).collect();
    assert_eq!(seen, expected);

    // Elements are found where their array is named, and narrowed like all others.
    let of_array = JobFilter {
        array: Some(array),
        ..JobFilter::default()
    };
    let mut found_elements = found(&mut tx, &of_array, &Wanted::default()).await;
    found_elements.reverse();
    assert_eq!(found_elements, elements);
    mark_jobs_cancelled(&mut tx, &[(elements[1], 0)], "no", None, "test", at(2))
        .await
        .unwrap();
    for (state, ids) in [
        (
            JobStateName::Queued,
            vec![elements[3], elements[2], elements[0]],
        ),
        (JobStateName::Cancelled, vec![elements[1]]),
        (JobStateName::Waiting, vec![]),
    ] {
        let filter = JobFilter {
            states: Some(vec![state]),
            ..of_array.clone()
        };
        assert_eq!(
            found(&mut tx, &filter, &Wanted::default()).await,
            ids,
            "{state:?}"
        );
    }
    for (filter, ids) in [
        (
            JobFilter {
                projects: Some(vec!["vision".into()]),
                ..JobFilter::default()
            },
            vec![array],
        ),
        (
            JobFilter {
                pipeline: Some(array_pipeline),
                ..JobFilter::default()
            },
            vec![array],
        ),
        (
            JobFilter {
                kinds: Some(vec![JobKind::Train]),
                ..JobFilter::default()
            },
            vec![],
        ),
        (
            JobFilter {
                kinds: Some(vec![]),
                ..JobFilter::default()
            },
            vec![],
        ),
        (
            JobFilter {
                states: Some(vec![]),
                ..JobFilter::default()
            },
            vec![],
        ),
        (
            JobFilter {
                before: Some(JobId(i64::MIN)),
                ..JobFilter::default()
            },
            vec![],
        ),
    ] {
        let got = found(&mut tx, &filter, &Wanted::default()).await;
        assert_eq!(got, ids, "{filter:?}");
    }

    // By number, an element of an array has a place; what is beyond its size has none.
    for (index, id) in elements.iter().enumerate() {
        let index = u32::try_from(index).unwrap();
        let found = elements::find_element(&mut tx, array, index).await.unwrap();
        assert_eq!(found, Some(*id));
    }
    for index in [4, u32::MAX] {
        let found = elements::find_element(&mut tx, array, index).await.unwrap();
        assert_eq!(found, None, "{index}");
    }
    let named = jobs::list_job_names(&mut tx, &[array, JobId(i64::MAX), elements[0]])
        .await
        .unwrap();
    let named: BTreeMap<JobId, String> = named
        .into_iter()
        .map(|(id, name)| (id, name.to_string()))
        .collect();
    assert_eq!(
        named,
        BTreeMap::from([(array, "many".into()), (elements[0], "many".into())])
    );
}

#[tokio::test]
async fn what_ended_is_listed_by_its_end_and_counted_within_the_time() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut jobs = Vec::new();
    for n in 0..3 {
        jobs.push(
            lone(&mut tx, &format!("request-{n}"), &spec("job", 1))
                .await
                .1,
        );
    }
    // The oldest job ends last.
    for (job, second) in [(jobs[2], 10), (jobs[1], 20), (jobs[0], 30)] {
        mark_jobs_cancelled(&mut tx, &[(job, 0)], "no", None, "test", at(second))
            .await
            .unwrap();
    }
    let ended = listing::list_ended_ids(&mut tx, None, 10).await.unwrap();
    assert_eq!(ended, jobs);
    assert_eq!(
        listing::list_ended_ids(&mut tx, None, 1).await.unwrap(),
        jobs[..1]
    );
    assert_eq!(listing::list_ended_ids(&mut tx, None, 0).await.unwrap(), []);
    for (since, count) in [(0, Some(3)), (20, Some(2)), (30, Some(1)), (31, None)] {
        let counts = listing::count_jobs(&mut tx, at(since)).await.unwrap();
        let expected: Vec<_> = count
            .map(|count| (JobStateName::Cancelled, count))
            .into_iter()
            .collect();
        assert_eq!(counts, expected, "since {since}");
    }
}

/// An array that waits is not begun by what its needs do.
#[tokio::test]
async fn an_array_is_queued_with_its_elements_and_not_before() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let (pair, key) = bench.running(&mut tx).await;
    let mut many = spec("many", 1);
    many.array = Some(2);
    let later = pipeline(&mut tx, "later").await;
    let first = spec("first", 1);
    let [first, array] = support::jobs(&mut tx, later, [(&first, &[]), (&many, &[0])]).await;
    let state = async |tx: &mut Tx| jobs::get_job(tx, array).await.unwrap().state.name();
    assert_eq!(state(&mut tx).await, JobStateName::Waiting);
    // The end of another pipeline's job is nothing to it.
    support::bench::succeed(&mut tx, pair.job, key.attempt).await;
    let released = release(&mut tx, &[(pair.job, Ended::Succeeded)], at(3))
        .await
        .unwrap();
    assert_eq!(released, Default::default());
    let released = release(&mut tx, &[(first, Ended::Succeeded)], at(3))
        .await
        .unwrap();
    assert_eq!((released.arrays, released.queued), (vec![array], vec![]));
    let elements = list_open_elements(&mut tx, array).await.unwrap();
    assert!(elements.iter().all(|e| e.state == JobStateName::Queued));
}

/// Few candidates are gathered for some filters, and all jobs gone through for others; pages cut through both.
#[tokio::test]
async fn where_jobs_are_looked_for_changes_nothing_of_what_is_found() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let mut bench = Bench::new(&mut tx).await;
    let other = support::hello(2, "w2");
    mark_worker_online(&mut tx, &other, at(0)).await.unwrap();
    for _ in 0..3 {
        for state in JobStateName::ALL {
            bench.job_in(&mut tx, state).await;
        }
        // It has failed once, and is queued again.
        let (pair, attempt) = bench.job_in(&mut tx, JobStateName::Failed).await;
        mark_jobs_revived(&mut tx, &[(pair.job, attempt)], "again", "test", at(3))
            .await
            .unwrap();
    }
    let mut many = spec("many", 1);
    many.array = Some(9);
    let mut arrays = Vec::new();
    for request in ["array-1", "array-2"] {
        let (_, array) = lone(&mut tx, request, &many).await;
        let elements = list_open_elements(&mut tx, array).await.unwrap();
        for element in &elements[..4] {
            let key = place(&mut tx, element.id, 0, other.id).await;
            match element.id.0 - elements[0].id.0 {
                0 => support::bench::succeed(&mut tx, key.job, key.attempt).await,
                1 | 2 => {
                    let failure = support::bench::failure();
                    let end = AttemptEnd::Failed(failure.clone());
                    attempts::mark_attempt_ended(&mut tx, key.job, key.attempt, &end, at(2))
                        .await
                        .unwrap();
                    let running = [JobStateName::Running];
                    mark_job_failed(&mut tx, key.job, 1, &running, &failure, at(2))
                        .await
                        .unwrap();
                }
                _ => {}
            }
        }
        mark_jobs_cancelled(&mut tx, &[(elements[5].id, 0)], "no", None, "test", at(2))
            .await
            .unwrap();
        arrays.push(array);
    }
    lone(&mut tx, "last", &spec("last", 1)).await;

    let everything = JobFilter::default();
    let mut all = jobs::list_jobs(&mut tx, &everything, 1_000).await.unwrap();
    for array in &arrays {
        let of_array = JobFilter {
            array: Some(*array),
            ..JobFilter::default()
        };
        all.extend(jobs::list_jobs(&mut tx, &of_array, 1_000).await.unwrap());
    }
    let each = JobStateName::ALL.into_iter().map(|state| Some(vec![state]));
    let pairs = JobStateName::ALL.windows(2).map(|pair| Some(pair.to_vec()));
    let all_states = [None, Some(JobStateName::ALL.to_vec())];
    for states in each.chain(pairs).chain(all_states) {
        for array in [None, Some(arrays[0]), Some(arrays[1])] {
            for text in [None, Some("JO"), Some("nee"), Some("poster"), Some("zzz")] {
                let filter = JobFilter {
                    states: states.clone(),
                    array,
                    ..JobFilter::default()
                };
                let wanted = Wanted {
                    text: text.map(Into::into),
                    ..Wanted::default()
                };
                let matches = |job: &&jobs::Job| {
                    let text = text.unwrap_or_default().to_lowercase();
                    job.element.map(|element| element.array) == array
                        && states
                            .as_ref()
                            .is_none_or(|states| states.contains(&job.state.name()))
                        && [job.name.as_str(), "posters"]
                            .iter()
                            .any(|name| name.contains(&text))
                };
                let mut expected: Vec<JobId> =
                    all.iter().filter(matches).map(|job| job.id).collect();
                expected.sort_unstable_by(|a, b| b.cmp(a));
                for size in [2, 100] {
                    let mut page = filter.clone();
                    let mut got: Vec<JobId> = Vec::new();
                    loop {
                        let ids = listing::list_job_ids(&mut tx, &page, &wanted, size)
                            .await
                            .unwrap();
                        page.before = ids.last().copied();
                        got.extend(&ids);
                        if ids.len() < size {
                            break;
                        }
                    }
                    assert_eq!(got, expected, "{filter:?} {wanted:?} by {size}");
                }
            }
        }
    }
}

/// Words that are in many names, and names that are many, are looked for in each job.
#[tokio::test]
async fn a_word_is_found_however_many_names_there_are() {
    let database = TestDatabase::create().await;
    let mut tx = database.db.autocommit().await.unwrap();
    let (_, rare) = lone(&mut tx, "rare", &spec("rare", 1)).await;
    let wanted = |text: &str| Wanted {
        text: Some(text.into()),
        ..Wanted::default()
    };
    for (kind, sql) in [
        // More jobs of one name than are gathered.
        (
            "many jobs",
            "INSERT INTO pipelines (name, request_id, document_digest, created_at)
             SELECT 'many', 'many-' || n, repeat('ab', 32), now() FROM generate_series(1, 10001) n;
             INSERT INTO jobs (pipeline_id, position, name, kind, spec, priority, ranks, state, attempt, max_attempts,
                               created_at)
             SELECT id, 0, 'common', 'command', '{}', 0, 1, 'succeeded', 1, 1, created_at FROM pipelines
             WHERE name = 'many'",
        ),
        // More names than are compared.
        (
            "many names",
            "UPDATE pipelines SET name = 'many-' || id WHERE name = 'many'",
        ),
    ] {
        database.execute(sql).await;
        for (text, count) in [("rare", 1), ("common", 100), ("many", 100), ("zzz", 0)] {
            let ids = found(&mut tx, &JobFilter::default(), &wanted(text)).await;
            assert_eq!(ids.len(), count, "{kind}: {text}");
            assert!(count != 1 || ids == [rare], "{kind}: {text}");
        }
    }
}
