//! The quality report on a set with planted faults: how many are found, and how many sound pictures
//! are accused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::support;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use marquee_domain::spec::{ImageEncoding, LEAVE_OUT_DEFAULT, PreprocessSettings};

use crate::support::{Catalogue, Workplace, settings};

/// Flags that say that something is wrong. Grey and dark posters are among the generated ones, and
/// are flagged rightly.
const FAULTS: [&str; 8] = [
    "tiny",
    "odd_aspect",
    "light",
    "low_information",
    "blurry",
    "exact_duplicate",
    "near_duplicate",
    "placeholder",
];

fn films() -> String {
    std::env::var("MARQUEE_QUALITY_FILMS").unwrap_or_else(|_| "1500".to_owned())
}

#[test]
fn planted_faults_are_found_and_sound_pictures_are_left_in_peace() {
    let workplace = Workplace::new();
    let truth = workplace.path("truth.jsonl");
    let films = films();
    let catalogue = Catalogue::start(&[
        "--films",
        &films,
        "--storm",
        "11",
        "--storm-share",
        "0.35",
        "--truth",
        truth.to_str().unwrap(),
    ]);
    let mut source = catalogue.source();
    if let marquee_domain::spec::Source::Tmdb {
        poster_size,
        concurrency,
        ..
    } = &mut source
    {
        (*poster_size, *concurrency) = ("w185".to_owned(), 32);
    }
    workplace.fetch(source).fetched();
    let settings = PreprocessSettings {
        encoding: ImageEncoding::Jpeg,
        width: 96,
        height: 144,
        test_rows: Some(100),
        group_near_duplicates: true,
        leave_out: LEAVE_OUT_DEFAULT.map(str::to_owned).to_vec(),
        ..settings()
    };
    let summary = workplace.preprocess(settings, "shards", 2).preprocessed();
    assert_eq!(summary.splits["test"], 100);
    let quality: serde_json::Value =
        serde_json::from_slice(&fs::read(workplace.path("shards/quality.json")).unwrap()).unwrap();
    let page = fs::read_to_string(workplace.path("shards/quality.html")).unwrap();
    assert!(page.contains("data:image/jpeg;base64,") && page.contains("What is odd"));
    assert!(
        !page.contains("src=\"http"),
        "the page is complete in itself"
    );
    assert!(quality["years"].as_object().unwrap().len() > 50);
    if let Ok(folder) = std::env::var("MARQUEE_KEEP_REPORT") {
        fs::create_dir_all(&folder).unwrap();
        fs::write(format!("{folder}/quality.html"), &page).unwrap();
    }

    let flags = flags_by_film(&workplace);
    // What shows nothing is in no split, and is counted by the first of its flags.
    let shows_nothing =
        |has: &&BTreeSet<String>| LEAVE_OUT_DEFAULT.iter().any(|flag| has.contains(*flag));
    let of_flags = summary
        .skipped
        .iter()
        .filter(|(why, _)| why.starts_with("flag_"));
    let left_out: u64 = of_flags.clone().map(|(_, count)| count).sum();
    assert_eq!(
        left_out,
        flags.values().filter(shows_nothing).count() as u64
    );
    for (why, count) in of_flags {
        assert_eq!(quality["skipped"][why], *count, "{why}");
    }
    for flag in LEAVE_OUT_DEFAULT {
        assert!(summary.skipped[&format!("flag_{flag}")] > 0, "{summary:?}");
    }
    let mut found: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    let (mut sound, mut accused) = (0, BTreeMap::<String, u32>::new());
    for line in fs::read_to_string(&truth).unwrap().lines() {
        let truth: serde_json::Value = serde_json::from_str(line).unwrap();
        let Some(has) = flags.get(truth["id"].as_str().unwrap()) else {
            continue;
        };
        if truth["outcome"] != "fetched" || !truth["skipped"].is_null() {
            continue;
        }
        for wanted in truth["flags"].as_array().unwrap() {
            let counts = found
                .entry(wanted.as_str().unwrap().to_owned())
                .or_default();
            counts[0] += u32::from(has.contains(wanted.as_str().unwrap()));
            counts[1] += 1;
        }
        if !truth["planted"]
            .as_str()
            .unwrap_or_default()
            .starts_with("Oddity")
        {
            sound += 1;
            for flag in has.iter().filter(|flag| FAULTS.contains(&flag.as_str())) {
                *accused.entry(flag.clone()).or_default() += 1;
            }
        }
    }
    let [hits, planted] = found.values().fold([0, 0], |sum, counts| {
        [sum[0] + counts[0], sum[1] + counts[1]]
    });
    let alarms: u32 = accused.values().sum();
    println!(
        "quality: recall {hits}/{planted} = {:.2} %, false alarms {alarms}/{sound} = {:.2} %; by flag {found:?}; accused {accused:?}",
        f64::from(hits) * 100.0 / f64::from(planted),
        f64::from(alarms) * 100.0 / f64::from(sound)
    );
    assert!(planted > 60, "{found:?}");
    assert!(f64::from(hits) >= 0.99 * f64::from(planted), "{found:?}");
    assert!(f64::from(alarms) <= 0.01 * f64::from(sound), "{accused:?}");
}

/// The flags of every film in the table beside the shards.
fn flags_by_film(workplace: &Workplace) -> BTreeMap<String, BTreeSet<String>> {
    marquee_datasets::preprocess::flags_of(&workplace.path("shards"))
        .unwrap()
        .into_iter()
        .map(|(id, flags)| (id, flags.into_iter().collect()))
        .collect()
}

/// A file that ends its decoder ends no job: the program that decodes is one of its own.
#[test]
fn a_helper_that_dies_costs_one_picture() {
    let workplace = Workplace::new();
    let catalogue = Catalogue::start(&["--films", "400", "--sketches"]);
    workplace.fetch(catalogue.source()).fetched();
    let mut job = workplace
        .preprocess_command(settings(), "shards", 2)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Kill its helpers while it runs: they are the children of this one process.
    let mut killed = 0;
    while job.try_wait().unwrap().is_none() && killed < 3 {
        // Helpers are children of the threads that use them.
        let tasks = fs::read_dir(format!("/proc/{}/task", job.id()));
        let pids: Vec<String> = tasks
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|text| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        if let Some(pid) = pids.first() {
            killed += u32::from(
                Command::new("kill")
                    .args(["-KILL", pid])
                    .status()
                    .unwrap()
                    .success(),
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(15));
    }
    let ended = support::Ended::of(job.wait_with_output().unwrap());
    let summary = ended.preprocessed();
    let crashed = summary.skipped.get("decoder_crashed").copied().unwrap_or(0);
    assert!(
        killed > 0 && crashed <= u64::from(killed),
        "{killed} killed, {summary:?}"
    );
    assert!(summary.splits.values().sum::<u64>() > 300);
}
