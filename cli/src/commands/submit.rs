//! `marquee submit`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use marquee_domain::limits;
use marquee_proto::v1::{self, document};
use marquee_view::{Page, View, json, units};
use serde_json::{Value, json};
use uuid::Uuid;

use super::wait::follow;
use crate::client::Remote;
use crate::error::{CliError, Result};
use crate::output::Output;
use crate::say::say;
use crate::session::Session;
use crate::target::Resolved;
use crate::{clock, requests, source_paths};

/// Submit a pipeline: a file of jobs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee submit examples/posters.toml --wait
  marquee submit pipeline.toml --set jobs.train.epochs=3 --set jobs.train.ranks=4
  marquee submit pipeline.toml --fresh
  marquee submit pipeline.toml --project vision
  id=$(marquee submit pipeline.toml --output quiet | head -1)

The file is checked as a whole: either every job is stored, or none is and every wrong field is
named. docs/pipeline.md describes the fields. Where the coordinator runs on this machine, a relative
`source.path` is taken relative to the file (with --set: to this folder), and ~ is your home.")]
pub(super) struct Args {
    /// A TOML file, or JSON if it ends in .json; \"-\" reads TOML from stdin
    file: PathBuf,
    /// Follow the jobs until they have ended; exit 1 unless all succeed
    #[arg(long, short)]
    wait: bool,
    /// Put a value into the file before it is read, such as jobs.train.epochs=3
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_override)]
    set: Vec<v1::Override>,
    /// Run every job, also one whose very step was done before
    #[arg(long)]
    fresh: bool,
    /// The project that its jobs belong to [or MARQUEE_PROJECT, where the file names none]
    #[arg(long, value_name = "PROJECT", value_parser = super::project::parse_name)]
    project: Option<String>,
    /// Name this submission: sent again with the same id and file, it is the same jobs
    #[arg(long, value_name = "ID", value_parser = parse_request_id)]
    request_id: Option<String>,
}

pub(super) fn parse_override(text: &str) -> Result<v1::Override, String> {
    let parts = text
        .split_once('=')
        .filter(|(path, _)| !path.trim().is_empty());
    let (path, value) = parts.ok_or("write KEY=VALUE, as in jobs.train.epochs=3")?;
    Ok(v1::Override {
        path: path.trim().to_owned(),
        value: value.to_owned(),
    })
}

fn parse_request_id(text: &str) -> Result<String, String> {
    let max = limits::REQUEST_ID_MAX_BYTES;
    if text.is_empty() || text.len() > max {
        return Err(format!("must be 1 to {max} bytes"));
    }
    Ok(text.to_owned())
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let document = read_document(&args.file)?;
    let place = session.place()?;
    let mut set = source_paths::absolute(&document, &args.file, args.set, &place)?;
    let remote = Remote::new(place)?;
    let request_id = args
        .request_id
        // Drawn here and not by the coordinator: a request that is sent again after a broken connection is the
        // same submission.
        .unwrap_or_else(|| Uuid::new_v4().to_string());
    set.extend(args.fresh.then(no_reuse));
    set.extend(project(args.project, &document)?);
    let submitted = Submitted(requests::jobs::submit(&remote, document, set, request_id).await?);
    if !args.wait {
        return submitted.show(session.output);
    }
    if session.output.is_for_people() {
        say!("{}", submitted.headline());
    }
    follow(
        &remote,
        &[Resolved::Pipeline(submitted.0.pipeline_id)],
        session,
    )
    .await
}

/// The variable that names the project of pipelines that name none.
const PROJECT_ENV: &str = "MARQUEE_PROJECT";

/// The project to put into the document: the one of the command line replaces what stands there, the one of the
/// environment does not.
pub(super) fn project(
    given: Option<String>,
    document: &v1::Document,
) -> Result<Option<v1::Override>> {
    let name = match given {
        Some(name) => Some(name),
        None if names_project(document) => None,
        None => match std::env::var(PROJECT_ENV) {
            Ok(name) if !name.is_empty() => {
                let name = super::project::parse_name(&name)
                    .map_err(|why| CliError::Usage(format!("{PROJECT_ENV}={name:?}: {why}")))?;
                Some(name)
            }
            Ok(_) | Err(_) => None,
        },
    };
    Ok(name.map(|name| v1::Override {
        path: "project".to_owned(),
        // In quotes: a project may be called "true" or "inf", which TOML reads as something else.
        value: format!("{name:?}"),
    }))
}

/// Whether a document says whose its jobs are. One that cannot be read says nothing; the coordinator tells why.
fn names_project(document: &v1::Document) -> bool {
    let root: Option<Value> = match &document.format {
        Some(document::Format::Toml(text)) => toml::from_str(text).ok(),
        Some(document::Format::Json(text)) => serde_json::from_str(text).ok(),
        None => None,
    };
    root.is_some_and(|root| root.get("project").is_some())
}

