//! The demo: all of Marquee in a folder of its own, a catalogue of generated films to fetch from,
//! and the poster pipeline through the same doors that a user's own would take.
//!
//! Not here: any shortcut. What it shows came over HTTP, gRPC and the collectives.

pub(crate) mod catalogue;
mod failure;
mod folder;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use marquee_proto::v1::{self, document, get_artifact_request::Which};
use marquee_view::report::Summary;
use marquee_view::{View as _, units, words};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::client::Remote;
use crate::cluster::{ClusterOptions, Layout, LocalCluster, free_port};
use crate::error::{CliError, Result};
use crate::output::Output;
use crate::report::gather;
use crate::requests::download;
use crate::say::{self, say};
use crate::signals::Signals;
use crate::{clock, progress, requests, watch};

pub(crate) use folder::Folder;

/// The pipeline, as a user would submit it.
const PIPELINE: &str = include_str!("../../examples/posters.toml");
/// Two hosts' worth of workers, so that gradients really cross a process border.
const WORKERS: u32 = 2;

/// What the user chose.
#[derive(Debug)]
pub(crate) struct Demo {
    pub films: u32,
    pub keep: bool,
    pub json: bool,
    pub overrides: Vec<v1::Override>,
}

impl Demo {
    /// Runs the demo and stops everything, whatever happens.
    pub(crate) async fn run(&self, folder: &Folder, output: Output) -> Result<()> {
        let mut signals = Signals::catch()?;
        let options = ClusterOptions {
            // Not the usual port: a cluster of the user's own may be there, which the demo must
            // neither disturb nor meet.
            listen: free_port(([127, 0, 0, 1], 0).into())?,
            workers: WORKERS,
            slots_per_worker: 1,
            threads_per_slot: 1,
        };
        let mut cluster = LocalCluster::new(Layout::lock(folder.data())?, options)?;
        // No `?` from here to the stop, so that whatever happens the daemons are ended in order.
        let outcome = tokio::select! {
            outcome = self.show(&mut cluster, folder, output) => outcome,
            () = signals.next() => Err(CliError::Interrupted { hint: None }),
        };
        let outcome = match outcome {
            Ok(()) if self.keep => self.stay(&mut cluster, folder, &mut signals).await,
            outcome => outcome,
        };
        say!("stopping");
        cluster.stop(&mut signals).await;
        outcome
    }

    async fn show(
        &self,
        cluster: &mut LocalCluster,
        folder: &Folder,
        output: Output,
    ) -> Result<()> {
        let started = Instant::now();
        say!(
            "starting a coordinator, its Postgres and {WORKERS} workers in {}",
            folder.data().display()
        );
        cluster.start().await?;
        say!(
            "starting a film catalogue with {} generated posters",
            units::count(self.films.into())
        );
        let (catalogue, api_url) = catalogue::start(cluster.layout(), self.films).await?;
        cluster.keep(catalogue);
        let remote = Remote::new(cluster.place())?;
        let summary = tokio::select! {
            summary = self.pipeline(&remote, &api_url) => summary?,
            gave_up = cluster.supervise() => match gave_up {
                Err(error) => return Err(error),
                Ok(never) => match never {},
            },
        };
        let report = fetch_report(&remote, &summary, folder).await?;
        self.print(&summary, &report, started.elapsed(), output)
    }

    /// From the submission to the figures.
    async fn pipeline(&self, remote: &Remote, api_url: &str) -> Result<Summary> {
        let document = v1::Document {
            format: Some(document::Format::Toml(PIPELINE.to_owned())),
        };
        let source = v1::Override {
            path: "jobs.fetch.source.api_url".to_owned(),
            // Quoted as a TOML string: text of an address could be read as something else.
            value: Value::from(api_url).to_string(),
        };
        let overrides = std::iter::once(source)
            .chain(self.overrides.iter().cloned())
            .collect();
        let submitted =
            requests::jobs::submit(remote, document, overrides, Uuid::new_v4().to_string()).await?;
        let id = submitted.pipeline_id;
        say!("submitted examples/posters.toml as pipeline p{id}");
        let request = v1::WatchRequest {
            pipeline_id: id,
            ..v1::WatchRequest::default()
        };
        let mut reporter = progress::to_stderr();
        let jobs = watch::until_ended(remote, request, reporter.as_mut()).await?;
        if !words::all_succeeded(&jobs) {
            failure::explain(remote, &jobs).await;
            return Err(CliError::JobsFailed(
                "the demo's pipeline did not succeed; why stands above".to_owned(),
            ));
        }
        gather(remote, id).await
    }

    fn print(
        &self,
        summary: &Summary,
        report: &Path,
        took: Duration,
        output: Output,
    ) -> Result<()> {
        if self.json {
            let mut json = summary.json(clock::now());
            json["seconds"] = took.as_secs_f64().into();
            json["report"] = report.display().to_string().into();
            // On stderr: stdout is for the JSON alone.
            say::page(&output.page(summary, clock::now()));
            output.text(&format!("{json}\n"))?;
        } else {
            output.text(&output.page(summary, clock::now()))?;
        }
        say!("\nthe whole report, with posters: {}", report.display());
        say!("the demo took {}", units::duration(took));
        Ok(())
    }

    /// Leaves it running until the user has seen enough.
    async fn stay(
        &self,
        cluster: &mut LocalCluster,
        folder: &Folder,
        signals: &mut Signals,
    ) -> Result<()> {
        say!("\nit stays running; look around from another terminal:");
        say!("  export MARQUEE_ADDR={}", cluster.addr());
        for line in [
            "jobs",
            "show train",
            "metrics train",
            "logs fetch --tail 20",
            "artifacts ls",
            "workers",
        ] {
            say!("  marquee {line}");
        }
        say!(
            "daemons' logs are in {}",
            folder.data().join("log").display()
        );
        say!(
            "stop it with Ctrl-C here, or with: kill {}",
            std::process::id()
        );
        tokio::select! {
            gave_up = cluster.supervise() => match gave_up {
                Err(error) => Err(error),
                Ok(never) => match never {},
            },
            () = signals.next() => Ok(()),
        }
    }
}

/// Brings the report to where it outlives the demo, and returns the path of the page to open.
async fn fetch_report(remote: &Remote, summary: &Summary, folder: &Folder) -> Result<PathBuf> {
    let job = summary
        .main_eval()
        .context("the pipeline has no eval job")?
        .job_id;
    let artifact = requests::artifacts::find(remote, Which::JobId(job)).await?;
    let manifest = artifact.manifest.unwrap_or_default();
    let to = folder.report()?;
    let written = download::files(remote, job, manifest, &to).await?;
    let page = written
        .into_iter()
        .find(|path| path.ends_with("report.html"));
    Ok(page.context("the report artifact has no report.html")?)
}
