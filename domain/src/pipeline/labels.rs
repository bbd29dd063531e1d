//! Labels that a document names, checked against those that its source is known to have.

use std::collections::BTreeSet;

use super::table::{Errors, unknown};
use crate::spec::{InputRef, JobSpec, Source, Work};

/// The genres of a TMDb-compatible API, by the API's ids: the study's 19 classes.
pub const TMDB_GENRES: [(u32, &str); 19] = [
    (28, "Action"),
    (12, "Adventure"),
    (16, "Animation"),
    (35, "Comedy"),
    (80, "Crime"),
    (99, "Documentary"),
    (18, "Drama"),
    (10751, "Family"),
    (14, "Fantasy"),
    (36, "History"),
    (27, "Horror"),
    (10402, "Music"),
    (9648, "Mystery"),
    (10749, "Romance"),
    (878, "Science Fiction"),
    (10770, "TV Movie"),
    (53, "Thriller"),
    (10752, "War"),
    (37, "Western"),
];

/// Checks every label that a job names. Labels of a folder are known on the worker alone, and are
/// checked there.
pub(super) fn check(jobs: &[JobSpec], errors: &Errors) {
    for job in jobs {
        match &job.work {
            Work::Preprocess(settings) => {
                let Some(known) = source_labels(job, jobs) else {
                    continue;
                };
                for (index, label) in settings.labels.iter().flatten().enumerate() {
                    if errors.is_full() {
                        return;
                    }
                    if !known.contains(&label.as_str()) {
                        errors.add(
                            format!("jobs.{}.labels[{index}]", job.name),
                            unknown_label(label, &known),
                        );
                    }
                }
            }
            Work::Eval(settings) => {
                let Some(known) = classes(job, jobs) else {
                    continue;
                };
                // A set, since a document may name as many thresholds as fit into a MiB.
                let sorted: BTreeSet<&str> = known.iter().copied().collect();
                for label in settings.thresholds.keys() {
                    if errors.is_full() {
                        return;
                    }
                    if !sorted.contains(label.as_str()) {
                        errors.add(
                            format!("jobs.{}.thresholds.{label}", job.name),
                            unknown_label(label, &known),
                        );
                    }
                }
            }
            Work::Fetch(_) | Work::Train(_) | Work::Command(_) => {}
        }
    }
}

fn unknown_label(label: &str, known: &[&str]) -> String {
    format!("no such label: {}", unknown(label, known))
}

/// The job that makes input `name` of `job`.
fn maker<'a>(job: &JobSpec, name: &str, jobs: &'a [JobSpec]) -> Option<&'a JobSpec> {
    match job.inputs.get(name)? {
        InputRef::Job { job: from, .. } => jobs.iter().find(|other| other.name == *from),
        InputRef::Artifact(_) => None,
    }
}

fn source_labels(preprocess: &JobSpec, jobs: &[JobSpec]) -> Option<Vec<&'static str>> {
    match &maker(preprocess, "dataset", jobs)?.work {
        Work::Fetch(fetch) => match fetch.source {
            Source::Tmdb { .. } => Some(TMDB_GENRES.iter().map(|(_, name)| *name).collect()),
            // Their labels stand in files that this host does not see.
            Source::List { .. } | Source::Folder { .. } => None,
        },
        Work::Preprocess(_) | Work::Train(_) | Work::Eval(_) | Work::Command(_) => None,
    }
}

/// The classes of an eval job, as far as the document tells them.
fn classes<'a>(eval: &JobSpec, jobs: &'a [JobSpec]) -> Option<Vec<&'a str>> {
    let preprocess = maker(eval, "shards", jobs)?;
    let Work::Preprocess(settings) = &preprocess.work else {
        return None;
    };
    match &settings.labels {
        Some(labels) => Some(labels.iter().map(String::as_str).collect()),
        None => source_labels(preprocess, jobs),
    }
}
