//! How answers go out: as they are, or as a fault makes them.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::app::App;
use super::reply::{INVALID_KEY, NOT_FOUND, Reply, is_known, not_modified, with_etag};
use crate::fault::{FaultKind, RetryAfter, Route};
use crate::faults::FaultRule;

impl App {
    /// The answer, or that it is known, or what a fault makes of it.
    pub(super) async fn deliver_known(
        &self,
        route: Route,
        position: usize,
        answer: Reply,
        headers: &HeaderMap,
    ) -> Response {
        if answer.status != StatusCode::OK {
            return self.deliver(route, position, answer).await;
        }
        // Before "not modified": a client that knows the film must meet its faults as well.
        if let Some(fault) = self.faults.meet(route, position) {
            return self.befall(&fault, answer, "").await;
        }
        let etag = self.etag(&format!("film-{position}"));
        if is_known(headers, &etag) {
            return not_modified(&etag);
        }
        with_etag(answer.into_response(), &etag)
    }

    /// The answer, or what a fault makes of it.
    pub(super) async fn deliver(&self, route: Route, position: usize, answer: Reply) -> Response {
        match self.faults.meet(route, position) {
            Some(fault) => self.befall(&fault, answer, "").await,
            None => answer.into_response(),
        }
    }

    /// What a fault makes of the answer at `place`.
    pub(super) async fn befall(&self, fault: &FaultRule, answer: Reply, place: &str) -> Response {
        const ANNOUNCED_BYTES: u64 = 1 << 40;
        match fault.kind {
            FaultKind::NotFound => {
                Reply::problem(StatusCode::NOT_FOUND, 34, NOT_FOUND).into_response()
            }
            FaultKind::Invalid => Reply::problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                5,
                "Invalid parameters: Your request parameters are incorrect.",
            )
            .into_response(),
            FaultKind::Redirect => sent_on(&format!("{place}?again=1")),
            FaultKind::RedirectLoop => sent_on(place),
            FaultKind::Reset => answer.into_part_of_a_response(0),
            FaultKind::Endless => {
                let mut response = answer.into_part_of_a_response(1);
                response
                    .headers_mut()
                    .insert(CONTENT_LENGTH, ANNOUNCED_BYTES.into());
                response
            }
            FaultKind::SlowBody => answer.into_drops(),
            FaultKind::Unauthorized => {
                Reply::problem(StatusCode::UNAUTHORIZED, 7, INVALID_KEY).into_response()
            }
            FaultKind::RateLimited => {
                let message = "Your request count (41) is over the allowed limit of 40.";
                let answer = Reply::problem(StatusCode::TOO_MANY_REQUESTS, 25, message);
                self.with_retry_after(fault, answer)
            }
            FaultKind::Server(status) => {
                let status =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let message = "Internal error: Something went wrong.";
                self.with_retry_after(fault, Reply::problem(status, 11, message))
            }
            FaultKind::Html => {
                let body =
                    b"<!DOCTYPE html><title>One moment</title><h1>We will be right back</h1>";
                Reply {
                    status: StatusCode::OK,
                    content_type: "text/html",
                    body: body.to_vec(),
                }
                .into_response()
            }
            // Also where the answer itself would be an error: the fault is what comes.
            FaultKind::Empty => Reply {
                status: StatusCode::OK,
                body: Vec::new(),
                ..answer
            }
            .into_response(),
            FaultKind::Truncated => {
                let half = answer.body.len() / 2;
                answer.into_part_of_a_response(half)
            }
            FaultKind::InvalidId => {
                Reply::problem(StatusCode::OK, 44, "The ID is invalid.").into_response()
            }
            FaultKind::Slow(seconds) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                answer.into_response()
            }
        }
    }

    /// The refusal, with the wait that the rule says.
    fn with_retry_after(&self, fault: &FaultRule, refusal: Reply) -> Response {
        let mut response = refusal.into_response();
        let wait = match fault.retry_after {
            RetryAfter::None => return response,
            RetryAfter::Seconds(seconds) => seconds.to_string(),
            RetryAfter::Date(seconds) => {
                let then = (self.clock)() + Duration::from_secs(seconds);
                then.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
            }
        };
        if let Ok(value) = wait.parse() {
            response.headers_mut().insert(RETRY_AFTER, value);
        }
        response
    }
}

fn sent_on(place: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    if let Ok(place) = place.parse() {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}