/// What a pipeline says that reuses nothing.
fn no_reuse() -> v1::Override {
    v1::Override {
        path: "reuse".to_owned(),
        value: "false".to_owned(),
    }
}

pub(super) fn read_document(path: &Path) -> Result<v1::Document> {
    let read = || -> std::io::Result<Vec<u8>> {
        // One byte more than may be tells that there is more. All of it could be a disk, or never end.
        let max = limits::DOCUMENT_MAX_BYTES as u64 + 1;
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            std::io::stdin().take(max).read_to_end(&mut bytes)?;
        } else {
            std::fs::File::open(path)?
                .take(max)
                .read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read the pipeline {}", path.display()))?;
    // Told here too, so that a file which was mistaken for a pipeline is not sent over the network first.
    if bytes.len() > limits::DOCUMENT_MAX_BYTES {
        return Err(CliError::Usage(format!(
            "{} has more than {}, and no pipeline has; is it another file?",
            path.display(),
            units::bytes(limits::DOCUMENT_MAX_BYTES as u64)
        )));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        CliError::Usage(format!(
            "{} is no text (UTF-8); is it another file?",
            path.display()
        ))
    })?;
    let is_json = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let format = if is_json {
        document::Format::Json(text)
    } else {
        document::Format::Toml(text)
    };
    Ok(v1::Document {
        format: Some(format),
    })
}

/// What was stored.
struct Submitted(v1::SubmitResponse);

impl Submitted {
    fn headline(&self) -> String {
        let name = self
            .0
            .jobs
            .first()
            .map_or("", |job| job.pipeline_name.as_str());
        let jobs = units::plural(self.0.jobs.len(), "job");
        let again = if self.0.repeated_request {
            " (submitted before: the same jobs)"
        } else {
            ""
        };
        format!("pipeline p{} {name}: {jobs}{again}", self.0.pipeline_id)
    }

    fn show(&self, output: Output) -> Result<()> {
        output.show(self, clock::now())?;
        if output.is_for_people() {
            let id = self.0.pipeline_id;
            say!("follow with \"marquee wait p{id}\", look with \"marquee show p{id}\"");
        }
        Ok(())
    }
}

impl View for Submitted {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        page.line(self.headline());
        marquee_view::jobs::table(page, &self.0.jobs, now);
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({
            "pipeline_id": self.0.pipeline_id,
            "repeated_request": self.0.repeated_request,
            "jobs": self.0.jobs.iter().map(json::job).collect::<Vec<_>>(),
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![format!("p{}", self.0.pipeline_id)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_split_at_its_first_equals_sign() {
        let set = parse_override("jobs.run.env.FLAGS=--a=b").unwrap();
        assert_eq!(
            (set.path.as_str(), set.value.as_str()),
            ("jobs.run.env.FLAGS", "--a=b")
        );
        assert!(
            parse_override("jobs.train.epochs")
                .unwrap_err()
                .contains("KEY=VALUE")
        );
        assert!(parse_override("=3").is_err());
    }

    #[test]
    fn the_project_of_the_command_line_replaces_the_documents() {
        let toml = |text: &str| v1::Document {
            format: Some(document::Format::Toml(text.into())),
        };
        let set = project(Some("true".into()), &toml("project = \"vision\""))
            .unwrap()
            .unwrap();
        assert_eq!(
            (set.path.as_str(), set.value.as_str()),
            ("project", "\"true\"")
        );
        assert!(names_project(&toml("name = \"p\"\nproject = \"vision\"")));
        assert!(!names_project(&toml("name = \"p\"")));
        assert!(!names_project(&toml("= broken")));
    }

    #[test]
    fn a_submission_that_was_made_before_says_so() {
        let mut submitted = Submitted(v1::SubmitResponse {
            pipeline_id: 3,
            jobs: vec![v1::Job {
                id: 17,
                pipeline_name: "posters".into(),
                ..v1::Job::default()
            }],
            repeated_request: true,
        });
        assert_eq!(
            submitted.headline(),
            "pipeline p3 posters: 1 job (submitted before: the same jobs)"
        );
        assert_eq!(submitted.ids(), ["p3"]);
        let json = submitted.json(clock::now());
        assert_eq!(json["repeated_request"], true);
        assert_eq!(json["jobs"][0]["id"], 17);
        submitted.0.repeated_request = false;
        submitted.0.jobs.clear();
        assert_eq!(submitted.headline(), "pipeline p3 : 0 jobs");
    }

    #[test]
    fn a_request_id_has_an_end() {
        let max = limits::REQUEST_ID_MAX_BYTES;
        assert!(parse_request_id(&"x".repeat(max)).is_ok());
        for wrong in [String::new(), "x".repeat(max + 1), "é".repeat(max)] {
            assert!(parse_request_id(&wrong).is_err(), "{}", wrong.len());
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read_document(Path::new("/nowhere/p.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nowhere/p.toml") && error.contains("No such file"),
            "{error}"
        );
    }
}
