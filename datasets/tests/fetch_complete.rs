//! Complete books: every fault against the catalogue's own truth file, attempts that are killed, and
//! runs that ask again for what is known.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use marquee_datasets::dataset::Dataset;
use marquee_domain::child::ChildEvent;
use marquee_domain::report::FetchSummary;
use marquee_domain::spec::{FilmList, Source};

use crate::support::{Catalogue, Ended, Workplace, results};

/// Films of the storm: `MARQUEE_STORM_FILMS=20000` is the full rehearsal (`cargo xtask data-check`).
fn storm_films() -> String {
    std::env::var("MARQUEE_STORM_FILMS").unwrap_or_else(|_| "2500".to_owned())
}

/// What became of each id, counted: an id that was listed twice has two outcomes.
type Outcomes = BTreeMap<(String, String, String), u32>;

fn truth_of(file: &std::path::Path) -> (Outcomes, HashMap<String, serde_json::Value>) {
    let mut outcomes = Outcomes::new();
    let mut films = HashMap::new();
    for line in fs::read_to_string(file).unwrap().lines() {
        let truth: serde_json::Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| truth[key].as_str().unwrap_or_default().to_owned();
        *outcomes
            .entry((word("id"), word("outcome"), word("class")))
            .or_default() += 1;
        if word("outcome") == "fetched" {
            films.insert(word("id"), truth);
        }
    }
    (outcomes, films)
}

fn outcomes_of(dataset: &std::path::Path) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for (id, outcome, class) in marquee_datasets::dataset::outcomes(dataset).unwrap() {
        let class = if outcome == "gone" {
            String::new()
        } else {
            class
        };
        *outcomes.entry((id, outcome, class)).or_default() += 1;
    }
    outcomes
}

