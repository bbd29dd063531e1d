//! `marquee rm`.

use std::io::{BufRead as _, IsTerminal as _};

use chrono::{DateTime, Utc};
use marquee_proto::v1::{self, get_artifact_request, remove_artifact_request};
use marquee_view::{Page, View, units};
use serde_json::{Value, json};

use crate::client::{Remote, Repeat, patient};
use crate::error::{CliError, Result};
use crate::say::say;
use crate::session::Session;
use crate::target::{Resolved, Target};
use crate::{clock, requests};

/// Delete pipelines that have ended, or artifacts, with the files that nothing else needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee rm p3                   the pipeline: jobs, logs, metrics, checkpoints, artifacts
  marquee rm 5a3cf0918d22         one artifact; the job that made it stays in the lists
  marquee rm p3 p4 --dry-run      only say what would go

What an open job needs stays, and the answer says who needs it. There is no way back.")]
pub(super) struct Args {
    /// Pipelines (p3), artifacts by digest (its first 12 digits or more), or jobs, whose artifact is meant
    #[arg(required = true, value_name = "PIPELINE|ARTIFACT")]
    targets: Vec<String>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    // All names first: with a slip in one of them nothing is removed.
    let mut wanted = Vec::new();
    for target in &args.targets {
        wanted.push((target.clone(), resolve(target, &remote).await?));
    }
    if args.dry_run || !args.yes {
        let mut would = Vec::new();
        remove_all(&remote, &wanted, true, &mut would).await?;
        if args.dry_run {
            session.output.show(&Went(&would, true), clock::now())?;
            return Ok(());
        }
        say!("{}", Went(&would, true).words());
        confirm()?;
    }
    let mut gone = Vec::new();
    let all = remove_all(&remote, &wanted, false, &mut gone).await;
    // There is no way back: also where something stays, it is said what went.
    if all.is_ok() || !gone.is_empty() {
        session.output.show(&Went(&gone, false), clock::now())?;
    }
    all
}

#[derive(Debug, Clone)]
enum Thing {
    Pipeline(i64),
    Artifact(get_artifact_request::Which),
}

async fn resolve(text: &str, remote: &Remote) -> Result<Thing> {
    // Pipelines by number alone: a name is a job's here, whose artifact is meant, and there is no
    // way back from a guess.
    if let Ok(target @ Target::Pipeline(_)) = text.parse::<Target>()
        && let Resolved::Pipeline(id) = target.resolve(remote).await?
    {
        return Ok(Thing::Pipeline(id));
    }
    let which = requests::artifacts::which(text, remote).await?;
    Ok(Thing::Artifact(which))
}

type Removals = Vec<(String, v1::Removed)>;

async fn remove_all(
    remote: &Remote,
    wanted: &[(String, Thing)],
    dry_run: bool,
    removed: &mut Removals,
) -> Result<()> {
    for (name, thing) in wanted {
        removed.push((name.clone(), remove(remote, thing, dry_run).await?));
    }
    Ok(())
}

async fn remove(remote: &Remote, thing: &Thing, dry_run: bool) -> Result<v1::Removed> {
    match thing {
        Thing::Pipeline(id) => {
            let request = v1::RemovePipelineRequest { id: *id, dry_run };
            remote
                // Not sent twice: the second would find nothing, and call what went well a failure.
                .call(Repeat::Unsafe, async || {
                    remote.jobs().remove_pipeline(patient(request)).await
                })
                .await
        }
        Thing::Artifact(which) => {
            use get_artifact_request::Which;
            let which = match which.clone() {
                Which::Digest(digest) => remove_artifact_request::Which::Digest(digest),
                Which::JobId(id) => remove_artifact_request::Which::JobId(id),
            };
            let request = v1::RemoveArtifactRequest {
                which: Some(which),
                dry_run,
            };
            remote
                // As with a pipeline: a second one finds nothing.
                .call(Repeat::Unsafe, async || {
                    remote
                        .artifacts()
                        .remove_artifact(patient(request.clone()))
                        .await
                })
                .await
        }
    }
}

/// Asks at a terminal; elsewhere nobody can answer.
fn confirm() -> Result<()> {
    if !std::io::stdin().is_terminal() {
        let text = "nothing was removed: nobody can be asked here; --yes removes without asking";
        return Err(CliError::Usage(text.to_owned()));
    }
    say!("remove it for good? type yes");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(CliError::Usage("nothing was removed".to_owned()))
}

/// What went, or would go.
struct Went<'a>(&'a Removals, bool);

impl Went<'_> {
    fn words(&self) -> String {
        let lines = self.0.iter().map(|(name, removed)| {
            let verb = if self.1 { "would remove" } else { "removed" };
            let count = |number: u64, what| {
                units::plural(usize::try_from(number).unwrap_or(usize::MAX), what)
            };
            let jobs = if removed.jobs > 0 {
                format!("{}, ", count(removed.jobs, "job"))
            } else {
                String::new()
            };
            format!(
                "{name}: {verb} {jobs}{}, {} of {}",
                count(removed.artifacts, "artifact"),
                count(removed.files, "file"),
                units::bytes(removed.bytes)
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl View for Went<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        page.line(self.words());
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let one = |(name, removed): &(String, v1::Removed)| {
            json!({
                "name": name,
                "dry_run": self.1,
                "jobs": removed.jobs,
                "artifacts": removed.artifacts,
                "files": removed.files,
                "bytes": removed.bytes,
            })
        };
        self.0.iter().map(one).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_is_told_by_name_with_what_went_along() {
        let went = vec![
            (
                "p3".to_owned(),
                v1::Removed {
                    jobs: 1,
                    artifacts: 2,
                    files: 0,
                    bytes: 1_536,
                },
            ),
            // An artifact takes no job along.
            (
                "5a3cf0918d22".to_owned(),
                v1::Removed {
                    jobs: 0,
                    artifacts: 1,
                    files: u64::MAX,
                    bytes: u64::MAX,
                },
            ),
        ];
        let view = Went(&went, true);
        let words = view.words();
        let lines: Vec<&str> = words.lines().collect();
        assert_eq!(
            lines[0],
            "p3: would remove 1 job, 2 artifacts, 0 files of 1.5 KiB"
        );
        assert!(lines[1].starts_with("5a3cf0918d22: would remove 1 artifact, "));
        assert!(Went(&went, false).words().starts_with("p3: removed 1 job"));
        assert_eq!(view.ids(), ["p3", "5a3cf0918d22"]);
        let json = view.json(clock::now());
        assert_eq!(json[0]["dry_run"], true);
        assert_eq!(json[1]["bytes"], u64::MAX);
        assert_eq!(Went(&Vec::new(), false).json(clock::now()), json!([]));
    }

    #[test]
    fn where_nobody_can_be_asked_nothing_is_removed() {
        // The test's stdin is no terminal.
        let error = confirm().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--yes"), "{error}");
    }
}
