//! What would be if a job asked for something else.

use marquee_domain::ids::JobId;
use marquee_domain::limits::RANKS_MAX;
use marquee_domain::resources::DeviceKind;
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_store::jobs;
use tonic::Status;

use crate::app::App;
use crate::forecast::{self, Change};
use crate::index::Expected;
use crate::lifecycle::LifecycleError;

/// Priorities, and seconds of a time limit, as documents may have them.
const PRIORITIES: std::ops::RangeInclusive<i32> = -1_000..=1_000;
const TIMEOUTS_S: std::ops::RangeInclusive<u32> = 1..=365 * 24 * 3_600;

pub(super) async fn look(
    app: &App,
    request: v1::WhatIfRequest,
) -> Result<v1::WhatIfResponse, Status> {
    let job = JobId(request.job_id);
    let change = change(app, job, &request).await?;
    let found = forecast::what_if(app, job, change).await?;
    let now = app.clock.now();
    let encode = |expected: Expected| v1::Forecast {
        said_at: Some(timestamp(now)),
        expected_at: Some(timestamp(expected.at)),
        likely_by: Some(timestamp(expected.by)),
        basis: expected.basis,
    };
    let (start, no_start) = apart(found.start);
    let (end, no_end) = apart(found.end);
    Ok(v1::WhatIfResponse {
        ranks: found.ranks,
        start: start.map(encode),
        no_start,
        end: end.map(encode),
        no_end,
    })
}

fn apart(found: Result<Expected, String>) -> (Option<Expected>, String) {
    match found {
        Ok(expected) => (Some(expected), String::new()),
        Err(why) => (None, why),
    }
}

async fn change(app: &App, job: JobId, request: &v1::WhatIfRequest) -> Result<Change, Status> {
    let devices = match (request.gpus, request.cpu_slots) {
        (Some(_), Some(_)) => {
            let why = "a job has GPUs or CPU slots, not both";
            return Err(BadField::invalid("gpus", why).into());
        }
        (Some(gpus), None) => Some(("gpus", gpus, DeviceKind::Gpu)),
        (None, Some(slots)) => Some(("cpu_slots", slots, DeviceKind::Cpu)),
        (None, None) => None,
    };
    let ranks = match devices {
        None => request.ranks,
        Some((field, count, _)) => {
            let mut conn = app.db.read().await.map_err(LifecycleError::from)?;
            let spec = jobs::get_job_spec(&mut conn, job)
                .await
                .map_err(LifecycleError::from)?;
            let per_rank = spec.resources.devices_per_rank.max(1);
            if request.ranks.is_some() || count % per_rank != 0 {
                let why = format!(
                    "{count} is to be a multiple of {per_rank}, the devices of each of its ranks, and instead of ranks"
                );
                return Err(BadField::invalid(field, why).into());
            }
            Some(count / per_rank)
        }
    };
    if let Some(ranks) = ranks.filter(|ranks| !(1..=RANKS_MAX).contains(ranks)) {
        let why = format!("{ranks} is out of range; give 1 to {RANKS_MAX}");
        return Err(BadField::invalid("ranks", why).into());
    }
    if let Some(priority) = request
        .priority
        .filter(|priority| !PRIORITIES.contains(priority))
    {
        let why = format!("{priority} is out of range; give -1000 to 1000");
        return Err(BadField::invalid("priority", why).into());
    }
    if let Some(seconds) = request
        .timeout_s
        .filter(|seconds| !TIMEOUTS_S.contains(seconds))
    {
        let why = format!("{seconds} s is out of range; give up to a year");
        return Err(BadField::invalid("timeout_s", why).into());
    }
    Ok(Change {
        ranks,
        device: devices.map(|(_, _, device)| device),
        priority: request.priority,
        timeout_s: request.timeout_s,
    })
}
