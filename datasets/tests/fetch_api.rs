//! Fetch jobs against the local catalogue, over real HTTP, with each of its faults.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use marquee_datasets::dataset::Dataset;
use marquee_domain::FailureClass;
use marquee_domain::report::FetchSummary;
use marquee_domain::spec::Source;

use crate::support::{Catalogue, Ended, Workplace, results, source};

const FILMS: &str = "60";

fn fetch_with(faults: &[&str]) -> (FetchSummary, Workplace) {
    let mut arguments = vec!["--films", FILMS];
    for fault in faults {
        arguments.extend(["--fault", fault]);
    }
    let catalogue = Catalogue::start(&arguments);
    let workplace = Workplace::new();
    let mut source = catalogue.source();
    if let Source::Tmdb {
        request_attempts, ..
    } = &mut source
    {
        // A film may meet several of the faults.
        *request_attempts = 1 + u32::try_from(faults.len()).unwrap();
    }
    let summary = workplace.fetch(source).fetched();
    (summary, workplace)
}

#[test]
fn every_film_is_accounted_for_and_those_fetched_are_in_the_dataset() {
    let catalogue = Catalogue::start(&["--films", "700"]);
    let workplace = Workplace::new();
    let ended = workplace.fetch(catalogue.source());
    let summary = ended.fetched();
    assert_eq!(summary.asked, 700);
    assert!(summary.gone > 0 && summary.failed.is_empty(), "{summary:?}");
    let classes: Vec<_> = summary.rejected.keys().map(String::as_str).collect();
    assert_eq!(classes, ["adult", "no_labels", "no_poster"]);
    assert!(summary.source.synthetic);
    assert!((0.8..0.87).contains(&summary.source.f1_micro_ceiling.unwrap()));

    let dataset = Dataset::open(&workplace.path("dataset")).unwrap();
    assert_eq!(dataset.examples().len() as u64, summary.fetched);
    assert_eq!(dataset.labels()[0], "Action");
    let ids: Vec<i64> = dataset
        .examples()
        .iter()
        .map(|film| film.id.parse().unwrap())
        .collect();
    assert!(ids.is_sorted(), "rows come in the export's order");
    let bytes: usize = dataset
        .examples()
        .iter()
        .map(|film| dataset.picture(&film.id).unwrap().len())
        .sum();
    assert_eq!(bytes as u64, summary.bytes);
    assert!(
        dataset
            .examples()
            .iter()
            .all(|film| (1..=3).contains(&film.labels.len()))
    );
    assert!(dataset.examples().iter().any(|film| film.group.is_some()));
    assert!(
        dataset
            .examples()
            .iter()
            .any(|film| film.release_date.is_none())
    );
    let missed: BTreeSet<_> = dataset
        .books()
        .problems
        .iter()
        .map(|p| p.id.clone())
        .collect();
    assert_eq!(missed.len() as u64, summary.asked - summary.fetched);
    assert!(
        ended
            .text
            .contains(r#""phase":"films","done":700,"total":700"#)
    );
    let all = marquee_datasets::dataset::outcomes(&workplace.path("dataset")).unwrap();
    assert_eq!(all.len(), 700);
    assert!(ended.text.contains("films/films_per_second"));
}

#[test]
fn the_elements_of_an_array_fetch_each_film_once_and_are_one_dataset() {
    let catalogue = Catalogue::start(&["--films", "120"]);
    let alone = Workplace::new();
    let whole = alone.fetch(catalogue.source()).fetched();
    let array = tempfile::tempdir().unwrap();
    let mut sum = FetchSummary::default();
    for index in 0..3 {
        let element = Workplace::new().with_element(index, 3);
        let share = element.fetch(catalogue.source()).fetched();
        assert!((20..60).contains(&share.asked), "{share:?}");
        sum = sum.and(share);
        let folder = array.path().join(format!("elements/{index:04}"));
        std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
        std::fs::rename(element.path("dataset"), folder).unwrap();
    }
    let [one, three] = [&whole, &sum].map(|books| {
        (
            books.asked,
            books.fetched,
            books.gone,
            books.rejected.clone(),
            books.bytes,
        )
    });
    assert_eq!(one, three);
    let (alone, array) = (
        Dataset::open(&alone.path("dataset")).unwrap(),
        Dataset::open(array.path()).unwrap(),
    );
    assert_eq!(alone.examples(), array.examples());
    assert_eq!(alone.labels(), array.labels());
    for film in alone.examples() {
        assert_eq!(alone.picture(&film.id), array.picture(&film.id));
    }
    assert_eq!(array.books().summary.fetched, whole.fetched);
}

#[test]
fn faults_that_pass_change_nothing() {
    let (calm, calm_place) = fetch_with(&[]);
    let (stormy, stormy_place) = fetch_with(&[
        "configuration=503,times=1",
        "export=truncated,times=1",
        "movie=500,every=7,times=1",
        "movie=html,every=5,times=1",
        "movie=truncated,every=3,times=1",
        "image=empty,every=4,times=1",
        "image=html,every=6,times=1",
    ]);
    assert_eq!(stormy.fetched, calm.fetched);
    assert_eq!(
        results(&calm_place.path("dataset")),
        results(&stormy_place.path("dataset"))
    );
}

#[test]
fn faults_that_stay_are_recorded_by_class() {
    let calm = fetch_with(&[]).0.fetched;
    for (fault, class) in [
        ("movie=503,every=10", "http_503"),
        ("movie=html,every=10", "nonsense"),
        ("movie=empty,every=10", "empty"),
        ("movie=truncated,every=10", "truncated"),
        ("image=html,every=10", "nonsense"),
        ("image=500,every=10", "http_500"),
    ] {
        let (summary, _place) = fetch_with(&[fault]);
        let failed: Vec<_> = summary.failed.keys().map(String::as_str).collect();
        assert_eq!(failed, [class], "{fault}");
        assert!(
            summary.fetched < calm && summary.fetched > 40,
            "{fault}: {summary:?}"
        );
    }
    let (summary, _place) = fetch_with(&["movie=invalid-id,every=10"]);
    assert!(
        summary.gone >= 5 && summary.failed.is_empty(),
        "{summary:?}"
    );
}

#[test]
fn too_many_requests_make_the_job_wait_as_long_as_it_was_told() {
    let calm = fetch_with(&[]).0.fetched;
    for fault in [
        "movie=429,every=30,times=1,retry_after=1",
        "image=429,every=30,times=1,retry_after=date:2",
        "movie=429,every=30,times=3",
        "movie=503,every=30,times=1,retry_after=1",
    ] {
        let started = Instant::now();
        let (summary, _place) = fetch_with(&[fault]);
        assert_eq!(summary.fetched, calm, "{fault}");
        assert!(started.elapsed() >= Duration::from_secs(1), "{fault}");
    }
}

#[test]
fn an_answer_that_does_not_come_in_time_is_tried_again() {
    let catalogue = Catalogue::start(&["--films", "30", "--fault", "movie=slow:20,every=29"]);
    let mut slow = catalogue.source();
    if let Source::Tmdb {
        request_timeout_s, ..
    } = &mut slow
    {
        *request_timeout_s = 1;
    }
    let summary = Workplace::new().fetch(slow).fetched();
    assert_eq!(summary.failed.keys().collect::<Vec<_>>(), ["timeout"]);
    assert_eq!(summary.failed["timeout"], 2);
}

#[test]
fn a_key_or_token_opens_the_service_and_shows_nowhere() {
    for secret in [
        "0123456789abcdef0123456789abcdef",
        "eyJhbGciOi.J9.tokentoken",
    ] {
        let catalogue = Catalogue::start(&["--films", "12", "--key", secret]);
        let workplace = Workplace::new();
        let mut source = catalogue.source();
        if let Source::Tmdb { credential_env, .. } = &mut source {
            *credential_env = Some("MARQUEE_TEST_KEY".to_owned());
        }
        let run = |key: Option<&str>| {
            let mut command = workplace.fetch_command(source.clone());
            command.env_remove("MARQUEE_TEST_KEY");
            command.envs(key.map(|key| ("MARQUEE_TEST_KEY", key)));
            Ended::of(command.output().unwrap())
        };
        let good = run(Some(secret));
        assert!(good.fetched().fetched > 6);
        assert!(!good.text.contains(secret));

        let wrong = secret.replace("ey", "xx").replace("01", "99");
        let bad = run(Some(&wrong));
        let failure = bad.failure();
        assert_eq!(failure.class, FailureClass::UserError);
        assert!(
            failure
                .message
                .contains("check environment variable MARQUEE_TEST_KEY")
        );
        assert!(!bad.text.contains(&wrong), "{}", bad.text);

        let failure = run(None).failure();
        assert_eq!(failure.class, FailureClass::UserError);
        assert!(
            failure.message.contains("MARQUEE_TEST_KEY is not set"),
            "{failure:?}"
        );
    }
}

#[test]
fn a_service_that_wants_a_key_says_where_to_name_one() {
    let catalogue = Catalogue::start(&["--films", "12", "--key", "secret"]);
    let failure = Workplace::new().fetch(catalogue.source()).failure();
    assert_eq!(failure.class, FailureClass::UserError);
    let message = failure.message.replace(&catalogue.api_url, "API");
    insta::assert_snapshot!(message, @"API wants a key (HTTP 401, code 7: Invalid API key: You must be granted a valid key.); name the environment variable that holds it in credential_env");
}

#[test]
fn a_key_that_is_refused_in_mid_run_stops_the_job_at_once() {
    let catalogue = Catalogue::start(&["--films", "2000", "--fault", "movie=401,every=25"]);
    let workplace = Workplace::new();
    let started = Instant::now();
    let failure = workplace.fetch(catalogue.source()).failure();
    assert_eq!(failure.class, FailureClass::UserError);
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(!workplace.path("dataset/fetch.json").exists());
}

#[test]
fn a_service_that_is_not_there_or_stops_answering_is_a_network_failure() {
    let failure = Workplace::new()
        .fetch(source("http://127.0.0.1:9/3"))
        .failure();
    assert_eq!(failure.class, FailureClass::Network);
    assert!(
        failure.message.contains("http://127.0.0.1:9/3"),
        "{failure:?}"
    );

    let catalogue = Catalogue::start(&["--films", "400", "--fault", "movie=503"]);
    let failure = Workplace::new().fetch(catalogue.source()).failure();
    assert_eq!(failure.class, FailureClass::Network);
    assert!(
        failure.message.contains("has answered nothing for"),
        "{failure:?}"
    );
}

#[test]
fn tmdb_itself_is_refused_without_rights_before_any_request() {
    let failure = Workplace::new()
        .fetch(source("https://api.themoviedb.org/3"))
        .failure();
    assert_eq!(failure.class, FailureClass::UserError);
    insta::assert_snapshot!(failure.message, @"https://api.themoviedb.org/3 is TMDb, whose terms do not allow machine learning without a written agreement; if you have one, say so in the source's rights (holder, date, note)");
}

#[test]
fn an_unknown_size_is_refused_with_those_there_are() {
    let catalogue = Catalogue::start(&["--films", "5"]);
    let mut source = catalogue.source();
    if let Source::Tmdb { poster_size, .. } = &mut source {
        *poster_size = "w501".to_owned();
    }
    let failure = Workplace::new().fetch(source).failure();
    assert_eq!(failure.class, FailureClass::UserError);
    insta::assert_snapshot!(failure.message, @r#"poster_size "w501" is unknown to the service; it has w92, w154, w185, w342, w500, w780, original"#);
}

#[test]
fn sigterm_ends_the_job_in_order_and_leaves_no_dataset() {
    let catalogue = Catalogue::start(&["--films", "5000"]);
    let workplace = Workplace::new();
    let mut job = workplace
        .fetch_command(catalogue.source())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(job.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let killed = Command::new("kill")
        .arg(job.id().to_string())
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(job.wait().unwrap().code(), Some(75));
    assert!(!lines.any(|line| line.unwrap().contains("finished")));
    assert_eq!(
        results(&workplace.path("dataset")).len(),
        0,
        "nothing half-written may stay"
    );
}
