//! Listings of jobs, a page at a time.

use marquee_domain::ids::{JobId, PipelineId};
use marquee_domain::job::JobStateName;
use marquee_domain::limits::{HOST_TEXT_MAX_BYTES, NAME_MAX_BYTES};
use marquee_domain::spec::JobKind;
use marquee_domain::users::Role;
use marquee_proto::convert::{self, BadField};
use marquee_proto::v1;
use marquee_store::elements;
use marquee_store::jobs::{self, Job, JobFilter};
use marquee_store::listing::{self, Wanted};
use tonic::Status;

use super::reasons;
use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::{self, LifecycleError};

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
        let element = element(app, &filter, array, index).await?;
        filter.among = Some(element.into_iter().collect());
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

async fn element(
    app: &App,
    filter: &JobFilter,
    array: JobId,
    index: u32,
) -> Result<Option<JobId>, LifecycleError> {
    let mut conn = app.db.read().await?;
    if let Some(element) = elements::find_element(&mut conn, array, index).await? {
        return Ok(Some(element));
    }
    // It may be to come, and becomes a job when somebody who may look at it names it.
    let projects = jobs::list_job_projects(&mut conn, &[array]).await?;
    drop(conn);
    let is_seen = |(_, project): &(JobId, String)| {
        let seen = filter.projects.as_ref();
        seen.is_none_or(|seen| seen.contains(project))
    };
    if !projects.iter().any(is_seen) {
        return Ok(None);
    }
    lifecycle::line_up_to(app, array, index).await
}

async fn read(
    app: &App,
    filter: &JobFilter,
    wanted: &Wanted,
    limit: usize,
    with_total: bool,
) -> Result<(Vec<Job>, usize), LifecycleError> {
    let mut conn = app.db.read().await?;
    // Ids are found first, from narrow rows, and read afterwards. They are counted from the beginning and not from this
    // page on: the number must not change while somebody turns pages.
    let all = JobFilter {
        before: None,
        ..filter.clone()
    };
    let ids = if with_total {
        listing::list_job_ids(&mut conn, &all, wanted, TOTAL_MAX).await?
    } else {
        vec![]
    };
    let total = ids.len();
    // The first page is the beginning of what was counted.
    let on_page = if with_total && filter.before.is_none() && limit <= TOTAL_MAX {
        ids.into_iter().take(limit).collect()
    } else {
        listing::list_job_ids(&mut conn, filter, wanted, limit).await?
    };
    let found = JobFilter {
        among: Some(on_page),
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
    // Word by word: one that a newer client knows, and this version does not, must not be passed over. Left out of the
    // list it would mean any.
    let state = |word: &i32| match v1::JobState::try_from(*word) {
        Ok(state) => JobStateName::try_from(state),
        Err(_) => Err(unknown("states", *word)),
    };
    let kind = |word: &i32| match v1::JobKind::try_from(*word) {
        Ok(kind) => JobKind::try_from(kind),
        Err(_) => Err(unknown("kinds", *word)),
    };
    let states: Result<Vec<_>, _> = request.states.iter().map(state).collect();
    let kinds: Result<Vec<_>, _> = request.kinds.iter().map(kind).collect();
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

fn unknown(field: &'static str, word: i32) -> BadField {
    let why = format!("{word} is none that this version knows; is this \"marquee\" newer?");
    BadField::invalid(field, why)
}

#[cfg(test)]
mod tests {
    use marquee_proto::v1::{JobKind as Kind, JobState as State};

    use super::*;

    fn asked(change: impl FnOnce(&mut v1::ListJobsRequest)) -> v1::ListJobsRequest {
        let mut request = v1::ListJobsRequest::default();
        change(&mut request);
        request
    }

    #[test]
    fn a_request_that_says_nothing_lists_the_newest_of_everything() {
        let (filter, size) = filter(&v1::ListJobsRequest::default()).unwrap();
        assert_eq!(size, PAGE_SIZE_DEFAULT as usize);
        assert!(filter.pipeline.is_none() && filter.array.is_none() && filter.before.is_none());
        assert!(filter.states.is_none() && filter.kinds.is_none() && filter.projects.is_none());
        let wanted = wanted(&v1::ListJobsRequest::default()).unwrap();
        assert!(wanted.text.is_none() && wanted.worker_name.is_none());
    }

    #[test]
    fn each_part_narrows_the_list() {
        let request = asked(|request| {
            request.pipeline_id = 3;
            request.array_job_id = 4;
            request.states = vec![State::Failed.into(), State::Cancelled.into()];
            request.kinds = vec![Kind::Eval.into()];
            request.project = "vision".into();
            request.page_token = "77".into();
            request.page_size = PAGE_SIZE_MAX;
        });
        let (filter, size) = filter(&request).unwrap();
        assert_eq!(filter.pipeline, Some(PipelineId(3)));
        assert_eq!(filter.array, Some(JobId(4)));
        let states = vec![JobStateName::Failed, JobStateName::Cancelled];
        assert_eq!(filter.states, Some(states));
        assert_eq!(filter.kinds, Some(vec![JobKind::Eval]));
        assert_eq!(filter.projects, Some(vec!["vision".to_owned()]));
        assert_eq!(filter.before, Some(JobId(77)));
        assert_eq!(size, PAGE_SIZE_MAX as usize);
    }

    #[test]
    fn what_no_client_of_ours_sends_is_refused_by_its_name() {
        type Change = fn(&mut v1::ListJobsRequest);
        let cases: [(Change, &str); 10] = [
            (|r| r.page_size = PAGE_SIZE_MAX + 1, "page_size"),
            (|r| r.page_size = u32::MAX, "page_size"),
            (|r| r.page_token = "next".into(), "page_token"),
            (|r| r.page_token = " 7".into(), "page_token"),
            (
                |r| r.page_token = "99999999999999999999".into(),
                "page_token",
            ),
            (|r| r.page_token = "7\0".into(), "page_token"),
            // A state that this version does not know must not be read as "any".
            (|r| r.states = vec![State::Unspecified.into()], "state"),
            (|r| r.states = vec![State::Failed.into(), 99], "state"),
            (|r| r.kinds = vec![Kind::Unspecified.into()], "kind"),
            (|r| r.kinds = vec![-1], "kind"),
        ];
        for (change, field) in cases {
            let request = asked(change);
            let error = filter(&request).map(|_| ()).expect_err(field);
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn words_that_are_looked_for_are_trimmed_bounded_and_plain() {
        let with = |text: &str| wanted(&asked(|request| request.text = text.into()));
        assert_eq!(
            with("  train b4 ").unwrap().text.as_deref(),
            Some("train b4")
        );
        assert_eq!(with(" \t ").unwrap().text, None);
        assert!(with(&"x".repeat(TEXT_MAX_BYTES)).is_ok());
        assert!(with(&"x".repeat(TEXT_MAX_BYTES + 1)).is_err());
        assert!(with("a\0b").is_err(), "Postgres takes no NUL");
        let on = |name: &str| wanted(&asked(|request| request.worker_name = name.into()));
        assert_eq!(on("gpu-03").unwrap().worker_name.as_deref(), Some("gpu-03"));
        assert!(on(&"x".repeat(HOST_TEXT_MAX_BYTES + 1)).is_err());
    }
}
