//! Listings of jobs, a page at a time.

use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::limits::{HOST_TEXT_MAX_BYTES, NAME_MAX_BYTES};
use marquee_domain::spec::JobKind;
use marquee_domain::users::Role;
use marquee_proto::convert::{self, BadField};
use marquee_proto::v1;
use marquee_store::jobs::{self, Job, JobFilter};
use marquee_store::listing::{self, Wanted};
use tonic::Status;

use super::reasons;
use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;

const PAGE_SIZE_DEFAULT: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1_000;
/// Jobs are counted up to so many: a person reads "10,000 or more".
const TOTAL_MAX: usize = 10_000;
/// Bytes of words that are looked for in two names.
const TEXT_MAX_BYTES: usize = 2 * NAME_MAX_BYTES + 2;

/// One page of a listing.
pub(super) async fn page(
    app: &App,
    request: &v1::ListJobsRequest,
    caller: &Caller,
) -> Result<v1::ListJobsResponse, Status> {
    let (mut filter, size) = filter(request)?;
    narrow(&mut filter, caller);
    if let (Some(array), Some(index)) = (filter.array, request.array_index) {
        filter.among = Some(element(app, array, index).await?.into_iter().collect());
    }
    let wanted = wanted(request)?;
    let (mut jobs, total) = read(app, &filter, &wanted, size + 1, request.with_total).await?;
    // One more than the page tells whether another one follows.
    let more = jobs.len() > size;
    jobs.truncate(size);
    let last = jobs.last().filter(|_| more);
    Ok(v1::ListJobsResponse {
        next_page_token: last.map(|job| job.id.to_string()).unwrap_or_default(),
        total: u32::try_from(total).unwrap_or(u32::MAX),
        jobs: reasons::with_reasons(app, jobs),
    })
}

/// Leaves what the caller may look at.
pub(super) fn narrow(filter: &mut JobFilter, caller: &Caller) {
    let Some(seen) = caller.projects(Role::Viewer) else {
        return;
    };
    filter.projects = Some(match filter.projects.take() {
        None => seen,
        Some(mut asked) => {
            asked.retain(|project| seen.contains(project));
            asked
        }
    });
}

async fn element(app: &App, array: JobId, index: u32) -> Result<Option<JobId>, LifecycleError> {
    let mut conn = app.db.read().await?;
    Ok(jobs::find_element(&mut conn, array, index).await?)
}

async fn read(
    app: &App,
    filter: &JobFilter,
    wanted: &Wanted,
    limit: usize,
    with_total: bool,
) -> Result<(Vec<Job>, usize), LifecycleError> {
    let mut conn = app.db.read().await?;
    // Without words to look for, one statement does. Else ids are found first, from narrow rows, and read
    // afterwards.
    let is_plain = wanted.text.is_none() && wanted.worker_name.is_none() && !with_total;
    if is_plain {
        return Ok((jobs::list_jobs(&mut conn, filter, limit).await?, 0));
    }
    // Counted from the beginning and not from this page on: the number must not change while somebody turns
    // pages.
    let total = if with_total {
        let all = JobFilter {
            before: None,
            ..filter.clone()
        };
        listing::list_job_ids(&mut conn, &all, wanted, TOTAL_MAX)
            .await?
            .len()
    } else {
        0
    };
    let ids = listing::list_job_ids(&mut conn, filter, wanted, limit).await?;
    let found = JobFilter {
        among: Some(ids),
        ..JobFilter::default()
    };
    Ok((jobs::list_jobs(&mut conn, &found, limit).await?, total))
}

fn wanted(request: &v1::ListJobsRequest) -> Result<Wanted, BadField> {
    let some = |field, text: &str, max| {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        convert::text(field, text.to_owned(), max).map(Some)
    };
    Ok(Wanted {
        text: some("text", &request.text, TEXT_MAX_BYTES)?,
        worker_name: some("worker_name", &request.worker_name, HOST_TEXT_MAX_BYTES)?,
    })
}

/// Reads which jobs a listing is about, and how many fit on its page.
fn filter(request: &v1::ListJobsRequest) -> Result<(JobFilter, usize), BadField> {
    let states: Result<Vec<_>, _> = request.states().map(JobStateName::try_from).collect();
    let kinds: Result<Vec<_>, _> = request.kinds().map(JobKind::try_from).collect();
    let some = |id: i64| (id != 0).then_some(id);
    let token = request.page_token.as_str();
    let before = (!token.is_empty()).then(|| token.parse()).transpose();
    let filter = JobFilter {
        pipeline: some(request.pipeline_id).map(PipelineId),
        array: some(request.array_job_id).map(JobId),
        ids: None,
        among: None,
        states: Some(states?).filter(|states| !states.is_empty()),
        kinds: Some(kinds?).filter(|kinds| !kinds.is_empty()),
        projects: Some(vec![request.project.clone()]).filter(|_| !request.project.is_empty()),
        before: before
            .map_err(|_| BadField::invalid("page_token", "it is from no earlier page"))?,
    };
    let size = match request.page_size {
        0 => PAGE_SIZE_DEFAULT,
        size if size <= PAGE_SIZE_MAX => size,
        size => {
            let why = format!("{size} is more than {PAGE_SIZE_MAX}; ask for several pages");
            return Err(BadField::invalid("page_size", why));
        }
    };
    Ok((filter, size as usize))
}
