//! `marquee gc` and `marquee keep`.

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use marquee_view::{Page, View, left, right, units};
use serde_json::{Value, json};

use crate::client::{Remote, Repeat, patient, quick};
use crate::error::{CliError, Result};
use crate::session::Session;
use crate::target::Target;
use crate::{clock, requests};

/// Let go of what has had its time: pipelines, logs and metrics by what their projects say, and files that nothing names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee gc --dry-run                        what would go, and what stays beyond its time
  marquee gc                                  does now what happens by itself every hour
  marquee project set vision --keep-days 90   pipelines of vision go 90 days after their end

A project keeps everything unless --keep-days or --keep-log-days of \"marquee project set\" says for how long.
What somebody keeps (marquee keep p3) stays, and so does every pipeline of which another one that stays took
an artifact. There is no way back.")]
pub(super) struct GcArgs {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// Keep pipelines for good, whatever their projects say
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee keep p3
  marquee keep p3 p4 --lift      they age again

What is kept does not age out, and \"marquee rm\" refuses it. What it took its artifacts from does not age
out either.")]
pub(super) struct KeepArgs {
    /// Pipelines (p3), or jobs, whose pipeline is meant
    #[arg(required = true, value_name = "PIPELINE")]
    targets: Vec<Target>,
    /// Keep them no longer
    #[arg(long)]
    lift: bool,
}

pub(super) async fn gc(args: GcArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    let mut steps = Vec::new();
    let mut after = 0;
    loop {
        let step = step(&remote, args.dry_run, after).await?;
        let next = step.next_pipeline_id;
        if next != 0 && next <= after {
            // It would be asked for the same for ever.
            return Err(CliError::Other(anyhow::anyhow!(
                "the coordinator says to go on after pipeline p{next}, where it was asked after p{after} already; what was \
                 done until there is done: look at the coordinator's log, and run this again"
            )));
        }
        after = next;
        steps.push(step);
        if after == 0 {
            break;
        }
    }
    session
        .output
        .show(&Collected(&steps, args.dry_run), clock::now())?;
    Ok(())
}

async fn step(
    remote: &Remote,
    dry_run: bool,
    after_pipeline_id: i64,
) -> Result<v1::CollectGarbageResponse> {
    let request = v1::CollectGarbageRequest {
        dry_run,
        after_pipeline_id,
    };
    remote
        // The second goes on with what is left. What the first one removed stood in its answer
        // alone: it is missing from the sum then, and from nothing else.
        .call(Repeat::Safe, async || {
            remote.jobs().collect_garbage(patient(request)).await
        })
        .await
}

pub(super) async fn keep(args: KeepArgs, session: &Session) -> Result<()> {
    let remote = session.remote()?;
    // All names first: a slip in the last one must not leave the others changed.
    let mut ids = Vec::with_capacity(args.targets.len());
    for target in &args.targets {
        ids.push(target.resolve_pipeline(&remote).await?);
    }
    for id in ids {
        let request = v1::KeepPipelineRequest {
            id,
            lift: args.lift,
        };
        remote
            .call(Repeat::Safe, async || {
                remote.jobs().keep_pipeline(quick(request)).await
            })
            .await?;
        let pipeline = requests::jobs::get_pipeline(&remote, id).await?;
        session
            .output
            .show(&marquee_view::pipeline::Pipeline(&pipeline), clock::now())?;
    }
    Ok(())
}

/// What went, or would go.
struct Collected<'a>(&'a [v1::CollectGarbageResponse], bool);

impl Collected<'_> {
    fn pipelines(&self) -> impl Iterator<Item = &v1::RetiredPipeline> {
        self.0.iter().flat_map(|step| &step.pipelines)
    }

    fn sum(&self, of: impl Fn(&v1::CollectGarbageResponse) -> u64) -> u64 {
        self.0.iter().map(of).fold(0, u64::saturating_add)
    }
}

