//! `marquee artifacts ls|get|rescue`.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use marquee_proto::v1::{self, Artifact};
use marquee_view::artifacts::Artifacts;
use marquee_view::{Page, View, json, units};
use serde_json::{Value, json};

use crate::client::Remote;
use crate::error::{CliError, Result};
use crate::requests::download;
use crate::say::say;
use crate::session::Session;
use crate::target::{OfPipeline, Target};
use crate::{clock, requests};

/// List and fetch what jobs made: datasets, shards, models, reports
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee artifacts ls --pipeline p3
  marquee artifacts get train --to model/
  marquee artifacts get 5a3cf0918d22 report.html --to .
  marquee artifacts rescue train")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Ls(LsArgs),
    Get(GetArgs),
    Rescue(RescueArgs),
}

/// List artifacts, newest first
#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Only those of this pipeline
    #[arg(long, short, value_name = "PIPELINE")]
    pipeline: Option<OfPipeline>,
    /// Only that of this job
    #[arg(long, short)]
    job: Option<Target>,
    /// At most this many
    #[arg(long, short = 'n', default_value_t = 50)]
    limit: usize,
}

/// Fetch an artifact's files; each is checked against its digest
#[derive(Debug, clap::Args)]
struct GetArgs {
    /// A digest (its first 12 digits or more), or the job that made it
    #[arg(value_name = "DIGEST|JOB")]
    artifact: String,
    /// Only these files of it
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// The folder to put them in [default: NAME-DIGEST, such as model-5a3cf0918d22]
    #[arg(long, short, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Store an output that could not be stored when its job ended, and make it the job's artifact
///
/// A job whose work was done and whose output could not be stored fails, and its worker keeps the output for 7 days;
/// \"marquee explain JOB\" says where, and why. Mend that, and run this. Jobs that were cancelled for its sake come
/// back.
#[derive(Debug, clap::Args)]
struct RescueArgs {
    job: Target,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    match args.action {
        Action::Ls(args) => ls(args, &remote, session).await,
        Action::Get(args) => get(args, &remote, session).await,
        Action::Rescue(args) => rescue(args, &remote, session).await,
    }
}

async fn ls(args: LsArgs, remote: &Remote, session: &Session) -> Result<()> {
    let job_id = match &args.job {
        Some(job) => job.resolve_job(remote).await?,
        None => 0,
    };
    let pipeline_id = match &args.pipeline {
        Some(pipeline) => pipeline.resolve(remote).await?,
        None => 0,
    };
    let request = v1::ListArtifactsRequest {
        pipeline_id,
        job_id,
        ..v1::ListArtifactsRequest::default()
    };
    let (artifacts, more) = requests::artifacts::list(remote, request, args.limit).await?;
    session.output.show(&Artifacts(&artifacts), clock::now())?;
    if session.output.is_for_people() && more {
        say!("there are more; --limit shows them");
    }
    if session.output.is_for_people() && artifacts.is_empty() {
        say!("no artifacts; each job that succeeds makes one");
    }
    Ok(())
}

async fn get(args: GetArgs, remote: &Remote, session: &Session) -> Result<()> {
    let which = requests::artifacts::which(&args.artifact, remote).await?;
    let artifact = requests::artifacts::find(remote, which).await?;
    let folder = match args.to {
        Some(folder) => folder,
        None => own_folder(&artifact)?,
    };
    let chosen = chosen(&artifact, &args.paths)?;
    let written = download::files(remote, artifact.job_id, chosen, &folder).await?;
    session.output.show(
        &Fetched {
            artifact: &artifact,
            folder,
            written,
        },
        clock::now(),
    )?;
    Ok(())
}

/// The folder for an artifact where none was named: here, and nowhere else, whatever its coordinator calls it.
fn own_folder(artifact: &Artifact) -> Result<PathBuf> {
    let name = format!(
        "{}-{}",
        artifact.name,
        units::short_digest(&artifact.digest)
    );
    // The name comes from outside: one with a slash or with dots in front would lead to another
    // folder.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.starts_with('.') || !name.chars().all(is_plain) {
        return Err(CliError::Usage(format!(
            "the artifact is called {name:?}, which is no name for a folder; name one with --to"
        )));
    }
    Ok(name.into())
}

async fn rescue(args: RescueArgs, remote: &Remote, session: &Session) -> Result<()> {
    let job_id = args.job.resolve_job(remote).await?;
    if session.output.is_for_people() {
        // Before and not after: it may take as long as the upload of a large model.
        say!("job {job_id}: its worker stores the output that it kept");
    }
    let artifact = requests::artifacts::rescue(remote, job_id).await?;
    session.output.show(&Rescued(&artifact), clock::now())?;
    Ok(())
}