#[test]
fn a_storm_of_every_fault_leaves_books_that_agree_with_the_truth() {
    let workplace = Workplace::new();
    let truth = workplace.path("truth.jsonl");
    let films = storm_films();
    let catalogue = Catalogue::start(&[
        "--films",
        &films,
        "--sketches",
        "--storm",
        "7",
        "--storm-share",
        "0.12",
        "--truth",
        truth.to_str().unwrap(),
    ]);
    let mut source = catalogue.source();
    if let Source::Tmdb {
        concurrency,
        requests_per_second,
        ..
    } = &mut source
    {
        (*concurrency, *requests_per_second) = (48, 20_000);
    }
    let started = Instant::now();
    let ended = workplace.fetch(source);
    let summary = ended.fetched();
    let (wanted, films) = truth_of(&truth);
    let found = outcomes_of(&workplace.path("dataset"));
    let differ: Vec<_> = wanted
        .iter()
        .filter(|(key, count)| found.get(key) != Some(count))
        .take(20)
        .collect();
    assert_eq!(found, wanted, "missing: {differ:?}");
    assert_eq!(summary.asked, u64::from(wanted.values().sum::<u32>()));
    println!(
        "storm: {} ids in {:.1?}: {} fetched, {} gone, rejected {:?}, failed {:?}",
        summary.asked,
        started.elapsed(),
        summary.fetched,
        summary.gone,
        summary.rejected,
        summary.failed
    );

    // And the pictures: what must be skipped is, with its class, and nothing else.
    let preprocessed = workplace
        .preprocess(support::settings(), "shards", 2)
        .preprocessed();
    let books: serde_json::Value =
        serde_json::from_slice(&fs::read(workplace.path("shards/preprocess.json")).unwrap())
            .unwrap();
    let skipped: BTreeMap<String, String> = books["problems"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|problem| problem["class"] != "label_dropped")
        .map(|problem| {
            (
                problem["id"].as_str().unwrap().to_owned(),
                problem["class"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let expected: BTreeMap<String, String> = films
        .iter()
        .filter_map(|(id, truth)| Some((id.clone(), truth["skipped"].as_str()?.to_owned())))
        .collect();
    assert_eq!(skipped, expected);
    assert_eq!(preprocessed.pictures, summary.fetched);
}

/// Requests that a job of these tests has in flight at once.
const CONCURRENCY: usize = 8;

/// A catalogue that takes its time, and a job against it that is killed when `done` films are there.
fn killed_after(workplace: &Workplace, source: Source, done: u64) -> u64 {
    let mut job = workplace
        .fetch_command(source)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(job.stdout.take().unwrap()).lines();
    let mut last = 0;
    for line in lines {
        if let Ok(ChildEvent::Progress { done: now, .. }) = serde_json::from_str(&line.unwrap()) {
            last = now;
            if now >= done {
                // SIGKILL: nothing is written any more.
                job.kill().unwrap();
                break;
            }
        }
    }
    job.wait().unwrap();
    last
}

fn slow(catalogue: &Catalogue, per_second: u32) -> Source {
    let mut source = catalogue.source();
    if let Source::Tmdb {
        requests_per_second,
        ..
    } = &mut source
    {
        *requests_per_second = per_second;
    }
    source
}

#[test]
fn a_job_that_is_killed_again_and_again_fetches_nothing_twice() {
    let catalogue = Catalogue::start(&["--films", "600", "--sketches"]);
    let workplace = Workplace::new().with_scratch();
    let source = slow(&catalogue, 600);
    let mut reached = 0;
    for goal in [100, 250, 400] {
        let now = killed_after(&workplace, source.clone(), goal);
        assert!(now > reached, "{now} after {reached}");
        reached = now;
    }
    let summary = workplace.fetch(source.clone()).fetched();
    assert!(summary.resumed >= 400, "{summary:?}");
    assert_eq!(summary.asked, 600);
    let calm = Workplace::new();
    let another = Catalogue::start(&["--films", "600", "--sketches"]);
    calm.fetch(another.source()).fetched();
    assert_eq!(
        results(&workplace.path("dataset")),
        results(&calm.path("dataset"))
    );
    // How it went is no part of what was found.
    let books = |place: &Workplace, name: &str| {
        let text = std::fs::read(place.path("dataset").join(name)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    };
    let (mut found, mut found_calmly) =
        (books(&workplace, "fetch.json"), books(&calm, "fetch.json"));
    for books in [&mut found, &mut found_calmly] {
        // Two servers have two ports.
        books["source"]["name"] = serde_json::Value::Null;
    }
    assert_eq!(found, found_calmly);
    let run = books(&workplace, "run.json");
    assert!(
        run["resumed"].as_u64() >= Some(400) && run["seconds"].as_f64() > Some(0.0),
        "{run}"
    );
    // Each film's details and each poster were asked for once, but for the requests in flight at a kill.
    const KILLS: usize = 3;
    let again = asked_again(&catalogue);
    assert!(
        again <= KILLS * CONCURRENCY,
        "{again} requests were made again"
    );
    let requests = catalogue.requests();
    let films = requests.keys().filter(|path| path.contains("/movie/"));
    assert!(films.count() > 550);
    println!("600 films, 3 kills: {again} requests made again");
}

/// Requests for details and posters that were made before.
fn asked_again(catalogue: &Catalogue) -> usize {
    let requests = catalogue.requests();
    let of_films = requests.iter().filter(|(path, _)| {
        (path.contains("/movie/") && !path.contains("genre")) || path.contains("poster")
    });
    of_films.map(|(_, count)| count - 1).sum()
}

#[test]
fn what_is_told_after_a_kill_is_of_the_whole_job() {
    let catalogue = Catalogue::start(&["--films", "400", "--sketches"]);
    let workplace = Workplace::new().with_scratch();
    killed_after(&workplace, slow(&catalogue, 400), 200);
    let ended = workplace.fetch(catalogue.source());
    let summary = ended.fetched();
    let told: Vec<_> = ended
        .events
        .iter()
        .filter_map(|event| match event {
            ChildEvent::Progress { done, problems, .. } => Some((done, problems)),
            ChildEvent::Checkpoint { .. }
            | ChildEvent::Metrics { .. }
            | ChildEvent::Regrouped { .. }
            | ChildEvent::Finished { .. }
            | ChildEvent::Failed { .. } => None,
        })
        .collect();
    let not_well = |problems: &BTreeMap<String, u64>| problems.values().sum::<u64>();
    // Half of the films were settled before, and so were half of those that are not well.
    let (done, first) = told[0];
    assert!(*done >= 200 && not_well(first) > 5, "{told:?}");
    let last = told.iter().rfind(|(done, _)| **done == 400).unwrap().1;
    let missed: u64 = summary
        .rejected
        .values()
        .chain(summary.failed.values())
        .sum();
    assert_eq!(not_well(last), summary.gone + missed, "{last:?}");
}

#[test]
fn a_job_that_is_told_to_stop_leaves_a_checkpoint_that_another_host_goes_on_from() {
    let catalogue = Catalogue::start(&["--films", "400", "--sketches"]);
    let first = Workplace::new();
    let mut job = first
        .fetch_command(slow(&catalogue, 400))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut checkpoint = None;
    for line in BufReader::new(job.stdout.take().unwrap()).lines() {
        match serde_json::from_str(&line.unwrap()).unwrap() {
            ChildEvent::Progress { done, .. } if done >= 150 => {
                // Once is enough, more does no harm.
                let _ = std::process::Command::new("kill")
                    .arg(job.id().to_string())
                    .status();
            }
            ChildEvent::Checkpoint { step, path } => checkpoint = Some((step, path)),
            ChildEvent::Progress { .. }
            | ChildEvent::Metrics { .. }
            | ChildEvent::Regrouped { .. }
            | ChildEvent::Finished { .. }
            | ChildEvent::Failed { .. } => {}
        }
    }
    assert_eq!(job.wait().unwrap().code(), Some(75));
    let (step, path) = checkpoint.unwrap();
    assert!(step >= 150);
    let second = Workplace::new().with_resume(&path);
    let summary = second.fetch(catalogue.source()).fetched();
    assert_eq!((summary.resumed, summary.asked), (step, 400));
    let again = asked_again(&catalogue);
    assert!(again <= CONCURRENCY, "{again} requests were made again");
}

#[test]
fn what_did_not_change_is_not_fetched_again() {
    let catalogue = Catalogue::start(&["--films", "300", "--sketches"]);
    let first = Workplace::new();
    let before = first.fetch(catalogue.source()).fetched();
    let second = Workplace::new().with_previous(&first.path("dataset"));
    let started = Instant::now();
    let after = second.fetch(catalogue.source()).fetched();
    assert_eq!(
        (after.fetched, after.unchanged),
        (before.fetched, before.fetched)
    );
    assert_eq!(
        results(&first.path("dataset")),
        results(&second.path("dataset"))
    );
    println!("300 films again: {:.1?}", started.elapsed());

    // Changes alone: those of the last days are asked for again, the others are kept.
    let third = Workplace::new().with_previous(&first.path("dataset"));
    let mut source = catalogue.source();
    if let Source::Tmdb { films, from, .. } = &mut source {
        *films = FilmList::Changes;
        let books = Dataset::open(&first.path("dataset"))
            .unwrap()
            .books()
            .clone();
        let listed: chrono::NaiveDate = books.listed_on.unwrap().parse().unwrap();
        *from = Some((listed - chrono::Days::new(40)).to_string());
    }
    let changed = third.fetch(source).fetched();
    assert!(
        changed.asked >= before.fetched && changed.asked < 300,
        "{changed:?}"
    );
    assert_eq!(changed.fetched, before.fetched);
}

#[test]
fn discover_is_sliced_until_no_slice_is_cut() {
    // More than 10,000 films, which one question does not give.
    let catalogue = Catalogue::start(&["--films", "12000", "--sketches", "--fault", "movie=404"]);
    let mut source = catalogue.source();
    if let Source::Tmdb {
        films,
        from,
        concurrency,
        requests_per_second,
        ..
    } = &mut source
    {
        *films = FilmList::Discover;
        *from = Some("1900-01-01".to_owned());
        (*concurrency, *requests_per_second) = (32, 100_000);
    }
    let workplace = Workplace::new();
    let ended = workplace.fetch(source);
    // Every film is gone, so there is no dataset, but the message counts them.
    let failure = ended.failure();
    let asked: u64 = failure.message["none of the ".len()..]
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    // All but those that are adult, vanished, without a date, or released later than today.
    assert!((10_500..12_000).contains(&asked), "{failure:?}");
}

#[test]
fn a_service_that_is_away_for_a_moment_costs_nothing() {
    let summary = |faults: &[&str]| -> FetchSummary {
        let mut arguments = vec!["--films", "200", "--sketches"];
        arguments.extend(faults.iter().flat_map(|fault| ["--fault", *fault]));
        let catalogue = Catalogue::start(&arguments);
        let mut source = catalogue.source();
        if let Source::Tmdb {
            outage_s,
            request_attempts,
            ..
        } = &mut source
        {
            // Long: those that try the host while it counts as down may all be films that fail once more, and each of
            // them doubles the wait for the next.
            (*outage_s, *request_attempts) = (600, 4);
        }
        Workplace::new().fetch(source).fetched()
    };
    let calm = summary(&[]);
    // Every film's details fail twice: for a while nothing at all comes.
    let stormy = summary(&["movie=503,times=2"]);
    assert_eq!((stormy.fetched, stormy.failed.len()), (calm.fetched, 0));
}

#[test]
fn progress_tells_rate_bytes_errors_by_class_and_time_left() {
    let catalogue = Catalogue::start(&["--films", "1500", "--sketches", "--storm", "3"]);
    let ended: Ended = Workplace::new().fetch(slow(&catalogue, 400));
    let names: Vec<String> = ended
        .events
        .iter()
        .filter_map(|event| match event {
            ChildEvent::Metrics { values, .. } => Some(values.keys().cloned()),
            ChildEvent::Progress { .. }
            | ChildEvent::Checkpoint { .. }
            | ChildEvent::Regrouped { .. }
            | ChildEvent::Finished { .. }
            | ChildEvent::Failed { .. } => None,
        })
        .flatten()
        .collect();
    for wanted in [
        "films/films_per_second",
        "films/bytes_per_second",
        "films/seconds_left",
        "films/fetched",
        "films/gone",
        "films/failed_http_500",
    ] {
        assert!(
            names.iter().any(|name| name == wanted),
            "{wanted}: {names:?}"
        );
    }
}