fn ended(pipeline: &v1::RetiredPipeline) -> String {
    let at = units::time(pipeline.ended_at.as_ref());
    at.map(|at| at.format("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default()
}

fn count(number: u64, what: &str) -> String {
    units::plural(usize::try_from(number).unwrap_or(usize::MAX), what)
}

impl View for Collected<'_> {
    fn page(&self, page: &mut Page, _now: DateTime<Utc>) {
        let removed = |one: &v1::RetiredPipeline| one.removed.unwrap_or_default();
        let going: Vec<_> = self
            .pipelines()
            .filter(|one| one.stays.is_empty())
            .collect();
        if !going.is_empty() {
            let heads = [
                left("PIPELINE"),
                left("ENDED (UTC)"),
                right("JOBS"),
                right("ARTIFACTS"),
                right("BYTES"),
            ];
            let rows = going.iter().map(|one| {
                let gone = removed(one);
                vec![
                    format!("p{} {}", one.id, one.name).into(),
                    ended(one).into(),
                    gone.jobs.to_string().into(),
                    gone.artifacts.to_string().into(),
                    units::bytes(gone.bytes).into(),
                ]
            });
            page.table(heads, rows.collect());
        }
        let staying: Vec<_> = self
            .pipelines()
            .filter(|one| !one.stays.is_empty())
            .collect();
        if !staying.is_empty() {
            page.heading("Beyond their time, and here to stay");
            for one in staying {
                page.line(format!("p{} {}: {}", one.id, one.name, one.stays));
            }
        }
        let verb = if self.1 { "would remove" } else { "removed" };
        page.line(format!(
            "{verb} {}, the logs and metrics of {}, and {} of {} that nothing names",
            count(going.len() as u64, "pipeline"),
            count(self.sum(|step| step.logs_of_jobs), "other job"),
            count(self.sum(|step| step.unnamed_files), "file"),
            units::bytes(self.sum(|step| step.unnamed_bytes)),
        ));
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        let one = |one: &v1::RetiredPipeline| {
            let gone = one.removed.unwrap_or_default();
            json!({
                "id": one.id,
                "name": one.name,
                "ended_at": units::time(one.ended_at.as_ref()).map(units::rfc3339),
                "stays": (!one.stays.is_empty()).then_some(&one.stays),
                "jobs": gone.jobs,
                "artifacts": gone.artifacts,
                "files": gone.files,
                "bytes": gone.bytes,
            })
        };
        json!({
            "dry_run": self.1,
            "pipelines": self.pipelines().map(one).collect::<Vec<_>>(),
            "logs_of_jobs": self.sum(|step| step.logs_of_jobs),
            "unnamed_files": self.sum(|step| step.unnamed_files),
            "unnamed_bytes": self.sum(|step| step.unnamed_bytes),
        })
    }

    fn ids(&self) -> Vec<String> {
        let going = self.pipelines().filter(|one| one.stays.is_empty());
        going.map(|one| format!("p{}", one.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::terminal;

    fn retired(id: i64, stays: &str) -> v1::RetiredPipeline {
        v1::RetiredPipeline {
            id,
            name: format!("n{id}"),
            stays: stays.into(),
            removed: (id != 5).then_some(v1::Removed {
                jobs: 2,
                ..v1::Removed::default()
            }),
            ..v1::RetiredPipeline::default()
        }
    }

    fn text(view: &Collected<'_>) -> String {
        terminal::draw(&Page::of(view, clock::now()), false, None)
    }

    #[test]
    fn what_stays_is_told_with_its_reason_and_is_not_among_what_goes() {
        let steps = [
            v1::CollectGarbageResponse {
                pipelines: vec![retired(3, ""), retired(4, "p9 took its model")],
                unnamed_files: 1,
                ..v1::CollectGarbageResponse::default()
            },
            v1::CollectGarbageResponse {
                pipelines: vec![retired(5, "")],
                unnamed_files: 2,
                unnamed_bytes: 1_024,
                logs_of_jobs: 1,
                ..v1::CollectGarbageResponse::default()
            },
        ];
        let view = Collected(&steps, true);
        assert_eq!(view.ids(), ["p3", "p5"]);
        let text = text(&view);
        assert!(text.contains("p4 n4: p9 took its model"), "{text}");
        assert!(
            text.contains(
                "would remove 2 pipelines, the logs and metrics of 1 other job, and 3 files of 1.0 KiB that nothing names"
            ),
            "{text}"
        );
        let json = view.json(clock::now());
        assert_eq!(json["pipelines"][0]["stays"], Value::Null);
        assert_eq!(json["pipelines"][1]["stays"], "p9 took its model");
        // One that says nothing of what went.
        assert_eq!(json["pipelines"][2]["jobs"], 0);
        assert_eq!(json["pipelines"][2]["ended_at"], Value::Null);
    }

    #[test]
    fn nothing_is_one_line() {
        let nothing = [v1::CollectGarbageResponse::default()];
        let text = text(&Collected(&nothing, false));
        assert_eq!(text.trim().lines().count(), 1, "{text}");
        assert!(text.starts_with("removed 0 pipelines"), "{text}");
    }
}