/// The part of an artifact that was asked for: all of it, or the files that are named.
fn chosen(artifact: &Artifact, paths: &[String]) -> Result<v1::Manifest> {
    let manifest = artifact.manifest.clone().unwrap_or_default();
    if paths.is_empty() {
        return Ok(manifest);
    }
    let files = &manifest.files;
    let find = |path: &String| {
        files
            .iter()
            .find(|file| &file.path == path)
            .cloned()
            .ok_or_else(|| {
                let has: Vec<&str> = files
                    .iter()
                    .map(|file| file.path.as_str())
                    // Some: an artifact may have thousands.
                    .take(20)
                    .collect();
                CliError::Usage(format!(
                    "{} {} has no file \"{path}\"; it has {}",
                    artifact.name,
                    units::short_digest(&artifact.digest),
                    has.join(", ")
                ))
            })
    };
    let files: Vec<v1::FileEntry> = paths.iter().map(find).collect::<Result<_>>()?;
    let is_chosen = |path: &String| files.iter().any(|file| file.path == *path);
    let executables = manifest.executables.into_iter().filter(is_chosen);
    Ok(v1::Manifest {
        executables: executables.collect(),
        // Who names files wants those alone.
        empty_folders: Vec::new(),
        files,
    })
}

/// An output that became an artifact after all.
struct Rescued<'a>(&'a Artifact);

impl View for Rescued<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        page.line(format!(
            "job {} {} has succeeded: {} {}, {}",
            self.0.job_id,
            self.0.job_name,
            self.0.name,
            units::short_digest(&self.0.digest),
            units::plural(self.0.file_count as usize, "file"),
        ));
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json::artifact(self.0)
    }

    fn ids(&self) -> Vec<String> {
        vec![self.0.digest.clone()]
    }
}

/// What a download left on this machine.
struct Fetched<'a> {
    artifact: &'a Artifact,
    folder: PathBuf,
    written: Vec<PathBuf>,
}

impl View for Fetched<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        page.line(format!(
            "{} {} of job {} {}: {} in {}",
            self.artifact.name,
            units::short_digest(&self.artifact.digest),
            self.artifact.job_id,
            self.artifact.job_name,
            units::plural(self.written.len(), "file"),
            self.folder.display()
        ));
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({
            "artifact": json::artifact(self.artifact),
            "folder": self.folder,
            "files": self.written,
        })
    }

    fn ids(&self) -> Vec<String> {
        self.written
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::v1::FileEntry;

    use super::*;

    #[test]
    fn a_folder_of_its_own_lies_here_whatever_the_artifact_is_called() {
        let named = |name: &str, digest: &str| Artifact {
            name: name.into(),
            digest: digest.into(),
            ..Artifact::default()
        };
        let digest = "5a3cf0918d22".repeat(6);
        let folder = own_folder(&named("model", &digest)).unwrap();
        assert_eq!(folder, PathBuf::from("model-5a3cf0918d22"));
        for odd in [
            "../model",
            "/etc/model",
            "a/b",
            "..",
            ".hidden",
            "a b",
            "a\nb",
            "\u{202e}a",
            "~",
        ] {
            let error = own_folder(&named(odd, &digest)).unwrap_err();
            assert!(error.to_string().contains("--to"), "{odd:?}: {error}");
        }
        assert!(own_folder(&named("model", "../../x")).is_err());
    }

    #[test]
    fn what_was_fetched_and_what_was_rescued_is_told_in_every_format() {
        let artifact = Artifact {
            job_id: 17,
            job_name: "train".into(),
            name: "model".into(),
            digest: "5a3cf0918d22".repeat(6),
            file_count: 1,
            ..Artifact::default()
        };
        let now = clock::now();
        let text = |view: &dyn Fn(&mut Page)| {
            let mut page = Page::default();
            view(&mut page);
            crate::output::terminal::draw(&page, false, None)
        };
        let rescued = Rescued(&artifact);
        assert_eq!(
            text(&|page| rescued.page(page, now)),
            "job 17 train has succeeded: model 5a3cf0918d22, 1 file\n"
        );
        assert_eq!(rescued.ids(), std::slice::from_ref(&artifact.digest));
        let fetched = Fetched {
            artifact: &artifact,
            folder: "out".into(),
            written: vec!["out/a".into(), "out/b".into()],
        };
        assert_eq!(
            text(&|page| fetched.page(page, now)),
            "model 5a3cf0918d22 of job 17 train: 2 files in out\n"
        );
        // Ids for a pipe are what the next program opens.
        assert_eq!(fetched.ids(), ["out/a", "out/b"]);
        let json = fetched.json(now);
        assert_eq!(json["folder"], "out");
        assert_eq!(json["files"], json!(["out/a", "out/b"]));
        assert_eq!(json["artifact"]["digest"], artifact.digest);
    }

    #[test]
    fn a_file_that_is_not_in_it_is_refused_with_those_that_are() {
        let file = |path: &str| FileEntry {
            path: path.into(),
            ..FileEntry::default()
        };
        let artifact = Artifact {
            manifest: Some(v1::Manifest {
                files: vec![file("report.html"), file("report.json")],
                executables: vec!["report.html".into()],
                empty_folders: vec!["logs".into()],
            }),
            ..Artifact::default()
        };
        let one = chosen(&artifact, &["report.json".into()]).unwrap();
        assert_eq!((one.files.len(), one.executables.len()), (1, 0));
        assert_eq!(Some(chosen(&artifact, &[]).unwrap()), artifact.manifest);
        let error = chosen(&artifact, &["report.htm".into()])
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("it has report.html, report.json"),
            "{error}"
        );
    }
}
