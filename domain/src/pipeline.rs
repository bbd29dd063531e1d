//! From a document to a [`PipelineSpec`], or to every error in it at once.
//!
//! This is the only door: the file format, the gRPC document and a test's literal all pass here,
//! so that a spec that exists is a spec that is right. `docs/pipeline.md` describes the format.
//!
//! Not here: whether an artifact named by digest exists. Only the store knows.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the matches are on JSON's value kinds, which do not grow"
)]

use serde_json::{Map, Value};

use crate::ids::JobName;
use crate::limits;
use crate::spec::{JobSpec, PipelineSpec};

mod array;
mod bounds;
mod graph;
mod job;
mod labels;
mod learning;
pub use bounds::check_size;
pub use labels::TMDB_GENRES;
mod needs;
mod overrides;
mod recipe;
mod secrets;
mod settings;
mod sharing;
mod table;
mod watch;

use job::Draft;
use table::{Errors, Table};

/// One wrong field of a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Keys joined by dots, such as `jobs.train.epochs`.
    pub field: String,
    /// The value, what is wrong with it, and the way out.
    pub message: String,
}

/// A document as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentText<'a> {
    Toml(&'a str),
    Json(&'a str),
}

/// A value put into a document before it is read: keys joined by dots, and a TOML value (text
/// that is none is taken as a string).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    pub path: String,
    pub value: String,
}

/// What the cluster has in all, free or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_slots: u32,
    pub gpus: u32,
}

/// Reads a pipeline. `cluster` is None while no worker is known: then any number of ranks may wait
/// for workers to come.
pub fn parse_pipeline(
    document: DocumentText<'_>,
    overrides: &[Override],
    cluster: Option<Capacity>,
) -> Result<PipelineSpec, Vec<FieldError>> {
    check_size(document, overrides)?;
    let errors = Errors::default();
    let root = read(document, overrides, &errors);
    let spec = root.and_then(|root| pipeline(&root, cluster, &errors));
    errors.into_result(spec)
}

/// Reads one job, as it would stand under `[jobs.<name>]`, as a pipeline of its own name.
pub fn parse_job(
    name: &str,
    document: DocumentText<'_>,
    overrides: &[Override],
    cluster: Option<Capacity>,
) -> Result<PipelineSpec, Vec<FieldError>> {
    check_size(document, overrides)?;
    if let Err(why) = name.parse::<JobName>() {
        return Err(vec![FieldError {
            field: "name".to_owned(),
            message: format!("{:?} {why}", bounds::start_of(name)),
        }]);
    }
    let errors = Errors::default();
    let job = read(document, overrides, &errors);
    let spec = job.and_then(|job| {
        let jobs = Map::from_iter([(name.to_owned(), Value::Object(job))]);
        let root = Map::from_iter([
            ("name".to_owned(), Value::String(name.to_owned())),
            ("jobs".to_owned(), Value::Object(jobs)),
        ]);
        pipeline(&root, cluster, &errors)
    });
    errors.into_result(spec)
}

/// Reads a document of a size that was checked, and puts the overrides into it.
fn read(
    document: DocumentText<'_>,
    overrides: &[Override],
    errors: &Errors,
) -> Option<Map<String, Value>> {
    let parsed = match document {
        DocumentText::Toml(text) => {
            toml::from_str::<Value>(text).map_err(|e| toml_message(text, &e))
        }
        DocumentText::Json(text) => serde_json::from_str(text).map_err(|e| e.to_string()),
    };
    let mut root = match parsed {
        Ok(Value::Object(root)) => root,
        Ok(other) => {
            errors.add(
                "document",
                format!("must be a table of keys, not {}", table::kind_of(&other)),
            );
            return None;
        }
        Err(message) => {
            errors.add("document", message);
            return None;
        }
    };
    overrides::apply(&mut root, overrides, errors);
    // After the overrides, which can bring in what no document may hold.
    bounds::check_values(&root, errors).then_some(root)
}

fn toml_message(text: &str, error: &toml::de::Error) -> String {
    // The reader's words may have several lines; what is told of a field is one.
    let what = error.message().trim().replace('\n', "; ");
    match error.span() {
        Some(span) => {
            let before = &text[..span.start.min(text.len())];
            let line = before.matches('\n').count() + 1;
            // Characters and not bytes: as editors count columns.
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("line {line}, column {column}: {what}")
        }
        None => what,
    }
}

fn pipeline(
    root: &Map<String, Value>,
    cluster: Option<Capacity>,
    errors: &Errors,
) -> Option<PipelineSpec> {
    let mut table = Table::new(String::new(), root, errors);
    let name = table.parsed::<JobName>("name", "text such as \"posters\"");
    let reuse = table.flag("reuse", true);
    let project = sharing::project(&mut table).unwrap_or_default();
    let jobs = table.table("jobs");
    table.finish();

    let Some(jobs) = jobs else {
        errors.add(
            "jobs",
            "is missing; write one table [jobs.<name>] for each job",
        );
        return None;
    };
    let jobs: Vec<Draft> = jobs
        .tables()
        .filter_map(|(key, table)| job::job(&key, table, cluster, &project))
        .collect();
    if root
        .get("jobs")
        .and_then(Value::as_object)
        .is_some_and(Map::is_empty)
    {
        errors.add(
            "jobs",
            "is empty; write one table [jobs.<name>] for each job",
        );
    }
    // Before their needs are held against each other, which takes longer with each job.
    if jobs.len() > limits::PIPELINE_MAX_JOBS {
        errors.add(
            "jobs",
            format!(
                "{} jobs are too many; at most {} fit",
                jobs.len(),
                limits::PIPELINE_MAX_JOBS
            ),
        );
        return None;
    }
    let jobs = graph::check_and_sort(jobs, errors);
    labels::check(&jobs, errors);
    // What the pipeline refuses no job allows.
    let jobs = jobs.into_iter().map(|job| JobSpec {
        reuse: reuse && job.reuse,
        ..job
    });
    let jobs = jobs.collect();
    name.map(|name| PipelineSpec { name, jobs })
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
