//! A bench from its plan to its results, on whatever cluster it is given.

use marquee_proto::v1::{self, document};
use uuid::Uuid;

use super::devices::available;
use super::gather::gather;
use super::plan::{BenchPlan, Source};
use super::shown::Shown;
use crate::client::Remote;
use crate::error::{CliError, Result};
use crate::say::say;
use crate::{progress, requests, watch};

/// Fills in the devices of the cluster where the user named none.
pub(crate) async fn choose_devices(plan: &mut BenchPlan, remote: &Remote) -> Result<()> {
    if !plan.devices.is_empty() {
        return Ok(());
    }
    let workers = requests::workers::list(remote).await?;
    plan.devices = available(&workers);
    if plan.devices.is_empty() {
        return Err(CliError::Usage(
            "no worker is online, so there is no device to measure; \"marquee workers\" lists them"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Submits the bench; returns its pipeline.
pub(crate) async fn start(remote: &Remote, plan: &BenchPlan, source: &Source) -> Result<i64> {
    let document = v1::Document {
        format: Some(document::Format::Json(plan.document(source).to_string())),
    };
    // One id for all tries: where an answer was lost, the second try is not a second bench.
    let request_id = Uuid::new_v4().to_string();
    let submitted = requests::jobs::submit(remote, document, plan.overrides(), request_id).await?;
    let id = submitted.pipeline_id;
    say!(
        "pipeline p{id}: {} cases, {} jobs one after the other",
        plan.cases().len(),
        submitted.jobs.len()
    );
    Ok(id)
}

/// Follows a bench to its end and shows what it measured, even if not all of it went well.
pub(crate) async fn finish(remote: &Remote, id: i64, shown: &Shown) -> Result<()> {
    let request = v1::WatchRequest {
        pipeline_id: id,
        ..v1::WatchRequest::default()
    };
    let mut reporter = progress::to_stderr();
    let jobs = watch::until_ended(remote, request, reporter.as_mut()).await?;
    // Figures before the verdict: one case that ran out of memory must not hide what the others
    // measured.
    shown.show(&gather(remote, id).await?)?;
    watch::verdict(&jobs)
}
